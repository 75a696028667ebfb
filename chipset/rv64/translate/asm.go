package translate

import (
	"encoding/binary"
	"math/bits"
)

// The assembler: instructions of amd64 as a table of their opcodes, in four forms. Names and
// encodings are those of the AMD64 Architecture Programmer's Manual, volumes 3 and 4.
//
// Code is put together in a buffer of its own and copied to where it runs. Whatever it refers
// to in the code region is addressed relative to the instruction pointer, so the buffer knows
// at which offset of the region it will lie.

// reg is a register, general or XMM.
type reg uint8

const (
	rax reg = iota
	rcx
	rdx
	rbx
	rsp
	rbp
	rsi
	rdi
	r8
	r9
	r10
	r11
	r12
	r13
	r14
	r15

	noReg reg = 0xff
)

// mem is an operand in memory: base + index·scale + disp, or, without a base, the place at
// the offset disp of the code region.
type mem struct {
	base, index reg
	scale       uint8 // 1, 2, 4 or 8
	disp        int32
}

func at(base reg, disp int32) mem { return mem{base: base, index: noReg, scale: 1, disp: disp} }
func atIndex(base, index reg, scale uint8, disp int32) mem {
	return mem{base, index, scale, disp}
}
func inRegion(off int32) mem { return mem{base: noReg, index: noReg, scale: 1, disp: off} }

// inst is an instruction: its mandatory prefix, its opcode map, its opcode, the digit in
// place of a register, if it has one, and whether its operands have 64 bits.
type inst struct {
	name   string
	prefix byte // 0, 0x66, 0xf2, 0xf3
	escape byte // map0, map0F, map0F38
	op     byte
	digit  uint8 // of /digit; noDigit
	wide   bool
	vex    bool
	bytes  bool // a register operand is one byte wide
}

const (
	map0 = iota
	map0F
	map0F38
	noDigit = 0xff
)

