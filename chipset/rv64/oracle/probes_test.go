package oracle

import (
	"ft/chipset/rv64/oracle/asm"
)

// csrSpec is a register that probes read and write.
type csrSpec struct {
	number int64
	name   string
	write  uint64 // bits that are written; the others are 0
	read   uint64 // bits that are compared
}

// Bits of interrupts that there are with and without the hypervisor extension and others
// that QEMU has.
const (
	interruptsS = 1<<1 | 1<<5 | 1<<9
	interrupts  = interruptsS | 1<<3 | 1<<7 | 1<<11
	// Exceptions that can be delegated.
	exceptions = 0xb3ff
	statusAll  = mstatusLogged | mstatusFS | 1<<63
	// What QEMU can change: the widths of registers, and the state of vectors and extensions.
	statusMore = 0xf<<32 | 3<<9 | 3<<15
	statusS    = 1<<1 | 1<<5 | 1<<8 | mstatusFS | mstatusSUM | mstatusMXR | 3<<32 | 1<<63
	all        = ^uint64(0)
)

// The registers. What is left out of the masks is up to the implementation: fields that may
// be hard-wired (QEMU's counters, PMP finer than a page), features that only one side has,
// and what differs in time. Modes 2 and 3 of tvec, odd epc and satp modes that are reserved
// are not written for the same reason.
var csrSpecs = []csrSpec{
	{csrFflags, "fflags", all, all}, {csrFrm, "frm", all, all}, {csrFcsr, "fcsr", all, all},
	{csrSstatus, "sstatus", all &^ statusMore, statusS}, {csrSie, "sie", all, interruptsS}, {csrStvec, "stvec", all &^ 2, all},
	{csrScounteren, "scounteren", all, 7}, {csrSenvcfg, "senvcfg", 1, 1}, {csrSscratch, "sscratch", all, all},
	{csrSepc, "sepc", all &^ 1, all}, {csrScause, "scause", all, all}, {csrStval, "stval", all, all},
	{csrSip, "sip", all, interruptsS}, {csrSatp, "satp", 8<<60 | 0xfff_ffff_ffff, all},
	{csrStimecmp, "stimecmp", all, all},
	{csrMstatus, "mstatus", all &^ statusMore, statusAll}, {csrMisa, "misa", 0, 3<<62 | 1<<0 | 1<<2 | 1<<3 | 1<<5 | 1<<8 | 1<<12 | 1<<18 | 1<<20},
	{csrMedeleg, "medeleg", exceptions, exceptions}, {csrMideleg, "mideleg", interruptsS, interruptsS},
	{csrMie, "mie", all, interrupts}, {csrMtvec, "mtvec", all &^ 2, all}, {csrMcounteren, "mcounteren", all, 7},
	{csrMenvcfg, "menvcfg", 1 | 1<<63, 1 | 1<<63}, {csrMscratch, "mscratch", all, all},
	{csrMepc, "mepc", all &^ 1, all}, {csrMcause, "mcause", all, all}, {csrMtval, "mtval", all, all},
	{csrMip, "mip", all, interruptsS}, {csrMhartid, "mhartid", all, all}, {0xf11, "mvendorid", all, all},
}

var csrWriters = []string{"csrrw", "csrrs", "csrrc", "csrrwi", "csrrsi", "csrrci"}

// plainScene is one without translation.
func (p *program) plainScene() scene {
	return scene{
		mode: p.anyMode(), medeleg: integer(p.rng) & exceptions &^ (1 << 9), // the handler in S mode ends in an ECALL
		mideleg: integer(p.rng) & interruptsS, vectors: p.rng.Uint64N(2),
	}
}

// on and off change bits of mstatus in M mode.
func (p *program) on(bits uint64)  { p.status("csrrs", bits) }
func (p *program) off(bits uint64) { p.status("csrrc", bits) }

func (p *program) status(op string, bits uint64) {
	p.Li(scratch, bits)
	p.Op(op, asm.Args{Imm: csrMstatus, Rs1: scratch})
}

// readBack logs registers in M mode.
func (p *program) readBack(specs ...csrSpec) {
	after := p.label()
	p.La(resume, after) // should one trap
	for _, s := range specs {
		p.get(s.number, s.read)
	}
	p.Label(after)
}

// probeCSR accesses a register in a mode, and reads it back in M mode.
func (p *program) probeCSR(d *description) {
	spec := csrSpecs[p.rng.IntN(len(csrSpecs))]
	c := p.plainScene()
	c.status = integer(p.rng) & (mstatusFS | mstatusTVM | mstatusTW | mstatusTSR | mstatusSUM | mstatusMXR)
	switch spec.number {
	case csrMtvec: // nothing may trap
		c.mode = modeM
	case csrStvec:
		c.medeleg = 0
	}
	p.counters(d)
	name, before, operand := p.csrValues(spec, c.mode)
	p.enable(c, d)
	if spec.write != 0 && spec.number != csrMstatus && spec.number>>10 != 3 {
		p.on(mstatusFS)
		p.set(spec.number, before)
		if spec.number != csrSstatus {
			p.off(^c.status & mstatusFS)
		}
		d.add("%s is %#x", spec.name, before)
	}
	a := asm.Args{Rd: result, Imm: spec.number, Rs1: asm.T0}
	switch {
	case name == "":
		name, a.Rs1 = "csrrs", asm.Zero
	case name[len(name)-1] == 'i':
		a.Rs1 = asm.Reg(operand & 31)
	}
	p.Li(asm.T0, operand)
	d.add("%s, x5 is %#x (%s)", asm.Named(name).Text(a), operand, spec.name)
	p.inMode(c, func() { p.Op(name, a) })
	p.Li(tmp2, spec.read)
	p.Op("and", asm.Args{Rd: result, Rs1: result, Rs2: tmp2})
	p.log(result)
	if spec.number <= csrFcsr {
		p.on(mstatusFS)
	}
	p.readBack(spec)
}

