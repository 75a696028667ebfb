package asm

// The C extension (unprivileged specification, "RVC Instruction Set Listings"). Registers
// in three-bit fields are x8…x15 and f8…f15.

// Formats of the compressed operations. The immediates are values, not fields.
const (
	CR     = compressedFormats + 1 + iota // rd (and first operand), rs2; neither is zero
	CJR                                   // rs1, not zero
	CI                                    // rd, imm from -32 to 31
	CShL                                  // rd, imm from 0 to 63
	CLUI                                  // rd, not sp; imm from -32 to 31 pages, not 0
	CSP16                                 // imm, a multiple of 16 from -512 to 496, not 0
	CSP4                                  // rd', imm, a multiple of 4 from 4 to 1020
	CLW                                   // rd', imm(rs1'), a multiple of 4 below 128
	CLD                                   // rd', imm(rs1'), a multiple of 8 below 256
	CSW                                   // rs2', imm(rs1')
	CSD                                   // rs2', imm(rs1')
	CLWSP                                 // rd, imm(sp), a multiple of 4 below 256
	CLDSP                                 // rd, imm(sp), a multiple of 8 below 512
	CSWSP                                 // rs2, imm(sp)
	CSDSP                                 // rs2, imm(sp)
	CShR                                  // rd', imm from 0 to 63
	CAI                                   // rd', imm from -32 to 31
	CA                                    // rd', rs2'
	CB                                    // rs1', imm: the distance, from -256 to 254
	CJ                                    // imm: the distance, from -2048 to 2046
	CNone                                 // nothing
	CFLD                                  // as CLD, with fd'
	CFSD                                  // as CSD, with fs2'
	CFLDSP                                // as CLDSP, with fd
	CFSDSP                                // as CSDSP, with fs2
)

// Compressed are the operations of 16 bits.
var Compressed = []Op{
	{"c.addi4spn", 0, CSP4, 0},
	{"c.fld", 1 << 13, CFLD, 8}, {"c.lw", 2 << 13, CLW, 4}, {"c.ld", 3 << 13, CLD, 8},
	{"c.fsd", 5 << 13, CFSD, 8}, {"c.sw", 6 << 13, CSW, 4}, {"c.sd", 7 << 13, CSD, 8},
	{"c.addi", 0<<13 | 1, CI, 0}, {"c.addiw", 1<<13 | 1, CI, 0}, {"c.li", 2<<13 | 1, CI, 0},
	{"c.addi16sp", 3<<13 | 2<<7 | 1, CSP16, 0}, {"c.lui", 3<<13 | 1, CLUI, 0},
	{"c.srli", 4<<13 | 0<<10 | 1, CShR, 0}, {"c.srai", 4<<13 | 1<<10 | 1, CShR, 0}, {"c.andi", 4<<13 | 2<<10 | 1, CAI, 0},
	{"c.sub", 0x23<<10 | 0<<5 | 1, CA, 0}, {"c.xor", 0x23<<10 | 1<<5 | 1, CA, 0},
	{"c.or", 0x23<<10 | 2<<5 | 1, CA, 0}, {"c.and", 0x23<<10 | 3<<5 | 1, CA, 0},
	{"c.subw", 0x27<<10 | 0<<5 | 1, CA, 0}, {"c.addw", 0x27<<10 | 1<<5 | 1, CA, 0},
	{"c.j", 5<<13 | 1, CJ, 0}, {"c.beqz", 6<<13 | 1, CB, 0}, {"c.bnez", 7<<13 | 1, CB, 0},
	{"c.slli", 0<<13 | 2, CShL, 0},
	{"c.fldsp", 1<<13 | 2, CFLDSP, 8}, {"c.lwsp", 2<<13 | 2, CLWSP, 4}, {"c.ldsp", 3<<13 | 2, CLDSP, 8},
	{"c.jr", 8<<12 | 2, CJR, 0}, {"c.mv", 8<<12 | 2, CR, 0}, {"c.ebreak", 9<<12 | 2, CNone, 0},
	{"c.jalr", 9<<12 | 2, CJR, 0}, {"c.add", 9<<12 | 2, CR, 0},
	{"c.fsdsp", 5<<13 | 2, CFSDSP, 8}, {"c.swsp", 6<<13 | 2, CSWSP, 4}, {"c.sdsp", 7<<13 | 2, CSDSP, 8},
}

