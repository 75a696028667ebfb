package nbd

// The kernel's nbd driver over generic netlink, from include/uapi/linux/nbd-netlink.h and
// nbd.h, with the kernel's names.

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	family  = "nbd"
	version = 1
)

// Commands.
const (
	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
)

// Attributes.
const (
	attrIndex             = 1
	attrSizeBytes         = 2
	attrBlockSizeBytes    = 3
	attrTimeout           = 4 // seconds
	attrServerFlags       = 5
	attrClientFlags       = 6
	attrSockets           = 7
	attrDeadConnTimeout   = 8 // seconds
	attrBackendIdentifier = 10
	sockItem              = 1
	sockFd                = 1
)

// cflagDestroyOnDisconnect: the device goes with the connection.
const cflagDestroyOnDisconnect = 1 << 0

// errNoDriver: this kernel has no nbd driver, or it is not loaded.
var errNoDriver = errors.New("this kernel has no nbd driver: load the module (modprobe nbd), or use another frontend")

// Available says why this kernel cannot have such faces; nil: it can.
func Available() error {
	_, err := newWire(cmdConnect, 0)
	return err
}

// wire is a message to the driver that is being put together.
type wire struct {
	req *nl.NetlinkRequest
}

func newWire(command uint8, flags int) (*wire, error) {
	f, err := netlink.GenlFamilyGet(family)
	if errors.Is(err, unix.ENOENT) {
		return nil, errNoDriver
	}
	if err != nil {
		return nil, fmt.Errorf("look for the kernel's nbd driver: %w", err)
	}
	w := &wire{nl.NewNetlinkRequest(int(f.ID), flags)}
	w.req.AddData(&nl.Genlmsg{Command: command, Version: version})
	return w, nil
}

func (w *wire) u32(kind int, v uint32) { w.req.AddData(nl.NewRtAttr(kind, nl.Uint32Attr(v))) }
func (w *wire) u64(kind int, v uint64) { w.req.AddData(nl.NewRtAttr(kind, nl.Uint64Attr(v))) }
func (w *wire) str(kind int, s string) { w.req.AddData(nl.NewRtAttr(kind, nl.ZeroTerminated(s))) }

func (w *wire) socket(fd int) {
	sockets := nl.NewRtAttr(attrSockets|unix.NLA_F_NESTED, nil)
	item := sockets.AddRtAttr(sockItem|unix.NLA_F_NESTED, nil)
	item.AddRtAttr(sockFd, nl.Uint32Attr(uint32(fd)))
	w.req.AddData(sockets)
}

func (w *wire) send() ([][]byte, error) { return w.req.Execute(unix.NETLINK_GENERIC, 0) }

// indexOf finds the number of the device in an answer.
func indexOf(answers [][]byte) (int, error) {
	for _, b := range answers {
		if len(b) < nl.SizeofGenlmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(b[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, fmt.Errorf("the kernel's answer: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type&nl.NLA_TYPE_MASK == attrIndex && len(a.Value) >= 4 {
				return int(nl.NativeEndian().Uint32(a.Value)), nil
			}
		}
	}
	return 0, errors.New("the kernel does not say which device it took")
}
