package announce

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
)

// capture collects what arrives at an interface, whole frames with their tags.
type capture struct {
	t    *testing.T
	f    *os.File
	done chan struct{}

	mu     sync.Mutex
	frames []captured
}

type captured struct {
	at    time.Time
	frame []byte
}

// listen begins to capture on an interface of a place. It ends with the test.
func listen(t *testing.T, n *bondtest.Net, place bondtest.Place, name string) *capture {
	t.Helper()
	var fd int
	var err error
	n.In(place, func() { fd, err = openCapture(name) })
	if err != nil {
		t.Fatalf("capture on %s in the %s: %v", name, place, err)
	}
	c := &capture{t: t, f: os.NewFile(uintptr(fd), name), done: make(chan struct{})}
	go c.run()
	t.Cleanup(func() { c.f.Close(); <-c.done })
	return c
}

// tpacketAuxdata is struct tpacket_auxdata, and the flags of its status (linux/if_packet.h).
const (
	auxStatus, auxTCI, auxTPID = 0, 16, 18
	statusVLANValid            = 1 << 4
)

func openCapture(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	iface, err := ifIndex(name)
	if err != nil {
		return 0, err
	}
	all := uint16(unix.ETH_P_ALL)<<8 | unix.ETH_P_ALL>>8
	for _, err := range []error{
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(iface), Type: unix.PACKET_MR_PROMISC}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: iface, Protocol: all}),
	} {
		if err != nil {
			unix.Close(fd)
			return 0, err
		}
	}
	return fd, nil
}

// ifIndex asks in the namespace of the calling thread.
func ifIndex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return 0, fmt.Errorf("index of %s: %w", name, err)
	}
	return int(r.Uint32()), nil
}

func (c *capture) run() {
	defer close(c.done)
	raw, err := c.f.SyscallConn()
	if err != nil {
		return
	}
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	for {
		var n, oobn int
		var from unix.Sockaddr
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, from, rerr = unix.Recvmsg(int(fd), buf, oob, 0)
			return rerr != unix.EAGAIN
		})
		if err != nil || rerr != nil {
			return
		}
		now := time.Now()
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING || n < 14 {
			continue
		}
		frame := slices.Concat(buf[:12], auxTag(oob[:oobn]), buf[12:n])
		c.mu.Lock()
		c.frames = append(c.frames, captured{now, frame})
		c.mu.Unlock()
	}
}

// auxTag is the outermost tag, which the kernel has taken out of the frame.
func auxTag(oob []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < auxTPID+2 {
			continue
		}
		if binary.NativeEndian.Uint32(m.Data[auxStatus:])&statusVLANValid != 0 {
			b := binary.BigEndian.AppendUint16(nil, binary.NativeEndian.Uint16(m.Data[auxTPID:]))
			return binary.BigEndian.AppendUint16(b, binary.NativeEndian.Uint16(m.Data[auxTCI:]))
		}
	}
	return nil
}

// from lists what has come from a MAC.
func (c *capture) from(m mac) (out []captured) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.frames {
		if mac(f.frame[6:12]) == m {
			out = append(out, f)
		}
	}
	return out
}

// has says whether a frame with this type and body has come.
func (c *capture) has(body string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.frames, func(f captured) bool { return strings.HasPrefix(string(f.frame[12:]), body) })
}

// ours lists, in words, what has come from locally administered MACs: all of the tests'
// own. The NICs and the peer have others.
func (c *capture) ours() (out []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.frames {
		if f.frame[6]&2 == 0 {
			continue
		}
		d, err := decode(f.frame)
		if err != nil {
			c.t.Errorf("%x: %v", f.frame, err)
		}
		out = append(out, d.String())
	}
	return out
}

// forget begins anew.
func (c *capture) forget() {
	c.mu.Lock()
	c.frames = nil
	c.mu.Unlock()
}
