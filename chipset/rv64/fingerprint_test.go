package rv64

import "testing"

// What a step folds, by the definition in fingerprint.go.
type folded struct {
	dst     uint8
	data    uint64
	counted bool // by StoreOnly
}

func foldNothing() folded                { return folded{} }
func foldBranch() folded                 { return folded{counted: true} }
func foldReg(rd uint8, v uint64) folded  { return folded{rd, v, false} }
func foldJump(rd uint8, v uint64) folded { return folded{rd, v, true} }
func foldStore(addr, v uint64) folded    { return folded{dstStore, v + addr*foldAddr, true} }
func foldTrap(cause, tval uint64) folded {
	return folded{dstTrap, (cause+1)*foldSecond + tval*foldAddr, true}
}
func foldCSR(rd uint8, old, written uint64) folded {
	return folded{rd, old + written*foldSecond, false}
}
func foldAMO(rd uint8, old, stored, addr uint64) folded {
	return folded{dstAMO + rd, old*foldSecond + stored*foldThird + addr*foldAddr, true}
}

func (f folded) after(fingerprint, pc uint64, level Compare) uint64 {
	v := uint64(0)
	if level == StoreOnly && f.dst < dstStore { // a jump's link register is left out
		f.data = 0
	}
	if level == EveryStep || level == StoreOnly && f.counted {
		v = pageTerm(pc) + siteTerm(pc&0xfff, f.dst) + mix(f.data)
	}
	return fingerprint*foldK + v
}

// What every kind of step folds, at every level, in single steps and in one run.
func TestFingerprint(t *testing.T) {
	const v, w = 0x8877_6655_4433_2211, 0x4433_2211
	a := assemble(ramBase + 0xfb0) // and on into the next page
	var want []folded
	does := func(f ...folded) { want = append(want, f...) }

	a.addi(t0, zero, -5).addi(zero, zero, 1)
	does(foldReg(t0, ^uint64(4)), foldNothing())
	a.store(f3SH, a1, a0, 8).load(f3LHU, t1, a0, 8).load(f3LH, zero, a0, 8)
	does(foldStore(pageA+8, 0x2211), foldReg(t1, 0x2211), foldNothing())
	a.branch(f3BNE, zero, t0, "taken").word(0)
	a.label("taken").branch(f3BEQ, zero, t0, "taken")
	does(foldBranch(), foldBranch())
	a.jal(ra, "call").label("link").word(0).label("call").jal(zero, "on").label("on")
	does(foldJump(ra, a.labels["link"]), foldJump(0, 0))
	a.csr(sysCSRRW, t2, a1, csrMscratch).csr(sysCSRRS, zero, a0, csrMscratch)
	a.csrr(t2, csrMscratch).csr(sysCSRRSI, zero, 0, csrMscratch)
	does(foldCSR(t2, 0, v), foldCSR(0, 0, v|pageA), foldCSR(t2, v|pageA, 0), foldNothing())
	a.amo(0, 2, t3, a0, a1).amo(1, 3, zero, a0, a1)
	does(foldAMO(t3, 0, w, pageA), foldAMO(0, 0, v, pageA))
	a.amo(2, 3, t3, a0, 0).amo(3, 3, t3, a0, a1).amo(3, 3, t3, a0, a1).amo(3, 3, zero, a0, a1)
	does(foldReg(t3, v), foldAMO(t3, 0, v, pageA), foldAMO(t3, 1, 0, 0), foldAMO(0, 0, 0, 0))
	a.word(encR(0x53, 0, 0x79, 1, a1, 0), encI(0x07, 2, 2, a0, 0)) // fmv.d.x f1, a1; flw f2, 0(a0)
	does(foldReg(regF+1, v), foldReg(regF+2, boxed|w))
	a.word(encS(0x27, 2, a0, 1, 16), encR(0x53, 2, 0x51, zero, 1, 1)) // fsw f1, 16(a0); feq.d zero, f1, f1
	does(foldStore(pageA+16, w), foldNothing())
	a.word(fencei, sfence, ecall).label("behind").word(0)
	does(foldNothing(), foldNothing(), foldTrap(causeEcallM, 0), foldTrap(causeIllegal, 0))

	for _, level := range []Compare{EveryStep, StoreOnly, Off} {
		start := func() *board {
			b := newBoard(t, func(cfg *Config) { cfg.Compare = level })
			b.load(a)
			b.writeCSR(csrMstatus, mstatusFS)
			b.writeCSR(csrMtvec, a.labels["behind"])
			b.SetReg(a0, pageA)
			b.SetReg(a1, v)
			return b
		}
		b, f := start(), uint64(0)
		for i, step := range want {
			pc := b.PC()
			b.run(1)
			if f = step.after(f, pc, level); b.Fingerprint() != f {
				t.Fatalf("level %d: step %d at %#x makes %#x, want %#x", level, i, pc, b.Fingerprint(), f)
			}
		}
		b = start().run(uint64(len(want)))
		b.want("the fingerprint of one run", b.Fingerprint(), f)
	}
}

// A fault in any bit of a step's value changes the fingerprint, and so do two in the same
// bit of two steps' values, which in bit 63 a plain sum would cancel at any distance.
func TestFingerprintOfFlippedBits(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).label("loop").add(t0, t1, t2).jal(zero, "loop"))
	start := b.State()
	run := func(flips ...uint) uint64 {
		b.Hart.SetState(start)
		for i := range uint(4) {
			b.SetReg(t1, 0)
			for _, bit := range flips {
				if bit/64 == i {
					b.SetReg(t1, 1<<(bit%64))
				}
			}
			b.run(2)
		}
		return b.Fingerprint()
	}
	clean := run()
	for bit := range uint(64) {
		for _, flips := range [][]uint{{bit}, {64 + bit}, {bit, 64 + bit}, {bit, 128 + bit}, {bit, 192 + bit}} {
			if run(flips...) == clean {
				t.Errorf("flips of the bits %d are not seen", flips)
			}
		}
	}
}
