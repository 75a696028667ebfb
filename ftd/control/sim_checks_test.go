package control

import (
	"slices"
	"strings"
	"time"

	"ft/drivers"
)

// This file holds what the ruleBook checks: every entry, answer and action against what
// it believes, and the box at the end of a run.

// after checks what the core made of an event.
func (r *ruleBook) after(ev Event, res Result) {
	ev = r.plain(ev)
	if _, ok := ev.(DeviceConfigured); ok { // it has a state before it has an entry
		for _, v := range r.b.core.pull() {
			r.sides[v.id].logged = v.state.String()
		}
	}
	faults := r.believe(ev)
	r.checkWaits(ev, res)
	r.checkLog(ev, res)
	r.checkFaults(faults, res)
	for _, a := range res.Answers {
		r.checkAnswer(ev, a)
		r.undone(a)
		r.checkModule(a)
	}
	for _, a := range res.Actions {
		r.checkAction(ev, a, res)
	}
}

// checkLog: entries are numbered without a gap, each begins where the one before for
// the same component ended, and nothing comes in but by diagnostics and syncing.
func (r *ruleBook) checkLog(ev Event, res Result) {
	_, connected := ev.(DriverConnected)
	_, status := ev.(DriverStatus)
	for _, e := range res.Entries {
		if r.seq++; e.Seq != r.seq {
			r.fail("log: entry %d follows entry %d", e.Seq, r.seq-1)
		}
		if e.Severity == "" || e.Reason == "" {
			r.fail("log: entry %d of %s has no severity or no reason", e.Seq, e.ID)
		}
		if strings.Contains(e.Reason, "defect") {
			r.fail("log: %s", e.Reason)
		}
		s := r.sides[e.ID]
		if s == nil {
			continue
		}
		if _, result := ev.(ActionResult); !result && e.From != e.To {
			s.waits = false
		}
		if s.logged != "" && e.From != s.logged && e.Extra["found"] != true {
			r.fail("log: %s was %s and goes from %s to %s", e.ID, s.logged, e.From, e.To)
		}
		if e.From != e.To && e.To == "duplex" && e.From != "syncing" && e.From != "simplex" && !connected && !status && !r.devs[s.dev.name].lagging {
			r.fail("rule 2: %s goes from %s to duplex", e.ID, e.From)
		}
		switch s.logged = e.To; e.To {
		case "shot":
			s.failed, s.may = true, true
		case "simplex", "duplex":
			s.failed, s.may = false, true // it has come in: it is not new here any more
		case "broken":
			s.failed, s.may = false, false
		}
	}
}

// checkWaits: that a driver will bring a side in by itself changes no state.
func (r *ruleBook) checkWaits(ev Event, res Result) {
	if result, ok := ev.(ActionResult); !ok || result.Code != drivers.RuleWaits {
		return
	}
	for _, e := range res.Entries {
		if s := r.sides[e.ID]; s != nil && s.waits && e.From != e.To {
			r.fail("%s goes from %s to %s because its driver will bring it in by itself", e.ID, e.From, e.To)
		}
	}
}

// clearing says that an admin wants the faults of a part forgotten, and has no answer yet.
func (r *ruleBook) clearing(part string) bool {
	for _, ask := range r.asked {
		if _, ok := ask.ev.(ClearMTBF); ok && !ask.final && slices.Contains(ask.in, part) {
			return true
		}
	}
	return false
}

// checkFaults: the core's verdict is the second judge's.
func (r *ruleBook) checkFaults(faults []seen, res Result) {
	for _, f := range faults {
		id := sideID(f.s.dev, f.s.index)
		if f.s.word == Out || f.s.off || r.forgetful || r.part(f.s.part).broken || !f.s.present || r.clearing(f.s.part) {
			continue
		}
		broken := false
		for _, e := range res.Entries {
			broken = broken || e.ID == id && e.To == "broken"
		}
		if f.broken != broken && r.b.given().Targets[id].By != ByAdmin {
			r.fail("rule 3: a fault of %s (%s): broken should be %v, is %v", id, f.s.part, f.broken, broken)
		}
		if p := r.part(f.s.part); f.broken && broken {
			p.broken, p.brokenAt = true, r.b.now
		}
	}
}

