package tc

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
	"ft/drivers/kerneltest"
)

// anotherProcess is set in the environment of a process that a test has started.
const anotherProcess = "FT_TC_TEST_TASK"

func beAnotherProcess(task string) {
	p, adopted, err := Open(spec())
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	switch task {
	case "look":
		st, _, err := p.State()
		fmt.Println(adopted, st, err, p.Close())
	case "switch and die":
		if err := p.SetState(both(1), true); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	os.Exit(0)
}

func (b *bench) process(task string) (string, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), anotherProcess+"="+task)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// reopen closes the path and opens it again, as a successor does.
func (b *bench) reopen() {
	b.t.Helper()
	b.must(b.p.Close())
	p, adopted, err := Open(spec())
	b.must(err)
	if !adopted {
		b.t.Error("a face that is there was not adopted")
	}
	b.p = p.(*path)
}

func TestSuccessorKnowsTheState(t *testing.T) {
	b := newBench(t)
	for _, want := range []datapath.State{
		{Active: 0, Eligible: [2]bool{true, true}},
		{Active: 1, Eligible: [2]bool{false, true}},
		{Active: 0, Eligible: [2]bool{true, false}},
		{Active: 1},
		{Active: datapath.None},
	} {
		b.must(b.p.SetState(want, false))
		if got, err := b.process("look"); err != nil || got != fmt.Sprintf("true %v <nil> <nil>", want) {
			t.Errorf("another process sees %q (%v), not %v", got, err, want)
		}
		before := b.everything()
		b.reopen()
		if got, _, err := b.p.State(); err != nil || got != want {
			t.Errorf("a successor sees %v (%v), not %v", got, err, want)
		}
		b.port(0)
		b.port(1)
		b.must(b.p.SetState(want, false))
		// A filter in classic BPF against own frames is made anew: see dropFrom.
		if after := b.everything(); renewed.ReplaceAllString(after, "$1") != renewed.ReplaceAllString(before, "$1") {
			t.Errorf("adoption has changed the filters from\n%s\nto\n%s", before, after)
		}
	}
}

var renewed = regexp.MustCompile(fmt.Sprintf(`Handle: 0:\d+(, Parent: ffff:fff2, Priority: %d,)`, prioOwn))

// everything is all filters of the path, in words.
func (b *bench) everything() string {
	b.t.Helper()
	var text strings.Builder
	for _, name := range []string{"net0", b.NIC(0), b.NIC(1)} {
		for _, h := range []hook{ingress, egress} {
			list, err := b.p.k.filters(b.Index(name), h)
			b.must(err)
			for _, f := range list {
				fmt.Fprintf(&text, "%s %v %v %s", name, h, *f.Attrs(), f.Type())
				if u, ok := f.(*netlink.U32); ok {
					fmt.Fprintf(&text, " class %x to %d, action", u.ClassId, target(u))
					for _, a := range u.Actions {
						fmt.Fprintf(&text, " %d", a.Attrs().Index) // the kernel's: another one for another instance
					}
				}
				fmt.Fprintln(&text)
			}
		}
	}
	return text.String()
}

func TestSuccessorEndsAPlannedSwitch(t *testing.T) {
	b := newBench(t)
	b.must(b.p.Close())
	if out, err := b.process("switch and die"); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the process did not die as it should: %v %s", err, out)
	}
	// It cannot have had the time to close the old port.
	k := b.kernel()
	nodes, _, err := k.nodes(b.Index(b.NIC(0)), ingress)
	b.must(err)
	if nodes[nodeLate] == nil {
		t.Error("there is nothing to end")
	}
	b.reopen()
	b.state(b.p, 1)
	b.openPorts(1)
}

// Nobody is there to end it any more.
func TestCloseEndsAPlannedSwitch(t *testing.T) {
	b := newBench(t)
	b.activate(1, true)
	b.must(b.p.Close())
	nodes, _, err := b.kernel().nodes(b.Index(b.NIC(0)), ingress)
	b.must(err)
	if nodes[nodeLate] != nil || nodes[nodeIn] != nil {
		t.Errorf("the port that was active is still open: %v", nodes)
	}
	b.reopen()
	b.state(b.p, 1)
}

func (b *bench) kernel() kernel {
	b.t.Helper()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	b.must(err)
	b.t.Cleanup(h.Close)
	return kernel{h}
}

