package mirror

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"ft/drivers"
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// # Replacing a leg
//
// A leg in service can be replaced by another device without being taken out: the new one,
// the *spare*, becomes a copy of it while it serves, and then takes its place. At no moment
// is there one good leg less than before.
//
// Everything that the engine writes to the leg goes to the spare as well (tee.go), under the
// locks that it holds anyhow: data where it was copied already, the table of checksums, the
// maps (with the spare's name in them), flushes. The regions that are still to be copied are
// copied one after the other, each under its lock (replacecopy.go). None of this is known to
// the rest of the engine: the leg's fate is its own, and what is recorded of it is true.
//
// # The order in which it takes the place
//
//	(a) all regions are copied, the whole table and the whole maps are written anew to
//	    both, all is flushed.
//	(b) the spare's superblock: that of the leg, with the spare's own name, and *staged*:
//	    it says all that must be known, and counts for nothing. From here on the leg's
//	    superblocks go to the spare as well, so that this stays true.
//	(c) the state directory says that the spare is the leg (package legpath). This is the
//	    step; before it the old device is the leg after any crash, after it the new one.
//	(d) with nothing under way the two change places.
//	(e) the superblocks are written: the new leg's, no longer staged, then the partner's,
//	    which names the new one as its partner. Until that is durable the old device gets
//	    all writes too.
//	(f) the old device's superblock is written: it is a leg that never was in service.
//
// An acknowledged write is on the old device *and* on the new one from (a) to (e), so
// whichever a start finds to be the leg has it:
//
//	crash before (c)    the old device is the leg, as it ever was. The spare is syncing or
//	                    staged, and neither ever serves; the replacement goes on from what
//	                    was copied and flushed, or begins again.
//	crash in (c)        the state directory says one or the other, and both are right.
//	crash after (c)     the driver takes the staged superblock for the leg's, writes it
//	                    without that word, has the partner name it, and only then starts
//	                    the engine (staged.go).
//
// The old device cannot come back as up to date, also when (f) never reached it: in (e) the
// partner has named another one as its own (metadata.Disowns), before any write was
// acknowledged that the old one lacks. When the partner is lost before that, the loss is
// recorded as any, which puts the old device a generation behind.
//
// # When something fails
//
//	the spare, before (c)     it is dropped; the leg is as it was.
//	the spare, in (c)         whether it is the leg is being written at that moment. What it
//	                          lacks is not acknowledged before that is known; then it is the
//	                          leg, and is cut off as any leg that fails.
//	the leg, before (d)       it is cut off, and recorded as lost. The spare is made its
//	                          successor (c), and comes in by a resync from the partner of
//	                          what was not copied yet, and of what was written since.
//	the old device, after (d) it is dropped.
//	the partner               is cut off as ever; the copying goes on.

const spareSide = 2

// replacePhase is how far it is.
type replacePhase uint8

const (
	replNone       replacePhase = iota
	replPreparing               // the spare is being marked as one that never serves
	replCopying                 // region by region
	replTable                   // the checksums
	replMaps                    // the maps
	replFlushing                // all of it becomes stable
	replStaging                 // the superblock
	replCommitting              // the state directory
	replSwapping                // requests are held until nothing is under way
	replRecording               // the new leg is in its place, and being recorded
	replRetiring                // the old one is told
	replFailover                // the leg is lost: the spare is to be its successor
)

var replaceWords = [...]string{"", "preparing", "copying", "checksums", "maps", "flushing", "staging", "committing", "changing over", "recording", "retiring", "leg lost"}

func (p replacePhase) String() string { return replaceWords[p] }

// both says whether what the leg gets, the spare gets.
func (p replacePhase) both() bool { return p >= replCopying && p <= replRecording }

