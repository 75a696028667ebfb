package rv64

import "testing"

// paging makes page tables in a board's memory, from its end downwards.
type paging struct {
	b      *board
	root   uint64
	next   uint64
	levels uint
}

func (b *board) paging(levels uint) *paging {
	p := &paging{b: b, next: ramBase + b.ramSize, levels: levels}
	p.root = p.table()
	return p
}

func (p *paging) table() uint64 {
	p.next -= pageSize
	return p.next
}

// put maps va to pa at a level (0: a page of 4 KiB) and returns the entry's address.
func (p *paging) put(va, pa, flags uint64, level uint) uint64 {
	table := p.root
	for l := p.levels - 1; l > level; l-- {
		at := table + va>>(12+9*l)&511*8
		e := p.b.peek64(at)
		if e&pteV == 0 {
			e = p.table()>>12<<ptePPNShift | pteV
			p.b.poke64(at, e)
		}
		table = e >> ptePPNShift << 12
	}
	at := table + va>>(12+9*level)&511*8
	p.b.poke64(at, pa>>12<<ptePPNShift|flags)
	return at
}

// on switches translation on, in S mode at pc, with all of memory mapped one to one for
// it by a superpage.
func (p *paging) on(pc uint64) {
	p.put(ramBase, ramBase, pteV|pteR|pteW|pteX|pteA|pteD, 1)
	p.b.EnterSupervisor(pc, 0, 0)
	p.enable()
}

func (p *paging) enable() {
	mode := uint64(satpSv39)
	if p.levels == 4 {
		mode = satpSv48
	}
	p.b.writeCSR(csrSatp, mode<<60|p.root>>12)
	p.b.writeCSR(csrStvec, handler)
}

const (
	handler = ramBase + 0x800 // a place to trap to
	pageA   = ramBase + 0x10000
	pageB   = ramBase + 0x11000
	vaA     = 0x4000_0000
	vaB     = 0x4000_1000
	leafRWX = pteV | pteR | pteW | pteX
	leafAll = leafRWX | pteA | pteD
)

// trapped wants that the last step trapped to S mode.
func (b *board) trapped(cause, value, pc uint64) {
	b.t.Helper()
	b.want("pc", b.PC(), handler)
	b.want("scause", b.Hart.csr.scause, cause)
	b.want("stval", b.Hart.csr.stval, value)
	b.want("sepc", b.Hart.csr.sepc, pc)
}

