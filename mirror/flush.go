package mirror

import (
	"syscall"

	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// flusher makes what is complete stable on every leg in service. One flush is under
// way at a time; what asks meanwhile is served by the next, together.
type flusher struct {
	next    []flushWaiter
	current []flushWaiter
	pending int
	errno   syscall.Errno // of a leg that stayed
}

// flushWaiter is a request of the face, or work of the engine's own.
type flushWaiter struct {
	q      *request
	done   func(syscall.Errno)
	target bool // the target is flushed as well
}

func (e *Engine) submitFlush(q *request) {
	if e.in() == 0 {
		e.noLeg(q)
		return
	}
	if m := e.in(); m != e.want.service && !e.want.clean {
		// What this flush is about may lie in the cache of a leg that has not come in yet.
		e.recordLoss(e.legOf(e.want.service&^m), nil)
	}
	e.askFlush(flushWaiter{q: q})
}

// Sync makes everything complete stable and calls done, which must not block.
func (e *Engine) Sync(done func(syscall.Errno)) {
	if e.in() == 0 {
		done(syscall.EIO)
		return
	}
	e.askFlush(flushWaiter{done: done})
	e.run()
}

func (e *Engine) askFlush(w flushWaiter) {
	e.flush.next = append(e.flush.next, w)
	if len(e.flush.current) == 0 {
		e.flushStart()
	}
}

func (e *Engine) flushStart() {
	f := &e.flush
	f.current, f.next = f.next, f.current[:0]
	f.errno = 0
	target := false
	for _, w := range f.current {
		target = target || w.target
	}
	f.pending = 1
	for i := range e.legs {
		l := &e.legs[i]
		if l.state != legIn && l.state != legJoining && (l.state != legTarget || !target) {
			continue
		}
		if e.defect&FlushOneLeg != 0 && l.side != e.source {
			l.unflushed.Reset()
			l.tabled.Reset()
			continue
		}
		l.unflushed, l.flushing = l.flushing, l.unflushed
		l.unflushed.Reset()
		l.tabled, l.tabling = l.tabling, l.tabled
		l.tabled.Reset()
		f.pending++
		e.begin(l, legio.Flush, 0, 0, nil, f)
	}
	f.pending--
	e.flushEnd()
}

func (f *flusher) ioDone(e *Engine, o *op) {
	f.pending--
	l := &e.legs[o.io.Side]
	if o.io.Err != 0 {
		l.unflushed.Or(l.flushing)
		l.tabled.Or(l.tabling)
		if !e.failed(l, "flush error", o.io.Err) {
			f.errno = o.io.Err
		}
	}
	l.flushing.Reset()
	l.tabling.Reset()
	e.flushEnd()
}

func (f *flusher) ioLost(e *Engine, _ *op) {
	f.pending--
	e.flushEnd()
}

func (f *flusher) ioFreed(*Engine, *op) {}

// flushEnd answers when every leg has. If a leg was cut off, during the flush or before,
// the loss must be recorded first: otherwise that leg could come back as good, without
// what it had not flushed.
func (e *Engine) flushEnd() {
	f := &e.flush
	if f.pending > 0 || len(f.current) == 0 {
		return
	}
	errno := f.errno
	if errno == 0 && e.in() == 0 {
		errno = syscall.EIO
	}
	ws := f.current
	f.current = nil // what is done below may ask for the next
	for _, w := range ws {
		switch {
		case w.done != nil:
			w.done(errno)
		case errno == 0 && e.durable.version != e.want.version:
			e.waitRecord(w.q)
		default:
			w.q.finish(e, errno)
		}
	}
	if len(f.next) > 0 && len(f.current) == 0 {
		if e.in() == 0 {
			for _, w := range f.next {
				if w.done != nil {
					w.done(syscall.EIO)
				} else {
					e.noLeg(w.q)
				}
			}
			f.next = f.next[:0]
			return
		}
		e.flushStart()
	}
}

// newUnflushed gives a leg empty sets for what its cache may hold.
func (e *Engine) newUnflushed(l *leg) {
	l.unflushed = metadata.NewBitmap(e.layout.Regions)
	l.flushing = metadata.NewBitmap(e.layout.Regions)
}
