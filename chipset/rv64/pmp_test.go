package rv64

import "testing"

// napot is the address register of a naturally aligned region.
func napot(base, size uint64) uint64 { return base>>2 | (size/8 - 1) }

func TestPMP(t *testing.T) {
	const (
		rwx  = pmpR | pmpW | pmpX
		tor  = pmpTOR << 3
		na   = pmpNAPOT << 3
		na4  = pmpNA4 << 3
		all  = pmpaddrMask
		read = wantLoad
	)
	type entry struct {
		cfg  uint8
		addr uint64
	}
	for _, c := range []struct {
		name    string
		entries []entry
		pa      uint64
		w       want
		mode    Priv
		ok      bool
	}{
		{"no entries, M mode", nil, pageA, read, Machine, true},
		{"no entries, S mode", nil, pageA, read, Supervisor, false},
		{"all of memory", []entry{{na | rwx, all}}, pageA, read, Supervisor, true},
		{"beyond what entries reach", []entry{{na | rwx, all}}, 1 << 57, read, Supervisor, false},
		{"beyond what entries reach, M mode", []entry{{na | rwx, all}}, 1 << 57, read, Machine, true},
		{"all of memory, locked", []entry{{pmpL | na | rwx, all}}, pageA, wantFetch, Machine, true},
		{"all of memory before what is closed", []entry{{na | rwx, all}, {na, napot(pageA, 4096)}}, pageA, read, User, true},
		{"half of memory", []entry{{na | rwx, all >> 1}}, 1 << 55, read, Supervisor, true},
		{"the other half", []entry{{na | rwx, all >> 2}}, 1 << 55, read, Supervisor, false},
		{"read only", []entry{{na | pmpR, all}}, pageA, wantStore, Supervisor, false},
		{"read only, M mode", []entry{{na | pmpR, all}}, pageA, wantStore, Machine, true},
		{"read only, M mode, locked", []entry{{pmpL | na | pmpR, all}}, pageA, wantStore, Machine, false},
		{"no fetch", []entry{{na | pmpR | pmpW, all}}, pageA, wantFetch, User, false},
		{"the first that matches decides", []entry{{na, napot(pageA, 4096)}, {na | rwx, all}}, pageA, read, Supervisor, false},
		{"behind it", []entry{{na, napot(pageA, 4096)}, {na | rwx, all}}, pageB, read, Supervisor, true},
		{"before it", []entry{{na, napot(pageA, 4096)}, {na | rwx, all}}, pageA - 4096, read, Supervisor, true},
		{"a region of 8 KiB", []entry{{na, napot(pageA, 8192)}, {na | rwx, all}}, pageB, read, Supervisor, false},
		{"behind a region of 8 KiB", []entry{{na, napot(pageA, 8192)}, {na | rwx, all}}, pageB + 4096, read, Supervisor, true},
		{"top of range", []entry{{0, pageA >> 2}, {tor | pmpR, pageB >> 2}}, pageA, read, Supervisor, true},
		{"below it", []entry{{0, pageA >> 2}, {tor | pmpR, pageB >> 2}}, pageA - 4096, read, Supervisor, false},
		{"at the top", []entry{{0, pageA >> 2}, {tor | pmpR, pageB >> 2}}, pageB, read, Supervisor, false},
		{"from zero on", []entry{{tor | pmpR, pageB >> 2}}, pageA, read, Supervisor, true},
		{"four bytes of eight", []entry{{na4 | rwx, pageA >> 2}}, pageA, read, Machine, false},
		{"an empty range", []entry{{0, pageB >> 2}, {tor, pageA >> 2}, {na | rwx, all}}, pageA, read, Supervisor, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBoard(t)
			for i, e := range c.entries {
				b.writePMPAddr(i, e.addr)
			}
			for i, e := range c.entries {
				old := b.readPMPConfig(0)
				b.writePMPConfig(0, old|uint64(e.cfg)<<(8*i))
			}
			if got := b.pmpAllows(c.pa, 8, c.w, b.kindOf(c.mode, c.w == wantFetch)); got != c.ok {
				t.Errorf("allowed: %v", got)
			}
			if got := b.pmpAsk(c.pa, 8, c.w, b.kindOf(c.mode, c.w == wantFetch)); got != c.ok {
				t.Errorf("allowed, entry by entry: %v", got)
			}
		})
	}
}