func TestTranslation(t *testing.T) {
	const (
		load  = iota // of a doubleword from va
		store        // to it
		fetch        // a jump to it
	)
	ok := ^uint64(0)
	for _, c := range []struct {
		name   string
		va     uint64
		e      uint64 // flags of its entry
		level  uint
		levels uint
		access int
		user   bool
		status uint64
		cause  uint64 // or ok
	}{
		{"load", vaA, leafAll, 0, 3, load, false, 0, ok},
		{"store", vaA, leafAll, 0, 3, store, false, 0, ok},
		{"fetch", vaA, leafAll, 0, 3, fetch, false, 0, ok},
		{"an invalid entry", vaA, leafAll &^ pteV, 0, 3, load, false, 0, causeLoadPage},
		{"an invalid entry", vaA, leafAll &^ pteV, 0, 3, store, false, 0, causeStorePage},
		{"an invalid entry", vaA, leafAll &^ pteV, 0, 3, fetch, false, 0, causeFetchPage},
		{"a load without R", vaA, pteV | pteX | pteA, 0, 3, load, false, 0, causeLoadPage},
		{"a load without R, MXR", vaA, pteV | pteX | pteA, 0, 3, load, false, mstatusMXR, ok},
		{"a load without R or X, MXR", vaA, pteV | pteA, 0, 3, load, false, mstatusMXR, causeLoadPage},
		{"a store without W", vaA, leafAll &^ pteW, 0, 3, store, false, 0, causeStorePage},
		{"a fetch without X", vaA, leafAll &^ pteX, 0, 3, fetch, false, 0, causeFetchPage},
		{"a fetch without X, MXR", vaA, leafAll &^ pteX, 0, 3, fetch, false, mstatusMXR, causeFetchPage},
		{"W without R", vaA, leafAll &^ pteR, 0, 3, load, false, 0, causeLoadPage},
		{"a user's page by S", vaA, leafAll | pteU, 0, 3, load, false, 0, causeLoadPage},
		{"a user's page by S, SUM", vaA, leafAll | pteU, 0, 3, load, false, mstatusSUM, ok},
		{"a store to a user's page by S, SUM", vaA, leafAll | pteU, 0, 3, store, false, mstatusSUM, ok},
		{"a fetch of a user's page by S, SUM", vaA, leafAll | pteU, 0, 3, fetch, false, mstatusSUM, causeFetchPage},
		{"a user's page by a user", vaA, leafAll | pteU, 0, 3, load, true, 0, ok},
		{"a fetch of a user's page by a user", vaA, leafAll | pteU, 0, 3, fetch, true, 0, ok},
		{"S mode's page by a user", vaA, leafAll, 0, 3, load, true, mstatusSUM, causeLoadPage},
		{"a global page", vaA, leafAll | pteG, 0, 3, load, false, 0, ok},
		{"software's bits", vaA, leafAll | 3<<8, 0, 3, load, false, 0, ok},
		{"reserved bits", vaA, leafAll | 1<<54, 0, 3, load, false, 0, causeLoadPage},
		{"NAPOT", vaA, leafAll | 1<<63, 0, 3, load, false, 0, causeLoadPage},
		{"PBMT", vaA, leafAll | 1<<61, 0, 3, load, false, 0, causeLoadPage},
		{"a superpage of 2 MiB", vaA + 0x1234568, leafAll, 1, 3, load, false, 0, ok},
		{"a superpage of 1 GiB", vaA + 0x234568, leafAll, 2, 3, load, false, 0, ok},
		{"a superpage that is not aligned", vaA, leafAll | 1<<ptePPNShift, 1, 3, load, false, 0, causeLoadPage},
		{"a gigapage that is not aligned", vaA, leafAll | 1<<19, 2, 3, load, false, 0, causeLoadPage},
		{"a pointer on the lowest level", vaA, pteV, 0, 3, load, false, 0, causeLoadPage},
		{"a pointer with A", vaA, pteV | pteA, 1, 3, load, false, 0, causeLoadPage},
		{"a pointer with U", vaA, pteV | pteU, 1, 3, load, false, 0, causeLoadPage},
		{"a table that is not in RAM", vaA, pteV | 1<<ptePPNShift, 1, 3, load, false, 0, causeLoadAccess},
		{"the top of the low half", 0x3f_ffff_f000, leafAll, 0, 3, load, false, 0, ok},
		{"behind it", 0x40_0000_0000, leafAll, 0, 3, load, false, 0, causeLoadPage},
		{"the bottom of the high half", 0xffff_ffc0_0000_0000, leafAll, 0, 3, load, false, 0, ok},
		{"before it", 0xffff_ffbf_ffff_f000, leafAll, 0, 3, store, false, 0, causeStorePage},
		{"a fetch before it", 0xffff_ffbf_ffff_f000, leafAll, 0, 3, fetch, false, 0, causeFetchPage},
		{"Sv48", 0x7fff_4000_0000, leafAll, 0, 4, load, false, 0, ok},
		{"Sv48, not canonical", 0x8000_4000_0000, leafAll, 0, 4, load, false, 0, causeLoadPage},
		{"Sv48, 512 GiB", 0x7f80_0000_0000, leafAll, 3, 4, load, false, 0, ok},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBoard(t, func(cfg *Config) { cfg.Sv48 = true })
			p := b.paging(c.levels)
			pa := pageA &^ (uint64(1)<<(12+9*c.level) - 1)
			if c.e&(pteR|pteX) == 0 { // a table, outside RAM
				pa = 0
			}
			p.put(c.va, pa, c.e, c.level)
			const want = uint64(pageA + 0x568)
			if c.level == 0 || c.e&(pteR|pteX) == 0 {
				c.va += 0x568
			} else {
				c.va = c.va&^(1<<(12+9*c.level)-1) + want - pa
			}
			b.poke64(want, 0x1234_5678_9abc_def0)
			code := assemble(ramBase + 0x100)
			code.word([]uint32{encI(0x03, 3, t0, a0, 0), encS(0x23, 3, a0, a1, 0), encI(0x67, 0, ra, a0, 0)}[c.access])
			b.load(code)
			p.on(code.at)
			start := uint64(code.at)
			if c.user { // the code has to be the user's, too
				start = vaB + 0x100
				p.put(vaB, ramBase, leafAll|pteU, 0)
				b.SetPriv(User)
			}
			b.SetPC(start)
			b.writeCSR(csrMstatus, c.status|mstatusFS)
			b.SetReg(a0, c.va)
			b.SetReg(a1, 0x5555)
			if c.cause == ok && c.access == fetch {
				b.poke64(want, uint64(encI(0x13, 0, a2, zero, 77)))
				b.run(2)
				b.want("a2", b.Reg(a2), 77)
				b.want("pc", b.PC(), c.va+4)
				return
			}
			b.run(1)
			switch {
			case c.cause == ok && c.access == load:
				b.want("t0", b.Reg(t0), 0x1234_5678_9abc_def0)
			case c.cause == ok:
				b.want("memory", b.peek64(want), 0x5555)
			case c.access == fetch:
				b.run(1)
				b.trapped(c.cause, c.va, c.va)
			default:
				b.trapped(c.cause, c.va, start)
			}
		})
	}
}

