package rv64

import (
	"fmt"
	"testing"
)

// Every trap: which, to whom, with what in tval, from full and compressed instructions.
func TestTraps(t *testing.T) {
	const m, s, u = 1 << Machine, 1 << Supervisor, 1 << User
	for _, c := range []struct {
		name  string
		code  []uint16
		modes int
		a0    uint64
		cause uint64
		tval  uint64
	}{
		{"a zero", []uint16{0}, m | s | u, 0, causeIllegal, 0},
		{"a reserved compressed one", []uint16{0x8002}, m | s | u, 0, causeIllegal, 0x8002}, // c.jr x0
		{"all ones", []uint16{0xffff, 0xffff}, m | s | u, 0, causeIllegal, 0xffff_ffff},
		{"ebreak", halves(ebreak), m | s | u, 0, causeBreakpoint, ramBase + 0x100},
		{"c.ebreak", []uint16{0x9002}, m | s | u, 0, causeBreakpoint, ramBase + 0x100},
		{"ecall", halves(ecall), u, 0, causeEcallU, 0},
		{"ecall", halves(ecall), s, 0, causeEcallS, 0},
		{"ecall", halves(ecall), m, 0, causeEcallM, 0},
		{"mret", halves(mret), s | u, 0, causeIllegal, mret},
		{"sret", halves(sret), u, 0, causeIllegal, sret},
		{"wfi", halves(wfi), u, 0, causeIllegal, wfi},
		{"sfence.vma", halves(sfence), u, 0, causeIllegal, sfence},
		{"a load from nowhere", halves(encI(0x03, 3, t0, a0, 8)), m | s | u, 0x4000, causeLoadAccess, 0x4008},
		{"a store to nowhere", halves(encS(0x23, 0, a0, t0, -1)), m | s | u, 0x4000, causeStoreAccess, 0x3fff},
		{"a jump to nowhere", halves(encI(0x67, 0, zero, a0, 0)), m | s | u, 0x4000, causeFetchAccess, 0x4000},
		{"a jump to a device", halves(encI(0x67, 0, zero, a0, 0)), m | s | u, deviceBase, causeFetchAccess, deviceBase},
		{"c.ld from nowhere", []uint16{0x6108}, m | s | u, 0x4000, causeLoadAccess, 0x4000}, // c.ld a0, 0(a0)
		{"a misaligned load from a device", halves(encI(0x03, 1, t0, a0, 0)), m | s | u, deviceBase + 1, causeLoadAccess, deviceBase + 1},
		{"a misaligned store to a device", halves(encS(0x23, 3, a0, t0, 0)), m | s | u, deviceBase + 4, causeStoreAccess, deviceBase + 4},
		{"lr.w, misaligned", halves(encR(0x2f, 2, amoLRW<<1, t0, a0, zero)), m | s | u, pageA + 2, causeLoadMisaligned, pageA + 2},
		{"sc.d, misaligned", halves(encR(0x2f, 3, amoSCW<<1, t0, a0, zero)), m | s | u, pageA + 4, causeStoreMisaligned, pageA + 4},
		{"amoadd.d, misaligned", halves(encR(0x2f, 3, 0, t0, a0, zero)), m | s | u, pageA + 4, causeStoreMisaligned, pageA + 4},
		{"lr.w from a device", halves(encR(0x2f, 2, amoLRW<<1, t0, a0, zero)), m | s | u, deviceBase, causeLoadAccess, deviceBase},
		{"amoadd.w to a device", halves(encR(0x2f, 2, 0, t0, a0, zero)), m | s | u, deviceBase, causeStoreAccess, deviceBase},
		{"a load across RAM's end", halves(encI(0x03, 3, t0, a0, 0)), m | s | u, ramBase + 1<<20 - 4, causeLoadAccess, ramBase + 1<<20},
	} {
		for _, mode := range []Priv{User, Supervisor, Machine} {
			if c.modes>>mode&1 == 0 {
				continue
			}
			for _, delegated := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s in mode %d, delegated %v", c.name, mode, delegated), func(t *testing.T) {
					b := newBoard(t)
					b.load(assemble(ramBase + 0x100).half(c.code...))
					b.EnterSupervisor(ramBase+0x100, c.a0, 0)
					b.SetPriv(mode)
					b.writeCSR(csrMedeleg, 0)
					if delegated {
						b.writeCSR(csrMedeleg, 1<<c.cause)
					}
					const mvec, svec = ramBase + 0x1000, ramBase + 0x2000
					b.writeCSR(csrMtvec, mvec|1) // vectored is for interrupts alone
					b.writeCSR(csrStvec, svec|1)
					b.writeCSR(csrMstatus, mstatusSIE|mstatusMIE)
					pc := uint64(ramBase + 0x100)
					b.run(1)
					if c.cause == causeFetchAccess {
						b.run(1)
						pc = c.a0
					}
					d := &b.Hart.csr
					if delegated && mode != Machine && c.cause != causeEcallM {
						b.want("pc", b.PC(), svec)
						b.want("the mode", uint64(b.Priv()), uint64(Supervisor))
						b.want("scause", d.scause, c.cause)
						b.want("stval", d.stval, c.tval)
						b.want("sepc", d.sepc, pc)
						b.want("mstatus", d.mstatus, mstatusMIE|mstatusSPIE|uint64(mode)*mstatusSPP)
						return
					}
					b.want("pc", b.PC(), mvec)
					b.want("the mode", uint64(b.Priv()), uint64(Machine))
					b.want("mcause", d.mcause, c.cause)
					b.want("mtval", d.mtval, c.tval)
					b.want("mepc", d.mepc, pc)
					b.want("mstatus", d.mstatus, mstatusSIE|mstatusMPIE|uint64(mode)<<mstatusMPPShift)
				})
			}
		}
	}
}

