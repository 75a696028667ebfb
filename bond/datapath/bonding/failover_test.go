package bonding

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
)

// Told of a dead port, the bond goes on at once: not by its own look, which comes every
// 100 ms. The middle of several is what counts: an emulated machine stands still at times.
func TestSwitchAtOnce(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	face := r.Raw(bondtest.Box, "net0")
	var gaps []time.Duration
	for _, d := range []bondtest.Direction{bondtest.ToPeer, bondtest.FromPeer, bondtest.ToPeer} {
		for from := drivers.Side(0); from <= 1; from++ {
			r.setState(from, both)
			s := r.Stream(d, 1000)
			s.WaitArrived(50, 5*time.Second)
			r.PullCable(from)
			r.setState(from.Other(), [2]bool{from == 1, from == 0})
			r.wantActive(from.Other())
			// The switch learns the new way from any frame of the face's.
			face.Send(bondtest.Frame(bondtest.Broadcast, faceMAC, 0, "here"))
			s.WaitArrived(50, 5*time.Second)
			res := s.Stop()
			t.Logf("%v, from port %d: %v", d, from, res)
			if res.Duplicated != 0 {
				t.Errorf("%v, from port %d: frames came twice", d, from)
			}
			gaps = append(gaps, res.LongestGap)
			r.ReturnCable(from)
			r.waitCarrier(r.NIC(from), true)
		}
	}
	slices.Sort(gaps)
	if middle := gaps[len(gaps)/2]; middle > miimon*time.Millisecond/2 {
		t.Errorf("the gaps are no shorter than the driver's own look would make them: %v", gaps)
	}
	if _, turn := r.state(); turn.Count != 0 {
		t.Errorf("%d turns of the kernel's own", turn.Count)
	}
}

// A switch that was asked for loses nothing and brings nothing twice.
func TestPlannedSwitch(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	s := r.Stream(bondtest.ToPeer, 1000)
	for i := range 6 {
		s.WaitArrived(20, 5*time.Second)
		if err := r.SetState(datapath.State{Active: drivers.Side(i+1) % 2, Eligible: both}, true); err != nil {
			t.Fatal(err)
		}
	}
	s.WaitArrived(20, 5*time.Second)
	if res := s.Stop(); res.Lost != 0 || res.Duplicated != 0 {
		t.Errorf("six switches: %v", res)
	}
}

// With no process to tell it, the kernel turns by itself, to an eligible port.
func TestTurnWithoutUs(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	r.PullCable(0)
	bondtest.WaitFor(t, "the kernel to turn", 2*time.Second, func() bool { st, _ := r.state(); return st.Active == 1 })
	st, turn := r.state()
	if turn.Count != 1 || time.Since(turn.At) > 5*time.Second || st.Eligible != both {
		t.Errorf("after one turn: %+v, %+v", st, turn)
	}
	r.wantPasses(true)
	r.ReturnCable(0)
	r.waitCarrier("eth0", true)
	r.PullCable(1)
	bondtest.WaitFor(t, "the kernel to turn back", 2*time.Second, func() bool { st, _ := r.state(); return st.Active == 0 })
	if _, turn := r.state(); turn.Count != 2 {
		t.Errorf("%d turns, want 2", turn.Count)
	}
	r.PullCable(0)
	bondtest.WaitFor(t, "no port to carry the face", 2*time.Second, func() bool { st, _ := r.state(); return st.Active == datapath.None })
	r.waitCarrier("net0", false)
}

