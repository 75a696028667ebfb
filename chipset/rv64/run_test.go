package rv64

import "testing"

func TestRunBudget(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).label("loop").addi(t0, t0, 1).jal(zero, "loop"))
	for _, n := range []uint64{0, 1, 2, 3, 7, 1000, 0, 12345} {
		before := b.Steps()
		b.run(n)
		b.want("the steps", b.Steps(), before+n)
		b.want("t0", b.Reg(t0), (b.Steps()+1)/2)
	}
}

// WFI waits until an interrupt is pending that mie enables, whatever mstatus says.
func TestWFI(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).word(wfi).addi(t0, t0, 1).word(wfi, nop))
	b.EnterSupervisor(ramBase, 0, 0)
	b.writeCSR(csrMie, mipSEIP|mipSTIP)
	waits := func(what string, ranWant uint64) {
		t.Helper()
		if ran, why := b.Run(10); ran != ranWant || why != StopWFI {
			t.Fatalf("%s: ran %d: %v", what, ran, why)
		}
	}
	waits("WFI", 1)
	waits("once more", 0)
	b.SetInterrupt(1, true)
	waits("an interrupt that is not enabled", 0)
	b.SetInterrupt(9, true)
	b.run(1)
	b.want("t0", b.Reg(t0), 1)
	b.run(2) // it is still pending
	b.want("pc", b.PC(), ramBase+16)

	b.SetInterrupt(9, false)
	b.SetPC(ramBase)
	b.SetTime(0, 1, 1)
	b.SetTimer(100)
	waits("the timer is to come", 1)
	b.SetTime(99, 1, 1)
	waits("time stands while the hart waits", 0)
	b.SetTime(100, 1, 1)
	b.run(1)
	b.want("t0", b.Reg(t0), 2)
}

// One that is taken returns behind the WFI.
func TestWFIThenInterrupt(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).word(wfi, nop))
	b.load(assemble(handler).word(nop))
	b.EnterSupervisor(ramBase, 0, 0)
	b.writeCSR(csrStvec, handler)
	b.writeCSR(csrMie, mipSEIP)
	b.writeCSR(csrMstatus, mstatusSIE)
	b.Run(10)
	b.SetInterrupt(9, true)
	b.run(1)
	b.want("pc", b.PC(), handler+4)
	b.want("sepc", b.Hart.csr.sepc, ramBase+4)
}

func TestStops(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).label("loop").addi(t0, t0, 1).jal(zero, "loop"))
	b.RequestStop()
	if ran, why := b.Run(10); ran != 0 || why != StopRequested {
		t.Errorf("after RequestStop: ran %d: %v", ran, why)
	}
	b.run(10)
	b.Halt()
	for range 2 {
		if ran, why := b.Run(10); ran != 0 || why != StopHalted {
			t.Errorf("after Halt: ran %d: %v", ran, why)
		}
	}
	s := b.State()
	s.Halted = 0
	b.Hart.SetState(s)
	b.run(10)
	b.want("t0", b.Reg(t0), 10)
}

// The firmware's answer to an ECALL from S mode, which retires.
func TestEcall(t *testing.T) {
	var b *board
	calls, jump := uint64(0), false
	b = newBoard(t, func(cfg *Config) {
		cfg.Ecall = func(h *Hart) {
			calls++
			b.want("the pc", h.PC(), ramBase+4)
			b.want("the steps", h.Steps(), 1)
			h.SetReg(a0, h.Reg(a7)+1)
			if jump {
				h.SetPC(ramBase + 4) // itself
			}
		}
	})
	b.load(assemble(ramBase).addi(a7, zero, 41).word(ecall).csrr(t0, csrInstret))
	for _, jump = range []bool{false, true} {
		s := b.State()
		s.Steps, s.Trapped = 0, 0
		b.Hart.SetState(s)
		b.EnterSupervisor(ramBase, 0, 0)
		b.run(2)
		b.want("a0", b.Reg(a0), 42)
		if jump {
			b.want("pc", b.PC(), ramBase+4)
			break
		}
		b.run(1)
		b.want("instret", b.Reg(t0), 2)
	}
	b.want("the calls", calls, 2)
	b.SetPriv(User)
	b.writeCSR(csrStvec, handler)
	b.run(1)
	b.trapped(causeEcallU, 0, ramBase+4)
}

// Nothing is allocated while running: blocks decoded, translations found, traps taken.
func TestNoAllocation(t *testing.T) {
	b := newScenarioBoard(t, EveryStep)
	s := makeScenario(3)
	s.reset(b)
	s.do(b)
	b.onLoad, b.onStore = nil, nil
	b.loads, b.stores = make([]busAccess, 0, 1<<16), make([]busAccess, 0, 1<<16)
	if n := testing.AllocsPerRun(100, func() {
		if _, why := b.Run(1000); why == StopWFI {
			b.waiting = false
		}
		state := b.State()
		state.Digest()
	}); n != 0 {
		t.Errorf("%v allocations a run", n)
	}
}