// The instructions. A name that ends in l is that with 32 bits, the others have 64.
var (
	iADD   = inst{name: "add", op: 0x03, digit: noDigit, wide: true}
	iADDL  = inst{name: "addl", op: 0x03, digit: noDigit}
	iOR    = inst{name: "or", op: 0x0b, digit: noDigit, wide: true}
	iAND   = inst{name: "and", op: 0x23, digit: noDigit, wide: true}
	iANDL  = inst{name: "andl", op: 0x23, digit: noDigit}
	iSUB   = inst{name: "sub", op: 0x2b, digit: noDigit, wide: true}
	iSUBL  = inst{name: "subl", op: 0x2b, digit: noDigit}
	iXOR   = inst{name: "xor", op: 0x33, digit: noDigit, wide: true}
	iXORTo = inst{name: "xor to", op: 0x31, digit: noDigit, wide: true}
	iXORL  = inst{name: "xorl", op: 0x33, digit: noDigit}
	iORL   = inst{name: "orl", op: 0x0b, digit: noDigit}
	iCMPL  = inst{name: "cmpl", op: 0x3b, digit: noDigit}
	iCMP   = inst{name: "cmp", op: 0x3b, digit: noDigit, wide: true}
	iTEST  = inst{name: "test", op: 0x85, digit: noDigit, wide: true}

	iMOV    = inst{name: "mov", op: 0x8b, digit: noDigit, wide: true}
	iMOVL   = inst{name: "movl", op: 0x8b, digit: noDigit}
	iMOVTo  = inst{name: "mov to", op: 0x89, digit: noDigit, wide: true}
	iMOVLTo = inst{name: "movl to", op: 0x89, digit: noDigit}
	iMOVWTo = inst{name: "movw to", prefix: 0x66, op: 0x89, digit: noDigit}
	iMOVBTo = inst{name: "movb to", op: 0x88, digit: noDigit, bytes: true}
	iLEA    = inst{name: "lea", op: 0x8d, digit: noDigit, wide: true}
	iLEAL   = inst{name: "leal", op: 0x8d, digit: noDigit}
	iMOVSXD = inst{name: "movsxd", op: 0x63, digit: noDigit, wide: true}
	iMOVZXB = inst{name: "movzxb", escape: map0F, op: 0xb6, digit: noDigit, bytes: true}
	iMOVZXW = inst{name: "movzxw", escape: map0F, op: 0xb7, digit: noDigit}
	iMOVSXB = inst{name: "movsxb", escape: map0F, op: 0xbe, digit: noDigit, wide: true, bytes: true}
	iMOVSXW = inst{name: "movsxw", escape: map0F, op: 0xbf, digit: noDigit, wide: true}

	iIMUL   = inst{name: "imul", escape: map0F, op: 0xaf, digit: noDigit, wide: true}
	iIMULL  = inst{name: "imull", escape: map0F, op: 0xaf, digit: noDigit}
	iCMOVBL = inst{name: "cmovbl", escape: map0F, op: 0x42, digit: noDigit}
	iCMOVAL = inst{name: "cmoval", escape: map0F, op: 0x47, digit: noDigit}
	iCMOVL  = inst{name: "cmovl", escape: map0F, op: 0x4c, digit: noDigit, wide: true}
	iCMOVLL = inst{name: "cmovll", escape: map0F, op: 0x4c, digit: noDigit}
	iCMOVG  = inst{name: "cmovg", escape: map0F, op: 0x4f, digit: noDigit, wide: true}
	iCMOVGL = inst{name: "cmovgl", escape: map0F, op: 0x4f, digit: noDigit}
	iCMOVB  = inst{name: "cmovb", escape: map0F, op: 0x42, digit: noDigit, wide: true}
	iCMOVA  = inst{name: "cmova", escape: map0F, op: 0x47, digit: noDigit, wide: true}
	iNOT    = inst{name: "not", op: 0xf7, digit: 2, wide: true}
	iNEG    = inst{name: "neg", op: 0xf7, digit: 3, wide: true}
	iMUL1   = inst{name: "mul", op: 0xf7, digit: 4, wide: true}
	iIMUL1  = inst{name: "imul1", op: 0xf7, digit: 5, wide: true}
	iDIV    = inst{name: "div", op: 0xf7, digit: 6, wide: true}
	iDIVL   = inst{name: "divl", op: 0xf7, digit: 6}
	iIDIV   = inst{name: "idiv", op: 0xf7, digit: 7, wide: true}
	iIDIVL  = inst{name: "idivl", op: 0xf7, digit: 7}
	iJMPTo  = inst{name: "jmp to", op: 0xff, digit: 4}

	// With an immediate: of one byte, sign-extended, or of four.
	iADDI  = inst{name: "add imm", op: 0x81, digit: 0, wide: true}
	iADDLI = inst{name: "addl imm", op: 0x81, digit: 0}
	iORI   = inst{name: "or imm", op: 0x81, digit: 1, wide: true}
	iANDI  = inst{name: "and imm", op: 0x81, digit: 4, wide: true}
	iANDLI = inst{name: "andl imm", op: 0x81, digit: 4}
	iSUBI  = inst{name: "sub imm", op: 0x81, digit: 5, wide: true}
	iXORI  = inst{name: "xor imm", op: 0x81, digit: 6, wide: true}
	iCMPI  = inst{name: "cmp imm", op: 0x81, digit: 7, wide: true}
	iSHLI  = inst{name: "shl imm", op: 0xc1, digit: 4, wide: true}
	iSHLLI = inst{name: "shll imm", op: 0xc1, digit: 4}
	iSHRI  = inst{name: "shr imm", op: 0xc1, digit: 5, wide: true}
	iSHRLI = inst{name: "shrl imm", op: 0xc1, digit: 5}
	iSARI  = inst{name: "sar imm", op: 0xc1, digit: 7, wide: true}
	iSARLI = inst{name: "sarl imm", op: 0xc1, digit: 7}
	iMOVI  = inst{name: "mov imm", op: 0xc7, digit: 0, wide: true}
	iMOVLI = inst{name: "movl imm", op: 0xc7, digit: 0}
	iCMPBI = inst{name: "cmpb imm", op: 0x80, digit: 7}

	// BMI2: shifts by a register, which keep the flags; the count is the third operand.
	iSHLX  = inst{name: "shlx", prefix: 0x66, escape: map0F38, op: 0xf7, digit: noDigit, wide: true, vex: true}
	iSHLXL = inst{name: "shlxl", prefix: 0x66, escape: map0F38, op: 0xf7, digit: noDigit, vex: true}
	iSARX  = inst{name: "sarx", prefix: 0xf3, escape: map0F38, op: 0xf7, digit: noDigit, wide: true, vex: true}
	iSARXL = inst{name: "sarxl", prefix: 0xf3, escape: map0F38, op: 0xf7, digit: noDigit, vex: true}
	iSHRX  = inst{name: "shrx", prefix: 0xf2, escape: map0F38, op: 0xf7, digit: noDigit, wide: true, vex: true}
	iSHRXL = inst{name: "shrxl", prefix: 0xf2, escape: map0F38, op: 0xf7, digit: noDigit, vex: true}

	// SSE2 and FMA; of single precision where the name ends in s, else of double.
	iMOVSD     = inst{name: "movsd", prefix: 0xf2, escape: map0F, op: 0x10, digit: noDigit}
	iMOVSS     = inst{name: "movss", prefix: 0xf3, escape: map0F, op: 0x10, digit: noDigit}
	iADDSD     = inst{name: "addsd", prefix: 0xf2, escape: map0F, op: 0x58, digit: noDigit}
	iADDSS     = inst{name: "addss", prefix: 0xf3, escape: map0F, op: 0x58, digit: noDigit}
	iMULSD     = inst{name: "mulsd", prefix: 0xf2, escape: map0F, op: 0x59, digit: noDigit}
	iMULSS     = inst{name: "mulss", prefix: 0xf3, escape: map0F, op: 0x59, digit: noDigit}
	iSUBSD     = inst{name: "subsd", prefix: 0xf2, escape: map0F, op: 0x5c, digit: noDigit}
	iSUBSS     = inst{name: "subss", prefix: 0xf3, escape: map0F, op: 0x5c, digit: noDigit}
	iDIVSD     = inst{name: "divsd", prefix: 0xf2, escape: map0F, op: 0x5e, digit: noDigit}
	iDIVSS     = inst{name: "divss", prefix: 0xf3, escape: map0F, op: 0x5e, digit: noDigit}
	iSQRTSD    = inst{name: "sqrtsd", prefix: 0xf2, escape: map0F, op: 0x51, digit: noDigit}
	iSQRTSS    = inst{name: "sqrtss", prefix: 0xf3, escape: map0F, op: 0x51, digit: noDigit}
	iUCOMISD   = inst{name: "ucomisd", prefix: 0x66, escape: map0F, op: 0x2e, digit: noDigit}
	iUCOMISS   = inst{name: "ucomiss", escape: map0F, op: 0x2e, digit: noDigit}
	iCOMISD    = inst{name: "comisd", prefix: 0x66, escape: map0F, op: 0x2f, digit: noDigit}
	iCOMISS    = inst{name: "comiss", escape: map0F, op: 0x2f, digit: noDigit}
	iMOVQX     = inst{name: "movq x", prefix: 0x66, escape: map0F, op: 0x6e, digit: noDigit, wide: true}    // from a general register or memory
	iMOVQXTo   = inst{name: "movq x to", prefix: 0x66, escape: map0F, op: 0x7e, digit: noDigit, wide: true} // to one
	iMOVDXTo   = inst{name: "movd x to", prefix: 0x66, escape: map0F, op: 0x7e, digit: noDigit}
	iXORPS     = inst{name: "xorps", escape: map0F, op: 0x57, digit: noDigit}
	iCVTSI2SD  = inst{name: "cvtsi2sd", prefix: 0xf2, escape: map0F, op: 0x2a, digit: noDigit, wide: true}
	iCVTSI2SDL = inst{name: "cvtsi2sdl", prefix: 0xf2, escape: map0F, op: 0x2a, digit: noDigit}
	iCVTSI2SS  = inst{name: "cvtsi2ss", prefix: 0xf3, escape: map0F, op: 0x2a, digit: noDigit, wide: true}
	iCVTSI2SSL = inst{name: "cvtsi2ssl", prefix: 0xf3, escape: map0F, op: 0x2a, digit: noDigit}
	iCVTSD2SI  = inst{name: "cvtsd2si", prefix: 0xf2, escape: map0F, op: 0x2d, digit: noDigit, wide: true}
	iCVTTSD2SI = inst{name: "cvttsd2si", prefix: 0xf2, escape: map0F, op: 0x2c, digit: noDigit, wide: true}
	iCVTSS2SI  = inst{name: "cvtss2si", prefix: 0xf3, escape: map0F, op: 0x2d, digit: noDigit, wide: true}
	iCVTTSS2SI = inst{name: "cvttss2si", prefix: 0xf3, escape: map0F, op: 0x2c, digit: noDigit, wide: true}

	iCVTSD2SIL  = inst{name: "cvtsd2sil", prefix: 0xf2, escape: map0F, op: 0x2d, digit: noDigit}
	iCVTTSD2SIL = inst{name: "cvttsd2sil", prefix: 0xf2, escape: map0F, op: 0x2c, digit: noDigit}
	iCVTSS2SIL  = inst{name: "cvtss2sil", prefix: 0xf3, escape: map0F, op: 0x2d, digit: noDigit}
	iCVTTSS2SIL = inst{name: "cvttss2sil", prefix: 0xf3, escape: map0F, op: 0x2c, digit: noDigit}

	iCVTSD2SS = inst{name: "cvtsd2ss", prefix: 0xf2, escape: map0F, op: 0x5a, digit: noDigit}
	iCVTSS2SD = inst{name: "cvtss2sd", prefix: 0xf3, escape: map0F, op: 0x5a, digit: noDigit}
	// d = ±(second · third) ± d
	iFMADDSD  = inst{name: "vfmadd231sd", prefix: 0x66, escape: map0F38, op: 0xb9, digit: noDigit, wide: true, vex: true}
	iFMADDSS  = inst{name: "vfmadd231ss", prefix: 0x66, escape: map0F38, op: 0xb9, digit: noDigit, vex: true}
	iFMSUBSD  = inst{name: "vfmsub231sd", prefix: 0x66, escape: map0F38, op: 0xbb, digit: noDigit, wide: true, vex: true}
	iFMSUBSS  = inst{name: "vfmsub231ss", prefix: 0x66, escape: map0F38, op: 0xbb, digit: noDigit, vex: true}
	iFNMADDSD = inst{name: "vfnmadd231sd", prefix: 0x66, escape: map0F38, op: 0xbd, digit: noDigit, wide: true, vex: true}
	iFNMADDSS = inst{name: "vfnmadd231ss", prefix: 0x66, escape: map0F38, op: 0xbd, digit: noDigit, vex: true}
	iFNMSUBSD = inst{name: "vfnmsub231sd", prefix: 0x66, escape: map0F38, op: 0xbf, digit: noDigit, wide: true, vex: true}
	iFNMSUBSS = inst{name: "vfnmsub231ss", prefix: 0x66, escape: map0F38, op: 0xbf, digit: noDigit, vex: true}

	iLDMXCSR = inst{name: "ldmxcsr", escape: map0F, op: 0xae, digit: 2}
	iSTMXCSR = inst{name: "stmxcsr", escape: map0F, op: 0xae, digit: 3}
)