// A and D are set by the first access that needs them, both at once for a store.
func TestAccessedAndDirty(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	e := p.put(vaA, pageA, leafRWX, 0)
	a := assemble(ramBase)
	a.load(f3LD, t0, a0, 0).store(f3SD, t1, a0, 0).jalr(ra, a0, 0)
	b.load(a)
	p.on(ramBase)
	b.SetReg(a0, vaA)
	clean := b.peek64(e)
	b.run(1)
	b.want("the entry after a load", b.peek64(e), clean|pteA)
	b.run(1)
	b.want("the entry after a store", b.peek64(e), clean|pteA|pteD)
	b.poke64(e, clean)
	b.run(1)
	b.want("the entry after a jump", b.peek64(e), clean)
	b.run(1)
	b.want("the entry after a fetch", b.peek64(e), clean|pteA)

	b.poke64(e, clean)
	b.SetPC(ramBase + 4)
	b.run(1)
	b.want("the entry after a store alone", b.peek64(e), clean|pteA|pteD)

	readonly := clean &^ pteW
	b.poke64(e, readonly)
	b.SetPC(ramBase + 4)
	b.run(1)
	b.trapped(causeStorePage, vaA, ramBase+4)
	b.want("the entry after a store that faulted", b.peek64(e), readonly)
}

