package oracle

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"

	"ft/chipset/rv64/oracle/asm"
)

// A privileged program is a row of probes. A probe sets up CSRs and page tables in M mode,
// does one thing in M, S or U mode, and comes back to M mode by a trap. What is logged, in
// memory: a marker, each trap with its registers, and what the probe read. Each probe sets
// up all that it depends on, so one can be understood without those before it.
//
// Memory, the same for the hart and for QEMU's virt machine, from base on: the program,
// then at fixed offsets the log, the frames that probes access, and the page tables.
//
// Virtual addresses, with the usual tables: the second gigabyte from 0x80000000 on is memory
// itself, for S mode alone, where the handler in S mode runs and logs; the gigabyte below it
// is the same memory, for U mode alone; the first gigabyte is made anew by probes.

const (
	ramSize = 64 << 20 // QEMU puts its device tree at 48 MiB

	logAt    = base + 8<<20
	logEnd   = base + 24<<20
	framesAt = base + 24<<20
	frames   = 16
	slotAt   = base + 25<<20 // two pages that random words are run in
	fileAt   = base + 26<<20 // sets of registers for them
	files    = 16
	tablesAt = base + 28<<20
	results  = tablesAt + 16*pageSize // the end of what is compared

	userAlias = base - 1<<30 // where U mode finds base

	finisher     = 0x10_0000 // QEMU's test finisher; a store ends the program
	finisherPass = 0x5555
	mtimecmp     = 0x200_4000 // of the CLINT; only QEMU has one here
)

// The page tables.
const (
	root48  = tablesAt + iota*pageSize // its first entry leads to root39
	root39                             //
	middle                             // of the first gigabyte
	leaves                             // of its first 2 MiB
	words39                            // of the random words: a table of its own, without the rest
	words1
	words0
)

// Registers of the handlers. All others are the probes'.
const (
	result = asm.S9  // what a probe reads
	vector = asm.S10 // set by the entries of the vectored handlers
	resume = asm.S11 // where M mode goes on after a trap
	tmp1   = asm.T3
	tmp2   = asm.T4
)

const (
	mstatusMIE  = 1 << 3
	mstatusMPIE = 1 << 7
	mstatusMPP  = 3 << 11
	mstatusFS   = 3 << 13
	mstatusMPRV = 1 << 17
	mstatusSUM  = 1 << 18
	mstatusMXR  = 1 << 19
	mstatusTVM  = 1 << 20
	mstatusTW   = 1 << 21
	mstatusTSR  = 1 << 22

	// What is compared of mstatus at a trap. Whether FS is dirty after an instruction that
	// wrote no register is the implementation's choice.
	mstatusLogged = 0x1<<1 | mstatusMIE | 1<<5 | mstatusMPIE | 1<<8 | mstatusMPP | mstatusMPRV | mstatusSUM | mstatusMXR |
		mstatusTVM | mstatusTW | mstatusTSR | 0xf<<32
)

const (
	csrSstatus    = 0x100
	csrSie        = 0x104
	csrStvec      = 0x105
	csrScounteren = 0x106
	csrSenvcfg    = 0x10a
	csrSscratch   = 0x140
	csrSepc       = 0x141
	csrScause     = 0x142
	csrStval      = 0x143
	csrSip        = 0x144
	csrStimecmp   = 0x14d
	csrSatp       = 0x180
	csrMstatus    = 0x300
	csrMisa       = 0x301
	csrMedeleg    = 0x302
	csrMideleg    = 0x303
	csrMie        = 0x304
	csrMtvec      = 0x305
	csrMcounteren = 0x306
	csrMenvcfg    = 0x30a
	csrMscratch   = 0x340
	csrMepc       = 0x341
	csrMcause     = 0x342
	csrMtval      = 0x343
	csrMip        = 0x344
	csrPmpcfg0    = 0x3a0
	csrPmpaddr0   = 0x3b0
	csrMhartid    = 0xf14
)

