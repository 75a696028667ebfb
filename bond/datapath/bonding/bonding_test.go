package bonding

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/bond/datapath/pair"
	"ft/drivers"
)

// A kernel without the driver is named as the cause, and nothing is left.
func TestWithoutDriver(t *testing.T) {
	if hasDriver(t) {
		t.Skip("this kernel has a bonding driver: the other tests run")
	}
	_, _, err := Open(testSpec())
	if !errors.Is(err, datapath.ErrUnsupported) || !strings.Contains(err.Error(), "modprobe bonding") {
		t.Errorf("without the driver: %v", err)
	}
	if _, err := netlink.LinkByName("net0"); err == nil {
		t.Error("something is there")
	}
}

func TestOpenMakesTheFace(t *testing.T) {
	needDriver(t)
	p, adopted := open(t)
	if adopted {
		t.Error("adopted from nobody")
	}
	a := attrs(t, "net0")
	if a.Index != p.Face() || !bytes.Equal(a.HardwareAddr, faceMAC) || a.MTU != 1400 || a.RawFlags&unix.IFF_UP != 0 {
		t.Errorf("the face: index %d, MAC %v, MTU %d, flags %v", a.Index, a.HardwareAddr, a.MTU, a.Flags)
	}
	if kind, ours, err := pair.Kind("net0", testSpec().Key); kind != datapath.Bonding || !ours || err != nil {
		t.Errorf("its mark says %q, ours %v, %v", kind, ours, err)
	}
	l, err := netlink.LinkByName("net0")
	if err != nil {
		t.Fatal(err)
	}
	b := l.(*netlink.Bond)
	for name, got := range map[string]bool{
		"mode": b.Mode == netlink.BOND_MODE_ACTIVE_BACKUP, "miimon": b.Miimon == 100, "updelay": b.UpDelay == 0,
		"downdelay": b.DownDelay == 0, "use_carrier": b.UseCarrier == 1, "arp_interval": b.ArpInterval == 0,
		"primary_reselect": b.PrimaryReselect == netlink.BOND_PRIMARY_RESELECT_FAILURE, "fail_over_mac": b.FailOverMac == netlink.BOND_FAIL_OVER_MAC_NONE,
		"resend_igmp": b.ResendIgmp == 1, "num_peer_notif": b.NumPeerNotif == 0, "all_slaves_active": b.AllSlavesActive == 0, "min_links": b.MinLinks == 0,
	} {
		if !got {
			t.Errorf("%s is not as it should be: %+v", name, b)
		}
	}
	if d := p.Describe(); d.Kind != datapath.Bonding || len(d.Missing) != 0 {
		t.Errorf("described as %+v", d)
	}
}

// What a predecessor or an admin has set otherwise is set right, unless that would
// disturb a face in use.
func TestOpenSettlesOptions(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	for attr, value := range map[uint16][]byte{
		attrMiimon: {7, 0, 0, 0}, attrNumPeerNotif: {5}, attrPrimaryReselect: {0}, attrAllSlavesActive: {1},
	} {
		if err := r.wire.setOption(r.Face(), attr, value); err != nil {
			t.Fatal(err)
		}
	}
	primary := []byte{byte(r.Index("eth1")), 0, 0, 0}
	if err := r.wire.setOption(r.Face(), attrPrimary, primary); err != nil {
		t.Fatal(err)
	}
	face, err := r.wire.link(r.Face())
	if err != nil {
		t.Fatal(err)
	}
	if d := differing(face.data); len(d) != 5 {
		t.Errorf("5 options were changed, %d are seen: %v", len(d), d)
	}
	r.reopen()
	if face, err = r.wire.link(r.Face()); err != nil {
		t.Fatal(err)
	}
	if d := differing(face.data); len(d) != 0 {
		t.Errorf("still otherwise: %v", d)
	}
}

func TestOpenLeavesOthersAlone(t *testing.T) {
	needDriver(t)
	la := netlink.NewLinkAttrs()
	la.Name = "net0"
	theirs := netlink.NewLinkBond(la)
	if err := netlink.LinkAdd(theirs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(theirs); err != nil {
			t.Error(err)
		}
	})
	was := attrs(t, "net0")
	if _, _, err := Open(testSpec()); err == nil || !strings.Contains(err.Error(), "not a bond of ours") {
		t.Errorf("somebody's bond: %v", err)
	}
	if is := attrs(t, "net0"); is.Index != was.Index || is.MTU != was.MTU || is.HardwareAddr.String() != was.HardwareAddr.String() {
		t.Error("it was changed")
	}
}

func TestOpenRemovesWhatACrashLeft(t *testing.T) {
	needDriver(t)
	w, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := w.create(unfinished("net0"), nil, 0); err != nil {
		t.Fatal(err)
	}
	open(t)
	if _, err := w.linkNamed(unfinished("net0")); !gone(err) {
		t.Errorf("the unfinished face: %v", err)
	}
}

