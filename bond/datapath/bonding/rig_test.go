package bonding

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
	"ft/drivers/kerneltest"
)

func TestMain(m *testing.M) { bondtest.Main(m) }

// TestKernelBonding runs the tests of this package where there is a bonding driver.
func TestKernelBonding(t *testing.T) {
	kerneltest.RunTests(t, kerneltest.Options{
		Modules: []string{"bonding", "veth", "bridge", "sch_ingress", "cls_u32", "act_gact", "macvlan", "8021q", "dummy"},
	}, "ft/bond/datapath/bonding")
}

// TestKernelBondingWithoutFilters runs them where ports cannot be closed.
func TestKernelBondingWithoutFilters(t *testing.T) {
	kerneltest.RunTests(t, kerneltest.Options{
		Modules: []string{"bonding", "veth", "bridge"},
		Args:    []string{"-test.run=^TestWithoutFilters$"},
	}, "ft/bond/datapath/bonding")
}

// needDriver skips where this kernel has no bonding driver: TestWithoutDriver holds there.
// In a guest there is one.
func needDriver(t *testing.T) {
	t.Helper()
	if !hasDriver(t) {
		if kerneltest.InGuest() {
			t.Fatal("the guest has no bonding driver")
		}
		t.Skip("this kernel has no bonding driver: TestKernelBonding runs this in a guest that has")
	}
}

func hasDriver(t *testing.T) bool {
	t.Helper()
	w, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	err = w.create("bondtry", nil, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := w.linkNamed("bondtry")
	if err == nil {
		err = w.remove(l.index)
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// hasFilters says whether ports can be closed here.
func hasFilters() bool {
	lo, err := netlink.LinkByName("lo")
	if err != nil || netlink.QdiscAdd(clsact(lo.Attrs().Index)) != nil {
		return false
	}
	return netlink.QdiscDel(clsact(lo.Attrs().Index)) == nil
}

var faceMAC = net.HardwareAddr{0x02, 0x00, 0x5e, 0x00, 0x53, 0xf0}

var both = [2]bool{true, true}

func testSpec() datapath.Spec {
	return datapath.Spec{Key: "test-net0", Face: "net0", MAC: faceMAC, MTU: 1400}
}

// rig is a bond over the NICs of a bondtest.Net, with addresses on its face.
type rig struct {
	*bondtest.Net
	t *testing.T
	*path
}

// newRig has port 0 active, and both eligible.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{Net: bondtest.New(t), t: t}
	var adopted bool
	r.path, adopted = open(t)
	if adopted {
		t.Fatal("a face was adopted from nobody")
	}
	r.setPort(0)
	r.setPort(1)
	r.GiveAddresses("net0")
	for s := drivers.Side(0); s <= 1; s++ {
		r.waitCarrier(r.NIC(s), true)
	}
	r.setState(0, both)
	return r
}

// open opens a bond that is removed with the test.
func open(t *testing.T) (*path, bool) {
	t.Helper()
	p, adopted, err := Open(testSpec())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if _, err := netlink.LinkByName("net0"); err != nil {
			return // removed by the test itself
		}
		p, _, err := Open(testSpec())
		if err == nil {
			err = p.Remove()
		}
		if err != nil {
			t.Errorf("remove the bond: %v", err)
		}
	})
	return p.(*path), adopted
}

// reopen lets go of the bond as a process that dies does, and opens it again.
func (r *rig) reopen() {
	r.t.Helper()
	if err := r.Close(); err != nil {
		r.t.Fatal(err)
	}
	var adopted bool
	if r.path, adopted = open(r.t); !adopted {
		r.t.Fatal("the bond was not adopted")
	}
}

func (r *rig) port(s drivers.Side) *datapath.Port {
	return &datapath.Port{Index: r.Index(r.NIC(s)), Name: r.NIC(s), MAC: bondtest.NICMAC(s)}
}

