package rv64

import "testing"

// Time at each step, as the instruction reads it, whatever the rate.
func TestTime(t *testing.T) {
	for _, c := range []struct {
		num, den uint32
		want     [8]uint64 // at the steps 0…7
	}{
		{0, 1, [8]uint64{100, 100, 100, 100, 100, 100, 100, 100}},
		{1, 1, [8]uint64{100, 101, 102, 103, 104, 105, 106, 107}},
		{1, 3, [8]uint64{100, 100, 100, 101, 101, 101, 102, 102}},
		{7, 2, [8]uint64{100, 103, 107, 110, 114, 117, 121, 124}},
	} {
		b := newBoard(t)
		a := assemble(ramBase)
		for i := range uint32(8) {
			a.csrr(a0+i, csrTime)
		}
		b.load(a)
		b.SetTime(100, c.num, c.den)
		b.run(8)
		for i, want := range c.want {
			b.want("time", b.Reg(a0+i), want)
		}
	}
}

// A new rate goes on from the present step.
func TestTimeIsGrantedAnew(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).pad(ramBase + 400))
	b.SetTime(1000, 1, 1)
	b.run(10)
	b.want("time", b.Time(), 1010)
	b.SetTime(b.Time(), 1, 2)
	b.run(10)
	b.want("time", b.Time(), 1015)
	b.SetTime(5000, 0, 1)
	b.run(10)
	b.want("time", b.Time(), 5000)
	if got := b.StepsUntil(5001); got != noDeadline {
		t.Errorf("a clock that stands gets there in %d steps", got)
	}
	b.SetTime(5000, 3, 7)
	for at := uint64(4999); at < 5020; at++ {
		n := b.StepsUntil(at)
		ahead := func(steps uint64) uint64 { return 5000 + steps*3/7 }
		if ahead(n) < at || n > 0 && ahead(n-1) >= at {
			t.Errorf("%d is said to be %d steps away", at, n)
		}
	}
}

// The timer interrupt comes before exactly the step at which time reaches stimecmp, in
// the middle of a block too, and also when single steps are taken.
func TestTimerInterrupt(t *testing.T) {
	const rateNum, rateDen = 2, 5
	for at := uint64(0); at < 16; at++ {
		for _, piece := range []uint64{1, 3, 100} {
			b := newBoard(t)
			a := assemble(ramBase)
			for range 50 {
				a.addi(t0, t0, 1)
			}
			b.load(a)
			b.load(assemble(handler).label("stop").csrr(t2, csrTime).jal(zero, "stop"))
			b.EnterSupervisor(ramBase, 0, 0)
			b.writeCSR(csrStvec, handler)
			b.writeCSR(csrMie, mipSTIP)
			b.writeCSR(csrMstatus, mstatusSIE)
			b.SetTime(0, rateNum, rateDen)
			b.SetTimer(at)
			for b.Steps() < 60 {
				b.run(min(piece, 60-b.Steps()))
			}
			want := (at*rateDen + rateNum - 1) / rateNum
			b.want("the instructions before", b.Reg(t0), want)
			b.want("sepc", b.Hart.csr.sepc, ramBase+4*want)
			b.want("scause", b.Hart.csr.scause, causeInterrupt|5)
		}
	}
}

// stimecmp written by the guest, and what STIP then reads as.
func TestStimecmp(t *testing.T) {
	b := newBoard(t)
	a := assemble(ramBase)
	a.csrw(csrStimecmp, a0).csrr(t0, csrSip) // at the steps 0 and 1
	a.csrw(csrStimecmp, a1).csrr(t1, csrSip).word(nop, nop).csrr(t2, csrSip).csrr(t3, csrSip)
	a.csrw(csrStimecmp, a2).csrr(t4, csrSip)
	b.load(a)
	b.EnterSupervisor(ramBase, 0, 7)
	b.SetTime(0, 1, 1)
	b.SetReg(a2, noDeadline)
	b.run(10)
	b.want("sip at time 1", b.Reg(t0), mipSTIP)
	b.want("sip at time 3", b.Reg(t1), 0)
	b.want("sip at time 6", b.Reg(t2), 0)
	b.want("sip at time 7", b.Reg(t3), mipSTIP)
	b.want("sip with no timer", b.Reg(t4), 0)
}

