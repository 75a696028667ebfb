package sim

// What the daemon and the admin do: bring in what is out, take out what is in, choose
// between legs, stop.

import (
	"errors"
	"syscall"

	"ft/drivers"
	"ft/mirror"
)

// tickEvery is about as often as the engine may count on.
func (w *world) tickEvery() int64 { return w.spread(50*ms, 100*ms) }

// tick lets time pass for the engine, and does what the daemon does: it brings in what
// is out and may come back. In some seeds that is the control core's (daemon.go).
func (w *world) tick() {
	w.box.eng.Tick()
	if w.err != nil {
		return
	}
	w.in(w.tickEvery(), event{kind: evTick, life: w.box.life})
	w.client.watch(w)
	if w.p.control {
		w.ftd.help(w)
		return
	}
	if !w.box.serving() {
		return
	}
	for s := range w.legs {
		if w.settling || w.drawn(0.4) {
			w.bringUp(s)
		}
	}
}

// bringUp is the daemon's wish to have a leg in.
func (w *world) bringUp(s int) {
	b := &w.box
	if w.err != nil || !w.mayCome(s) || b.adminOut[s] && !w.settling && !w.drawn(w.p.back) {
		return
	}
	if w.settling {
		w.doAttach(step{arg: map[string]int64{"leg": int64(s)}})
		return
	}
	w.do("attach", map[string]int64{"leg": int64(s)})
}

func (w *world) mayCome(s int) bool {
	b, l := &w.box, w.legs[s]
	return b.serving() && l.present && !l.hung && b.zombies[s] == 0 && !b.served[s]
}

// doAttach brings a leg in.
func (w *world) doAttach(x step) {
	b, s := &w.box, x.leg()
	if w.p.control || !w.mayCome(s) {
		return
	}
	b.adminOut[s] = false
	risk := ""
	if b.overwrite[s] {
		risk, b.overwrite[s] = drivers.RiskOverwrite, false
	}
	_ = w.bringIn(s, risk)
}

// bringIn attaches a leg. While none serves it is first judged anew which may.
func (w *world) bringIn(s int, risk string) error {
	b := &w.box
	if b.inSince[0] < 0 && b.inSince[1] < 0 {
		if err := w.startAgain(s); err != nil || b.served[s] {
			return err
		}
		if w.err != nil || w.abandoned {
			return nil
		}
	}
	return w.attach(s, risk)
}

// outs are the legs that an admin has taken out, as far as the driver knows.
func (w *world) outs() [2]bool {
	if w.p.control {
		return w.ftd.out
	}
	return w.box.adminOut
}

var errNotMade = errors.New("a new mirror is made when both of its legs are there")

// startAgain lets the engine judge anew which leg may serve, when none does.
func (w *world) startAgain(s int) error {
	b := &w.box
	legs := w.look(s)
	if w.unmade(legs) {
		return errNotMade
	}
	if w.p.victim >= 0 && w.spoiledCrash(legs) {
		w.abandoned = true
		w.stats.Abandoned++
		return nil
	}
	w.tracef("start  again with leg 0 %s, leg 1 %s, %s", describe(legs[0]), describe(legs[1]), w.wit.describe())
	for s := range legs {
		b.served[s] = legs[s] != nil
		if legs[s] != nil && legs[s].Image != nil && b.bound.known() {
			b.bound.found(legs[s].Image)
		}
	}
	err := b.eng.Start(legs, w.wit.now, w.outs())
	if w.err != nil {
		return nil
	}
	b.unserve()
	if err != nil {
		w.tracef("refused %v", err)
		b.refusals++
		if w.mayResolve(legs, w.expectRefusal("start", err)) {
			return nil
		}
		return err
	}
	if !b.started {
		w.starting(legs)
		return nil
	}
	w.checkAlone()
	return nil
}

