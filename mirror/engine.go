// Package mirror is a duplex disk: one block device over two legs, in PCI module 0
// and in PCI module 1, that goes on while one up-to-date leg lives.
//
// # The engine
//
// Engine is the mirror's core: a state machine without I/O, clock or goroutine (see
// Env). Requests of the face come in by Submit, ended leg I/O by LegDone, answers
// that have gone out by Replied, time by Tick. Its parts, a file each:
//
//	engine.go     the state, what comes in, the ready queue
//	ops.go        I/O of the legs
//	rangelock.go  order of overlapping requests
//	read.go write.go zero.go flush.go   the requests of the face
//	late.go       reads that are late, and how quick a leg is that gets none; marks of legs
//	intent.go     the write-intent map: marked before a write, cleared lazily
//	record.go     who is in service, durably: superblocks and witness
//	loss.go       a leg is cut off, taken out, or gone
//	attach.go     start, creation, a leg comes in
//	join.go       a leg is made a target, and taken into service when it is in sync
//	resolve.go stop.go   a person picks a side; the clean end
//	resync.go     copying regions: resync, repair after a crash, healing a bad range
//	missed.go     the missed-writes bitmap on the surviving leg
//	scrub.go      comparing everything in the background, and what came of it
//	exam.go examsums.go findings.go   a range of both legs compared, and repaired
//	sums.go       checksums: why they hold; the table in memory
//	sumswrite.go  the table on its way to the legs
//	verify.go     requests of the face under checksums
//	replace.go replacecopy.go tee.go   another device takes the place of a leg while that serves
//	pace.go       how background work gives way to applications
//	snapshot.go   what people are shown
//
// # Words
//
// A leg is *in* service when it holds every acknowledged write. A *target* is being
// resynced: every new write goes to it too, nothing is read from it, and it counts
// for nothing until it joins. `stale` holds the regions in which the legs may differ:
// what the absent leg or the target lacks, or, with both legs in service after a
// crash, what must be made equal before it may be read (the legs are then *suspect*
// there).
//
// # Invariants
//
//  1. A write is answered with success only when every leg in service has it and the
//     set of legs in service is recorded durably: on those legs and in the witness.
//  2. No write is issued before its extents are marked, durably, on every leg in
//     service. A mark goes only after a flush of all of them, with no write under way
//     there, and while a leg is absent only when the missed bits are durable.
//  3. The generation changes before the first write that a leg in service, as
//     recorded, does not get.
//  4. A read is served by a leg in service as durably recorded, and in a suspect region
//     only after both legs were made equal there.
//  5. A write's range is locked from its start until its answer has gone out: a
//     successor that executes it again cannot overwrite a newer write. A copy locks
//     its range too.
//  6. I/O under way on a cut-off leg keeps its memory: a request is freed when it has
//     been answered and no leg refers to it. The leg does not come back before then.
//  7. The last leg in service is never cut off for an error or slowness.
package mirror