func TestPortsComeAndGo(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	for s := drivers.Side(0); s <= 1; s++ {
		if a := attrs(t, r.NIC(s)); a.MasterIndex != r.Face() || !bytes.Equal(a.HardwareAddr, faceMAC) || a.MTU != 1400 {
			t.Errorf("%s: in %d, MAC %v, MTU %d", r.NIC(s), a.MasterIndex, a.HardwareAddr, a.MTU)
		}
		r.wantProbes(s)
	}
	if err := r.SetPort(1, r.port(0)); err == nil || !strings.Contains(err.Error(), "other port") {
		t.Errorf("a NIC as both ports: %v", err)
	}
	was := attrs(t, "eth0").Index
	r.setPort(0)
	if st, _ := r.state(); st.Active != 0 || st.Eligible != both || attrs(t, "eth0").Index != was {
		t.Errorf("putting a port onto its own NIC: %+v", st)
	}
	if err := r.SetPort(0, nil); err != nil {
		t.Fatal(err)
	}
	r.wantLeft(0)
	if st, _ := r.state(); st.Active != 1 || st.Eligible != [2]bool{false, true} {
		t.Errorf("without port 0: %+v", st)
	}
	if err := r.SetState(datapath.State{Active: 0}, false); err == nil {
		t.Error("a port without a NIC became the active one")
	}
	r.setPort(0)
	r.setState(0, both)
	r.wantActive(0)
	r.wantPasses(true)
	if err := r.Remove(); err != nil {
		t.Fatal(err)
	}
	for s := drivers.Side(0); s <= 1; s++ {
		r.wantLeft(s)
	}
}

func TestNICIsReplaced(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	r.DeleteNIC(0)
	bondtest.WaitFor(t, "the kernel to turn", time.Second, func() bool { st, _ := r.state(); return st.Active == 1 })
	if _, turn := r.state(); turn.Count != 1 {
		t.Errorf("%d turns of the kernel's, want 1", turn.Count)
	}
	r.setState(1, [2]bool{false, true})
	r.wantPasses(true)
	r.MakeNIC(0)
	r.setPort(0)
	r.waitCarrier("eth0", true)
	if st, _ := r.state(); st.Active != 1 || st.Eligible[0] {
		t.Errorf("a NIC that came back: %+v", st)
	}
	r.setState(0, both)
	r.wantPasses(true)
	r.wantActive(0)
}

// A NIC that is in something else, or cannot change its MAC, is refused and left as it is.
func TestUnfitNIC(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	la := netlink.NewLinkAttrs()
	la.Name = "br9"
	bridge := &netlink.Bridge{LinkAttrs: la}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(bridge) })
	if err := r.SetPort(0, nil); err != nil {
		t.Fatal(err)
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMaster(eth0, bridge); err != nil {
		t.Fatal(err)
	}
	if err := r.SetPort(0, r.port(0)); err == nil || !strings.Contains(err.Error(), "take it out there") {
		t.Errorf("a NIC in a bridge: %v", err)
	}
	if a := attrs(t, "eth0"); a.MasterIndex != bridge.Index || a.Flags&1 == 0 {
		t.Errorf("it was changed: %+v", a)
	}
	lo := &datapath.Port{Index: 1, Name: "lo"}
	if err := r.SetPort(0, lo); err == nil {
		t.Error("lo became a port")
	}
	if a := attrs(t, "lo"); a.Flags&1 == 0 {
		t.Error("lo is down")
	}
}

// A successor finds everything: sides, the active port, who is eligible, faults. Nothing
// is lost while it does.
func TestAdopt(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	r.setState(1, [2]bool{false, true})
	s := r.Stream(bondtest.FromPeer, 1000)
	s.WaitArrived(50, 5*time.Second)
	r.reopen()
	if st, turn := r.state(); st.Active != 1 || st.Eligible != [2]bool{false, true} || turn.Count != 0 {
		t.Errorf("before its ports were named: %+v, %+v", st, turn)
	}
	r.setPort(0)
	r.setPort(1)
	if st, _ := r.state(); st.Active != 1 || st.Eligible != [2]bool{false, true} {
		t.Errorf("after: %+v", st)
	}
	r.setState(1, [2]bool{false, true})
	s.WaitArrived(50, 5*time.Second)
	if res := s.Stop(); res.Lost != 0 || res.Duplicated != 0 {
		t.Errorf("the adoption was felt: %v", res)
	}

	r.fault(0, datapath.FaultSilent)
	r.fault(1, datapath.FaultDark)
	r.reopen()
	for s := drivers.Side(0); s <= 1; s++ {
		r.fault(s, datapath.FaultNone)
		r.waitCarrier(r.NIC(s), true)
		r.wantProbes(s)
	}
	r.setState(0, both)
	r.wantPasses(true)
}

func TestStrangersAreLetGo(t *testing.T) {
	needDriver(t)
	r := newRig(t)
	la := netlink.NewLinkAttrs()
	la.Name = "eth9"
	stranger := &netlink.Dummy{LinkAttrs: la}
	if err := netlink.LinkAdd(stranger); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(stranger) })
	if err := netlink.LinkSetMaster(stranger, &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: r.Face()}}); err != nil {
		t.Fatal(err)
	}
	r.reopen()
	if attrs(t, "eth9").MasterIndex == 0 {
		t.Error("the opening itself let it go")
	}
	r.setState(0, both)
	if attrs(t, "eth9").MasterIndex != 0 {
		t.Error("it is still in the bond")
	}
	r.wantPasses(true)
}