// checkAnswer: nothing that would take the last good side away is accepted, and nothing
// is refused as such that would not.
func (r *ruleBook) checkAnswer(event Event, a Answer) {
	ask := r.asked[a.Request]
	if ask == nil {
		r.fail("an answer to %q, which nobody asked", a.Request)
		return
	}
	ev, ok := ask.ev.(BringDown)
	if !ok || ask.accepted {
		return
	}
	for _, s := range r.named(ev.Target) {
		id, partner := sideID(s.dev, s.index), r.partner(s)
		if (a.Status == AnswerAccepted || a.Status == AnswerDone) && ev.AcceptRisk == "" && s.logged != "" && s.said.InService() &&
			(!partner.said.InService() || partner.word == Out || !partner.present || r.busy(partner, partner.detach)) && a.Sentence != ev.Target+" is out already" {
			r.fail("rule 1: %s of %s accepted, and %s is not good", a.Request, id, sideID(partner.dev, partner.index))
		}
		if event == Event(ev) && ev.Target == id && a.Status == AnswerRefused && a.Code == drivers.RuleLastSide && r.safe[id] {
			r.fail("bringdown of %s refused as the last side, and the status said that it is safe to pull", id)
		}
	}
}

// checkModule: a module that stays in is in with all that was in.
func (r *ruleBook) checkModule(a Answer) {
	ask := r.asked[a.Request]
	if ask == nil || a.Status != AnswerRefused && !strings.Contains(a.Sentence, " stays in, for ") || a.Code == RulePersist {
		return
	}
	ev, ok := ask.ev.(BringDown)
	if !ok || !slices.Contains(moduleIDs[:], ev.Target) {
		return
	}
	for _, v := range r.b.core.pull() {
		if slices.Contains(ask.in, v.id) && v.out == ByAdmin && r.sides[v.id].asked == a.Request {
			r.fail("%s of %s is %s, and %s is left out", a.Request, ev.Target, a.Status, v.id)
		}
	}
}

// checkKept: what people are told has been set or forgotten is so on disk.
func (r *ruleBook) checkKept(ask *askBook) {
	switch ev := ask.ev.(type) {
	case SetMTBF:
		for _, s := range r.named(ev.Target) {
			id := sideID(s.dev, s.index)
			is := r.b.disk.Settings[id]
			if want := ev.Settings.over(is); want != is || ev.Default && is != ev.Settings {
				r.fail("rule 6: %s is judged by %+v on disk, and an admin set %+v", id, is, ev.Settings)
			}
		}
	case ClearMTBF:
		for _, part := range ask.in {
			h := r.b.disk.History[part]
			for _, f := range append(h.Real.Last, h.Injected.Last...) {
				if !f.At.After(ask.at) {
					r.fail("rule 6: a fault of %s at %v is on disk, and an admin forgot it", part, f.At)
				}
			}
		}
	case SetBringup:
		if r.b.disk.Bringup != ev.Policy {
			r.fail("rule 6: the policy on disk is %q, and an admin set %s", r.b.disk.Bringup, ev.Policy)
		}
	}
}

// checkOneByOne: a module's parts go one after the other.
func (r *ruleBook) checkOneByOne(s *sideBook) {
	ask := r.asked[s.asked]
	if ask == nil || ask.final || !s.said.InService() {
		return
	}
	ev, ok := ask.ev.(BringDown)
	if !ok || !slices.Contains(moduleIDs[:], ev.Target) || ev.AcceptRisk != "" {
		return
	}
	for _, x := range r.named(ev.Target) {
		if x != s && x.asked == s.asked && x.said.InService() && !x.since.Before(ask.at) && r.busy(x, x.detach) && r.busy(s, s.detach) {
			r.fail("%s and %s are taken out with %s at the same time", sideID(s.dev, s.index), sideID(x.dev, x.index), ev.Target)
		}
	}
}

