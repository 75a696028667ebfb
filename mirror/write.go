package mirror

import (
	"syscall"

	"ft/mirror/frontend"
	"ft/mirror/legio"
)

// writeStart takes a write whose range is locked through the gates, each of which may
// hold it back and call this again: a leg to write to, the record of who is in
// service, the marks of its extents. Then it is issued to every leg at once.
func (e *Engine) writeStart(q *request) {
	if e.in() == 0 {
		e.noLeg(q)
		return
	}
	if !e.recordForWrite(q) || !e.markForWrite(q) || !e.sumsForWrite(q) {
		return
	}
	q.ok, q.refused, q.errno = 0, 0, 0
	kind := legio.Write
	if q.r.Op == frontend.Zero {
		kind = legio.Zero
	} else {
		e.counters.Writes++
		e.counters.WrittenBytes += q.n
	}
	lo, hi := e.extents(q.at, q.n)
	e.touched.SetRange(lo, hi)
	q.pending = 1 // so that a leg that fails at once does not end it half-issued
	for i := range e.legs {
		l := &e.legs[i]
		if !l.gets() {
			continue
		}
		q.pending++
		q.refs++
		l.counters.Writes++
		e.begin(l, kind, q.at, q.n, q.r.Data, q)
	}
	q.pending--
	e.writeEnd(q)
}

func (e *Engine) writeDone(q *request, o *op) {
	l := &e.legs[o.io.Side]
	q.pending--
	if o.io.Err == 0 {
		q.ok |= 1 << l.side
		lo, hi := e.regions(q.at, q.n)
		l.unflushed.SetRange(lo, hi)
	} else {
		l.counters.WriteErrors++
		q.errno = o.io.Err
		q.refused |= 1 << l.side
		e.failed(l, q.r.Op.String()+" error", o.io.Err)
	}
	e.writeEnd(q)
}

func (e *Engine) writeLost(q *request) {
	q.pending--
	e.writeEnd(q)
}

// writeEnd goes on when every leg has answered or was cut off: it notes which leg
// lacks the write, and acknowledges it when that is recorded.
func (e *Engine) writeEnd(q *request) {
	if q.pending > 0 || q.replied {
		return
	}
	for i := range e.legs {
		// The last leg is not cut off for an error. But if another one came into service
		// while this write was under way, and has it, the one that refused it is behind.
		if l := &e.legs[i]; q.refused&(1<<i) != 0 && l.state == legIn && q.ok&e.in() != 0 {
			e.failed(l, q.r.Op.String()+" error", q.errno)
		}
	}
	lo, hi := e.regions(q.at, q.n)
	if q.ok != 3 {
		if e.defect&StaleOnlyWhenCut == 0 {
			e.stale.SetRange(lo, hi)
		}
	} else if e.stale.Count() > 0 {
		e.equalNow(q.at, q.n)
	}
	e.writeSummed(q, q.ok&e.in() != 0)
	if q.ok&e.in() == 0 {
		// No leg in service has it: the last one refused it, or is gone.
		errno := q.errno
		if errno == 0 {
			errno = syscall.EIO
		}
		if e.in() == 0 && e.opt.NoLeg == "wait" {
			e.noLeg(q)
			return
		}
		if !e.recorded() {
			e.unsure.SetRange(lo, hi)
		}
		if e.defect&LastPieceCounts != 0 && q.r.Op == frontend.Zero && e.zeroNext(q) {
			return
		}
		q.finish(e, errno)
		return
	}
	if q.ok != 3 && !e.recorded() && e.defect&AckBeforeRecord == 0 {
		e.waitRecord(q)
		return
	}
	if q.r.Op == frontend.Zero && e.zeroNext(q) {
		return
	}
	q.finish(e, 0)
}

// equalNow clears the stale regions that a range covers whole: both legs have it.
func (e *Engine) equalNow(off, n int64) {
	rs := int64(e.id.RegionSize)
	lo, hi := (off+rs-1)/rs, (off+n)/rs
	if off+n == int64(e.id.DataBytes) {
		hi = int64(e.stale.Len())
	}
	for i := lo; i < hi; i++ {
		if e.stale.Clear(int(i)) {
			e.resync.total -= rs
		}
	}
}
