package mirror

import (
	"fmt"
	"syscall"
	"time"

	"ft/drivers"
	"ft/mirror/legio"
)

const (
	healsMax   = 16 // bad ranges being rewritten at once
	saveEvery  = 5 * time.Second
	rateWindow = time.Second
)

// resync copies the stale regions from the source to the other leg: a target that is
// brought up to date, or, with both legs in service after a crash, a suspect one.
type resync struct {
	what        string // for people, "" when nothing is under way
	full        bool   // everything, on a new leg: zeroes are not written but punched
	cursor      int
	jobs        int   // copies under way, for the stale regions
	heals       int   // ranges being rewritten after a read error
	total, done int64 // bytes
	begun       int64
	nextSave    int64
	saving      bool
	meter       rateMeter
	joinPhase   joinPhase
}

// copyJob makes one range of the destination equal to the source, under the range's
// lock, so that no newer write is overwritten.
type copyJob struct {
	lock     rangeLock
	src, dst *leg
	srcAt    uint32 // attachments: the job is void when a leg was cut off meanwhile
	dstAt    uint32
	heal     bool // of a read error, not of a stale region
	swapped  bool
	buf      []byte
	release  func()
	writing  bool
	begun    int64
	refs     int
	left     int // writes under way
	ended    bool
	// Under checksums.
	hold     sumHold
	second   []byte // what the destination has, where the source is refuted
	seconded bool   // it was asked
	both     bool   // the source is written as well
}

// dest is the leg that is being brought up to date, nil when none is.
func (e *Engine) dest() *leg {
	for i := range e.legs {
		if l := &e.legs[i]; l.state == legTarget {
			return l
		}
	}
	if e.in() == 3 && e.stale.Count() > 0 {
		return &e.legs[1-e.source]
	}
	return nil
}

// resyncBegin starts to count a resync of what is stale.
func (e *Engine) resyncBegin(what string, full bool) {
	now := e.env.Now()
	jobs, heals := e.resync.jobs, e.resync.heals
	e.resync = resync{what: what, full: full, jobs: jobs, heals: heals, begun: now, meter: rateMeter{at: now},
		nextSave: now + int64(saveEvery), total: int64(e.stale.Count()) * int64(e.id.RegionSize)}
	e.pace = pacer{priority: e.pace.priority, tokensAt: now}
}

// pumpResync starts as many copies as the pace allows, and ends the resync when
// nothing is stale any more.
func (e *Engine) pumpResync() {
	if !e.made || e.stopping || e.repl.phase == replSwapping {
		return
	}
	dst := e.dest()
	r := &e.resync
	if dst == nil {
		if r.what != "" && r.jobs == 0 && r.joinPhase == joinNone && e.in() == 3 {
			e.resyncDone(&e.legs[1-e.source])
		}
		return
	}
	if r.what == "" {
		e.resyncBegin("resync", false)
	}
	if e.stale.Count() == 0 {
		if r.jobs == 0 && dst.state == legTarget && e.sums.begin.phase == beginNone {
			e.join(dst)
		}
		return
	}
	now := e.env.Now()
	for r.jobs < e.copiesAllowed(now) {
		lo := e.stale.NextSet(r.cursor)
		if lo < 0 {
			if r.jobs > 0 {
				return
			}
			r.cursor = 0
			continue
		}
		per := max(1, copyChunk/int(e.id.RegionSize))
		hi := lo + 1
		for hi < e.stale.Len() && hi-lo < per && e.stale.Get(hi) {
			hi++
		}
		j := e.newCopy(lo, hi, &e.legs[e.source], dst)
		if j.buf, j.release = e.env.Alloc(int(j.lock.hi - j.lock.lo)); j.buf == nil {
			return
		}
		r.cursor = hi
		e.pace.tokens -= float64(len(j.buf))
		r.jobs++
		e.copyStart(j)
	}
}

func (e *Engine) newCopy(lo, hi int, src, dst *leg) *copyJob {
	rs := int64(e.id.RegionSize)
	j := &copyJob{src: src, dst: dst, srcAt: src.attachment, dstAt: dst.attachment}
	j.lock = rangeLock{lo: int64(lo) * rs, hi: min(int64(hi)*rs, int64(e.id.DataBytes)), write: true, owner: j}
	return j
}

func (e *Engine) copyStart(j *copyJob) {
	j.begun = e.env.Now()
	if e.defect&ResyncWithoutLock != 0 && !j.heal {
		j.lockGranted(e)
		return
	}
	if e.locks.acquire(&j.lock) {
		j.lockGranted(e)
	}
}