// cond is a condition; its lowest bit negates it.
type cond uint8

const (
	ccB  cond = 2 // below, unsigned
	ccAE cond = 3
	ccE  cond = 4
	ccNE cond = 5
	ccBE cond = 6
	ccA  cond = 7
	ccP  cond = 10 // parity: unordered
	ccNP cond = 11
	ccL  cond = 12
	ccGE cond = 13
	ccG  cond = 15
)

// assembler is code under construction, which will lie at the offset origin.
type assembler struct {
	code   []byte
	origin int
}

// here is the offset of what comes next.
func (a *assembler) here() int { return a.origin + len(a.code) }

func (a *assembler) byte(b ...byte) { a.code = append(a.code, b...) }

func (a *assembler) imm32(v int32) {
	a.code = binary.LittleEndian.AppendUint32(a.code, uint32(v))
}

// rr is i with two registers.
func (a *assembler) rr(i inst, r, rm reg) {
	a.head(i, r, noReg, noReg, rm, rm >= 4)
	a.byte(0xc0 | uint8(r)&7<<3 | uint8(rm)&7)
}

// r1 is i, which has a digit, with one register.
func (a *assembler) r1(i inst, rm reg) { a.rr(i, reg(i.digit), rm) }

// rm is i with a register and memory.
func (a *assembler) rm(i inst, r reg, m mem) {
	a.head(i, r, noReg, m.index, m.base, false)
	a.address(r, m, 0)
}

