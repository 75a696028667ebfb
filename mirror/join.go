package mirror

import (
	"fmt"
	"syscall"

	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// prepare makes a leg a target: the surviving leg says durably what the target lacks,
// the target says that it is one. Only then is it written to.
func (e *Engine) prepare(l *leg, g *Leg, full bool) error {
	e.attachAs(l, g, legPreparing)
	l.uuid, l.super = metadata.UUID{}, metadata.Superblock{}
	var had metadata.Generation
	if !full {
		e.half = nil
		l.uuid, l.super, had = g.Image.Super.Leg, g.Image.Super, g.Image.Super.Generation
		// Its bitmap says nothing once it is in service, so it must not be found there.
		l.blank = g.Image.Missed.Count() > 0
	} else {
		l.uuid, l.blank = e.env.UUID(), true
		if g.Image != nil {
			l.super.Sequence = g.Image.Super.Sequence
			if o := &g.Image.Super; o.Mirror == e.id.Mirror && int(o.Slot) == l.side {
				// It keeps its name, so that a crash between the two copies of its superblock
				// does not leave copies that contradict each other.
				l.uuid = o.Leg
			}
		}
		if !e.goOnFrom(l, g) {
			e.stale.Fill()
		}
	}
	p := &preparation{e: e, l: l, attachment: l.attachment, had: had}
	what := "resync"
	if full {
		what = "full resync"
	}
	e.resyncBegin(what, full)
	p.sums = !full && g.Image.Super.Sums && e.sums.on
	e.sumsTarget(l, p.sums)
	if m := e.in(); m != e.want.service {
		e.recordLoss(e.legOf(e.want.service&^m), nil)
	}
	if !full {
		p.recorded()
		return nil
	}
	// The bitmap first, then the superblock that gives it its meaning.
	e.missed.image = nil
	e.saveMissed(func(ok bool) {
		switch {
		case p.void():
		case !ok:
			e.cut(l, legOut, "the missed-writes bitmap cannot be written on "+e.sideID(1-l.side), "")
		default:
			e.want.missedFrom = metadata.Generation{}
			e.changed(-1)
			p.recorded()
		}
	})
	return nil
}

// preparation is the way of a leg to become a target.
type preparation struct {
	e          *Engine
	l          *leg
	attachment uint32
	had        metadata.Generation
	sums       bool // it has a table of checksums that is not more out of date than its data
	step       int
	buf        []byte
}

func (p *preparation) void() bool {
	return p.l.attachment != p.attachment || p.l.state != legPreparing
}

// recorded goes on when the surviving leg's superblock is durable.
func (p *preparation) recorded() {
	p.e.preparing = p
	p.e.prepareStep()
}

// prepareStep marks the target as one, once the record is durable.
func (e *Engine) prepareStep() {
	p := e.preparing
	if p == nil || p.step > 0 || p.buf != nil {
		return
	}
	if p.void() {
		e.preparing = nil
		return
	}
	if !e.recorded() {
		return
	}
	sb := e.superOf(p.l)
	sb.Generation, sb.Syncing, sb.InService, sb.Sums = p.had, true, 0, p.sums
	e.stamp(p.l, sb)
	p.buf = metadata.AlignedBlock()
	metadata.EncodeSuper(&p.l.super, p.buf)
	p.write()
}

func (p *preparation) write() {
	if p.step&1 == 0 {
		p.e.begin(p.l, legio.Write, p.e.layout.SuperOff[p.step/2], metadata.BlockSize, p.buf, p)
	} else {
		p.e.begin(p.l, legio.Flush, 0, 0, nil, p)
	}
}

func (p *preparation) ioDone(e *Engine, o *op) {
	if o.io.Err != 0 {
		e.failed(p.l, "error writing the superblock", o.io.Err)
		e.preparing = nil
		return
	}
	if p.step++; p.step < 4 {
		p.write()
		return
	}
	e.preparing = nil
	p.l.state = legTarget
	// Writes under way were issued without it.
	for k := e.locks.head; k != nil; k = k.next {
		if q, ok := k.owner.(*request); ok && k.write && q.pending > 0 && e.defect&JoinForgetsInFlight == 0 {
			lo, hi := e.regions(q.at, q.n)
			e.stale.SetRange(lo, hi)
		}
	}
	e.resync.total = int64(e.stale.Count()) * int64(e.id.RegionSize)
}

func (p *preparation) ioLost(e *Engine, _ *op) { e.preparing = nil }
func (p *preparation) ioFreed(*Engine, *op)    {}

// joinPhase is how far a resynced target is on its way into service.
type joinPhase uint8

const (
	joinNone     joinPhase = iota
	joinFlushing           // what was copied becomes stable
	joinMaps               // its intent map is written, the missed bits are taken back
	joinRecord             // it is in service, and being recorded as such
)

// join begins when nothing is stale any more.
func (e *Engine) join(l *leg) {
	l.state = legJoining
	e.resync.joinPhase = joinFlushing
	at := l.attachment
	e.catchUpSums(l, func(ok bool) {
		switch {
		case l.attachment != at:
		case !ok:
			e.cut(l, legOut, "the checksums cannot be written to "+e.sideID(l.side), "")
		default:
			e.joinFlush(l, at)
		}
	})
}

// joinFlush goes on when the leg has all there is to have.
func (e *Engine) joinFlush(l *leg, at uint32) {
	e.askFlush(flushWaiter{done: func(errno syscall.Errno) {
		if l.attachment != at {
			return
		}
		if errno != 0 {
			e.cut(l, legOut, fmt.Sprintf("%s cannot be flushed: %v", e.sideID(1-l.side), errno), "")
			return
		}
		e.saveMissed(func(ok bool) {
			if l.attachment != at {
				return
			}
			if !ok {
				e.cut(l, legOut, "the missed-writes bitmap cannot be written on "+e.sideID(1-l.side), "")
				return
			}
			e.resync.joinPhase = joinMaps
			e.intentKick()
			e.joinStep()
		})
	}})
}

// joining is the leg on its way into service, nil when there is none.
func (e *Engine) joining() *leg {
	for i := range e.legs {
		if e.legs[i].state == legJoining {
			return &e.legs[i]
		}
	}
	return nil
}

// joinStep takes the leg into service when its maps are in place, and ends the resync
// when that is recorded.
func (e *Engine) joinStep() {
	r := &e.resync
	l := e.joining()
	switch r.joinPhase {
	case joinMaps:
		if l == nil || !l.mapValid || e.intent.busy {
			return
		}
		if e.stale.Count() > 0 {
			// A write came to lack it meanwhile: it is a target again.
			l.state, r.joinPhase = legTarget, joinNone
			return
		}
		l.state, l.since = legIn, e.env.Now()
		r.joinPhase = joinRecord
		e.want.service |= 1 << l.side
		e.want.missedFrom = e.want.generation
		e.changed(l.side)
	case joinRecord:
		if e.recorded() && e.in() == 3 {
			e.resyncDone(&e.legs[1-e.source])
		}
	}
}