func (j *copyJob) void() bool {
	return j.src.attachment != j.srcAt || j.dst.attachment != j.dstAt
}

func (j *copyJob) lockGranted(e *Engine) {
	lo, hi := e.regions(j.lock.lo, j.lock.hi-j.lock.lo)
	if j.void() || !j.heal && !e.stale.AnyIn(lo, hi) {
		e.copyEnd(j)
		return
	}
	if e.sums.on && !j.heal && !e.holdSums(&j.hold, j.lock.lo, j.lock.hi-j.lock.lo, j) {
		return
	}
	if j.heal {
		if lo, hi := e.extents(j.lock.lo, j.lock.hi-j.lock.lo); !e.isMarked(lo, hi) {
			e.mark(lo, hi, j)
			return
		} else {
			e.touched.SetRange(lo, hi)
		}
	}
	j.refs++
	j.src.counters.Reads++
	e.begin(j.src, legio.Read, j.lock.lo, j.lock.hi-j.lock.lo, j.buf, j)
}

func (j *copyJob) intentRefused(e *Engine) { e.copyEnd(j) }

func (j *copyJob) ioDone(e *Engine, o *op) {
	j.refs--
	if j.ended {
		j.give()
		return
	}
	l := &e.legs[o.io.Side]
	switch {
	case j.seconded && !j.writing && !j.void():
		if o.io.Err != 0 {
			l.counters.ReadErrors++
			j.second = nil
		}
		e.copyWrite(j)
	case o.io.Err != 0 && !j.writing:
		e.copyUnreadable(j, l, o.io.Err)
	case o.io.Err != 0:
		l.counters.WriteErrors++
		e.failed(l, "write error", o.io.Err)
		e.copyEnd(j)
	case j.void():
		e.copyEnd(j)
	case !j.writing:
		e.copyWrite(j)
	case j.left > 1:
		j.left--
	default:
		e.copied(j)
		e.copyEnd(j)
	}
}

// copyWrite writes what was read, once the checksums have nothing against it.
func (e *Engine) copyWrite(j *copyJob) {
	if !e.copySummed(j) {
		return
	}
	j.writing, j.left = true, 1
	j.refs++
	j.dst.counters.Writes++
	if e.resync.full && !j.heal && allZero(j.buf) {
		e.begin(j.dst, legio.Zero, j.lock.lo, j.lock.hi-j.lock.lo, nil, j)
		return
	}
	if j.both {
		j.left++
		j.refs++
		j.src.counters.Writes++
		e.begin(j.src, legio.Write, j.lock.lo, j.lock.hi-j.lock.lo, j.buf, j)
	}
	e.begin(j.dst, legio.Write, j.lock.lo, j.lock.hi-j.lock.lo, j.buf, j)
}

// copied: the range is equal on both legs now.
func (e *Engine) copied(j *copyJob) {
	n := j.lock.hi - j.lock.lo
	lo, hi := e.regions(j.lock.lo, n)
	j.dst.unflushed.SetRange(lo, hi)
	if j.both {
		j.src.unflushed.SetRange(lo, hi)
	}
	if j.heal {
		e.counters.Healed++
		return
	}
	e.stale.ClearRange(lo, hi)
	e.resync.done += n
	e.counters.ResyncedBytes += n
	e.rest(j.begun)
}

// copyUnreadable: the source cannot be read there. With both legs in service the other
// way round is as good; a target cannot be completed, which is no fault of its own.
func (e *Engine) copyUnreadable(j *copyJob, l *leg, errno syscall.Errno) {
	l.counters.ReadErrors++
	switch {
	case deviceGone(errno):
		e.lost(l, "the device is gone: "+errno.Error())
	case j.heal || j.void():
	case j.dst.state == legIn && !j.swapped:
		j.swapped = true
		j.src, j.dst = j.dst, j.src
		j.srcAt, j.dstAt = j.dstAt, j.srcAt
		j.refs++
		e.begin(j.src, legio.Read, j.lock.lo, j.lock.hi-j.lock.lo, j.buf, j)
		return
	case j.dst.state == legIn:
		// Neither leg can be read there: there is nothing to make equal.
		lo, hi := e.regions(j.lock.lo, j.lock.hi-j.lock.lo)
		e.stale.ClearRange(lo, hi)
	default:
		e.cut(j.dst, legOut, fmt.Sprintf("the resync stopped: %s cannot be read at %d: %v", e.sideID(l.side), j.lock.lo, errno), "")
	}
	e.copyEnd(j)
}

