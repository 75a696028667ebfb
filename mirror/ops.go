package mirror

import "ft/mirror/legio"

// opOwner takes back the ops that it began.
type opOwner interface {
	// ioDone: the op has ended, o.io.Err says how.
	ioDone(e *Engine, o *op)
	// ioLost: the leg was cut off with the op under way. The memory is still in use.
	ioLost(e *Engine, o *op)
	// ioFreed: an op that was lost has ended after all; its memory is free.
	ioFreed(e *Engine, o *op)
}

// op is one I/O of a leg.
type op struct {
	io         legio.IO
	owner      opOwner
	attachment uint32
	hedged     bool // a read that was also sent to the other leg for its lateness
	prev, next *op
}

// opList is an intrusive list in order of submission.
type opList struct{ head, tail *op }

func (l *opList) push(o *op) {
	o.prev, o.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = o
	} else {
		l.head = o
	}
	l.tail = o
}

func (l *opList) remove(o *op) {
	if o.prev != nil {
		o.prev.next = o.next
	} else {
		l.head = o.next
	}
	if o.next != nil {
		o.next.prev = o.prev
	} else {
		l.tail = o.prev
	}
	o.prev, o.next = nil, nil
}

// begin submits an I/O to a leg that is attached, and to what is to replace it.
func (e *Engine) begin(l *leg, kind legio.Op, off, n int64, buf []byte, owner opOwner) {
	if r := &e.repl; r.phase != replNone && r.side == l.side && e.teed(kind, off, n) {
		e.beginBoth(l, kind, off, n, buf, owner)
		return
	}
	e.beginOn(l, kind, off, n, buf, owner)
}

// beginOn submits an I/O to one device.
func (e *Engine) beginOn(l *leg, kind legio.Op, off, n int64, buf []byte, owner opOwner) *op {
	o := e.freeOps
	if o != nil {
		e.freeOps = o.next
		o.next = nil
	} else {
		o = &op{}
	}
	o.owner, o.attachment, o.hedged = owner, l.attachment, false
	o.io.Op, o.io.Side, o.io.Off, o.io.Len, o.io.Buf, o.io.Err = kind, int8(l.side), off, n, buf, 0
	o.io.Owner = o
	o.io.Begun = e.env.Now()
	l.inflight++
	e.balance.Began(l.side, n)
	l.ops.push(o)
	e.env.Submit(&o.io)
	return o
}
