package sim

// What goes wrong, and what an admin and the daemon do about it.

import (
	"errors"
	"syscall"
	"time"

	"ft/drivers"
	"ft/mirror/legio"
)

// profile is what a seed is like. Seeds differ widely: a rare mixture that breaks the
// engine is rare only on average.
type profile struct {
	requests int
	depth    int   // requests under way at once
	think    int64 // mean time between requests
	latency  int64 // of an operation of a leg, about
	transit  int64 // of an answer
	chaos    int64 // mean time between mishaps
	mishaps  int   // yet to come

	reads, writes, flushes, zeroes float64

	legTimeout       time.Duration
	noLeg            string
	rateMin, rateMax int64

	back           float64 // chance, each tick, that the admin takes back what he took out
	fine           bool    // small extents
	spots          int     // places that are written again and again
	missing        float64 // chance that a leg is missing after a power cut
	crashAfterLoss float64
	crashAfterMap  float64 // chance that the power is cut soon after the write-intent map was written in simplex
	resolve        float64
	starved        float64 // chance that there is no memory
	rot            float64 // chance that a copy of a superblock rots while the driver is down
	mute           float64 // chance that an answer does not go out, and the driver dies of it
	reopen         float64 // chance that a refused engine is started again
	weights        [mishapCount]float64
}

func (w *world) drawProfile() {
	r := w.rng
	pick := func(v ...int64) int64 { return v[r.IntN(len(v))] }
	w.p = profile{
		requests: 20 + r.IntN(100),
		depth:    int(pick(1, 2, 4, 8, 16)),
		think:    pick(100_000, 1*ms, 5*ms, 20*ms, 100*ms),
		latency:  pick(50_000, 500_000, 2*ms, 8*ms),
		transit:  pick(20_000, 1*ms, 20*ms),
		mishaps:  1 + r.IntN(25),
		reads:    r.Float64(), writes: 0.5 + r.Float64(), flushes: 0.5 * r.Float64() * r.Float64(), zeroes: 0.2 * r.Float64(),
		legTimeout:     time.Duration(pick(200*ms, 500*ms)),
		noLeg:          []string{"error", "wait"}[r.IntN(2)],
		rateMin:        pick(0, 1<<20, 100<<20),
		rateMax:        pick(0, 0, 0, 20<<20, 200<<10),
		back:           0.1,
		spots:          1 + r.IntN(4),
		missing:        pickf(w, 0, 0.3, 0.7),
		crashAfterLoss: pickf(w, 0, 0.3, 0.8),
		resolve:        pickf(w, 0, 0, 0, 0.2),
		starved:        pickf(w, 0, 0, 0.1),
		rot:            pickf(w, 0, 0, 0.1),
		mute:           pickf(w, 0, 0, 0.02),
		reopen:         pickf(w, 0, 0.5),
	}
	for i := range w.p.weights {
		// A third of the mishaps do not happen in this seed, the others more or less often.
		if r.IntN(3) > 0 {
			w.p.weights[i] = mishaps[i].weight * (0.2 + 2*r.Float64()*r.Float64())
		}
	}
	theme := w.cfg.Theme
	if theme == Any {
		if theme = Mixed; w.chance(0.4) {
			theme = Mixed + Theme(r.IntN(int(themes-Mixed)))
		}
	}
	w.themed(theme)
	if w.cfg.Calm {
		w.p.requests = 12
	}
	// Most mishaps happen while there are requests.
	w.p.chaos = max(2*ms, int64(float64(w.p.requests)*float64(w.p.think)*(0.3+2*r.Float64())/float64(w.p.mishaps)))
}

