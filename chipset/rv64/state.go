package rv64

import (
	"fmt"
	"reflect"
	"unsafe"
)

// State is all of a hart but its RAM: what a copy needs to go on in the same way, and
// what two harts in lockstep compare. It has 64-bit fields only, so that it can be sent,
// digested and searched for differences as words.
type State struct {
	X  [32]uint64
	F  [32]uint64
	PC uint64

	Steps       uint64
	Fingerprint uint64

	Priv    uint64
	Waiting uint64 // 1 in WFI
	Halted  uint64 // 1 after Halt

	ReservationAddr uint64 // physical, of LR
	ReservationSize uint64 // 0 without a reservation

	Mstatus, Mie                         uint64
	MipSoftware                          uint64 // the bits of mip that software wrote
	MipLines                             uint64 // those raised from outside
	Medeleg, Mideleg                     uint64
	Mtvec, Mscratch, Mepc, Mcause, Mtval uint64
	Stvec, Sscratch, Sepc, Scause, Stval uint64
	Satp                                 uint64
	Mcounteren, Scounteren               uint64
	Menvcfg, Senvcfg                     uint64
	Fflags, Frm                          uint64
	Pmpcfg                               [pmpCount]uint64
	Pmpaddr                              [pmpCount]uint64
	CycleOffset, InstretOffset           uint64 // what mcycle is beyond Steps, minstret beyond the retired ones
	Trapped                              uint64 // steps that did not retire
	Stimecmp, Mtimecmp                   uint64
	TimeBase, TimeSince                  uint64 // ticks, and the step at which it was that
	TimeNum, TimeDen                     uint64 // ticks a step
}

// StateWords is how many words a State has.
const StateWords = int(unsafe.Sizeof(State{}) / 8)

// Words is the state as words; writing to them writes the state.
func (s *State) Words() *[StateWords]uint64 { return (*[StateWords]uint64)(unsafe.Pointer(s)) }

// WordName names word i of a state, for reports.
func WordName(i int) string { return wordNames[i] }

// wordFields are the names of the fields that the words are of.
var wordNames, wordFields = func() (names, fields [StateWords]string) {
	i := 0
	for f := range reflect.TypeFor[State]().Fields() {
		n := 1
		if f.Type.Kind() == reflect.Array {
			n = f.Type.Len()
		}
		for j := range n {
			names[i], fields[i] = f.Name, f.Name
			if n > 1 {
				names[i] = fmt.Sprintf("%s[%d]", f.Name, j)
			}
			i++
		}
	}
	return names, fields
}()

// Digest is a hash of all words. It finds faults, not forgers.
func (s *State) Digest() uint64 {
	d := uint64(0)
	for _, w := range s.Words() {
		d = mix((d ^ w) * foldK)
	}
	return d
}

// State copies the hart's state out, between runs.
func (h *Hart) State() State {
	c := &h.csr
	s := State{
		X: [32]uint64(h.x[:32]), F: [32]uint64(h.x[regF : regF+32]), PC: h.pc,
		Steps: h.steps, Fingerprint: h.fp,
		Priv: uint64(h.priv), Waiting: truth(h.waiting), Halted: truth(h.halted),
		ReservationAddr: h.reservation.addr, ReservationSize: h.reservation.size,
		Mstatus: c.mstatus, Mie: c.mie, MipSoftware: c.mip, MipLines: c.lines,
		Medeleg: c.medeleg, Mideleg: c.mideleg,
		Mtvec: c.mtvec, Mscratch: c.mscratch, Mepc: c.mepc, Mcause: c.mcause, Mtval: c.mtval,
		Stvec: c.stvec, Sscratch: c.sscratch, Sepc: c.sepc, Scause: c.scause, Stval: c.stval,
		Satp: c.satp, Mcounteren: c.mcounteren, Scounteren: c.scounteren,
		Menvcfg: c.menvcfg, Senvcfg: c.senvcfg, Fflags: c.fflags, Frm: c.frm,
		Pmpaddr: c.pmpaddr, CycleOffset: c.cycleOffset, InstretOffset: c.instretOffset,
		Trapped: c.trapped, Stimecmp: c.stimecmp, Mtimecmp: c.mtimecmp,
		TimeBase: c.timeBase, TimeSince: c.timeSince, TimeNum: c.timeNum, TimeDen: c.timeDen,
	}
	for i, v := range c.pmpcfg {
		s.Pmpcfg[i] = uint64(v)
	}
	return s
}

// SetState puts the hart into a state that State gave, of this hart or another, between
// runs. What it knows from RAM is forgotten, so RAM may have been replaced before, by
// other ways than WriteRAM; which pages are dirty is not changed.
func (h *Hart) SetState(s State) {
	copy(h.x[:32], s.X[:])
	copy(h.x[regF:], s.F[:])
	h.x[0] = 0
	h.pc, h.steps, h.fp = s.PC, s.Steps, s.Fingerprint
	h.priv = Priv(s.Priv & 3)
	h.fault = nil
	h.waiting, h.halted, h.stop = s.Waiting != 0, s.Halted != 0, false
	h.reservation = reservation{s.ReservationAddr, s.ReservationSize}
	h.csr = csrs{
		mstatus: s.Mstatus, mie: s.Mie, mip: s.MipSoftware, lines: s.MipLines,
		medeleg: s.Medeleg, mideleg: s.Mideleg,
		mtvec: s.Mtvec, mscratch: s.Mscratch, mepc: s.Mepc, mcause: s.Mcause, mtval: s.Mtval,
		stvec: s.Stvec, sscratch: s.Sscratch, sepc: s.Sepc, scause: s.Scause, stval: s.Stval,
		satp: s.Satp, mcounteren: s.Mcounteren, scounteren: s.Scounteren,
		menvcfg: s.Menvcfg, senvcfg: s.Senvcfg, fflags: s.Fflags, frm: s.Frm,
		pmpaddr: s.Pmpaddr, cycleOffset: s.CycleOffset, instretOffset: s.InstretOffset,
		trapped: s.Trapped, stimecmp: s.Stimecmp, mtimecmp: s.Mtimecmp,
		timeBase: s.TimeBase, timeSince: s.TimeSince, timeNum: s.TimeNum, timeDen: max(s.TimeDen, 1),
	}
	for i, v := range s.Pmpcfg {
		h.csr.pmpcfg[i] = uint8(v)
	}
	h.floatChanged()
	h.pmpChanged()
	h.forget()
	h.satpChanged()
	h.updateTimer()
}

// forget drops all that was derived from RAM.
func (h *Hart) forget() {
	h.flushTranslations()
	clear(h.pages.quiet)
	clear(h.pages.flags)
	h.guardWatches()
	clear(h.pages.writer)
	h.dropAllCode()
}
