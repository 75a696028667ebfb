package rv64

import "testing"

// Self-modifying code: a store takes effect on the very next fetch, without FENCE.I.

func addi(rd uint32, imm int32) uint64 { return uint64(encI(0x13, 0, rd, zero, imm)) }

func TestStoreToNextInstruction(t *testing.T) {
	b := newBoard(t)
	a := assemble(ramBase)
	a.label("loop").store(f3SW, a1, a0, 0).label("target").addi(t0, zero, 1).jal(zero, "loop")
	b.load(a)
	b.SetReg(a0, a.labels["target"])
	for i := range int32(5) {
		b.SetReg(a1, addi(t0, 100+i))
		b.run(3)
		b.want("t0", b.Reg(t0), uint64(100+i))
	}
}

// The page is first written to as data, so that it is in the write TLB when it becomes
// code.
func TestDataBecomesCode(t *testing.T) {
	for _, translated := range []bool{false, true} {
		b := newBoard(t)
		a := assemble(ramBase)
		a.label("loop").store(f3SW, a1, a0, 0).jalr(ra, a0, 0).jal(zero, "loop")
		b.load(a)
		b.poke64(pageA, uint64(encI(0x67, 0, zero, ra, 0))<<32)
		b.SetReg(a0, pageA)
		if translated {
			p := b.paging(3)
			p.put(vaA, pageA, leafAll, 0)
			p.on(ramBase)
			b.SetReg(a0, vaA)
		}
		for i := range int32(5) {
			b.SetReg(a1, addi(t0, 100+i))
			b.run(5)
			b.want("t0", b.Reg(t0), uint64(100+i))
		}
	}
}

// A device's write to code that runs in a loop of linked blocks.
func TestDeviceWritesCode(t *testing.T) {
	b := newBoard(t)
	a := assemble(ramBase)
	a.label("loop").store(f3SW, t1, a0, 0).label("target").addi(t0, zero, 1)
	a.branch(f3BNE, t0, t2, "loop").label("end")
	b.load(a)
	b.SetReg(a0, deviceBase)
	b.SetReg(t2, 20)
	n := uint64(0)
	b.onStore = func(uint64, int, uint64) {
		b.want("the pc in the callback", b.PC(), a.labels["loop"])
		b.want("the steps in the callback", b.Steps(), 3*n)
		if n++; n%2 == 0 {
			code := addi(t0, int32(n))
			b.WriteRAM(a.labels["target"], []byte{byte(code), byte(code >> 8), byte(code >> 16), byte(code >> 24)})
		}
	}
	b.Run(3 * 20)
	b.want("t0", b.Reg(t0), 20)
	b.want("pc", b.PC(), a.labels["end"])
}

// An instruction across two pages is made of what is in both, as it is now and where
// they are now.
func TestInstructionAcrossPages(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	p.put(vaA, pageA, leafAll, 0)
	second := p.put(vaB, pageB, leafAll, 0)
	const pageC = ramBase + 0x12000
	split := func(second uint64, imm int32) { // addi t0, zero, imm
		w := addi(t0, imm)
		b.WriteRAM(pageA+pageSize-2, []byte{byte(w), byte(w >> 8)})
		b.WriteRAM(second, []byte{byte(w >> 16), byte(w >> 24)})
		b.WriteRAM(second+2, []byte{0x82, 0x80}) // c.jr ra
	}
	split(pageB, 1)
	split(pageC, 2)
	a := assemble(ramBase)
	a.label("loop").jalr(ra, a0, 0).store(f3SD, a2, a1, 0).jal(zero, "loop")
	b.load(a)
	p.on(ramBase)
	b.SetReg(a0, vaB-2)
	b.SetReg(a1, second)
	pass := func(want uint64) {
		t.Helper()
		b.run(5)
		b.want("t0", b.Reg(t0), want)
	}
	entry := func(pa, flags uint64) uint64 { return pa>>12<<ptePPNShift | flags }
	b.SetReg(a2, entry(pageB, leafAll))
	pass(1)
	pass(1)
	b.SetReg(a2, entry(pageC, leafAll)) // behind the next pass
	pass(1)
	pass(2)
	split(pageC, 3) // by a device
	pass(3)
	b.SetReg(a1, pageC) // by the guest
	b.SetReg(a2, b.peek64(pageC)&^0xffff|addi(t0, 4)>>16)
	pass(3)
	pass(4)
	b.SetReg(a1, pageA+pageSize-8)
	b.SetReg(a2, b.peek64(pageA+pageSize-8)&(1<<48-1)|addi(t1, 4)<<48)
	pass(4)
	b.SetReg(t0, 0)
	pass(0)
	b.want("t1", b.Reg(t1), 4)
	b.poke64(second, entry(pageC, leafAll&^pteX)) // no fault before the second half
	b.run(2)
	b.trapped(causeFetchPage, vaB, vaB-2)
}

