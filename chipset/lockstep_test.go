package chipset_test

import (
	"context"
	"debug/elf"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset"
	"ft/drivers"
	"ft/ftd/testbox/guest/bare"
)

// duplex is a machine on two CPU modules.
func duplex(t *testing.T, program []byte, set func(*chipset.Options)) *box {
	t.Helper()
	b := boxWith(t, program, set)
	b.bringIn(1)
	return b
}

// bringIn attaches a CPU module and waits until both are in duplex.
func (b *box) bringIn(s drivers.Side) {
	b.t.Helper()
	if err := b.Attach(context.Background(), s, drivers.Resource{}); err != nil {
		b.t.Fatal(err)
	}
	b.event("syncing → duplex")
}

// until waits for a status.
func (b *box) until(what string, is func(drivers.Status) bool) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); !is(b.Status()); {
		if time.Now().After(deadline) {
			b.t.Fatalf("not within %v: %s; %+v", patience, what, b.Status())
		}
		time.Sleep(time.Millisecond)
	}
}

func (b *box) inject(s drivers.Side, name string, args ...string) {
	b.t.Helper()
	if err := b.Inject(context.Background(), s, drivers.Fault{Name: name, Args: args}); err != nil {
		b.t.Fatal(err)
	}
}

// Each of two CPU modules fails in turn, in every way, while the guest runs on: what failed is
// named, and what was wrong with it, and it is brought in again.
func TestCPUModulesFailInTurn(t *testing.T) {
	b := duplex(t, bare.Program(), nil)
	s := b.console()
	s.shows("1 s")
	// Results are told of behind their step.
	off := map[string]uint64{"wrong-result": 1, "lose-store": 1, "double-store": 1}
	for i, c := range []struct{ fault, says string }{
		{"kill", ""},
		{"stop", ""},
		{"flip-register x2 5", "differed first at step "},
		{"flip-pc 3", "differed first at step "},
		{"flip-csr Stvec 9", "differed first at step "},
		{"flip-memory 0x80200004 7", "memory at 0x80200000 "},
		{"stuck x2 3", "differed first at step "},
		{"wrong-result add", "differed first at step "},
		{"lose-store", " at "},
		{"double-store", " at "},
		{"kill", ""},
	} {
		victim := drivers.Side(i % 2)
		words := strings.Fields(c.fault)
		b.inject(victim, words[0], words[1:]...)
		var in uint64
		if words[0] != "kill" && words[0] != "stop" {
			in, _ = b.event("the drill's fault is in").Detail["step"].(uint64)
		}
		e := b.event("→ shot")
		if e.Side != victim || !e.Injected || e.Fault == "" {
			t.Errorf("%s into cpu%d: %+v", c.fault, victim, e)
		}
		if st := b.Status(); st.Sides[victim].State != drivers.Shot || st.Sides[1-victim].State != drivers.Simplex {
			t.Errorf("%s into cpu%d: %+v", c.fault, victim, st.Sides)
		}
		// Where steps are looked at one by one a module may be late before it is wrong.
		if c.says != "" && e.Fault != "late" {
			found := b.event(c.says)
			t.Logf("%s: %s", c.fault, found.Reason)
			if step, ok := found.Detail["first_step"].(uint64); ok && step != in-off[words[0]] {
				t.Errorf("%s went in at step %d: %s", c.fault, in, found.Reason)
			}
		}
		b.inject(victim, "clear")
		b.bringIn(victim)
		s.shows(" s")
	}
}

// The priority of a copy holds at once, and is named where it makes no sense.
func TestPriorityOfTheCopy(t *testing.T) {
	b := boxWith(t, bare.Program(), nil)
	set := func(level string) error {
		_, err := b.Driver.(drivers.Commander).Command(context.Background(), "priority", map[string]string{"level": level})
		return err
	}
	b.refused(set("utmost"), drivers.RuleState, "low, normal and high")
	for _, level := range []string{"low", "high", "normal"} {
		if err := set(level); err != nil {
			t.Fatal(err)
		}
	}
	b.bringIn(1)
}

