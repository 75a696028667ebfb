package rv64

// Control and status registers (privileged specification 1.12; Sstc; Zicntr). What a
// field that is not in csrs or its masks reads as is fixed here: it is written in vain.

// Priv is a privilege mode, as mstatus.MPP encodes it.
type Priv uint8

const (
	User       Priv = 0
	Supervisor Priv = 1
	Machine    Priv = 3
)

// mstatus and sstatus.
const (
	mstatusSIE  = 1 << 1
	mstatusMIE  = 1 << 3
	mstatusSPIE = 1 << 5
	mstatusMPIE = 1 << 7
	mstatusSPP  = 1 << 8
	mstatusMPP  = 3 << mstatusMPPShift
	mstatusFS   = 3 << 13 // all ones is dirty
	mstatusMPRV = 1 << 17
	mstatusSUM  = 1 << 18
	mstatusMXR  = 1 << 19
	mstatusTVM  = 1 << 20
	mstatusTW   = 1 << 21
	mstatusTSR  = 1 << 22
	mstatusXL   = 2<<32 | 2<<34 // UXL and SXL: 64 bits
	mstatusSD   = 1 << 63

	mstatusMPPShift = 11

	mstatusWritable = mstatusSIE | mstatusMIE | mstatusSPIE | mstatusMPIE | mstatusSPP | mstatusMPP |
		mstatusFS | mstatusMPRV | mstatusSUM | mstatusMXR | mstatusTVM | mstatusTW | mstatusTSR
	sstatusWritable = mstatusSIE | mstatusSPIE | mstatusSPP | mstatusFS | mstatusSUM | mstatusMXR
	sstatusReadable = sstatusWritable | 3<<32 | mstatusSD
	// What decides which translations hold.
	mstatusRegime = mstatusMPP | mstatusMPRV | mstatusSUM | mstatusMXR
)

// Interrupts, as bits of mip and mie.
const (
	mipSSIP = 1 << 1
	mipMSIP = 1 << 3
	mipSTIP = 1 << 5
	mipMTIP = 1 << 7
	mipSEIP = 1 << 9
	mipMEIP = 1 << 11

	mieWritable = mipSSIP | mipMSIP | mipSTIP | mipMTIP | mipSEIP | mipMEIP
	midelegMask = mipSSIP | mipSTIP | mipSEIP
	// Every exception but ECALL from M mode can be delegated.
	medelegMask = 1<<causeFetchMisaligned | 1<<causeFetchAccess | 1<<causeIllegal | 1<<causeBreakpoint |
		1<<causeLoadMisaligned | 1<<causeLoadAccess | 1<<causeStoreMisaligned | 1<<causeStoreAccess |
		1<<causeEcallU | 1<<causeEcallS | 1<<causeFetchPage | 1<<causeLoadPage | 1<<causeStorePage
)

const (
	menvcfgFIOM = 1 << 0
	menvcfgADUE = 1 << 61 // reads as one
	menvcfgSTCE = 1 << 63

	misa = 2<<62 | 1 | 1<<('C'-'A') | 1<<('D'-'A') | 1<<('F'-'A') | 1<<('I'-'A') |
		1<<('M'-'A') | 1<<('S'-'A') | 1<<('U'-'A')

	satpFields = 15<<60 | ptePPNMask
)

// Numbers of the registers.
const (
	csrFflags        = 0x001
	csrFrm           = 0x002
	csrFcsr          = 0x003
	csrSstatus       = 0x100
	csrSie           = 0x104
	csrStvec         = 0x105
	csrScounteren    = 0x106
	csrSenvcfg       = 0x10a
	csrSscratch      = 0x140
	csrSepc          = 0x141
	csrScause        = 0x142
	csrStval         = 0x143
	csrSip           = 0x144
	csrStimecmp      = 0x14d
	csrSatp          = 0x180
	csrMstatus       = 0x300
	csrMisa          = 0x301
	csrMedeleg       = 0x302
	csrMideleg       = 0x303
	csrMie           = 0x304
	csrMtvec         = 0x305
	csrMcounteren    = 0x306
	csrMenvcfg       = 0x30a
	csrMcountinhibit = 0x320
	csrMhpmevent3    = 0x323
	csrMhpmevent31   = 0x33f
	csrMscratch      = 0x340
	csrMepc          = 0x341
	csrMcause        = 0x342
	csrMtval         = 0x343
	csrMip           = 0x344
	csrPmpcfg0       = 0x3a0
	csrPmpcfg2       = 0x3a2
	csrPmpaddr0      = 0x3b0
	csrPmpaddr15     = 0x3bf
	csrTselect       = 0x7a0
	csrTdata3        = 0x7a3
	csrMcycle        = 0xb00
	csrMinstret      = 0xb02
	csrMhpmcounter3  = 0xb03
	csrMhpmcounter31 = 0xb1f
	csrCycle         = 0xc00
	csrTime          = 0xc01
	csrInstret       = 0xc02
	csrHpmcounter31  = 0xc1f
	csrMvendorid     = 0xf11
	csrMhartid       = 0xf14
	csrMconfigptr    = 0xf15
)

