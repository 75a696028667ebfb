package tcx

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
)

// Each program passes this kernel's verifier, with the carrier check and without.
func TestProgramsLoad(t *testing.T) {
	sm, err := newStateMap()
	if err != nil {
		t.Fatal(err)
	}
	defer sm.close()
	cc, err := findCarrierCheck()
	if err != nil {
		t.Fatal(err)
	}
	tags := map[uint64]bool{}
	for _, cc := range []*carrierCheck{cc, nil} {
		ps, err := loadPrograms(sm, cc)
		if err != nil {
			t.Fatalf("%+v", err)
		}
		if len(ps) != len(places) {
			t.Errorf("%d programs for %d places", len(ps), len(places))
		}
		if err := ps.close(); err != nil {
			t.Error(err)
		}
		tag, err := tagOf(cc, 0)
		if again, _ := tagOf(cc, 0); err != nil || again != tag || tag == 0 || tags[tag] {
			t.Errorf("tag %x, then %x, %v", tag, again, err)
		}
		tags[tag] = true
	}
}

// Other versions of this package find these where they are, for ever.
func TestHeaderStaysAsItIs(t *testing.T) {
	var h header
	for name, at := range map[string][2]uintptr{
		"Magic": {unsafe.Offsetof(h.Magic), 0}, "Layout": {unsafe.Offsetof(h.Layout), 8}, "Flags": {unsafe.Offsetof(h.Flags), 12},
		"Tag": {unsafe.Offsetof(h.Tag), 16}, "Word": {unsafe.Offsetof(h.Word), 24}, "Index": {unsafe.Offsetof(h.Index), 32},
		"Face": {unsafe.Offsetof(h.Face), 40}, "Grace": {unsafe.Offsetof(h.Grace), 48}, "Turn": {unsafe.Offsetof(h.Turn), 56},
		"FaceMAC": {unsafe.Offsetof(h.FaceMAC), 72}, "OwnMAC": {unsafe.Offsetof(h.OwnMAC), 80}, "end": {unsafe.Sizeof(h), 128},
	} {
		if at[0] != at[1] {
			t.Errorf("%s is at %d, not %d", name, at[0], at[1])
		}
	}
}

// What a kernel lacks is done without, and named.
func TestFallbacks(t *testing.T) {
	t.Cleanup(func() { limited = limits{} })
	for name, test := range map[string]struct {
		limits
		variant string
		missing []string
	}{
		"all there":                         {limits{}, "TCX, carrier checked in the kernel", nil},
		"no type information":               {limits{noCarrier: true}, "TCX, switched by the daemon", []string{"carrier check"}},
		"the verifier refuses the check":    {limits{refuseCarrier: true}, "TCX, switched by the daemon", []string{"carrier check"}},
		"no TCX":                            {limits{noTCX: true}, "classifiers, carrier checked in the kernel", []string{"TCX links"}},
		"neither TCX nor the carrier check": {limits{noTCX: true, noCarrier: true}, "classifiers, switched by the daemon", []string{"carrier check", "TCX links"}},
	} {
		t.Run(name, func(t *testing.T) {
			limited = test.limits
			r := newRig(t)
			d := r.Describe()
			if d.Kind != datapath.TCX || d.Variant != test.variant || len(d.Missing) != len(test.missing) {
				t.Errorf("%+v", d)
			}
			for i, m := range test.missing {
				if i < len(d.Missing) && !strings.Contains(d.Missing[i], m) {
					t.Errorf("%q does not speak of %q", d.Missing[i], m)
				}
			}
			w := r.ways()
			works := func(when string) {
				t.Helper()
				if out, in := w.out(20), w.in(20); out != 20 || in != 20 {
					t.Errorf("%s: %d of 20 frames left, %d of 20 came", when, out, in)
				}
			}
			works("at first")
			// A dark port is left in every variant: its bit is in the word.
			r.fault(0, datapath.FaultDark)
			works("with a dark port")
			if st, turn := r.now(); st.Active != 1 || turn.Count != 1 {
				t.Errorf("a dark port: %+v, %+v", st, turn)
			}
			r.fault(0, datapath.FaultNone)
			r.setState(1, both, false)
			r.PullCable(1)
			if checked := strings.HasSuffix(test.variant, "in the kernel"); !checked {
				if n := w.out(20); n != 0 || r.active() != 1 {
					t.Errorf("the carrier was not looked at, but %d frames left and port %d is active", n, r.active())
				}
				r.setState(0, both, false)
			}
			works("with a cable out")
			r.reopen()
			if r.active() != 0 {
				t.Errorf("adopted with port %d active", r.active())
			}
		})
	}
}

