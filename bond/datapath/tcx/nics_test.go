package tcx

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
)

// programsOn counts what is attached to an interface, in either way.
func programsOn(t *testing.T, name string) (n int) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		on, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: at})
		if err != nil {
			t.Fatal(err)
		}
		n += len(on.Programs)
	}
	qdiscs, err := netlink.QdiscList(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qdiscs {
		if q.Type() != "clsact" {
			continue
		}
		n++
		for _, at := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			filters, err := netlink.FilterList(l, at)
			if err != nil {
				t.Fatal(err)
			}
			n += len(filters)
		}
	}
	return n
}

func (r *rig) run(name string, args ...string) {
	r.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		r.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func TestRemovalLeavesNothing(t *testing.T) {
	t.Cleanup(func() { limited = limits{} })
	for _, limited = range []limits{{}, {noTCX: true}} {
		t.Run(fmt.Sprintf("%+v", limited), func(t *testing.T) {
			r := newRig(t)
			if programsOn(t, "eth0") < 2 || programsOn(t, "eth1") < 2 || programsOn(t, "net0") < 1 {
				t.Error("no programs are attached")
			}
			if all, err := Pins(); err != nil || len(all) != 1 || all[0] != r.spec.Key {
				t.Errorf("pins: %v, %v", all, err)
			}
			if err := r.SetPort(1, nil); err != nil {
				t.Fatal(err)
			}
			if n := programsOn(t, "eth1"); n != 0 {
				t.Errorf("%d things are left on the NIC that was forgotten", n)
			}
			r.setPort(1)
			if err := r.Remove(); err != nil {
				t.Fatal(err)
			}
			for s := drivers.Side(0); s <= 1; s++ {
				if n := programsOn(t, r.NIC(s)); n != 0 {
					t.Errorf("%d things are left on %s", n, r.NIC(s))
				}
			}
			if _, err := os.Stat(bpffs + "/ft"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("pins are left: %v", err)
			}
			links, err := netlink.LinkList()
			if err != nil || len(links) != 3 { // lo, eth0, eth1
				t.Errorf("interfaces are left: %d, %v", len(links), err)
			}
			for name, call := range map[string]func() error{
				"SetState": func() error { return r.SetState(datapath.State{Active: 0}, false) },
				"State":    func() error { _, _, err := r.State(); return err },
				"SetPort":  func() error { return r.SetPort(0, r.port(0)) },
				"Fault":    func() error { return r.Fault(0, datapath.FaultDark) },
				"Remove":   r.Remove,
			} {
				if err := call(); !errors.Is(err, errClosed) {
					t.Errorf("%s of a path that was removed: %v", name, err)
				}
			}
			if err := r.Close(); err != nil {
				t.Errorf("Close of a path that was removed: %v", err)
			}
		})
	}
}

// A crash leaves pins; a cleaning command needs no path to take them away.
func TestUnpin(t *testing.T) {
	t.Cleanup(func() { limited = limits{} })
	for _, limited = range []limits{{}, {noTCX: true}} {
		r := newRig(t)
		r.Close()
		if err := Unpin(r.spec.Key); err != nil {
			t.Fatal(err)
		}
		if err := Unpin(r.spec.Key); err != nil {
			t.Errorf("a second time: %v", err)
		}
		for _, name := range []string{"eth0", "eth1", "net0"} {
			if n := programsOn(t, name); n > 0 && !(name == "net0" && n == 1) { // the face's own clsact goes with it
				t.Errorf("%d things are left on %s", n, name)
			}
		}
		// The face is still there: the next process makes its path anew.
		p, adopted := open(t, r.spec)
		if st, _, err := p.State(); adopted || err != nil || st.Active != datapath.None {
			t.Errorf("adopted %v: %+v, %v", adopted, st, err)
		}
		if err := p.Remove(); err != nil {
			t.Fatal(err)
		}
		for s := drivers.Side(0); s <= 1; s++ {
			r.DeleteNIC(s)
		}
	}
	if err := Unpin("../x"); err == nil {
		t.Error("a key with a path in it was accepted")
	}
}

func TestNICComesBackUnderAnotherIndex(t *testing.T) {
	r := newRig(t)
	s := r.Stream(bondtest.ToPeer, 5000)
	s.WaitArrived(100, 5*time.Second)
	r.DeleteNIC(0) // and nobody acts
	s.WaitArrived(100, 5*time.Second)
	res := s.Stop()
	t.Logf("NIC deleted, nobody acting: %v", res)
	if st, turn := r.now(); res.Lost > 5 || st.Active != 1 || turn.Count != 1 {
		t.Errorf("a NIC deleted under a stream of 5 kHz: %v; %+v, %+v", res, st, turn)
	}
	r.MakeNIC(0)
	r.setPort(0)
	if st, _ := r.now(); st.Active != 1 || st.Eligible != [2]bool{false, true} {
		t.Errorf("after the return: %+v", st)
	}
	r.setState(0, both, false)
	s = r.Stream(bondtest.ToPeer, 5000)
	s.WaitArrived(100, 5*time.Second)
	s.Stop()
}

// A NIC that moves to another network namespace takes its programs along. It is forgotten
// there, or found again when it comes back.
func TestNICMovesAwayAndBack(t *testing.T) {
	r := newRig(t)
	elsewhere := r.SwitchCommand("sleep", "60")
	if err := elsewhere.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = elsewhere.Process.Kill(); _ = elsewhere.Wait() }()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	bondtest.WaitFor(t, "the command is in the switch", 5*time.Second, func() bool {
		here, err1 := os.Readlink("/proc/thread-self/ns/net")
		there, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", elsewhere.Process.Pid))
		return err1 == nil && err2 == nil && here != there
	})
	port := r.port(1)
	away := func() { r.run("ip", "link", "set", "eth1", "netns", fmt.Sprint(elsewhere.Process.Pid)) }
	back := func() {
		here := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), own.Fd())
		if out, err := r.SwitchCommand("ip", "link", "set", "eth1", "netns", here).CombinedOutput(); err != nil {
			t.Fatalf("move the NIC back: %v: %s", err, out)
		}
		r.run("ip", "link", "set", "eth1", "up")
	}
	works := func() {
		t.Helper()
		r.setPort(1)
		r.setState(1, both, false)
		s := r.Stream(bondtest.ToPeer, 5000)
		s.WaitArrived(100, 5*time.Second)
		s.Stop()
	}
	// The kernel turns away from a NIC that is not in this namespace any more.
	works()
	s := r.Stream(bondtest.ToPeer, 5000)
	s.WaitArrived(100, 5*time.Second)
	away()
	s.WaitArrived(100, 5*time.Second)
	res := s.Stop()
	if t.Logf("NIC moved away, nobody acting: %v", res); res.Lost > 5 || r.active() != 0 {
		t.Errorf("port %d active, %v", r.active(), res)
	}

	// It is told to forget it, and does so over there.
	if err := r.SetPort(1, port); err == nil {
		t.Error("a NIC that is elsewhere was accepted")
	}
	if err := r.SetPort(1, nil); err != nil {
		t.Error(err)
	}
	back()
	if n := programsOn(t, "eth1"); n != 0 {
		t.Errorf("%d programs have come back", n)
	}
	works()

	// Nobody is there: what is adopted then does not have that port.
	r.Close()
	away()
	r.reopen()
	// (A packet may have made the kernel turn to the other one before.)
	if st, _ := r.now(); st.Active == 1 || st.Eligible != [2]bool{true, false} || r.indexOf(nicIn[1]) != 0 {
		t.Errorf("adopted: %+v", st)
	}
	back()
	if n := programsOn(t, "eth1"); n != 0 {
		t.Errorf("%d programs have come back", n)
	}
}

