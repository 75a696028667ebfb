package mirror

import (
	"syscall"

	"ft/drivers"
	"ft/mirror/legio"
)

// replaceCopy copies one range of a leg to the spare, under the range's lock, so that no
// newer write is overwritten. What the leg cannot read, or what its checksum refutes, is
// taken from the partner.
type replaceCopy struct {
	lock    rangeLock
	buf     []byte
	release func()
	from    *leg
	at      uint32 // of from
	spareAt uint32
	tried   uint8
	worst   []byte // what the first leg has, where no leg is confirmed
	writing bool
	ended   bool
	refs    int
	begun   int64
	hold    sumHold
}

func (e *Engine) pumpReplaceCopy(l *leg) {
	r := &e.repl
	now := e.env.Now()
	if r.todo.Count() == 0 {
		if r.jobs == 0 {
			e.replaceNext(replTable)
			e.pumpReplace()
		}
		return
	}
	for r.jobs < e.copiesAllowed(now) {
		lo := r.todo.NextSet(r.cursor)
		if lo < 0 {
			if r.jobs > 0 || r.cursor == 0 {
				return
			}
			r.cursor = 0
			continue
		}
		per := max(1, copyChunk/int(e.id.RegionSize))
		hi := lo + 1
		for hi < r.todo.Len() && hi-lo < per && r.todo.Get(hi) {
			hi++
		}
		rs := int64(e.id.RegionSize)
		j := &replaceCopy{from: l, at: l.attachment, spareAt: e.spare.attachment, begun: now}
		j.lock = rangeLock{lo: int64(lo) * rs, hi: min(int64(hi)*rs, int64(e.id.DataBytes)), write: true, owner: j}
		if j.buf, j.release = e.env.Alloc(int(j.lock.hi - j.lock.lo)); j.buf == nil {
			return
		}
		r.cursor = hi
		e.pace.tokens -= float64(len(j.buf))
		r.jobs++
		if e.locks.acquire(&j.lock) {
			j.lockGranted(e)
		}
	}
}

func (j *replaceCopy) void(e *Engine) bool {
	return e.repl.phase != replCopying || j.spareAt != e.spare.attachment || j.from.state != legIn || j.from.attachment != j.at
}

func (j *replaceCopy) lockGranted(e *Engine) {
	lo, hi := e.regions(j.lock.lo, j.lock.hi-j.lock.lo)
	if j.void(e) || e.in() == 3 && e.stale.AnyIn(lo, hi) { // it is made equal first
		j.end(e)
		return
	}
	if e.sums.on && !e.holdSums(&j.hold, j.lock.lo, j.lock.hi-j.lock.lo, j) {
		return
	}
	j.read(e)
}

func (j *replaceCopy) read(e *Engine) {
	j.tried |= 1 << j.from.side
	j.refs++
	j.from.counters.Reads++
	e.beginOn(j.from, legio.Read, j.lock.lo, j.lock.hi-j.lock.lo, j.buf, j)
}

func (j *replaceCopy) ioDone(e *Engine, o *op) {
	j.refs--
	switch {
	case j.ended:
		j.give()
	case j.writing && o.io.Err != 0:
		e.spareFailed(nil, "a write failed: "+o.io.Err.Error())
		j.end(e)
	case j.writing:
		lo, hi := e.regions(j.lock.lo, j.lock.hi-j.lock.lo)
		e.repl.todo.ClearRange(lo, hi)
		e.rest(j.begun)
		j.end(e)
	case j.void(e):
		j.end(e)
	case o.io.Err != 0:
		j.from.counters.ReadErrors++
		if deviceGone(o.io.Err) {
			e.lost(j.from, "the device is gone: "+o.io.Err.Error())
		}
		j.other(e, o.io.Err)
	default:
		j.check(e)
	}
}

// check holds what was read against the checksums.
func (j *replaceCopy) check(e *Engine) {
	if e.sums.on && e.hasSums(&j.hold) {
		if bad := e.checkSums(j.lock.lo, j.buf); bad.hi > 0 {
			if j.worst == nil {
				j.worst = append([]byte(nil), j.buf...)
			}
			j.other(e, 0)
			return
		}
	}
	j.write(e)
}

// other asks the partner. Where that knows no better the first leg's data are copied: what
// is wrong there is as wrong on the spare, and its checksum says so.
func (j *replaceCopy) other(e *Engine, errno syscall.Errno) {
	o := e.other(&e.legs[e.repl.side])
	if !j.ended && o.state == legIn && j.tried&(1<<o.side) == 0 && e.durable.service&(1<<o.side) != 0 && !j.void(e) {
		j.from, j.at = o, o.attachment
		j.read(e)
		return
	}
	switch {
	case j.ended:
	case j.worst != nil && !j.void(e):
		copy(j.buf, j.worst)
		j.write(e)
	case j.void(e):
		j.end(e)
	default:
		e.note(drivers.Side(e.repl.side), "%d bytes at %d can be read from no leg: %v", j.lock.hi-j.lock.lo, j.lock.lo, errno)
		e.spareFailed(nil, "what it is to get cannot be read from any leg ("+errno.Error()+")")
		j.end(e)
	}
}

func (j *replaceCopy) write(e *Engine) {
	j.writing = true
	j.refs++
	n := j.lock.hi - j.lock.lo
	if allZero(j.buf) {
		e.beginOn(&e.spare, legio.Zero, j.lock.lo, n, nil, j)
		return
	}
	e.beginOn(&e.spare, legio.Write, j.lock.lo, n, j.buf, j)
}

func (j *replaceCopy) ioLost(e *Engine, _ *op) { j.end(e) }

func (j *replaceCopy) ioFreed(*Engine, *op) {
	j.refs--
	j.give()
}

func (j *replaceCopy) give() {
	if j.ended && j.refs == 0 && j.release != nil {
		j.release()
		j.release = nil
	}
}

func (j *replaceCopy) end(e *Engine) {
	if j.ended {
		return
	}
	j.ended = true
	e.dropSums(&j.hold)
	e.repl.jobs--
	if j.lock.live {
		e.unlock(&j.lock)
	}
	j.give()
}