// An instruction whose second half is its own page-table entry, whose A bit its fetch
// sets: all translation is done before anything of it is read.
func TestFetchSetsItsOwnBits(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	const edge = vaA + 2<<20 // from one table to the next
	p.put(edge-pageSize, pageA, leafAll, 0)
	e := p.put(edge, pageB, 0, 0) // entry 0 of a table
	// The low half of the entry: RSW and the page number's low bits above the flags.
	v := e>>12<<ptePPNShift | leafRWX
	b.poke64(e, v)
	// addi t0, rs1, imm: rs1 is V R W X and one bit from the first half, imm begins with
	// U G A D.
	imm := int32(int16(v)) >> 4
	first := uint32(0x13) | t0<<7 | 1<<15
	b.WriteRAM(pageA+pageSize-2, []byte{byte(first), byte(first >> 8)})
	b.load(assemble(ramBase).jalr(ra, a0, 0))
	p.on(ramBase)
	b.SetReg(a0, edge-2)
	b.run(1)
	b.SetReg(t6, 0x1000)
	for range 2 {
		b.SetPC(edge - 2)
		b.run(1)
		b.want("the entry", b.peek64(e), v|pteA)
		b.want("t0", b.Reg(t0), uint64(0x1000+int64(imm|pteA>>4)))
	}
}

// Blocks of one page hang on each other by links; what is dropped is not reached by any.
func TestLinkedBlocks(t *testing.T) {
	b := newBoard(t)
	a := assemble(ramBase)
	a.label("loop").addi(t0, t0, 1).branch(f3BNE, t0, t1, "inc").jal(zero, "end")
	a.label("inc").addi(t2, t2, 1).jal(zero, "loop")
	a.label("end").store(f3SW, a1, a0, 0).addi(t0, zero, 0).jal(zero, "loop")
	b.load(a)
	b.SetReg(t1, 100)
	b.SetReg(a0, a.labels["inc"])
	b.SetReg(a1, uint64(encI(0x13, 0, t2, t2, 2)))
	lap := uint64(4*99 + 3 + 3)
	b.run(lap)
	b.want("t2 after a lap", b.Reg(t2), 99)
	b.run(lap)
	b.want("t2 after a lap with the other step", b.Reg(t2), 3*99)
}

// More code than the cache takes.
func TestCodeCacheOverflow(t *testing.T) {
	const size = 8 << 20
	b := newBoard(t, func(cfg *Config) { cfg.RAM = make([]byte, size) })
	// Blocks of two instructions, each a jump to the next, and a last one back.
	ram := b.cfg.RAM
	for i := 0; i < size; i += 4 {
		ram[i], ram[i+1], ram[i+2], ram[i+3] = 0x85, 0x02, 0x09, 0xa0 // c.addi t0, 1; c.j +2
	}
	const n = size / 4
	copy(ram[size-4:], assemble(ramBase+size-4).word(encI(0x67, 0, zero, a0, 0)).bytes())
	b.SetReg(a0, ramBase)
	const lap = 2*n - 1
	b.run(lap)
	b.want("t0", b.Reg(t0), n-1)
	b.run(lap)
	b.want("t0", b.Reg(t0), 2*(n-1))
}

// Running code whose own page is mapped anew goes on in the new page.
func TestRunningCodeIsRemapped(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	e := p.put(vaA, pageA, leafAll, 0)
	for i, page := range []uint64{pageA, pageB} {
		a := assemble(page)
		a.label("loop").store(f3SD, a2, a1, 0).addi(t0, zero, int32(i)+1)
		a.word(encR(0x33, 4, 0, a2, a2, a3)).jal(zero, "loop") // the other page, the next time
		b.load(a)
	}
	p.on(vaA)
	entry := func(pa uint64) uint64 { return pa>>12<<ptePPNShift | leafAll }
	b.SetReg(a1, e)
	b.SetReg(a2, entry(pageB))
	b.SetReg(a3, entry(pageA)^entry(pageB))
	for i := range uint64(6) {
		b.run(4)
		b.want("t0", b.Reg(t0), 2-i%2)
	}
}

