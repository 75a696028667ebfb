package bondtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"ft/drivers"
)

// Addresses of the peer, which has them, and of the box, where they belong to the face
// (RFC 5737, RFC 3849).
const (
	PeerIP4 = "192.0.2.1"
	PeerIP6 = "2001:db8::1"
	BoxIP4  = "192.0.2.10"
	BoxIP6  = "2001:db8::10"
)

// Interfaces outside the box.
const (
	PeerNIC  = "eth0" // in the peer
	Bridge   = "br0"  // in the switch
	peerPort = "peer" // in the switch
)

// Place is one of the three namespaces.
type Place int

// The places.
const (
	Box Place = iota
	Switch
	Peer
)

func (p Place) String() string { return [...]string{"box", "switch", "peer"}[p] }

// Net is a box with two NICs, a switch and a peer. Its methods end the test when the
// kernel refuses; they are for the test's goroutine.
type Net struct {
	t      TB
	spaces [3]*os.File // network namespaces by Place; the box's own is nil
	at     [3]*netlink.Handle
}

// New wires up the box that Main made: NICs up, cables in, no addresses on them. It is
// taken down by t.Cleanup. Only one can be there at a time.
func New(t TB) *Net {
	t.Helper()
	if os.Getenv(inBox) == "" {
		t.Fatal("bondtest.New outside the box: TestMain must call bondtest.Main")
	}
	n := &Net{t: t}
	t.Cleanup(n.remove)
	var err error
	n.at[Box], err = netlink.NewHandle(unix.NETLINK_ROUTE)
	n.must(err, "open netlink in the box")
	for _, p := range []Place{Switch, Peer} {
		n.spaces[p], err = newSpace()
		n.must(err, "make the namespace of the %s", p)
		n.at[p], err = netlink.NewHandleAt(netns.NsHandle(n.spaces[p].Fd()), unix.NETLINK_ROUTE)
		n.must(err, "open netlink in the %s", p)
	}
	n.makeSwitch()
	n.makePeer()
	n.MakeNIC(0)
	n.MakeNIC(1)
	return n
}

// newSpace makes a network namespace that lives as long as the file is open.
func newSpace() (f *os.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("unshare: %w", err)
			return
		}
		f, err = os.Open("/proc/thread-self/ns/net")
	}()
	<-done
	return f, err
}

func (n *Net) makeSwitch() {
	n.t.Helper()
	n.up(Switch, "lo")
	n.InSwitch(func() {
		// A switch has no addresses, and says nothing by itself.
		for _, which := range []string{"all", "default"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0); err != nil {
				n.t.Errorf("turn IPv6 off in the switch: %v", err)
			}
		}
	})
	snooping := false
	la := netlink.NewLinkAttrs()
	la.Name = Bridge
	n.must(n.at[Switch].LinkAdd(&netlink.Bridge{LinkAttrs: la, MulticastSnooping: &snooping}), "make the bridge")
	n.up(Switch, Bridge)
}

func (n *Net) makePeer() {
	n.t.Helper()
	n.up(Peer, "lo")
	la := netlink.NewLinkAttrs()
	la.Name = PeerNIC
	la.HardwareAddr = PeerMAC()
	n.must(n.at[Peer].LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: peerPort, PeerNamespace: netlink.NsFd(n.spaces[Switch].Fd())}), "make the peer's NIC")
	n.toBridge(peerPort)
	n.up(Switch, peerPort)
	n.address(Peer, PeerNIC, PeerIP4+"/24", PeerIP6+"/64")
	n.up(Peer, PeerNIC)
	n.ready(Peer, PeerNIC)
	n.ready(Switch, peerPort)
}

func (n *Net) remove() {
	for s := drivers.Side(0); s <= 1 && n.at[Box] != nil; s++ {
		if l, err := n.at[Box].LinkByName(n.NIC(s)); err == nil {
			if err := n.at[Box].LinkDel(l); err != nil {
				n.t.Errorf("remove %s: %v", n.NIC(s), err)
			}
		}
	}
	for p := range n.at {
		if n.at[p] != nil {
			n.at[p].Close()
		}
		if n.spaces[p] != nil {
			n.spaces[p].Close()
		}
	}
}

// NIC is the name of a side's NIC in the box.
func (n *Net) NIC(s drivers.Side) string { return fmt.Sprintf("eth%d", s) }

// Port is the name of the switch's end of a side's cable.
func (n *Net) Port(s drivers.Side) string { return fmt.Sprintf("port%d", s) }

// NICMAC is the MAC of a side's NIC, and PeerMAC the peer's (RFC 7042, 2.1.1: for documentation).
func NICMAC(s drivers.Side) net.HardwareAddr {
	return net.HardwareAddr{0x00, 0x00, 0x5e, 0x00, 0x53, 0x10 + byte(s)}
}

// PeerMAC is the peer's MAC.
func PeerMAC() net.HardwareAddr { return net.HardwareAddr{0x00, 0x00, 0x5e, 0x00, 0x53, 0x01} }

// Index is the ifindex of an interface in the box.
func (n *Net) Index(name string) int {
	n.t.Helper()
	return n.link(Box, name).Attrs().Index
}

// PullCable takes a side's carrier away; ReturnCable gives it back.
func (n *Net) PullCable(s drivers.Side) {
	n.t.Helper()
	n.must(n.at[Switch].LinkSetDown(n.link(Switch, n.Port(s))), "pull the cable of %s", n.NIC(s))
}

