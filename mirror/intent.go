package mirror

import (
	"syscall"
	"time"

	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// intentClearEvery is how often marks that were not used are taken back: an extent
// written once stays marked for one to two of these.
const intentClearEvery = 5 * time.Second

// markAhead is how many extents are marked beyond a sequential writer, so that it
// does not wait for a flush at each one.
const markAhead = 8

// intentWriter writes the write-intent map. One write is under way at a time; the
// marks that are asked for meanwhile go with the next, together (group commit).
type intentWriter struct {
	busy      bool
	pending   int
	writing   *metadata.Bitmap // the map under way
	image     *metadata.Bitmap // as last written to every leg with mapValid
	clearing  bool             // a clear pass is under way
	nextClear int64
	legs      uint8 // that the write under way goes to
}

// intentWaiter is what waits for marks: a write, or the healing of a range. When they
// are durable it is run as when its lock was granted.
type intentWaiter interface {
	lockOwner
	intentRefused(*Engine)
}

// markForWrite says whether the extents of a write are marked durably; else it asks
// for that and the write is started anew when they are.
func (e *Engine) markForWrite(q *request) bool {
	lo, hi := e.extents(q.at, q.n)
	if e.isMarked(lo, hi) || e.opt.Measure == NoIntentMap {
		return true
	}
	if lo > 0 && e.touched.Get(lo-1) && q.at%int64(e.id.ExtentSize) < copyChunk {
		// A sequential writer enters its next extent.
		e.marking.SetRange(hi, min(hi+markAhead, e.marking.Len()))
	}
	if e.defect&WriteBeforeMarks != 0 {
		e.marking.SetRange(lo, hi)
		e.intentKick()
		return true
	}
	e.mark(lo, hi, q)
	return false
}

func (e *Engine) isMarked(lo, hi int) bool {
	for i := range e.legs {
		if l := &e.legs[i]; l.state == legIn && !l.mapValid {
			return false
		}
	}
	for i := lo; i < hi; i++ {
		if !e.marked.Get(i) {
			return false
		}
	}
	return true
}

func (e *Engine) mark(lo, hi int, w intentWaiter) {
	e.marking.SetRange(lo, hi)
	e.intentWaiters = append(e.intentWaiters, w)
	e.intentKick()
}

// intentKick starts to write what is asked for, unless a write is under way.
func (e *Engine) intentKick() {
	if e.intent.busy || e.in() == 0 {
		return
	}
	if e.marking.Count() == 0 && e.mapsValid() {
		return
	}
	next := e.marked.Clone()
	next.Or(e.marking)
	e.marking.Reset()
	e.intentWrite(next, true)
}

func (e *Engine) mapsValid() bool {
	for i := range e.legs {
		if l := &e.legs[i]; (l.state == legIn || l.state == legJoining) && !l.mapValid {
			return false
		}
	}
	return true
}

// intentWrite writes a map to every leg in service or about to be. Marks are flushed;
// marks taken back need not be.
func (e *Engine) intentWrite(m *metadata.Bitmap, flush bool) {
	w := &e.intent
	w.busy, w.writing, w.legs = true, m, 0
	w.pending = 1
	for i := range e.legs {
		l := &e.legs[i]
		if l.state != legIn && l.state != legJoining {
			continue
		}
		w.legs |= 1 << i
		j := &mapWrite{e: e, flush: flush, attachment: l.attachment}
		for b := range e.layout.IntentBlocks {
			if l.mapValid && sameBlock(m, w.image, b) {
				continue
			}
			buf := metadata.AlignedBlock()
			metadata.EncodeIntent(e.layout, &l.super, b, m, buf)
			j.left++
			e.begin(l, legio.Write, e.layout.IntentBlockOff(b), metadata.BlockSize, buf, j)
		}
		if l.blank {
			l.blank = false
			e.writeFirstMissed(l, j)
		}
		if j.left > 0 {
			w.pending++
		}
	}
	w.pending--
	e.intentEnd()
}

// writeFirstMissed gives a new leg a missed-writes bitmap, so that its metadata is whole.
// It says nothing until the leg is alone one day, and is written anew then.
func (e *Engine) writeFirstMissed(l *leg, j *mapWrite) {
	m := e.lacking()
	for b := range e.layout.MissedBlocks {
		buf := metadata.AlignedBlock()
		metadata.EncodeMissed(e.layout, &l.super, b, m, buf)
		j.left++
		e.begin(l, legio.Write, e.layout.MissedBlockOff(b), metadata.BlockSize, buf, j)
	}
}

// sameBlock says whether two maps agree in one block.
func sameBlock(a, b *metadata.Bitmap, block int) bool {
	if b == nil {
		return false
	}
	lo := block * metadata.BitsPerBlock
	hi := min(lo+metadata.BitsPerBlock, a.Len())
	for i := lo; ; i++ {
		x, y := a.NextSet(i), b.NextSet(i)
		if x >= hi {
			x = -1
		}
		if y >= hi {
			y = -1
		}
		if x != y {
			return false
		}
		if x < 0 {
			return true
		}
		i = x
	}
}

// mapWrite is the write of a map's blocks to one leg, and then the flush.
type mapWrite struct {
	e          *Engine
	left       int
	flush      bool
	failed     bool
	attachment uint32
}

func (j *mapWrite) ioDone(e *Engine, o *op) {
	l := &e.legs[o.io.Side]
	if o.io.Err != 0 && e.defect&IgnoreMarkErrors == 0 {
		j.failed = true
		e.failed(l, "error writing the write-intent map", o.io.Err)
	}
	j.end(l)
}

func (j *mapWrite) ioLost(e *Engine, o *op) {
	j.failed = true
	j.end(&e.legs[o.io.Side])
}

func (j *mapWrite) ioFreed(*Engine, *op) {}

func (j *mapWrite) end(l *leg) {
	e := j.e
	if j.left--; j.left > 0 {
		return
	}
	if !j.failed && j.flush {
		j.flush, j.left = false, 1
		e.begin(l, legio.Flush, 0, 0, nil, j)
		return
	}
	if l.attachment == j.attachment {
		l.mapValid = !j.failed
	}
	e.intent.pending--
	e.intentEnd()
}

// intentEnd makes the written marks count, and goes on.
func (e *Engine) intentEnd() {
	w := &e.intent
	if w.pending > 0 || !w.busy {
		return
	}
	w.busy, w.clearing = false, false
	ok, refused := true, false
	for i := range e.legs {
		if l := &e.legs[i]; l.state == legIn && !l.mapValid {
			ok = false
			refused = refused || w.legs&(1<<i) != 0
		}
	}
	if ok && e.in() != 0 {
		e.marked, w.image = w.writing, w.writing.Clone()
	} else {
		e.marking.Or(w.writing)
		w.image = nil
	}
	if ok || refused {
		waiters := e.intentWaiters
		e.intentWaiters = nil
		for _, q := range waiters {
			if refused {
				// The last leg cannot take the marks, so it cannot take the writes.
				q.intentRefused(e)
			} else {
				e.ready = append(e.ready, q)
			}
		}
	}
	e.joinStep()
	e.stopStep()
	if len(e.intentWaiters) > 0 || !refused && !e.mapsValid() {
		e.intentKick()
	}
}

func (q *request) intentRefused(e *Engine) { q.finish(e, syscall.EIO) }

// tickIntent takes back the marks of extents that were not written for a while.
func (e *Engine) tickIntent() {
	w := &e.intent
	now := e.env.Now()
	if !e.made || w.busy || w.clearing || now < w.nextClear || e.marked.Count() == 0 {
		return
	}
	w.nextClear = now + int64(intentClearEvery)
	c := e.idleMarks()
	e.touched.Reset()
	if c.Count() > 0 {
		e.clearMarks(c)
	}
}

// idleMarks is the set of marks that may go: nothing was written there since the last
// pass, nothing is being written, and the legs are known to be equal there or the
// missed-writes bitmap can take over.
func (e *Engine) idleMarks() *metadata.Bitmap {
	c := e.marked.Clone()
	if !e.recorded() {
		c.Reset()
	}
	for i := c.NextSet(0); i >= 0; i = c.NextSet(i + 1) {
		if e.touched.Get(i) || e.extentBusy(i) {
			c.Clear(i)
		}
	}
	return c
}

func (e *Engine) extentBusy(i int) bool {
	es := int64(e.id.ExtentSize)
	lo, hi := int64(i)*es, min(int64(i+1)*es, int64(e.id.DataBytes))
	if e.locks.written(lo, hi) {
		return true
	}
	if e.in() != 3 {
		return false
	}
	rlo, rhi := e.regions(lo, hi-lo)
	return e.stale.AnyIn(rlo, rhi)
}

// clearMarks takes marks back: a flush of every leg first, then, while a leg is
// absent, the missed-writes bitmap; then the map. A change of who is in service in
// between ends the pass.
func (e *Engine) clearMarks(c *metadata.Bitmap) {
	e.intent.clearing = true
	version := e.want.version
	last := func(ok bool) {
		if !ok || version != e.want.version || e.intent.busy || !e.mapsValid() {
			e.intent.clearing = false
			e.stopStep()
			return
		}
		for i := c.NextSet(0); i >= 0; i = c.NextSet(i + 1) {
			if e.touched.Get(i) || e.extentBusy(i) {
				c.Clear(i)
			}
		}
		// They stop to count before they are overwritten.
		next := e.marked.Clone()
		for i := c.NextSet(0); i >= 0; i = c.NextSet(i + 1) {
			next.Clear(i)
		}
		e.marked = next
		e.intentWrite(next, false)
	}
	if e.defect&ClearIntentEarly != 0 {
		last(true)
		return
	}
	e.settleSums(c, func(ok bool) {
		if !ok {
			last(false)
			return
		}
		e.askFlush(flushWaiter{done: func(errno syscall.Errno) {
			switch {
			case errno != 0:
				last(false)
			case e.in() == 3 || e.defect&MarksGoUnsaved != 0:
				last(true)
			default:
				e.saveMissed(last)
			}
		}})
	})
}
