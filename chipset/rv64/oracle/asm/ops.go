// Package asm encodes RV64GC instructions, for programs that tests write themselves: some
// by hand, most at random. The table of operations (ops.go, compressed.go) follows the
// opcode listings of the unprivileged and the privileged specification; Code (code.go)
// lays instructions out, with labels and with the text of each; Image (image.go) makes an
// ELF of it.
//
// It is written without a look at the hart's decoder, which it is there to check.
package asm

import "fmt"

// Reg is an integer or a floating-point register by its number.
type Reg uint8

// Integer registers by their names in the ABI.
const (
	Zero Reg = iota
	RA
	SP
	GP
	TP
	T0
	T1
	T2
	S0
	S1
	A0
	A1
	A2
	A3
	A4
	A5
	A6
	A7
	S2
	S3
	S4
	S5
	S6
	S7
	S8
	S9
	S10
	S11
	T3
	T4
	T5
	T6
)

// Format is how the operands of an operation lie in its word.
type Format uint8

const (
	R      Format = iota // rd, rs1, rs2
	I                    // rd, rs1, imm[11:0]
	Shift                // rd, rs1, imm[5:0]
	ShiftW               // rd, rs1, imm[4:0]
	Load                 // rd, imm(rs1)
	Store                // rs2, imm(rs1)
	Branch               // rs1, rs2, imm: the distance in bytes
	U                    // rd, imm[31:12], as the value that it adds
	J                    // rd, imm: the distance in bytes
	CSR                  // rd, imm: the register, rs1
	CSRI                 // rd, imm: the register, rs1: a number of five bits
	AMO                  // rd, rs2, (rs1)
	LR                   // rd, (rs1)
	Fixed                // nothing
	Fence                // imm: predecessor and successor sets
	SFence               // rs1, rs2
	F3                   // fd, fs1, fs2
	F2                   // fd, fs1, with rounding mode
	F2R                  // fd, fs1, fs2, with rounding mode
	F4                   // fd, fs1, fs2, fs3, with rounding mode
	FCmp                 // rd, fs1, fs2
	FClass               // rd, fs1
	FToX                 // rd, fs1, with rounding mode
	XToF                 // fd, rs1, with rounding mode
	MvXF                 // rd, fs1
	MvFX                 // fd, rs1
	FLoad                // fd, imm(rs1)
	FStore               // fs2, imm(rs1)
	compressedFormats
)

// Op is an operation.
type Op struct {
	Name   string
	Match  uint32 // the bits that make it this operation
	Format Format
	Size   uint64 // bytes that it accesses in memory, 0 if it does not
}

// Args are the operands of an instruction; which of them count depends on the format.
type Args struct {
	Rd, Rs1, Rs2, Rs3 Reg
	Imm               int64
	Rm                uint8 // rounding mode, 7 is the dynamic one
}

// Opcodes (unprivileged specification, "RV32/64G Instruction Set Listings").
const (
	opLoad    = 0x03
	opLoadFP  = 0x07
	opFence   = 0x0f
	opImm     = 0x13
	opAUIPC   = 0x17
	opImm32   = 0x1b
	opStore   = 0x23
	opStoreFP = 0x27
	opAMO     = 0x2f
	opOp      = 0x33
	opLUI     = 0x37
	opOp32    = 0x3b
	opMAdd    = 0x43
	opMSub    = 0x47
	opNMSub   = 0x4b
	opNMAdd   = 0x4f
	opFP      = 0x53
	opBranch  = 0x63
	opJALR    = 0x67
	opJAL     = 0x6f
	opSystem  = 0x73
)

func r(name string, f7, f3, op uint32) Op { return Op{name, f7<<25 | f3<<12 | op, R, 0} }
func i(name string, f3, op uint32) Op     { return Op{name, f3<<12 | op, I, 0} }

