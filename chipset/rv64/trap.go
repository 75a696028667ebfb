package rv64

// trapData is what the trap being taken adds to the fingerprint, before it is mixed.
func (h *Hart) trapData() uint64 {
	return (h.trapCause+1)*foldSecond + h.trapValue*foldAddr
}

// takeTrap enters the handler of the trap in trapCause and trapValue, which the step at
// pc raised or, for an interrupt, which comes before it.
func (h *Hart) takeTrap(pc uint64) {
	c := &h.csr
	h.reservation = reservation{}
	code := h.trapCause &^ causeInterrupt
	deleg := c.medeleg
	if h.trapCause&causeInterrupt != 0 {
		deleg = c.mideleg
	}
	status := c.mstatus
	var vector uint64
	if h.priv <= Supervisor && deleg>>code&1 != 0 {
		c.sepc, c.scause, c.stval = pc, h.trapCause, h.trapValue
		status &^= mstatusSPP | mstatusSPIE
		status |= status & mstatusSIE << 4 // SPIE
		status &^= mstatusSIE
		if h.priv == Supervisor {
			status |= mstatusSPP
		}
		h.priv, vector = Supervisor, c.stvec
	} else {
		c.mepc, c.mcause, c.mtval = pc, h.trapCause, h.trapValue
		status &^= mstatusMPP | mstatusMPIE
		status |= status & mstatusMIE << 4 // MPIE
		status &^= mstatusMIE
		status |= uint64(h.priv) << mstatusMPPShift
		h.priv, vector = Machine, c.mtvec
	}
	h.pc = vector &^ 3
	if vector&1 != 0 && h.trapCause&causeInterrupt != 0 {
		h.pc += 4 * code
	}
	h.csr.mstatus = status
	h.enterRegime()
	h.attend()
}

// returnFrom is MRET or SRET, from the mode given.
func (h *Hart) returnFrom(from Priv) {
	c := &h.csr
	h.reservation = reservation{}
	status := c.mstatus
	if from == Machine {
		h.priv, h.pc = Priv(status>>mstatusMPPShift&3), c.mepc
		status &^= mstatusMIE | mstatusMPP
		status |= status & mstatusMPIE >> 4 // MIE
		status |= mstatusMPIE
	} else {
		h.priv, h.pc = Priv(status/mstatusSPP&1), c.sepc
		status &^= mstatusSIE | mstatusSPP
		status |= status & mstatusSPIE >> 4 // SIE
		status |= mstatusSPIE
	}
	if h.priv != Machine {
		status &^= mstatusMPRV
	}
	c.mstatus = status
	h.enterRegime()
	h.attend()
}