import (
	"syscall"

	"ft/drivers"
	"ft/mirror/balance"
	"ft/mirror/frontend"
	"ft/mirror/legio"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// legState is where a leg stands.
type legState uint8

const (
	legAbsent    legState = iota // no device
	legOut                       // out of service
	legShot                      // cut off after a fault
	legPreparing                 // about to become a target: being marked as such
	legTarget                    // being resynced
	legJoining                   // resynced; flushing and recording before it is in service
	legIn                        // in service
)

// leg is one side.
type leg struct {
	side  int
	state legState
	uuid  metadata.UUID // of the leg that belongs here; kept while it is absent
	// sequence of the last superblock written to it, and what it last carried.
	super metadata.Superblock
	// attachment grows each time the leg is attached: an op of an older one is an orphan.
	attachment uint32
	inflight   int    // ops that the leg has not given back, orphans included
	ops        opList // of this attachment, oldest first
	lastDone   int64  // when it last completed something
	mapValid   bool   // its intent map on disk holds every mark that must be there
	blank      bool   // its bitmaps were never written: they are, before it is in service
	// Regions written to it (or copied) since its last completed flush, and, while a
	// flush is under way, those before that flush began: its cache may hold them.
	unflushed, flushing *metadata.Bitmap
	// Blocks of the table of checksums: the same, and what it lacks while it is not in service.
	tabled, tabling, lack *metadata.Bitmap

	resource string
	reason   string
	fault    string // why it was shot
	since    int64
	reported drivers.State
	counters LegCounters
}

// gets says whether writes of the face go to the leg.
func (l *leg) gets() bool { return l.state >= legTarget }

// Engine is one mirror. Its methods are called under one lock of the caller's.
type Engine struct {
	name   string
	opt    Options
	env    Env
	defect Defect
	// zeroPiece is the constant, but in tests.
	zeroPiece int64

	made   bool                // the mirror is known: identity and layout are set
	id     metadata.Superblock // identity and geometry, common to both legs
	layout metadata.Layout
	legs   [2]leg
	source int // the leg that resync and repair copy from

	locks lockTable
	ready []lockOwner // granted, to be run

	// What is, what is durable, and the writer between them (record.go).
	want, durable record
	recorder      recorder
	recordWaiters []*request // held back until want is durable
	// unsure are the regions of writes that were refused because want could not be made
	// durable. A leg has them, and after a restart the other one may be served: nothing is
	// read there before want is durable.
	unsure *metadata.Bitmap

	// The write-intent map (intent.go). marked is durable on every leg in service.
	marked, marking, touched *metadata.Bitmap
	intent                   intentWriter
	intentWaiters            []intentWaiter

	stale  *metadata.Bitmap // regions in which the legs may differ
	missed missedWriter
	flush  flusher
	resync resync
	scrub  scrubbing
	pace   pacer
	sums   sums

	// spare is the device that is to replace a leg, and in the end the one that was replaced.
	spare leg
	repl  replacing
	half  *halfCopied

	preparing *preparation
	parked    []*request // no leg, no_leg = wait
	stopping  bool
	stopPhase stopPhase
	stopTried bool // the marks
	stopDone  func(error)
	reported  drivers.FaceState
	faceSince int64
	downWhy   string
	witness   *metadata.Witness
	balance   balance.Balancer
	plainTurn int             // PlainReads
	reads     [2]balance.Word // what an admin said of the legs' part in reads
	active    int             // requests of the face under way
	lastApp   int64           // when one last came
	counters  Counters

	freeOps  *op
	freeReqs []*request
}

// NewEngine makes the engine of the disk called name. Start begins.
func NewEngine(name string, o Options, env Env) *Engine {
	e := &Engine{name: name, opt: o.withDefaults(), env: env, zeroPiece: zeroPiece}
	for i := range e.legs {
		e.legs[i].side = i
		e.legs[i].reported = drivers.Removed
		e.legs[i].since = env.Now()
	}
	e.spare.side = spareSide
	e.faceSince = env.Now()
	e.RestoreScrub(scrub.State{}) // which marks the legs, too
	return e
}

// sideID is the component's name, as people type it.
func (e *Engine) sideID(side int) string { return sideID(side, e.name) }

func sideID(side int, name string) string {
	return [...]string{"pci0/", "pci1/"}[side] + name
}

// LegDone takes an ended I/O back from a leg.
func (e *Engine) LegDone(io *legio.IO) {
	o := io.Owner.(*op)
	l := &e.spare
	if io.Side != spareSide {
		l = &e.legs[io.Side]
	}
	l.inflight--
	e.balance.Ended(l.side, io.Len)
	owner := o.owner
	if o.attachment != l.attachment {
		owner.ioFreed(e, o)
		if l.inflight == 0 && l != &e.spare {
			e.event(drivers.Event{Kind: drivers.EventDrained, Side: drivers.Side(l.side)})
		}
	} else {
		l.ops.remove(o)
		if io.Err == 0 {
			l.lastDone = e.env.Now()
		}
		e.readTimed(l, io)
		owner.ioDone(e, o)
	}
	o.owner = nil
	o.io.Buf = nil
	o.next = e.freeOps
	e.freeOps = o
	e.run()
}

// Drained says whether no I/O is under way on a leg.
func (e *Engine) Drained(s drivers.Side) bool { return e.legs[s].inflight == 0 }

// run serves what has become ready, until nothing is.
func (e *Engine) run() {
	for {
		for i := 0; i < len(e.ready); i++ {
			e.ready[i].lockGranted(e)
		}
		e.ready = e.ready[:0]
		e.pumpRecord()
		e.pumpResync()
		e.pumpScrub()
		e.pumpReplace()
		if len(e.ready) == 0 {
			break
		}
	}
	e.report()
}

// Tick lets time pass: timeouts, lazy clearing, resync pace. Call it every 20 to 100 ms.
func (e *Engine) Tick() {
	e.checkTimeouts()
	e.checkLate()
	e.tickIntent()
	e.tickResync()
	e.tickSums()
	e.tickScrub()
	e.tickReplace()
	e.tickRecord()
	e.run()
}

// in is the set of legs in service, bit 0 is side 0.
func (e *Engine) in() uint8 {
	var m uint8
	for i := range e.legs {
		if e.legs[i].state == legIn {
			m |= 1 << i
		}
	}
	return m
}

// alone says whether l is the only leg in service.
func (e *Engine) alone(l *leg) bool { return e.in() == 1<<l.side }

// other is the partner of l.
func (e *Engine) other(l *leg) *leg { return &e.legs[1-l.side] }

// suspect says whether both legs are in service and may yet differ somewhere.
func (e *Engine) suspect() bool { return e.in() == 3 && e.stale.Count() > 0 }

// regions is the range of regions that a byte range touches.
func (e *Engine) regions(off, n int64) (lo, hi int) {
	rs := int64(e.id.RegionSize)
	return int(off / rs), int((off + n + rs - 1) / rs)
}

// extents is the range of extents that a byte range touches.
func (e *Engine) extents(off, n int64) (lo, hi int) {
	es := int64(e.id.ExtentSize)
	return int(off / es), int((off + n + es - 1) / es)
}

// request is the engine's part of a request of the face.
type request struct {
	r       *frontend.Request
	lock    rangeLock
	pending int   // ops under way that it waits for
	refs    int   // ops that refer to its memory, orphans included
	ok      uint8 // legs that have it
	refused uint8 // legs that answered it with an error
	tried   uint8 // legs that a read was sent to
	at, n   int64 // the piece under way: the whole but for Zero
	errno   syscall.Errno
	replied bool // the answer is on its way or has gone
	gone    bool // the answer has gone out
	// A read that was tried again goes to memory of its own: the first leg may still
	// write to the request's.
	alt      []byte
	releases []func()
	verify   verifying // under checksums
}

// Submit takes a request of the face.
func (e *Engine) Submit(r *frontend.Request) {
	q := e.newRequest(r)
	e.active++
	e.lastApp = e.env.Now()
	if e.repl.phase == replSwapping {
		e.repl.frozen = append(e.repl.frozen, q)
	} else {
		e.submit(q)
	}
	e.run()
}

func (e *Engine) submit(q *request) {
	r := q.r
	switch {
	case e.stopping:
		q.finish(e, syscall.ESHUTDOWN)
	case r.Op == frontend.Flush:
		e.counters.Flushes++
		e.submitFlush(q)
	case !e.made || r.Off < 0 || r.Len <= 0 || r.Off+r.Len < r.Off || r.Off+r.Len > int64(e.id.DataBytes):
		q.finish(e, syscall.EIO)
	case r.Off%int64(e.id.LogicalBlock) != 0 || r.Len%int64(e.id.LogicalBlock) != 0,
		r.Op != frontend.Zero && r.Len != int64(len(r.Data)):
		q.finish(e, syscall.EINVAL)
	default:
		q.lockRange(e)
		if r.Op == frontend.Read {
			e.counters.Reads++
			e.repairBeforeRead(r.Off, r.Len)
		}
		if e.locks.acquire(&q.lock) {
			q.lockGranted(e)
		} else if e.defect&OverlappingWrites != 0 && r.Op == frontend.Write {
			q.lock.owner = deaf{}
			q.lockGranted(e)
		}
	}
}

// deaf owns the lock of a request that did not wait for it.
type deaf struct{}

func (deaf) lockGranted(*Engine) {}

func (e *Engine) newRequest(r *frontend.Request) *request {
	var q *request
	if n := len(e.freeReqs); n > 0 {
		q, e.freeReqs = e.freeReqs[n-1], e.freeReqs[:n-1]
		*q = request{}
	} else {
		q = &request{}
	}
	q.r = r
	q.at, q.n = r.Off, r.Len
	r.Engine = q
	return q
}

// lockGranted runs a request whose range is its own.
func (q *request) lockGranted(e *Engine) {
	if !q.lockedFor(e) {
		return
	}
	switch q.r.Op {
	case frontend.Read:
		e.readStart(q)
	case frontend.Write:
		e.writeStart(q)
	case frontend.Zero:
		e.zeroStart(q)
	}
}

func (q *request) ioDone(e *Engine, o *op) {
	q.refs--
	switch q.r.Op {
	case frontend.Read:
		e.readDone(q, o)
	default:
		e.writeDone(q, o)
	}
	q.free(e)
}

func (q *request) ioLost(e *Engine, o *op) {
	switch q.r.Op {
	case frontend.Read:
		e.readLost(q, o)
	default:
		e.writeLost(q)
	}
}

// use and unuse count who else has the request's memory.
func (q *request) use() { q.refs++ }
func (q *request) unuse(e *Engine) {
	q.refs--
	q.free(e)
}

func (q *request) ioFreed(e *Engine, _ *op) {
	q.refs--
	q.free(e)
}

// finish answers a request. A write keeps its range until the answer has gone out.
func (q *request) finish(e *Engine, errno syscall.Errno) {
	if q.replied {
		return
	}
	q.replied = true
	q.r.Err = errno
	e.dropSums(&q.verify.hold)
	if errno != 0 {
		e.counters.Errors++
	}
	if q.lock.live && (!q.lock.write || e.defect&UnlockBeforeReplied != 0) {
		e.unlock(&q.lock)
	}
	e.env.Reply(q.r)
}

// Replied says that the answer of a request has gone out.
func (e *Engine) Replied(r *frontend.Request) {
	q := r.Engine.(*request)
	q.gone = true
	e.active--
	if q.lock.live {
		e.unlock(&q.lock)
	}
	q.free(e)
	e.run()
}

// free gives the request back when nothing refers to it any more.
func (q *request) free(e *Engine) {
	if !q.gone || q.refs > 0 || q.r == nil {
		return
	}
	for _, release := range q.releases {
		release()
	}
	r := q.r
	q.r, q.alt, q.releases, q.verify = nil, nil, nil, verifying{}
	r.Engine = nil
	e.freeReqs = append(e.freeReqs, q)
	e.env.Free(r)
}

func (e *Engine) unlock(l *rangeLock) {
	e.ready = e.locks.release(l, e.ready)
}

// noLeg answers or parks a request that no leg can serve.
func (e *Engine) noLeg(q *request) {
	if e.opt.NoLeg == "wait" && !e.stopping {
		e.parked = append(e.parked, q)
		return
	}
	q.finish(e, syscall.EIO)
}

// unpark runs again what waited for a leg.
func (e *Engine) unpark() {
	for _, q := range e.parked {
		if q.r.Op == frontend.Flush {
			e.submitFlush(q)
		} else {
			e.ready = append(e.ready, q)
		}
	}
	e.parked = nil
}
