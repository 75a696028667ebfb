package tc

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
)

func TestMain(m *testing.M) {
	if task := os.Getenv(anotherProcess); task != "" {
		beAnotherProcess(task)
	}
	bondtest.Main(m)
}

const patience = 5 * time.Second

var faceMAC = net.HardwareAddr{0x02, 0, 0, 0, 0x53, 1}

func spec() datapath.Spec {
	return datapath.Spec{Key: "box-net0", Face: "net0", MAC: faceMAC, MTU: 1500}
}

// bench is a path over both NICs, with its face up and port 0 active.
type bench struct {
	*bondtest.Net
	t *testing.T
	p *path
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{Net: bondtest.New(t), t: t}
	for s := drivers.Side(0); s <= 1; s++ {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+b.NIC(s)+"/disable_ipv6", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	var warnings bytes.Buffer
	quiet := spec()
	quiet.Log = slog.New(slog.NewTextHandler(&warnings, &slog.HandlerOptions{Level: slog.LevelWarn}))
	opened, adopted, err := Open(quiet)
	if err != nil {
		t.Fatal(err)
	}
	b.p = opened.(*path)
	t.Cleanup(func() {
		if err := b.p.Remove(); err != nil && err != errClosed {
			t.Errorf("remove: %v", err)
		}
		if warnings.Len() > 0 {
			t.Errorf("warnings:\n%s", warnings.String())
		}
		if l, err := netlink.LinkByName("net0"); err == nil && t.Failed() {
			_ = netlink.LinkDel(l) // a test that failed may have closed the path
		}
	})
	if adopted {
		t.Error("a new face counts as adopted")
	}
	b.port(0)
	b.port(1)
	b.GiveAddresses("net0") // sets it up
	b.must(b.p.SetCarrier(true))
	b.activate(0, true)
	return b
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) port(s drivers.Side) {
	b.t.Helper()
	b.must(b.p.SetPort(s, &datapath.Port{Index: b.Index(b.NIC(s)), Name: b.NIC(s), MAC: bondtest.NICMAC(s)}))
}

func both(active drivers.Side) datapath.State {
	return datapath.State{Active: active, Eligible: [2]bool{true, true}}
}

func (b *bench) activate(s drivers.Side, planned bool) {
	b.t.Helper()
	b.must(b.p.SetState(both(s), planned))
	b.state(b.p, s)
}

func (b *bench) state(p datapath.Path, active drivers.Side) {
	b.t.Helper()
	st, _, err := p.State()
	b.must(err)
	if st.Active != active {
		b.t.Errorf("port %d is active, not %d", st.Active, active)
	}
}

// closed waits until the way of a planned switch that is half open is not any more.
func (b *bench) closed(s drivers.Side) {
	b.t.Helper()
	bondtest.WaitFor(b.t, "the port that was active is closed", patience, func() bool {
		nodes, _, err := b.p.k.nodes(b.Index(b.NIC(s)), ingress)
		b.must(err)
		return nodes[nodeIn] == nil && nodes[nodeLate] == nil
	})
}

// learn lets the switch see the face's MAC at the active port, as an announcement does.
func (b *bench) learn(face *bondtest.Raw, text string) {
	face.Send(bondtest.Frame(bondtest.Broadcast, faceMAC, 0, text))
}

func count(frames [][]byte, f []byte) (n int) {
	for _, g := range frames {
		if slices.Equal(f, g) {
			n++
		}
	}
	return n
}

func TestOnlyTheActivePortCarries(t *testing.T) {
	b := newBench(t)
	peer, face := b.Raw(bondtest.Peer, bondtest.PeerNIC), b.Raw(bondtest.Box, "net0")
	taps := [2]*bondtest.Raw{b.Raw(bondtest.Box, b.NIC(0)), b.Raw(bondtest.Box, b.NIC(1))}
	group := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 0x42}
	for i, active := range []drivers.Side{0, 1, 0} {
		b.activate(active, false)
		for vlan := uint16(0); vlan < 3; vlan++ {
			for _, to := range []net.HardwareAddr{bondtest.Broadcast, group} {
				text := string([]byte{'a' + byte(i), 'a' + byte(vlan)})
				in := bondtest.Frame(to, bondtest.PeerMAC(), vlan, text+" in")
				peer.Send(in)
				for _, tap := range taps {
					tap.Next("the frame on each port", patience, bondtest.Same(in))
				}
				out := bondtest.Frame(to, faceMAC, vlan, text+" out")
				face.Next("the frame", patience, bondtest.Same(in))
				face.Send(out)
				peer.Next("the face's frame", patience, bondtest.Same(out))
				taps[active.Other()].Next("the face's frame, sent back by the switch", patience, bondtest.Same(out))
				mark := bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, text+" mark")
				peer.Send(mark)
				var seen [][]byte
				face.Next("the frame after it", patience, func(f []byte) bool { seen = append(seen, f); return slices.Equal(f, mark) })
				if count(seen, in) != 0 {
					t.Errorf("port %d active, VLAN %d: a frame to %v came twice", active, vlan, to)
				}
				if count(seen, out) != 0 {
					t.Errorf("port %d active, VLAN %d: the face got its own frame to %v", active, vlan, to)
				}
				if got := peer.Waiting(); count(got, out) != 0 {
					t.Errorf("port %d active, VLAN %d: the face's frame left twice", active, vlan)
				}
			}
		}
	}
}

