package cpu

import "encoding/binary"

// program is one being written.
type program struct {
	code    []uint32
	pool    []byte // operands, at testPool
	pooled  int
	out     uint32 // where the next result goes
	scratch uint64 // what mscratch holds
}

func (p *program) emit(words ...uint32) { p.code = append(p.code, words...) }

func encR(op, f3, f7, rd, rs1, rs2 uint32) uint32 {
	return op | rd<<7 | f3<<12 | rs1<<15 | rs2<<20 | f7<<25
}
func encI(op, f3, rd, rs1 uint32, imm int32) uint32 {
	return op | rd<<7 | f3<<12 | rs1<<15 | uint32(imm)<<20
}
func encS(op, f3, rs1, rs2 uint32, imm int32) uint32 {
	return op | uint32(imm)&31<<7 | f3<<12 | rs1<<15 | rs2<<20 | uint32(imm)>>5<<25
}
func encB(f3, rs1, rs2 uint32, imm int32) uint32 {
	u := uint32(imm)
	return opBranch | u>>11&1<<7 | u>>1&15<<8 | f3<<12 | rs1<<15 | rs2<<20 | u>>5&63<<25 | u>>12&1<<31
}

// Registers of the programs: operands, results and where they are.
const (
	regA, regB, regC, regOut  = 5, 6, 7, 8
	regPool, regBase, regSpan = 29, 30, 4096
)

// lui sets a register to an address that is a multiple of 4 KiB.
func (p *program) lui(rd, at uint32) { p.emit(0x37 | rd<<7 | at&^0xfff) }

// result stores a register where nothing was stored before.
func (p *program) result(reg uint32, float bool) { p.resultBy(regBase, reg, float) }

// resultBy is result with a base register of one's own. Each page of results has its LUI.
func (p *program) resultBy(base, reg uint32, float bool) {
	p.lui(base, p.out+regSpan/2)
	op := uint32(opStore)
	if float {
		op = opStoreFP
	}
	p.emit(encS(op, 3, base, reg, int32(p.out-(p.out+regSpan/2)&^0xfff)))
	p.out += 8
}

// operand puts a number into the pool, and loads it.
func (p *program) operand(rd uint32, v uint64, float bool) {
	at := -1
	for i := 0; i < p.pooled && at < 0; i++ {
		if binary.LittleEndian.Uint64(p.pool[8*i:]) == v {
			at = i
		}
	}
	if at < 0 {
		at = p.pooled
		binary.LittleEndian.PutUint64(p.pool[8*at:], v)
		p.pooled++
	}
	op := uint32(opLoad)
	if float {
		op = opLoadFP
	}
	p.lui(regPool, testPool)
	p.emit(encI(op, 3, rd, regPool, int32(8*at)))
}

// integers are operands with a bit of everything.
var integers = []uint64{
	0, 1, 2, ^uint64(0), 1 << 63, 1<<63 - 1, 1 << 31, 1<<31 - 1, 0xffff_ffff, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa,
	0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 63, 31, 0xffff_ffff_8000_0000,
}

// all has each operation, given without registers, done with all pairs of operands.
func (p *program) all(ops ...uint32) {
	for _, a := range integers {
		for _, b := range integers {
			p.operand(regA, a, false)
			p.operand(regB, b, false)
			for _, op := range ops {
				p.emit(op | encR(0, 0, 0, regC, regA, regB))
				p.result(regC, false)
			}
		}
	}
}

// immediate has each operation with an immediate done with all operands.
func (p *program) immediate(ops ...uint32) {
	for _, a := range integers {
		p.operand(regA, a, false)
		for _, op := range ops {
			p.emit(op | encR(0, 0, 0, regC, regA, 0))
			p.result(regC, false)
		}
	}
}