// Modes, as mstatus.MPP has them.
const (
	modeU = 0
	modeS = 1
	modeM = 3
)

const marker = 0x5052_4f42_4500_0000 // and the number of a probe

// program is a row of probes being made.
type program struct {
	*asm.Code
	rng    *rand.Rand
	probes []string // what each does, for reports
	atomic []bool   // whether it may do an AMO
	labels int
}

// makeProgram makes n probes.
func makeProgram(seed uint64, n int) *program {
	p := &program{Code: asm.New(base), rng: rand.New(rand.NewPCG(seed, 6<<32))}
	p.To("jal", asm.Args{}, "start")
	p.handlers()
	p.Label("start")
	p.prepare()
	for i := range n {
		p.probe(i)
	}
	p.Li(scratch, finisherPass)
	p.Li(tmp1, finisher)
	p.Op("sw", asm.Args{Rs2: scratch, Rs1: tmp1})
	p.Label("end")
	p.To("jal", asm.Args{}, "end")
	p.Finish()
	if p.Here() > logAt {
		panic("the program is too long")
	}
	return p
}

// handlers lays out the trap handlers of M and S mode, each with entries for vectored
// interrupts, which leave their number in vector.
func (p *program) handlers() {
	for _, h := range []struct{ name, entry string }{{"handleM", "vectorsM"}, {"handleS", "vectorsS"}} {
		p.Align(256)
		p.Label(h.entry)
		for range 16 {
			p.To("jal", asm.Args{Rd: vector}, h.name)
		}
	}
	p.Align(4)
	p.Label("handleM")
	p.logTrap(csrMcause, csrMepc, csrMtval, csrMstatus, mstatusLogged)
	p.Op("csrrw", asm.Args{Imm: csrMie})
	p.Li(tmp2, mstatusMPRV|mstatusMPIE)
	p.Op("csrrc", asm.Args{Imm: csrMstatus, Rs1: tmp2})
	p.Li(tmp2, mstatusMPP)
	p.Op("csrrs", asm.Args{Imm: csrMstatus, Rs1: tmp2})
	p.Op("csrrw", asm.Args{Imm: csrMepc, Rs1: resume})
	p.Op("mret", asm.Args{})

	p.Align(4)
	p.Label("handleS")
	p.logTrap(csrScause, csrSepc, csrStval, csrSstatus, mstatusLogged)
	p.Op("ecall", asm.Args{})
}

// logTrap logs what a trap left in the registers, and the entry that it took.
func (p *program) logTrap(cause, epc, tval, status int64, mask uint64) {
	p.Op("csrrs", asm.Args{Rd: tmp1, Imm: cause})
	p.Op("sd", asm.Args{Rs2: tmp1, Rs1: logReg})
	p.Op("csrrs", asm.Args{Rd: tmp2, Imm: epc})
	p.Op("sd", asm.Args{Rs2: tmp2, Rs1: logReg, Imm: 8})
	p.Op("csrrs", asm.Args{Rd: tmp2, Imm: tval})
	// EBREAK: the address, or zero.
	skip := p.label()
	p.Op("addi", asm.Args{Rd: tmp1, Rs1: tmp1, Imm: -3})
	p.To("bne", asm.Args{Rs1: tmp1}, skip)
	p.Op("addi", asm.Args{Rd: tmp2})
	p.Label(skip)
	p.Op("sd", asm.Args{Rs2: tmp2, Rs1: logReg, Imm: 16})
	p.Op("csrrs", asm.Args{Rd: tmp2, Imm: status})
	p.Li(tmp1, mask)
	p.Op("and", asm.Args{Rd: tmp2, Rs1: tmp2, Rs2: tmp1})
	p.Op("sd", asm.Args{Rs2: tmp2, Rs1: logReg, Imm: 24})
	p.Op("sd", asm.Args{Rs2: vector, Rs1: logReg, Imm: 32})
	p.Op("addi", asm.Args{Rd: logReg, Rs1: logReg, Imm: 40})
}

