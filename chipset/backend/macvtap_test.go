package backend

import (
	"bytes"
	"errors"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var peerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}

func link(t *testing.T, l netlink.Link) {
	t.Helper()
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatal(err)
	}
	name := l.Attrs().Name
	t.Cleanup(func() { removeNamed(t, name) })
}

func down(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetDown(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheCarrierIsThatOfTheLink(t *testing.T) {
	cable(t)
	n, in := open(t, NetworkConfig{Link: "lower", Name: "ft-guest"})
	if !n.Up() || n.Front().LinkDown {
		t.Fatal("down with a carrier")
	}
	for range 3 {
		down(t, "peer")
		in.until(t, false)
		if s := n.Stats(); s.Up || s.Reason != "ft-guest has no carrier" {
			t.Fatalf("without a carrier: %+v", s)
		}
		up(t, "peer")
		in.until(t, true)
	}
	down(t, "lower")
	in.until(t, false)
	up(t, "lower")
	in.until(t, true)
	fd := wire(t)
	transmit(n, frame(peerMAC, guestMAC, "still"))
	if got := receive(t, fd); !bytes.HasSuffix(got, []byte("still")) {
		t.Fatalf("over the wire came %x", got)
	}
}

func TestAMacvtapIsRemovedAtTheEnd(t *testing.T) {
	cable(t)
	before := deviceNodes(t)
	n, err := OpenNetwork(NetworkConfig{Link: "lower", Name: "ft-guest", MAC: guestMAC, Frame: func([]byte) {}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName("ft-guest")
	if err != nil || l.Attrs().Allmulti != 1 || l.Attrs().HardwareAddr.String() != guestMAC.String() || l.Attrs().Alias != macvtapAlias {
		t.Fatalf("the macvtap is %+v (%v)", l, err)
	}
	if addrs, _ := netlink.AddrList(l, unix.AF_INET6); len(addrs) != 0 {
		t.Fatalf("the host has addresses on the guest's NIC: %v", addrs)
	}
	for range 2 {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := netlink.LinkByName("ft-guest"); !missing(err) {
		t.Fatalf("it is still there: %v", err)
	}
	n.Transmit(make([]byte, 100)) // nobody minds
	// Those of other processes, which share /dev, come and go.
	eventually(t, "no device node is left in /dev", func() bool {
		for name := range deviceNodes(t) {
			if !before[name] {
				return false
			}
		}
		return true
	})
}

// deviceNodes are the directories in /dev in which nodes are made for a moment.
func deviceNodes(t *testing.T) map[string]bool {
	t.Helper()
	found, err := filepath.Glob("/dev/.ft-tap*")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, name := range found {
		names[name] = true
	}
	return names
}

// What a killed process has left is replaced.
func TestAPredecessorsMacvtapIsReplaced(t *testing.T) {
	cable(t)
	lower, _ := netlink.LinkByName("lower")
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex, a.HardwareAddr = "ft-guest", lower.Attrs().Index, guestMAC
	link(t, &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE}})
	fd := wire(t)
	n, _ := open(t, NetworkConfig{Link: "lower", Name: "ft-guest"})
	transmit(n, frame(peerMAC, guestMAC, "mine"))
	if got := receive(t, fd); !bytes.HasSuffix(got, []byte("mine")) {
		t.Fatalf("over the wire came %x", got)
	}
}

func TestNetworkRefusals(t *testing.T) {
	cable(t)
	a := netlink.NewLinkAttrs()
	a.Name = "someone"
	link(t, &netlink.Ifb{LinkAttrs: a})
	b := netlink.NewLinkAttrs()
	b.Name = "br9"
	link(t, &netlink.Bridge{LinkAttrs: b})
	a.Name = "port9"
	link(t, &netlink.Veth{LinkAttrs: a, PeerName: "port9p"})
	port, _ := netlink.LinkByName("port9")
	bridge, _ := netlink.LinkByName("br9")
	if err := netlink.LinkSetMaster(port, bridge); err != nil {
		t.Fatal(err)
	}
	lower, _ := netlink.LinkByName("lower")
	for _, c := range []struct {
		name string
		cfg  NetworkConfig
		is   error
		says string
	}{
		{"neither link nor device", NetworkConfig{}, nil, "one of link"},
		{"both", NetworkConfig{Link: "lower", Name: "x", Device: "y"}, nil, "one of link"},
		{"no name", NetworkConfig{Link: "lower"}, nil, "a name of up to 15 bytes"},
		{"too long a name", NetworkConfig{Link: "lower", Name: "sixteen-bytes-it"}, nil, "a name of up to 15 bytes"},
		{"no such link", NetworkConfig{Link: "nowhere", Name: "ft-guest"}, ErrNoLink, "nowhere"},
		{"no such device", NetworkConfig{Device: "nowhere"}, ErrNoLink, "nowhere"},
		{"a name that is taken", NetworkConfig{Link: "lower", Name: "someone"}, ErrInUse, "someone"},
		{"a device that is none", NetworkConfig{Device: "lower"}, nil, "want a macvtap or a TAP"},
		{"a port of a bridge", NetworkConfig{Link: "port9", Name: "ft-guest"}, nil, "a port of something else"},
		{"the loopback", NetworkConfig{Link: "lo", Name: "ft-guest"}, nil, "cannot carry one"},
		{"a MAC that is in use", NetworkConfig{Link: "lower", Name: "ft-guest", MAC: lower.Attrs().HardwareAddr}, nil, "in use on lower"},
	} {
		if c.cfg.MAC == nil {
			c.cfg.MAC = guestMAC
		}
		n, err := OpenNetwork(c.cfg)
		switch {
		case err == nil:
			t.Errorf("%s: it was opened", c.name)
			n.Close()
		case c.is != nil && !errors.Is(err, c.is), !strings.Contains(err.Error(), c.says):
			t.Errorf("%s: %v", c.name, err)
		default:
			t.Log(err)
		}
		if _, err := netlink.LinkByName("ft-guest"); !missing(err) {
			t.Errorf("%s: something is left (%v)", c.name, err)
		}
	}
}

// tap makes a TAP that stays.
func tap(t *testing.T, name string) {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name = name
	link(t, &netlink.Tuntap{LinkAttrs: a, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_ONE_QUEUE | netlink.TUNTAP_VNET_HDR})
	if err := quiet(name); err != nil {
		t.Fatal(err)
	}
	up(t, name)
}

func TestATAPThatIsThere(t *testing.T) {
	tap(t, "tap7")
	n, in := open(t, NetworkConfig{Device: "tap7"})
	eventually(t, "the TAP is up", n.Up)
	fd := wireOn(t, "tap7")
	if _, err := unix.Write(fd, frame(guestMAC, peerMAC, "to the guest")); err != nil {
		t.Fatal(err)
	}
	if got := in.next(t); !bytes.HasSuffix(got, []byte("to the guest")) {
		t.Fatalf("in came %x", got)
	}
	transmit(n, frame(peerMAC, guestMAC, "from the guest"))
	for { // a packet socket sees its own frame too
		if got := receive(t, fd); bytes.HasSuffix(got, []byte("from the guest")) {
			break
		}
	}
	if _, err := OpenNetwork(NetworkConfig{Device: "tap7", MAC: guestMAC}); !errors.Is(err, ErrInUse) {
		t.Fatalf("opened twice: %v", err)
	}
	removeNamed(t, "tap7")
	eventually(t, "down without the TAP", func() bool { return !n.Up() && n.Stats().Losses == 1 })
	tap(t, "tap7")
	eventually(t, "up with it", n.Up)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName("tap7"); err != nil {
		t.Fatalf("a TAP of somebody else's was removed: %v", err)
	}
}

// /dev/tapN belongs to another namespace's macvtap of the same number: the right one is
// opened all the same.
func TestAMacvtapWhoseNumberIsAnothersToo(t *testing.T) {
	cable(t)
	const index = 4711
	make1 := func() error { // in the present namespace
		a := netlink.NewLinkAttrs()
		a.Name = "under"
		if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: a}); err != nil {
			return err
		}
		under, err := netlink.LinkByName("under")
		if err != nil {
			return err
		}
		a = netlink.NewLinkAttrs()
		a.Name, a.Index, a.ParentIndex = "ft-guest", index, under.Attrs().Index
		return netlink.LinkAdd(&netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE}})
	}
	made, release, done := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = make1()
		}
		made <- err
		<-release
	}()
	defer func() { close(release); <-done }()
	if err := <-made; err != nil {
		t.Fatal(err)
	}

	lower, _ := netlink.LinkByName("lower")
	a := netlink.NewLinkAttrs()
	a.Name, a.Index, a.ParentIndex, a.HardwareAddr = "ft-guest", index, lower.Attrs().Index, guestMAC
	link(t, &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE}})
	up(t, "ft-guest")
	n, in := open(t, NetworkConfig{Device: "ft-guest"})
	fd := wire(t)
	transmit(n, frame(peerMAC, guestMAC, "out"))
	if got := receive(t, fd); !bytes.HasSuffix(got, []byte("out")) {
		t.Fatalf("over the wire came %x", got)
	}
	if _, err := unix.Write(fd, frame(guestMAC, peerMAC, "in")); err != nil {
		t.Fatal(err)
	}
	if got := in.next(t); !bytes.HasSuffix(got, []byte("in")) {
		t.Fatalf("in came %x", got)
	}
}
