package scenario

import "encoding/binary"

// What a scenario needs to know of the instruction set. It is written down here once more, and
// not taken from the hart, whose tests in its own package use scenarios.

func encI(op, f3, rd, rs1 uint32, imm int32) uint32 {
	return uint32(imm)<<20 | rs1<<15 | f3<<12 | rd<<7 | op
}

func encS(op, f3, rs1, rs2 uint32, imm int32) uint32 {
	u := uint32(imm)
	return u>>5&0x7f<<25 | rs2<<20 | rs1<<15 | f3<<12 | u&0x1f<<7 | op
}

func encR(op, f3, f7, rd, rs1, rs2 uint32) uint32 {
	return f7<<25 | rs2<<20 | rs1<<15 | f3<<12 | rd<<7 | op
}

func encB(f3, rs1, rs2 uint32, imm int32) uint32 {
	u := uint32(imm)
	return u>>12&1<<31 | u>>5&0x3f<<25 | rs2<<20 | rs1<<15 | f3<<12 | u>>1&0xf<<8 | u>>11&1<<7 | 0x63
}

func encJ(rd uint32, imm int32) uint32 {
	u := uint32(imm)
	return u>>20&1<<31 | u>>1&0x3ff<<21 | u>>11&1<<20 | u>>12&0xff<<12 | rd<<7 | 0x6f
}

// Registers by their ABI names.
const (
	zero, ra, sp, gp       = 0, 1, 2, 3
	t0, t1, t2             = 5, 6, 7
	s0, s1                 = 8, 9
	a0, a1, a2, a3, a4, a5 = 10, 11, 12, 13, 14, 15
	s2, s3, s4, s5, s6, s7 = 18, 19, 20, 21, 22, 23
	s8, s9, s10, s11       = 24, 25, 26, 27
	t3, t4, t5, t6         = 28, 29, 30, 31
)

const (
	nop, ecall, ebreak      = 0x0000_0013, 0x0000_0073, 0x0010_0073
	sret, mret, wfi, fencei = 0x1020_0073, 0x3020_0073, 0x1050_0073, 0x0000_100f
	sfence                  = 0x1200_0073
	f3BEQ, f3BLT, f3BGE     = 0, 4, 5
	csrrw, csrrs            = 1, 2
)

// CSRs (privileged specification, "CSR Listing").
const (
	csrFflags, csrFrm, csrFcsr               = 0x001, 0x002, 0x003
	csrSstatus, csrSie, csrStvec             = 0x100, 0x104, 0x105
	csrScounteren, csrSscratch, csrSepc      = 0x106, 0x140, 0x141
	csrScause, csrStval, csrSip, csrStimecmp = 0x142, 0x143, 0x144, 0x14d
	csrSatp                                  = 0x180
	csrMstatus, csrMedeleg, csrMideleg       = 0x300, 0x302, 0x303
	csrMie, csrMtvec, csrMcounteren          = 0x304, 0x305, 0x306
	csrMenvcfg, csrMscratch, csrMepc         = 0x30a, 0x340, 0x341
	csrMcause, csrMip                        = 0x342, 0x344
	csrPmpcfg0, csrPmpaddr0                  = 0x3a0, 0x3b0
	csrMcycle, csrMinstret                   = 0xb00, 0xb02
	csrCycle, csrTime, csrInstret            = 0xc00, 0xc01, 0xc02
	csrMhartid                               = 0xf14
)

const (
	mstatusFS   = 3 << 13
	mstatusMPRV = 1 << 17
	mstatusTVM  = 1 << 20
	mstatusTW   = 1 << 21
	mstatusTSR  = 1 << 22

	causeIllegal   = 2
	causeFetchPage = 12

	pteV, pteR, pteW, pteX = 1, 2, 4, 8
	pteU, pteA, pteD       = 16, 64, 128
	ptePPNShift            = 10

	satpSv39              = 8
	pmpNAPOT              = 3
	pmpRWX                = 7
	pmpaddrMask           = 1<<54 - 1
	boxed                 = 0xffff_ffff_0000_0000 // the upper half of a register with a single
	user, supvsr, machine = 0, 1, 3               // privilege modes
)

// code is what a handler is assembled in. Labels may be used before they are set.
type code struct {
	bytes  []byte
	labels map[string]int
	fixups []func()
}

func (c *code) word(ws ...uint32) *code {
	for _, w := range ws {
		c.bytes = binary.LittleEndian.AppendUint32(c.bytes, w)
	}
	return c
}

func (c *code) label(name string) *code {
	c.labels[name] = len(c.bytes)
	return c
}

func (c *code) branch(f3, rs1, rs2 uint32, to string) *code {
	at := len(c.bytes)
	c.fixups = append(c.fixups, func() {
		binary.LittleEndian.PutUint32(c.bytes[at:], encB(f3, rs1, rs2, int32(c.labels[to]-at)))
	})
	return c.word(0)
}

func (c *code) addi(rd, rs1 uint32, imm int32) *code { return c.word(encI(0x13, 0, rd, rs1, imm)) }
func (c *code) add(rd, rs1, rs2 uint32) *code        { return c.word(encR(0x33, 0, 0, rd, rs1, rs2)) }
func (c *code) csrr(rd, csr uint32) *code            { return c.word(encI(0x73, csrrs, rd, zero, int32(csr))) }
func (c *code) csrw(csr, rs1 uint32) *code           { return c.word(encI(0x73, csrrw, zero, rs1, int32(csr))) }

// li loads any constant.
func (c *code) li(rd uint32, v uint64) *code {
	low := int32(v) << 20 >> 20
	if int64(v) == int64(low) {
		return c.addi(rd, zero, low)
	}
	c.li(rd, uint64(int64(v-uint64(int64(low)))>>12)).word(encI(0x13, 1, rd, rd, 12))
	if low != 0 {
		c.addi(rd, rd, low)
	}
	return c
}

func (c *code) done() []byte {
	for _, f := range c.fixups {
		f()
	}
	return c.bytes
}
