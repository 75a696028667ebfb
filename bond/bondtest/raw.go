package bondtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Raw is a packet socket (packet(7)) on one interface. It sees what arrives there, and
// not what leaves; a VLAN tag that the kernel has taken out of a frame is put back.
type Raw struct {
	t    TB
	fd   int
	name string
}

// rawBuffer is how many bytes wait in a Raw for their reader.
const rawBuffer = 4 << 20

// Raw opens a packet socket on an interface; the test's end closes it. A frame that came
// before the socket was there is not seen, one that came after is kept.
func (n *Net) Raw(p Place, name string) *Raw { n.t.Helper(); return n.raw(p, name, unix.ETH_P_ALL) }

// Stack is a packet socket for TestEtherType alone. Raw sees what arrives before the
// filters at ingress (tc, eBPF) do; Stack sees what they have let through, as a protocol
// of the kernel would: without its VLAN tag.
func (n *Net) Stack(p Place, name string) *Raw { n.t.Helper(); return n.raw(p, name, TestEtherType) }

func (n *Net) raw(p Place, name string, etherType uint16) *Raw {
	n.t.Helper()
	index := n.link(p, name).Attrs().Index
	r := &Raw{t: n.t, name: name, fd: -1}
	var err error
	n.In(p, func() { r.fd, err = openRaw(index, etherType) })
	n.must(err, "open a packet socket on %s in the %s", name, p)
	n.t.Cleanup(func() { unix.Close(r.fd) })
	return r
}

func openRaw(index int, etherType uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_AUXDATA, 1},
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rawBuffer},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("setsockopt %d: %w", o.name, err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, etherType)), Ifindex: index}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind: %w", err)
	}
	return fd, nil
}

// Send sends a whole frame, from its destination address on. One that a filter at egress
// drops counts as sent.
func (r *Raw) Send(frame []byte) {
	r.t.Helper()
	if _, err := unix.Write(r.fd, frame); err != nil && err != unix.ENOBUFS {
		r.t.Fatalf("send a frame from %s: %v", r.name, err)
	}
}

// Next waits for the next frame that matches, and passes over others. within is as that of
// WaitFor.
func (r *Raw) Next(what string, within time.Duration, match func(frame []byte) bool) []byte {
	r.t.Helper()
	within *= busy
	deadline := time.Now().Add(within)
	for {
		frame, err := r.receive()
		switch {
		case err == nil && match(frame):
			return frame
		case err == nil || err == unix.EINTR:
		case err == unix.EAGAIN:
			left := time.Until(deadline)
			if left <= 0 {
				r.t.Fatalf("%s got no such frame within %v: %s", r.name, within, what)
			}
			poll := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(poll, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
				r.t.Fatalf("wait for a frame on %s: %v", r.name, err)
			}
		default:
			r.t.Fatalf("receive on %s: %v", r.name, err)
		}
	}
}

// Waiting is what has come and was not yet read, in order.
func (r *Raw) Waiting() (frames [][]byte) {
	r.t.Helper()
	for {
		frame, err := r.receive()
		if errors.Is(err, unix.EAGAIN) {
			return frames
		}
		if err != nil {
			r.t.Fatalf("receive on %s: %v", r.name, err)
		}
		frames = append(frames, frame)
	}
}

func (r *Raw) receive() ([]byte, error) {
	b := make([]byte, 1<<16)
	oob := make([]byte, 128)
	n, oobn, _, _, err := unix.Recvmsg(r.fd, b, oob, 0)
	if err == unix.ENETDOWN { // said once, when the interface goes down: it may come up again
		n, oobn, _, _, err = unix.Recvmsg(r.fd, b, oob, 0)
	}
	if err != nil {
		return nil, err
	}
	frame := b[:n]
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, fmt.Errorf("parse the control message: %w", err)
	}
	for _, m := range messages {
		// struct tpacket_auxdata, linux/if_packet.h: status u32, len u32, snaplen u32,
		// mac u16, net u16, vlan_tci u16, vlan_tpid u16
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 || n < 12 {
			continue
		}
		if binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0 {
			tag := binary.BigEndian.AppendUint16(nil, binary.NativeEndian.Uint16(m.Data[18:]))
			tag = binary.BigEndian.AppendUint16(tag, binary.NativeEndian.Uint16(m.Data[16:]))
			frame = slices.Insert(frame, 12, tag...)
		}
	}
	return frame, nil
}

// TestEtherType is for experiments (IEEE 802, 9.2.4): no protocol of the kernel takes it.
const TestEtherType = 0x88b5

// frameMin is ETH_ZLEN of linux/if_ether.h.
const frameMin = 60

// Frame is an Ethernet frame that no protocol takes, of at least the shortest length.
// With a VLAN number other than 0 it is tagged.
func Frame(to, from net.HardwareAddr, vlan uint16, text string) []byte {
	f := slices.Concat(to, from)
	if vlan != 0 {
		f = binary.BigEndian.AppendUint16(f, unix.ETH_P_8021Q)
		f = binary.BigEndian.AppendUint16(f, vlan)
	}
	f = binary.BigEndian.AppendUint16(f, TestEtherType)
	f = append(f, text...)
	return append(f, make([]byte, max(0, frameMin-len(f)))...)
}

// Same matches the frames that are equal to one.
func Same(frame []byte) func([]byte) bool {
	return func(f []byte) bool { return bytes.Equal(f, frame) }
}

// Says matches the frames that Frame makes with a text, whatever their addresses and tag.
func Says(text string) func([]byte) bool {
	return func(f []byte) bool {
		if len(f) < 18 {
			return false
		}
		if binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_8021Q {
			f = f[4:]
		}
		return binary.BigEndian.Uint16(f[12:]) == TestEtherType && string(bytes.TrimRight(f[14:], "\x00")) == text
	}
}

// Broadcast is the address of all stations.
var Broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