// m1 is i, which has a digit, with memory.
func (a *assembler) m1(i inst, m mem) { a.rm(i, reg(i.digit), m) }

// rrr is i with the registers d and rm, and v: the count of a shift, the second of three.
func (a *assembler) rrr(i inst, d, v, rm reg) {
	a.head(i, d, v, noReg, rm, false)
	a.byte(0xc0 | uint8(d)&7<<3 | uint8(rm)&7)
}

// rrm is rrr with memory.
func (a *assembler) rrm(i inst, d, v reg, m mem) {
	a.head(i, d, v, m.index, m.base, false)
	a.address(d, m, 0)
}

// ri is i, which has a digit, with a register and an immediate.
func (a *assembler) ri(i inst, rm reg, imm int32) {
	i, short := i.immediate(imm)
	if i.op == 0x81 && rm == rax { // a byte shorter
		i.op = i.digit<<3 | 5
		a.head(i, 0, noReg, noReg, rax, false)
		a.imm32(imm)
		return
	}
	a.head(i, 0, noReg, noReg, rm, false)
	a.byte(0xc0 | i.digit<<3 | uint8(rm)&7)
	a.immediate(imm, short)
}

// mi is ri with memory.
func (a *assembler) mi(i inst, m mem, imm int32) {
	i, short := i.immediate(imm)
	a.head(i, 0, noReg, m.index, m.base, false)
	size := 4
	if short {
		size = 1
	}
	a.address(reg(i.digit), m, size)
	a.immediate(imm, short)
}

