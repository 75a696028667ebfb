package oracle

import (
	"slices"
	"strings"

	"ft/chipset/rv64/oracle/asm"
)

// Probes of address translation and of physical memory protection.

// Frames that may be stored to, and those that may be executed. The latter are full of a
// word that is illegal, whichever of its halves a fetch begins with.
const (
	dataFrames  = 8
	illegalWord = 0x0073_0073
)

// place is where a probe accesses memory.
type place struct {
	va     uint64
	satp   uint64
	stores [][2]uint64 // to the page tables: address and entry
	// Whether an access may lie across two pages. Which of two faults is taken then, if not
	// both are page faults, and whether PMP looks at the parts, is the implementation's choice.
	across bool
}

// hole is a physical address at which there is nothing.
func (p *program) hole() uint64 {
	return []uint64{0x9000_0000, 0x1_0000_0000, 0xff_ffff_f000, 0xff_ffff_ffff_f000}[p.rng.IntN(4)]
}

// entry is a random leaf for one of n frames from the first on, or another random entry.
func (p *program) entry(pl *place, first, n uint64) uint64 {
	bits := uint64(pteV | pteA | pteD)
	switch p.rng.IntN(3) {
	case 0:
		bits |= p.rng.Uint64N(16) << 1 // R, W, X, U
	case 1:
		bits = p.rng.Uint64N(1024)
	case 2:
		bits |= []uint64{pteR, pteR | pteW, pteX, pteR | pteX, pteR | pteW | pteX}[p.rng.IntN(5)] | p.rng.Uint64N(2)*pteU
		if p.rng.IntN(2) == 0 {
			bits &^= []uint64{pteA, pteD, pteA | pteD}[p.rng.IntN(3)]
		}
	}
	at := framesAt + (first+p.rng.Uint64N(n))*pageSize
	switch n := p.rng.IntN(24); {
	case n == 0 && !pl.across && bits&(pteR|pteW|pteX) != 0:
		at = p.hole()
	case n == 1:
		bits |= 1 << (54 + p.rng.IntN(10))
	}
	return leaf(at, bits)
}

// place chooses an address and makes the page tables for it. The frames that can be
// reached through them are n from the first on.
func (p *program) place(first, n uint64, d *description) place {
	pl := place{satp: satpSv39 | root39>>12}
	switch p.rng.IntN(6) {
	case 0:
		pl.satp = 9<<60 | root48>>12
	case 1:
		pl.satp = 0
	}
	offset := p.rng.Uint64N(n * pageSize)
	if p.rng.IntN(4) == 0 { // across a page boundary
		offset = offset&^(pageSize-1) | (pageSize - 1 - p.rng.Uint64N(8))
	}
	pl.across = offset%pageSize > pageSize-8
	store := func(at, v uint64) {
		pl.stores = append(pl.stores, [2]uint64{at, v})
		d.add("[%#x] = %#x", at, v)
	}
	store(root39, pointer(middle))
	store(middle, pointer(leaves))
	if p.rng.IntN(8) == 0 { // a pointer with bits that it should not have
		store(middle, pointer(leaves)|p.rng.Uint64N(1024))
	}
	switch p.rng.IntN(8) {
	default: // 4 KiB pages
		page := p.rng.Uint64N(510)
		pl.va = page<<12 | offset%pageSize
		store(leaves+8*page, p.entry(&pl, first, n))
		store(leaves+8*page+8, p.entry(&pl, first, n))
	case 0: // 2 MiB
		at := 1 + p.rng.Uint64N(511)
		pl.va = at<<21 | first*pageSize + offset
		v := p.entry(&pl, first, 1) &^ (511 << 10)
		if p.rng.IntN(4) == 0 { // misaligned
			v |= 1 << (10 + p.rng.IntN(9))
		}
		store(middle+8*at, v)
	case 1: // 1 GiB
		pl.va = 3<<30 | (framesAt - base) + first*pageSize + offset
		v := p.entry(&pl, first, 1)
		v = v&1023 | base>>12<<10 | v>>54<<54
		// A misaligned leaf. A pointer to where there is no memory is a page fault in QEMU.
		if v&(pteR|pteW|pteX) != 0 && p.rng.IntN(4) == 0 {
			v |= 1 << (10 + p.rng.IntN(18))
		}
		store(root39+8*3, v)
	case 2: // what needs no tables of its own
		pl.va = framesAt + first*pageSize + offset
		switch p.rng.IntN(4) {
		case 0:
			pl.va -= base - userAlias
		case 1:
			pl.va = p.hole()
		case 2:
			pl.va |= 1 << (38 + p.rng.IntN(26))
		}
	}
	if pl.satp == 0 && pl.va < framesAt {
		pl.va = framesAt + first*pageSize + offset
	}
	d.add("address %#x", pl.va)
	return pl
}

// write writes the page tables of a place.
func (p *program) write(pl place) {
	for _, s := range pl.stores {
		p.Li(tmp1, s[0])
		p.Li(tmp2, s[1])
		p.Op("sd", asm.Args{Rs2: tmp2, Rs1: tmp1})
	}
}

