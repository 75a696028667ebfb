package backend

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/chipset/virtio"
)

var guestMAC = net.HardwareAddr{0x02, 0xf7, 0, 0, 0, 1}

// patience bounds every wait of these tests.
const patience = time.Minute

// cable makes a veth pair, lower here and peer at its other end, both up.
func cable(t *testing.T) {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name = "lower"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "peer"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeNamed(t, "lower") })
	for _, name := range []string{"lower", "peer"} {
		if err := quiet(name); err != nil {
			t.Fatal(err)
		}
		up(t, name)
	}
}

func removeNamed(t *testing.T, name string) {
	t.Helper()
	if l, err := netlink.LinkByName(name); err == nil {
		if err := netlink.LinkDel(l); err != nil {
			t.Fatal(err)
		}
	}
}

func up(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// wire is a raw socket on peer.
func wire(t *testing.T) int { return wireOn(t, "peer") }

// everything is ETH_P_ALL in network order.
const everything = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8

func wireOn(t *testing.T, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, everything)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: l.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience / time.Second)}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// frame is an Ethernet frame of a type that nobody else uses (IEEE 802 local experimental).
func frame(to, from net.HardwareAddr, text string) []byte {
	f := append(append(append([]byte{}, to...), from...), 0x88, 0xb5)
	return append(f, text...)
}

func receive(t *testing.T, fd int) []byte {
	t.Helper()
	buf := make([]byte, 70000)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatalf("nothing came over the wire: %v", err)
		}
		if n > 14 && buf[12] == 0x88 && buf[13] == 0xb5 {
			return buf[:n]
		}
	}
}

// inbox is what a network interface brings in.
type inbox struct {
	frames  chan []byte
	carrier chan bool
}

func open(t *testing.T, cfg NetworkConfig) (*Network, inbox) {
	t.Helper()
	in := inbox{make(chan []byte, 1000), make(chan bool, 100)}
	cfg.MAC = guestMAC
	cfg.Frame = func(p []byte) { in.frames <- bytes.Clone(p) }
	cfg.Carrier = func(up bool) { in.carrier <- up }
	n, err := OpenNetwork(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, in
}

// next is the next frame of ours that comes in, without its virtio header.
func (in inbox) next(t *testing.T) []byte {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case f := <-in.frames:
			if f = f[virtio.NetHeader:]; len(f) > 14 && f[12] == 0x88 && f[13] == 0xb5 {
				return f
			}
		case <-deadline:
			t.Fatal("no frame came in")
		}
	}
}

func (in inbox) until(t *testing.T, want bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case up := <-in.carrier:
			if up == want {
				return
			}
		case <-deadline:
			t.Fatalf("the link did not become up=%v", want)
		}
	}
}

func transmit(n *Network, f []byte) {
	n.Transmit(append(make([]byte, virtio.NetHeader), f...))
}

func TestFramesPassThroughAMacvtapBothWays(t *testing.T) {
	cable(t)
	fd := wire(t)
	n, in := open(t, NetworkConfig{Link: "lower", Name: "ft-guest"})
	peerMAC := net.HardwareAddr{2, 0, 0, 0, 0, 9}

	transmit(n, frame(peerMAC, guestMAC, "out"))
	if got := receive(t, fd); !bytes.Equal(got, frame(peerMAC, guestMAC, "out")) {
		t.Fatalf("over the wire came %x", got)
	}
	if _, err := unix.Write(fd, frame(guestMAC, peerMAC, "in")); err != nil {
		t.Fatal(err)
	}
	if got := in.next(t); !bytes.Equal(got, frame(guestMAC, peerMAC, "in")) {
		t.Fatalf("in came %x", got)
	}
	// What has been written is on the wire before it is counted.
	eventually(t, "it is counted", func() bool { s := n.Stats(); return s.Sent == 1 && s.Up })
}

func TestAMacvtapComesBackWithItsLink(t *testing.T) {
	cable(t)
	n, in := open(t, NetworkConfig{Link: "lower", Name: "ft-guest"})
	removeNamed(t, "lower")
	in.until(t, false)
	if n.Up() {
		t.Fatal("up without a link")
	}
	transmit(n, frame(guestMAC, guestMAC, "lost"))
	cable(t)
	in.until(t, true)
	fd := wire(t)
	transmit(n, frame(net.HardwareAddr{2, 0, 0, 0, 0, 9}, guestMAC, "again"))
	if got := receive(t, fd); !bytes.HasSuffix(got, []byte("again")) {
		t.Fatalf("over the wire came %x", got)
	}
}
