package mirror

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"ft/mirror/frontend"
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// record is what must be durable for writes to be acknowledged: who is in service, in
// which generation.
type record struct {
	version    uint64
	generation metadata.Generation
	history    []metadata.Generation
	service    uint8
	clean      bool
	sums       bool // the tables of checksums hold
	// What the missed-writes bitmap counts from: the generation of the absent leg.
	missedFrom metadata.Generation
	joiner     int // this leg is written first, -1 when it does not matter
}

// recorder brings `durable` to `want`: the superblocks of the legs in service one
// after the other, both copies, each flushed; then the witness. What changes while it
// is at work makes it start over, so every step only ever leaves a state that was
// wanted at some time, and what lay behind a loss is never acknowledged before.
type recorder struct {
	busy    bool
	goal    record
	order   []int // legs yet to be written
	step    int   // 0 copy 0, 1 flush, 2 copy 1, 3 flush
	buf     []byte
	leg     int
	witness bool // the witness is under way
	err     error
	retryAt int64
	// witnessed is what the witness says, as far as known.
	witnessed metadata.Witness
}

const recordRetry = time.Second

// recorded says whether who is in service now is what is durably recorded.
func (e *Engine) recorded() bool {
	return e.durable.version == e.want.version && e.durable.service == e.in()
}

// recordForWrite says whether a write may go ahead: the mirror is recorded as written
// to, and a leg that does not get the write is recorded as out of date. Else it asks
// for that and the write is started anew.
func (e *Engine) recordForWrite(q *request) bool {
	if m := e.in(); m != e.want.service {
		e.recordLoss(e.legOf(e.want.service&^m), nil)
	}
	if e.want.clean {
		e.want.clean = false
		e.changed(-1)
	}
	if e.durable.version == e.want.version {
		return true
	}
	q.ok = 0
	q.pending = -1 // not issued
	e.waitRecord(q)
	return false
}

// legOf is the leg of a set of one.
func (e *Engine) legOf(set uint8) *leg {
	if set == 2 {
		return &e.legs[1]
	}
	return &e.legs[0]
}

func (e *Engine) waitRecord(q *request) {
	e.recordWaiters = append(e.recordWaiters, q)
}

// changed notes that want differs from durable. joiner is a leg that comes in, or -1.
func (e *Engine) changed(joiner int) {
	e.want.version++
	e.want.joiner = joiner
	e.recorder.retryAt = 0
}

// recordLoss makes a new generation without the leg l. pending names the regions that
// it may lack besides those that are stale already, nil for none.
func (e *Engine) recordLoss(l *leg, lacks *metadata.Bitmap) {
	w := &e.want
	if e.defect&NoGenerationBump == 0 {
		w.history = append([]metadata.Generation{w.generation}, w.history...)
		if len(w.history) > metadata.HistoryLen {
			w.history = w.history[:metadata.HistoryLen]
		}
		w.missedFrom = w.generation
		w.generation = metadata.Generation{Counter: w.generation.Counter + 1, ID: e.env.UUID()}
	}
	w.service &^= 1 << l.side
	w.clean = false
	if lacks != nil {
		e.stale.Or(lacks)
	}
	e.changed(-1)
}

// pumpRecord starts the recorder when there is something to record.
func (e *Engine) pumpRecord() {
	r := &e.recorder
	if r.busy || !e.made || e.durable.version == e.want.version || e.in() == 0 {
		if e.in() == 0 && !r.busy {
			e.wakeRecord(errors.New("no leg is left"))
		}
		return
	}
	if r.retryAt != 0 && (e.env.Now() < r.retryAt && len(e.recordWaiters) == 0) {
		return
	}
	r.busy = true
	r.err = nil
	e.recordStart()
}

func (e *Engine) recordStart() {
	r := &e.recorder
	r.goal = e.want
	r.order = r.order[:0]
	if j := r.goal.joiner; j >= 0 {
		r.order = append(r.order, j)
	}
	for i := range e.legs {
		if e.legs[i].state == legIn && i != r.goal.joiner {
			r.order = append(r.order, i)
		}
	}
	e.recordLeg()
}

// recordLeg goes on with the next leg, or with the witness after the last.
func (e *Engine) recordLeg() {
	r := &e.recorder
	if len(r.order) == 0 {
		e.recordWitness()
		return
	}
	r.leg, r.order = r.order[0], r.order[1:]
	l := &e.legs[r.leg]
	if l.state != legIn {
		e.recordFail(fmt.Errorf("%s was lost while it was recorded", e.sideID(r.leg)))
		return
	}
	sb := e.superOf(l)
	sb.Generation, sb.History = r.goal.generation, r.goal.history
	sb.InService, sb.Syncing, sb.Clean = r.goal.service, false, r.goal.clean
	sb.MissedFrom, sb.Sums = r.goal.missedFrom, r.goal.sums
	e.stamp(l, sb)
	r.buf = metadata.AlignedBlock()
	metadata.EncodeSuper(&l.super, r.buf)
	r.step = 0
	e.recordStep()
}

