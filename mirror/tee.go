package mirror

import (
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// What is written to a leg that is being replaced is written to the other device as well
// (replace.go). The engine above sees one operation: it has ended when both have, and
// how is what the leg says.

// memoryUser is an owner of I/O whose memory is used again when it has been answered: it
// is told who else reads it.
type memoryUser interface {
	use()
	unuse(e *Engine)
}

// tee is one operation on a leg and on the spare.
type tee struct {
	owner opOwner
	user  memoryUser // nil when nobody uses the memory again
	main  *op        // on the leg; nil when it has ended
	copy  *op        // on the spare; nil when nothing waits for it
	ended op         // the leg's, as it ended before the spare's
	over  bool       // it is
}

// teed says whether an operation is one for the spare too. What is written to regions that
// are yet to be copied is copied with them.
func (e *Engine) teed(kind legio.Op, off, n int64) bool {
	r := &e.repl
	switch {
	case kind == legio.Read || !r.phase.both() || r.phase == replRecording && e.spare.state == legOut:
		return false
	case kind == legio.Flush:
		return true
	case off >= e.layout.SuperOff[0]:
		return r.phase == replStaging || r.phase == replCommitting || r.phase == replSwapping
	case off >= int64(e.id.DataBytes):
		return true
	}
	lo, hi := e.regions(off, n)
	return r.todo.CountRange(lo, hi) < hi-lo
}

// beginBoth submits to the leg and to the spare.
func (e *Engine) beginBoth(l *leg, kind legio.Op, off, n int64, buf []byte, owner opOwner) {
	t := &tee{owner: owner}
	second := buf
	switch {
	case kind == legio.Flush:
	case off >= e.layout.SuperOff[0]:
		second = e.stagedSuper(off, buf)
	case off >= e.layout.IntentOff:
		second = metadata.AlignedBlocks(len(buf) / metadata.BlockSize)
		copy(second, buf)
		metadata.Restamp(second, e.spare.uuid)
	case buf != nil:
		if t.user, _ = owner.(memoryUser); t.user != nil {
			t.user.use()
		}
	}
	t.main = e.beginOn(l, kind, off, n, buf, t)
	t.copy = e.beginOn(&e.spare, kind, off, n, second, t)
}

func (t *tee) ioDone(e *Engine, o *op) {
	switch {
	case o == t.main && t.copy == nil:
		t.main = nil
		t.owner.ioDone(e, o)
	case o == t.main:
		t.main, t.ended, t.over = nil, *o, true
	default:
		t.copy = nil
		t.free(e)
		if o.io.Err != 0 && e.spareFailed(t, "a "+o.io.Op.String()+" failed: "+o.io.Err.Error()) {
			return // answered when it is settled which of the two counts
		}
		t.answer(e)
	}
}

// answer tells the owner, when the leg has answered too. A leg that was cut off meanwhile
// has lost what was under way there.
func (t *tee) answer(e *Engine) {
	if !t.over {
		return
	}
	t.over = false
	if o := &t.ended; o.attachment == e.legs[o.io.Side].attachment {
		t.owner.ioDone(e, o)
	} else {
		e.spareMissed(o)
		t.owner.ioLost(e, o)
		t.owner.ioFreed(e, o)
	}
}

func (t *tee) ioLost(e *Engine, o *op) {
	if o == t.copy {
		if e.spareFailed(t, "") {
			return
		}
		t.copy = nil
		t.answer(e)
		return
	}
	e.spareMissed(o)
	t.owner.ioLost(e, o)
}

func (t *tee) ioFreed(e *Engine, o *op) {
	if o == t.main {
		t.main = nil
		t.owner.ioFreed(e, o)
		return
	}
	t.free(e)
}

func (t *tee) free(e *Engine) {
	if t.user != nil {
		t.user.unuse(e)
		t.user = nil
	}
}