func TestPortsThatCannotBe(t *testing.T) {
	r := newRig(t)
	face := &datapath.Port{Index: r.Face(), Name: "net0", MAC: faceMAC}
	gone := &datapath.Port{Index: 99999, Name: "gone", MAC: bondtest.NICMAC(0)}
	for name, err := range map[string]error{
		"the face":            r.SetPort(0, face),
		"the other port":      r.SetPort(0, r.port(1)),
		"side 2":              r.SetPort(2, r.port(0)),
		"no MAC":              r.SetPort(0, &datapath.Port{Index: r.Index("eth0"), Name: "eth0"}),
		"state of side 2":     r.SetState(datapath.State{Active: 2}, false),
		"an unknown fault":    r.Fault(0, 77),
		"the fault of side 2": r.Fault(2, datapath.FaultDark),
	} {
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if st, _ := r.now(); st.Active != 0 || st.Eligible != both {
		t.Errorf("refusals changed the state: %+v", st)
	}
	if err := r.SetPort(0, gone); err == nil {
		t.Error("an interface that is not there was accepted")
	}
	if st, _ := r.now(); st.Active != datapath.None || st.Eligible != [2]bool{false, true} || programsOn(t, "eth0") != 0 {
		t.Errorf("the port that could not be put: %+v, %d programs on the one before", st, programsOn(t, "eth0"))
	}
	if err := r.SetState(datapath.State{Active: 0}, false); err == nil {
		t.Error("a port without a NIC was made active")
	}
}

// count counts packets and passes them on, as another tool's program does.
func foreignProgram(t *testing.T) (*ebpf.Program, func() uint64) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapValue(asm.R1, m.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, verdictNext),
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(); p.Close() })
	return p, func() (n uint64) {
		if err := m.Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// Other people's programs see what they would see without us, whether they were there
// first or not, and stay when we go.
func TestForeignPrograms(t *testing.T) {
	r := newRig(t)
	var counts []func() uint64
	for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		p, count := foreignProgram(t)
		l, err := link.AttachTCX(link.TCXOptions{Interface: r.Index("eth0"), Program: p, Attach: at})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		counts = append(counts, count)
	}
	if err := r.SetPort(0, nil); err != nil { // and now ours come second
		t.Fatal(err)
	}
	r.setPort(0)
	r.setState(0, both, false)
	s, back := r.Stream(bondtest.ToPeer, 5000), r.Stream(bondtest.FromPeer, 5000)
	s.WaitArrived(200, 5*time.Second)
	back.WaitArrived(200, 5*time.Second)
	r.fault(0, datapath.FaultDark)
	s.WaitArrived(200, 5*time.Second)
	out, in := counts[1](), counts[0]()
	s.WaitArrived(200, 5*time.Second)
	if out < 200 || in < 200 {
		t.Errorf("foreign programs saw %d packets out and %d in", out, in)
	}
	if late := counts[1]() - out; late > 5 {
		t.Errorf("%d packets were shown as leaving by a dark port", late)
	}
	s.Stop()
	back.Stop()
	if err := r.Remove(); err != nil {
		t.Fatal(err)
	}
	if n := programsOn(t, "eth0"); n != 2 {
		t.Errorf("%d of 2 foreign programs are left", n)
	}
}

