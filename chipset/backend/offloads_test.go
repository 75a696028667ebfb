package backend

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/virtio"
)

// segments is a TCP segment of n bytes that is to be cut at 1000, and its checksum made,
// behind its virtio_net_hdr_v1.
func segments(to, from net.HardwareAddr, n int) []byte {
	h := make([]byte, virtio.NetHeader)
	h[0], h[1] = 1, 1 // NEEDS_CSUM, GSO_TCPV4
	binary.LittleEndian.PutUint16(h[2:], 54)
	binary.LittleEndian.PutUint16(h[4:], 1000)
	binary.LittleEndian.PutUint16(h[6:], 34)
	binary.LittleEndian.PutUint16(h[8:], 16)
	f := append(append(append(h, to...), from...), 8, 0)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(40+n))
	copy(ip[12:], []byte{192, 0, 2, 1, 192, 0, 2, 2})
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip, 0))
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp[0:], 1)
	binary.BigEndian.PutUint16(tcp[2:], 2)
	tcp[12], tcp[13] = 5<<4, 0x10
	pseudo := append(append([]byte{}, ip[12:20]...), 0, 6)
	binary.BigEndian.PutUint16(tcp[16:], sum(binary.BigEndian.AppendUint16(pseudo, uint16(20+n)), 0))
	return append(append(append(f, ip...), tcp...), bytes.Repeat([]byte{0xab}, n)...)
}

// sum is the Internet checksum's sum (RFC 1071).
func sum(p []byte, s uint32) uint16 {
	for i := 0; i+1 < len(p); i += 2 {
		s += uint32(p[i])<<8 | uint32(p[i+1])
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// tcpFrame is the next IPv4 frame that comes in, with its virtio header.
func (in inbox) tcpFrame(t *testing.T) []byte {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case f := <-in.frames:
			if len(f) > virtio.NetHeader+34 && f[virtio.NetHeader+12] == 8 && f[virtio.NetHeader+13] == 0 {
				return f
			}
		case <-deadline:
			t.Fatal("no frame came in")
		}
	}
}

// Segmentation and checksums stay undone as far as the guest takes that, and are done for
// it where it does not.
func TestOffloads(t *testing.T) {
	cable(t)
	// The wire's own socket speaks virtio headers too.
	fd := wire(t)
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		t.Skipf("no virtio headers on packet sockets: %v", err)
	}
	n, in := open(t, NetworkConfig{Link: "lower", Name: "ft-guest"})
	if !n.Front().Offloads {
		t.Fatal("the macvtap has no offloads")
	}
	const size = 10_000
	inject := func() {
		t.Helper()
		f := segments(guestMAC, peerMAC, size)
		const old = 10 // struct virtio_net_hdr, without num_buffers
		if _, err := unix.Write(fd, append(f[:old:old], f[virtio.NetHeader:]...)); err != nil {
			t.Fatal(err)
		}
	}
	inject()
	for got := 0; got < size; {
		f := in.tcpFrame(t)
		if len(f) > virtio.NetHeader+54+1000 || f[0]&1 != 0 || f[1] != 0 {
			t.Fatalf("a guest that takes no offloads gets %d bytes with the header %x", len(f), f[:virtio.NetHeader])
		}
		segment := f[virtio.NetHeader+34:]
		pseudo := append(append([]byte{}, f[virtio.NetHeader+26:virtio.NetHeader+34]...), 0, 6)
		pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(segment)))
		if sum(append(pseudo, append(segment, 0)...), 0) != 0xffff {
			t.Fatal("its checksum is wrong")
		}
		got += len(segment) - 20
	}
	all := uint64(virtio.OffloadCsum | virtio.OffloadTSO4 | virtio.OffloadTSO6)
	n.SetOffloads(all)
	eventually(t, "the offloads are set", func() bool { return n.Stats().Offloads == all })
	inject()
	if f := in.tcpFrame(t); len(f) != virtio.NetHeader+54+size || f[0]&1 == 0 || f[1] != 1 {
		t.Fatalf("a guest that takes offloads gets %d bytes with the header %x", len(f), f[:min(len(f), virtio.NetHeader)])
	}

	// The other way: what the guest sends undone goes over the wire as such.
	n.Transmit(segments(peerMAC, guestMAC, size))
	buf := make([]byte, 70000)
	for {
		k, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatalf("nothing came over the wire: %v", err)
		}
		if f := buf[:k]; k > 44 && f[10+12] == 8 && f[10+13] == 0 && bytes.Equal(f[10:16], peerMAC) {
			if k != 10+54+size || f[1] != 1 {
				t.Fatalf("over the wire came %d bytes with the header %x", k, f[:10])
			}
			return
		}
	}
}

func TestOffloadsComeBackWithTheLink(t *testing.T) {
	cable(t)
	n, in := open(t, NetworkConfig{Link: "lower", Name: "ft-guest"})
	n.SetOffloads(virtio.OffloadCsum)
	eventually(t, "they are set", func() bool { return n.Stats().Offloads == virtio.OffloadCsum })
	removeNamed(t, "lower")
	in.until(t, false)
	cable(t)
	in.until(t, true)
	eventually(t, "they are set again", func() bool { return n.Stats().Offloads == virtio.OffloadCsum })
}

func TestFramesThatCannotBeSentAreCounted(t *testing.T) {
	cable(t)
	n, in := open(t, NetworkConfig{Link: "lower", Name: "ft-guest"})
	bad := segments(peerMAC, guestMAC, 100)
	bad[1] = 77 // no such kind
	n.Transmit(bad)
	eventually(t, "the kernel refused it", func() bool { return n.Stats().DroppedRefused == 1 })
	removeNamed(t, "lower")
	in.until(t, false)
	transmit(n, frame(peerMAC, guestMAC, "x"))
	eventually(t, "dropped while down", func() bool { return n.Stats().DroppedDown == 1 })
}