// ReplaceHooks are what the engine wants done about a replacement. All are called under the
// lock and must not block.
type ReplaceHooks struct {
	// Commit makes the spare the leg, durably; ReplaceCommitted when it is.
	Commit func()
	// Swap exchanges the devices of the leg and of spareSide.
	Swap func()
	// Copied says that the regions below are on the spare, and stable there, but for what
	// is marked.
	Copied func(regions int)
	// Ended: nothing is written to the spare (side 2) any more. With err it has failed, or
	// was called off; else the leg is the new device, or lost and to be attached anew.
	Ended func(err error)
}

// replacing is a replacement under way.
type replacing struct {
	phase    replacePhase
	side     int
	resource string
	todo     *metadata.Bitmap // regions yet to be copied
	cursor   int
	jobs     int
	begun    int64
	total    int64
	meter    rateMeter
	nextSave int64
	saving   bool
	started  bool   // the step of this phase
	version  uint64 // of the record that the phase waits for
	attempt  uint64 // tells callbacks of this one from those of an earlier
	doomed   string // why the spare failed while it was becoming the leg
	held     []*tee
	frozen   []*request // of the face, while the devices change places
	old      metadata.Superblock
	hooks    ReplaceHooks
}

// halfCopied is what a spare lacks whose leg was lost.
type halfCopied struct {
	uuid  metadata.UUID
	lacks *metadata.Bitmap
}

// Replace begins to copy the leg on a side to another device. resume is how many regions
// are on it already, of an attempt of a process before this one (Copied): only while no
// request of the face has come yet. Else -1.
func (e *Engine) Replace(s drivers.Side, g *Leg, resume int, hooks ReplaceHooks) error {
	defer e.run()
	if err := e.mayReplace(s, g); err != nil {
		return err
	}
	n := &e.spare
	e.attachAs(n, g, legTarget)
	n.uuid, n.super = e.env.UUID(), metadata.Superblock{}
	if g.Image != nil {
		n.super.Sequence = g.Image.Super.Sequence
		if o := &g.Image.Super; o.Mirror == e.id.Mirror && int(o.Slot) == int(s) && o.Leg != e.legs[s].uuid {
			n.uuid = o.Leg
		}
	}
	now := e.env.Now()
	attempt := e.repl.attempt + 1
	e.repl = replacing{phase: replPreparing, side: int(s), resource: g.Resource, todo: metadata.NewBitmap(e.layout.Regions), begun: now,
		meter: rateMeter{at: now}, nextSave: now + int64(saveEvery), attempt: attempt, hooks: hooks}
	r := &e.repl
	r.todo.Fill()
	resumed := resume >= 0 && g.Image != nil && g.Image.Staged == nil && g.Image.Super.Leg == n.uuid && g.Image.Super.Syncing
	if resumed {
		// What was under way when the process before this one ended may be on one and not
		// on the other.
		r.todo.ClearRange(0, min(resume, r.todo.Len()))
		r.todo.Or(e.markedRegions(e.marked))
		r.todo.Or(e.markedRegions(e.marking))
		n.super = g.Image.Super
		r.phase = replCopying
	}
	r.total = int64(r.todo.Len()) * int64(e.id.RegionSize)
	r.meter.done = r.total - e.replaceLeft()
	if resumed {
		return nil
	}
	sb := e.superOf(&e.legs[s])
	sb.Leg, sb.Sequence = n.uuid, n.super.Sequence
	sb.Slot, sb.MissedLeg = uint8(s), metadata.UUID{}
	sb.Unserve()
	e.stamp(n, sb)
	e.writeSuper(n, func(ok bool) {
		if r := &e.repl; r.attempt == attempt && r.phase == replPreparing && ok {
			r.phase = replCopying
		}
	})
	return nil
}