// checkAction: rules 1, 4, 5 and 6 for what the core wants done.
func (r *ruleBook) checkAction(ev Event, a Action, res Result) {
	if d := r.devs[a.Device]; a.Kind == ActionStart {
		if on := r.missing(r.b.device(a.Device)); on != "" && !d.started {
			r.fail("%s is started, and %s, on which it stands, is down", a.Device, on)
		}
		d.started = true // also if it is dropped: it is asked for again
	}
	if r.b.failed[a.After] {
		return // it is dropped: the core does not know yet that the write failed
	}
	if a.Kind == ActionStart || a.Kind == ActionConfigure {
		for i := range a.Sides {
			if s := r.sides[sideID(r.b.device(a.Device), drivers.Side(i))]; s.word == Out && !a.Sides[i].Out && !r.wants(ev, s) {
				r.fail("rule 4: the driver of %s is told to take in %s, which an admin took out", a.Device, sideID(s.dev, s.index))
			}
		}
	}
	if a.Kind == ActionSnapshot {
		r.devs[a.Device].lagging = true // it believes the next one
	}
	if a.Kind == ActionStop {
		d := r.b.device(a.Device)
		r.devs[a.Device].stop = a.ID
		x, y := r.sides[sideID(d, 0)], r.sides[sideID(d, 1)]
		if (x.said.InService() || y.said.InService() || r.busy(x, x.attach) || r.busy(y, y.attach)) && !x.risk && !y.risk {
			r.fail("rule 1: %s is taken down while it serves, at a risk that nobody has named", a.Device)
		}
	}
	if a.Kind == ActionSwitch {
		d := r.b.device(a.Device)
		for i := range d.sides {
			if s := r.sides[sideID(d, drivers.Side(i))]; (a.Side == drivers.Whole || a.Side == s.index) && !s.said.InService() {
				r.fail("%s is to be switched to side %d, and %s is %v", a.Device, a.Side, sideID(d, s.index), s.said)
			}
		}
	}
	if a.Kind != ActionAttach && a.Kind != ActionDetach {
		return
	}
	s := r.sides[sideID(r.b.device(a.Device), a.Side)]
	id, partner := sideID(s.dev, s.index), r.partner(s)
	disk := r.diskFor(a, res)
	saved := disk.target(id)
	if a.Kind == ActionDetach {
		if r.busy(s, s.detach) || r.busy(s, s.attach) {
			r.fail("%s is to be detached while an action on it is under way", id)
		}
		if s.said.InService() && a.Reason.AcceptRisk == "" && (!partner.said.InService() || partner.word == Out && !r.wants(ev, partner) || !partner.present || r.busy(partner, partner.detach)) {
			r.fail("rule 1: %s is detached and %s is not good (%v)", id, sideID(partner.dev, partner.index), partner.said)
		}
		if a.Reason.AcceptRisk != "" && !s.risk {
			r.fail("rule 1: %s is detached at a risk that nobody has named", id)
		}
		if down, now := ev.(BringDown); saved.Direction != Out && !r.wants(ev, s) && (s.word == Out || now && r.names(down.Target, s)) {
			r.fail("rule 6: %s is detached and on disk it is wanted in", id)
		}
		s.detach, s.attach, s.since = a.ID, 0, r.b.now // the core asks for one at a time
		s.waits = false                                // what its driver has promised is void
		r.checkOneByOne(s)
		return
	}
	if r.busy(s, s.attach) || r.busy(s, s.detach) {
		r.fail("%s is to be attached while an action on it is under way", id)
	}
	if s.waits {
		r.fail("%s is asked for again, and its driver has said that it brings it in by itself", id)
	}
	if s.word == Out && !r.wants(ev, s) {
		r.fail("rule 4: %s is attached, and an admin took it out", id)
	}
	if module := s.dev.kind.modules[s.index]; r.b.dark[module] {
		r.fail("%s is attached, and %s has no power", id, module)
	}
	if s.off {
		r.fail("rule 4: %s is attached, and its guest powered it off", id)
	}
	if saved.Direction == Out {
		r.fail("rule 6: %s is attached, and on disk it is wanted out by %s", id, saved.By)
	}
	if !s.said.InService() && !partner.said.InService() && (r.busy(partner, partner.attach) || onItsWay(partner.said)) {
		r.fail("rule 5: %s is brought in while the face is down and %s is being brought in (%v, attach %d)", id, sideID(partner.dev, partner.index), partner.said, partner.attach)
	}
	if partner.said.InService() && !s.may && r.policyOf(disk) == BringupDefer && !r.wants(ev, s) {
		r.fail("rule 5: %s is attached by itself, and the policy is defer", id)
	}
	s.attach, s.detach, s.since = a.ID, 0, r.b.now
}

// turnedOff: a guest has powered its machine off at a time, which is about both sides.
func (r *ruleBook) turnedOff(s *sideBook, at time.Time) {
	for _, x := range []*sideBook{s, r.partner(s)} {
		x.off = x.off || x.word != Out && at.After(x.wanted)
	}
}

