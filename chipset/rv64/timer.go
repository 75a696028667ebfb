package rv64

import "math/bits"

// Time, and the timers that compare with it.
//
// Time is a function of steps: base + (steps - since) · num / den, rounded down, as
// SetTime last granted it. A timer interrupt is pending exactly while time is at or past
// its comparator. deadline is the step at which the first of those that are not pending
// becomes so; no block runs across it, so timers is right at every step.

// noDeadline is a comparator, or a step, that is never reached.
const noDeadline = ^uint64(0)

// SetTime makes time, from the present step on, base plus num/den ticks a step. den is
// not zero.
func (h *Hart) SetTime(base uint64, num, den uint32) {
	if den == 0 {
		panic("rv64.SetTime: a rate with the denominator 0")
	}
	h.csr.timeBase, h.csr.timeSince = base, h.Steps()
	h.csr.timeNum, h.csr.timeDen = uint64(num), uint64(den)
	h.updateTimer()
}

// Time is the time at the present step, in ticks; it is what the CSR reads.
func (h *Hart) Time() uint64 {
	c := &h.csr
	hi, lo := bits.Mul64(h.Steps()-c.timeSince, c.timeNum)
	ticks, _ := bits.Div64(hi%c.timeDen, lo, c.timeDen)
	return c.timeBase + ticks
}

// SetTimer writes stimecmp: with Sstc on (menvcfg.STCE), STIP is pending from the step on
// at which time reaches at. The largest value is never reached.
func (h *Hart) SetTimer(at uint64) {
	h.csr.stimecmp = at
	h.updateTimer()
}

// SetMachineTimer is SetTimer for MTIP: mtimecmp of a CLINT that is outside the hart.
func (h *Hart) SetMachineTimer(at uint64) {
	h.csr.mtimecmp = at
	h.updateTimer()
}

// Timer is the earliest time at which a timer interrupt that would end a WFI becomes
// pending, if there is one.
func (h *Hart) Timer() (at uint64, armed bool) {
	c := &h.csr
	at = noDeadline
	if c.mie&mipSTIP != 0 && c.menvcfg&menvcfgSTCE != 0 {
		at = c.stimecmp
	}
	if c.mie&mipMTIP != 0 {
		at = min(at, c.mtimecmp)
	}
	return at, at != noDeadline
}

// updateTimer is called when time, its rate or a comparator was changed, and at the
// deadline.
func (h *Hart) updateTimer() {
	c := &h.csr
	now := h.Time()
	c.timers, h.deadline = 0, noDeadline
	if c.menvcfg&menvcfgSTCE != 0 {
		h.compareTime(now, c.stimecmp, mipSTIP)
	}
	h.compareTime(now, c.mtimecmp, mipMTIP)
	h.disturb()
}

func (h *Hart) compareTime(now, at, bit uint64) {
	switch {
	case at == noDeadline:
	case now >= at:
		h.csr.timers |= bit
	default:
		h.deadline = min(h.deadline, h.stepOf(at))
	}
}

// StepsUntil is how many steps there are from the present one until Time is at or past
// ticks: 0 if it is, the largest value if it never will be, as granted now.
func (h *Hart) StepsUntil(ticks uint64) uint64 {
	if h.Time() >= ticks {
		return 0
	}
	if step := h.stepOf(ticks); step != noDeadline {
		return step - h.Steps()
	}
	return noDeadline
}

// stepOf is the first step at which time is at or past a time that lies ahead.
func (h *Hart) stepOf(at uint64) uint64 {
	c := &h.csr
	hi, lo := bits.Mul64(at-c.timeBase, c.timeDen)
	if hi >= c.timeNum { // too far ahead for a number, or time stands still
		return noDeadline
	}
	n, rest := bits.Div64(hi, lo, c.timeNum)
	if rest != 0 {
		n++
	}
	if step := c.timeSince + n; step >= n {
		return step
	}
	return noDeadline
}
