package oracle

import (
	"ft/chipset/rv64/oracle/asm"
)

// Floating-point items of streams.

// mode is a rounding mode; 7 is the one in frm, which is always a valid one here.
func (s *stream) mode() uint8 { return []uint8{0, 1, 2, 3, 4, 7, 7, 7}[s.rng.IntN(8)] }

func (s *stream) float() {
	a := asm.Args{Rd: s.source(), Rs1: s.source(), Rs2: s.source(), Rs3: s.source(), Rm: s.mode()}
	if s.rng.IntN(2) == 0 { // a fresh operand
		s.Op(s.pick(floatLoadOps...), asm.Args{Rd: a.Rs1, Rs1: memory, Imm: s.between(storeReach, loadReach-8, 4)})
	}
	if s.rng.IntN(4) == 0 { // so that the flags of this one show
		s.Op("csrrwi", asm.Args{Imm: csrFflags})
	}
	if s.rng.IntN(4) > 0 {
		s.op(s.pick(floatOps...), a)
		s.logF(a.Rd)
	} else {
		a.Rd = s.target()
		s.op(s.pick(floatToInt...), a)
		s.logX(a.Rd)
	}
	s.logFlags()
}

func (s *stream) floatLoadStore() {
	if s.rng.IntN(2) == 0 {
		rd := s.source()
		s.op(s.pick(floatLoadOps...), asm.Args{Rd: rd, Rs1: memory, Imm: s.between(-loadReach, loadReach-1, 1)})
		s.logF(rd)
		return
	}
	s.op(s.pick(floatStoreOps...), asm.Args{Rs2: s.source(), Rs1: memory, Imm: s.between(-storeReach, storeReach-1, 1)})
}

// floatCSR writes fcsr or a part of it. Rounding modes that are none are left to the
// privileged streams: they end in traps.
func (s *stream) floatCSR() {
	a := asm.Args{Rd: s.target(), Rs1: s.source(), Imm: csrFflags}
	switch s.rng.IntN(5) {
	case 0:
		s.op(s.pick("csrrw", "csrrs", "csrrc"), a)
	case 1:
		s.op(s.pick("csrrwi", "csrrsi", "csrrci"), a)
	case 2:
		a.Imm, a.Rs1 = csrFrm, asm.Reg(s.rng.IntN(5))
		s.op("csrrwi", a)
	case 3:
		s.Op("andi", asm.Args{Rd: scratch, Rs1: a.Rs1, Imm: 0x7f}) // modes 0 to 3
		a.Imm, a.Rs1 = csrFcsr, scratch
		s.op("csrrw", a)
	case 4:
		s.Op("andi", asm.Args{Rd: scratch, Rs1: a.Rs1, Imm: 3})
		a.Imm, a.Rs1 = csrFrm, scratch
		s.op("csrrw", a)
	}
	s.logX(a.Rd)
	s.logFlags()
}