func halves(w uint32) []uint16 { return []uint16{uint16(w), uint16(w >> 16)} }

func TestTrapReturns(t *testing.T) {
	for _, c := range []struct {
		name          string
		ret           uint32
		from          Priv
		before, after uint64 // mstatus
		to            Priv
	}{
		{"mret to U", mret, Machine, mstatusMPIE | mstatusMPRV, mstatusMIE | mstatusMPIE, User},
		{"mret to S", mret, Machine, 1<<mstatusMPPShift | mstatusMPRV | mstatusMIE, mstatusMPIE, Supervisor},
		{"mret to M", mret, Machine, 3<<mstatusMPPShift | mstatusMPRV | mstatusMPIE, mstatusMPRV | mstatusMIE | mstatusMPIE, Machine},
		{"sret to U", sret, Supervisor, mstatusSPIE | mstatusMIE, mstatusSIE | mstatusSPIE | mstatusMIE, User},
		{"sret to S", sret, Supervisor, mstatusSPP | mstatusSIE, mstatusSPIE, Supervisor},
		{"sret in M mode", sret, Machine, mstatusSPP | mstatusMPRV | mstatusTSR, mstatusSPIE | mstatusTSR, Supervisor},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBoard(t)
			b.load(assemble(ramBase).word(c.ret))
			b.EnterSupervisor(ramBase, 0, 0)
			b.SetPriv(c.from)
			b.writeCSR(csrMstatus, c.before)
			b.writeCSR(csrMepc, pageA)
			b.writeCSR(csrSepc, pageA)
			b.run(1)
			b.want("pc", b.PC(), pageA)
			b.want("mstatus", b.Hart.csr.mstatus, c.after)
			b.want("the mode", uint64(b.Priv()), uint64(c.to))
		})
	}
}

// What M mode keeps from S mode: TVM, TW, TSR.
func TestTrappedVirtualMachine(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   uint32
		status uint64
	}{
		{"sfence.vma", sfence, mstatusTVM},
		{"reading satp", encI(0x73, sysCSRRS, t0, zero, csrSatp), mstatusTVM},
		{"wfi", wfi, mstatusTW},
		{"sret", sret, mstatusTSR},
	} {
		for _, trapped := range []bool{false, true} {
			b := newBoard(t)
			b.load(assemble(ramBase).word(c.code))
			b.EnterSupervisor(ramBase, 0, 0)
			b.writeCSR(csrStvec, handler)
			if trapped {
				b.writeCSR(csrMstatus, c.status)
			}
			b.run(1)
			if trapped {
				b.trapped(causeIllegal, uint64(c.code), ramBase)
			} else if b.PC() == handler {
				t.Errorf("%s trapped", c.name)
			}
		}
	}
}