// Who may touch stimecmp, and what drives STIP without Sstc.
func TestSstc(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).csrr(t0, csrStimecmp))
	try := func(what string, menvcfg, mcounteren uint64, works bool) {
		b.EnterSupervisor(ramBase, 0, 0)
		b.writeCSR(csrStvec, handler)
		b.writeCSR(csrMenvcfg, menvcfg)
		b.writeCSR(csrMcounteren, mcounteren)
		b.run(1)
		if (b.PC() == ramBase+4) != works {
			t.Errorf("%s: pc %#x", what, b.PC())
		}
	}
	try("STCE and TM", menvcfgSTCE, 2, true)
	try("without STCE", 0, 2, false)
	try("without TM", menvcfgSTCE, 5, false)

	b.SetTimer(0)
	b.writeCSR(csrMenvcfg, 0)
	b.want("mip without Sstc", b.Hart.csr.pending(), 0)
	b.writeCSR(csrMip, mipSTIP)
	b.want("mip, written", b.Hart.csr.pending(), mipSTIP)
	b.writeCSR(csrMenvcfg, menvcfgSTCE)
	b.want("mip with Sstc, time past", b.Hart.csr.pending(), mipSTIP)
	b.SetTimer(1)
	b.want("mip with Sstc, time to come", b.Hart.csr.pending(), 0)
	b.writeCSR(csrMip, mipSTIP)
	b.want("mip, written in vain", b.Hart.csr.pending(), 0)
}

func TestTimerAsked(t *testing.T) {
	b := newBoard(t)
	b.EnterSupervisor(ramBase, 0, 0)
	want := func(what string, wantAt uint64, wantArmed bool) {
		t.Helper()
		if at, armed := b.Timer(); armed != wantArmed || armed && at != wantAt {
			t.Errorf("%s: the timer is at %d, %v", what, at, armed)
		}
	}
	want("at reset", 0, false)
	b.SetTimer(50)
	want("STIE off", 0, false)
	b.writeCSR(csrMie, mipSTIP|mipMTIP)
	want("STIE on", 50, true)
	b.SetMachineTimer(40)
	want("M mode's first", 40, true)
	b.SetTimer(noDeadline)
	b.SetMachineTimer(noDeadline)
	want("never", 0, false)
}

// mtimecmp of a CLINT.
func TestMachineTimer(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).pad(ramBase + 400))
	b.writeCSR(csrMie, mipMTIP)
	b.writeCSR(csrMstatus, mstatusMIE)
	b.writeCSR(csrMtvec, ramBase+200)
	b.SetTime(0, 1, 4)
	b.SetMachineTimer(3)
	b.run(13)
	b.want("mepc", b.Hart.csr.mepc, ramBase+4*12)
	b.want("mcause", b.Hart.csr.mcause, causeInterrupt|7)
	b.SetMachineTimer(1000)
	b.want("mip", b.Hart.csr.pending(), 0)
}

// Counters count steps and retired instructions, exactly, and can be written.
func TestCounters(t *testing.T) {
	b := newBoard(t)
	a := assemble(ramBase)
	a.csrr(t0, csrMcycle).csrr(t1, csrMinstret) // at the steps 0 and 1
	a.word(ecall)                               // a step that does not retire
	a.csrr(t2, csrMcycle).csrr(t3, csrMinstret) // at 3 and 4
	a.csrw(csrMcycle, a0).csrr(t4, csrMcycle)   // what was written is what is read next
	a.csrw(csrMinstret, a0).csrr(t5, csrMinstret).csrr(t6, csrCycle)
	b.load(a)
	b.writeCSR(csrMtvec, a.at+12)
	b.SetReg(a0, 1000)
	b.run(10)
	for i, want := range map[int]uint64{t0: 0, t1: 1, t2: 3, t3: 3, t4: 1000, t5: 1000, t6: 1003} {
		b.want(WordName(i), b.Reg(i), want)
	}
}
