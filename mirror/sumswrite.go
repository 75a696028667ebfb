package mirror

import (
	"slices"
	"syscall"

	"ft/drivers"
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// Writing the table of checksums: to the legs, when marks go or memory runs short; to a
// leg that joins, what it lacks; and all of it, when checksums are turned on.

// sumWrite is one block of the table on its way to the legs. There is one of a block at a
// time: of two, a leg may keep the older.
type sumWrite struct {
	b       *sumBlock
	epoch   int
	version int
	catchUp bool // to one leg, which lacked it
	pending int
	failed  bool
	done    func(ok bool)
}

// writeSums writes a block of the table to every leg in service or about to be. Other
// legs come to lack it.
func (e *Engine) writeSums(b *sumBlock, done func(ok bool)) {
	if b.write != nil {
		b.after = append(b.after, done)
		return
	}
	w := &sumWrite{b: b, epoch: e.sums.epoch, version: b.version, pending: 1, done: done}
	b.write = w
	image := metadata.AlignedBlock()
	copy(image, b.table)
	for i := range e.legs {
		l := &e.legs[i]
		if l.state != legIn && l.state != legJoining {
			l.lack.Set(b.n)
			continue
		}
		w.pending++
		l.counters.Writes++
		e.begin(l, legio.Write, e.layout.SumBlockOff(b.n), metadata.BlockSize, image, w)
	}
	w.end(e)
}

func (w *sumWrite) ioDone(e *Engine, o *op) {
	l := &e.legs[o.io.Side]
	switch {
	case o.io.Err != 0:
		l.counters.WriteErrors++
		if !e.failed(l, "error writing checksums", o.io.Err) || w.catchUp {
			w.failed = true // the last leg: it stays
		}
	default:
		l.tabled.Set(w.b.n)
		if w.catchUp {
			l.lack.Clear(w.b.n)
		}
	}
	w.end(e)
}

func (w *sumWrite) ioLost(e *Engine, _ *op) {
	w.failed = w.failed || w.catchUp
	w.end(e)
}

func (w *sumWrite) ioFreed(*Engine, *op) {}

func (w *sumWrite) end(e *Engine) {
	if w.pending--; w.pending > 0 {
		return
	}
	b := w.b
	ok := !w.failed && w.epoch == e.sums.epoch && e.in() != 0
	if ok && b.version == w.version && !w.catchUp {
		b.dirty = false
		e.trustSums(b)
	}
	b.write = nil
	after := b.after
	b.after = nil
	w.done(ok)
	if len(after) == 0 {
		return
	}
	all := func(ok bool) {
		for _, f := range after {
			f(ok)
		}
	}
	if w.epoch != e.sums.epoch {
		all(false)
		return
	}
	e.writeSums(b, all)
}

// trustSums: what the legs say now of granules in which nothing is soft may be read back
// as hard, in this life: the marks still stand, so that a crash makes it soft again.
func (e *Engine) trustSums(b *sumBlock) {
	s := &e.sums
	first := int64(b.n) * metadata.SumSpan
	end := min(first+metadata.SumSpan, int64(e.id.DataBytes))
	for lo := first; lo < end; lo += s.granule {
		if s.distrust.Get(int(lo/s.granule)) && !b.softIn(lo-first, min(lo+s.granule, end)-first) {
			s.distrust.Clear(int(lo / s.granule))
		}
	}
}

// softIn says whether a checksum of a range of data, in bytes from the block's first, is soft.
func (b *sumBlock) softIn(lo, hi int64) bool {
	for i := lo / metadata.BlockSize; i < hi/metadata.BlockSize; i++ {
		if b.isSoft(int(i)) {
			return true
		}
	}
	return false
}

// sumWork does something with many blocks of the table, a few at a time.
type sumWork struct {
	epoch   int
	list    []int
	next    int
	pending int
	failed  bool
	running bool
	// each does it with a block that is in memory, and calls done once.
	each func(b *sumBlock, done func(ok bool))
	done func(ok bool)
}

// sumWorkOn does the work.
func (e *Engine) sumWorkOn(w *sumWork) {
	w.epoch = e.sums.epoch
	w.step(e)
}

func (w *sumWork) step(e *Engine) {
	if w.running {
		return
	}
	w.running = true
	if w.epoch != e.sums.epoch {
		w.failed = true
	}
	for !w.failed && w.next < len(w.list) && w.pending < sumWritesMax {
		n := w.list[w.next]
		w.next++
		w.pending++
		sumWorker{w, n, &sumHold{}}.lockGranted(e)
	}
	w.running = false
	if w.pending == 0 && (w.failed || w.next == len(w.list)) && w.done != nil {
		done := w.done
		w.done = nil
		done(!w.failed)
	}
}

// sumWorker is the work with one block: run again when it has been read.
type sumWorker struct {
	w    *sumWork
	n    int
	hold *sumHold
}

func (x sumWorker) lockGranted(e *Engine) {
	if x.w.epoch != e.sums.epoch || e.in() == 0 {
		x.end(e, false)
		return
	}
	if e.holdSums(x.hold, int64(x.n)*metadata.SumSpan, 1, x) {
		x.w.each(e.sums.blocks[x.n], func(ok bool) { x.end(e, ok) })
	}
}

func (x sumWorker) end(e *Engine, ok bool) {
	e.dropSums(x.hold)
	x.w.pending--
	x.w.failed = x.w.failed || !ok
	x.w.step(e)
}

// settleSums makes the table of extents right on the legs in service, though not stable:
// their marks are to be taken back.
func (e *Engine) settleSums(c *metadata.Bitmap, done func(ok bool)) {
	if !e.sums.on || e.defect&MarksBeforeSums != 0 {
		done(true)
		return
	}
	s := &e.sums
	w := &sumWork{done: done}
	last := -1
	for i := c.NextSet(0); i >= 0; i = c.NextSet(i + 1) {
		r := e.extentSpan(i)
		for lo := r.lo; lo < r.hi; lo += s.granule {
			n := int(lo / metadata.SumSpan)
			b := s.blocks[n]
			if n != last && (s.distrust.Get(int(lo/s.granule)) || b != nil && (b.dirty || b.table == nil)) {
				w.list = append(w.list, n)
				last = n
			}
		}
	}
	w.each = func(b *sumBlock, done func(bool)) {
		e.hardenSums(b, c)
		if !b.dirty {
			done(true)
			return
		}
		e.writeSums(b, done)
	}
	e.sumWorkOn(w)
}

// hardenSums makes unknown what is soft in extents of c: their marks go.
func (e *Engine) hardenSums(b *sumBlock, c *metadata.Bitmap) {
	s := &e.sums
	first := int64(b.n) * metadata.SumSpan
	end := min(first+metadata.SumSpan, int64(e.id.DataBytes))
	for lo := first; lo < end; lo += s.granule {
		if !c.Get(int(lo / int64(e.id.ExtentSize))) {
			continue
		}
		for i := (lo - first) / metadata.BlockSize; i < (min(lo+s.granule, end)-first)/metadata.BlockSize; i++ {
			if b.isSoft(int(i)) {
				b.set(int(i), metadata.NoSum)
			}
		}
		s.distrust.Clear(int(lo / s.granule))
	}
}

// catchUpSums writes to a leg that joins what it lacks of the table.
func (e *Engine) catchUpSums(l *leg, done func(ok bool)) {
	if !e.sums.on || e.defect&NoSumCatchUp != 0 {
		done(true)
		return
	}
	w := &sumWork{done: done}
	for n := l.lack.NextSet(0); n >= 0; n = l.lack.NextSet(n + 1) {
		w.list = append(w.list, n)
	}
	at := l.attachment
	w.each = func(b *sumBlock, done func(bool)) {
		switch {
		case l.attachment != at:
			done(false)
		case b.write != nil && e.defect&NoSumOrder == 0:
			b.after = append(b.after, func(bool) {
				if w.epoch != e.sums.epoch {
					done(false)
					return
				}
				w.each(b, done)
			})
		default:
			e.catchUpSum(l, b, done)
		}
	}
	e.sumWorkOn(w)
}

// catchUpSum writes a block of the table, of which no write is under way, to a leg that
// joins. That lacks it until it is there.
func (e *Engine) catchUpSum(l *leg, b *sumBlock, done func(ok bool)) {
	c := &sumWrite{b: b, epoch: e.sums.epoch, version: b.version, catchUp: true, pending: 1, done: done}
	if e.defect&NoSumOrder == 0 {
		b.write = c
	}
	image := metadata.AlignedBlock()
	copy(image, b.table)
	l.counters.Writes++
	e.begin(l, legio.Write, e.layout.SumBlockOff(b.n), metadata.BlockSize, image, c)
}

// sumsLacking are regions that stand for what absent legs lack of the table: one of each
// block of it.
func (e *Engine) sumsLacking(b *metadata.Bitmap) {
	if !e.sums.on {
		return
	}
	for i := range e.legs {
		l := &e.legs[i]
		if l.state == legIn {
			continue
		}
		for n := l.lack.NextSet(0); n >= 0; n = l.lack.NextSet(n + 1) {
			b.Set(int(int64(n) * metadata.SumSpan / int64(e.id.RegionSize)))
		}
	}
}

// sumsCut: a leg goes. It lacks of the table what may not be stable there.
func (e *Engine) sumsCut(l *leg) {
	if !e.sums.on {
		return
	}
	if e.defect&NoUnflushedTracking == 0 {
		l.lack.Or(l.tabled)
		l.lack.Or(l.tabling)
	}
	for n, b := range e.sums.blocks {
		if b.dirty {
			l.lack.Set(n)
		}
	}
	l.tabled.Reset()
	l.tabling.Reset()
}

// sumsTarget: a leg is to become a target. It lacks the table of all that is stale, and all
// of the table if it has none that holds.
func (e *Engine) sumsTarget(l *leg, has bool) {
	if !e.sums.on {
		return
	}
	if !has {
		l.lack.Fill()
		return
	}
	for r := e.stale.NextSet(0); r >= 0; r = e.stale.NextSet(r + 1) {
		lo, hi := sumBlocksOf(int64(r)*int64(e.id.RegionSize), int64(e.id.RegionSize))
		l.lack.SetRange(lo, min(hi, l.lack.Len()))
	}
}

// sumsBegin is the way from no checksums to unknown ones: the tables are emptied, then the
// superblocks say that they hold.
type sumsBegin struct {
	phase beginPhase
	at    [2]uint32 // attachments of the legs in service
	legs  uint8
	off   int64
	left  int
	bad   bool
}

type beginPhase uint8

const (
	beginNone   beginPhase = iota
	beginEmpty             // the tables are being emptied
	beginFlush             // and flushed
	beginRecord            // the superblocks are being written
)

// settled says whether no leg is on its way into service.
func (e *Engine) settled() bool {
	for i := range e.legs {
		if s := e.legs[i].state; s == legPreparing || s == legTarget || s == legJoining {
			return false
		}
	}
	return e.in() != 0 && e.recorded()
}

// tickSums turns checksums on when they are wanted, and writes what was filled in.
func (e *Engine) tickSums() {
	s := &e.sums
	switch {
	case !e.made || e.stopping || e.in() == 0:
	case s.on:
		if s.filled && !e.intent.busy && !e.intent.clearing {
			s.filled = false
			e.evictFilled()
		}
	case e.opt.Integrity == IntegrityCRC32C && s.begin.phase == beginNone && e.settled():
		s.begin = sumsBegin{phase: beginEmpty, legs: e.in(), at: [2]uint32{e.legs[0].attachment, e.legs[1].attachment}}
		e.emptySums()
	}
}

// evictFilled writes blocks that were filled in and that no mark will have written.
func (e *Engine) evictFilled() {
	w := &sumWork{done: func(bool) {}}
	for n, b := range e.sums.blocks {
		if b.dirty && b.table != nil {
			w.list = append(w.list, n)
		}
	}
	slices.Sort(w.list)
	w.each = func(b *sumBlock, done func(bool)) { e.writeSums(b, done) }
	e.sumWorkOn(w)
}

// same says whether the legs are those with which it began.
func (x *sumsBegin) same(e *Engine) bool {
	if x.legs != e.in() {
		return false
	}
	for i := range e.legs {
		if x.legs&(1<<i) != 0 && x.at[i] != e.legs[i].attachment {
			return false
		}
	}
	return true
}

// emptySums fills the next piece of the tables with NoSum.
func (e *Engine) emptySums() {
	x := &e.sums.begin
	if !x.same(e) || x.bad || e.stopping {
		*x = sumsBegin{} // the next tick tries again
		return
	}
	n := min(zeroPiece, e.layout.ChecksumLen-x.off)
	if n == 0 {
		x.phase = beginFlush
		e.askFlush(flushWaiter{done: func(errno syscall.Errno) {
			if x := &e.sums.begin; errno == 0 && x.phase == beginFlush && x.same(e) && e.settled() {
				x.phase = beginRecord
				e.want.sums = true
				e.changed(-1)
			} else {
				*x = sumsBegin{}
			}
		}})
		return
	}
	off := e.layout.ChecksumOff + x.off
	x.off += n
	j := &emptying{epoch: e.sums.epoch}
	for i := range e.legs {
		if l := &e.legs[i]; l.state == legIn {
			x.left++
			l.counters.Writes++
			e.begin(l, legio.Zero, off, n, nil, j)
		}
	}
}

// emptying is one piece of the tables on its way.
type emptying struct{ epoch int }

func (j *emptying) ioDone(e *Engine, o *op) {
	if o.io.Err != 0 {
		l := &e.legs[o.io.Side]
		l.counters.WriteErrors++
		e.failed(l, "error writing checksums", o.io.Err)
	}
	j.end(e, o.io.Err != 0)
}

func (j *emptying) ioLost(e *Engine, _ *op) { j.end(e, true) }
func (j *emptying) ioFreed(*Engine, *op)    {}

func (j *emptying) end(e *Engine, bad bool) {
	x := &e.sums.begin
	if j.epoch != e.sums.epoch || x.phase != beginEmpty {
		return
	}
	x.bad = x.bad || bad
	if x.left--; x.left == 0 {
		e.emptySums()
	}
}

// sumsRecorded: what is recorded about who is in service may say now that tables hold.
func (e *Engine) sumsRecorded() {
	s := &e.sums
	if s.on || !e.durable.sums {
		return
	}
	same := s.begin.phase == beginRecord && s.begin.same(e)
	s.begin = sumsBegin{}
	if !same {
		e.want.sums = false // a leg came or went: once more
		e.changed(-1)
		return
	}
	s.on = true
	for i := range e.legs {
		if l := &e.legs[i]; l.state != legIn {
			l.lack.Fill()
		}
	}
	e.scrub.Build = true
	e.scrubSave()
	e.note(drivers.Whole, "checksums are kept from now on; those of what is there already are made by a scrub")
}