// The fetch TLB's entry of a page has made room for another's when the page is mapped
// anew.
func TestEvictedFetchTranslation(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	const far = vaA + tlbSize*pageSize // in the same slot
	e := p.put(vaA, pageA, leafAll, 0)
	p.put(far, pageA, leafAll, 0)
	for i, page := range []uint64{pageA, pageB} {
		b.load(assemble(page).addi(t0, zero, int32(i)+1).jalr(zero, ra, 0))
	}
	b.load(assemble(ramBase).jalr(ra, a0, 0).jalr(ra, a4, 0).store(f3SD, a2, a1, 0).jalr(ra, a0, 0))
	p.on(ramBase)
	b.SetReg(a0, vaA)
	b.SetReg(a4, far)
	b.SetReg(a1, e)
	b.SetReg(a2, uint64(pageB)>>12<<ptePPNShift|leafAll)
	b.run(3)
	b.want("t0", b.Reg(t0), 1)
	b.run(3 + 1 + 3)
	b.want("t0", b.Reg(t0), 2)
}

// A page-table entry that is executed as an instruction, and is another one when the
// hart has set its A bit.
func TestAccessedBitInCode(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	const page = ramBase + 0x4d000              // whose number makes of a readable entry …
	e := p.put(vaA, page, pteV|pteR, 0)         // … ld s0, 0x200(sp), and with A fmadd.s f8, …
	b.load(assemble(handler).jalr(zero, ra, 0)) // behind it is no instruction
	b.load(assemble(ramBase).jalr(ra, a1, 0).   // the entry is executed,
							addi(s1, s0, 0).addi(s0, zero, 0).
							load(f3LD, t0, a0, 0). // used,
							jalr(ra, a1, 0))       // and executed again
	p.on(ramBase)
	b.writeCSR(csrMstatus, mstatusFS)
	b.poke64(pageA+0x200, 7)
	b.SetReg(a0, vaA)
	b.SetReg(a1, e)
	b.SetReg(sp, pageA)
	b.run(1 + 3 + 2 + 1 + 1 + 3)
	b.want("s1", b.Reg(s1), 7)
	b.want("s0", b.Reg(s0), 0)
	b.want("the entry's A", b.peek64(e)&pteA, pteA)
}

// The page-table entry of an instruction's second half lies beside its first half.
func TestFetchSetsBitsBesideIt(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	const va = vaA + 503*pageSize
	e := p.put(va, 0, 0, 0)
	page := e &^ (pageSize - 1)
	b.poke64(e, page>>12<<ptePPNShift|leafAll) // the table is also the code's first page
	p.put(va+pageSize, pageA, leafRWX, 0)
	first := func(rd uint32) uint64 { return addi(rd, 5) & 0xffff << 48 }
	b.poke64(page+511*8, first(t0))
	b.WriteRAM(pageA, []byte{byte(addi(t0, 5) >> 16), byte(addi(t0, 5) >> 24), 0x82, 0x80}) // c.jr ra
	b.load(assemble(ramBase).jalr(ra, a0, 0).store(f3SD, a2, a1, 0).jalr(ra, a0, 0))
	p.on(ramBase)
	b.SetReg(a0, va+pageSize-2)
	b.SetReg(a1, page+511*8)
	b.SetReg(a2, first(t1))
	b.run(3)
	b.want("t0", b.Reg(t0), 5)
	b.run(4)
	b.want("t1", b.Reg(t1), 5)
}

// A block goes on behind branches that are not taken, and at the target of a jump forwards
// in its page. Cut anywhere it is the same, and what is written to a part of it is seen.
func TestBlockWithJumps(t *testing.T) {
	a := assemble(ramBase)
	a.label("loop").addi(t0, t0, 1).branch(f3BEQ, t0, a3, "out").jal(zero, "first").word(0)
	a.label("second").addi(t2, t2, 100).branch(f3BNE, t0, a4, "loop").jal(zero, "out").word(0, 0, 0)
	a.label("first").addi(t1, t1, 10).jal(ra, "third").label("link").word(0)
	a.label("third").branch(f3BNE, ra, a5, "out").label("store").store(f3SW, a1, a0, 0).jal(zero, "fourth").word(0)
	a.label("fourth").addi(t3, t3, 1).jal(zero, "second")
	a.label("out").addi(s0, s0, 1).jal(zero, "out")
	const lap, laps = 12, 20
	run := func(piece uint64) *board {
		b := newBoard(t)
		b.load(a)
		b.SetReg(a0, a.labels["fourth"])
		b.SetReg(a1, uint64(encI(0x13, 0, t3, t3, 7))) // over what lies ahead in the block
		b.SetReg(a3, 1000)
		b.SetReg(a4, laps)
		b.SetReg(a5, a.labels["link"])
		for b.Steps() < lap*laps+8 {
			b.run(min(piece, lap*laps+8-b.Steps()))
		}
		return b
	}
	want := run(1)
	want.want("t0", want.Reg(t0), laps)
	want.want("t1", want.Reg(t1), 10*laps)
	want.want("t2", want.Reg(t2), 100*laps)
	want.want("t3, by the instruction that was stored", want.Reg(t3), 7*laps)
	for piece := uint64(2); piece < 3*lap; piece++ {
		if got := run(piece).State(); got != want.State() {
			t.Errorf("in runs of %d steps: %+v, want %+v", piece, got, want.State())
		}
	}
}