// Full are the operations of 32 bits.
var Full = []Op{
	{"lui", opLUI, U, 0}, {"auipc", opAUIPC, U, 0}, {"jal", opJAL, J, 0}, i("jalr", 0, opJALR),
	{"beq", 0<<12 | opBranch, Branch, 0}, {"bne", 1<<12 | opBranch, Branch, 0},
	{"blt", 4<<12 | opBranch, Branch, 0}, {"bge", 5<<12 | opBranch, Branch, 0},
	{"bltu", 6<<12 | opBranch, Branch, 0}, {"bgeu", 7<<12 | opBranch, Branch, 0},
	{"lb", 0<<12 | opLoad, Load, 1}, {"lh", 1<<12 | opLoad, Load, 2}, {"lw", 2<<12 | opLoad, Load, 4},
	{"ld", 3<<12 | opLoad, Load, 8}, {"lbu", 4<<12 | opLoad, Load, 1}, {"lhu", 5<<12 | opLoad, Load, 2},
	{"lwu", 6<<12 | opLoad, Load, 4},
	{"sb", 0<<12 | opStore, Store, 1}, {"sh", 1<<12 | opStore, Store, 2},
	{"sw", 2<<12 | opStore, Store, 4}, {"sd", 3<<12 | opStore, Store, 8},
	i("addi", 0, opImm), i("slti", 2, opImm), i("sltiu", 3, opImm), i("xori", 4, opImm),
	i("ori", 6, opImm), i("andi", 7, opImm), i("addiw", 0, opImm32),
	{"slli", 1<<12 | opImm, Shift, 0}, {"srli", 5<<12 | opImm, Shift, 0}, {"srai", 1<<30 | 5<<12 | opImm, Shift, 0},
	{"slliw", 1<<12 | opImm32, ShiftW, 0}, {"srliw", 5<<12 | opImm32, ShiftW, 0},
	{"sraiw", 1<<30 | 5<<12 | opImm32, ShiftW, 0},
	r("add", 0, 0, opOp), r("sub", 0x20, 0, opOp), r("sll", 0, 1, opOp), r("slt", 0, 2, opOp),
	r("sltu", 0, 3, opOp), r("xor", 0, 4, opOp), r("srl", 0, 5, opOp), r("sra", 0x20, 5, opOp),
	r("or", 0, 6, opOp), r("and", 0, 7, opOp),
	r("addw", 0, 0, opOp32), r("subw", 0x20, 0, opOp32), r("sllw", 0, 1, opOp32),
	r("srlw", 0, 5, opOp32), r("sraw", 0x20, 5, opOp32),
	r("mul", 1, 0, opOp), r("mulh", 1, 1, opOp), r("mulhsu", 1, 2, opOp), r("mulhu", 1, 3, opOp),
	r("div", 1, 4, opOp), r("divu", 1, 5, opOp), r("rem", 1, 6, opOp), r("remu", 1, 7, opOp),
	r("mulw", 1, 0, opOp32), r("divw", 1, 4, opOp32), r("divuw", 1, 5, opOp32),
	r("remw", 1, 6, opOp32), r("remuw", 1, 7, opOp32),
	{"fence", opFence, Fence, 0}, {"fence.i", 1<<12 | opFence, Fixed, 0},
	{"ecall", opSystem, Fixed, 0}, {"ebreak", 1<<20 | opSystem, Fixed, 0},
	{"csrrw", 1<<12 | opSystem, CSR, 0}, {"csrrs", 2<<12 | opSystem, CSR, 0}, {"csrrc", 3<<12 | opSystem, CSR, 0},
	{"csrrwi", 5<<12 | opSystem, CSRI, 0}, {"csrrsi", 6<<12 | opSystem, CSRI, 0}, {"csrrci", 7<<12 | opSystem, CSRI, 0},
	{"sret", 0x102<<20 | opSystem, Fixed, 0}, {"mret", 0x302<<20 | opSystem, Fixed, 0},
	{"wfi", 0x105<<20 | opSystem, Fixed, 0}, {"sfence.vma", 9<<25 | opSystem, SFence, 0},
}

// Atomics are those of the A extension; the .d forms follow from them.
var Atomics = func() (ops []Op) {
	for _, o := range []struct {
		name string
		f5   uint32
	}{
		{"lr", 2}, {"sc", 3}, {"amoswap", 1}, {"amoadd", 0}, {"amoxor", 4}, {"amoand", 12}, {"amoor", 8},
		{"amomin", 16}, {"amomax", 20}, {"amominu", 24}, {"amomaxu", 28},
	} {
		format := AMO
		if o.name == "lr" {
			format = LR
		}
		ops = append(ops,
			Op{o.name + ".w", o.f5<<27 | 2<<12 | opAMO, format, 4},
			Op{o.name + ".d", o.f5<<27 | 3<<12 | opAMO, format, 8})
	}
	return ops
}()

