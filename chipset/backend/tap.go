package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/chipset/virtio"
)

// Opening macvtaps and TAPs (Documentation/networking/tuntap.rst; drivers/net/tap.c).

// port is an interface whose frames are ours.
type port struct {
	name     string
	index    int
	fd       int // of file, whose Fd would make it block
	file     *os.File
	made     bool // here, and to be removed
	offloads bool // TUNSETOFFLOAD works
	mtu      int
	set      atomic.Uint64 // offloads in force
	failed   atomic.Bool   // it cannot be read from any more
}

// there says whether the interface is still to be used; one that cannot be asked has not gone.
func (p *port) there() bool {
	if p.failed.Load() {
		return false
	}
	_, err := netlink.LinkByIndex(p.index)
	return !missing(err)
}

// carrier says whether frames get out, and if not why.
func (p *port) carrier() (up bool, reason string) {
	l, err := netlink.LinkByIndex(p.index)
	switch {
	case err != nil:
		return false, fmt.Sprintf("%s: %v", p.name, err)
	case l.Attrs().RawFlags&unix.IFF_UP == 0:
		return false, p.name + " is down"
	case l.Attrs().RawFlags&unix.IFF_RUNNING == 0:
		return false, p.name + " has no carrier"
	}
	return true, ""
}

// setOffloads says what frames the guest takes. Bits have the same values in virtio here
// and in the kernel's header.
func (p *port) setOffloads(bits uint64) {
	if !p.offloads {
		return
	}
	if err := unix.IoctlSetInt(p.fd, unix.TUNSETOFFLOAD, int(bits)); err == nil {
		p.set.Store(bits)
	}
}

var _ = [1]struct{}{}[virtio.OffloadCsum-unix.TUN_F_CSUM+virtio.OffloadTSO4-unix.TUN_F_TSO4+virtio.OffloadTSO6-unix.TUN_F_TSO6]

// missing says whether an error means that there is no such interface.
func missing(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none) || errors.Is(err, unix.ENODEV)
}

// ErrNoLink says that there is no such interface now; it may come.
var ErrNoLink = errors.New("there is no such interface")

// attach opens the interface, and makes it first if it is to be made.
func (n *Network) attach() (*port, error) {
	if n.cfg.Link != "" {
		return n.attachNew()
	}
	l, err := linkNamed(n.cfg.Device)
	if err != nil {
		return nil, err
	}
	p := &port{name: n.cfg.Device, index: l.Attrs().Index, mtu: l.Attrs().MTU}
	switch l.Type() {
	case "macvtap":
		err = p.openMacvtap(l.Attrs())
	case "tuntap", "tun":
		err = p.openTAP()
	default:
		err = fmt.Errorf("it is a %s: want a macvtap or a TAP, or name it as the link to make a macvtap on", l.Type())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return p, nil
}

func linkNamed(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	switch {
	case missing(err):
		return nil, fmt.Errorf("%w: %s", ErrNoLink, name)
	case err != nil:
		return nil, fmt.Errorf("look for the interface %s: %w", name, err)
	}
	return l, nil
}

// openTAP attaches to a TAP that is there.
func (p *port) openTAP() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	err = p.use(fd, p.name)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: another process has the TAP open", ErrInUse)
	}
	return err
}

// openMacvtap opens the character device of a macvtap. /dev/tapN is named by the
// interface's number, which is another's in another network namespace; what is sure is the
// device number that sysfs has under the interface.
func (p *port) openMacvtap(a *netlink.LinkAttrs) error {
	dev, err := tapDevice(a)
	if err != nil {
		return err
	}
	fd, err := openDevice(dev, fmt.Sprintf("/dev/tap%d", a.Index))
	if err != nil {
		return fmt.Errorf("open its device %d:%d: %w", unix.Major(dev), unix.Minor(dev), err)
	}
	return p.use(fd, "")
}

// use makes fd, the descriptor of a TAP or macvtap, the port's.
func (p *port) use(fd int, name string) error {
	if err := p.setUp(fd, name); err != nil {
		unix.Close(fd)
		return err
	}
	p.fd, p.file = fd, os.NewFile(uintptr(fd), p.name)
	return nil
}

func (p *port) setUp(fd int, name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("have frames with virtio headers (TUNSETIFF): %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, virtio.NetHeader); err != nil {
		return fmt.Errorf("have headers of %d bytes (TUNSETVNETHDRSZ): %w", virtio.NetHeader, err)
	}
	// The headers are little-endian, whatever the host is; kernels that know no other way say no.
	_ = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1)
	p.offloads = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0) == nil
	return nil
}

// tapDevice is the number of a macvtap's character device. /sys shows the namespace that
// it was mounted in, which need not be this one: a sysfs of one's own, mounted nowhere, is
// of this one for certain. Where that is not permitted, /sys serves if it shows the same
// interface.
func tapDevice(a *netlink.LinkAttrs) (uint64, error) {
	file := fmt.Sprintf("class/net/%s/tap%d/dev", a.Name, a.Index)
	root, err := ownSysfs()
	if err == nil {
		defer unix.Close(root)
		var text []byte
		if text, err = readAt(root, file); err == nil {
			return parseDevice(text)
		}
		return 0, fmt.Errorf("read %s in the sysfs of this network namespace: %w", file, err)
	}
	address, e := os.ReadFile(filepath.Join("/sys/class/net", a.Name, "address"))
	if e != nil || strings.TrimSpace(string(address)) != a.HardwareAddr.String() {
		return 0, fmt.Errorf("find its device: /sys is that of another network namespace, and mounting another: %w", err)
	}
	text, err := os.ReadFile(filepath.Join("/sys", file))
	if err != nil {
		return 0, fmt.Errorf("find its device: %w", err)
	}
	return parseDevice(text)
}

// ownSysfs is a descriptor of a detached mount of this network namespace's sysfs.
func ownSysfs() (int, error) {
	fs, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
}

func readAt(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 64)
	n, err := unix.Read(fd, buf)
	return buf[:max(n, 0)], err
}

// parseDevice reads "major:minor".
func parseDevice(text []byte) (uint64, error) {
	var major, minor uint32
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return 0, fmt.Errorf("its device is %q: %w", text, err)
	}
	return unix.Mkdev(major, minor), nil
}

// openDevice opens a character device by its number: through the usual node if that is of
// this device, else through one that is made for the moment.
func openDevice(dev uint64, usual string) (int, error) {
	const flags = unix.O_RDWR | unix.O_NONBLOCK | unix.O_CLOEXEC
	if fd, err := openNode(usual, dev, flags); err == nil {
		return fd, nil
	}
	var failed error
	for _, parent := range []string{"/dev", "/run", os.TempDir()} { // one that is writable and not nodev
		dir, err := os.MkdirTemp(parent, ".ft-tap-")
		if err == nil {
			node := filepath.Join(dir, "tap")
			var fd int
			if err = unix.Mknod(node, unix.S_IFCHR|0o600, int(dev)); err == nil {
				fd, err = openNode(node, dev, flags)
			}
			_ = os.RemoveAll(dir)
			if err == nil {
				return fd, nil
			}
		}
		failed = errors.Join(failed, err)
	}
	return -1, failed
}

// openNode opens a node only if it is of the device.
func openNode(path string, dev uint64, flags int) (int, error) {
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != dev) {
		err = errors.New("it is another device")
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}