// sections are in the order of what they build upon.
var sections = []section{
	{"registers x1 to x31", func(p *program) { p.registers(0x5555_5555_5555_5555) }, 0xfa31890bebe79f5c},
	{"registers x1 to x31", func(p *program) { p.registers(0xaaaa_aaaa_aaaa_aaaa) }, 0xe4793916e040054},
	{"operation class load", (*program).loads, 0x268bed160210d0b7},
	{"registers f0 to f31", (*program).floatRegisters, 0xcb44fe146eaa3f9d},
	{"operation class add", func(p *program) {
		p.all(encR(opReg, 0, 0, 0, 0, 0), encR(opReg, 0, 32, 0, 0, 0), encR(opReg32, 0, 0, 0, 0, 0), encR(opReg32, 0, 32, 0, 0, 0),
			encR(opReg, 2, 0, 0, 0, 0), encR(opReg, 3, 0, 0, 0, 0))
		p.immediate(encI(opImm, 0, 0, 0, 0x555), encI(opImm, 0, 0, 0, -0x556), encI(opImm32, 0, 0, 0, -1), encI(opImm, 2, 0, 0, 1), encI(opImm, 3, 0, 0, -1))
	}, 0xbee09fb663611721},
	{"operation class logic", func(p *program) {
		p.all(encR(opReg, 4, 0, 0, 0, 0), encR(opReg, 6, 0, 0, 0, 0), encR(opReg, 7, 0, 0, 0, 0))
		p.immediate(encI(opImm, 4, 0, 0, -1), encI(opImm, 6, 0, 0, 0x555), encI(opImm, 7, 0, 0, -0x556))
	}, 0x9f1ac52deb94b3a1},
	{"operation class shift", func(p *program) {
		p.all(encR(opReg, 1, 0, 0, 0, 0), encR(opReg, 5, 0, 0, 0, 0), encR(opReg, 5, 32, 0, 0, 0),
			encR(opReg32, 1, 0, 0, 0, 0), encR(opReg32, 5, 0, 0, 0, 0), encR(opReg32, 5, 32, 0, 0, 0))
		p.immediate(encI(opImm, 1, 0, 0, 13), encI(opImm, 5, 0, 0, 63), encI(opImm, 5, 0, 0, 0x400|17), encI(opImm32, 1, 0, 0, 5), encI(opImm32, 5, 0, 0, 0x400|31))
	}, 0x322643ee3ac757ef},
	{"operation class multiply", func(p *program) {
		p.all(encR(opReg, 0, 1, 0, 0, 0), encR(opReg, 1, 1, 0, 0, 0), encR(opReg, 2, 1, 0, 0, 0), encR(opReg, 3, 1, 0, 0, 0), encR(opReg32, 0, 1, 0, 0, 0))
	}, 0xe37200a65c1bd5d5},
	{"operation class divide", func(p *program) {
		for f3 := uint32(4); f3 < 8; f3++ {
			p.all(encR(opReg, f3, 1, 0, 0, 0), encR(opReg32, f3, 1, 0, 0, 0))
		}
	}, 0x5df5075188fe76ff},
	{"operation class branch", (*program).branches, 0x4cb2bf41b12d152},
	{"atomic operations", (*program).atomics, 0xf25bbdd77d50ad32},
	{"traps and translation", (*program).traps, 0x9989d1c08f5ed177},
	{"operation class float", (*program).floats, 0xb9a1ab8546e30db4},
}

// registers has a pattern in each of x1 to x31, from a CSR, and stores it: no other class of
// operations is needed.
func (p *program) registers(pattern uint64) {
	p.scratch = pattern
	for reg := uint32(1); reg < 32; reg++ {
		base := uint32(1)
		if reg == 1 {
			base = 2
		}
		p.emit(encI(opSystem, 2, reg, 0, 0x340)) // csrr mscratch
		p.resultBy(base, reg, false)
	}
}

// loads has each load of each size, and the stores that they read.
func (p *program) loads() {
	for _, v := range integers {
		p.operand(regA, v, false)
		p.lui(regBase, testOut)
		for f3 := range uint32(4) {
			p.emit(encS(opStore, f3, regBase, regA, int32(16+16*f3)))
		}
		for f3 := range uint32(7) {
			p.lui(regBase, testOut)
			p.emit(encI(opLoad, f3, regC, regBase, int32(16+16*(f3&3))))
			p.out = max(p.out, testOut+256)
			p.result(regC, false)
		}
	}
}

