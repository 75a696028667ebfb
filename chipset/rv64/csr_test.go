package rv64

import (
	"fmt"
	"testing"
)

// What each register keeps of all ones, and of all zeroes.
func TestCSRFields(t *testing.T) {
	const ones = ^uint64(0)
	for _, c := range []struct {
		name     string
		n        uint32
		hi, lo   uint64 // as read after writing ones, and zeroes
		readonly bool
	}{
		{name: "fflags", n: csrFflags, hi: 31},
		{name: "frm", n: csrFrm, hi: 7},
		{name: "fcsr", n: csrFcsr, hi: 255},
		{name: "sstatus", n: csrSstatus, hi: 0x8000_0002_000c_6122, lo: 0x2_0000_0000},
		{name: "sie", n: csrSie, hi: 0x222},
		{name: "stvec", n: csrStvec, hi: ones - 2},
		{name: "scounteren", n: csrScounteren, hi: 0xffff_ffff},
		{name: "senvcfg", n: csrSenvcfg, hi: 1},
		{name: "sscratch", n: csrSscratch, hi: ones},
		{name: "sepc", n: csrSepc, hi: ones - 1},
		{name: "scause", n: csrScause, hi: ones},
		{name: "stval", n: csrStval, hi: ones},
		{name: "sip", n: csrSip, hi: 2},
		{name: "stimecmp", n: csrStimecmp, hi: ones},
		{name: "satp", n: csrSatp}, // the mode 15 is not here
		{name: "mstatus", n: csrMstatus, hi: 0x8000_000a_007e_79aa, lo: 0xa_0000_0000},
		{name: "misa", n: csrMisa, hi: 0x8000_0000_0014_112d, lo: 0x8000_0000_0014_112d},
		{name: "medeleg", n: csrMedeleg, hi: 0xb3ff},
		{name: "mideleg", n: csrMideleg, hi: 0x222},
		{name: "mie", n: csrMie, hi: 0xaaa},
		{name: "mtvec", n: csrMtvec, hi: ones - 2},
		{name: "mcounteren", n: csrMcounteren, hi: 0xffff_ffff},
		{name: "menvcfg", n: csrMenvcfg, hi: 0xa000_0000_0000_0001, lo: 0x2000_0000_0000_0000},
		{name: "mcountinhibit", n: csrMcountinhibit},
		{name: "mhpmevent3", n: csrMhpmevent3},
		{name: "mscratch", n: csrMscratch, hi: ones},
		{name: "mepc", n: csrMepc, hi: ones - 1},
		{name: "mcause", n: csrMcause, hi: ones},
		{name: "mtval", n: csrMtval, hi: ones},
		{name: "mip", n: csrMip, hi: 0x202}, // with Sstc STIP is the timer's
		{name: "pmpaddr15", n: csrPmpaddr15, hi: 1<<54 - 1},
		{name: "tselect", n: csrTselect},
		{name: "tdata1", n: csrTselect + 1},
		{name: "mhpmcounter31", n: csrMhpmcounter31},
		{name: "hpmcounter31", n: csrHpmcounter31, readonly: true},
		{name: "mvendorid", n: csrMvendorid, readonly: true},
		{name: "marchid", n: csrMvendorid + 1, readonly: true},
		{name: "mimpid", n: csrMvendorid + 2, readonly: true},
		{name: "mhartid", n: csrMhartid, hi: 7, lo: 7, readonly: true},
		{name: "mconfigptr", n: csrMconfigptr, readonly: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBoard(t, func(cfg *Config) { cfg.ID = 7 })
			a := assemble(ramBase)
			if c.readonly {
				a.csrr(t0, c.n).csrr(t1, c.n)
			} else {
				a.csrw(c.n, a0).csrr(t0, c.n).csrw(c.n, zero).csrr(t1, c.n)
			}
			b.load(a)
			b.EnterSupervisor(ramBase, ones, 0)
			b.writeCSR(csrMtvec, handler)
			b.writeCSR(csrMstatus, mstatusFS)
			b.SetPriv(Machine)
			for b.PC() != a.pc() {
				if b.run(1); b.PC() == handler {
					t.Fatalf("cause %d, tval %#x", b.Hart.csr.mcause, b.Hart.csr.mtval)
				}
			}
			b.want("after ones", b.Reg(t0), c.hi)
			b.want("after zeroes", b.Reg(t1), c.lo)
		})
	}
}