// csrs is what the registers hold.
type csrs struct {
	mstatus uint64 // without SD and XL
	mie     uint64
	mip     uint64 // the bits that software writes: SSIP, STIP without Sstc, SEIP's own
	lines   uint64 // interrupts raised from outside (SetInterrupt)
	timers  uint64 // interrupts of the timers (timer.go)
	medeleg uint64
	mideleg uint64

	mtvec, mscratch, mepc, mcause, mtval uint64
	stvec, sscratch, sepc, scause, stval uint64
	satp                                 uint64
	mcounteren, scounteren               uint64
	menvcfg, senvcfg                     uint64

	fflags, frm uint64

	pmpcfg  [pmpCount]uint8
	pmpaddr [pmpCount]uint64

	// mcycle and minstret are steps plus these; traps do not retire.
	cycleOffset, instretOffset uint64
	trapped                    uint64

	stimecmp, mtimecmp uint64
	// Time is timeBase and, since the step timeSince, timeNum/timeDen ticks a step.
	timeBase, timeSince, timeNum, timeDen uint64
}

func (c *csrs) reset() {
	*c = csrs{stimecmp: noDeadline, mtimecmp: noDeadline, timeDen: 1}
}

// pending is mip.
func (c *csrs) pending() uint64 { return c.mip | c.lines | c.timers }

// readStatus is mstatus.
func (c *csrs) readStatus() uint64 {
	v := c.mstatus | mstatusXL
	if v&mstatusFS == mstatusFS {
		v |= mstatusSD
	}
	return v
}

// csrAllowed says whether the hart, in its present mode, may access a register; whether
// there is one is readCSR's to say.
func (h *Hart) csrAllowed(n uint32, writes bool) bool {
	if Priv(n>>8&3) > h.priv || writes && n>>10 == 3 {
		return false
	}
	switch {
	case n <= csrFcsr:
		return h.csr.mstatus&mstatusFS != 0
	case n == csrSatp:
		return h.priv == Machine || h.csr.mstatus&mstatusTVM == 0
	case n == csrStimecmp:
		return h.priv == Machine || h.csr.menvcfg&menvcfgSTCE != 0 && h.csr.mcounteren>>(csrTime&31)&1 != 0
	case n >= csrCycle && n <= csrHpmcounter31:
		bit := uint64(1) << (n & 31)
		return h.priv == Machine || h.csr.mcounteren&bit != 0 &&
			(h.priv == Supervisor || h.csr.scounteren&bit != 0)
	}
	return true
}

// readCSR reads a register; false if there is none of that number.
func (h *Hart) readCSR(n uint32) (v uint64, ok bool) {
	c := &h.csr
	switch n {
	case csrFflags:
		return c.fflags, true
	case csrFrm:
		return c.frm, true
	case csrFcsr:
		return c.frm<<5 | c.fflags, true
	case csrSstatus:
		return c.readStatus() & sstatusReadable, true
	case csrSie:
		return c.mie & c.mideleg, true
	case csrStvec:
		return c.stvec, true
	case csrScounteren:
		return c.scounteren, true
	case csrSenvcfg:
		return c.senvcfg, true
	case csrSscratch:
		return c.sscratch, true
	case csrSepc:
		return c.sepc, true
	case csrScause:
		return c.scause, true
	case csrStval:
		return c.stval, true
	case csrSip:
		return c.pending() & c.mideleg, true
	case csrStimecmp:
		return c.stimecmp, true
	case csrSatp:
		return c.satp, true
	case csrMcycle, csrCycle:
		return h.Steps() + c.cycleOffset, true
	case csrMinstret, csrInstret:
		return h.Steps() - c.trapped + c.instretOffset, true
	case csrTime:
		return h.Time(), true
	}
	return h.readMachineCSR(n)
}