// superOf is a superblock for l with the mirror's identity and geometry.
func (e *Engine) superOf(l *leg) metadata.Superblock {
	sb := e.id
	sb.Leg, sb.Slot, sb.Sequence = l.uuid, uint8(l.side), l.super.Sequence
	sb.MissedLeg = e.other(l).uuid
	return sb
}

// stamp makes sb the next superblock of l.
func (e *Engine) stamp(l *leg, sb metadata.Superblock) {
	sb.Sequence++
	sb.Time = e.env.Wall()
	l.super = sb
}

func (e *Engine) recordStep() {
	r := &e.recorder
	l := &e.legs[r.leg]
	if r.step&1 == 0 {
		e.begin(l, legio.Write, e.layout.SuperOff[r.step/2], metadata.BlockSize, r.buf, r)
	} else {
		e.begin(l, legio.Flush, 0, 0, nil, r)
	}
}

func (r *recorder) ioDone(e *Engine, o *op) {
	l := &e.legs[o.io.Side]
	if o.io.Err != 0 {
		e.failed(l, "error writing the superblock", o.io.Err)
		e.recordFail(fmt.Errorf("%s: writing the superblock: %w", e.sideID(l.side), o.io.Err))
		return
	}
	if r.step++; r.step < 4 {
		e.recordStep()
		return
	}
	e.recordLeg()
}

func (r *recorder) ioLost(e *Engine, o *op) {
	e.recordFail(fmt.Errorf("%s was lost while it was recorded", e.sideID(int(o.io.Side))))
}

func (r *recorder) ioFreed(*Engine, *op) {}

// recordWitness stores the word outside the legs, where it has changed.
func (e *Engine) recordWitness() {
	r := &e.recorder
	w := metadata.Witness{Mirror: e.id.Mirror, Generation: r.goal.generation, Survivor: survivorOf(r.goal.service),
		Resources: [2]string{e.legs[0].resource, e.legs[1].resource}}
	old := r.witnessed
	if e.defect&SkipWitness != 0 || old.Mirror == w.Mirror && old.Generation == w.Generation && old.Survivor == w.Survivor {
		e.recordDone()
		return
	}
	r.witness = true
	w.Time = e.env.Wall()
	r.witnessed = w
	e.env.WriteWitness(w)
}

func survivorOf(service uint8) int8 {
	switch service {
	case 1:
		return 0
	case 2:
		return 1
	}
	return -1
}

// WitnessDone says how WriteWitness ended.
func (e *Engine) WitnessDone(err error) {
	r := &e.recorder
	r.witness = false
	if err != nil {
		r.witnessed = metadata.Witness{}
		e.recordFail(fmt.Errorf("writing the witness: %w", err))
	} else {
		w := r.witnessed
		e.witness = &w
		e.recordDone()
	}
	e.run()
}

func (e *Engine) recordDone() {
	r := &e.recorder
	r.busy = false
	if r.goal.version != e.want.version && e.defect&RecordBehind == 0 {
		return // pumpRecord goes on with what changed meanwhile
	}
	e.durable = r.goal
	if e.defect&RecordBehind != 0 {
		e.durable = e.want
	}
	e.sumsRecorded()
	e.unsure.Reset()
	e.wakeRecord(nil)
	e.joinStep()
	e.prepareStep()
	e.stopStep()
}

// recordFail ends the attempt. When another leg took over, the next attempt follows
// at once; else what waits is refused, and each later write tries again.
func (e *Engine) recordFail(err error) {
	r := &e.recorder
	r.busy = false
	if r.goal.version != e.want.version && e.in() != 0 {
		return
	}
	r.err = err
	r.retryAt = e.env.Now() + int64(recordRetry)
	e.wakeRecord(err)
	e.stopStep()
}

// wakeRecord lets go on, or refuses, what waited for the record.
func (e *Engine) wakeRecord(err error) {
	waiters := e.recordWaiters
	e.recordWaiters = nil
	for _, q := range waiters {
		switch {
		case err != nil && q.pending < 0 && e.in() == 0:
			q.pending = 0
			e.noLeg(q)
		case err != nil:
			if q.pending == 0 && q.lock.live && q.lock.write {
				lo, hi := e.regions(q.at, q.n)
				e.unsure.SetRange(lo, hi)
			}
			q.pending = 0
			q.finish(e, syscall.EIO)
		default:
			e.ready = append(e.ready, recordGranted{q})
		}
	}
}

// recordGranted runs a request that waited for the record: from its start, or, when
// the legs have it, to its answer.
type recordGranted struct{ q *request }

func (g recordGranted) lockGranted(e *Engine) {
	q := g.q
	if q.pending < 0 {
		q.pending = 0
		q.lockGranted(e)
		return
	}
	if q.r.Op == frontend.Zero && e.zeroNext(q) {
		return
	}
	q.finish(e, 0)
}

func (e *Engine) tickRecord() {
	if r := &e.recorder; r.err != nil && r.retryAt != 0 && e.env.Now() >= r.retryAt {
		r.retryAt = 0
	}
}