// immediate is i with the opcode that the immediate wants.
func (i inst) immediate(imm int32) (inst, bool) {
	switch {
	case i.op == 0xc1 || i.op == 0x80:
		return i, true
	case i.op == 0x81 && imm == int32(int8(imm)):
		i.op = 0x83
		return i, true
	}
	return i, false
}

func (a *assembler) immediate(imm int32, short bool) {
	if short {
		a.byte(byte(imm))
		return
	}
	a.imm32(imm)
}

// head is what comes before the ModRM byte. rmHigh says that the last operand is a register that,
// one byte wide, needs a prefix.
func (a *assembler) head(i inst, r, v, index, base reg, rmHigh bool) {
	bit := func(x reg, at uint8) byte {
		if x == noReg {
			return 0
		}
		return uint8(x) >> 3 & 1 << at
	}
	w := byte(0)
	if i.wide {
		w = 1
	}
	if i.vex {
		pp := byte(0)
		switch i.prefix {
		case 0x66:
			pp = 1
		case 0xf3:
			pp = 2
		case 0xf2:
			pp = 3
		}
		a.byte(0xc4, ^(bit(r, 7)|bit(index, 6)|bit(base, 5))&0xe0|2, w<<7|^uint8(v)&15<<3|pp, i.op)
		return
	}
	if i.prefix != 0 {
		a.byte(i.prefix)
	}
	rex := w<<3 | bit(r, 2) | bit(index, 1) | bit(base, 0)
	if rex != 0 || i.bytes && (r >= 4 && i.escape == map0 || rmHigh) {
		a.byte(0x40 | rex)
	}
	switch i.escape {
	case map0F:
		a.byte(0x0f)
	case map0F38:
		a.byte(0x0f, 0x38)
	}
	a.byte(i.op)
}

