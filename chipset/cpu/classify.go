package cpu

import "slices"

// What instructions do, as far as faults want to know, from their 32-bit form (unprivileged
// specification, "RV32/64G Instruction Set Listings"). Whether there is such an instruction is
// the hart's to say: one that traps has no result.

const (
	classAdd      = "add" // and subtract, compare
	classLogic    = "logic"
	classShift    = "shift"
	classMultiply = "multiply"
	classDivide   = "divide" // and remainder
	classLoad     = "load"
	classBranch   = "branch"
	classFloat    = "float"
)

var classes = []string{classAdd, classLogic, classShift, classMultiply, classDivide, classLoad, classBranch, classFloat}

// Major opcodes.
const (
	opLoad    = 0x03
	opLoadFP  = 0x07
	opImm     = 0x13
	opImm32   = 0x1b
	opStore   = 0x23
	opStoreFP = 0x27
	opReg     = 0x33
	opReg32   = 0x3b
	opBranch  = 0x63
	opFloat   = 0x53
	opSystem  = 0x73
)

var opFused = []uint32{0x43, 0x47, 0x4b, 0x4f}

// integerClasses are those of integer operations by funct3.
var integerClasses = [8]string{classAdd, classShift, classAdd, classAdd, classLogic, classShift, classLogic, classLogic}

// classOf is the class of an instruction; "" if it is in none.
func classOf(insn uint32) string {
	op, f3 := insn&0x7f, insn>>12&7
	switch op {
	case opImm, opImm32:
		return integerClasses[f3]
	case opReg, opReg32:
		switch {
		case insn>>25 != 1:
			return integerClasses[f3]
		case f3 < 4:
			return classMultiply
		}
		return classDivide
	case opLoad, opLoadFP:
		return classLoad
	case opBranch:
		return classBranch
	case opFloat:
		return classFloat
	}
	if slices.Contains(opFused, op) {
		return classFloat
	}
	return ""
}

// resultOf is the register that an instruction of a class writes its result to: 1…31 x,
// 32…63 f; 0 where it has none.
func resultOf(insn uint32) int {
	rd := int(insn >> 7 & 31)
	switch op := insn & 0x7f; {
	case op == opBranch:
		return 0
	case op == opLoadFP || slices.Contains(opFused, op):
		return 32 + rd
	case op == opFloat:
		switch insn >> 27 {
		case 0x14, 0x18, 0x1c: // comparisons, to an integer, moves and FCLASS
			return rd
		}
		return 32 + rd
	}
	return rd
}

// mayWrite says whether an instruction may write register i, as resultOf numbers them; too
// often is not wrong.
func mayWrite(insn uint32, i int) bool {
	switch insn & 0x7f {
	case opStore, opStoreFP, opBranch:
		return false
	case opSystem:
		return true // the firmware's calls write where they like
	}
	return int(insn>>7&31) == i&31
}

// branchBy is the distance of a branch.
func branchBy(insn uint32) int64 {
	return int64(int32(insn)>>31<<12 | int32(insn>>7&1)<<11 | int32(insn>>25&63)<<5 | int32(insn>>8&15)<<1)
}

// stores is what a plain store does: the register that its address is in and what is added to
// it, how many bytes, of which register.
type stores struct {
	base   int
	offset int64
	size   uint64
	value  int
}

func isStore(insn uint32) bool {
	op := insn & 0x7f
	return op == opStore || op == opStoreFP
}

func storeOf(insn uint32) stores {
	s := stores{
		base: int(insn >> 15 & 31), offset: int64(int32(insn)>>25<<5 | int32(insn>>7&31)),
		size: 1 << (insn >> 12 & 3), value: int(insn >> 20 & 31),
	}
	if insn&0x7f == opStoreFP {
		s.value += 32
	}
	return s
}