// Another's classifiers and its clsact qdisc stay too.
func TestForeignClassifiers(t *testing.T) {
	t.Cleanup(func() { limited = limits{} })
	limited.noTCX = true
	n := bondtest.New(t)
	r := &rig{Net: n, t: t}
	r.run("tc", "qdisc", "add", "dev", "eth0", "clsact")
	r.path, _ = open(t, testSpec())
	r.setPort(0)
	r.setPort(1)
	r.run("tc", "filter", "add", "dev", "eth1", "ingress", "prio", "7", "protocol", "all", "u32", "match", "u32", "0", "0", "classid", "1:1")
	if err := r.Remove(); err != nil {
		t.Fatal(err)
	}
	if on := programsOn(t, "eth0"); on != 1 {
		t.Errorf("eth0 has %d things, not its own qdisc", on)
	}
	if on := programsOn(t, "eth1"); on < 2 {
		t.Errorf("eth1 has %d things, not our qdisc with the foreign filter", on)
	}
}

func TestTwoFaces(t *testing.T) {
	r := newRig(t)
	spec := datapath.Spec{Key: "test-net1", Face: "net1", MAC: net.HardwareAddr{0x02, 0, 0x5e, 0, 0x53, 0xf1}, MTU: 1500}
	for i := 2; i <= 3; i++ {
		r.run("ip", "link", "add", fmt.Sprintf("eth%d", i), "type", "veth", "peer", "name", fmt.Sprintf("far%d", i))
		r.run("ip", "link", "set", fmt.Sprintf("eth%d", i), "up")
		r.run("ip", "link", "set", fmt.Sprintf("far%d", i), "up")
		t.Cleanup(func() { r.run("ip", "link", "del", fmt.Sprintf("eth%d", i)) })
	}
	second, adopted := open(t, spec)
	if adopted {
		t.Error("the second face was adopted")
	}
	for s := drivers.Side(0); s <= 1; s++ {
		name := fmt.Sprintf("eth%d", s+2)
		if err := second.SetPort(s, &datapath.Port{Index: r.Index(name), Name: name, MAC: bondtest.NICMAC(s)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := second.SetState(datapath.State{Active: 0, Eligible: both}, false); err != nil {
		t.Fatal(err)
	}
	if err := second.SetCarrier(true); err != nil {
		t.Fatal(err)
	}
	r.run("ip", "link", "set", "net1", "up")
	if all, err := Pins(); err != nil || len(all) != 2 {
		t.Errorf("pins: %v, %v", all, err)
	}
	s := r.Stream(bondtest.ToPeer, 5000)
	s.WaitArrived(100, 5*time.Second)
	far, face := r.wire(bondtest.Box, "far2"), r.wire(bondtest.Box, "net1")
	for i := 0; i < 20; i++ {
		face.send(frame(broadcast, spec.MAC, "by the second face"))
	}
	if n := len(far.receive("by the second face", 21)); n != 20 {
		t.Errorf("%d of 20 frames left by the second face", n)
	}
	if err := second.Fault(0, datapath.FaultDark); err != nil {
		t.Fatal(err)
	}
	face.send(frame(broadcast, spec.MAC, "turned"))
	if st, turn, err := second.State(); err != nil || st.Active != 1 || turn.Count != 1 {
		t.Errorf("the second face: %+v, %+v, %v", st, turn, err)
	}
	if st, turn := r.now(); st.Active != 0 || turn.Count != 0 {
		t.Errorf("the first face was turned too: %+v, %+v", st, turn)
	}
	if err := second.Remove(); err != nil {
		t.Fatal(err)
	}
	s.WaitArrived(100, 5*time.Second)
	if res := s.Stop(); res.Lost != 0 {
		t.Errorf("the first face: %v", res)
	}
}
