package sim

// What goes wrong, and what an admin and the daemon do about it.

import (
	"syscall"

	"ft/drivers"
	"ft/mirror/legio"
)

// mishap is something that can go wrong. It returns whether it did.
type mishap struct {
	name   string
	weight float64
	do     func(*world) bool
}

const mishapCount = 18

var mishaps [mishapCount]mishap

func init() {
	mishaps = [mishapCount]mishap{
		{"leg error", 5, (*world).legError},
		{"write error", 1, (*world).writeError},
		{"hang", 3, (*world).hang},
		{"slow", 2, (*world).slowDown},
		{"vanish", 5, (*world).vanish},
		{"bad sectors", 2, (*world).badSectors},
		{"witness error", 2, (*world).witnessError},
		{"witness slow", 1, (*world).witnessSlow},
		{"power cut", 4, (*world).chaosPower},
		{"kill", 4, (*world).chaosKill},
		{"detach", 4, (*world).detach},
		{"stop", 1, (*world).chaosStop},
		{"pause", 1, (*world).pause},
		{"flush", 3, (*world).chaosFlush},
		{"replace", 1, (*world).replace},
		{"scrub", 3, (*world).chaosScrub},
		{"priority", 1, (*world).chaosPriority},
		{"silent fault", 0, (*world).spoilVictim},
	}
}

func (w *world) chaos() {
	if w.settling || w.p.mishaps == 0 {
		return
	}
	if w.cfg.Calm {
		if w.box.serving() {
			w.p.mishaps = 0
			w.detach()
			return
		}
		w.in(w.p.chaos, event{kind: evChaos})
		return
	}
	w.p.mishaps--
	w.in(1+int64(w.rng.ExpFloat64()*float64(w.p.chaos)), event{kind: evChaos})
	total := 0.0
	for _, x := range w.p.weights {
		total += x
	}
	x := w.rng.Float64() * total
	for i := range mishaps {
		if x -= w.p.weights[i]; x < 0 {
			mishaps[i].do(w)
			return
		}
	}
}

// anyLeg is a leg that is there.
func (w *world) anyLeg() *simLeg {
	l := w.legs[w.rng.IntN(2)]
	if w.p.victim >= 0 {
		l = w.legs[w.p.victim]
	}
	if !l.present {
		return nil
	}
	return l
}

// span of what ails a leg.
func (w *world) ailment(l *simLeg, d int64) {
	l.illAt = w.now
	l.until = max(l.until, w.now+d)
	w.in(d, event{kind: evHeal, side: l.side})
}

func (w *world) writeError() bool {
	return w.fails(failure{op: legio.Write, area: dataArea, left: 1, errno: syscall.EIO})
}

func (w *world) legError() bool {
	f := failure{left: 1 + w.rng.IntN(3), errno: syscall.EIO}
	switch w.rng.IntN(6) {
	case 0, 1:
		f.op, f.area = legio.Write, dataArea
	case 2:
		f.op, f.area = legio.Write, metaArea
	case 3:
		f.op = legio.Flush
	case 4:
		f.op, f.area = legio.Read, dataArea
	case 5:
		f.op = legio.Zero
	}
	if w.chance(0.1) {
		f.errno = syscall.ENXIO
	}
	return w.fails(f)
}

func (w *world) fails(f failure) bool {
	l := w.anyLeg()
	if l == nil {
		return false
	}
	w.tracef("CHAOS  leg %d: the next %d %s (%s) fail: %v", l.side, f.left, f.op, f.area, f.errno)
	l.fail = append(l.fail, f)
	w.ailment(l, w.between(10*ms, 500*ms))
	return true
}

func (w *world) hang() bool {
	l := w.anyLeg()
	if l == nil || l.hung {
		return false
	}
	w.tracef("CHAOS  leg %d hangs", l.side)
	l.hung = true
	w.ailment(l, w.between(10*ms, 4*int64(w.p.legTimeout)))
	return true
}

func (w *world) slowDown() bool {
	l := w.anyLeg()
	if l == nil {
		return false
	}
	w.tracef("CHAOS  leg %d is slow", l.side)
	l.slow = w.between(int64(w.p.legTimeout)/4, 2*int64(w.p.legTimeout))
	w.ailment(l, w.between(10*ms, 4*int64(w.p.legTimeout)))
	return true
}

// heal ends what ails a leg.
func (w *world) heal(l *simLeg, at int64) {
	if l.until > at {
		return
	}
	if l.hung || l.slow > 0 || len(l.fail) > 0 {
		l.illAt = w.now
		w.tracef("heal   leg %d", l.side)
	}
	l.slow, l.fail = 0, nil
	w.unhang(l)
}

