package bondtest

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ft/drivers"
)

func TestMain(m *testing.M) { Main(m) }

func carrier(t *testing.T, name string) bool {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().OperState == netlink.OperUp
}

func TestCableAndPath(t *testing.T) {
	n := New(t)
	eth0 := n.NIC(0)
	WaitFor(t, "carrier", time.Second, func() bool { return carrier(t, eth0) })
	n.PullCable(0)
	WaitFor(t, "no carrier", 5*time.Second, func() bool { return !carrier(t, eth0) })
	n.ReturnCable(0)
	WaitFor(t, "carrier again", 5*time.Second, func() bool { return carrier(t, eth0) })

	// eth0 by itself stands for the face.
	n.GiveAddresses(eth0)
	s := n.Stream(ToPeer, 2000)
	s.WaitArrived(100, 5*time.Second)
	n.SilencePath(0)
	at := s.Arrived()
	if !carrier(t, eth0) {
		t.Error("a silent path took the carrier away")
	}
	s.WaitSent(10, 5*time.Second)
	n.RestorePath(0)
	s.WaitArrived(100, 5*time.Second)
	if r := s.Stop(); r.Lost < 5 || r.Received <= at || r.Duplicated != 0 || r.LongestGap == 0 {
		t.Errorf("a path that was silent for a moment: %v", r)
	}
	back := n.Stream(FromPeer, 2000)
	back.WaitArrived(100, 5*time.Second)
	if r := back.Stop(); r.Lost != 0 || r.Received < 100 || r.LongestGap != 0 || r.LongestDelay <= 0 || r.LongestDelay > time.Minute {
		t.Errorf("an undisturbed stream: %v", r)
	}
}

func TestNICComesBackAsAnother(t *testing.T) {
	n := New(t)
	for s := drivers.Side(0); s <= 1; s++ {
		before := n.Index(n.NIC(s))
		n.DeleteNIC(s)
		if _, err := netlink.LinkByName(n.NIC(s)); err == nil {
			t.Errorf("%s is still there", n.NIC(s))
		}
		n.MakeNIC(s)
		l, err := netlink.LinkByName(n.NIC(s))
		if err != nil {
			t.Fatal(err)
		}
		if a := l.Attrs(); a.Index == before || a.HardwareAddr.String() != NICMAC(s).String() {
			t.Errorf("%s came back as %d %v, was %d", n.NIC(s), a.Index, a.HardwareAddr, before)
		}
	}
}

func TestPlacesAreApart(t *testing.T) {
	n := New(t)
	links := func(out []byte, err error) string {
		t.Helper()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	sw := links(n.SwitchCommand("cat", "/proc/net/dev").CombinedOutput())
	peer := links(n.PeerCommand("cat", "/proc/net/dev").CombinedOutput())
	box := links(exec.Command("cat", "/proc/net/dev").CombinedOutput())
	for _, c := range []struct{ place, text, has, lacks string }{
		{"switch", sw, Bridge, "eth0"}, {"peer", peer, PeerNIC, "eth1"}, {"box", box, "eth1", Bridge},
	} {
		if !strings.Contains(c.text, c.has+":") || strings.Contains(c.text, c.lacks+":") {
			t.Errorf("the %s has not %s, or has %s:\n%s", c.place, c.has, c.lacks, c.text)
		}
	}
	n.InPeer(func() {
		if _, err := netlink.LinkByName("eth1"); err == nil {
			t.Error("a function in the peer sees the box's eth1")
		}
	})
}

func TestRawFrames(t *testing.T) {
	n := New(t)
	peer, box, stack := n.Raw(Peer, PeerNIC), n.Raw(Box, n.NIC(0)), n.Stack(Box, n.NIC(0))
	for _, vlan := range []uint16{0, 7} {
		f := Frame(Broadcast, PeerMAC(), vlan, "hello")
		peer.Send(f)
		box.Next("the peer's frame", 5*time.Second, Same(f))
		stack.Next("the peer's frame", 5*time.Second, Says("hello"))
	}
	own := Frame(Broadcast, NICMAC(0), 0, "mine")
	box.Send(own)
	peer.Next("the box's frame", 5*time.Second, Same(own))
	for _, f := range box.Waiting() {
		if Same(own)(f) {
			t.Error("a socket sees what it has sent itself")
		}
	}
}