func (r *rig) setPort(s drivers.Side) {
	r.t.Helper()
	if err := r.SetPort(s, r.port(s)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) setState(active drivers.Side, eligible [2]bool) {
	r.t.Helper()
	if err := r.SetState(datapath.State{Active: active, Eligible: eligible}, false); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) state() (datapath.State, datapath.Turn) {
	r.t.Helper()
	st, turn, err := r.State()
	if err != nil {
		r.t.Fatal(err)
	}
	return st, turn
}

func (r *rig) wantActive(s drivers.Side) {
	r.t.Helper()
	if st, _ := r.state(); st.Active != s {
		r.t.Fatalf("port %v is active, want %v", st.Active, s)
	}
}

func (r *rig) fault(s drivers.Side, f datapath.Fault) {
	r.t.Helper()
	if err := r.Fault(s, f); err != nil {
		r.t.Fatal(err)
	}
}

func attrs(t *testing.T, name string) *netlink.LinkAttrs {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs()
}

func (r *rig) waitCarrier(name string, up bool) {
	r.t.Helper()
	bondtest.WaitFor(r.t, "the carrier of "+name, 5*time.Second, func() bool {
		return (attrs(r.t, name).RawFlags&unix.IFF_LOWER_UP != 0) == up
	})
}

// passes sends a frame from the face to the peer, and one back, and says which arrived.
func (r *rig) passes() (out, in bool) {
	r.t.Helper()
	face, peer := r.Raw(bondtest.Box, "net0"), r.Raw(bondtest.Peer, bondtest.PeerNIC)
	out = arrives(face, peer, bondtest.Frame(bondtest.PeerMAC(), faceMAC, 0, "out"))
	in = arrives(peer, face, bondtest.Frame(faceMAC, bondtest.PeerMAC(), 0, "in"))
	return out, in
}

// arrives sends a frame, and after it waits as long as frames here ever take.
func arrives(from, to *bondtest.Raw, frame []byte) bool {
	const most = 100 * time.Millisecond
	from.Send(frame)
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, f := range to.Waiting() {
			if bytes.Equal(f, frame) {
				return true
			}
		}
	}
	return false
}

// wantPasses takes its time when frames should pass: the switch opens a port to which the
// cable has come back when its own carrier event comes, up to a second later.
func (r *rig) wantPasses(want bool) {
	r.t.Helper()
	if want {
		bondtest.WaitFor(r.t, "frames to pass both ways", portOpens, func() bool { out, in := r.passes(); return out && in })
	} else if out, in := r.passes(); out || in {
		r.t.Errorf("a frame from the face arrives: %v, one to it: %v; want none", out, in)
	}
}

// portOpens is more than the kernel ever holds back an event of a link
// (net/core/link_watch.c: one burst a second).
const portOpens = 5 * time.Second

func (r *rig) wantProbes(s drivers.Side) {
	r.t.Helper()
	bondtest.WaitFor(r.t, "probes to pass "+r.NIC(s), portOpens, func() bool { return r.probePasses(s) })
}

// probePasses sends a frame from the NIC itself, and an answer to its own MAC.
func (r *rig) probePasses(s drivers.Side) bool {
	r.t.Helper()
	nic, peer := r.Stack(bondtest.Box, r.NIC(s)), r.Raw(bondtest.Peer, bondtest.PeerNIC)
	return arrives(nic, peer, bondtest.Frame(bondtest.PeerMAC(), bondtest.NICMAC(s), 0, "probe")) &&
		arrives(peer, nic, bondtest.Frame(bondtest.NICMAC(s), bondtest.PeerMAC(), 0, "answer"))
}

// wantLeft checks that a NIC is out of the bond and has nothing of ours.
func (r *rig) wantLeft(s drivers.Side) {
	r.t.Helper()
	name := r.NIC(s)
	a := attrs(r.t, name)
	if a.MasterIndex != 0 || !bytes.Equal(a.HardwareAddr, bondtest.NICMAC(s)) || a.MTU != 1500 || a.Flags&net.FlagUp == 0 {
		r.t.Errorf("%s: in %d, MAC %v, MTU %d, flags %v", name, a.MasterIndex, a.HardwareAddr, a.MTU, a.Flags)
	}
	qdiscs, err := netlink.QdiscList(&netlink.Device{LinkAttrs: *a})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			r.t.Errorf("%s still has clsact", name)
		}
	}
	neighs, err := netlink.NeighList(a.Index, unix.AF_BRIDGE)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, n := range neighs {
		if n.Flags&netlink.NTF_SELF != 0 && n.HardwareAddr[0]&1 == 0 {
			r.t.Errorf("%s still takes frames to %v", name, n.HardwareAddr)
		}
	}
}