// PMP is looked at for the accesses of walks too, and what is cached goes when it changes.
func TestPMPOnWalks(t *testing.T) {
	b := newBoard(t)
	p := b.paging(3)
	e := p.put(vaA, pageA, leafRWX|pteA, 0)
	b.load(assemble(ramBase).load(f3LD, t0, a0, 0).store(f3SD, t0, a0, 0))
	p.on(ramBase)
	b.SetReg(a0, vaA)
	again := func(what string, steps, cause uint64) {
		t.Helper()
		b.SetPriv(Supervisor)
		b.SetPC(ramBase)
		b.run(steps)
		if cause == 0 {
			b.want(what+": pc", b.PC(), ramBase+4*steps)
		} else {
			b.trapped(cause, vaA, ramBase+4*(steps-1))
		}
	}
	again("all allowed", 1, 0)
	b.writePMPAddr(1, pmpaddrMask)
	b.writePMPAddr(0, napot(e&^0xfff, 4096))
	b.writePMPConfig(0, pmpNAPOT<<11|7<<8|pmpNAPOT<<3|pmpR)
	again("the table read-only", 1, 0)
	again("a D bit that cannot be set", 2, causeStoreAccess)
	b.want("the entry", b.peek64(e), pageA>>12<<ptePPNShift|leafRWX|pteA)
	b.writePMPConfig(0, pmpNAPOT<<11|7<<8|pmpNAPOT<<3)
	again("the table closed", 1, causeLoadAccess)
	b.writePMPAddr(0, napot(pageA, 4096))
	again("the page closed", 1, causeLoadAccess)
	b.writePMPConfig(0, pmpNAPOT<<11|7<<8)
	again("open again", 2, 0)
}

// Regions that begin and end inside a page: what touches one is refused, what lies beside
// it is not, whatever was cached of the page before.
func TestPMPInsideAPage(t *testing.T) {
	const closed = pageA + 0x100 // eight bytes
	for _, c := range []struct {
		name   string
		at     uint64
		f3     uint32
		store  bool
		refuse bool
	}{
		{"below", closed - 8, f3LD, false, false},
		{"into it", closed - 4, f3LD, false, true},
		{"it", closed, f3LD, false, true},
		{"a byte of it", closed + 7, f3LB, false, true},
		{"out of it", closed + 4, f3LD, false, true},
		{"above", closed + 8, f3LD, false, false},
		{"a store below", closed - 1, f3SB, true, false},
		{"a store into it", closed - 1, f3SH, true, true},
		{"a store above", closed + 8, f3SD, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBoard(t)
			code := assemble(ramBase)
			for range 2 { // the second time with what the first has cached
				if c.store {
					code.store(c.f3, t0, a0, 0)
				} else {
					code.load(c.f3, t0, a0, 0)
				}
			}
			b.load(code)
			b.EnterSupervisor(ramBase, c.at, 0)
			b.writeCSR(csrStvec, handler)
			b.writePMPAddr(1, pmpaddrMask)
			b.writePMPConfig(0, pmpNAPOT<<11|7<<8)
			b.run(1)
			b.want("all open: pc", b.PC(), ramBase+4)
			b.writePMPAddr(0, napot(closed, 8))
			b.writePMPConfig(0, pmpNAPOT<<11|7<<8|pmpNAPOT<<3)
			for i := range uint64(2) {
				b.SetPriv(Supervisor)
				b.SetPC(ramBase + 4*i)
				b.run(1)
				switch {
				case !c.refuse:
					b.want("pc", b.PC(), ramBase+4*i+4)
				case c.store:
					b.trapped(causeStoreAccess, c.at, ramBase+4*i)
				default:
					b.trapped(causeLoadAccess, c.at, ramBase+4*i)
				}
			}
		})
	}
}

