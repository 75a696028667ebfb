package mirror

import (
	"ft/drivers"
	"ft/mirror/balance"
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// A read never waits long for a leg while the other one could answer it: what is late is
// sent to the other as well, and the first answer counts. This is long before the leg is
// cut off (checkTimeouts), and does it no harm. Which leg gets a read at all is decided by
// mirror/balance.

// checkLate sends reads that are late to the other leg as well. A leg has them in the order
// in which they began.
func (e *Engine) checkLate() {
	if e.in() != 3 || e.stopping {
		return
	}
	now := e.env.Now()
	for i := range e.legs {
		l := &e.legs[i]
		for o := l.ops.head; o != nil; {
			next := o.next
			if now-o.io.Begun < balance.LateLeast {
				break
			}
			if q, ok := o.owner.(*request); ok && o.io.Op == legio.Read && !o.hedged && !q.replied {
				after := e.balance.LateAfter(l.side, o.io.Len, int64(e.opt.LegTimeout))
				if after > 0 && now-o.io.Begun >= after && e.readable(q) != 0 && e.hedge(q, o) {
					l.counters.LateReads++
					e.balance.Late(l.side)
				}
			}
			o = next
		}
	}
}

// readTimed tells the balance how quick a leg was.
func (e *Engine) readTimed(l *leg, io *legio.IO) {
	switch {
	case io.Op != legio.Read:
	case io.Err != 0:
		e.balance.Failed(l.side)
	default:
		now := e.env.Now()
		e.balance.Took(l.side, io.Len, now-io.Begun, now)
	}
}

// probeSpeed sends now and then a copy of a read to the leg that does not get it, to see how
// quick that one is without anybody having to wait for it.
func (e *Engine) probeSpeed(l *leg, q *request) {
	if e.opt.Measure == PlainReads || !e.balance.Probe(l.side, q.r.Len, e.env.Now()) {
		return
	}
	p := &speedProbe{leg: e.other(l)}
	off, n := q.r.Off&^(metadata.BlockSize-1), (q.r.Off+q.r.Len+metadata.BlockSize-1)&^(metadata.BlockSize-1)
	n = min(n, int64(e.id.DataBytes)) - off
	buf, release := e.env.Alloc(int(n))
	if buf == nil {
		e.balance.ProbeEnded(p.leg.side)
		return
	}
	p.release = release
	e.begin(p.leg, legio.Read, off, n, buf, p)
}

// speedProbe is a read whose contents nobody needs.
type speedProbe struct {
	leg     *leg
	release func()
}

func (p *speedProbe) ioDone(e *Engine, o *op) {
	p.ioFreed(e, o)
	if deviceGone(o.io.Err) {
		e.lost(p.leg, "the device is gone: "+o.io.Err.Error())
	}
}

func (p *speedProbe) ioLost(*Engine, *op) {}

func (p *speedProbe) ioFreed(e *Engine, _ *op) {
	e.balance.ProbeEnded(p.leg.side)
	if p.release != nil {
		p.release()
	}
}

// SetReads says what an admin wants of a leg's part in reads; nil takes it back. It holds
// until ft.toml says something else than it does now.
func (e *Engine) SetReads(s drivers.Side, m *balance.Mark) {
	e.reads[s] = balance.Word{}
	if m != nil {
		e.reads[s] = balance.Word{Said: true, Mark: *m, Configured: e.opt.Reads[s]}
	}
	e.markReads()
	e.scrubSave()
	e.run()
}

// ConfigureReads says what ft.toml wants of it.
func (e *Engine) ConfigureReads(m [2]balance.Mark) {
	e.opt.Reads = m
	e.markReads()
	e.run()
}

func (e *Engine) markReads() {
	var m [2]balance.Mark
	for i := range m {
		m[i] = e.reads[i].Over(e.opt.Reads[i])
	}
	e.balance.SetMarks(m)
}
