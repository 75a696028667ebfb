package mirror

import (
	"syscall"

	"ft/mirror/balance"
	"ft/mirror/legio"
)

// readStart sends a read whose range is locked to a leg.
func (e *Engine) readStart(q *request) {
	if lo, hi := e.regions(q.r.Off, q.r.Len); q.tried == 0 && !e.recorded() && e.unsure.AnyIn(lo, hi) {
		q.pending = -1 // not issued
		e.waitRecord(q)
		return
	}
	if e.sums.on {
		if lo, hi := rounded(q.r.Off, q.r.Len); !e.holdSums(&q.verify.hold, lo, hi-lo, q) {
			return
		}
	}
	can := e.readable(q)
	if can == 0 {
		switch {
		case q.pending > 0: // the other leg may still answer
		case e.in() == 0:
			q.tried = 0
			e.noLeg(q)
		case e.durable.service&e.in() == 0:
			// Who is in service is being recorded.
			q.tried, q.pending = 0, -1
			e.waitRecord(q)
		default:
			q.finish(e, syscall.EIO)
		}
		return
	}
	l := e.pickRead(q, can)
	buf, off := e.readBuffer(q)
	q.tried |= 1 << l.side
	q.pending++
	q.refs++
	l.counters.Reads++
	l.counters.ReadBytes += q.r.Len
	e.begin(l, legio.Read, off, int64(len(buf)), buf, q)
	if can == balance.Both {
		e.probeSpeed(l, q)
	}
}

// readable are the legs that can have a read: in service as durably recorded, not tried
// yet, and in a suspect region only the source.
func (e *Engine) readable(q *request) (can uint8) {
	lo, hi := e.regions(q.r.Off, q.r.Len)
	for i := range e.legs {
		l := &e.legs[i]
		if e.defect&ReadUnsynced != 0 && l.state == legTarget && q.tried&(1<<l.side) == 0 {
			return 1 << l.side
		}
		if l.state != legIn || e.durable.service&(1<<l.side) == 0 || q.tried&(1<<l.side) != 0 {
			continue
		}
		if l.side != e.source && e.in() == 3 && e.stale.AnyIn(lo, hi) {
			continue
		}
		if a := q.verify.avoid; a&(1<<l.side) != 0 && a != 3 && e.in() == 3 {
			continue
		}
		can |= 1 << l.side
	}
	return can
}

// pickRead chooses among the legs that can have a read. One that is asked again goes where
// it was not yet: that says nothing of streams.
func (e *Engine) pickRead(q *request, can uint8) *leg {
	switch {
	case q.tried != 0:
		return e.legOf(can)
	case e.opt.Measure == PlainReads && can == balance.Both:
		e.plainTurn ^= 1
		l := &e.legs[e.plainTurn]
		if p := e.other(l); p.inflight < l.inflight {
			return p
		}
		return l
	}
	side, sequential := e.balance.Choose(can, q.r.Off, q.r.Len, e.env.Now())
	l := &e.legs[side]
	if sequential {
		l.counters.SequentialReads++
	}
	return l
}

func (e *Engine) readDone(q *request, o *op) {
	q.pending--
	if q.replied {
		return
	}
	l := &e.legs[o.io.Side]
	if o.io.Err == 0 {
		if !e.readVerified(q, l, o) {
			if q.pending == 0 {
				e.readRefuted(q)
			}
			return
		}
		if &o.io.Buf[0] != &q.r.Data[0] {
			// A leg may write to the request's memory until it gives it back, or it was not
			// enough: the answer is sent from other.
			q.r.Data = o.io.Buf[q.r.Off-o.io.Off:][:q.r.Len]
		}
		q.finish(e, 0)
		return
	}
	l.counters.ReadErrors++
	if deviceGone(o.io.Err) {
		e.lost(l, "the device is gone: "+o.io.Err.Error())
	} else if e.in() == 3 {
		e.heal(l, q.r.Off, q.r.Len, o.io.Err)
	}
	e.readOn(q)
}

// readOn tries another leg, when none has the read any more.
func (e *Engine) readOn(q *request) {
	switch {
	case q.replied || q.pending > 0:
	case q.verify.bad:
		e.readRefuted(q)
	default:
		e.readStart(q)
	}
}

// readLost: the leg was cut off with the read under way.
func (e *Engine) readLost(q *request, _ *op) {
	q.pending--
	e.readOn(q)
}

// hedge sends a read that is late to the other leg as well. If that one answers, the
// late one is slow *while its partner answered*, and is cut off.
func (e *Engine) hedge(q *request, o *op) bool {
	if o.hedged || q.replied || e.sums.on && !e.hasSums(&q.verify.hold) {
		return false
	}
	o.hedged = true
	e.readStart(q)
	return true
}