// A dump is written from one CPU module while the guest runs on, on the other.
func TestDumpWhileTheGuestRunsOn(t *testing.T) {
	b := duplex(t, bare.Program(), nil)
	s := b.console()
	s.shows("1 s")
	out := filepath.Join(t.TempDir(), "core")
	dump := func(args map[string]string) error {
		_, err := b.Driver.(drivers.Commander).Command(context.Background(), "dump", args)
		return err
	}
	b.refused(dump(map[string]string{"side": "cpu7"}), drivers.RuleState, "cpu0 and cpu1")
	b.refused(dump(map[string]string{"out": "core"}), drivers.RuleUnfit, "absolute")
	b.refused(dump(map[string]string{"out": "/nonexistent/dir/core"}), drivers.RuleUnfit, "/nonexistent/dir")
	if err := dump(map[string]string{"side": "cpu0", "out": out}); err != nil {
		t.Fatal(err)
	}
	b.refused(dump(map[string]string{"out": out + "2"}), drivers.RuleLastSide, "bring both up")
	b.event("its memory was written to " + out)
	core, err := elf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer core.Close()
	if core.Type != elf.ET_CORE || core.Machine != elf.EM_RISCV {
		t.Errorf("%v of %v", core.Type, core.Machine)
	}
	b.refused(dump(map[string]string{"out": out}), drivers.RuleLastSide, "bring both up")
	b.bringIn(0)
	b.refused(dump(map[string]string{"out": out}), drivers.RuleUnfit, "there already")
	s.shows(" s")
}

// replaced has a successor take the driver's place, with what a keeper has kept.
func (b *box) replaced() {
	b.t.Helper()
	if err := b.Stop(context.Background(), drivers.HandOver); err != nil {
		b.t.Fatal(err)
	}
	inherited := map[string][]int{}
	b.mu.Lock()
	for name, fds := range b.stored {
		for _, fd := range fds {
			mine, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				b.t.Fatal(err)
			}
			inherited[name] = append(inherited[name], mine)
		}
	}
	b.mu.Unlock()
	b.start(drivers.Adopt, inherited)
	b.event("the guest has run on")
}

// A machine that was off when its driver started is taken over like any other.
func TestSuccessorOfADriverThatStartedOff(t *testing.T) {
	b := boxWith(t, bare.Program(), nil)
	if err := b.Stop(context.Background(), drivers.Remove); err != nil {
		t.Fatal(err)
	}
	for s := range b.cfg.Sides {
		b.cfg.Sides[s].Out = true
	}
	b.unstore("journal") // as a keeper forgets a process that has ended
	b.start(drivers.Fresh, nil)
	if err := b.power("start"); err != nil {
		t.Fatal(err)
	}
	for s := range b.cfg.Sides {
		b.cfg.Sides[s].Out = false // as the core tells the next one
	}
	b.until("the guest runs", func(st drivers.Status) bool { // before, there is nothing to take over
		steps, _ := st.Stats["steps"].(uint64)
		return steps > 0
	})
	b.replaced()
}

// The chipset's process is replaced, and the guest runs on: on two modules, and on one.
func TestSuccessorTakesTheModulesOver(t *testing.T) {
	b := duplex(t, bare.Program(), nil)
	s := b.console()
	s.shows("2 s")
	for _, sides := range []int{2, 1, 1} {
		if sides == 1 && b.Status().Sides[0].State.InService() {
			b.inject(0, "kill")
			b.event("→ shot")
		}
		before, _ := b.Status().Stats["steps"].(uint64)
		b.replaced()
		b.until("it goes on where it was", func(st drivers.Status) bool {
			steps, _ := st.Stats["steps"].(uint64)
			return steps > before && st.Stats["boots"] == uint64(1)
		})
		if sides == 2 {
			b.until("it is duplex", func(st drivers.Status) bool { return st.State == drivers.FaceDuplex })
		}
		s = b.console()
	}
	s.types("who is there")
	s.shows("who is there")
	b.bringIn(0)
}

// What a machine was given while its modules failed makes the same run again, alone.
func TestRecordOfTwoModulesIsTheRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	b := duplex(t, bare.Program(), func(o *chipset.Options) { o.Record = path })
	s := b.console()
	s.shows("1 s")
	s.types("who is there")
	s.shows("who is there")
	b.inject(0, "flip-register", "x2", "5")
	b.event("→ shot")
	s.shows(" s")
	if err := b.power("stop"); err != nil {
		t.Fatal(err)
	}
	end, err := chipset.Replay(path, chipset.ReplayOptions{})
	if err != nil || !end.Whole {
		t.Fatalf("%+v, %v", end, err)
	}
}