// themed makes a seed one of a theme.
func (w *world) themed(t Theme) {
	p, r := &w.p, w.rng
	pick := func(v ...int64) int64 { return v[r.IntN(len(v))] }
	often := func(name string) {
		for i := range mishaps {
			if mishaps[i].name == name {
				p.weights[i] += 20
			}
		}
	}
	switch t {
	case LossAndKill:
		p.crashAfterLoss, p.transit, p.latency, p.think = 1, 20_000, 8*ms, pick(1*ms, 5*ms)
		often("write error")
	case SlowResync:
		// What is saved on the way matters: every few seconds, and only of what was not
		// written lately. So the leg is away for long, writes are few and far between, and
		// not much goes wrong.
		p.requests, p.think, p.mishaps = 60+r.IntN(40), 400*ms, 3+r.IntN(6)
		p.rateMax, p.latency, p.fine = pick(8<<10, 16<<10, 32<<10), pick(500_000, 2*ms), true
		p.reads, p.writes, p.flushes = 0.2, 1, 0.7
		p.back, p.spots, p.crashAfterMap = 0.01, 12, 0.2
		often("detach")
		often("power cut")
	case LostAnswers:
		p.mute, p.depth, p.transit, p.think = 0.1, 16, 20*ms, pick(100_000, 1*ms)
	case Rot:
		p.rot = 0.5
		often("write error")
		often("kill")
		often("power cut")
	}
}

func pickf(w *world, v ...float64) float64 { return v[w.rng.IntN(len(v))] }

// mishap is something that can go wrong. It returns whether it did.
type mishap struct {
	name   string
	weight float64
	do     func(*world) bool
}

const mishapCount = 15

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
func (w *world) chaosKill() bool  { return w.crashSoon(KillDriver) }

// crashSoon crashes at one of the next operations.
func (w *world) crashSoon(kind CrashKind) bool {
	b := &w.box
	if b.eng == nil || b.crashAt > 0 {
		return false
	}
	b.crashAt, b.kind, b.aim = w.steps+1+w.rng.Int64N(40), kind, -1
	return true
}

// detach is an admin's. The driver flushes first, as far as that goes.
func (w *world) detach() bool {
	b := &w.box
	if !b.serving() {
		return false
	}
	s := w.rng.IntN(2)
	e := event{kind: evDetach, life: b.life, side: s}
	if w.chance(0.5) {
		b.eng.Sync(func(syscall.Errno) { w.in(1, e) })
	} else {
		w.in(0, e)
	}
	return true
}

func (w *world) detachNow(s int) {
	b := &w.box
	if !b.serving() {
		return
	}
	why := drivers.Reason{Text: "taken out by an admin"}
	if w.chance(0.1) {
		why.AcceptRisk = drivers.RiskLastSide
	}
	err := b.eng.Detach(drivers.Side(s), why)
	if w.err != nil {
		return
	}
	w.tracef("detach leg %d: %v", s, err)
	if err != nil {
		w.expectRefusal("detach", err)
		return
	}
	b.served[s] = false
	b.adminOut[s] = w.chance(0.5) && !b.adminOut[1-s]
}

func (w *world) expectRefusal(what string, err error) string {
	var r *drivers.Refused
	if !errors.As(err, &r) {
		w.fail("%s: an error that is no refusal: %v", what, err)
		return ""
	}
	if r.Sentence == "" || r.Code == "" {
		w.fail("%s: a refusal without words: %+v", what, r)
	}
	return r.Code
}