// Which interrupts are taken, by mode and enabling; in what order; where to.
func TestInterrupts(t *testing.T) {
	const (
		mvec, svec = ramBase + 0x1000, ramBase + 0x2000
		none       = 99
	)
	for _, c := range []struct {
		name    string
		lines   []uint
		mie     uint64
		mideleg uint64
		status  uint64
		mode    Priv
		code    uint64
		machine bool
	}{
		{"nothing enabled", []uint{11}, 0, 0, mstatusMIE, Machine, none, false},
		{"MEI in M mode", []uint{11}, mieWritable, 0, mstatusMIE, Machine, 11, true},
		{"MEI in M mode, MIE off", []uint{11}, mieWritable, 0, 0, Machine, none, false},
		{"MEI in S mode, MIE off", []uint{11}, mieWritable, midelegMask, 0, Supervisor, 11, true},
		{"SEI in M mode, delegated", []uint{9}, mieWritable, midelegMask, mstatusMIE | mstatusSIE, Machine, none, false},
		{"SEI in M mode, not delegated", []uint{9}, mieWritable, 0, mstatusMIE, Machine, 9, true},
		{"SEI in S mode", []uint{9}, mieWritable, midelegMask, mstatusSIE, Supervisor, 9, false},
		{"SEI in S mode, SIE off", []uint{9}, mieWritable, midelegMask, 0, Supervisor, none, false},
		{"SEI in U mode, SIE off", []uint{9}, mieWritable, midelegMask, 0, User, 9, false},
		{"SEI in S mode, not delegated", []uint{9}, mieWritable, 0, 0, Supervisor, 9, true},
		{"the order", []uint{1, 3, 5, 7, 9, 11}, mieWritable, 0, mstatusMIE, Machine, 11, true},
		{"the order", []uint{1, 3, 5, 7, 9}, mieWritable, 0, mstatusMIE, Machine, 3, true},
		{"the order", []uint{1, 5, 7, 9}, mieWritable, 0, mstatusMIE, Machine, 7, true},
		{"the order", []uint{1, 5, 9}, mieWritable, 0, mstatusMIE, Machine, 9, true},
		{"the order", []uint{1, 5}, mieWritable, 0, mstatusMIE, Machine, 1, true},
		{"the order", []uint{5}, mieWritable, 0, mstatusMIE, Machine, 5, true},
		{"M mode's before S mode's", []uint{9, 7}, mieWritable, midelegMask, mstatusSIE, Supervisor, 7, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBoard(t)
			b.load(assemble(ramBase).word(nop, nop, nop))
			b.load(assemble(mvec).pad(mvec + 64))
			b.load(assemble(svec).pad(svec + 64))
			b.EnterSupervisor(ramBase, 0, 0)
			b.SetPriv(c.mode)
			b.writeCSR(csrMtvec, mvec|1)
			b.writeCSR(csrStvec, svec|1)
			b.writeCSR(csrMie, c.mie)
			b.writeCSR(csrMideleg, c.mideleg)
			b.writeCSR(csrMstatus, c.status)
			b.run(1)
			for _, bit := range c.lines {
				b.SetInterrupt(bit, true)
			}
			b.Run(0)
			b.want("pc after no steps", b.PC(), ramBase+4)
			b.run(1)
			d := &b.Hart.csr
			switch {
			case c.code == none:
				b.want("pc", b.PC(), ramBase+8)
			case c.machine:
				b.want("pc", b.PC(), mvec+4*c.code+4)
				b.want("mcause", d.mcause, causeInterrupt|c.code)
				b.want("mepc", d.mepc, ramBase+4)
				b.want("mtval", d.mtval, 0)
			default:
				b.want("pc", b.PC(), svec+4*c.code+4)
				b.want("scause", d.scause, causeInterrupt|c.code)
				b.want("sepc", d.sepc, ramBase+4)
			}
			b.want("the steps, of which an interrupt is none", b.Steps(), 2)
		})
	}
}

// Enabling an interrupt that is pending takes it before the next instruction.
func TestInterruptWhenEnabled(t *testing.T) {
	for _, c := range []struct {
		name string
		code *asm
	}{
		{"csrs sstatus", assemble(ramBase).csr(sysCSRRSI, zero, mstatusSIE, csrSstatus)},
		{"csrs sie", assemble(ramBase).csrs(csrSie, a0)},
		{"csrs sip", assemble(ramBase).csr(sysCSRRSI, zero, mipSSIP, csrSip)},
		{"sret", assemble(ramBase).word(sret)},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBoard(t)
			b.load(c.code.addi(t0, zero, 1).addi(t0, zero, 2))
			b.load(assemble(handler).addi(t1, zero, 1))
			b.EnterSupervisor(ramBase, mipSSIP, 0)
			b.writeCSR(csrStvec, handler)
			b.writeCSR(csrSepc, ramBase+4)
			b.writeCSR(csrMstatus, mstatusSIE)
			b.writeCSR(csrMie, mipSSIP)
			b.SetInterrupt(1, true)
			switch c.name {
			case "csrs sstatus":
				b.writeCSR(csrMstatus, 0)
			case "csrs sie":
				b.writeCSR(csrMie, 0)
			case "csrs sip":
				b.SetInterrupt(1, false)
			case "sret":
				b.writeCSR(csrMstatus, mstatusSPIE|mstatusSPP)
			}
			b.run(2)
			b.want("t0", b.Reg(t0), 0)
			b.want("t1", b.Reg(t1), 1)
			b.want("sepc", b.Hart.csr.sepc, ramBase+4)
		})
	}
}
