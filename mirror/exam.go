package mirror

import (
	"bytes"
	"slices"
	"syscall"

	"ft/mirror/legio"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// An exam compares a range of both legs, block by block, and repairs what it may.
//
// It begins with a shared lock: reads of the face go on beside it, writes wait. What is
// found wrong then is no race with a write: a write holds its range from before it is
// sent to the first leg until after both have answered, one copy of its data feeds both,
// and the legs' regions are not stale. A range that is to be repaired is looked at once
// more with a lock of its own (firm), and what is wrong then is written.
//
// With checksums each block is held against its own as well: then it is known which leg
// is wrong, and that one is repaired without a word of anybody's. A scrub also holds the
// legs' tables against the one in memory, a block of them at a time.
//
// A leg that is cut off meanwhile ends the exam without a word.

// examBlock is what is judged as one.
const examBlock = metadata.BlockSize

// verdict is what an exam makes of one block.
type verdict uint8

const (
	blockGood   verdict = iota
	blockDiffer         // the legs differ, and nothing says which is right
	blockWrong          // of one leg; the other one's is right
	blockLost           // no leg has it
)

type exam struct {
	lock    rangeLock
	firm    bool // it has the range for itself
	scrub   bool // it is part of the scrub
	from    int  // the side that is right where nothing else says so, scrub.NoSide: none
	at      [2]uint32
	buf     [2][]byte
	release [2]func()
	errs    [2]syscall.Errno
	pending int // ops under way that it waits for
	refs    int // ops that use its memory
	writing bool
	failed  bool // a repair was not written
	// complete: its range was judged; else it is looked at again.
	complete bool
	ended    bool
	begun    int64
	found    []scrub.Finding
	// Under checksums.
	hold    sumHold
	tables  [2][]byte // the legs' own blocks of the table, where they are read as well
	version int       // of the one in memory at that time
	// then is run when it has ended: lost says that something is right on no leg.
	then    func(lost bool)
	healing bool // of a read error
}

func (e *Engine) newExam(off, n int64, from int) *exam {
	j := &exam{from: from, at: [2]uint32{e.legs[0].attachment, e.legs[1].attachment}, begun: e.env.Now()}
	j.lock = rangeLock{lo: off, hi: off + n, owner: j}
	return j
}

// alloc gets memory for both legs' data, and says whether there was any.
func (j *exam) alloc(e *Engine) bool {
	for i := range j.buf {
		if j.buf[i], j.release[i] = e.env.Alloc(int(j.lock.hi - j.lock.lo)); j.buf[i] == nil {
			j.give()
			return false
		}
	}
	return true
}

// allocAnyhow gets memory, if need be from the runtime: rare, and bounded by the requests
// under way.
func (j *exam) allocAnyhow(e *Engine) {
	if j.alloc(e) {
		return
	}
	for i := range j.buf {
		j.buf[i] = alignedBytes(int(j.lock.hi - j.lock.lo))
	}
}

func (j *exam) start(e *Engine) {
	if e.locks.acquire(&j.lock) {
		j.lockGranted(e)
	}
}

// void: a leg was cut off, or may differ in the range.
func (j *exam) void(e *Engine) bool {
	if e.in() != 3 || e.stopping || j.at[0] != e.legs[0].attachment || j.at[1] != e.legs[1].attachment {
		return true
	}
	lo, hi := e.regions(j.lock.lo, j.lock.hi-j.lock.lo)
	return e.stale.AnyIn(lo, hi)
}

func (j *exam) lockGranted(e *Engine) {
	if j.void(e) {
		j.end(e)
		return
	}
	if e.sums.on && !e.holdSums(&j.hold, j.lock.lo, j.lock.hi-j.lock.lo, j) {
		return
	}
	if j.firm {
		lo, hi := e.extents(j.lock.lo, j.lock.hi-j.lock.lo)
		if !e.isMarked(lo, hi) {
			e.mark(lo, hi, j)
			return
		}
		e.touched.SetRange(lo, hi)
	}
	j.errs = [2]syscall.Errno{}
	j.pending = 1
	for i := range e.legs {
		j.pending++
		j.refs++
		e.legs[i].counters.Reads++
		e.begin(&e.legs[i], legio.Read, j.lock.lo, j.lock.hi-j.lock.lo, j.buf[i], j)
	}
	j.readTables(e)
	j.pending--
}

func (j *exam) intentRefused(e *Engine) { j.end(e) }

func (j *exam) ioDone(e *Engine, o *op) {
	j.refs--
	if j.ended {
		j.give()
		return
	}
	j.pending--
	l := &e.legs[o.io.Side]
	switch {
	case o.io.Err == 0 && j.writing:
		lo, hi := e.regions(o.io.Off, o.io.Len)
		l.unflushed.SetRange(lo, hi)
	case o.io.Off >= e.layout.ChecksumOff && o.io.Err == 0:
		j.tables[l.side] = o.io.Buf
	case o.io.Err != 0 && j.writing:
		j.failed = true
		l.counters.WriteErrors++
		e.failed(l, "write error", o.io.Err)
	case o.io.Err != 0:
		l.counters.ReadErrors++
		if o.io.Off < e.layout.ChecksumOff {
			j.errs[l.side] = o.io.Err
		}
		if deviceGone(o.io.Err) {
			e.lost(l, "the device is gone: "+o.io.Err.Error())
		}
	}
	switch {
	case j.ended || j.pending > 0:
	case j.writing:
		j.judged(e)
	case j.void(e), e.sums.on && !e.hasSums(&j.hold): // they were turned on meanwhile
		j.end(e)
	default:
		j.judge(e)
	}
}

func (j *exam) ioLost(e *Engine, _ *op) { j.end(e) }

func (j *exam) use() { j.refs++ }
func (j *exam) unuse(*Engine) {
	j.refs--
	j.give()
}

func (j *exam) ioFreed(_ *Engine, _ *op) {
	j.refs--
	j.give()
}

// judge looks at what both legs have.
func (j *exam) judge(e *Engine) {
	n := j.lock.hi - j.lock.lo
	if j.errs != [2]syscall.Errno{} && n > examBlock {
		// Where it cannot be read, and what is well beside that, only smaller reads tell.
		e.examSplit(j)
		return
	}
	repair := j.findings(e)
	if !repair {
		j.judgeTables(e)
		j.judged(e)
		return
	}
	if !j.firm {
		j.found = nil
		e.dropSums(&j.hold)
		e.unlock(&j.lock)
		j.firm = true
		j.lock = rangeLock{lo: j.lock.lo, hi: j.lock.hi, write: true, owner: j}
		j.start(e)
		return
	}
	j.repair(e)
}

// findings compares block by block, and says whether something is to be repaired.
func (j *exam) findings(e *Engine) (repair bool) {
	for off := int64(0); off < j.lock.hi-j.lock.lo; off += examBlock {
		v, side := j.block(e, off)
		if v == blockGood {
			continue
		}
		f := scrub.Finding{Side: side, Offset: j.lock.lo + off, Bytes: examBlock, Time: e.env.Wall()}
		switch v {
		case blockWrong:
			f.What, f.Repaired = scrub.Wrong, true
		case blockDiffer:
			f.What, f.Repaired = scrub.Differ, j.from != scrub.NoSide
		case blockLost:
			f.What, f.Repaired = scrub.Lost, j.from != scrub.NoSide && j.errs[j.from] == 0
			if j.errs != [2]syscall.Errno{} {
				f.What = scrub.Unreadable
			}
		}
		repair = repair || f.Repaired
		if k := len(j.found) - 1; k >= 0 {
			if p := &j.found[k]; p.What == f.What && p.Side == f.Side && p.Offset+p.Bytes == f.Offset {
				p.Bytes += f.Bytes
				continue
			}
		}
		j.found = append(j.found, f)
	}
	return repair
}

// block judges the block at an offset within the range, and says which leg is wrong.
func (j *exam) block(e *Engine, off int64) (verdict, int) {
	if e.sums.on {
		return j.summed(e, off)
	}
	switch {
	case j.errs[0] != 0 && j.errs[1] != 0:
		return blockLost, scrub.NoSide
	case j.errs[0] != 0:
		return blockWrong, 0
	case j.errs[1] != 0:
		return blockWrong, 1
	case bytes.Equal(j.buf[0][off:off+examBlock], j.buf[1][off:off+examBlock]):
		return blockGood, scrub.NoSide
	}
	return blockDiffer, scrub.NoSide
}

// repair writes what is wrong on one leg from the other one.
func (j *exam) repair(e *Engine) {
	j.writing = true
	j.pending = 1
	for _, f := range j.found {
		if !f.Repaired {
			continue
		}
		dst := f.Side
		if f.Side == scrub.NoSide {
			dst = 1 - j.from
			j.resum(e, f)
		}
		off := f.Offset - j.lock.lo
		j.pending++
		j.refs++
		l := &e.legs[dst]
		l.counters.Writes++
		e.counters.Healed++
		e.begin(l, legio.Write, f.Offset, f.Bytes, j.buf[1-dst][off:off+f.Bytes], j)
	}
	j.pending--
}

// judged tells what was found.
func (j *exam) judged(e *Engine) {
	j.complete = true
	for _, f := range j.found {
		if j.failed {
			f.Repaired = false
		}
		e.found(f, j)
	}
	j.end(e)
}

func (j *exam) end(e *Engine) {
	if j.ended {
		return
	}
	j.ended = true
	e.dropSums(&j.hold)
	if j.lock.live {
		e.unlock(&j.lock)
	}
	if j.healing {
		e.resync.heals--
	}
	if j.then != nil {
		lost := slices.ContainsFunc(j.found, func(f scrub.Finding) bool { return !f.Repaired && f.Side == scrub.NoSide && f.What != scrub.Differ })
		j.then(lost)
	}
	e.rest(j.begun)
	if j.scrub {
		e.scrubbed(j)
	}
	j.give()
}

// give releases the memory when no leg uses it.
func (j *exam) give() {
	if j.refs > 0 {
		return
	}
	for i, release := range j.release {
		if release != nil {
			release()
			j.release[i] = nil
		}
		j.buf[i] = nil
	}
}

// examSplit goes on with the two halves of a range.
func (e *Engine) examSplit(j *exam) {
	half := (j.lock.hi - j.lock.lo) / 2 &^ (examBlock - 1)
	mid := j.lock.lo + half
	if !j.scrub {
		e.examHalves(j, mid)
		return
	}
	e.scrub.again = append(e.scrub.again, span{j.lock.lo, mid}, span{mid, j.lock.hi})
	j.complete = true
	j.end(e)
}

// examHalves does so for one that is not the scrub's.
func (e *Engine) examHalves(j *exam, mid int64) {
	then, left, lost := j.then, 2, false
	j.then = nil
	var halves [2]*exam
	for i, r := range [2]span{{j.lock.lo, mid}, {mid, j.lock.hi}} {
		k := e.newExam(r.lo, r.hi-r.lo, j.from)
		k.firm, k.lock.write, k.healing = true, true, j.healing
		if j.healing {
			e.resync.heals++
		}
		k.allocAnyhow(e)
		k.then = func(bad bool) {
			lost = lost || bad
			if left--; left == 0 && then != nil {
				then(lost)
			}
		}
		halves[i] = k
	}
	j.complete = true
	j.end(e)
	for _, k := range halves {
		k.start(e)
	}
}

// examUnread looks at a range that a leg could not read, and has it written anew there.
func (e *Engine) examUnread(off, n int64) {
	lo, hi := rounded(off, n)
	for lo < hi {
		to := min(hi, (lo/metadata.SumSpan+1)*metadata.SumSpan)
		j := e.newExam(lo, to-lo, scrub.NoSide)
		j.firm, j.lock.write, j.healing = true, true, true
		if !j.alloc(e) {
			return
		}
		e.resync.heals++
		j.start(e)
		lo = to
	}
}