// A store to a page-table entry in use holds from the next step on, without SFENCE.VMA.
func TestStoreToPageTable(t *testing.T) {
	const other = ramBase + 0x12000
	for _, c := range []struct {
		name  string
		level uint
		entry func(p *paging) (at, v uint64)
	}{
		{"a leaf entry", 0, func(p *paging) (at, v uint64) {
			return p.put(vaA, pageA, leafAll, 0), pageB>>12<<ptePPNShift | leafAll
		}},
		{"a pointer", 0, func(p *paging) (at, v uint64) {
			p.put(vaA, pageA, leafAll, 0)
			p.put(2<<30+vaA, pageB, leafAll, 0)
			return p.root + vaA>>30*8, p.b.peek64(p.root + (2<<30+vaA)>>30*8)
		}},
		{"a superpage", 0, func(p *paging) (at, v uint64) {
			at = p.put(vaA, ramBase, leafAll, 1)
			p.put(2<<30+vaA, pageB, leafAll, 0)
			p.put(2<<30+vaA+(pageA-ramBase), pageB, leafAll, 0)
			return at, p.b.peek64(p.root+(2<<30+vaA)>>30*8)>>ptePPNShift<<ptePPNShift | pteV
		}},
	} {
		for _, by := range []string{"the guest", "a device"} {
			t.Run(c.name+" by "+by, func(t *testing.T) {
				b := newBoard(t)
				p := b.paging(3)
				at, v := c.entry(p)
				va := uint64(vaA)
				if c.name == "a superpage" { // whose new table is another gigabyte's middle one
					va += pageA - ramBase
					v = b.peek64(p.root+(2<<30+vaA)>>30*8) >> ptePPNShift << 12
					v = b.peek64(v + vaA>>21&511*8)
				}
				b.poke64(pageA, 0xaaaa)
				b.poke64(pageB, 0xbbbb)
				a := assemble(ramBase)
				a.load(f3LD, t0, a0, 0).store(f3SD, t1, a0, 8) // both in TLBs
				a.store(f3SD, a2, a1, 0)
				a.load(f3LD, t2, a0, 0).store(f3SD, t1, a0, 16)
				b.load(a)
				p.on(ramBase)
				b.SetReg(a0, va)
				b.SetReg(a1, at)
				b.SetReg(a2, v)
				b.SetReg(t1, 0x1111)
				b.run(2)
				if by == "a device" {
					b.poke64(at, v)
					b.SetReg(a1, other)
				}
				b.run(3)
				b.want("the load before", b.Reg(t0), 0xaaaa)
				b.want("the load behind", b.Reg(t2), 0xbbbb)
				b.want("page A", b.peek64(pageA+16), 0)
				b.want("page B", b.peek64(pageB+16), 0x1111)
			})
		}
	}
}

// The same within one block that is run again: the second time through, all is in the
// TLB when the entry changes.
func TestAccessedBitCleared(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	e := p.put(vaA, pageA, leafAll, 0)
	a := assemble(ramBase).label("loop")
	a.load(f3LD, t0, a0, 0).store(f3SD, t1, a0, 0)
	a.store(f3SD, a2, a1, 0) // A and D cleared, as Linux does, without a flush
	a.load(f3LD, s0, a1, 0).load(f3LD, t0, a0, 0)
	a.load(f3LD, s1, a1, 0).store(f3SD, t1, a0, 0).load(f3LD, s2, a1, 0)
	a.jal(zero, "loop")
	b.load(a)
	p.on(ramBase)
	b.SetReg(a0, vaA)
	b.SetReg(a1, e)
	clean := uint64(pageA)>>12<<ptePPNShift | leafRWX
	b.SetReg(a2, clean)
	for range 3 {
		b.run(9)
		b.want("the entry, cleared", b.Reg(s0), clean)
		b.want("the entry after a load", b.Reg(s1), clean|pteA)
		b.want("the entry after a store", b.Reg(s2), clean|pteA|pteD)
	}
}