// Who may access what.
func TestCSRAccess(t *testing.T) {
	const read, write = false, true
	for _, c := range []struct {
		name  string
		n     uint32
		write bool
		modes string // that may
		setup func(b *board)
	}{
		{"mstatus", csrMstatus, read, "M", nil},
		{"sstatus", csrSstatus, read, "MS", nil},
		{"sstatus", csrSstatus, write, "MS", nil},
		{"satp", csrSatp, write, "MS", nil},
		{"cycle", csrCycle, read, "MSU", nil},
		{"cycle", csrCycle, write, "", nil},
		{"cycle without CY in mcounteren", csrCycle, read, "M", func(b *board) { b.writeCSR(csrMcounteren, 6) }},
		{"time without TM in scounteren", csrTime, read, "MS", func(b *board) { b.writeCSR(csrScounteren, 5) }},
		{"hpmcounter3", csrInstret + 1, read, "MSU", nil},
		{"fcsr", csrFcsr, write, "MSU", nil},
		{"fcsr with FS off", csrFcsr, read, "", func(b *board) { b.writeCSR(csrMstatus, 0) }},
		{"mhartid", csrMhartid, write, "", nil},
		{"a number without a register", 0x5c0, read, "", nil},
		{"a machine's one", 0x7c0, read, "", nil},
		{"dcsr", 0x7b0, read, "", nil},
		{"pmpcfg1, which RV64 does not have", csrPmpcfg0 + 1, read, "", nil},
		{"pmpaddr16", csrPmpaddr15 + 1, read, "", nil},
		{"cycleh", 0xc80, read, "", nil},
		{"hstatus", 0x600, read, "", nil},
	} {
		for i, mode := range []Priv{Machine, Supervisor, User} {
			b := newBoard(t)
			a := assemble(ramBase)
			if c.write {
				a.csr(sysCSRRSI, zero, 1, c.n)
			} else {
				a.csrr(t0, c.n)
			}
			b.load(a)
			b.EnterSupervisor(ramBase, 0, 0)
			b.SetPriv(mode)
			b.writeCSR(csrMtvec, handler)
			b.writeCSR(csrMedeleg, 0)
			b.writeCSR(csrScounteren, 0xffff_ffff)
			b.writeCSR(csrMstatus, mstatusFS)
			if c.setup != nil {
				c.setup(b)
			}
			b.run(1)
			may := false
			for _, m := range c.modes {
				may = may || m == rune("MSU"[i])
			}
			if got := b.PC() == ramBase+4; got != may {
				t.Errorf("%s, write %v, in mode %c: %v", c.name, c.write, "MSU"[i], got)
			} else if !may {
				b.want("mcause", b.Hart.csr.mcause, causeIllegal)
			}
		}
	}
}

// The six instructions; without a destination nothing is read, without a source nothing
// is written.
func TestCSRInstructions(t *testing.T) {
	for _, c := range []struct {
		f3, rd, rs1 uint32
		after       uint64
	}{
		{sysCSRRW, t0, a0, 0x0f}, {sysCSRRS, t0, a0, 0x3f}, {sysCSRRC, t0, a0, 0x30},
		{sysCSRRW, t0, zero, 0}, {sysCSRRS, t0, zero, 0x3c}, {sysCSRRC, t0, zero, 0x3c},
		{sysCSRRWI, t0, 0x11, 0x11}, {sysCSRRSI, t0, 0x11, 0x3d}, {sysCSRRCI, t0, 0x1c, 0x20},
		{sysCSRRW, zero, a0, 0x0f}, {sysCSRRW, a0, a0, 0x0f},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			b := newBoard(t)
			b.load(assemble(ramBase).csr(c.f3, c.rd, c.rs1, csrMscratch))
			b.writeCSR(csrMscratch, 0x3c)
			b.SetReg(a0, 0x0f)
			b.run(1)
			b.want("mscratch", b.Hart.csr.mscratch, c.after)
			if c.rd != zero {
				b.want("rd", b.Reg(int(c.rd)), 0x3c)
			}
		})
	}
}

// SEIP is read with the line from outside, and written without it.
func TestSEIP(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).csr(sysCSRRSI, t0, 2, csrMip).csrr(t1, csrMip))
	b.SetInterrupt(9, true)
	b.run(2)
	b.want("mip", b.Reg(t0), mipSEIP)
	b.SetInterrupt(9, false)
	b.want("mip without the line", b.Hart.csr.pending(), mipSSIP)
}

// S mode sees and sets the interrupts that are delegated to it, no others.
func TestDelegatedInterruptCSRs(t *testing.T) {
	b := newBoard(t)
	b.load(assemble(ramBase).csrw(csrSie, a0).csrw(csrSip, a0).csrr(t0, csrSie).csrr(t1, csrSip))
	b.EnterSupervisor(ramBase, ^uint64(0), 0)
	b.writeCSR(csrMideleg, mipSSIP|mipSEIP)
	b.writeCSR(csrMie, mipMTIP)
	b.SetInterrupt(5, true)
	b.SetInterrupt(9, true)
	b.run(4)
	b.want("sie", b.Reg(t0), mipSSIP|mipSEIP)
	b.want("sip", b.Reg(t1), mipSSIP|mipSEIP)
	b.want("mie", b.Hart.csr.mie, mipMTIP|mipSSIP|mipSEIP)
}