// floatRegisters has two patterns in each of f0 to f31.
func (p *program) floatRegisters() {
	for reg := range uint32(32) {
		for _, v := range []uint64{0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa} {
			p.operand(reg, v, true)
			p.result(reg, true)
		}
	}
}

// branches counts, in a register for each branch, which way it goes with each pair.
func (p *program) branches() {
	for _, a := range integers {
		for _, b := range integers {
			p.operand(regA, a, false)
			p.operand(regB, b, false)
			p.emit(encI(opImm, 0, regOut, 0, 0))
			for i, f3 := range []uint32{0, 1, 4, 5, 6, 7} {
				p.emit(encB(f3, regA, regB, 8), encI(opImm, 6, regOut, regOut, 1<<i))
			}
			p.result(regOut, false)
		}
	}
}

// atomics has each atomic operation on both sizes, and pairs of LR and SC.
func (p *program) atomics() {
	const op = 0x2f
	for _, a := range integers {
		p.operand(regA, a, false)
		p.operand(regB, 0x8123_4567_89ab_cdef, false)
		for _, f5 := range []uint32{0, 1, 4, 8, 12, 16, 20, 24, 28} {
			for f3 := uint32(2); f3 < 4; f3++ {
				p.lui(regOut, testOut+64<<10)
				p.emit(encS(opStore, 3, regOut, regB, 0), encR(op, f3, f5<<2, regC, regOut, regA))
				p.result(regC, false)
				p.emit(encI(opLoad, 3, regC, regOut, 0))
				p.result(regC, false)
			}
		}
		p.emit(encR(op, 3, 2<<2, regC, regOut, 0), encR(op, 3, 3<<2, regB, regOut, regC), encR(op, 3, 3<<2, regC, regOut, regA))
		p.result(regB, false)
		p.result(regC, false)
	}
}

// numbers are floating-point operands: ordinary and extreme ones.
var numbers = []uint64{
	0x3ff0_0000_0000_0000, 0xc009_21fb_5444_2d18, 0x0000_0000_0000_0001, 0x7fef_ffff_ffff_ffff, 0x8000_0000_0000_0000,
	0x7ff0_0000_0000_0000, 0x7ff8_0000_0000_0001, 0x4340_0000_0000_0001,
	0xffff_ffff_3f80_0000, 0xffff_ffff_c049_0fdb, 0xffff_ffff_0000_0001, 0xffff_ffff_7f7f_ffff,
}

// floats has each floating-point operation in both precisions with pairs of operands, and what
// it raises.
func (p *program) floats() {
	for _, a := range numbers {
		for _, b := range numbers {
			p.operand(1, a, true)
			p.operand(2, b, true)
			for format := range uint32(2) {
				for _, f5 := range []uint32{0, 1, 2, 3} { // add, sub, mul, div
					p.float(encR(opFloat, 0, f5<<2|format, 3, 1, 2))
				}
				for f3 := range uint32(3) { // signs, comparisons; minimum and maximum
					p.float(encR(opFloat, f3, 4<<2|format, 3, 1, 2))
					p.emit(encR(opFloat, f3, 20<<2|format, regC, 1, 2))
					p.result(regC, false)
				}
				p.float(encR(opFloat, 0, 5<<2|format, 3, 1, 2))
				p.float(encR(opFloat, 1, 5<<2|format, 3, 1, 2))
				p.float(0x43 | encR(0, 0, 2<<2|format, 3, 1, 2)) // fmadd with f2
			}
		}
		for format := range uint32(2) {
			p.float(encR(opFloat, 0, 11<<2|format, 3, 1, 0))       // square root
			p.float(encR(opFloat, 0, 8<<2|format, 3, 1, 1-format)) // to the other precision
			for to := range uint32(4) {
				p.emit(encR(opFloat, 1, 24<<2|format, regC, 1, to))
				p.result(regC, false)
				p.operand(regA, a, false)
				p.float(encR(opFloat, 0, 26<<2|format, 3, regA, to))
			}
			p.emit(encR(opFloat, 1, 28<<2|format, regC, 1, 0)) // class
			p.result(regC, false)
		}
	}
	p.emit(encI(opSystem, 2, regC, 0, 1)) // fflags
	p.result(regC, false)
}