// mayReplace says why a device may not take the place of a leg.
func (e *Engine) mayReplace(s drivers.Side, g *Leg) error {
	id := e.sideID(int(s))
	l := &e.legs[s]
	switch {
	case e.stopping:
		return drivers.Refuse(drivers.RuleState, "%s is being stopped", e.name)
	case e.repl.phase != replNone:
		return drivers.Refuse(drivers.RuleBusy, "%s is being replaced by %s already (%.0f %%): ftctl replace %s --abort ends that",
			e.sideID(e.repl.side), e.repl.resource, e.replaceProgress().Percent, e.sideID(e.repl.side))
	case e.spare.inflight > 0:
		return drivers.Refuse(drivers.RuleBusy, "%d I/Os on the device that was to replace a leg before have not ended yet: it hangs", e.spare.inflight)
	case l.state != legIn:
		return drivers.Refuse(drivers.RuleState, "%s is %v: it cannot be copied", id, e.sideState(l))
	}
	return e.fits(id, g)
}

// fits says why a device cannot be a leg.
func (e *Engine) fits(id string, g *Leg) error {
	if b := g.Bytes &^ 4095; uint64(b) != e.id.DeviceBytes {
		return drivers.Refuse(drivers.RuleUnfit, "%s (%s) has %d bytes, the legs of %s have %d: use one of the same size",
			id, g.Resource, b, e.name, e.id.DeviceBytes)
	}
	if g.LogicalBlock > int(e.id.LogicalBlock) {
		return drivers.Refuse(drivers.RuleUnfit, "%s (%s) has blocks of %d bytes, %s was made with %d",
			id, g.Resource, g.LogicalBlock, e.name, e.id.LogicalBlock)
	}
	return nil
}

// AbortReplace calls it off: the leg stays what it is.
func (e *Engine) AbortReplace(why string) error {
	defer e.run()
	switch r := &e.repl; {
	case r.phase == replNone:
		return drivers.Refuse(drivers.RuleState, "no leg of %s is being replaced", e.name)
	case r.phase >= replCommitting:
		return drivers.Refuse(drivers.RuleState, "%s is %s by now: what is left takes a moment, and %s is on its way out", r.resource, r.phase, e.sideID(r.side))
	}
	e.spareFailed(nil, why)
	return nil
}

// SpareGone says that the device has vanished.
func (e *Engine) SpareGone(why string) {
	e.spareFailed(nil, why)
	e.run()
}

// Replacing says which side is being replaced, -1 for none, and how far that is.
func (e *Engine) Replacing() (side int, phase string) {
	if e.repl.phase == replNone {
		return -1, ""
	}
	return e.repl.side, e.repl.phase.String()
}

func (e *Engine) replaceLeft() int64 { return int64(e.repl.todo.Count()) * int64(e.id.RegionSize) }

func (e *Engine) replaceProgress() *drivers.Progress {
	r := &e.repl
	return progressOf("copy to "+r.resource, e.replaceLeft(), r.total, r.meter.rate)
}

// spareFailed: the spare does not get what the leg gets. While it is becoming the leg the
// operation t is held, and true is returned.
func (e *Engine) spareFailed(t *tee, why string) (held bool) {
	r := &e.repl
	switch r.phase {
	case replNone:
	case replCommitting, replSwapping:
		if r.doomed == "" {
			r.doomed = why
		}
		if t != nil {
			t.copy = nil
			r.held = append(r.held, t)
			return true
		}
		e.spareLoseOps()
	case replRecording, replRetiring:
		e.note(drivers.Side(r.side), "the device that was replaced fails and is let go: %s", why)
		e.spareLoseOps()
		if r.phase == replRetiring {
			e.replaceEnd(nil)
		}
	default:
		e.replaceEnd(errors.New(why))
	}
	return false
}

// spareLoseOps lets nothing wait for the spare any more.
func (e *Engine) spareLoseOps() {
	n := &e.spare
	n.attachment++
	ops := n.ops
	n.ops = opList{}
	n.state = legOut
	e.opsLost(ops)
}