func (p *program) label() string {
	p.labels++
	return fmt.Sprint("p", p.labels)
}

// prepare sets up what stays.
func (p *program) prepare() {
	p.Li(logReg, logAt)
	p.set(csrPmpaddr0+15, 1<<54-1) // the last: probes have others before it
	p.set(csrPmpcfg0+2, pmpAll<<56)
	store := func(at, v uint64) {
		p.Li(tmp1, at)
		p.Li(tmp2, v)
		p.Op("sd", asm.Args{Rs2: tmp2, Rs1: tmp1})
	}
	const open = pteV | pteR | pteW | pteX | pteA | pteD
	store(mtimecmp, ^uint64(0))
	store(root48, pointer(root39))
	store(root39+8*(base>>30), leaf(base, open))
	store(root39+8*(userAlias>>30), leaf(base, open|pteU))
	store(root39, pointer(middle))
	store(words39+8*(base>>30), pointer(words1))
	store(words1+8*((slotAt-base)>>21), pointer(words0))
	for page := range uint64(4) {
		store(words0+8*page, leaf(framesAt+page*pageSize, open&^pteX|pteU))
	}
	p.fill(framesAt, framesAt+dataFrames*pageSize, 0x0123_4567_89ab_cdef)
	p.fill(framesAt+dataFrames*pageSize, framesAt+frames*pageSize, illegalWord<<32|illegalWord)
	p.fill(slotAt, slotAt+2*pageSize, ebreaks)
	for i := range files {
		for r := range 62 {
			v := integer(p.rng)
			if r >= 30 {
				v = float(p.rng)
			} else if p.rng.IntN(3) == 0 {
				v = framesAt + uint64(p.rng.IntN(4*pageSize))
			}
			store(fileAt+uint64(i*512+r*8), v)
		}
	}
}

// fill stores a doubleword all over a range.
func (p *program) fill(from, to, v uint64) {
	p.Li(tmp1, from)
	p.Li(tmp2, v)
	p.Li(scratch, to)
	again := p.label()
	p.Label(again)
	p.Op("sd", asm.Args{Rs2: tmp2, Rs1: tmp1})
	p.Op("addi", asm.Args{Rd: tmp1, Rs1: tmp1, Imm: 8})
	p.To("bne", asm.Args{Rs1: tmp1, Rs2: scratch}, again)
}

// kinds of probes.
var kinds = []struct {
	name string
	make func(p *program, d *description)
}{
	{"CSR", (*program).probeCSR},
	{"number", (*program).probeNumber},
	{"interrupt", (*program).probeInterrupt},
	{"return", (*program).probeReturn},
	{"memory", (*program).probeMemory},
	{"memory", (*program).probeMemory},
	{"fetch", (*program).probeFetch},
	{"word", (*program).probeWord},
	{"word", (*program).probeWord},
	{"word", (*program).probeWord},
}

// description is what a probe does, in words.
type description struct{ strings.Builder }

func (d *description) add(format string, args ...any) { fmt.Fprintf(d, format+"; ", args...) }

func (p *program) probe(n int) {
	p.Li(tmp1, marker|uint64(n))
	p.log(tmp1)
	d := &description{}
	p.atomic = append(p.atomic, false)
	k := kinds[p.rng.IntN(len(kinds))]
	d.add("%s", k.name)
	k.make(p, d)
	p.probes = append(p.probes, strings.TrimSuffix(d.String(), "; "))
}

func (p *program) log(r asm.Reg) {
	p.Op("sd", asm.Args{Rs2: r, Rs1: logReg})
	p.Op("addi", asm.Args{Rd: logReg, Rs1: logReg, Imm: 8})
}

// set writes a CSR in M mode.
func (p *program) set(csr int64, v uint64) {
	if v < 32 {
		p.Op("csrrwi", asm.Args{Imm: csr, Rs1: asm.Reg(v)})
		return
	}
	p.Li(scratch, v)
	p.Op("csrrw", asm.Args{Imm: csr, Rs1: scratch})
}

