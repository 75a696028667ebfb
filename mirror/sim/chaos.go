package sim

// What goes wrong: mishaps are drawn here, and carried out by verbs of scripts (script.go).

import (
	"syscall"

	"ft/drivers"
	"ft/mirror/legio"
)

// mishap is something that can go wrong. draw lets it, where it can.
type mishap struct {
	name   string
	weight float64
	draw   func(*world)
}

const mishapCount = 20

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
		{"detach", 4, (*world).takeOut},
		{"stop", 1, (*world).chaosStop},
		{"pause", 1, (*world).pause},
		{"flush", 3, (*world).chaosFlush},
		{"replace", 1, (*world).replace},
		{"scrub", 3, (*world).chaosScrub},
		{"priority", 1, (*world).chaosPriority},
		{"silent fault", 0, (*world).spoilVictim},
		{"ftd", 2, (*world).chaosFtd},
		{"bringup", 2, (*world).chaosBringUp},
	}
}

func (w *world) chaos() {
	if w.settling || w.p.mishaps == 0 {
		return
	}
	if w.cfg.Calm {
		if w.box.serving() {
			w.p.mishaps = 0
			w.takeOut()
			return
		}
		w.in(w.p.chaos, event{kind: evChaos})
		return
	}
	w.p.mishaps--
	w.in(1+int64(w.plan.ExpFloat64()*float64(w.p.chaos)), event{kind: evChaos})
	total := 0.0
	for _, x := range w.p.weights {
		total += x
	}
	x := w.plan.Float64() * total
	for i := range mishaps {
		if x -= w.p.weights[i]; x < 0 {
			mishaps[i].draw(w)
			return
		}
	}
}

// anyLeg is a leg that is there, or nil.
func (w *world) anyLeg() *simLeg {
	l := w.legs[w.plan.IntN(2)]
	if w.p.victim >= 0 {
		l = w.legs[w.p.victim]
	}
	if !l.present {
		return nil
	}
	return l
}

// ailment is the span of what ails a leg.
func (w *world) ailment(l *simLeg, d int64) {
	l.illAt = w.now
	l.until = max(l.until, w.now+d)
	w.in(d, event{kind: evHeal, side: l.side})
}

func (w *world) writeError() {
	w.drawFail(failure{op: legio.Write, area: dataArea, left: 1, errno: syscall.EIO})
}

func (w *world) legError() {
	f := failure{left: 1 + w.plan.IntN(3), errno: syscall.EIO}
	switch w.plan.IntN(6) {
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
	if w.drawn(0.1) {
		f.errno = syscall.ENXIO
	}
	w.drawFail(f)
}

func (w *world) drawFail(f failure) {
	if l := w.anyLeg(); l != nil {
		w.do("fail", map[string]int64{"leg": int64(l.side), "op": int64(f.op), "area": int64(f.area), "count": int64(f.left),
			"errno": int64(f.errno), "for": w.drawnIn(10*ms, 500*ms)})
	}
}

// doFail makes the next operations of a kind fail.
func (w *world) doFail(s step) {
	l := w.legs[s.leg()]
	f := failure{op: legio.Op(s.arg["op"]), area: area(min(s.arg["area"], int64(metaArea))), left: int(max(1, s.arg["count"])), errno: syscall.Errno(s.arg["errno"])}
	if f.errno == 0 {
		f.errno = syscall.EIO
	}
	w.tracef("CHAOS  leg %d: the next %d %s (%s) fail: %v", l.side, f.left, f.op, f.area, f.errno)
	l.fail = append(l.fail, f)
	w.ailment(l, s.arg["for"])
}

func (w *world) hang() {
	if l := w.anyLeg(); l != nil && !l.hung {
		w.do("hang", map[string]int64{"leg": int64(l.side), "for": w.drawnIn(10*ms, 4*w.p.timeout)})
	}
}

// doHang lets nothing of a leg end for a while.
func (w *world) doHang(s step) {
	l := w.legs[s.leg()]
	if !l.present || l.hung {
		return
	}
	l.hung = true
	w.ailment(l, s.arg["for"])
}

func (w *world) slowDown() {
	if l := w.anyLeg(); l != nil {
		w.do("slow", map[string]int64{"leg": int64(l.side), "by": w.drawnIn(w.p.timeout/4, 2*w.p.timeout), "for": w.drawnIn(10*ms, 4*w.p.timeout)})
	}
}

// doSlow makes all of a leg take longer, by up to `by`.
func (w *world) doSlow(s step) {
	l := w.legs[s.leg()]
	l.slow = max(1, s.arg["by"])
	w.ailment(l, s.arg["for"])
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
			w.in(w.spread(0, w.p.latency), event{kind: evOpEnd, side: l.side, op: o})
		}
	}
}

