package cpu

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"ft/chipset/lockstep"
)

// TestSelfTestKnows: the constants are what a module without faults comes to.
func TestSelfTestKnows(t *testing.T) {
	e := newExecutor(t, nil)
	for i, s := range sections {
		if got := e.runSection(s); got != s.want {
			t.Errorf("section %d, %s: want: %#x", i, s.name, got)
		}
	}
	copy(e.cfg.RAM[5*pageSize:], "what memory holds stays")
	before := DigestState(e.cfg.RAM)
	if r := e.do(lockstep.Command{Verb: lockstep.Test}); len(r) != 1 || r[0].Kind != lockstep.Tested || len(r[0].Data) > 0 {
		t.Errorf("%+v: %s", r, r[0].Data)
	}
	if DigestState(e.cfg.RAM) != before {
		t.Error("the test of memory changed it")
	}
}

// TestSelfTestFindsFaults: every fault that lasts.
func TestSelfTestFindsFaults(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	faults := map[string]lockstep.Injection{}
	for reg := 1; reg < 64; reg++ {
		bit := r.IntN(64)
		faults[fmt.Sprintf("stuck %s bit %d", registerName(reg), bit)] = lockstep.Injection{Name: stuck, Register: &reg, Bit: &bit, Seed: uint64(reg)}
	}
	for _, class := range classes {
		for _, bit := range []int{0, 31, 32, 63, r.IntN(64)} {
			faults["wrong "+class+fmt.Sprint(bit)] = lockstep.Injection{Name: wrongResult, Class: class, Bit: &bit}
		}
	}
	e := newExecutor(t, nil)
	for name, inj := range faults {
		if err := e.Arm(inj); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := e.test()
		switch {
		case got == "":
			t.Errorf("%s: not found", name)
		case inj.Name == wrongResult && !strings.Contains(got, "class "+inj.Class+":"):
			t.Errorf("%s: %s", name, got)
		case inj.Name == stuck && *inj.Register < 32 && !strings.HasPrefix(got, "registers x"):
			t.Errorf("%s: %s", name, got)
		}
	}
	used := time.Duration(0)
	e.cfg.CPUTime, e.cfg.Spend = func() time.Duration { return used }, func(d time.Duration) { used += d }
	if err := e.Arm(lockstep.Injection{Name: slow}); err != nil {
		t.Fatal(err)
	}
	if got := e.test(); !strings.Contains(got, "of processor time") {
		t.Errorf("slow: %q", got)
	}
	e.layer.arm(nil)
	if got := e.test(); got != "" {
		t.Errorf("the fault is gone, and: %s", got)
	}
}

// TestSelfTestRunsToItsEnd: no program of it is lost, and none traps but where it is meant to.
func TestSelfTestRunsToItsEnd(t *testing.T) {
	traps := map[string]uint64{"traps and translation": 10}
	for _, s := range sections {
		b, _ := newBench(s)
		b.Run(testSteps)
		if hart := b.hart; hart.State().Waiting != 1 || hart.Steps()-hart.Retired() != traps[s.name] || hart.Steps() > testSteps/2 {
			t.Errorf("%s: at step %d, pc %#x, %d trapped", s.name, hart.Steps(), hart.PC(), hart.Steps()-hart.Retired())
		}
	}
}