// get logs a CSR, or the bits of it that are compared.
func (p *program) get(csr int64, mask uint64) {
	p.Op("csrrs", asm.Args{Rd: tmp1, Imm: csr})
	if mask != ^uint64(0) {
		p.Li(tmp2, mask)
		p.Op("and", asm.Args{Rd: tmp1, Rs1: tmp1, Rs2: tmp2})
	}
	p.log(tmp1)
}

// scene is the state that a probe runs in.
type scene struct {
	mode    uint64
	status  uint64 // mstatus, without MPP
	medeleg uint64
	mideleg uint64
	satp    uint64
	vectors uint64 // the mode of mtvec and stvec
}

// enable sets the scene up.
func (p *program) enable(c scene, d *description) {
	p.set(csrMie, 0)
	p.set(csrMip, 0)
	p.set(csrMtvec, p.Address("vectorsM")|c.vectors)
	if c.vectors == 0 {
		p.set(csrMtvec, p.Address("handleM"))
	}
	p.set(csrStvec, p.Address("handleS"))
	if c.vectors == 1 {
		p.set(csrStvec, p.Address("vectorsS")|1)
	}
	p.set(csrMedeleg, c.medeleg)
	p.set(csrMideleg, c.mideleg)
	p.set(csrSatp, c.satp)
	p.Op("sfence.vma", asm.Args{})
	p.set(csrMstatus, c.status&^mstatusMPP)
	p.Op("addi", asm.Args{Rd: vector})
	p.Op("addi", asm.Args{Rd: result, Imm: -1})
	d.add("mode %d, mstatus %#x, medeleg %#x, mideleg %#x, satp %#x, vectors %d", c.mode, c.status&^mstatusMPP, c.medeleg, c.mideleg, c.satp, c.vectors)
}

// inMode runs body in a mode, and comes back by a trap. In M mode body is simply run.
func (p *program) inMode(c scene, body func()) {
	next := p.label()
	p.La(resume, next)
	if c.mode == modeM {
		body()
		p.Label(next)
		return
	}
	inside := p.label()
	p.To("jal", asm.Args{Rd: tmp1}, inside) // tmp1: the address of what follows
	body()
	p.Op("ecall", asm.Args{})
	p.Label(inside)
	p.enter(c, tmp1)
	p.Label(next)
}

// enter goes to a mode at the address in a register.
func (p *program) enter(c scene, at asm.Reg) {
	if c.mode == modeU && c.satp != 0 {
		p.Li(tmp2, base-userAlias)
		p.Op("sub", asm.Args{Rd: at, Rs1: at, Rs2: tmp2})
	}
	p.goTo(c, at)
}

func (p *program) goTo(c scene, at asm.Reg) {
	p.Op("csrrw", asm.Args{Imm: csrMepc, Rs1: at})
	p.Li(tmp2, mstatusMPP)
	p.Op("csrrc", asm.Args{Imm: csrMstatus, Rs1: tmp2})
	p.Li(tmp2, c.mode<<11)
	p.Op("csrrs", asm.Args{Imm: csrMstatus, Rs1: tmp2})
	p.Op("mret", asm.Args{})
}

// anyMode is a mode.
func (p *program) anyMode() uint64 { return []uint64{modeU, modeS, modeM}[p.rng.IntN(3)] }

// Page-table entries (privileged specification, "Sv39").
const (
	pteV = 1 << iota
	pteR
	pteW
	pteX
	pteU
	pteG
	pteA
	pteD
)

func pointer(table uint64) uint64        { return table>>12<<10 | pteV }
func leaf(at uint64, bits uint64) uint64 { return at>>12<<10 | bits }

func le64(p []byte, at int) uint64 { return binary.LittleEndian.Uint64(p[at:]) }
