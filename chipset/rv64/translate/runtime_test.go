//go:build linux && amd64

package translate

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"ft/chipset/rv64"
	"ft/chipset/rv64/unlike"
)

const ramBase = 0x8000_0000

// loopHart has a loop of four blocks with loads, stores, a call and a branch that is not to be
// foretold.
func loopHart(t *testing.T) *rv64.Hart {
	t.Helper()
	h := rv64.New(rv64.Config{RAM: make([]byte, 1<<20), RAMBase: ramBase})
	code := []uint32{
		0x0000_1297, // auipc t0, 1
		0x0002_b303, // loop: ld t1, 0(t0)
		0x0100_00ef, // jal ra, +16
		0x0062_b023, // sd t1, 0(t0)
		0x0015_0513, // addi a0, a0, 1
		0xff1f_f06f, // j loop
		0x00d3_1393, // slli t2, t1, 13
		0x0073_4333, // xor t1, t1, t2
		0x0073_5393, // srli t2, t1, 7
		0x0073_4333, // xor t1, t1, t2
		0x0113_1393, // slli t2, t1, 17
		0x0073_4333, // xor t1, t1, t2
		0x0013_7393, // andi t2, t1, 1
		0x0003_8463, // beqz t2, +8
		0x0265_83b3, // mul t2, a1, t1
		0x0000_8067, // ret
	}
	p := []byte{}
	for _, w := range code {
		p = binary.LittleEndian.AppendUint32(p, w)
	}
	h.WriteRAM(ramBase, p)
	h.WriteRAM(ramBase+0x1000, []byte{1})
	return h
}

func attached(t *testing.T, h *rv64.Hart, o Options) *Translator {
	t.Helper()
	tr, err := Attach(h, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// Collections, samples of a profile and preemptions come while machine code runs, and change
// nothing.
func TestGoRuntime(t *testing.T) {
	const collections, piece = 5, 3_000_000
	h, reference := loopHart(t), loopHart(t)
	tr := attached(t, h, Options{})
	var profile bytes.Buffer
	if err := pprof.StartCPUProfile(&profile); err != nil {
		t.Fatal(err)
	}
	var enough atomic.Bool
	ran := make(chan uint64)
	go func() {
		steps := uint64(0)
		for !enough.Load() {
			n, _ := h.Run(piece)
			steps += n
		}
		ran <- steps
	}()
	storm := make(chan struct{})
	go func() {
		defer close(storm)
		for !enough.Load() {
			if err := syscall.Kill(syscall.Getpid(), syscall.SIGURG); err != nil {
				t.Error(err)
			}
		}
	}()
	for range collections {
		runtime.GC()
	}
	enough.Store(true)
	steps := <-ran
	<-storm
	pprof.StopCPUProfile()
	reference.Run(steps)
	if h.State() != reference.State() {
		t.Errorf("behind %d steps the state is not the interpreter's", steps)
	}
	if s := tr.Stats(); s.NativeSteps < steps/2 {
		t.Errorf("of %d steps %d were in machine code", steps, s.NativeSteps)
	}
	if profile.Len() == 0 {
		t.Error("the profile is empty")
	}
}

// A crash of machine code ends the run with the guest's pc, and the process goes on: other
// harts run, and faults in Go code are still Go's.
func TestCrash(t *testing.T) {
	for _, c := range []struct {
		rule, want string
	}{
		{crashMUL, "signal 4 in the code of the instruction 0x26583b3 at pc 0x80000038"},
		{crashXOR, "signal 11 in the code of the instruction 0x734333 at pc 0x8000001c"},
	} {
		h := loopHart(t)
		tr := attached(t, h, Options{})
		tr.e.broken = c.rule
		before := runtime.NumGoroutine()
		if _, why := h.Run(1_000_000); why != rv64.StopFault {
			t.Fatalf("%s: it stopped for %v", c.rule, why)
		}
		if err := h.Fault(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.rule, err, c.want)
		}
		if ran, why := h.Run(1); ran != 0 || why != rv64.StopFault {
			t.Errorf("%s: it ran on: %d, %v", c.rule, ran, why)
		}
		if n := runtime.NumGoroutine(); n > before {
			t.Errorf("%s: %d goroutines, were %d", c.rule, n, before)
		}
	}
	h, reference := loopHart(t), loopHart(t)
	attached(t, h, Options{})
	h.Run(1_000_000)
	reference.Run(1_000_000)
	if h.State() != reference.State() {
		t.Error("another hart's state is not the interpreter's")
	}
	defer func() {
		if recover() == nil {
			t.Error("a nil pointer was no panic")
		}
	}()
	var nothing *Translator
	nothing.stats.Blocks++
}

// A guest with more code than there is room for: all is dropped, again and again.
func TestFull(t *testing.T) {
	const blocks, steps = 6_000, 80_000
	make := func() *rv64.Hart {
		h := rv64.New(rv64.Config{RAM: make([]byte, 1<<20), RAMBase: ramBase})
		p := []byte{}
		for i := range uint32(blocks) {
			p = binary.LittleEndian.AppendUint32(p, 0x0015_0513|i%2048<<20) // addi a0, a0, i
			p = binary.LittleEndian.AppendUint32(p, 0x00a5_c5b3)            // xor a1, a1, a0
			p = binary.LittleEndian.AppendUint32(p, 0x0005_1263)            // bnez a0, +4
		}
		p = binary.LittleEndian.AppendUint32(p, 0x8000_02b7) // lui t0, 0x80000
		p = binary.LittleEndian.AppendUint32(p, 0x0202_9293) // slli t0, t0, 32
		p = binary.LittleEndian.AppendUint32(p, 0x0202_d293) // srli t0, t0, 32
		p = binary.LittleEndian.AppendUint32(p, 0x0002_8067) // jr t0
		h.WriteRAM(ramBase, p)
		return h
	}
	h, reference := make(), make()
	tr := attached(t, h, Options{CodeBytes: codeBytesLeast, Threshold: 1})
	h.Run(steps)
	reference.Run(steps)
	if h.State() != reference.State() {
		t.Error("the state is not the interpreter's")
	}
	if s := tr.Stats(); s.Flushes < 3 || s.CodeBytes > codeBytesLeast || s.NativeSteps < steps/2 {
		t.Errorf("%+v", s)
	}
}

// A rule that is wrong is found, at the instruction.
func TestBrokenRules(t *testing.T) {
	for rule, is := range map[string]func(insn uint32) bool{
		brokenADDW: func(w uint32) bool { return w&0xfe00_707f == 0x3b },
		brokenSRA:  func(w uint32) bool { return w&0xfe00_707f == 0x4000_5033 },
		brokenBLTU: func(w uint32) bool { return w&0x707f == 0x6063 },
	} {
		pairs, err := unlike.NewPairs(func(h *rv64.Hart) error {
			attached(t, h, Options{Threshold: 1, CodeBytes: 1 << 20, Cuts: true}).e.broken = rule
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var found *unlike.Difference
		for seed := uint64(1); seed < 400 && found == nil; seed++ {
			found = pairs.Run(seed)
		}
		if found == nil || !found.Exact || !is(found.Insn) {
			t.Errorf("%s: found %v", rule, found)
		}
	}
}