// replaceEnd ends it, well or not.
func (e *Engine) replaceEnd(err error) {
	r := &e.repl
	if r.phase == replNone {
		return
	}
	hooks, frozen, held := r.hooks, r.frozen, r.held
	*r = replacing{attempt: r.attempt, jobs: r.jobs}
	e.spareLoseOps()
	for _, t := range held {
		t.answer(e)
	}
	for _, q := range frozen {
		e.submit(q)
	}
	hooks.Ended(err)
}

// replaceStopped: the engine stops. What is on the spare stays there for a successor.
func (e *Engine) replaceStopped() {
	if e.repl.phase != replNone {
		e.replaceEnd(errReplaceStopped)
	}
}

var errReplaceStopped = errors.New("the disk is being stopped")

// spareMissed notes what a spare may lack when its leg has been lost.
func (e *Engine) spareMissed(o *op) {
	r := &e.repl
	if r.phase == replNone || o.io.Op == legio.Flush || o.io.Off >= int64(e.id.DataBytes) {
		return
	}
	lo, hi := e.regions(o.io.Off, o.io.Len)
	r.todo.SetRange(lo, hi)
}

// replaceLegLost: a leg was cut off. If it is the one that is being replaced, the spare is
// to go on in its place.
func (e *Engine) replaceLegLost(l *leg) {
	r := &e.repl
	if r.phase == replNone || r.side != l.side || e.stopping {
		return
	}
	switch {
	case r.phase >= replRecording && r.phase != replFailover:
		e.replaceEnd(nil)
	case l.state == legOut && r.phase < replCommitting:
		e.replaceEnd(fmt.Errorf("%s was taken out of service", e.sideID(l.side)))
	case r.phase == replPreparing || e.in() == 0:
		e.replaceEnd(fmt.Errorf("%s, which it was to replace, is lost (%s): ftctl replace %s %s once more makes it the leg, resynced from the partner",
			e.sideID(l.side), l.reason, e.sideID(l.side), r.resource))
	default:
		committed := r.phase == replSwapping
		r.phase, r.started = replFailover, r.phase == replCommitting || committed
		if committed {
			e.replaceFailover()
		}
	}
}

// ReplaceCommitted says that the state directory names the spare as the leg.
func (e *Engine) ReplaceCommitted() {
	switch r := &e.repl; r.phase {
	case replCommitting:
		r.phase = replSwapping
	case replFailover:
		e.replaceFailover()
	}
	e.run()
}

// replaceFailover leaves the spare to be attached as the successor of the lost leg.
func (e *Engine) replaceFailover() {
	r := &e.repl
	e.half = &halfCopied{uuid: e.spare.uuid, lacks: r.todo.Clone()}
	e.note(drivers.Side(r.side), "%s goes on in the place of the leg that was lost", r.resource)
	e.replaceEnd(nil)
}

// goOnFrom spares a spare that comes in for a lost leg what was copied to it already, and
// says whether it did. What may lie in no more than its cache counts as not flushed.
func (e *Engine) goOnFrom(l *leg, g *Leg) bool {
	h := e.half
	e.half = nil
	if h == nil || g.Image == nil || g.Image.Super.Leg != h.uuid || !g.Image.Super.Syncing {
		return false
	}
	e.stale.Or(h.lacks)
	l.unflushed.Fill()
	return true
}

// pumpReplace goes on with it.
func (e *Engine) pumpReplace() {
	r := &e.repl
	if r.phase == replNone || e.stopping || r.doomed != "" && r.phase < replSwapping {
		return
	}
	l := &e.legs[r.side]
	switch r.phase {
	case replCopying:
		if e.replaceWaits() == "" {
			e.pumpReplaceCopy(l)
		}
	case replTable:
		e.replaceTable()
	case replMaps:
		e.replaceMaps(l)
	case replFlushing:
		if !r.started {
			r.started = true
			e.replaceFlush(func() { e.replaceNext(replStaging) })
		}
	case replStaging:
		e.replaceStage()
	case replSwapping:
		if l.inflight == 0 && e.spare.ops.head == nil && len(e.ready) == 0 && !e.recorder.busy && !e.intent.busy && r.jobs == 0 {
			e.replaceSwap(l)
		}
	case replRecording:
		if e.durable.version >= r.version && e.recorded() {
			e.replaceRetire()
		}
	case replFailover:
		if !r.started && e.spare.ops.head == nil && r.jobs == 0 {
			r.started = true
			r.hooks.Commit()
		}
	}
}