// csrValues chooses how a register is accessed, and with what; no name means that it is
// only read.
func (p *program) csrValues(spec csrSpec, mode uint64) (name string, before, operand uint64) {
	name = csrWriters[p.rng.IntN(len(csrWriters))]
	before, operand = integer(p.rng)&spec.write, integer(p.rng)&spec.write
	switch spec.number {
	case csrSatp:
		// A mode with nothing else set, or with a root; S mode would lose its code.
		if before>>60 == 0 || mode != modeM {
			before = 0
		}
		if operand>>60 == 0 || mode != modeM {
			operand = 0
		}
		name = "csrrw"
	case csrMedeleg: // of the ECALL that ends S mode's handler
		before &^= 1 << 9
	case csrMstatus:
		if operand>>11&3 == 2 {
			operand |= mstatusMPP
		}
	}
	if spec.write == 0 || p.rng.IntN(8) == 0 {
		name = ""
	}
	return name, before, operand
}

// counters opens or closes the counters to lower modes, and Sstc to S mode.
func (p *program) counters(d *description) {
	m, s, env := p.rng.Uint64N(8), p.rng.Uint64N(8), p.rng.Uint64N(2)<<63
	p.set(csrMcounteren, m)
	p.set(csrScounteren, s)
	p.set(csrMenvcfg, env)
	p.set(csrStimecmp, all)
	d.add("mcounteren %d, scounteren %d, menvcfg %#x", m, s, env)
}

// probeNumber reads a register of any number: whether there is one is what counts.
func (p *program) probeNumber(d *description) {
	n := csrSpecs[p.rng.IntN(len(csrSpecs))].number
	if p.rng.IntN(4) == 0 { // mcycle, minstret, cycle, time, instret
		n = []int64{0xb00, 0xb02, 0xc00, 0xc01, 0xc02}[p.rng.IntN(5)]
	}
	for p.rng.IntN(2) == 0 || optional(n) {
		n = int64(p.rng.IntN(4096))
	}
	c := p.plainScene()
	c.status = integer(p.rng) & (mstatusFS | mstatusTVM)
	p.counters(d)
	p.enable(c, d)
	d.add("read %#x", n)
	p.inMode(c, func() {
		p.Op("csrrs", asm.Args{Rd: result, Imm: n})
		p.Op("addi", asm.Args{Rd: result})
	})
	p.log(result)
}

// probeInterrupt has interrupts pending and enabled, or not, when it enters a mode.
func (p *program) probeInterrupt(d *description) {
	c := p.plainScene()
	c.status = integer(p.rng) & (1<<1 | mstatusMPIE | 1<<5)
	pending, enabled := integer(p.rng)&interruptsS, integer(p.rng)&interrupts
	// QEMU 7.2 has an order of its own: no two of them for the same mode.
	for _, mode := range []uint64{c.mideleg, ^c.mideleg} {
		ready := pending & enabled & mode
		pending &^= ready & (ready - 1)
	}
	p.set(csrMenvcfg, 0)
	p.enable(c, d)
	d.add("mip %#x, mie %#x", pending, enabled)
	p.set(csrMip, pending)
	p.set(csrMie, enabled)
	p.inMode(c, func() {
		if c.mode == modeM {
			p.Op("csrrsi", asm.Args{Imm: csrMstatus, Rs1: mstatusMIE})
			p.Op("addi", asm.Args{})
			p.Op("csrrci", asm.Args{Imm: csrMstatus, Rs1: mstatusMIE})
			return
		}
		p.Op("addi", asm.Args{})
	})
	p.readBack(csrSpec{number: csrMip, read: interruptsS}, csrSpec{number: csrSip, read: interruptsS}, csrSpec{number: csrMstatus, read: mstatusLogged})
}

// probeReturn is one of the privileged instructions without operands.
func (p *program) probeReturn(d *description) {
	name := []string{"sret", "mret", "sfence.vma", "wfi"}[p.rng.IntN(4)]
	c := p.plainScene()
	c.status = integer(p.rng) & (mstatusTVM | mstatusTW | mstatusTSR | 1<<8 | 1<<5 | 1<<1 | mstatusMPIE) // QEMU 7.2 keeps MPRV
	mpp := p.anyMode()
	p.enable(c, d)
	if name == "wfi" { // there is something to wake up for, whether it is taken or not
		p.set(csrMideleg, interruptsS)
		p.set(csrMip, 1<<1)
		p.set(csrMie, 1<<1)
	}
	d.add("%s, mpp %d", name, mpp)
	landing, over := p.label(), p.label()
	p.To("jal", asm.Args{Rd: tmp1}, over)
	p.Label(landing)
	p.Op("ecall", asm.Args{})
	p.Label(over)
	p.Op("csrrw", asm.Args{Imm: csrSepc, Rs1: tmp1})
	p.inMode(c, func() {
		if c.mode == modeM && name == "mret" {
			p.Op("csrrw", asm.Args{Imm: csrMepc, Rs1: tmp1})
			p.off(mstatusMPP)
			p.on(mpp << 11)
		}
		p.Op(name, asm.Args{})
	})
}

// optional says whether a register may be there on one side alone.
func optional(n int64) bool {
	between := func(low, high int64) bool { return n >= low && n <= high }
	return between(0xb03, 0xb1f) || between(0xc03, 0xc1f) || between(0x320, 0x33f) || // QEMU is given no counters,
		between(0x7a0, 0x7a3) || // nor triggers,
		n == 0x24d // and has vstimecmp without the hypervisor extension
}