func (w *world) chaosStop() bool {
	if !w.box.serving() || w.client.active > 0 {
		// Ask for quiet; the next one may find it.
		w.client.paused = max(w.client.paused, w.now+w.between(10*ms, 300*ms))
		return false
	}
	w.stop()
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

// replace puts a new, blank device in the place of one that is out of service, while
// the other one serves.
func (w *world) replace() bool {
	b := &w.box
	for s, l := range w.legs {
		known := w.wit.now != nil && int(w.wit.now.Survivor) == 1-s // else only a person can tell that it is not needed
		if known && b.serving() && !b.served[s] && b.inSince[1-s] >= 0 && w.legs[1-s].present && l.present && !l.hung && len(l.ops) == 0 {
			w.tracef("CHAOS  leg %d is a new one", s)
			l.disk.clear()
			l.bad, l.older, l.rotten, l.lost = nil, [2][]byte{}, false, false
			w.stats.Replaced++
			return true
		}
	}
	return false
}

// tickEvery is about as often as the engine may count on.
func (w *world) tickEvery() int64 { return w.between(50*ms, 100*ms) }

// tick lets time pass for the engine, and does what the daemon does: it brings in what
// is out and may come back.
func (w *world) tick() {
	w.box.eng.Tick()
	if w.err != nil {
		return
	}
	w.in(w.tickEvery(), event{kind: evTick, life: w.box.life})
	w.client.watch(w)
	if !w.box.serving() {
		return
	}
	for s := range w.legs {
		if w.settling || w.chance(0.4) {
			w.bringUp(s)
		}
	}
}

func (w *world) bringUp(s int) {
	b, l := &w.box, w.legs[s]
	if w.err != nil {
		return
	}
	if b.adminOut[s] {
		if !w.settling && !w.chance(w.p.back) {
			return
		}
		b.adminOut[s] = false
	}
	if !l.present || l.hung || b.zombies[s] > 0 || b.served[s] {
		return
	}
	if b.inSince[0] < 0 && b.inSince[1] < 0 {
		if !w.startAgain(s) || b.served[s] {
			return
		}
	}
	w.attach(s)
}

// startAgain lets the engine judge anew which leg may serve, when none does.
func (w *world) startAgain(s int) bool {
	b := &w.box
	legs := w.look(s)
	if w.unmade(legs) {
		return false
	}
	w.tracef("start  again with leg 0 %s, leg 1 %s, %s", describe(legs[0]), describe(legs[1]), w.wit.describe())
	for s := range legs {
		b.served[s] = legs[s] != nil
		if legs[s] != nil && legs[s].Image != nil {
			b.bound.found(legs[s].Image)
		}
	}
	err := b.eng.Start(legs, w.wit.now, b.adminOut)
	if w.err != nil {
		return false
	}
	b.unserve()
	if err != nil {
		w.tracef("refused %v", err)
		b.refusals++
		w.mayResolve(legs, w.expectRefusal("start", err))
		return false
	}
	w.checkAlone()
	return w.err == nil
}

// attach brings a leg in beside the one that serves.
func (w *world) attach(s int) {
	b, l := &w.box, w.legs[s]
	risk := ""
	if b.overwrite[s] {
		risk, b.overwrite[s] = drivers.RiskOverwrite, false
	}
	leg := w.inspect(l)
	w.tracef("attach leg %d %s", s, describe(leg))
	b.served[s] = true
	switch {
	case !b.bound.known():
	case leg.Image == nil || risk != "":
		b.bound.all(s)
	case leg.Image.Super.Syncing && b.eng.Snapshot().Generation.Counter > leg.Image.Super.Generation.Counter+1:
		// It was lost just when it was being recorded as in service, and does not know; its
		// partner counts from there.
		b.bound.all(s)
	case leg.Image.Super.Alone():
		// It was cut off before it had heard that the other one had joined it. What it may
		// have written alone nobody counted.
		b.bound.all(s)
	case b.inSince[0] < 0 && b.inSince[1] < 0, w.wit.now != nil && w.wit.now.Generation == leg.Image.Super.Generation:
		b.bound.found(leg.Image)
	}
	err := b.eng.Attach(drivers.Side(s), leg, risk)
	if w.err != nil {
		return
	}
	if err == nil {
		w.stats.Attaches++
		return
	}
	b.served[s] = false
	w.tracef("attach leg %d: %v", s, err)
	switch code := w.expectRefusal("attach", err); code {
	case drivers.RuleBusy, drivers.RuleState:
		if len(l.ops) == 0 && code == drivers.RuleBusy {
			w.fail("leg %d is refused as busy, and nothing is under way there: %v", s, err)
		}
	case drivers.RuleSplitBrain:
		// The leg may have begun to go on alone, which nobody learned, before the other one
		// did. Then nothing was acknowledged there, and the admin may well overwrite it.
		if img := leg.Image; !b.overruled && w.wit.seen[img.Super.Generation] && img.Super.Alone() {
			w.fail("leg %d was known as the survivor, and may not come back: %v", s, err)
		}
		b.overwrite[s] = true
	default:
		if !b.overruled {
			w.fail("leg %d may not come back: %v", s, err)
		}
		b.overwrite[s] = true
	}
}