// A part of a block that lies before a jump, in bytes of its own, is part of it.
func TestStoreBeforeJumpInBlock(t *testing.T) {
	b := newBoard(t)
	a := assemble(ramBase)
	a.label("loop").addi(t0, zero, 1).jal(zero, "far").pad(ramBase + 0x200)
	a.label("far").add(t1, t1, t0).store(f3SW, a1, a0, 0).branch(f3BNE, zero, a0, "loop")
	b.load(a)
	b.SetReg(a0, a.labels["loop"])
	for i := range int32(4) {
		b.SetReg(t1, 0)
		b.SetReg(a1, addi(t0, 10+i)) // for the next lap
		b.run(5)
		want := uint64(1)
		if i > 0 {
			want = uint64(10 + i - 1)
		}
		b.want("t1", b.Reg(t1), want)
	}
}

// A function that is called from two places of its page returns to each, and a block that
// was come to by a link and is left by a trap goes on where the trap says.
func TestReturnsAndTrapsInLinkedBlocks(t *testing.T) {
	b := newBoard(t)
	a := assemble(ramBase)
	a.label("loop").jal(ra, "f").addi(t1, t1, 1).jal(ra, "f").addi(t2, t2, 1)
	a.branch(f3BEQ, zero, zero, "trap").word(0).label("trap").load(f3LD, t3, zero, 0).addi(t4, t4, 1).branch(f3BNE, t0, a0, "loop").label("end").word(0)
	a.label("f").addi(t0, t0, 1).branch(f3BEQ, zero, zero, "g").word(0).label("g").jalr(zero, ra, 0)
	b.load(a)
	skip := assemble(handler) // what trapped
	skip.csrr(t5, csrMepc).addi(t5, t5, 4).csrw(csrMepc, t5).word(mret)
	b.load(skip)
	b.SetPC(ramBase)
	b.writeCSR(csrMtvec, handler)
	b.writeCSR(csrMstatus, mstatusMPP)
	b.SetReg(a0, 40)
	const lap, laps = 2 + 2*3 + 2 + 1 + 1 + 4 + 2, 20
	b.run(lap * laps)
	b.want("pc", b.PC(), a.labels["end"])
	for _, r := range []int{t1, t2, t4} {
		b.want(WordName(r), b.Reg(r), laps)
	}
	b.want("t3", b.Reg(t3), 0)
}

// An instruction across two pages that is come to from within its page is checked against
// the second page's translation each time.
func TestFallingIntoInstructionAcrossPages(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	p.put(vaA, pageA, leafAll, 0)
	e := p.put(vaB, pageB, leafAll, 0)
	const pageC = ramBase + 0x12000
	first := assemble(pageA + pageSize - 6).word(nop).half(uint16(addi(t0, 0)))
	b.load(first)
	for i, page := range []uint64{pageB, pageC} {
		b.load(assemble(page).half(uint16(addi(t0, int32(i)+1)>>16), 0x8082)) // c.jr ra
	}
	b.load(assemble(ramBase).label("loop").jalr(ra, a0, 0).jalr(ra, a0, 0).jalr(ra, a0, 0).
		store(f3SD, a2, a1, 0).word(encR(0x33, 4, 0, a2, a2, a3)).jal(zero, "loop"))
	p.on(ramBase)
	entry := func(pa uint64) uint64 { return pa>>12<<ptePPNShift | leafAll }
	b.SetReg(a0, vaB-6)
	b.SetReg(a1, e)
	b.SetReg(a2, entry(pageC))
	b.SetReg(a3, entry(pageB)^entry(pageC))
	for i := range uint64(6) {
		b.run(3*4 + 3)
		b.want("t0", b.Reg(t0), 1+i%2)
	}
}