func TestNoBPFAtAll(t *testing.T) {
	t.Cleanup(func() { limited = limits{} })
	limited.noBPF = true
	if p, _, err := Open(testSpec()); p != nil || !errors.Is(err, datapath.ErrUnsupported) || !strings.Contains(err.Error(), "CAP_BPF") {
		t.Errorf("opened %v: %v", p, err)
	}
	nothingThere(t)
}

func nothingThere(t *testing.T) {
	t.Helper()
	if _, err := netlink.LinkByName("net0"); !errors.As(err, new(netlink.LinkNotFoundError)) {
		t.Errorf("there is a face: %v", err)
	}
	if all, err := Pins(); len(all) != 0 || err != nil {
		t.Errorf("there are pins: %v, %v", all, err)
	}
}

// otherBPFFS looks for the BPF file system in another place.
func otherBPFFS(t *testing.T, dir string) {
	before := bpffs
	t.Cleanup(func() { bpffs = before })
	bpffs = dir
}

func TestMountsTheBPFFileSystem(t *testing.T) {
	bondtest.New(t)
	dir := t.TempDir()
	otherBPFFS(t, dir)
	before := hostMounts
	t.Cleanup(func() { hostMounts = before })
	// In a mount namespace of its own, with which the mount would end.
	hostMounts = filepath.Join(t.TempDir(), "mnt")
	if err := os.Symlink("mnt:[1]", hostMounts); err != nil {
		t.Fatal(err)
	}
	if p, _, err := Open(testSpec()); p != nil || !errors.Is(err, datapath.ErrUnsupported) || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("opened %v: %v", p, err)
	}
	nothingThere(t)

	hostMounts = "/proc/self/ns/mnt"
	p, _ := open(t, testSpec())
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	var st unix.Statfs_t
	if err := unix.Statfs(bpffs, &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		t.Errorf("%s is no BPF file system: %x, %v", bpffs, st.Type, err)
	}
	if err := p.Remove(); err != nil {
		t.Error(err)
	}

	bpffs = "/proc/self/nowhere"
	if _, _, err := Open(testSpec()); !errors.Is(err, datapath.ErrUnsupported) {
		t.Errorf("opened without a place for pins: %v", err)
	}
	nothingThere(t)
}