// small is the three-bit field of a register.
func (o *Op) small(r Reg) uint32 { return o.fits(int64(r), 8, 15, 1) - 8 }

// bits moves bits of v: each pair is the lowest bit and the number of bits taken, the last
// pair of them to the field's lowest bits.
func bits(v uint32, pairs ...uint32) (field uint32) {
	for ; len(pairs) > 0; pairs = pairs[2:] {
		field = field<<pairs[1] | v>>pairs[0]&(1<<pairs[1]-1)
	}
	return field
}

func (o *Op) encode16(a Args) uint16 {
	w := o.Match
	wide := uint32(a.Rd) << 7
	imm := uint32(a.Imm)
	switch o.Format {
	case CR:
		w |= wide | uint32(a.Rs2)<<2
	case CJR:
		w |= uint32(a.Rs1) << 7
	case CI, CLUI:
		o.fits(a.Imm, -32, 31, 1)
		w |= wide | bits(imm, 5, 1)<<12 | bits(imm, 0, 5)<<2
	case CShL:
		o.fits(a.Imm, 0, 63, 1)
		w |= wide | bits(imm, 5, 1)<<12 | bits(imm, 0, 5)<<2
	case CSP16:
		o.fits(a.Imm, -512, 496, 16)
		w |= bits(imm, 9, 1)<<12 | bits(imm, 4, 1, 6, 1, 7, 2, 5, 1)<<2
	case CSP4:
		o.fits(a.Imm, 4, 1020, 4)
		w |= bits(imm, 4, 2, 6, 4, 2, 1, 3, 1)<<5 | o.small(a.Rd)<<2
	case CLW:
		w |= o.word(imm, a) | o.small(a.Rd)<<2
	case CSW:
		w |= o.word(imm, a) | o.small(a.Rs2)<<2
	case CLD, CFLD:
		w |= o.double(imm, a) | o.small(a.Rd)<<2
	case CSD, CFSD:
		w |= o.double(imm, a) | o.small(a.Rs2)<<2
	case CLWSP:
		o.fits(a.Imm, 0, 252, 4)
		w |= wide | bits(imm, 5, 1)<<12 | bits(imm, 2, 3, 6, 2)<<2
	case CLDSP, CFLDSP:
		o.fits(a.Imm, 0, 504, 8)
		w |= wide | bits(imm, 5, 1)<<12 | bits(imm, 3, 2, 6, 3)<<2
	case CSWSP:
		o.fits(a.Imm, 0, 252, 4)
		w |= bits(imm, 2, 4, 6, 2)<<7 | uint32(a.Rs2)<<2
	case CSDSP, CFSDSP:
		o.fits(a.Imm, 0, 504, 8)
		w |= bits(imm, 3, 3, 6, 3)<<7 | uint32(a.Rs2)<<2
	case CShR:
		o.fits(a.Imm, 0, 63, 1)
		w |= bits(imm, 5, 1)<<12 | o.small(a.Rd)<<7 | bits(imm, 0, 5)<<2
	case CAI:
		o.fits(a.Imm, -32, 31, 1)
		w |= bits(imm, 5, 1)<<12 | o.small(a.Rd)<<7 | bits(imm, 0, 5)<<2
	case CA:
		w |= o.small(a.Rd)<<7 | o.small(a.Rs2)<<2
	case CB:
		o.fits(a.Imm, -256, 254, 2)
		w |= bits(imm, 8, 1, 3, 2)<<10 | o.small(a.Rs1)<<7 | bits(imm, 6, 2, 1, 2, 5, 1)<<2
	case CJ:
		o.fits(a.Imm, -2048, 2046, 2)
		w |= bits(imm, 11, 1, 4, 1, 8, 2, 10, 1, 6, 1, 7, 1, 1, 3, 5, 1) << 2
	}
	return uint16(w)
}

// word and double are what loads and stores of four and of eight bytes have in common.
func (o *Op) word(imm uint32, a Args) uint32 {
	o.fits(a.Imm, 0, 124, 4)
	return bits(imm, 3, 3)<<10 | o.small(a.Rs1)<<7 | bits(imm, 2, 1, 6, 1)<<5
}

func (o *Op) double(imm uint32, a Args) uint32 {
	o.fits(a.Imm, 0, 248, 8)
	return bits(imm, 3, 3)<<10 | o.small(a.Rs1)<<7 | bits(imm, 6, 2)<<5
}