// address is the ModRM byte and what follows; behind comes an immediate of so many bytes.
func (a *assembler) address(r reg, m mem, behind int) {
	mod := uint8(r) & 7 << 3
	if m.base == noReg {
		a.byte(mod | 5)
		a.imm32(m.disp - int32(a.here()+4+behind))
		return
	}
	size := byte(0x80)
	switch {
	case m.disp == 0 && m.base&7 != rbp:
		size = 0
	case m.disp == int32(int8(m.disp)):
		size = 0x40
	}
	if m.index == noReg && m.base&7 != rsp {
		a.byte(size | mod | uint8(m.base)&7)
	} else {
		index := uint8(4)
		if m.index != noReg {
			index = uint8(m.index) & 7
		}
		a.byte(size|mod|4, uint8(bits.TrailingZeros8(m.scale))<<6|index<<3|uint8(m.base)&7)
	}
	switch size {
	case 0x40:
		a.byte(byte(m.disp))
	case 0x80:
		a.imm32(m.disp)
	}
}

// constant loads any constant.
func (a *assembler) constant(r reg, v uint64) {
	switch {
	case v == 0:
		a.rr(iXORL, r, r)
	case v>>32 == 0:
		if r >= r8 {
			a.byte(0x41)
		}
		a.byte(0xb8 | uint8(r)&7)
		a.imm32(int32(v))
	case int64(v) == int64(int32(v)):
		a.ri(iMOVI, r, int32(v))
	default:
		a.byte(0x48|uint8(r)>>3, 0xb8|uint8(r)&7)
		a.code = binary.LittleEndian.AppendUint64(a.code, v)
	}
}

// set makes the low byte of r, which is rax to rdx, the truth of c.
func (a *assembler) set(c cond, r reg) { a.byte(0x0f, 0x90|uint8(c), 0xc0|uint8(r)) }

// cqo and cdq extend rax's sign to rdx.
func (a *assembler) cqo() { a.byte(0x48, 0x99) }
func (a *assembler) cdq() { a.byte(0x99) }

func (a *assembler) ret() { a.byte(0xc3) }

// label is a place in the code; jumps to it may come before it.
type label struct {
	bound bool
	at    int // an offset in the region
	from  []int
}

func (a *assembler) bind(l *label) {
	l.bound, l.at = true, a.here()
	for _, f := range l.from {
		a.relink(f, l.at)
	}
	l.from = l.from[:0]
}

// relink makes the jump whose distance lies at an offset lead elsewhere.
func (a *assembler) relink(field, to int) {
	binary.LittleEndian.PutUint32(a.code[field-a.origin:], uint32(int32(to-field-4)))
}

func (a *assembler) distance(l *label) {
	field := a.here()
	a.imm32(0)
	if l.bound {
		a.relink(field, l.at)
	} else {
		l.from = append(l.from, field)
	}
}

// jmp jumps to a label, and returns the offset of the distance.
func (a *assembler) jmp(l *label) (field int) {
	a.byte(0xe9)
	field = a.here()
	a.distance(l)
	return field
}

// jcc jumps if c holds.
func (a *assembler) jcc(c cond, l *label) {
	a.byte(0x0f, 0x80|uint8(c))
	a.distance(l)
}

// jmpAt jumps to an offset in the region.
func (a *assembler) jmpAt(to int) { a.jmp(&label{bound: true, at: to}) }