// Instructions are fetched by parcels of two bytes: blocks, links and the jump cache do not
// lead around PMP.
func TestPMPFetchInsideAPage(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).label("loop").addi(t0, t0, 1).addi(t0, t0, 1).jal(zero, "loop"))
	b.EnterSupervisor(ramBase, 0, 0)
	b.writeCSR(csrStvec, handler)
	open := uint64(pmpNAPOT<<11 | 7<<8)
	b.writePMPAddr(1, pmpaddrMask)
	b.writePMPConfig(0, open)
	start := func() {
		b.SetPriv(Supervisor)
		b.SetPC(ramBase)
	}
	start()
	b.run(30) // decoded, linked, cached
	for offset := uint64(0); offset < 12; offset += 4 {
		b.writePMPAddr(0, (ramBase+offset)>>2)
		b.writePMPConfig(0, open|pmpNA4<<3|pmpR)
		start()
		b.run(offset/4 + 1)
		b.trapped(causeFetchAccess, ramBase+offset, ramBase+offset)
	}
	// One that begins in front of what is closed.
	b.writePMPAddr(0, (ramBase+8)>>2)
	b.WriteRAM(ramBase+6, []byte{nop, 0, 0, 0})
	b.SetPriv(Supervisor)
	b.SetPC(ramBase + 6)
	b.run(1)
	b.trapped(causeFetchAccess, ramBase+8, ramBase+6)
	b.writePMPConfig(0, open)
	b.SetPriv(Supervisor)
	b.SetPC(ramBase + 6)
	b.run(1)
	b.want("open again: pc", b.PC(), ramBase+10)
}

// In a page that PMP splits each instruction is a block of its own, whatever blocks there
// were: they end in the same state, at the same step.
func TestPMPStepsThroughAPage(t *testing.T) {
	a := assemble(ramBase).label("loop")
	a.word(encI(0x73, 2, t0, zero, csrSscratch)).addi(t0, t0, 1)
	a.word(encI(0x73, 1, zero, t0, csrSscratch))
	a.load(f3LD, t1, a0, 0).add(t1, t1, t0).store(f3SD, t1, a0, 0)
	a.jal(zero, "over").pad(ramBase + 0x40).label("over")
	a.branch(f3BEQ, t0, zero, "loop") // ends a block, and falls through
	a.jal(zero, "loop")
	code := a.bytes()
	var states []State
	for _, split := range []bool{false, true} {
		b := newBoard(t)
		b.WriteRAM(ramBase, code)
		b.EnterSupervisor(ramBase, pageA, 0)
		b.run(20) // what is decoded and linked before
		b.writePMPAddr(1, pmpaddrMask)
		b.writePMPAddr(0, (ramBase+0x800)>>2)
		b.writePMPConfig(0, pmpNAPOT<<11|7<<8)
		if split {
			b.writePMPConfig(0, pmpNAPOT<<11|7<<8|pmpNA4<<3)
		}
		b.run(1000)
		s := b.State()
		s.Pmpcfg = [pmpCount]uint64{}
		states = append(states, s)
	}
	if states[0] != states[1] {
		for i, v := range states[0].Words() {
			if w := states[1].Words()[i]; v != w {
				t.Errorf("%s is %#x, in a page that is split %#x", WordName(i), v, w)
			}
		}
	}
}

func TestPMPRegisters(t *testing.T) {
	b := newBoard(t)
	b.writePMPConfig(0, pmpNA4<<3|pmpR)
	b.want("NA4", b.readPMPConfig(0), pmpNA4<<3|pmpR)
	b.writePMPConfig(0, pmpW)
	b.want("W without R", b.readPMPConfig(0), 0)
	b.writePMPAddr(0, 0x1234_5678)
	b.writePMPConfig(0, pmpNAPOT<<3)
	b.want("an address", b.csr.pmpaddr[0], 0x1234_5678)
	b.writePMPAddr(0, ^uint64(0))
	b.want("the largest address", b.csr.pmpaddr[0], pmpaddrMask)
	b.writePMPConfig(0, (pmpL|pmpTOR<<3)<<8)
	b.writePMPAddr(0, 7<<20)
	b.want("below a locked range", b.csr.pmpaddr[0], pmpaddrMask)
	b.writePMPAddr(1, 7<<20)
	b.want("a locked one", b.csr.pmpaddr[1], 0)
	b.writePMPConfig(0, 0)
	b.want("a locked configuration", b.readPMPConfig(0), (pmpL|pmpTOR<<3)<<8)
}