// mark sets bits in the leaf entries of a place.
func (p *program) mark(pl place, bits int64) {
	for _, s := range pl.stores {
		if s[1]&(pteR|pteW|pteX) == 0 {
			continue
		}
		p.Li(tmp1, s[0])
		p.Op("ld", asm.Args{Rd: tmp2, Rs1: tmp1})
		p.Op("ori", asm.Args{Rd: tmp2, Rs1: tmp2, Imm: bits})
		p.Op("sd", asm.Args{Rs2: tmp2, Rs1: tmp1})
	}
}

func (p *program) translated(satp uint64) scene {
	c := p.plainScene()
	c.satp = satp
	c.status = integer(p.rng)&(mstatusSUM|mstatusMXR) | mstatusFS
	return c
}

var accesses = func() (names []string) {
	names = append(names, loadOps...)
	names = append(names, storeOps...)
	names = append(names, floatLoadOps...)
	names = append(names, floatStoreOps...)
	return append(names, "c.lw", "c.ld", "c.sw", "c.sd", "c.fld", "c.fsd")
}()

// atomics are without SC, which QEMU lets fail before it looks at the address.
var atomics = slices.DeleteFunc(ofFormat(asm.Atomics, asm.AMO, asm.LR), func(name string) bool {
	return strings.HasPrefix(name, "sc.")
})

// probeMemory loads or stores through page tables, in a lower mode or in M mode with MPRV.
func (p *program) probeMemory(d *description) {
	pl := p.place(0, dataFrames, d)
	c := p.translated(pl.satp)
	name := accesses[p.rng.IntN(len(accesses))]
	if p.rng.IntN(4) == 0 {
		name = atomics[p.rng.IntN(len(atomics))]
		c.medeleg = 0 // see allow
		p.atomic[len(p.probes)] = true
		if p.rng.IntN(4) > 0 {
			pl.va &^= asm.Named(name).Size - 1
			d.add("aligned to %#x", pl.va)
		}
	}
	value := integer(p.rng)
	as := p.anyMode()
	if as == modeM && c.mode == modeM { // no translation, with MPRV or without
		pl.va = framesAt + pl.va%(dataFrames*pageSize-8)
	}
	p.write(pl)
	if !pl.across && p.rng.IntN(3) == 0 {
		p.mark(pl, pteA|pteD) // QEMU sets them where PMP forbids it
		// From here on M mode too must not access what an entry covers in part.
		if p.protect(d) {
			c.medeleg = 0 // S mode's handler needs the page tables
		}
	}
	p.enable(c, d)
	p.Li(asm.A0, pl.va)
	p.Li(asm.A1, value)
	p.Li(asm.A2, value)
	p.Op("fmv.d.x", asm.Args{Rd: asm.A1, Rs1: asm.A1})
	d.add("%s", name)
	p.inMode(c, func() {
		if c.mode == modeM {
			d.add("with MPRV as mode %d", as)
			p.off(mstatusMPP)
			p.on(mstatusMPRV | as<<11)
		}
		p.Op(name, asm.Args{Rd: asm.A1, Rs1: asm.A0, Rs2: asm.A1})
		if c.mode == modeM {
			p.off(mstatusMPRV)
		}
	})
	p.set(csrPmpcfg0, 0)
	p.log(asm.A1)
	p.Op("fmv.x.d", asm.Args{Rd: tmp1, Rs1: asm.A1})
	p.log(tmp1)
	if p.atomic[len(p.probes)] {
		// QEMU loads first: A is set where a store is not allowed, and D is not where there
		// is no memory.
		p.mark(pl, pteA|pteD)
	}
}

// probeFetch jumps to an address: what is there is illegal, so it comes back in any case.
func (p *program) probeFetch(d *description) {
	pl := p.place(dataFrames, frames-dataFrames, d)
	c := p.translated(pl.satp)
	if c.mode == modeM {
		c.mode = modeS
	}
	pl.va &^= 1
	p.write(pl)
	p.enable(c, d)
	d.add("jump to %#x", pl.va)
	next := p.label()
	p.La(resume, next)
	p.Li(tmp1, pl.va)
	p.goTo(c, tmp1)
	p.Label(next)
}

// protect sets up to eight PMP entries over the frames or, which it says, the page tables;
// some begin or end inside a page.
func (p *program) protect(d *description) (tables bool) {
	from := uint64(framesAt)
	if tables = p.rng.IntN(6) == 0; tables {
		from = tablesAt
	}
	config := uint64(0)
	for i := range 1 + p.rng.Int64N(8) {
		mode := p.rng.Uint64N(4) // off, TOR, NA4, NAPOT
		if i == 0 && mode == 1 { // would begin at 0 and be all over the program
			mode = 0
		}
		at := from + p.rng.Uint64N(frames)*pageSize
		if p.rng.IntN(3) == 0 {
			at += p.rng.Uint64N(pageSize/4) * 4
		}
		addr := at >> 2
		if mode == 3 {
			size := uint64(8) << p.rng.IntN(13)
			addr = at&^(size-1)>>2 | (size/8 - 1)
		}
		access := []uint64{0, 1, 3, 4, 5, 7}[p.rng.IntN(6)] // not W without R
		p.set(csrPmpaddr0+i, addr)
		config |= (mode<<3 | access) << (8 * i)
		d.add("pmpaddr%d = %#x", i, addr)
	}
	p.set(csrPmpcfg0, config)
	d.add("pmpcfg0 = %#x", config)
	return tables
}