func (j *copyJob) ioLost(e *Engine, _ *op) { e.copyEnd(j) }

func (j *copyJob) ioFreed(_ *Engine, _ *op) {
	j.refs--
	j.give()
}

func (j *copyJob) use() { j.refs++ }
func (j *copyJob) unuse(*Engine) {
	j.refs--
	j.give()
}

// give releases the memory when no leg uses it.
func (j *copyJob) give() {
	if j.ended && j.refs == 0 && j.release != nil {
		j.release()
		j.release = nil
	}
}

func (e *Engine) copyEnd(j *copyJob) {
	if j.ended {
		return
	}
	j.ended = true
	e.dropSums(&j.hold)
	if j.heal {
		e.resync.heals--
	} else {
		e.resync.jobs--
	}
	if j.lock.live {
		e.unlock(&j.lock)
	}
	j.give()
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// repairBeforeRead makes the suspect regions of a read equal first: otherwise it could
// return what only one leg has, and a later read from the other leg would take it
// back. The copies' locks come before the read's.
func (e *Engine) repairBeforeRead(off, n int64) {
	if !e.suspect() {
		return
	}
	lo, hi := e.regions(off, n)
	per := max(1, copyChunk/int(e.id.RegionSize))
	for i := e.stale.NextSet(lo); i >= 0 && i < hi; i = e.stale.NextSet(i) {
		k := i + 1
		for k < hi && k-i < per && e.stale.Get(k) {
			k++
		}
		j := e.newCopy(i, k, &e.legs[e.source], &e.legs[1-e.source])
		if j.buf, j.release = e.env.Alloc(int(j.lock.hi - j.lock.lo)); j.buf == nil {
			j.buf = alignedBytes(int(j.lock.hi - j.lock.lo))
		}
		e.resync.jobs++
		e.copyStart(j)
		i = k
	}
}

// heal rewrites a range that a leg could not read with what the other leg has there.
func (e *Engine) heal(l *leg, off, n int64, errno syscall.Errno) {
	if e.resync.heals >= healsMax || e.stopping {
		return
	}
	if e.sums.on {
		e.note(drivers.Side(l.side), "read error at %d (%v): answered from %s, being rewritten", off, errno, e.sideID(1-l.side))
		e.examUnread(off, n)
		return
	}
	j := &copyJob{heal: true, src: e.other(l), dst: l, srcAt: e.other(l).attachment, dstAt: l.attachment}
	j.lock = rangeLock{lo: off, hi: off + n, write: true, owner: j}
	if j.buf, j.release = e.env.Alloc(int(n)); j.buf == nil {
		return
	}
	e.note(drivers.Side(l.side), "read error at %d (%v): answered from %s, being rewritten", off, errno, e.sideID(1-l.side))
	e.resync.heals++
	e.copyStart(j)
}

// tickResync keeps the rate, and saves from time to time how far the resync is.
func (e *Engine) tickResync() {
	r := &e.resync
	now := e.env.Now()
	if r.what == "" {
		return
	}
	r.meter.measure(now, r.done)
	dst := e.dest()
	if dst == nil || dst.state != legTarget || r.saving || now < r.nextSave {
		return
	}
	r.nextSave = now + int64(saveEvery)
	r.saving = true
	e.askFlush(flushWaiter{target: true, done: func(errno syscall.Errno) {
		if errno != 0 {
			e.resync.saving = false
			return
		}
		e.saveMissed(func(bool) { e.resync.saving = false })
	}})
}

// resyncEnded forgets the resync of a leg that went away.
func (e *Engine) resyncEnded(*leg) {
	jobs, heals := e.resync.jobs, e.resync.heals
	e.resync = resync{jobs: jobs, heals: heals}
}

// resyncDone: both legs are in service and equal.
func (e *Engine) resyncDone(l *leg) {
	r := e.resync
	e.resyncEnded(l)
	d := time.Duration(e.env.Now() - r.begun)
	e.event(drivers.Event{Kind: drivers.EventNote, Side: drivers.Side(l.side),
		Reason: fmt.Sprintf("%s done: %d bytes copied in %v", r.what, r.done, d.Round(time.Millisecond)),
		Detail: map[string]any{"copied_bytes": r.done, "seconds": d.Seconds()}})
	l.reason = ""
}
