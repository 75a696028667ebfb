package mirror

import (
	"syscall"

	"ft/mirror/balance"
	"ft/mirror/frontend"
	"ft/mirror/legio"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// Requests of the face under checksums. They lock whole blocks, since a checksum is for
// one. A read of part of a block reads all of it. A write of part of a block first reads
// the block, verified, so that it is never without a checksum. What is refuted is looked
// at by an exam, which needs the range for itself: the request lets its lock go, and
// begins again when the exam has ended.

// verifyTries is how often a request begins again.
const verifyTries = 8

// verifying is the part of a request.
type verifying struct {
	on    bool // its lock covers whole blocks
	hold  sumHold
	tries int
	avoid uint8 // legs that answered with what was refuted although they had been repaired
	bad   bool  // a leg did, this time
	wrong span
	edges [2]edge // first and last block of a write that covers them in part
}

// edge is a block that is written in part.
type edge struct {
	n     int64 // number of the block
	state edgeState
	buf   []byte // what is there
	epoch int
}

type edgeState uint8

const (
	edgeNone    edgeState = iota
	edgeReading           // from a leg
	edgeRead              // buf holds it
	edgeUnknown           // its checksum is not known, and so is not afterwards
	edgeLost              // it is refuted on every leg
)

// lockRange makes the lock of a request.
func (q *request) lockRange(e *Engine) {
	lo, hi := q.r.Off, q.r.Off+q.r.Len
	q.verify.on = e.sums.on
	if e.sums.on && e.defect&PlainLocks == 0 {
		lo, hi = rounded(q.r.Off, q.r.Len)
	}
	q.lock = rangeLock{lo: lo, hi: hi, write: q.r.Op != frontend.Read, owner: q}
}

// lockedFor says whether the lock is what the request needs; checksums may have come
// since it was made. Else it is made anew, and the request run when it is held.
func (q *request) lockedFor(e *Engine) bool {
	if !e.sums.on || q.verify.on || !q.lock.live {
		return true
	}
	q.relock(e)
	return false
}

// relock lets the lock go and waits for it again, behind what has come meanwhile.
func (q *request) relock(e *Engine) {
	e.dropSums(&q.verify.hold)
	e.unlock(&q.lock)
	q.lockRange(e)
	q.verify.edges = [2]edge{}
	if e.locks.acquire(&q.lock) {
		e.ready = append(e.ready, q)
	}
}

// readBuffer is where a read goes to, and from where: whole blocks under checksums.
func (e *Engine) readBuffer(q *request) (buf []byte, off int64) {
	off, n := q.r.Off, q.r.Len
	if e.sums.on {
		lo, hi := rounded(off, n)
		off, n = lo, hi-lo
	}
	switch {
	case q.refs == 0 && n == q.r.Len:
		return q.r.Data, off
	case q.refs == 0 && int64(len(q.alt)) == n:
		return q.alt, off
	}
	// The request's memory is too small, or another leg may still write to it.
	alt, release := e.env.Alloc(int(n))
	if alt == nil {
		// Rare, and bounded by the requests under way: better than an error.
		alt, release = alignedBytes(int(n)), nil
	}
	if release != nil {
		q.releases = append(q.releases, release)
	}
	q.alt = alt
	return alt, off
}

// readVerified says whether what a leg answered may be returned.
func (e *Engine) readVerified(q *request, l *leg, o *op) bool {
	v := &q.verify
	if !e.sums.on || !e.hasSums(&v.hold) || e.defect&NoVerify != 0 {
		return true
	}
	wrong := e.checkSums(o.io.Off, o.io.Buf)
	if wrong.hi == 0 {
		return true
	}
	v.bad, v.wrong = true, wrong
	if v.tries > 1 {
		v.avoid |= 1 << l.side
	}
	return false
}

// readRefuted: nothing that was read may be returned. The legs are looked at, and the read
// begins again.
func (e *Engine) readRefuted(q *request) {
	v := &q.verify
	q.tried, v.bad = 0, false
	v.tries++
	switch alone := e.in() != 3; {
	case alone && v.tries > 1, v.tries > verifyTries:
		e.found(scrub.Finding{What: scrub.Lost, Side: scrub.NoSide, Offset: v.wrong.lo, Bytes: v.wrong.hi - v.wrong.lo, Time: e.env.Wall()}, nil)
		q.finish(e, syscall.EIO)
	case alone:
		q.relock(e) // it may have been the way, and not the leg
	default:
		e.examine(q)
	}
}

// examine has what was refuted looked at and repaired, and q begin again after it.
func (e *Engine) examine(q *request) {
	r := q.verify.wrong
	r.hi = min(r.hi, (r.lo/metadata.SumSpan+1)*metadata.SumSpan, r.lo+copyChunk)
	j := e.newExam(r.lo, r.hi-r.lo, scrub.NoSide)
	j.firm, j.lock.write = true, true
	j.allocAnyhow(e)
	e.dropSums(&q.verify.hold)
	e.unlock(&q.lock)
	j.then = func(lost bool) {
		if lost {
			q.finish(e, syscall.EIO)
			return
		}
		q.lockRange(e)
		if e.locks.acquire(&q.lock) {
			e.ready = append(e.ready, q)
		}
	}
	j.start(e)
}

// sumsForWrite says whether a write may go ahead: the table of its blocks is in memory, and
// the rest of those that it covers in part. Else it is started anew when they are.
func (e *Engine) sumsForWrite(q *request) bool {
	if !e.sums.on {
		return true
	}
	lo, hi := rounded(q.at, q.n)
	if !e.holdSums(&q.verify.hold, lo, hi-lo, q) {
		return false
	}
	blocks := [2]int64{-1, -1}
	if q.at != lo {
		blocks[0] = lo / metadata.BlockSize
	}
	if q.at+q.n != hi && (blocks[0] < 0 || hi-lo > metadata.BlockSize) {
		blocks[1] = hi/metadata.BlockSize - 1
	}
	for i, n := range blocks {
		x := &q.verify.edges[i]
		if n < 0 {
			*x = edge{n: -1}
			continue
		}
		if x.n == n && x.epoch == e.sums.epoch && x.state != edgeNone {
			continue
		}
		*x = edge{n: n, epoch: e.sums.epoch, state: edgeUnknown}
		b, k := e.sumAt(n)
		if _, hard := b.get(k); hard {
			e.readEdge(&edgeReader{q: q, x: x})
		}
	}
	if q.edgesReading() {
		return false
	}
	for i := range q.verify.edges {
		if x := &q.verify.edges[i]; x.state == edgeLost {
			// As of a drive whose sectors are larger than its blocks: the rest cannot be read,
			// so a part cannot be written. A write of the whole block ends that.
			e.found(scrub.Finding{What: scrub.Lost, Side: scrub.NoSide, Offset: x.n * metadata.BlockSize, Bytes: metadata.BlockSize, Time: e.env.Wall()}, nil)
			q.finish(e, syscall.EIO)
			return false
		}
	}
	return true
}

func (q *request) edgesReading() bool {
	return q.verify.edges[0].state == edgeReading || q.verify.edges[1].state == edgeReading
}

// edgeReader reads a block that is written in part, from one leg or from the other.
type edgeReader struct {
	q     *request
	x     *edge
	tried uint8
	bad   bool
}

func (e *Engine) readEdge(r *edgeReader) {
	x := r.x
	lo, hi := e.regions(x.n*metadata.BlockSize, metadata.BlockSize)
	var can uint8
	for i := range e.legs {
		if l := &e.legs[i]; l.state == legIn && r.tried&(1<<i) == 0 && (i == e.source || e.in() != 3 || !e.stale.AnyIn(lo, hi)) {
			can |= 1 << i
		}
	}
	if can == 0 {
		x.state = edgeUnknown
		if r.bad {
			x.state = edgeLost
		}
		return
	}
	l := e.legOf(can)
	if can == balance.Both {
		side, _ := e.balance.Choose(can, x.n*metadata.BlockSize, metadata.BlockSize, e.env.Now())
		l = &e.legs[side]
	}
	r.tried |= 1 << l.side
	x.state = edgeReading
	l.counters.Reads++
	l.counters.ReadBytes += metadata.BlockSize
	e.begin(l, legio.Read, x.n*metadata.BlockSize, metadata.BlockSize, metadata.AlignedBlock(), r)
}

func (r *edgeReader) ioDone(e *Engine, o *op) {
	l := &e.legs[o.io.Side]
	switch {
	case r.x.epoch != e.sums.epoch:
		r.x.state = edgeNone
		r.ended(e)
		return
	case o.io.Err != 0:
		l.counters.ReadErrors++
		if deviceGone(o.io.Err) {
			e.lost(l, "the device is gone: "+o.io.Err.Error())
		}
	case e.refuted(r.x.n, o.io.Buf):
		r.bad = true
	default:
		r.x.state, r.x.buf = edgeRead, o.io.Buf
		r.ended(e)
		return
	}
	e.readEdge(r)
	r.ended(e)
}

func (r *edgeReader) ioLost(e *Engine, _ *op) {
	e.readEdge(r)
	r.ended(e)
}

func (r *edgeReader) ioFreed(*Engine, *op) {}

// ended goes on with the write when nothing is being read for it any more.
func (r *edgeReader) ended(e *Engine) {
	if r.x.state != edgeReading && !r.q.edgesReading() {
		e.ready = append(e.ready, r.q)
	}
}

// writeSummed notes the checksums of what a write has stored; ok: a leg in service has it.
func (e *Engine) writeSummed(q *request, ok bool) {
	if !e.sums.on {
		return
	}
	lo, hi := rounded(q.at, q.n)
	held := e.hasSums(&q.verify.hold)
	for off := lo; off < hi; off += metadata.BlockSize {
		n := off / metadata.BlockSize
		if !ok || !held {
			e.setSum(n, metadata.NoSum)
			continue
		}
		whole := off >= q.at && off+metadata.BlockSize <= q.at+q.n
		switch {
		case whole && q.r.Op == frontend.Zero:
			e.setSum(n, metadata.ZeroSum(n))
		case whole:
			e.setSum(n, metadata.BlockSum(q.r.Data[off-q.r.Off:][:metadata.BlockSize], n))
		default:
			e.edgeSummed(q, n)
		}
	}
	e.dropSums(&q.verify.hold)
	q.verify.edges = [2]edge{}
}

// edgeSummed notes the checksum of a block that was written in part.
func (e *Engine) edgeSummed(q *request, n int64) {
	for i := range q.verify.edges {
		x := &q.verify.edges[i]
		if x.n != n || x.epoch != e.sums.epoch {
			continue
		}
		if x.state == edgeRead {
			lo, hi := max(q.at, n*metadata.BlockSize), min(q.at+q.n, (n+1)*metadata.BlockSize)
			part := x.buf[lo-n*metadata.BlockSize : hi-n*metadata.BlockSize]
			if q.r.Op == frontend.Zero {
				clear(part)
			} else {
				copy(part, q.r.Data[lo-q.r.Off:hi-q.r.Off])
			}
			e.setSum(n, metadata.BlockSum(x.buf, n))
			return
		}
	}
	e.setSum(n, metadata.NoSum)
}