// A port that may not carry the face does not, even when the kernel has turned to it. Its
// probes pass.
func TestClosedPort(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	r.setState(0, [2]bool{true, false})
	r.wantProbes(1)
	r.PullCable(0)
	bondtest.WaitFor(t, "the bonding driver to turn", 2*time.Second, func() bool { i, err := r.active(); return err == nil && i == r.Index("eth1") })
	if st, turn := r.state(); st.Active != datapath.None || turn.Count != 0 {
		t.Errorf("the closed port is active: %+v, %+v", st, turn)
	}
	r.wantPasses(false)
	r.wantProbes(1)
	// The port that should carry the face does again as soon as it can.
	r.ReturnCable(0)
	bondtest.WaitFor(t, "port 0 to be taken again", 2*time.Second, func() bool { st, _ := r.state(); return st.Active == 0 })
	r.wantPasses(true)
	r.PullCable(0)
	r.setState(1, both)
	r.wantActive(1)
	r.wantPasses(true)
}

// With no port active the face is cut off, though the driver always has one.
func TestNoActivePort(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	r.setState(datapath.None, [2]bool{})
	r.wantActive(datapath.None)
	r.wantPasses(false)
	for s := drivers.Side(0); s <= 1; s++ {
		r.wantProbes(s)
	}
	r.setState(1, both)
	r.wantPasses(true)
}

// A carrier that has just come is used at once, not at the driver's next look.
func TestFirstCarrierBack(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	for i := range 4 {
		back := drivers.Side(i % 2)
		r.PullCable(0)
		r.PullCable(1)
		r.setState(datapath.None, [2]bool{})
		bondtest.WaitFor(t, "the driver to see no carrier", 2*time.Second, func() bool { i, err := r.active(); return err == nil && i == 0 })
		r.ReturnCable(back)
		r.waitCarrier(r.NIC(back), true)
		began := time.Now()
		r.setState(back, [2]bool{back == 0, back == 1})
		t.Logf("port %d carries the face %v after its carrier", back, time.Since(began))
		r.wantActive(back)
		r.wantPasses(true)
		r.ReturnCable(back.Other())
		r.waitCarrier(r.NIC(back.Other()), true)
	}
	face, err := r.wire.link(r.Face())
	if err != nil {
		t.Fatal(err)
	}
	if d := differing(face.data); len(d) != 0 {
		t.Errorf("options are otherwise now: %v", d)
	}
}

// A port without carrier is no error: the cable may be pulled at that moment.
func TestActivePortWithoutCarrier(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	r.PullCable(1)
	bondtest.WaitFor(t, "the driver to see it", 2*time.Second, func() bool {
		return r.wire.setOption(r.Face(), attrActiveSlave, []byte{byte(r.Index("eth1")), 0, 0, 0}) != nil
	})
	r.setState(1, [2]bool{false, true})
	r.wantActive(datapath.None)
	r.wantPasses(false)
	r.ReturnCable(1)
	bondtest.WaitFor(t, "port 1 to be taken", 2*time.Second, func() bool { st, _ := r.state(); return st.Active == 1 })
	r.wantPasses(true)
}

func TestFaults(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	r.fault(0, datapath.FaultSilent)
	r.wantActive(0)
	r.wantPasses(false)
	if r.probePasses(0) {
		t.Error("probes pass a silent port")
	}
	r.wantProbes(1)
	r.waitCarrier("eth0", true)
	r.setState(1, [2]bool{false, true})
	r.wantPasses(true)
	r.fault(0, datapath.FaultNone)
	r.wantProbes(0)
	r.setState(0, both)
	r.wantPasses(true)

	r.fault(0, datapath.FaultDark)
	r.waitCarrier("eth0", false)
	bondtest.WaitFor(t, "the kernel to turn", 2*time.Second, func() bool { st, _ := r.state(); return st.Active == 1 })
	r.wantPasses(true)
	r.fault(0, datapath.FaultNone)
	r.waitCarrier("eth0", true)
	r.setState(0, both)
	r.wantPasses(true)
	if a := attrs(t, "eth0"); a.HardwareAddr.String() != faceMAC.String() {
		t.Errorf("eth0 has the MAC %v", a.HardwareAddr)
	}
}