// float does an operation whose result is in f3.
func (p *program) float(op uint32) {
	p.emit(op)
	p.result(3, true)
}

// traps has traps of several causes taken and returned from, and then S mode with a page that
// is mapped twice.
func (p *program) traps() {
	const (
		regTrap         = 28 // where the handler writes
		root, mid, leaf = 192 << 10, 196 << 10, 200 << 10
		alias           = 0x4000_0000
		pointer         = 1
		leafFlags       = 0x0f // V, R, W, X; the hart sets A and D
	)
	table := func(at, i, pa, flags uint64) {
		binary.LittleEndian.PutUint64(p.pool[at+8*i:], pa>>12<<10|flags)
	}
	table(root, 0, testPool+mid, pointer)
	table(mid, testBase>>21, testBase, leafFlags)
	table(root, 1, testPool+leaf, pointer)
	table(leaf, 0, testPool+leaf, pointer)
	table(leaf, 1, testOut+4096, leafFlags)

	var handler []uint32
	for i, csr := range []int32{0x342, 0x343, 0x341} { // mcause, mtval, mepc
		handler = append(handler, encI(opSystem, 2, regC, 0, csr), encS(opStore, 3, regTrap, regC, int32(8*i)))
	}
	handler = append(handler, encI(opImm, 0, regTrap, regTrap, 24), encI(opImm, 0, regC, regC, 4), encI(opSystem, 1, 0, regC, 0x341), 0x3020_0073) // mret
	p.emit(0x6f | uint32(4*len(handler)+4)<<20)                                                                                                    // jal over it
	p.emit(handler...)
	p.lui(regTrap, testOut+16<<10)
	p.lui(regC, testBase)
	p.emit(encI(opImm, 0, regC, regC, 4), encI(opSystem, 1, 0, regC, 0x305)) // mtvec
	p.lui(regBase, testOut)
	p.emit(
		0x0000_0073, 0x0010_0073, ^uint32(0), // ecall, ebreak, no instruction
		encI(opSystem, 2, regC, 0, 0x7ff),                      // no such CSR
		encI(opLoad, 3, regC, 0, 0), encS(opStore, 0, 0, 0, 0), // no memory
		encI(opImm, 0, regA, regBase, 4), encR(0x2f, 3, 2<<2, regC, regA, 0), // lr.d where it is misaligned
		encI(opLoad, 3, regC, regA, 1), // which works
	)
	p.result(regC, false)

	p.emit(encI(opImm, 0, regC, 0, -1), encI(opSystem, 1, 0, regC, 0x3b0), encI(opImm, 0, regC, 0, 0x1f), encI(opSystem, 1, 0, regC, 0x3a0)) // PMP: all is open
	p.emit(encI(opImm, 0, regC, 0, 8), encI(opImm, 1, regC, regC, 60))
	p.lui(regB, testPool+root)
	p.emit(encI(opImm, 5, regB, regB, 12), encR(opReg, 6, 0, regC, regC, regB), encI(opSystem, 1, 0, regC, 0x180)) // satp
	p.emit(encI(opImm, 0, regC, 0, 1), encI(opImm, 1, regC, regC, 11), encI(opSystem, 2, 0, regC, 0x300))          // mstatus.MPP: S
	p.emit(0x17|regC<<7, encI(opImm, 0, regC, regC, 16), encI(opSystem, 1, 0, regC, 0x341), 0x3020_0073)           // mret to what follows
	p.lui(regB, alias+4096)
	p.lui(regBase, testOut+4096)
	p.emit(encS(opStore, 3, regB, regTrap, 8), encI(opLoad, 3, regC, regBase, 8))
	p.result(regC, false)
	p.lui(regB, alias) // not mapped
	p.emit(encI(opLoad, 3, regC, regB, 0), encS(opStore, 3, regB, regC, 0), encI(opSystem, 2, regC, 0, 0x300))
	p.lui(regB, alias+4096)
	p.emit(encI(opLoad, 2, regC, regB, 12))
	p.result(regC, false)
}
