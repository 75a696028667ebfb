package cpu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"ft/chipset/firmware"
	"ft/chipset/module"
	"ft/chipset/rv64"
)

// layer runs a machine with a fault, at most one.
//
// Invariants:
//   - The machine is the same as without a fault until the step that is reported: the number
//     of steps behind which the first thing differs, be it seen by the guest or not.
//   - Where runs are cut changes nothing. A run is cut at the fault's step; steps that the
//     fault looks at are run alone (rv64.Hart.SetHook), the others at full speed.
//   - What happens once happens once: going back to an epoch does not bring it again. What
//     lasts, lasts beyond it.
type layer struct {
	machine runner
	ram     []byte
	report  func(text string)
	poison  func() bool // makes translated code crash, if there is any
	cpuTime func() time.Duration
	spend   func(time.Duration)

	fault *fault // nil: none
	hit   bool   // the hart stands before a step to look at
}

// runner is what the layer needs of a machine.
type runner interface {
	Run(steps uint64) (ran uint64, why module.Stop)
	Break()
	Steps() uint64
	Hart() *rv64.Hart
}

// arm puts a fault in, in place of the present one; nil puts none.
func (l *layer) arm(f *fault) {
	if l.fault != nil && l.fault.active {
		l.machine.Hart().SetHook(nil, nil)
	}
	l.fault = f
}

// run runs up to steps steps and says why it ran no more.
func (l *layer) run(steps uint64) module.Stop {
	if l.fault == nil {
		_, stop := l.machine.Run(steps)
		return stop
	}
	begun := l.cpuTime()
	stop := l.runFaulty(steps)
	if f := l.fault; f != nil && f.active && f.name == slow {
		l.effect(fmt.Sprintf("each quantum takes %d times its processor time, and %v at least", slowTimes, slowLeast))
		l.spend(max((l.cpuTime()-begun)*(slowTimes-1), slowLeast))
	}
	return stop
}

func (l *layer) runFaulty(steps uint64) module.Stop {
	for left := steps; ; {
		part := left
		if f := l.fault; f != nil && !f.active {
			if at := l.machine.Steps(); at < f.step {
				part = min(left, f.step-at)
			} else {
				l.activate(f)
			}
		}
		l.force()
		ran, stop := l.machine.Run(part)
		left -= ran
		if l.hit {
			l.hit = false
			ran, stop = l.alone()
			left -= ran
		}
		if stop != module.StopBudget || left == 0 {
			return stop
		}
	}
}

// activate is what happens at the fault's step.
func (l *layer) activate(f *fault) {
	f.active = true
	hart := l.machine.Hart()
	var match func(insn uint32) bool
	switch f.name {
	case flipRegister:
		l.set(f.register, register(hart, f.register)^1<<f.bit, fmt.Sprintf("register %s bit %d", registerName(f.register), f.bit))
	case flipPC:
		was := hart.PC()
		hart.SetPC(was ^ 1<<f.bit)
		l.effect(fmt.Sprintf("pc bit %d: %#x -> %#x", f.bit, was, hart.PC()))
	case flipCSR:
		state := hart.State()
		w := &state.Words()[f.word]
		was := *w
		*w ^= 1 << f.bit
		hart.SetState(state)
		l.effect(fmt.Sprintf("%s bit %d: %#x -> %#x", csrName(f.word), f.bit, was, *w))
	case flipMemory:
		was := l.ram[f.off]
		hart.Corrupt(f.off, []byte{was ^ 1<<f.bit})
		l.effect(fmt.Sprintf("memory %#x bit %d: %#x -> %#x", firmware.RAMBase+f.off, f.bit, was, l.ram[f.off]))
	case stuck:
		match = func(insn uint32) bool { return mayWrite(insn, f.register) }
	case wrongResult:
		match = func(insn uint32) bool { return classOf(insn) == f.class }
	case loseStore, doubleStore:
		match = isStore
	case BadCode:
		if l.poison != nil && l.poison() {
			l.effect("the next code that is translated is none that the processor executes")
		} else {
			l.effect("nothing: the module interprets, and translates no code")
		}
	}
	if match != nil {
		hart.SetHook(match, func() {
			l.hit = true
			l.machine.Break()
		})
	}
}

// effect tells of the fault, when it first changes something.
func (l *layer) effect(text string) {
	f := l.fault
	if !f.reported {
		f.reported = true
		l.report(text)
	}
	if !f.kind.persist {
		l.arm(nil)
	}
}