// Two mounts, one over the other, would hide what is pinned on the first.
func TestBPFFileSystemIsMountedOnce(t *testing.T) {
	before := hostMounts
	t.Cleanup(func() { hostMounts = before })
	hostMounts = "/proc/self/ns/mnt"
	for range 20 {
		dir := t.TempDir()
		otherBPFFS(t, dir)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := mountBPFFS(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		if err := unix.Unmount(dir, 0); err != unix.EINVAL {
			t.Fatalf("it was mounted twice (%v)", err)
		}
	}
}

func TestSpecsThatCannotBe(t *testing.T) {
	for name, change := range map[string]func(*datapath.Spec){
		"a dot in the key":  func(s *datapath.Spec) { s.Key = "a.b" },
		"a way out":         func(s *datapath.Spec) { s.Key = "../a" },
		"no key":            func(s *datapath.Spec) { s.Key = "" },
		"a MAC of 8 bytes":  func(s *datapath.Spec) { s.MAC = make(net.HardwareAddr, 8) },
		"a name too long":   func(s *datapath.Spec) { s.Face = strings.Repeat("x", 16) },
		"somebody's device": func(s *datapath.Spec) { s.Face = "lo" },
	} {
		spec := testSpec()
		change(&spec)
		if p, _, err := Open(spec); err == nil {
			t.Errorf("%s was accepted", name)
			p.Remove()
		}
		nothingThere(t)
	}
}

// What the machine's namespaces left behind when they ended is not taken for ours.
func TestStalePins(t *testing.T) {
	r := newRig(t)
	for name, spoil := range map[string]func(r *rig){
		"the face is gone":       func(r *rig) { r.run("ip", "link", "del", "net0") },
		"the face is another":    func(r *rig) { r.state.Face++ },
		"a program is gone":      func(r *rig) { dropLink(r.spec.Key, faceOut) },
		"the state is no longer": func(r *rig) { os.Remove(pinPath(r.spec.Key, statePin)) },
		"the state is not a map": func(r *rig) { p := pinPath(r.spec.Key, statePin); os.Remove(p); r.programs[faceOut.name].Pin(p) },
		"the state is not ours":  func(r *rig) { r.state.Magic++ },
		"a link is no link":      func(r *rig) { p := pinPath(r.spec.Key, faceOut.name); os.Remove(p); r.programs[faceOut.name].Pin(p) },
	} {
		t.Run(name, func(t *testing.T) {
			spoil(r)
			r.Close()
			var adopted bool
			if r.path, adopted = open(r.t, r.spec); adopted {
				t.Fatal("a path that is broken was adopted")
			}
			if st, turn := r.now(); st.Active != datapath.None || st.Eligible != [2]bool{} || turn.Count != 0 {
				t.Errorf("made anew: %+v, %+v", st, turn)
			}
			r.setPort(0)
			r.setPort(1)
			r.setState(0, both, false)
			r.run("ip", "link", "set", "net0", "up")
			face, peer := r.wire(bondtest.Box, "net0"), r.wire(bondtest.Peer, bondtest.PeerNIC)
			face.send(frame(broadcast, faceMAC, "out"))
			peer.send(frame(faceMAC, bondtest.PeerMAC(), "in"))
			if len(peer.receive("out", 1)) != 1 || len(face.receive("in", 1)) != 1 {
				t.Error("made anew, it does not work")
			}
		})
	}
}

// A failover allocates nothing: no garbage collection is in its way.
func TestSetStateAllocatesNothing(t *testing.T) {
	r := newRig(t)
	r.fault(1, datapath.FaultDark)
	r.setState(1, both, false)
	r.wire(bondtest.Box, "net0").send(frame(broadcast, faceMAC, "turns"))
	if _, turn := r.now(); turn.Count != 1 {
		t.Fatalf("%d turns", turn.Count)
	}
	st := datapath.State{Active: 0, Eligible: both}
	n := testing.AllocsPerRun(1000, func() {
		st.Active = st.Active.Other()
		if err := r.SetState(st, st.Active == 0); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.State(); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a switch", n)
	}
}

// Orders, faults and the kernel's own turns at once: no turn is lost from the count, and
// the word never holds what nobody has put there.
func TestOrdersAndTurnsAtOnce(t *testing.T) {
	r := newRig(t)
	s := r.Stream(bondtest.ToPeer, 5000)
	s.WaitArrived(10, 5*time.Second)
	stop := make(chan struct{})
	var all sync.WaitGroup
	again := func(f func(i int) error) {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := f(i); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	again(func(i int) error {
		return r.SetState(datapath.State{Active: drivers.Side(i & 1), Eligible: both}, i&2 == 0)
	})
	again(func(i int) error { return r.Fault(drivers.Side(i&1), datapath.Fault(i>>1&1)) })
	var last uint64
	again(func(int) error {
		st, turn, err := r.State()
		switch {
		case err != nil:
			return err
		case turn.Count < last:
			return fmt.Errorf("%d turns after %d", turn.Count, last)
		case !st.Active.Valid() || !st.Eligible[st.Active]:
			return fmt.Errorf("nobody ordered %+v", st)
		case turn.Count > 0 && (turn.At.After(time.Now()) || time.Since(turn.At) > time.Minute):
			return fmt.Errorf("turned at %v", turn.At)
		}
		last = turn.Count
		return nil
	})
	s.WaitArrived(300, 10*time.Second)
	close(stop)
	all.Wait()
	if res, n := s.Stop(), r.count("kernel_turns"); n == 0 || n > uint64(res.Sent) || n < last {
		t.Errorf("%d turns under %v", n, res)
	}
}
