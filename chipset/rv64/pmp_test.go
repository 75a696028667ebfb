package rv64

import "testing"

// napot is the address register of a naturally aligned region.
func napot(base, size uint64) uint64 { return base>>2 | (size/8 - 1) }

func TestPMP(t *testing.T) {
	const (
		rwx  = pmpR | pmpW | pmpX
		tor  = pmpTOR << 3
		na   = pmpNAPOT << 3
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
			if got := b.pmpAllows(c.pa, c.w, b.kindOf(c.mode, c.w == wantFetch)); got != c.ok {
				t.Errorf("allowed: %v", got)
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

func TestPMPRegisters(t *testing.T) {
	b := newBoard(t)
	b.writePMPConfig(0, pmpNA4<<3|pmpR)
	b.want("NA4, finer than the granularity", b.readPMPConfig(0), pmpR)
	b.writePMPConfig(0, pmpW)
	b.want("W without R", b.readPMPConfig(0), 0)
	b.writePMPAddr(0, 0x1234_5678)
	b.want("an address, off", b.readPMPAddr(0), 0x1234_5400)
	b.writePMPConfig(0, pmpNAPOT<<3)
	b.want("an address, NAPOT", b.readPMPAddr(0), 0x1234_57ff)
	b.writePMPConfig(0, (pmpL|pmpTOR<<3)<<8)
	b.writePMPAddr(0, 7<<20)
	b.want("below a locked range", b.readPMPAddr(0), 0x1234_5400)
	b.writePMPAddr(1, 7<<20)
	b.want("a locked one", b.readPMPAddr(1), 0)
	b.writePMPConfig(0, 0)
	b.want("a locked configuration", b.readPMPConfig(0), (pmpL|pmpTOR<<3)<<8)
}