func (w *world) vanish() {
	l := w.anyLeg()
	if l == nil || !w.legs[1-l.side].present && !w.drawn(0.1) {
		return
	}
	arg := map[string]int64{"leg": int64(l.side), "gone": w.drawnIn(0, 50*ms), "back": w.drawnIn(1*ms, 300*ms)}
	if w.drawn(0.5) {
		arg["lost"] = 1
	}
	if w.drawn(0.2) {
		arg["back"] += w.drawnIn(0, 8*sec)
	}
	w.do("vanish", arg)
}

// doVanish takes a device away, with its cache or with the cache's contents lost. The engine
// hears of it after a time (gone), and it comes back after another (back).
func (w *world) doVanish(s step) {
	l := w.legs[s.leg()]
	if !l.present {
		return
	}
	if s.arg["lost"] != 0 {
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
	w.in(s.arg["gone"], event{kind: evGone, side: l.side})
	w.in(s.arg["gone"]+s.arg["back"], event{kind: evReturn, side: l.side})
}

func (w *world) gone(l *simLeg) {
	if l.present {
		return
	}
	w.ftd.vanished(w, l.side)
	if w.box.eng == nil {
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
	w.ftd.seen(w, l.side)
}

func (w *world) badSectors() {
	l := w.anyLeg()
	if l == nil || w.dataBytes == 0 || len(w.client.spots) == 0 {
		return
	}
	s := w.client.spots[w.plan.IntN(len(w.client.spots))]
	w.do("bad", map[string]int64{"leg": int64(l.side), "sector": (s.off + w.plan.Int64N(s.n)) / sectorSize, "count": 1 + w.plan.Int64N(32)})
}

// doBad makes sectors unreadable until they are written. Two legs that are both bad in one
// place have lost something; that is no fault of the engine's, so it is left out.
func (w *world) doBad(s step) {
	l, first := w.legs[s.leg()], s.arg["sector"]
	if len(w.legs[1-l.side].bad) > 0 || w.dataBytes == 0 {
		return
	}
	if l.bad == nil {
		l.bad = map[int64]struct{}{}
	}
	for i := max(0, first); i < min(first+s.arg["count"], w.dataBytes/sectorSize); i++ {
		l.bad[i] = struct{}{}
	}
	l.illAt = w.now
}

func (w *world) witnessError() {
	w.do("witness-error", map[string]int64{"for": w.drawnIn(1*ms, 1*sec)})
}

func (w *world) witnessSlow() {
	w.do("witness-slow", map[string]int64{"for": w.drawnIn(1*ms, 1*sec)})
}

// doWitnessError: the witness cannot be written for a while.
func (w *world) doWitnessError(s step) {
	w.wit.fails = w.now + s.arg["for"]
	w.wit.illAt = w.wit.fails
}

func (w *world) doWitnessSlow(s step) { w.wit.slow = w.now + s.arg["for"] }

func (w *world) chaosPower() { w.crashSoon(PowerCut) }

// chaosKill kills the driver, and perhaps its successors as well, as soon as they serve.
func (w *world) chaosKill() {
	if w.drawn(0.3) {
		w.box.takeovers = 1 + w.plan.IntN(4)
	}
	w.crashSoon(KillDriver)
}

// crashSoon crashes at one of the next operations.
func (w *world) crashSoon(kind CrashKind) {
	b := &w.box
	if b.eng == nil || b.crashAt > 0 {
		return
	}
	b.crashAt, b.kind, b.aim = w.steps+1+w.plan.Int64N(40), kind, -1
}

// pause lets nothing be asked for a while, so that what is done lazily is done.
func (w *world) pause() {
	w.client.paused = max(w.client.paused, w.now+w.drawnIn(100*ms, 13*sec))
}

func (w *world) chaosFlush() {
	if w.dataBytes > 0 {
		w.do("flush", nil)
	}
}