// replaceWaits says why it does not go on, "" when it does.
func (e *Engine) replaceWaits() string {
	if e.resync.what != "" || e.suspect() || e.preparing != nil || e.dest() != nil || e.joining() != nil {
		return "waits for the resync"
	}
	return ""
}

func (e *Engine) replaceNext(p replacePhase) {
	e.repl.phase, e.repl.started = p, false
}

// replaceStep makes a callback count only for the phase in which it was asked for.
func (e *Engine) replaceStep(ok func()) func(bool) {
	phase, attempt := e.repl.phase, e.repl.attempt
	return func(done bool) {
		r := &e.repl
		if r.phase != phase || r.attempt != attempt {
			return
		}
		if !done {
			r.started = false // once more
			return
		}
		ok()
	}
}

// replaceTable writes the whole table of checksums to both: what is in memory is right.
func (e *Engine) replaceTable() {
	r := &e.repl
	if r.started {
		return
	}
	if !e.sums.on {
		e.replaceNext(replMaps)
		return
	}
	r.started = true
	w := &sumWork{done: e.replaceStep(func() { e.replaceNext(replMaps) })}
	for n := range e.layout.SumBlocks() {
		w.list = append(w.list, n)
	}
	w.each = func(b *sumBlock, done func(bool)) { e.writeSums(b, done) }
	e.sumWorkOn(w)
}

// replaceMaps writes the whole maps to both.
func (e *Engine) replaceMaps(l *leg) {
	r := &e.repl
	switch {
	case !r.started:
		if e.intent.busy || e.missed.busy {
			return
		}
		r.started = true
		l.mapValid = false
		if e.in() == 3 {
			l.blank = true
			r.saving = false
		} else {
			e.missed.image = nil
			r.saving = true
			done := e.replaceStep(func() { e.repl.saving = false })
			e.saveMissed(done)
		}
		e.intentKick()
	case l.mapValid && !l.blank && !e.intent.busy && !r.saving:
		e.replaceNext(replFlushing)
	}
}

// replaceFlush makes what both have stable.
func (e *Engine) replaceFlush(then func()) {
	done := e.replaceStep(then)
	e.askFlush(flushWaiter{done: func(errno syscall.Errno) { done(errno == 0) }})
}

// replaceStage has the leg's superblocks written, and so the spare's.
func (e *Engine) replaceStage() {
	r := &e.repl
	switch {
	case e.recorder.busy:
	case !r.started:
		if e.recorded() {
			r.started = true
			e.changed(-1)
			r.version = e.want.version
		}
	case e.recorded() && e.durable.version >= r.version:
		e.replaceNext(replCommitting)
		r.hooks.Commit()
	}
}

// stagedSuper is the leg's superblock as the spare gets it.
func (e *Engine) stagedSuper(off int64, buf []byte) []byte {
	if off == e.layout.SuperOff[0] || e.spare.super.Generation.IsZero() {
		sb, err := metadata.DecodeSuper(buf)
		if err != nil {
			panic("mirror: a superblock that was just encoded: " + err.Error())
		}
		sb.Leg, sb.Staged, sb.Sequence = e.spare.uuid, true, e.spare.super.Sequence+1
		e.spare.super = sb
	}
	out := metadata.AlignedBlock()
	metadata.EncodeSuper(&e.spare.super, out)
	return out
}