// ReturnCable gives a side's carrier back.
func (n *Net) ReturnCable(s drivers.Side) {
	n.t.Helper()
	n.must(n.at[Switch].LinkSetUp(n.link(Switch, n.Port(s))), "return the cable of %s", n.NIC(s))
}

// SilencePath makes what a side sends go nowhere, and nothing come: its carrier stays.
func (n *Net) SilencePath(s drivers.Side) {
	n.t.Helper()
	n.must(n.at[Switch].LinkSetNoMaster(n.link(Switch, n.Port(s))), "silence the path of %s", n.NIC(s))
}

// RestorePath ends SilencePath.
func (n *Net) RestorePath(s drivers.Side) {
	n.t.Helper()
	n.toBridge(n.Port(s))
}

// DeleteNIC takes a side's NIC out of the box, as pulling the card does.
func (n *Net) DeleteNIC(s drivers.Side) {
	n.t.Helper()
	n.must(n.at[Box].LinkDel(n.link(Box, n.NIC(s))), "delete %s", n.NIC(s))
}

// MakeNIC puts it back: the same name and MAC, a new ifindex, up, with its cable in and
// carrier.
func (n *Net) MakeNIC(s drivers.Side) {
	n.t.Helper()
	la := netlink.NewLinkAttrs()
	la.Name = n.NIC(s)
	la.HardwareAddr = NICMAC(s)
	err := n.at[Box].LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: n.Port(s), PeerNamespace: netlink.NsFd(n.spaces[Switch].Fd())})
	n.must(err, "make %s", n.NIC(s))
	n.toBridge(n.Port(s))
	n.up(Switch, n.Port(s))
	n.up(Box, n.NIC(s))
	n.ready(Switch, n.Port(s))
	n.ready(Box, n.NIC(s))
}

// ready waits until an interface that is up can carry frames. The kernel gives it a queue
// and tells the bridge of its carrier in linkwatch's own time, and then calls it up.
func (n *Net) ready(p Place, name string) {
	n.t.Helper()
	WaitFor(n.t, fmt.Sprintf("%s in the %s is ready", name, p), 10*time.Second, func() bool {
		return n.link(p, name).Attrs().OperState == netlink.OperUp
	})
}

// GiveAddresses puts the box's addresses onto an interface in the box (the face), and
// sets it up. IPv6 does no duplicate address detection.
func (n *Net) GiveAddresses(face string) {
	n.t.Helper()
	n.address(Box, face, BoxIP4+"/24", BoxIP6+"/64")
	n.up(Box, face)
}

// InSwitch runs f on a thread in the switch's namespace and waits for it. Sockets made by
// f stay in the switch; goroutines started by f are in the box. f reports with t.Error,
// not with t.Fatal.
func (n *Net) InSwitch(f func()) { n.t.Helper(); n.In(Switch, f) }

// InPeer is the same in the peer.
func (n *Net) InPeer(f func()) { n.t.Helper(); n.In(Peer, f) }

// In is the same in any place.
func (n *Net) In(p Place, f func()) {
	n.t.Helper()
	if p == Box {
		f()
		return
	}
	err := errors.New("it called t.FailNow or runtime.Goexit")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if e := unix.Setns(int(n.spaces[p].Fd()), unix.CLONE_NEWNET); e != nil {
			err = fmt.Errorf("setns: %w", e)
			return
		}
		f()
		err = nil
	}()
	<-done
	n.must(err, "run a function in the %s", p)
}

// PeerCommand is a command that will run in the peer's namespace.
func (n *Net) PeerCommand(name string, args ...string) *exec.Cmd { return n.command(Peer, name, args) }

// SwitchCommand is a command that will run in the switch's namespace.
func (n *Net) SwitchCommand(name string, args ...string) *exec.Cmd {
	return n.command(Switch, name, args)
}

// command uses nsenter (util-linux), which becomes the command itself: signals reach it.
func (n *Net) command(p Place, name string, args []string) *exec.Cmd {
	space := fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), n.spaces[p].Fd())
	return exec.Command("nsenter", append([]string{space, "--", name}, args...)...)
}

// busy is how much longer everything that is waited for may take on a machine that has
// other work than on a quiet one.
const busy = 4

// WaitFor waits until a condition holds, looking every millisecond. within is for a quiet
// machine, and no measurement.
func WaitFor(t TB, what string, within time.Duration, holds func() bool) {
	t.Helper()
	within *= busy
	deadline := time.Now().Add(within)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s", within, what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (n *Net) must(err error, format string, args ...any) {
	if err != nil {
		n.t.Helper()
		n.t.Fatalf("bondtest: %s: %v", fmt.Sprintf(format, args...), err)
	}
}

func (n *Net) link(p Place, name string) netlink.Link {
	n.t.Helper()
	l, err := n.at[p].LinkByName(name)
	n.must(err, "find %s in the %s", name, p)
	return l
}

func (n *Net) up(p Place, name string) {
	n.t.Helper()
	n.must(n.at[p].LinkSetUp(n.link(p, name)), "set %s in the %s up", name, p)
}

func (n *Net) toBridge(port string) {
	n.t.Helper()
	n.must(n.at[Switch].LinkSetMaster(n.link(Switch, port), n.link(Switch, Bridge)), "put %s into the bridge", port)
}

func (n *Net) address(p Place, name string, cidrs ...string) {
	n.t.Helper()
	l := n.link(p, name)
	for _, cidr := range cidrs {
		a, err := netlink.ParseAddr(cidr)
		n.must(err, "parse %s", cidr)
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		n.must(n.at[p].AddrAdd(l, a), "give %s to %s in the %s", cidr, name, p)
	}
}