func TestNoPortIsActive(t *testing.T) {
	b := newBench(t)
	b.activate(datapath.None, false)
	peer, face := b.Raw(bondtest.Peer, bondtest.PeerNIC), b.Raw(bondtest.Box, "net0")
	tap := b.Raw(bondtest.Box, b.NIC(1))
	in := bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, "in")
	out := bondtest.Frame(bondtest.Broadcast, faceMAC, 0, "out")
	peer.Send(in)
	face.Send(out)
	tap.Next("the peer's frame", patience, bondtest.Same(in))
	b.activate(1, false)
	mark := bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, "mark")
	peer.Send(mark)
	face.Next("a frame after the return", patience, func(f []byte) bool {
		if slices.Equal(f, in) {
			t.Error("a frame came in without an active port")
		}
		return slices.Equal(f, mark)
	})
	face.Send(mark)
	peer.Next("a frame after the return", patience, func(f []byte) bool {
		if slices.Equal(f, out) {
			t.Error("a frame went out without an active port")
		}
		return slices.Equal(f, mark)
	})
}

// Answers to probes are for the NIC's own MAC, on the standby too. What is not, and is
// dropped, does not reach the NIC's protocols.
func TestNICKeepsItsOwnFrames(t *testing.T) {
	b := newBench(t)
	peer, face := b.Raw(bondtest.Peer, bondtest.PeerNIC), b.Raw(bondtest.Box, "net0")
	for s := drivers.Side(0); s <= 1; s++ {
		b.activate(0, false)
		nic := b.Stack(bondtest.Box, b.NIC(s))
		for vlan := uint16(0); vlan < 2; vlan++ {
			all := bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), vlan, "all")
			own := bondtest.Frame(bondtest.NICMAC(s), bondtest.PeerMAC(), vlan, "own")
			peer.Send(all)
			peer.Send(own)
			nic.Next("a frame to its own address", patience, func(f []byte) bool {
				if bondtest.Says("all")(f) {
					t.Errorf("a frame to all reached the protocols of %s", b.NIC(s))
				}
				return bondtest.Says("own")(f)
			})
			face.Next("the frame to all", patience, bondtest.Same(all))
		}
		b.activate(s, false)
		own := bondtest.Frame(bondtest.NICMAC(s), bondtest.PeerMAC(), 0, "own again")
		mark := bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, "mark")
		peer.Send(own)
		nic.Next("a frame to the active port's own address", patience, bondtest.Same(own))
		peer.Send(mark)
		face.Next("the frame after it", patience, func(f []byte) bool {
			if slices.Equal(f, own) {
				t.Errorf("the face got a frame for %s", b.NIC(s))
			}
			return slices.Equal(f, mark)
		})
	}
}

// The shortest frames have nothing behind their header for u32 to look at.
func TestShortFrame(t *testing.T) {
	b := newBench(t)
	peer, face := b.Raw(bondtest.Peer, bondtest.PeerNIC), b.Raw(bondtest.Box, "net0")
	short := bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, "")[:15]
	peer.Send(short)
	face.Next("a frame of 15 bytes", patience, bondtest.Same(short))
	short = bondtest.Frame(bondtest.Broadcast, faceMAC, 0, "")[:15]
	face.Send(short)
	peer.Next("a frame of 15 bytes", patience, bondtest.Same(short))
}