// attach brings a leg in beside the one that serves.
func (w *world) attach(s int, risk string) error {
	b, l := &w.box, w.legs[s]
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
		return nil
	}
	if err == nil {
		w.stats.Attaches++
		b.overwrite[s] = false
		return nil
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
	return err
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

// takeOut is an admin's wish to have a leg out.
func (w *world) takeOut() {
	b := &w.box
	if !b.serving() {
		return
	}
	s := w.plan.Int64N(2)
	if w.p.victim >= 0 && !w.drawn(0.3) {
		s = w.p.victim // else it is the only one for a while, and the source afterwards
	}
	arg := map[string]int64{"leg": s}
	flag := func(name string, p float64) {
		if w.drawn(p) {
			arg[name] = 1
		}
	}
	flag("risk", 0.1)
	if w.p.control {
		w.do("bringdown", arg)
		return
	}
	flag("sync", 0.5)
	flag("stay", 0.5)
	w.do("detach", arg)
}

// doDetach takes a leg out, or tries to. The driver flushes first, as far as that goes.
func (w *world) doDetach(x step) {
	b := &w.box
	if !b.serving() || w.p.control {
		return
	}
	e := event{kind: evDo, life: b.life, do: func() { w.detachNow(x) }}
	if x.arg["sync"] != 0 {
		b.eng.Sync(func(syscall.Errno) { w.in(1, e) })
	} else {
		w.in(0, e)
	}
}

func (w *world) detachNow(x step) {
	b, s := &w.box, x.leg()
	if !b.serving() {
		return
	}
	why := drivers.Reason{Text: "taken out by an admin"}
	if x.arg["risk"] != 0 {
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
	b.adminOut[s] = x.arg["stay"] != 0 && !b.adminOut[1-s]
}

func (w *world) chaosStop() {
	if !w.box.serving() || w.client.active > 0 {
		// Ask for quiet; the next one may find it.
		w.client.paused = max(w.client.paused, w.now+w.drawnIn(10*ms, 300*ms))
		return
	}
	w.do("stop", nil)
}

func (w *world) doStop(step) {
	if w.box.serving() && w.client.active == 0 {
		w.stop()
	}
}

func (w *world) replace() {
	for s := range w.legs {
		if w.mayReplace(s) {
			w.do("replace", map[string]int64{"leg": int64(s)})
			return
		}
	}
}

// mayReplace says whether a leg is out of service while the other one serves, and is known
// as the survivor; else only a person can tell that it is not needed.
func (w *world) mayReplace(s int) bool {
	b, l := &w.box, w.legs[s]
	return w.wit.now != nil && int(w.wit.now.Survivor) == 1-s && b.serving() && !b.served[s] && b.inSince[1-s] >= 0 &&
		w.legs[1-s].present && l.present && !l.hung && len(l.ops) == 0
}

// doReplace puts a new, blank device in the place of a leg.
func (w *world) doReplace(x step) {
	l := w.legs[x.leg()]
	if !w.mayReplace(l.side) {
		return
	}
	l.disk.clear()
	l.bad, l.older, l.rotten, l.lost = nil, [2][]byte{}, false, false
	w.stats.Replaced++
	w.ftd.replaced(w, l.side)
}

// mayResolve lets the admin choose a leg that is refused, now and then. What is on it
// is the truth from then on.
func (w *world) mayResolve(legs [2]*mirror.Leg, code string) bool {
	b := &w.box
	switch {
	case w.dataBytes == 0 || legs[0] == nil && legs[1] == nil:
		return false
	case code == drivers.RuleSplitBrain && b.refusals >= 2, w.settling && b.refusals >= 20:
	case code == drivers.RuleStale && b.refusals >= 2 && w.chance(w.p.resolve):
	default:
		return false
	}
	keep := w.rng.IntN(2)
	if legs[keep] == nil {
		keep = 1 - keep
	}
	if legs[keep] == nil || legs[keep].Image == nil {
		return false
	}
	w.tracef("resolve --keep leg %d", keep)
	b.overruled = true
	for s := range b.bound.allowed {
		b.bound.all(s)
	}
	for s := range legs {
		b.served[s] = legs[s] != nil
	}
	err := b.eng.Resolve(drivers.Side(keep), legs, w.wit.now)
	if w.err != nil {
		return true
	}
	if err != nil {
		w.tracef("resolve refused: %v", err)
		b.unserve()
		return false
	}
	w.stats.Resolves++
	b.resolving = keep
	b.adminOut[keep] = false // as the driver has it: who is told to be kept serves
	w.history.end()
	if err := w.model.became(func(i int64) (value, error) { return w.sectorOf(w.legs[keep], i) }); err != nil {
		w.fail("resolve: %v", err)
		return true
	}
	w.beginAnew()
	w.starting(legs)
	return true
}

// forgetResolve: the driver or the power went before the admin's word was on stable
// storage. Either leg may be the one that is served next.
func (w *world) forgetResolve() {
	b := &w.box
	if b.resolving < 0 {
		return
	}
	b.resolving = -1
	w.tracef("the admin's choice may be lost")
	w.history.end()
	w.model.either(func(i int64) (vals []value) {
		for _, l := range w.legs {
			if v, err := w.sectorOf(l, i); err == nil {
				vals = append(vals, v)
			}
		}
		return vals
	})
	w.beginAnew()
}
