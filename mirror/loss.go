package mirror

import (
	"fmt"
	"syscall"
	"time"

	"ft/drivers"
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// zeroTimeouts is how many leg timeouts a discard or write-zeroes may take.
const zeroTimeouts = 6

// deviceGone says whether an error means that there is no device any more.
func deviceGone(errno syscall.Errno) bool {
	switch errno {
	case syscall.ENODEV, syscall.ENXIO, syscall.ENOMEDIUM, syscall.ESHUTDOWN:
		return true
	}
	return false
}

// failed judges an error of a leg that must not have any: the leg is cut off, unless
// it is the last one, whose error goes up. It says whether the leg was cut off.
func (e *Engine) failed(l *leg, what string, errno syscall.Errno) bool {
	switch {
	case l.state <= legShot:
	case deviceGone(errno):
		e.lost(l, fmt.Sprintf("the device is gone (%s: %v)", what, errno))
	case e.in() == 1<<l.side:
		return false
	default:
		e.cut(l, legShot, fmt.Sprintf("%s: %v", what, errno), what)
	}
	return true
}

// lost takes out a leg whose device does not exist any more, also the last one.
func (e *Engine) lost(l *leg, why string) {
	if l.state > legShot {
		e.cut(l, legAbsent, why, "vanished")
	}
}

// Gone says that the device of a leg has vanished.
func (e *Engine) Gone(s drivers.Side, why string) {
	l := &e.legs[s]
	if l.state > legShot {
		e.lost(l, why)
	} else if l.state != legAbsent {
		l.state, l.reason, l.fault, l.since = legAbsent, why, "", e.env.Now()
	}
	e.run()
}

// Present says that the device of a leg is there, though it does not serve.
func (e *Engine) Present(s drivers.Side) {
	if l := &e.legs[s]; l.state == legAbsent {
		l.state, l.since = legOut, e.env.Now()
	}
}

// Detach takes a leg out of service. No new I/O reaches it from now on; what was under
// way has ended when Drained says so. Call Sync first: what the leg has not flushed
// counts as missed.
func (e *Engine) Detach(s drivers.Side, why drivers.Reason) error {
	l := &e.legs[s]
	switch {
	case l.state == legShot:
		l.state, l.reason, l.fault, l.since = legOut, why.Text, "", e.env.Now()
	case l.state <= legOut:
		return nil
	case (e.alone(l) || e.suspect() && l.side == e.source) && why.AcceptRisk != drivers.RiskLastSide:
		o := e.other(l)
		return drivers.Refuse(drivers.RuleLastSide,
			"%s is the only good side of %s: taking it out stops the disk. Bring %s up first (it is %s), or say --accept-risk=%s",
			e.sideID(l.side), e.name, e.sideID(o.side), e.sideState(o), drivers.RiskLastSide)
	default:
		e.cut(l, legOut, why.Text, "")
	}
	e.run()
	return nil
}

// cut ends a leg's service. Its I/O under way becomes orphaned: whoever waits for it
// goes on without, its memory stays in use until the leg gives it back.
func (e *Engine) cut(l *leg, to legState, reason, fault string) {
	was := l.state
	l.state, l.reason, l.fault, l.since = to, reason, fault, e.env.Now()
	l.mapValid = false
	l.attachment++
	ops := l.ops
	l.ops = opList{}
	// Its cache may be gone with it: what it did not flush, it lacks.
	lacks := l.unflushed
	lacks.Or(l.flushing)
	if e.defect&NoUnflushedTracking != 0 {
		lacks.Reset()
	}
	e.newUnflushed(l)
	e.balance.Forget(l.side)
	e.sumsCut(l)
	for k := e.locks.head; k != nil; k = k.next {
		if q, ok := k.owner.(*request); ok {
			q.ok &^= 1 << l.side
			q.refused &^= 1 << l.side
		}
	}
	if e.source == l.side {
		e.source = 1 - l.side
	}
	if was == legIn && e.in() != 0 {
		e.recordLoss(l, lacks)
	} else {
		e.stale.Or(lacks)
	}
	if was != legIn || e.dest() == nil {
		e.resyncEnded(l)
	}
	if e.in() == 0 {
		e.downWhy = fmt.Sprintf("%s, the last good side, is out: %s", e.sideID(l.side), reason)
		e.noService()
	}
	e.opsLost(ops)
	e.replaceLegLost(l)
}

// opsLost lets whoever waits for I/O go on without it.
func (e *Engine) opsLost(ops opList) {
	for o := ops.head; o != nil; {
		next := o.next
		o.prev, o.next = nil, nil
		o.owner.ioLost(e, o)
		o = next
	}
}

// noService: with no leg in service a target is worth nothing either.
func (e *Engine) noService() {
	for i := range e.legs {
		if l := &e.legs[i]; l.state > legShot {
			e.cut(l, legOut, "there is no good side to resync it from", "")
		}
	}
	waiters := e.intentWaiters
	e.intentWaiters = nil
	for _, w := range waiters {
		e.ready = append(e.ready, w)
	}
}

// checkTimeouts cuts off a leg that is slower than the timeout while its partner
// answered, and sends late reads to the other leg as well.
func (e *Engine) checkTimeouts() {
	now, limit := e.env.Now(), int64(e.opt.LegTimeout)
	for i := range e.legs {
		l := &e.legs[i]
		if l.state <= legShot {
			continue
		}
		for o := l.ops.head; o != nil && now-o.io.Begun >= limit; {
			next := o.next
			if o.io.Op == legio.Zero && now-o.io.Begun < zeroTimeouts*limit {
				o = next
				continue
			}
			if e.late(l, o, now) {
				break
			}
			o = next
		}
	}
}

// late judges one late op, and says whether its leg was cut off.
func (e *Engine) late(l *leg, o *op, now int64) bool {
	p := e.other(l)
	if l.state == legIn {
		if p.state != legIn {
			return false // the last one is never cut off for slowness
		}
		if p.lastDone <= o.io.Begun {
			// The partner was not asked since, or does not answer either.
			if q, ok := o.owner.(*request); ok && o.io.Op == legio.Read {
				e.hedge(q, o)
			} else if p.ops.head == nil {
				e.begin(p, legio.Read, e.layout.SuperOff[0], metadata.BlockSize, metadata.AlignedBlock(), probe{})
			}
			return false
		}
		if h := p.ops.head; h != nil && now-h.io.Begun >= int64(e.opt.LegTimeout) {
			return false
		}
	}
	age := time.Duration(now - o.io.Begun).Round(100 * time.Millisecond)
	e.cut(l, legShot, fmt.Sprintf("a %s at %d did not end in %v, while the other side answered", o.io.Op, o.io.Off, age), "timeout")
	return true
}

// probe asks a leg for a sign of life.
type probe struct{}

func (probe) ioDone(e *Engine, o *op) {
	if l := &e.legs[o.io.Side]; o.io.Err != 0 && deviceGone(o.io.Err) {
		e.lost(l, "the device is gone: "+o.io.Err.Error())
	}
}
func (probe) ioLost(*Engine, *op)  {}
func (probe) ioFreed(*Engine, *op) {}