// A page of page tables that was given back and is data now is fast again, and still
// what maps is never stale.
func TestFreedPageTable(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	e := p.put(vaA, pageA, leafAll, 0)
	b.poke64(pageA, 0xaaaa)
	b.poke64(pageB, 0xbbbb)
	a := assemble(ramBase)
	a.load(f3LD, t0, a0, 0).label("loop").store(f3SD, t1, a1, 2040).addi(t2, t2, -1).branch(f3BNE, t2, zero, "loop")
	a.store(f3SD, a2, a1, 0).load(f3LD, t1, a0, 0).label("end")
	b.load(a)
	p.on(ramBase)
	page := (e - ramBase) / pageSize
	b.SetReg(a0, vaA)
	b.SetReg(a1, e)
	b.SetReg(a2, uint64(pageB)>>12<<ptePPNShift|leafAll)
	b.SetReg(t1, 1)
	b.SetReg(t2, 4*quietMax)
	b.run(1)
	if b.pages.flags[page]&pageLeaf == 0 {
		t.Fatal("a page table in use is not marked")
	}
	b.runTo(a, "end")
	b.want("the load behind", b.Reg(t1), 0xbbbb)
	b.want("the load before", b.Reg(t0), 0xaaaa)
}

func TestSatp(t *testing.T) {
	b := newBoard(t)
	b.writeCSR(csrSatp, satpSv48<<60|5)
	b.want("satp after a mode that is not here", b.Hart.csr.satp, 0)
	b.writeCSR(csrSatp, satpSv39<<60|0xffff<<44|5)
	b.want("satp, whose ASID is zero", b.Hart.csr.satp, satpSv39<<60|5)
	b.writeCSR(csrSatp, 0|7)
	b.want("satp in the mode Bare", b.Hart.csr.satp, 0)
}

// Many address spaces, more than there are banks, each with its own page at one address.
func TestAddressSpaces(t *testing.T) {
	b := newBoard(t)
	const spaces = 2*bankCount + 3
	a := assemble(ramBase)
	a.csrw(csrSatp, a1).load(f3LD, t0, a0, 0).store(f3SD, t0, a0, 8)
	b.load(a)
	var satp [spaces]uint64
	p := b.paging(3)
	for i := range satp {
		p.root = p.table()
		p.put(vaA, pageA+uint64(i)*pageSize, leafAll, 0)
		p.put(ramBase, ramBase, leafAll, 1)
		satp[i] = satpSv39<<60 | p.root>>12
		b.poke64(pageA+uint64(i)*pageSize, 0x1000+uint64(i))
	}
	b.EnterSupervisor(ramBase, 0, 0)
	for i := range 3 * spaces {
		space := i * 7 % spaces
		b.SetReg(a0, vaA)
		b.SetReg(a1, satp[space])
		b.SetPC(ramBase)
		b.run(3)
		b.want("the load", b.Reg(t0), 0x1000+uint64(space))
		b.want("the store", b.peek64(pageA+uint64(space)*pageSize+8), 0x1000+uint64(space))
	}
}

// M mode's loads and stores are translated with MPRV, as those of the mode in MPP.
func TestMPRV(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	p.put(vaA, pageA, leafAll|pteU, 0)
	b.poke64(pageA, 0xaaaa)
	a := assemble(ramBase)
	a.load(f3LD, t0, a0, 0)
	b.load(a)
	p.on(ramBase)
	b.SetPriv(Machine)
	b.writeCSR(csrMtvec, handler)
	b.SetReg(a0, vaA)
	try := func(status uint64) bool {
		b.SetReg(t0, 0)
		b.SetPC(ramBase)
		b.writeCSR(csrMstatus, status)
		b.run(1)
		return b.Reg(t0) == 0xaaaa
	}
	for _, c := range []struct {
		name   string
		status uint64
		works  bool
	}{
		{"without MPRV", uint64(User) << mstatusMPPShift, false},
		{"as U", mstatusMPRV | uint64(User)<<mstatusMPPShift, true},
		{"as S", mstatusMPRV | uint64(Supervisor)<<mstatusMPPShift, false},
		{"as S with SUM", mstatusMPRV | mstatusSUM | uint64(Supervisor)<<mstatusMPPShift, true},
		{"as M", mstatusMPRV | uint64(Machine)<<mstatusMPPShift, false},
	} {
		if got := try(c.status); got != c.works {
			t.Errorf("%s: works is %v", c.name, got)
		}
	}
}