// alone runs the step that the hart stands before, with what the fault makes of it.
func (l *layer) alone() (ran uint64, stop module.Stop) {
	hart := l.machine.Hart()
	pc, retired := hart.PC(), hart.Retired()
	insn, size, _ := hart.Fetch(pc) // it was found before the hook was hit
	var lost lostStore
	if f := l.fault; f.name == loseStore || f.name == doubleStore {
		lost = l.before(insn)
	}
	hart.Pass()
	ran, stop = l.machine.Run(1)
	if hart.Retired() == retired {
		return ran, stop // it trapped: it has no result
	}
	switch f := l.fault; f.name {
	case stuck:
		l.force()
	case wrongResult:
		l.wrong(pc, size, insn)
	case loseStore:
		l.lose(pc, &lost)
	case doubleStore:
		l.double(pc, &lost)
	}
	return ran, stop
}

// force gives a stuck bit its value.
func (l *layer) force() {
	f := l.fault
	if f == nil || !f.active || f.name != stuck {
		return
	}
	v := register(l.machine.Hart(), f.register) &^ (1 << f.bit)
	at := 0
	if f.high {
		v, at = v|1<<f.bit, 1
	}
	l.set(f.register, v, fmt.Sprintf("register %s bit %d stuck at %d", registerName(f.register), f.bit, at))
}

// wrong changes the result of the step at pc.
func (l *layer) wrong(pc, size uint64, insn uint32) {
	hart, f := l.machine.Hart(), l.fault
	if f.class == classBranch {
		right, other := hart.PC(), pc+uint64(branchBy(insn))
		if right == other {
			other = pc + size
		}
		if other != right {
			hart.SetPC(other)
			l.effect(fmt.Sprintf("branch at %#x: to %#x instead of %#x", pc, other, right))
		}
		return
	}
	if i := resultOf(insn); i != 0 {
		l.set(i, register(hart, i)^1<<f.bit, fmt.Sprintf("%s at %#x: %s bit %d", f.class, pc, registerName(i), f.bit))
	}
}

// lostStore is what memory holds before a store, in each of the pages that it goes to.
type lostStore struct {
	parts [2]struct {
		off uint64
		was []byte
	}
	store stores
	value uint64
}

// before looks at where a store will go. It has no parts if that is not all memory.
func (l *layer) before(insn uint32) (s lostStore) {
	hart := l.machine.Hart()
	s.store = storeOf(insn)
	s.value = register(hart, s.store.value)
	va := register(hart, s.store.base) + uint64(s.store.offset)
	first := min(s.store.size, pageSize-va%pageSize)
	off, ok := hart.StoreAt(va)
	if !ok {
		return s
	}
	s.parts[0].off, s.parts[0].was = off, bytes.Clone(l.ram[off:][:first])
	if rest := s.store.size - first; rest > 0 {
		if off, ok = hart.StoreAt(va + first); !ok {
			s.parts[0].was = nil
			return s
		}
		s.parts[1].off, s.parts[1].was = off, bytes.Clone(l.ram[off:][:rest])
	}
	return s
}

// lose takes a store back. One that changed nothing cannot be lost; the next one is.
func (l *layer) lose(pc uint64, s *lostStore) {
	changed := false
	for _, p := range s.parts {
		if !bytes.Equal(l.ram[p.off:][:len(p.was)], p.was) {
			changed = true
			l.machine.Hart().Corrupt(p.off, p.was)
		}
	}
	if changed {
		l.effect(fmt.Sprintf("store at %#x of %#x to %#x, %d bytes: lost", pc, s.value, firmware.RAMBase+s.parts[0].off, s.store.size))
	}
}

// doubleBy is how much further a doubled store goes, in bytes.
const doubleBy = 8

// double does a store again, in its page. Where that changes nothing, the next store is tried.
func (l *layer) double(pc uint64, s *lostStore) {
	p := &s.parts[0]
	at := p.off + doubleBy
	if uint64(len(p.was)) < s.store.size || at%pageSize < doubleBy || at%pageSize+s.store.size > pageSize {
		return
	}
	v := binary.LittleEndian.AppendUint64(nil, s.value)[:s.store.size]
	if bytes.Equal(l.ram[at:][:len(v)], v) {
		return
	}
	l.machine.Hart().Corrupt(at, v) // the store has made the page a written one
	l.effect(fmt.Sprintf("store at %#x of %#x to %#x, %d bytes: done again at %#x", pc, s.value, firmware.RAMBase+p.off, s.store.size, firmware.RAMBase+at))
}

// set writes a register, and tells what if that changes it.
func (l *layer) set(i int, v uint64, what string) {
	hart := l.machine.Hart()
	was := register(hart, i)
	if was == v {
		return
	}
	if i < 32 {
		hart.SetReg(i, v)
	} else {
		hart.SetFReg(i, v)
	}
	l.effect(fmt.Sprintf("%s: %#x -> %#x", what, was, v))
}

// register reads a register: 0…31 x, 32…63 f.
func register(hart *rv64.Hart, i int) uint64 {
	if i < 32 {
		return hart.Reg(i)
	}
	return hart.FReg(i)
}

func registerName(i int) string {
	if i < 32 {
		return fmt.Sprintf("x%d", i)
	}
	return fmt.Sprintf("f%d", i-32)
}