func TestFaultsStopBothDirections(t *testing.T) {
	b := newBench(t)
	peer, face := b.Raw(bondtest.Peer, bondtest.PeerNIC), b.Raw(bondtest.Box, "net0")
	nic, tap := b.Stack(bondtest.Box, b.NIC(0)), b.Raw(bondtest.Box, b.NIC(0))
	for _, fault := range []datapath.Fault{datapath.FaultDark, datapath.FaultSilent} {
		b.must(b.p.Fault(0, fault))
		b.must(b.p.Fault(0, fault))
		name := string('0' + byte(fault))
		in := bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, name+" in")
		own := bondtest.Frame(bondtest.NICMAC(0), bondtest.PeerMAC(), 0, name+" own")
		out := bondtest.Frame(bondtest.Broadcast, faceMAC, 0, name+" out")
		probe := bondtest.Frame(bondtest.Broadcast, bondtest.NICMAC(0), 0, name+" probe")
		peer.Send(in)
		peer.Send(own)
		face.Send(out)
		tap.Send(probe)
		tap.Next("the last frame on the wire", patience, bondtest.Same(own))
		b.must(b.p.Fault(0, datapath.FaultNone))
		mark := bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, name+" mark")
		peer.Send(mark)
		face.Next("a frame after the fault", patience, func(f []byte) bool {
			if slices.Equal(f, in) {
				t.Errorf("fault %d: a frame came in", fault)
			}
			return slices.Equal(f, mark)
		})
		face.Send(mark)
		peer.Next("a frame after the fault", patience, func(f []byte) bool {
			if slices.Equal(f, out) || slices.Equal(f, probe) {
				t.Errorf("fault %d: the frame %q went out", fault, f[14:])
			}
			return slices.Equal(f, mark)
		})
		if count(nic.Waiting(), own) != 0 {
			t.Errorf("fault %d: the NIC got a frame", fault)
		}
	}
}

func TestNICComesBackAsAnother(t *testing.T) {
	b := newBench(t)
	b.must(b.p.Fault(0, datapath.FaultSilent))
	b.DeleteNIC(0)
	b.state(b.p, datapath.None)
	b.must(b.p.SetState(datapath.State{Active: 1, Eligible: [2]bool{false, true}}, false))
	b.state(b.p, 1)
	b.MakeNIC(0)
	b.port(0)
	b.port(0)
	b.activate(0, false)
	peer, face, tap := b.Raw(bondtest.Peer, bondtest.PeerNIC), b.Raw(bondtest.Box, "net0"), b.Raw(bondtest.Box, b.NIC(0))
	// The fault is the port's, whatever NIC it is.
	in := bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, "in")
	peer.Send(in)
	tap.Next("the frame on the wire", patience, bondtest.Same(in))
	b.must(b.p.Fault(0, datapath.FaultNone))
	mark := bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, "mark")
	peer.Send(mark)
	face.Next("a frame through the new NIC", patience, func(f []byte) bool {
		if slices.Equal(f, in) {
			t.Error("the fault has not come along")
		}
		return slices.Equal(f, mark)
	})
	// One that goes while it is active, and is forgotten.
	b.DeleteNIC(0)
	b.must(b.p.SetPort(0, nil))
	b.state(b.p, datapath.None)
	if err := b.p.SetState(both(1), false); err == nil {
		t.Error("a port without a NIC became eligible")
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	b := newBench(t)
	eth1 := datapath.Port{Index: b.Index("eth1"), Name: "eth1", MAC: bondtest.NICMAC(1)}
	lo := datapath.Port{Index: b.Index("lo"), Name: "lo"}
	for what, err := range map[string]error{
		"the other port's NIC": b.p.SetPort(0, &eth1),
		"no Ethernet":          b.p.SetPort(0, &lo),
		"the face itself":      b.p.SetPort(0, &datapath.Port{Index: b.p.Face(), Name: "net0", MAC: faceMAC}),
		"a NIC that is not":    b.p.SetPort(1, &datapath.Port{Index: 4711, Name: "eth9", MAC: faceMAC}),
		"no such port":         b.p.SetState(datapath.State{Active: 2}, false),
	} {
		if err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	b.state(b.p, 0)
	noFilters(t, "lo")
}

func noFilters(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	qdiscs, err := netlink.QdiscList(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qdiscs {
		if q.Type() == "clsact" || q.Type() == "ingress" {
			t.Errorf("%s still has the qdisc %v", name, q)
		}
	}
}