func (h *Hart) readMachineCSR(n uint32) (v uint64, ok bool) {
	c := &h.csr
	switch n {
	case csrMstatus:
		return c.readStatus(), true
	case csrMisa:
		return misa, true
	case csrMedeleg:
		return c.medeleg, true
	case csrMideleg:
		return c.mideleg, true
	case csrMie:
		return c.mie, true
	case csrMtvec:
		return c.mtvec, true
	case csrMcounteren:
		return c.mcounteren, true
	case csrMenvcfg:
		return c.menvcfg | menvcfgADUE, true
	case csrMscratch:
		return c.mscratch, true
	case csrMepc:
		return c.mepc, true
	case csrMcause:
		return c.mcause, true
	case csrMtval:
		return c.mtval, true
	case csrMip:
		return c.pending(), true
	case csrPmpcfg0, csrPmpcfg2:
		return h.readPMPConfig(int(n-csrPmpcfg0) * 4), true
	case csrMhartid:
		return h.cfg.ID, true
	}
	switch {
	case n >= csrPmpaddr0 && n <= csrPmpaddr15:
		return c.pmpaddr[n-csrPmpaddr0], true
	case n == csrMcountinhibit, // nothing is ever inhibited
		n >= csrMhpmevent3 && n <= csrMhpmevent31,
		n >= csrMhpmcounter3 && n <= csrMhpmcounter31,
		n > csrInstret && n <= csrHpmcounter31,
		n >= csrTselect && n <= csrTdata3, // type 0: there is no trigger
		n >= csrMvendorid && n <= csrMconfigptr:
		return 0, true
	}
	return 0, false
}

// writeCSR writes a register that csrAllowed and readCSR accepted, as the present step.
func (h *Hart) writeCSR(n uint32, v uint64) {
	c := &h.csr
	switch n {
	case csrFflags, csrFrm, csrFcsr:
		h.writeFloatCSR(n, v)
	case csrSstatus:
		h.writeStatus(v, sstatusWritable)
	case csrSie:
		c.mie = c.mie&^c.mideleg | v&c.mideleg
		h.attend()
	case csrStvec:
		c.stvec = v &^ 2
	case csrScounteren:
		c.scounteren = v & 0xffff_ffff
	case csrSenvcfg:
		c.senvcfg = v & menvcfgFIOM
	case csrSscratch:
		c.sscratch = v
	case csrSepc:
		c.sepc = v &^ 1
	case csrScause:
		c.scause = v
	case csrStval:
		c.stval = v
	case csrSip:
		writable := c.mideleg & mipSSIP
		c.mip = c.mip&^writable | v&writable
		h.attend()
	case csrStimecmp:
		h.SetTimer(v)
	case csrSatp:
		h.writeSatp(v)
	case csrMcycle: // written instead of incremented by this step
		c.cycleOffset = v - (h.Steps() + 1)
	case csrMinstret:
		c.instretOffset = v - (h.Steps() + 1 - c.trapped)
	default:
		h.writeMachineCSR(n, v)
	}
}

func (h *Hart) writeMachineCSR(n uint32, v uint64) {
	c := &h.csr
	switch n {
	case csrMstatus:
		h.writeStatus(v, mstatusWritable)
	case csrMedeleg:
		c.medeleg = v & medelegMask
	case csrMideleg:
		c.mideleg = v & midelegMask
		h.attend()
	case csrMie:
		c.mie = v & mieWritable
		h.attend()
	case csrMtvec:
		c.mtvec = v &^ 2
	case csrMcounteren:
		c.mcounteren = v & 0xffff_ffff
	case csrMenvcfg:
		c.menvcfg = v & (menvcfgFIOM | menvcfgSTCE)
		c.mip &^= mipSTIP
		h.updateTimer()
	case csrMscratch:
		c.mscratch = v
	case csrMepc:
		c.mepc = v &^ 1
	case csrMcause:
		c.mcause = v
	case csrMtval:
		c.mtval = v
	case csrMip:
		writable := uint64(mipSSIP | mipSEIP)
		if c.menvcfg&menvcfgSTCE == 0 {
			writable |= mipSTIP
		}
		c.mip = c.mip&^writable | v&writable
		h.attend()
	case csrPmpcfg0, csrPmpcfg2:
		h.writePMPConfig(int(n-csrPmpcfg0)*4, v)
	default:
		if n >= csrPmpaddr0 && n <= csrPmpaddr15 {
			h.writePMPAddr(int(n-csrPmpaddr0), v)
		}
	}
}

func (h *Hart) writeStatus(v, writable uint64) {
	old := h.csr.mstatus
	v = old&^writable | v&writable
	if v>>mstatusMPPShift&3 == 2 { // there is no such mode
		v &^= mstatusMPP
	}
	h.setStatus(v)
}

// setStatus changes mstatus, and what depends on it.
func (h *Hart) setStatus(v uint64) {
	changed := h.csr.mstatus ^ v
	h.csr.mstatus = v
	if changed&mstatusRegime != 0 {
		h.enterRegime()
	}
	if changed&mstatusFS != 0 {
		h.floatChanged()
	}
	if v&changed&(mstatusSIE|mstatusMIE) != 0 {
		h.attend()
	}
}

// writeSatp ignores a mode that there is not as a whole.
func (h *Hart) writeSatp(v uint64) {
	switch mode := v >> 60; {
	case mode == satpBare:
		v = 0
	case mode == satpSv39, mode == satpSv48 && h.cfg.Sv48:
		v &= satpFields
	default:
		return
	}
	if v != h.csr.satp {
		h.csr.satp = v
		h.satpChanged()
	}
}
