package oracle

import (
	"ft/chipset/rv64/oracle/asm"
)

// Probes of random instruction words, legal or not.

const ebreaks = 0x9002_9002_9002_9002 // four C.EBREAK

// word is an instruction word that is safe to run: one that does not write the registers
// that handlers need, nor jumps to itself, nor waits.
func (p *program) word() uint32 {
	for {
		var w uint32
		switch p.rng.IntN(4) {
		case 0: // a half
			w = p.rng.Uint32N(1 << 16)
			if w&3 == 3 {
				continue
			}
		case 1:
			w = p.rng.Uint32() | 3
		default: // close to something legal
			w = p.legal()
			for range p.rng.IntN(3) {
				w ^= 1 << p.rng.IntN(32)
			}
			if w&3 != 3 {
				w &= 1<<16 - 1
			}
		}
		rd := asm.Reg(w >> 7 & 31)
		self := w&0x7f == 0x6f && w>>12 == 0 || w&0x7f == 0x63 && w&0xfe00_0f80 == 0 ||
			w&3 == 1 && (w>>13&7 == 5 && w&0x1ffc == 0 || w>>14&3 == 3 && w&0x1c7c == 0)
		const wfi = 0x1050_0073
		conditional := w&0x7f == 0x2f && w>>27 == 3 // SC: see atomics
		if rd < result && !self && w != wfi && !conditional {
			return w
		}
	}
}

// legal is the word of a random operation with random operands.
func (p *program) legal() uint32 {
	tables := [][]asm.Op{asm.Full, asm.Atomics, asm.Floats}
	table := tables[p.rng.IntN(len(tables))]
	o := &table[p.rng.IntN(len(table))]
	w, _ := o.Encode(asm.Args{})
	reg := func() uint32 { return p.rng.Uint32N(uint32(result)) }
	w |= reg() << 7
	switch o.Format {
	case asm.Fixed, asm.SFence:
		w &^= 31 << 7
	case asm.I, asm.Load, asm.FLoad, asm.Store, asm.FStore, asm.Branch, asm.CSR, asm.CSRI:
		w |= reg()<<15 | p.rng.Uint32()&0xfff0_0000
	case asm.U, asm.J:
		w |= p.rng.Uint32() & 0xffff_f000
	case asm.F2R, asm.F4:
		w |= reg()<<15 | reg()<<20 | p.rng.Uint32()&0x7000
		if o.Format == asm.F4 {
			w |= reg() << 27
		}
	case asm.F2, asm.FToX, asm.XToF:
		w |= reg()<<15 | p.rng.Uint32()&0x7000
	case asm.LR, asm.FClass, asm.MvXF, asm.MvFX:
		w |= reg() << 15
	default:
		w |= reg()<<15 | reg()<<20
	}
	return w
}

// Registers of S mode that a word may change.
var wordCSRs = []csrSpec{
	{number: csrSscratch, read: all}, {number: csrSepc, read: all}, {number: csrScause, read: all}, {number: csrStval, read: all},
	{number: csrScounteren, read: 7}, {number: csrSenvcfg, read: 1}, {number: csrSie, read: interruptsS},
}

// probeWord runs a word in U or S mode with all registers set, and logs all of them.
func (p *program) probeWord(d *description) {
	c := scene{mode: p.rng.Uint64N(2), satp: satpSv39 | words39>>12}
	c.status = integer(p.rng)&mstatusFS | mstatusTVM | mstatusTW | mstatusTSR | mstatusSUM
	w := p.word()
	p.atomic[len(p.probes)] = w&0x7f == 0x2f
	at := slotAt + []uint64{0x800, 0xffc, 0xffe}[p.rng.IntN(3)]
	second := p.rng.Uint64N(2)
	file := uint64(fileAt + p.rng.IntN(files)*512)
	mode := []uint64{0, 1, 2, 3, 4, 5, 6, 7}[p.rng.IntN(8)]

	store := func(op string, at, v uint64) {
		p.Li(tmp1, at)
		p.Li(tmp2, v)
		p.Op(op, asm.Args{Rs2: tmp2, Rs1: tmp1})
	}
	code := uint64(pteV | pteR | pteX | pteA)
	if c.mode == modeU {
		code |= pteU
	}
	entries := uint64(words0 + (slotAt-base)>>12&511*8)
	store("sd", entries, leaf(slotAt, code))
	store("sd", entries+8, leaf(slotAt+pageSize, code)*second)
	for _, v := range []uint64{0x800, 0xff8, 0x1000} {
		store("sd", slotAt+v, ebreaks)
	}
	store("sh", at, uint64(w))
	if w&3 == 3 {
		store("sh", at+2, uint64(w>>16))
	}
	p.Op("fence.i", asm.Args{})
	for _, s := range wordCSRs {
		p.set(s.number, 0)
	}
	p.set(csrMcounteren, 0)
	p.set(csrMenvcfg, 0)
	p.on(mstatusFS)
	p.set(csrFcsr, mode<<5)
	p.Li(tmp1, file)
	for r := range int64(32) {
		p.Op("fld", asm.Args{Rd: asm.Reg(r), Rs1: tmp1, Imm: 8 * (30 + r)})
	}
	p.enable(c, d)
	d.add("word %#08x at %#x, second page %d, registers at %#x, frm %d", w, at, second, file, mode)
	next := p.label()
	p.Li(tmp1, at)
	p.Op("csrrw", asm.Args{Imm: csrMepc, Rs1: tmp1})
	p.on(c.mode << 11)
	p.Li(tmp1, file)
	for r := asm.RA; r < result; r++ {
		p.Op("ld", asm.Args{Rd: r, Rs1: tmp1, Imm: 8 * int64(r)})
	}
	p.La(resume, next)
	p.Op("mret", asm.Args{})
	p.Label(next)
	for r := asm.RA; r < result; r++ {
		p.Op("sd", asm.Args{Rs2: r, Rs1: logReg, Imm: 8 * int64(r-1)})
	}
	p.on(mstatusFS)
	for r := range int64(32) {
		p.Op("fsd", asm.Args{Rs2: asm.Reg(r), Rs1: logReg, Imm: 8 * (24 + r)})
	}
	p.Op("addi", asm.Args{Rd: logReg, Rs1: logReg, Imm: 8 * (24 + 32)})
	p.readBack(append(wordCSRs, csrSpec{number: csrFcsr, read: all})...)
}
