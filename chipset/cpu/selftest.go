package cpu

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"ft/chipset/module"
	"ft/chipset/rv64"
)

// The self-test of a CPU module: programs for every class of operations and every register,
// run on a hart of their own with the module's fault in force, if it has one that lasts; and
// patterns in its memory.
//
// What a program leaves (registers, memory, fingerprint, number of steps) is compared with a
// constant. It cannot be computed here: what computes it is what is tested. A test of this
// package has the constants from a run without faults (TestSelfTestKnows).
//
// The programs (selfprograms.go) are straight: but for that of the branches they contain none,
// so that each class fails by itself. All of them need stores and LUI. They are tried in the
// order of what they build upon, and the first one that fails is named.

const (
	testBase  = 0x1000_0000 // of the programs' RAM, in reach of LUI
	testRAM   = 512 << 10
	testPool  = testBase + 256<<10 // operands
	testOut   = testPool + 4096    // results
	testSteps = 100_000            // a program that goes on for longer is lost

	testTime = 100 * time.Millisecond // of the processor, for a program: far more than any takes
	// testTries is how often a program may take longer, and is run again: what the process does
	// beside it counts too, collecting garbage and being given memory by a busy kernel.
	testTries = 5

	memoryPages = 256 // at most, that are tried
)

// section is a program of the self-test.
type section struct {
	name  string
	write func(p *program)
	want  uint64 // digest of what it leaves
}

// test runs the self-test: "" if the module is in order, otherwise what is wrong.
func (e *Executor) test() string {
	for _, s := range sections {
		took := 2 * testTime
		for try := 0; took > testTime && try < testTries; try++ {
			begun := e.cfg.CPUTime()
			if got := e.runSection(s); got != s.want {
				return fmt.Sprintf("%s: the self-test comes to %#x, right is %#x", s.name, got, s.want)
			}
			took = e.cfg.CPUTime() - begun
		}
		if took > testTime {
			return fmt.Sprintf("%s: the self-test takes %v of processor time, %v is more than it ever does", s.name, took.Round(time.Millisecond), testTime)
		}
	}
	return testMemory(e.cfg.RAM)
}

// bench is a hart alone, for a program of the self-test.
type bench struct {
	hart   *rv64.Hart
	broken bool
}

func (b *bench) Steps() uint64    { return b.hart.Steps() }
func (b *bench) Hart() *rv64.Hart { return b.hart }

// Break makes Run return.
func (b *bench) Break() {
	b.broken = true
	b.hart.RequestStop()
}

// Run runs the hart.
func (b *bench) Run(steps uint64) (ran uint64, why module.Stop) {
	b.broken = false
	ran, stop := b.hart.Run(steps)
	switch {
	case b.broken:
		return ran, module.StopBreak
	case stop == rv64.StopWFI:
		return ran, module.StopWFI
	}
	return ran, module.StopBudget
}

// newBench is a hart with a section's program.
func newBench(s section) (b *bench, ram []byte) {
	ram = make([]byte, testRAM)
	p := &program{pool: ram[testPool-testBase:], out: testOut}
	s.write(p)
	p.emit(0x1050_0073) // wfi
	for i, w := range p.code {
		binary.LittleEndian.PutUint32(ram[4*i:], w)
	}
	b = &bench{hart: rv64.New(rv64.Config{RAM: ram, RAMBase: testBase})}
	state := b.hart.State()
	state.Mstatus = 3 << 13 // FS: floating point is on
	state.Mscratch = p.scratch
	b.hart.SetState(state)
	return b, ram
}

// runSection runs a program to its end, under the fault, and returns the digest of what it
// leaves.
func (e *Executor) runSection(s section) uint64 {
	b, ram := newBench(s)
	l := layer{machine: b, ram: ram, report: func(string) {}, cpuTime: e.cfg.CPUTime, spend: e.cfg.Spend}
	if f := e.layer.fault; f != nil && f.kind.persist {
		l.fault = &fault{name: f.name, kind: f.kind, register: f.register, bit: f.bit, high: f.high, class: f.class}
	}
	if err := e.engine.Beside(b.hart, func() { l.run(testSteps) }); err != nil {
		return 0 // no program's digest
	}
	state := b.hart.State()
	left := binary.LittleEndian.AppendUint64(nil, state.Digest())
	return DigestState(append(left, ram...))
}

// testMemory tries pages spread over memory. What they hold stays.
func testMemory(ram []byte) string {
	pages := len(ram) / pageSize
	step := max(pages/memoryPages, 1)
	var was [pageSize]byte
	var wrong []string
	for page := 0; page < pages && len(wrong) == 0; page += step {
		p := ram[page*pageSize:][:pageSize]
		copy(was[:], p)
		for _, pattern := range []uint64{0, ^uint64(0), 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa} {
			for at := 0; at < pageSize; at += 8 { // each word another one
				binary.LittleEndian.PutUint64(p[at:], pattern^uint64(page*pageSize+at))
			}
			for at := 0; at < pageSize; at += 8 {
				if got, want := binary.LittleEndian.Uint64(p[at:]), pattern^uint64(page*pageSize+at); got != want {
					wrong = append(wrong, fmt.Sprintf("memory at offset %#x: %#x was written, %#x read", page*pageSize+at, want, got))
					break
				}
			}
		}
		copy(p, was[:])
	}
	return strings.Join(wrong, "; ")
}