// replaceSwap puts the spare in the leg's place. Nothing is under way on either.
func (e *Engine) replaceSwap(l *leg) {
	r, n := &e.repl, &e.spare
	r.old = l.super
	r.hooks.Swap()
	l.uuid, n.uuid = n.uuid, l.uuid
	l.super.Leg, l.super.Sequence = l.uuid, n.super.Sequence
	l.resource = r.resource
	l.lastDone = e.env.Now()
	n.lastDone = l.lastDone
	e.missed.image = nil
	e.recorder.witnessed = metadata.Witness{} // it is to say where the leg is
	e.changed(l.side)
	r.version = e.want.version
	doomed, held, frozen := r.doomed, r.held, r.frozen
	r.held, r.frozen = nil, nil
	e.replaceNext(replRecording)
	if doomed != "" && e.alone(l) {
		for _, t := range held {
			t.ended.io.Err = syscall.EIO // the last leg has it not: the error goes up
		}
	} else if doomed != "" {
		e.cut(l, legShot, "it took the place of another leg and failed: "+doomed, "write error")
	}
	for _, t := range held {
		t.answer(e)
	}
	for _, q := range frozen {
		e.submit(q)
	}
}

// replaceRetire tells the old device that it is no leg any more.
func (e *Engine) replaceRetire() {
	r, n := &e.repl, &e.spare
	r.phase = replRetiring
	if n.state == legOut {
		e.replaceEnd(nil) // it was let go
		return
	}
	n.super = r.old
	sb := r.old
	sb.Unserve()
	e.stamp(n, sb)
	e.writeSuper(n, func(bool) {
		if e.repl.phase == replRetiring {
			e.replaceEnd(nil)
		}
	})
}

// superWrite writes both copies of a superblock to the spare, each flushed.
type superWrite struct {
	step int
	buf  []byte
	done func(ok bool)
}

func (e *Engine) writeSuper(l *leg, done func(ok bool)) {
	w := &superWrite{buf: metadata.AlignedBlock(), done: done}
	metadata.EncodeSuper(&l.super, w.buf)
	w.next(e)
}

func (w *superWrite) next(e *Engine) {
	if w.step&1 == 0 {
		e.beginOn(&e.spare, legio.Write, e.layout.SuperOff[w.step/2], metadata.BlockSize, w.buf, w)
	} else {
		e.beginOn(&e.spare, legio.Flush, 0, 0, nil, w)
	}
}

func (w *superWrite) ioDone(e *Engine, o *op) {
	if o.io.Err != 0 {
		e.spareFailed(nil, "its superblock cannot be written: "+o.io.Err.Error())
		w.done(false)
		return
	}
	if w.step++; w.step < 4 {
		w.next(e)
		return
	}
	w.done(true)
}

func (w *superWrite) ioLost(*Engine, *op)  { w.done(false) }
func (w *superWrite) ioFreed(*Engine, *op) {}

// tickReplace keeps time: what is late, how fast it goes, what of it is stable.
func (e *Engine) tickReplace() {
	r := &e.repl
	if r.phase == replNone {
		return
	}
	now, limit := e.env.Now(), int64(e.opt.LegTimeout)
	for o := e.spare.ops.head; o != nil; o = o.next {
		if now-o.io.Begun >= limit && (o.io.Op != legio.Zero || now-o.io.Begun >= zeroTimeouts*limit) {
			e.spareFailed(nil, fmt.Sprintf("a %s at %d did not end in %v", o.io.Op, o.io.Off, time.Duration(now-o.io.Begun).Round(100*time.Millisecond)))
			return
		}
	}
	r.meter.measure(now, r.total-e.replaceLeft())
	if r.phase != replCopying || r.saving || now < r.nextSave {
		return
	}
	r.nextSave, r.saving = now+int64(saveEvery), true
	below := r.todo.NextSet(0)
	attempt := r.attempt
	e.askFlush(flushWaiter{done: func(errno syscall.Errno) {
		if r := &e.repl; r.attempt == attempt && r.phase == replCopying {
			if r.saving = false; errno == 0 && below > 0 {
				r.hooks.Copied(below)
			}
		}
	}})
}
