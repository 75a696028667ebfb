package rv64

// The outer loop: it takes interrupts, and bounds how far blocks run until it has to look
// around again. Whatever can make an interrupt pending or enabled, or has to stop the
// hart, disturbs (hart.go) the inner loop.

// Run runs up to steps steps. It returns fewer only with another reason than StopBudget.
// Interrupts that are pending when the steps have run out are the next run's to take.
func (h *Hart) Run(steps uint64) (ran uint64, why Stop) {
	first := h.steps
	end := first + min(steps, noDeadline-first)
	for {
		switch {
		case h.fault != nil:
			return h.steps - first, StopFault
		case h.halted:
			return h.steps - first, StopHalted
		case h.stop:
			h.stop = false
			return h.steps - first, StopRequested
		case h.steps == end:
			return h.steps - first, StopBudget
		}
		if h.steps >= h.deadline {
			h.updateTimer()
		}
		if h.csr.pending()&h.csr.mie != 0 {
			h.waiting = false
			h.takeInterrupt()
		}
		if h.waiting {
			return h.steps - first, StopWFI
		}
		h.leave = false
		h.limit = min(end, h.deadline)
		if h.machine != nil {
			h.runTranslated()
		} else {
			h.interpret()
		}
	}
}

// SetInterrupt sets the level of an interrupt as the machine around the hart sees it, by
// its bit in mip: SSIP 1, MSIP 3, STIP 5, MTIP 7, SEIP 9, MEIP 11. SSIP is a bit that
// software clears: raising it sets it.
func (h *Hart) SetInterrupt(bit uint, level bool) {
	where := &h.csr.lines
	if bit == 1 {
		where = &h.csr.mip
	}
	mask := uint64(1) << bit & mieWritable
	if level {
		*where |= mask
	} else {
		*where &^= mask
	}
	h.attend()
}

// attend disturbs the inner loop if there is an interrupt to take or to wake up for.
func (h *Hart) attend() {
	if h.csr.pending()&h.csr.mie != 0 {
		h.disturb()
	}
}

// interrupt is the cause of the interrupt to take, if one is pending and enabled
// (privileged specification, "Machine Interrupt Registers").
func (h *Hart) interrupt() (cause uint64, ok bool) {
	c := &h.csr
	ready := c.pending() & c.mie
	take := uint64(0)
	if h.priv < Machine || c.mstatus&mstatusMIE != 0 {
		take = ready &^ c.mideleg
	}
	if take == 0 && (h.priv < Supervisor || h.priv == Supervisor && c.mstatus&mstatusSIE != 0) {
		take = ready & c.mideleg
	}
	for _, bit := range [...]uint64{11, 3, 7, 9, 1, 5} { // by priority
		if take>>bit&1 != 0 {
			return causeInterrupt | bit, true
		}
	}
	return 0, false
}

func (h *Hart) takeInterrupt() {
	if cause, ok := h.interrupt(); ok {
		h.raise(cause, 0)
		h.takeTrap(h.pc)
	}
}
