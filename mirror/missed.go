package mirror

import (
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// missedWriter keeps the missed-writes bitmap on the surviving leg. It is written
// before intent marks are taken back, from time to time during a resync, and at stop;
// in between the intent marks stand for what it lacks.
type missedWriter struct {
	image   *metadata.Bitmap // as last written, nil when not known
	writing *metadata.Bitmap
	side    int
	busy    bool
	left    int
	flushed bool
	failed  bool
	done    []func(ok bool) // of the write under way
	next    []func(ok bool) // of the next one
}

// lacking is what the other leg lacks if it is lost now: what was not copied, and
// what it was sent but has not flushed.
func (e *Engine) lacking() *metadata.Bitmap {
	b := e.stale.Clone()
	for i := range e.legs {
		if l := &e.legs[i]; l.state == legTarget || l.state == legJoining {
			if e.defect&ClearMissedBeforeFlush == 0 {
				b.Or(l.unflushed)
				b.Or(l.flushing)
			}
		}
	}
	e.sumsLacking(b)
	return b
}

// saveMissed makes the missed-writes bitmap durable as of now on the leg in service.
func (e *Engine) saveMissed(done func(ok bool)) {
	m := &e.missed
	m.next = append(m.next, done)
	if !m.busy {
		e.missedStart()
	}
}

func (e *Engine) missedStart() {
	m := &e.missed
	m.done, m.next = m.next, nil
	m.failed, m.flushed = false, false
	if e.in() != 1 && e.in() != 2 {
		e.missedEnd(false)
		return
	}
	l := e.legOf(e.in())
	if m.side != l.side {
		m.image = nil
	}
	m.busy, m.side = true, l.side
	m.writing = e.lacking()
	m.left = 1
	for b := range e.layout.MissedBlocks {
		if m.image != nil && sameBlock(m.writing, m.image, b) {
			continue
		}
		buf := metadata.AlignedBlock()
		metadata.EncodeMissed(e.layout, &l.super, b, m.writing, buf)
		m.left++
		e.begin(l, legio.Write, e.layout.MissedBlockOff(b), metadata.BlockSize, buf, m)
	}
	if m.left == 1 {
		m.flushed = true // it is there already
	}
	e.missedStep()
}

func (m *missedWriter) ioDone(e *Engine, o *op) {
	if o.io.Err != 0 {
		m.failed = true
		e.failed(&e.legs[o.io.Side], "error writing the missed-writes bitmap", o.io.Err)
	}
	e.missedStep()
}

func (m *missedWriter) ioLost(e *Engine, _ *op) {
	m.failed = true
	e.missedStep()
}

func (m *missedWriter) ioFreed(*Engine, *op) {}

func (e *Engine) missedStep() {
	m := &e.missed
	if m.left--; m.left > 0 {
		return
	}
	if !m.failed && !m.flushed {
		m.flushed, m.left = true, 1
		e.begin(&e.legs[m.side], legio.Flush, 0, 0, nil, m)
		return
	}
	e.missedEnd(!m.failed)
}

func (e *Engine) missedEnd(ok bool) {
	m := &e.missed
	m.busy = false
	m.image = nil
	if ok {
		m.image = m.writing
	}
	done := m.done
	m.done = nil
	for _, f := range done {
		f(ok)
	}
	if len(m.next) > 0 && !m.busy {
		e.missedStart()
	}
}