func (w *world) unhang(l *simLeg) {
	l.hung = false
	for _, o := range l.ops {
		if o.held {
			o.held = false
			w.in(w.between(0, w.p.latency), event{kind: evOpEnd, side: l.side, op: o})
		}
	}
}

// vanish takes a device away, with its cache or with the cache's contents lost.
func (w *world) vanish() bool {
	l := w.anyLeg()
	if l == nil {
		return false
	}
	if !w.legs[1-l.side].present && !w.chance(0.1) {
		return false
	}
	lost := w.chance(0.5)
	w.tracef("CHAOS  leg %d vanishes (cache lost: %v)", l.side, lost)
	if lost {
		l.disk.powerCut(l.inFlight(), w.rng, w.frail(l))
		l.lost = true
		if o := w.legs[1-l.side]; w.box.inSince[o.side] < 0 || !o.present {
			w.cacheLost() // it was the last good one
		}
	}
	for _, o := range l.ops {
		o.vanish = true
	}
	l.present = false
	l.illAt = w.now
	w.unhang(l)
	gone := w.between(0, 50*ms)
	w.in(gone, event{kind: evGone, side: l.side})
	back := gone + w.between(1*ms, 300*ms)
	if w.chance(0.2) {
		back += w.between(0, 8*sec)
	}
	w.in(back, event{kind: evReturn, side: l.side})
	return true
}

func (w *world) gone(l *simLeg) {
	if w.box.eng == nil || l.present {
		return
	}
	w.tracef("gone   leg %d", l.side)
	w.box.eng.Gone(drivers.Side(l.side), "the device has vanished")
	w.box.served[l.side] = false
}

func (w *world) comeBack(l *simLeg) {
	if l.present {
		return
	}
	if !w.settling && w.box.eng != nil && w.box.inSince[l.side] >= 0 {
		w.gone(l) // the event was late, but it comes before the return
	}
	w.tracef("return leg %d", l.side)
	l.present = true
	l.illAt = w.now
}

func (w *world) badSectors() bool {
	l := w.anyLeg()
	if l == nil || w.dataBytes == 0 || len(w.client.spots) == 0 {
		return false
	}
	s := w.client.spots[w.rng.IntN(len(w.client.spots))]
	first := (s.off + w.rng.Int64N(s.n)) / sectorSize
	n := 1 + w.rng.Int64N(32)
	// Two legs that are both bad in one place have lost something; that is no fault of
	// the engine's, so it is left out.
	if len(w.legs[1-l.side].bad) > 0 {
		return false
	}
	w.tracef("CHAOS  leg %d cannot read sectors %d to %d", l.side, first, first+n-1)
	if l.bad == nil {
		l.bad = map[int64]struct{}{}
	}
	for i := first; i < min(first+n, w.dataBytes/sectorSize); i++ {
		l.bad[i] = struct{}{}
	}
	l.illAt = w.now
	return true
}

func (w *world) witnessError() bool {
	w.wit.fails = w.now + w.between(1*ms, 1*sec)
	w.wit.illAt = w.wit.fails
	w.tracef("CHAOS  the witness cannot be written")
	return true
}

func (w *world) witnessSlow() bool {
	w.wit.slow = w.now + w.between(1*ms, 1*sec)
	w.tracef("CHAOS  the witness is slow")
	return true
}

func (w *world) chaosPower() bool { return w.crashSoon(PowerCut) }

// chaosKill kills the driver, and perhaps its successors as well, as soon as they serve.
func (w *world) chaosKill() bool {
	if w.chance(0.3) {
		w.box.takeovers = 1 + w.rng.IntN(4)
	}
	return w.crashSoon(KillDriver)
}

// crashSoon crashes at one of the next operations.
func (w *world) crashSoon(kind CrashKind) bool {
	b := &w.box
	if b.eng == nil || b.crashAt > 0 {
		return false
	}
	b.crashAt, b.kind, b.aim = w.steps+1+w.rng.Int64N(40), kind, -1
	return true
}

// pause lets nothing be asked for a while, so that what is done lazily is done.
func (w *world) pause() bool {
	w.client.paused = max(w.client.paused, w.now+w.between(100*ms, 13*sec))
	return true
}

func (w *world) chaosFlush() bool {
	if w.dataBytes == 0 {
		return false
	}
	w.client.send(w, &call{op: opFlush})
	return true
}