// Floats are those of the F and D extensions.
var Floats = func() (ops []Op) {
	ops = append(ops,
		Op{"flw", 2<<12 | opLoadFP, FLoad, 4}, Op{"fld", 3<<12 | opLoadFP, FLoad, 8},
		Op{"fsw", 2<<12 | opStoreFP, FStore, 4}, Op{"fsd", 3<<12 | opStoreFP, FStore, 8})
	for fmtBits, s := range []string{"s", "d"} {
		width := uint32(fmtBits) << 25
		fp := func(name string, f5, rs2, rm uint32, f Format) {
			ops = append(ops, Op{name, f5<<27 | width | rs2<<20 | rm<<12 | opFP, f, 0})
		}
		for _, f := range []struct {
			name string
			op   uint32
		}{{"fmadd.", opMAdd}, {"fmsub.", opMSub}, {"fnmsub.", opNMSub}, {"fnmadd.", opNMAdd}} {
			ops = append(ops, Op{f.name + s, width | f.op, F4, 0})
		}
		fp("fadd."+s, 0, 0, 0, F2R)
		fp("fsub."+s, 1, 0, 0, F2R)
		fp("fmul."+s, 2, 0, 0, F2R)
		fp("fdiv."+s, 3, 0, 0, F2R)
		fp("fsqrt."+s, 11, 0, 0, F2)
		fp("fsgnj."+s, 4, 0, 0, F3)
		fp("fsgnjn."+s, 4, 0, 1, F3)
		fp("fsgnjx."+s, 4, 0, 2, F3)
		fp("fmin."+s, 5, 0, 0, F3)
		fp("fmax."+s, 5, 0, 1, F3)
		fp("fle."+s, 20, 0, 0, FCmp)
		fp("flt."+s, 20, 0, 1, FCmp)
		fp("feq."+s, 20, 0, 2, FCmp)
		fp("fclass."+s, 28, 0, 1, FClass)
		for rs2, to := range []string{"w", "wu", "l", "lu"} {
			fp("fcvt."+to+"."+s, 24, uint32(rs2), 0, FToX)
			fp("fcvt."+s+"."+to, 26, uint32(rs2), 0, XToF)
		}
	}
	return append(ops,
		Op{"fcvt.s.d", 8<<27 | 1<<20 | opFP, F2, 0}, Op{"fcvt.d.s", 8<<27 | 1<<25 | opFP, F2, 0},
		Op{"fmv.x.w", 28<<27 | opFP, MvXF, 0}, Op{"fmv.w.x", 30<<27 | opFP, MvFX, 0},
		Op{"fmv.x.d", 28<<27 | 1<<25 | opFP, MvXF, 0}, Op{"fmv.d.x", 30<<27 | 1<<25 | opFP, MvFX, 0})
}()

var byName = func() map[string]*Op {
	m := map[string]*Op{}
	for _, table := range [][]Op{Full, Atomics, Floats, Compressed} {
		for i := range table {
			if m[table[i].Name] != nil {
				panic("asm: two operations " + table[i].Name)
			}
			m[table[i].Name] = &table[i]
		}
	}
	return m
}()

// Named is the operation of a name; a name that is none is a mistake of the test.
func Named(name string) *Op {
	op := byName[name]
	if op == nil {
		panic("asm: there is no operation " + name)
	}
	return op
}

// fits panics unless v is a multiple of step between low and high.
func (o *Op) fits(v, low, high, step int64) uint32 {
	if v < low || v > high || v%step != 0 {
		panic(fmt.Sprintf("asm: %s with %d: want a multiple of %d from %d to %d", o.Name, v, step, low, high))
	}
	return uint32(v)
}

// Encode is the instruction's word, and its length in bytes.
func (o *Op) Encode(a Args) (word uint32, size int) {
	if o.Format > compressedFormats {
		return uint32(o.encode16(a)), 2
	}
	rd, rs1, rs2 := uint32(a.Rd)<<7, uint32(a.Rs1)<<15, uint32(a.Rs2)<<20
	rm := uint32(a.Rm) << 12
	w := o.Match
	switch o.Format {
	case R, AMO, F3, FCmp:
		w |= rd | rs1 | rs2
	case I, Load, FLoad:
		w |= rd | rs1 | o.fits(a.Imm, -2048, 2047, 1)<<20
	case Shift:
		w |= rd | rs1 | o.fits(a.Imm, 0, 63, 1)<<20
	case ShiftW:
		w |= rd | rs1 | o.fits(a.Imm, 0, 31, 1)<<20
	case Store, FStore:
		imm := o.fits(a.Imm, -2048, 2047, 1)
		w |= rs1 | rs2 | imm>>5&0x7f<<25 | imm&31<<7
	case Branch:
		imm := o.fits(a.Imm, -4096, 4094, 2)
		w |= rs1 | rs2 | imm>>12&1<<31 | imm>>5&63<<25 | imm>>1&15<<8 | imm>>11&1<<7
	case U:
		w |= rd | o.fits(a.Imm, -1<<31, 1<<31-4096, 4096)
	case J:
		imm := o.fits(a.Imm, -1<<20, 1<<20-2, 2)
		w |= rd | imm>>20&1<<31 | imm>>1&0x3ff<<21 | imm>>11&1<<20 | imm>>12&0xff<<12
	case CSR, CSRI:
		w |= rd | rs1 | o.fits(a.Imm, 0, 4095, 1)<<20
	case LR, FClass, MvXF, MvFX:
		w |= rd | rs1
	case Fixed:
	case Fence:
		w |= o.fits(a.Imm, 0, 255, 1) << 20
	case SFence:
		w |= rs1 | rs2
	case F2, FToX, XToF:
		w |= rd | rs1 | rm
	case F2R:
		w |= rd | rs1 | rs2 | rm
	case F4:
		w |= rd | rs1 | rs2 | rm | uint32(a.Rs3)<<27
	}
	return w, 4
}