// openPorts checks which ports' ways in are open, and that none is half open.
func (b *bench) openPorts(want ...drivers.Side) {
	b.t.Helper()
	var got []drivers.Side
	for s := drivers.Side(0); s <= 1; s++ {
		nodes, _, err := b.p.k.nodes(b.Index(b.NIC(s)), ingress)
		b.must(err)
		if nodes[nodeIn] != nil {
			got = append(got, s)
		}
		if nodes[nodeLate] != nil {
			b.t.Errorf("port %d is half open", s)
		}
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("open ports: %v, not %v", got, want)
	}
}

// A process can be killed between any two steps. Each of these is one.
func TestSuccessorMendsWhatIsHalfDone(t *testing.T) {
	for name, c := range map[string]struct {
		half   func(b *bench)
		active drivers.Side
		open   []drivers.Side
	}{
		"both ways closed, out by 0": {func(b *bench) { b.must(b.p.closeIn(0, false)) }, 0, []drivers.Side{0}},
		"both ways closed, out by 1": {func(b *bench) { b.must(b.p.closeIn(0, false)); b.must(b.p.turnOut(both(1))) }, 1, []drivers.Side{1}},
		"no way out, in by 0":        {func(b *bench) { b.must(b.p.turnOut(datapath.State{Active: datapath.None})) }, datapath.None, nil},
		"the active port's mark gone": {func(b *bench) {
			b.must(b.p.k.removePriority(b.Index(b.NIC(0)), ingress, prioWays))
		}, datapath.None, nil},
		"the face's filters gone": {func(b *bench) { b.must(b.p.k.QdiscDel(clsact(b.p.Face()))) }, datapath.None, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c.half(b)
			b.reopen()
			b.state(b.p, c.active)
			b.openPorts(c.open...)
			// And it works again.
			b.port(0)
			b.port(1)
			b.activate(1, false)
			b.openPorts(1)
			s := b.Stream(bondtest.ToPeer, 1000)
			s.WaitArrived(20, patience)
			if r := s.Stop(); r.Duplicated != 0 {
				t.Errorf("%v", r)
			}
		})
	}
}

// A NIC whose filters are half there, because its maker was killed, is done again.
func TestHalfPreparedNIC(t *testing.T) {
	b := newBench(t)
	index := b.Index(b.NIC(1))
	b.must(b.p.SetPort(1, nil))
	b.must(b.p.k.addClsact(index))
	b.must(b.p.k.drop(b.p.dropper, index, ingress, prioDrop, nil))
	b.must(b.p.k.drop(b.p.dropper, index, ingress, prioOwn, net.HardwareAddr{2, 2, 2, 2, 2, 2}))
	b.reopen()
	b.port(1)
	b.activate(1, false)
	list, err := b.p.k.filters(index, ingress)
	b.must(err)
	if len(list) != 4 { // own, nodeNIC, nodeIn, drop
		t.Errorf("%d filters, of which some are the dead process's: %v", len(list), list)
	}
	s := b.Stream(bondtest.FromPeer, 1000)
	s.WaitArrived(20, patience)
}

func TestActiveNICGoneBetweenProcesses(t *testing.T) {
	b := newBench(t)
	b.must(b.p.Close())
	b.DeleteNIC(0)
	b.reopen()
	b.state(b.p, datapath.None)
	b.must(b.p.SetState(datapath.State{Active: 1}, false))
	b.MakeNIC(0)
	b.port(0)
	b.activate(0, false)
}

func TestAdoptedFaultCanBeEnded(t *testing.T) {
	b := newBench(t)
	b.must(b.p.Fault(0, datapath.FaultDark))
	b.reopen()
	b.must(b.p.Fault(0, datapath.FaultNone))
	s := b.Stream(bondtest.ToPeer, 1000)
	s.WaitArrived(20, patience)
}

func TestRemoveLeavesNothing(t *testing.T) {
	b := newBench(t)
	b.must(b.p.Fault(1, datapath.FaultSilent))
	b.reopen() // also by a successor that has not been told of any port
	b.must(b.p.Remove())
	for s := drivers.Side(0); s <= 1; s++ {
		noFilters(t, b.NIC(s))
	}
	if _, err := netlink.LinkByName("net0"); err == nil {
		t.Error("the face is still there")
	}
	if err := b.p.SetState(both(0), false); err != errClosed {
		t.Errorf("a removed path took a state: %v", err)
	}
}