// missing is what a device stands on and is down, but for a NIC without a carrier.
func (r *ruleBook) missing(d *simDriver) string {
	if len(d.needs) == 0 {
		return ""
	}
	for _, v := range r.b.core.faces() {
		if slices.Contains(d.needs, v.id) && v.state == drivers.FaceDown && (v.kind != "nic" || v.driver != LinkConnected) {
			return v.id
		}
	}
	return ""
}

// wants says whether the event is a request that wants the side in, or lets it in.
func (r *ruleBook) wants(ev Event, s *sideBook) bool {
	switch ev := ev.(type) {
	case BringUp:
		if r.names(ev.Target, s) {
			return true
		}
	case SetBringup:
		if ev.Policy == BringupAuto && s.word != Out {
			return true
		}
	}
	for _, a := range r.asked { // one whose answer waits for the disk
		if auto, ok := a.ev.(SetBringup); ok && !a.final && auto.Policy == BringupAuto && s.word != Out {
			return true
		}
		up, ok := a.ev.(BringUp)
		if ok && !a.final && !a.accepted && r.names(up.Target, s) {
			return true
		}
	}
	return false
}

// diskFor is what is on disk at the time when an action is carried out.
func (r *ruleBook) diskFor(a Action, res Result) *Persistent {
	for _, w := range res.Actions {
		if w.Kind == ActionPersist && w.ID == a.After {
			return w.State
		}
	}
	if w := r.b.writing(a.After); w != nil {
		return w
	}
	return &r.b.disk
}

// dropped notes that an action went with the write that it waited for.
func (r *ruleBook) dropped(a Action) {
	for _, s := range r.sides {
		if s.attach == a.ID {
			s.attach = 0
		}
		if s.detach == a.ID {
			s.detach = 0
		}
	}
}

// checkPull: what the status says is safe to pull is.
func (r *ruleBook) checkPull() {
	for _, v := range r.b.core.pull() {
		s := r.sides[v.id]
		partner := r.partner(s)
		if v.safe && v.state.InService() && (!partner.said.InService() || partner.word == Out && !r.wants(Tick{}, partner) || !partner.present) {
			r.fail("safe to pull: %s, and %s is not good: %v, present %v, wanted %q", v.id, sideID(partner.dev, partner.index), partner.said, partner.present, partner.word)
		}
	}
}

// settled checks the box after everything that went wrong has ended: what is wanted in
// is in, what is wanted out is out, and everybody has been answered.
func (r *ruleBook) settled() {
	doc := r.b.core.Status(r.b.now)
	for id, a := range r.asked {
		if !a.final {
			r.fail("nobody has answered %s %+v", id, a.ev)
		}
	}
	for _, d := range doc.Devices {
		if d.Driver == LinkGaveUp || d.Driver == LinkNone && r.missing(r.b.device(d.ID)) != "" {
			continue
		}
		wanted := slices.ContainsFunc(d.Sides, func(v SideView) bool { return v.Target == In && v.State != drivers.Empty })
		if wanted != (d.Driver == LinkConnected) && (wanted || d.Driver != LinkNone && d.Driver != LinkConnected) {
			r.fail("in the end %s is wanted: %v, and its driver is %s", d.ID, wanted, d.Driver)
		}
		for i, v := range d.Sides {
			partner := d.Sides[1-i]
			s := r.sides[v.ID]
			if v.State == drivers.Empty {
				continue
			}
			if s.word == Out && v.Target != Out {
				r.fail("rule 4: in the end %s is wanted %s by %s, and an admin took it out", v.ID, v.Target, v.TargetBy)
			}
			switch {
			case v.Target == In && !v.State.InService():
				deferred := r.policy() == BringupDefer && partner.State.InService() && v.TargetBy != ByFault
				stale := !partner.State.InService() && !s.dev.sides[i].fresh
				if !deferred && !stale {
					r.fail("in the end %s is wanted in and is %v (%s)", v.ID, v.State, v.Reason)
				}
			case v.Target == Out && !withDriver(v.State) && d.Driver == LinkConnected && s.dev.kind.returns && !s.dev.sides[i].out:
				r.fail("in the end %s is wanted out, and its driver, which could bring it in, does not know", v.ID)
			case v.Target == Out && withDriver(v.State) && partner.State.InService() && partner.Target == In:
				r.fail("in the end %s is wanted out and is %v, and its partner is good", v.ID, v.State)
			}
			if real := s.dev.sides[i].state; d.Driver == LinkConnected && v.State.InService() != real.InService() {
				r.fail("in the end %s is %v, and for its driver %v", v.ID, v.State, real)
			}
		}
	}
}