// The face does not hear itself, and hears others once.
func TestReflectedFrames(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	face := r.Raw(bondtest.Box, "net0")
	for s := drivers.Side(0); s <= 1; s++ {
		r.setState(s, both)
		port := r.Raw(bondtest.Switch, r.Port(s))
		if arrives(port, face, bondtest.Frame(bondtest.Broadcast, faceMAC, 0, "own")) {
			t.Errorf("a frame of the face's came in by port %d", s)
		}
		if !arrives(port, face, bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, "other")) {
			t.Errorf("a frame of another did not come in by port %d", s)
		}
		if arrives(r.Raw(bondtest.Switch, r.Port(s.Other())), face, bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, "standby")) {
			t.Errorf("a frame came in by the standby")
		}
	}
}

// VLANs and macvlan children go with the face.
func TestChildren(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	la := netlink.NewLinkAttrs()
	la.Name, la.ParentIndex = "child", r.Face()
	child := &netlink.Macvlan{LinkAttrs: la, Mode: netlink.MACVLAN_MODE_BRIDGE}
	if err := netlink.LinkAdd(child); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(child); err != nil {
		t.Fatal(err)
	}
	la = netlink.NewLinkAttrs()
	la.Name, la.ParentIndex = "net0.7", r.Face()
	vlan := &netlink.Vlan{LinkAttrs: la, VlanId: 7, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	if err := netlink.LinkAdd(vlan); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(vlan); err != nil {
		t.Fatal(err)
	}
	mac := attrs(t, "child").HardwareAddr
	peer, in, tagged := r.Raw(bondtest.Peer, bondtest.PeerNIC), r.Stack(bondtest.Box, "child"), r.Stack(bondtest.Box, "net0.7")
	for s := drivers.Side(0); s <= 1; s++ {
		r.setState(s, both)
		if !arrives(in, peer, bondtest.Frame(bondtest.PeerMAC(), mac, 0, "from the child")) {
			t.Errorf("port %d: nothing comes from the child", s)
		}
		if !arrives(peer, in, bondtest.Frame(mac, bondtest.PeerMAC(), 0, "to the child")) {
			t.Errorf("port %d: nothing comes to the child", s)
		}
		tagged.Send(bondtest.Frame(bondtest.PeerMAC(), faceMAC, 0, "from the VLAN"))
		peer.Next("a frame of VLAN 7", time.Second, func(f []byte) bool {
			return bondtest.Says("from the VLAN")(f) && bytes.Equal(f[12:16], []byte{0x81, 0x00, 0x00, 0x07})
		})
		peer.Send(bondtest.Frame(faceMAC, bondtest.PeerMAC(), 7, "to the VLAN"))
		tagged.Next("a frame of VLAN 7", time.Second, bondtest.Says("to the VLAN"))
	}
}

// Where frames cannot be filtered there is still a face; what is lost is said.
func TestWithoutFilters(t *testing.T) {
	needDriver(t)
	if hasFilters() {
		t.Skip("frames can be filtered here: TestKernelBondingWithoutFilters runs this in a guest where not")
	}
	r := newRig(t)
	r.wantPasses(true)
	if m := strings.Join(r.Describe().Missing, "\n"); !strings.Contains(m, "eth0 cannot be closed") || !strings.Contains(m, "sch_ingress") {
		t.Errorf("missing: %s", m)
	}
	var refused *drivers.Refused
	if err := r.Fault(0, datapath.FaultSilent); !errors.As(err, &refused) || !strings.Contains(refused.Sentence, "sch_ingress") {
		t.Errorf("a silent path: %v", err)
	}
	r.PullCable(0)
	r.setState(1, both)
	r.wantActive(1)
	r.wantPasses(true)
	r.reopen()
	r.setPort(0)
	r.setPort(1)
	r.wantActive(1)
	r.wantPasses(true)
	if err := r.Remove(); err != nil {
		t.Fatal(err)
	}
	r.wantLeft(0)
	r.wantLeft(1)
}