// Somebody else's filters on a NIC stay, in use and after us.
func TestForeignFiltersStay(t *testing.T) {
	b := newBench(t)
	index := b.Index(b.NIC(1))
	b.must(b.p.SetPort(1, nil))
	noFilters(t, b.NIC(1))
	b.must(b.p.k.addClsact(index))
	foreign := u32(index, egress, 7, 0, unicastKeys())
	b.must(b.p.k.FilterAdd(foreign))
	b.port(1)
	b.activate(1, false)
	b.must(b.p.Fault(1, datapath.FaultSilent))
	b.must(b.p.Fault(1, datapath.FaultNone))
	b.must(b.p.SetPort(1, nil))
	in, err := b.p.k.filters(index, ingress)
	b.must(err)
	out, err := b.p.k.filters(index, egress)
	b.must(err)
	if len(in) != 0 || len(out) != 1 || out[0].Attrs().Priority != 7 {
		t.Errorf("filters afterwards: ingress %v, egress %v", in, out)
	}
}

func TestForeignQdiscIsRefused(t *testing.T) {
	b := newBench(t)
	b.must(b.p.SetPort(1, nil))
	l, err := netlink.LinkByName(b.NIC(1))
	b.must(err)
	q := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	b.must(b.p.k.QdiscAdd(q))
	err = b.p.SetPort(1, &datapath.Port{Index: l.Attrs().Index, Name: b.NIC(1), MAC: bondtest.NICMAC(1)})
	if err == nil || !strings.Contains(err.Error(), "clsact") {
		t.Errorf("a NIC with another's ingress qdisc was taken: %v", err)
	}
	qdiscs, err := b.p.k.QdiscList(l)
	b.must(err)
	if !slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "ingress" }) {
		t.Error("another's qdisc is gone")
	}
}

func TestForeignInterfaceIsRefused(t *testing.T) {
	bondtest.New(t)
	la := netlink.NewLinkAttrs()
	la.Name = "net0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: la}); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName("net0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netlink.LinkDel(l); err != nil {
			t.Error(err)
		}
	}()
	if p, _, err := Open(spec()); err == nil || !strings.Contains(err.Error(), "not a face of ours") {
		t.Errorf("a foreign interface was taken: %v %v", p, err)
	}
	noFilters(t, "net0")
}

// Each way to drop that this kernel has drops what it should, and nothing else.
func TestDroppers(t *testing.T) {
	works := 0
	for _, d := range []dropper{byGact, byClassicBPF} {
		t.Run(d.String(), func(t *testing.T) {
			n := bondtest.New(t)
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			k, index := kernel{h}, n.Index(n.NIC(0))
			if err := k.addClsact(index); err != nil {
				t.Fatal(err)
			}
			if err := k.drop(d, index, ingress, prioOwn, faceMAC); err != nil {
				if kerneltest.InGuest() {
					t.Errorf("the guest's kernel should have it: %v", err)
				}
				t.Logf("not on this kernel: %v", err)
				return
			}
			works++
			peer, nic := n.Raw(bondtest.Peer, bondtest.PeerNIC), n.Stack(bondtest.Box, n.NIC(0))
			near := slices.Clone(faceMAC)
			near[5]++
			far := slices.Clone(faceMAC)
			far[0] ^= 4
			for vlan := uint16(0); vlan < 2; vlan++ {
				peer.Send(bondtest.Frame(bondtest.Broadcast, faceMAC, vlan, "its"))
				for _, from := range []net.HardwareAddr{near, far} {
					text := from.String()
					peer.Send(bondtest.Frame(bondtest.Broadcast, from, vlan, text))
					nic.Next("a frame from another", patience, func(f []byte) bool {
						if bondtest.Says("its")(f) {
							t.Errorf("VLAN %d: a frame from %v passed", vlan, faceMAC)
						}
						return bondtest.Says(text)(f)
					})
				}
			}
			if got, found, err := k.dropperOf(index, ingress, prioOwn); got != d || !found || err != nil {
				t.Errorf("made by %v (%v, %v), not by %v", got, found, err, d)
			}
		})
	}
	if works == 0 {
		t.Error("no way to drop works on this kernel")
	}
}
