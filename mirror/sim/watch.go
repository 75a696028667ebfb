package sim

// What the engine reports, and what it does unasked, held against the rules.

import (
	"ft/drivers"
	"ft/mirror/legio"
)

// sideChanged follows what the engine reports.
func (b *box) sideChanged(w *world, side int, ev drivers.Event) {
	to, err := drivers.ParseState(ev.To)
	if err != nil {
		w.fail("event with an unknown state: %+v", ev)
		return
	}
	was := b.state[side]
	b.state[side] = to
	in := to.InService()
	switch {
	case !in && b.inSince[1-side] < 0 && (w.legs[0].lost || w.legs[1].lost):
		// Both are out, one of them without its cache, and it may be served again before its
		// partner.
		w.legs[0].lost, w.legs[1].lost = false, false
		w.cacheLost()
	}
	if to == drivers.Duplex {
		w.model.equal = true
	} else if was == drivers.Syncing && to == drivers.Simplex {
		w.undecide(0, w.dataBytes)
	}
	switch {
	case in && b.inSince[side] < 0:
		b.inSince[side] = w.now
		if was == drivers.Syncing {
			w.stats.Resyncs++
			b.bound.joined(side)
		}
	case !in && b.inSince[side] >= 0:
		b.inSince[side] = -1
		w.stats.Losses++
		if b.resolving == side {
			w.forgetResolve()
		}
		if b.bound.known() {
			b.bound.lost(side)
		}
		w.afterLoss(side)
	}
	if in || to == drivers.Syncing || to == drivers.Diagnostics {
		return
	}
	b.served[side] = false
	if to == drivers.Shot {
		l := w.legs[side]
		if !w.recentlyIll(l) {
			w.fail("leg %d was cut off although nothing ailed it: %s", side, ev.Reason)
		}
	}
}

// afterLoss likes to crash soon after a leg was lost, and to start with that leg: the
// moment when a mirror is most easily wrong.
func (w *world) afterLoss(side int) {
	b := &w.box
	if w.settling || w.cfg.Calm || b.crashAt > 0 || !w.drawn(w.p.crashAfterLoss) {
		return
	}
	b.crashAt = w.steps + 1 + w.plan.Int64N(16)
	b.kind, b.aim = PowerCut, -1
	if w.drawn(0.65) {
		b.kind = KillDriver
	}
	// At best the moment that a write has been acknowledged.
	b.crashOnAck = w.drawn(0.7)
	if w.drawn(0.25) {
		b.aim = side
	}
}

// recentlyIll says whether a leg gave cause to be cut off.
func (w *world) recentlyIll(l *simLeg) bool {
	return !l.well() || l.illAt >= 0 && w.now-l.illAt <= 12*w.p.timeout
}

// checkCopy: what is written to a leg's data is a client's, or a copy to where the leg
// may differ.
func (b *box) checkCopy(w *world, io *legio.IO) {
	if io.Op == legio.Write {
		for _, c := range w.client.calls {
			if overlap(c.mem, io.Buf) {
				return
			}
		}
	} else {
		for _, c := range w.client.calls {
			if c.op == opZero && c.off <= io.Off && io.Off+io.Len <= c.off+c.n {
				return
			}
		}
	}
	w.stats.CopiedBytes += io.Len
	if b.state[io.Side] == drivers.Simplex && b.state[1-io.Side] == drivers.Syncing {
		w.undecide(io.Off, io.Len) // a crash resync that turned round: the source is unreadable there
	}
	lo, hi := b.bound.span(io.Off, io.Len)
	for r := lo; r < hi; r++ {
		b.bound.copied[io.Side][r] = b.bound.step
		if w.p.victim < 0 && !b.bound.allowed[io.Side][r] { // else what is wrong anywhere is healed
			w.fail("region %d is copied to leg %d, which did not miss it", r, io.Side)
			return
		}
	}
}

// undecide takes back what reads of a range decided, also those whose answers are on
// their way.
func (w *world) undecide(off, n int64) {
	if !w.model.equal {
		w.history.end()
	}
	w.model.undecide(off, n)
	for _, c := range w.client.calls {
		if c.op == opRead && c.phase == phReplied && !w.model.equal && c.off < off+n && off < c.off+c.n {
			c.past = true
		}
	}
}

// opEnded follows what the legs have done.
func (b *box) opEnded(w *world, o *legOp) {
	b.bound.opEnded(o)
	if y := b.layout; y != nil && o.io.Op == legio.Write && o.io.Off >= y.IntentOff && o.io.Off < y.MissedOff &&
		b.inSince[1-o.side] < 0 && b.crashAt == 0 && !w.settling && w.drawn(w.p.crashAfterMap) {
		b.crashAt, b.kind, b.aim = w.steps+1+w.plan.Int64N(24), PowerCut, -1
	}
}
