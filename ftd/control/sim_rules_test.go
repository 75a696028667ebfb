package control

import (
	"fmt"
	"slices"
	"time"

	"ft/drivers"
)

// ruleBook checks rules 1 to 6 from outside: it believes what was delivered to the core
// and what the core has answered, keeps its own books of faults and of people's words,
// and never looks into the core.
type ruleBook struct {
	b     *simBox
	sides map[string]*sideBook
	devs  map[string]*devBook
	asked map[string]*askBook
	parts map[string]*partBook
	seq   uint64
	wrong []string
	// forgetful: a write has failed in this run, so that faults may have been forgotten
	// over a restart, as they may be.
	forgetful bool
	safe      map[string]bool // before a bringdown: what the status said of each side
}

// sideBook is what is known about a side.
type sideBook struct {
	dev     *simDriver
	index   drivers.Side
	said    drivers.State // by its driver
	logged  string        // its state, by the log
	present bool          // by uevents and the driver
	pulled  bool          // by uevents
	word    Direction     // of an admin: "" if none is known
	wordBy  string        // the request
	risk    bool          // an admin has named last-side, and has not had it in since
	part    string        // by identity, as delivered
	may     bool          // under defer: may come in without an admin
	failed  bool          // it was shot, and has not been in service since
	attach  uint64        // that is outstanding
	detach  uint64
	since   time.Time // of the last of the two
}

// busy says whether the core waits for an action on the side. It does so for a minute.
func (r *ruleBook) busy(s *sideBook, action uint64) bool {
	return action != 0 && r.b.now.Sub(s.since) < time.Minute
}

// devBook mirrors what of a driver's reports has been delivered.
type devBook struct {
	seq       uint64
	connected bool
	lagging   bool
	ahead     time.Time
	stop      uint64 // that is outstanding
}

type askBook struct {
	ev       Event
	accepted bool
	final    bool
}

// partBook is a second, simpler judge.
type partBook struct {
	real, drill []time.Time
	slots       []string // of real
	forgivenR   int
	forgivenD   int
	broken      bool
	brokenAt    time.Time
	brokenReal  bool
}

func newRuleBook(b *simBox) *ruleBook {
	r := &ruleBook{b: b, sides: map[string]*sideBook{}, devs: map[string]*devBook{}, asked: map[string]*askBook{}, parts: map[string]*partBook{}}
	for _, d := range b.devices {
		r.devs[d.name] = &devBook{}
		for i := range d.sides {
			r.sides[sideID(d, drivers.Side(i))] = &sideBook{dev: d, index: drivers.Side(i), said: drivers.Offline, present: true}
		}
	}
	return r
}

// booted: what ftd knew is gone, what it promised is not.
func (r *ruleBook) booted() {
	for id, s := range r.sides {
		if t, ok := r.b.disk.Targets[id]; ok && t.By == ByFault && !t.out() {
			s.failed = true // what happened since may have been forgotten
		}
		s.logged, s.attach, s.detach, s.part = "", 0, 0, ""
		s.said, s.present = drivers.Offline, s.dev.sides[s.index].present
		s.pulled = !s.present
		s.may = r.policy() == BringupAuto || s.failed
	}
	for _, d := range r.devs {
		*d = devBook{}
	}
	for _, a := range r.asked {
		if !a.final && !a.accepted {
			r.unknown(a.ev) // it may be on disk or not: whoever asked has to ask again
		}
		a.final = true // nobody is there any more to be answered
	}
}

func (r *ruleBook) policy() BringupPolicy {
	if r.b.disk.Bringup != "" {
		return r.b.disk.Bringup
	}
	return r.b.cfg.Bringup
}

func (r *ruleBook) fail(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	r.b.tell("WRONG: %s", msg)
	r.wrong = append(r.wrong, msg)
}

func (r *ruleBook) partner(s *sideBook) *sideBook { return r.sides[sideID(s.dev, 1-s.index)] }

// named are the sides that an id stands for.
func (r *ruleBook) named(id string) (named []*sideBook) {
	for _, d := range r.b.devices {
		for i := range d.sides {
			if sid := sideID(d, drivers.Side(i)); sid == id || d.name == id || d.kind.modules[i] == id {
				named = append(named, r.sides[sid])
			}
		}
	}
	return named
}

func (r *ruleBook) names(id string, s *sideBook) bool { return slices.Contains(r.named(id), s) }

func (r *ruleBook) part(name string) *partBook {
	if r.parts[name] == nil {
		r.parts[name] = &partBook{}
	}
	return r.parts[name]
}

// before looks at an event that the core is about to get.
func (r *ruleBook) before(ev Event) {
	if r.b.diskBad {
		r.forgetful = true
	}
	if r.b.pick(8) == 0 {
		r.checkPull() // as the last event has left it, answers and all
	}
	switch ev := ev.(type) {
	case BringUp:
		r.asked[ev.ID] = &askBook{ev: ev}
	case BringDown:
		r.asked[ev.ID] = &askBook{ev: ev}
		if ev.AcceptRisk == drivers.RiskLastSide {
			for _, s := range r.named(ev.Target) {
				s.risk = true
			}
		}
		r.safe = map[string]bool{}
		for _, d := range r.b.core.Status(r.b.now).Devices {
			for _, s := range d.Sides {
				r.safe[s.ID] = s.SafeToPull
			}
		}
	case SwitchActive:
		r.asked[ev.ID] = &askBook{ev: ev}
	case SetBringup:
		r.asked[ev.ID] = &askBook{ev: ev}
	case SetMTBF:
		r.asked[ev.ID] = &askBook{ev: ev}
	case ClearMTBF:
		r.asked[ev.ID] = &askBook{ev: ev}
	case DeviceVanished:
		s := r.sides[ev.ID]
		if s.pulled = true; s.present {
			s.present = false
			r.left(s)
		}
	case DeviceSeen:
		s := r.sides[ev.ID]
		if !s.present {
			s.may = s.may || r.policy() == BringupAuto || s.failed
		}
		s.present, s.pulled = true, false
		if ev.Identity != "" {
			s.part = ev.Identity
		}
	case ActionResult:
		for _, s := range r.sides {
			if s.attach == ev.ID {
				s.attach = 0
			}
			if s.detach == ev.ID {
				s.detach = 0
				if ask := r.asked[s.wordBy]; ev.Code == drivers.RuleLastSide && ask != nil && !ask.final {
					s.word = "" // whoever asked is told when all of his request is done
				}
			}
			if d := r.devs[s.dev.name]; ev.ID != 0 && d.stop == ev.ID && ev.Outcome == OK {
				s.said, d.connected = drivers.Offline, false
			}
		}
	}
}

// left: I/O errors just before a part went were its going.
func (r *ruleBook) left(s *sideBook) {
	s.may = s.word == In || s.failed
	p := r.part(s.part)
	window := r.b.now.Add(-5 * time.Second)
	retracted := false
	for n := len(p.real); n > 0 && p.real[n-1].After(window) && p.slots[n-1] == sideID(s.dev, s.index); n = len(p.real) {
		p.real, p.slots, retracted = p.real[:n-1], p.slots[:n-1], true
	}
	if retracted && p.broken && p.brokenAt.After(window) {
		p.broken = false
	}
}

// fault is a second opinion on a fault. ok is false when it is not to be judged.
func (r *ruleBook) fault(s *sideBook, at time.Time, injected bool) (broken bool) {
	p := r.part(s.part)
	list, forgiven := &p.real, &p.forgivenR
	if injected {
		list, forgiven = &p.drill, &p.forgivenD
	} else {
		p.slots = append(p.slots, sideID(s.dev, s.index))
	}
	*list = append(*list, at)
	set := r.b.disk.Settings[sideID(s.dev, s.index)]
	policy, threshold, least := set.Policy, set.Threshold, set.MinFaults
	if policy == "" {
		policy = MTBFThreshold
	}
	if threshold == 0 {
		threshold = 24 * time.Hour
	}
	if least == 0 {
		least = 3
	}
	counting := (*list)[min(*forgiven, len(*list)):]
	switch {
	case policy == MTBFNever:
		broken = true
	case policy == MTBFAlways || len(counting) < least || len(counting) < 2:
	default:
		k := min(max(least, 2), len(counting))
		last := counting[len(counting)-k:]
		broken = last[k-1].Sub(last[0])/time.Duration(k-1) < threshold
	}
	return broken
}

// after checks what the core made of an event.
func (r *ruleBook) after(ev Event, res Result) {
	if _, ok := ev.(DeviceConfigured); ok { // it has a state before it has an entry
		for _, d := range r.b.core.Status(r.b.now).Devices {
			for _, v := range d.Sides {
				r.sides[v.ID].logged = v.State.String()
			}
		}
	}
	faults := r.believe(ev)
	r.checkLog(ev, res)
	r.checkFaults(faults, res)
	for _, a := range res.Answers {
		r.checkAnswer(a)
		if a.Status == AnswerRefused {
			r.takenBack(a.Request)
		}
	}
	for _, a := range res.Actions {
		r.checkAction(ev, a, res)
	}
}

// seen is a fault that was delivered.
type seen struct {
	s      *sideBook
	broken bool
}

// believe takes over what an event says, and finds the faults in it.
func (r *ruleBook) believe(ev Event) (faults []seen) {
	snapshot := func(name string, st drivers.Status, all bool) {
		d := r.b.device(name)
		for i := range st.Sides {
			s, is := r.sides[sideID(d, drivers.Side(i))], st.Sides[i]
			if s.part = is.Resource.Identity; all {
				s.attach, s.detach = 0, 0
			}
			if !all && is.State == s.said {
				continue
			}
			s.said = is.State
			switch {
			case is.State == drivers.Removed:
				s.present = false
				r.left(s)
			case withDriver(is.State) || is.State == drivers.Offline && !s.pulled:
				s.present = true
			case is.State == drivers.Shot && !s.pulled && s.logged != "shot" && s.logged != "broken" && !r.knows(s, is.Since):
				faults = append(faults, seen{s, r.fault(s, is.Since, false)})
			}
		}
	}
	switch ev := ev.(type) {
	case DriverConnected:
		*r.devs[ev.Device] = devBook{seq: ev.Status.Seq, connected: true, stop: r.devs[ev.Device].stop}
		snapshot(ev.Device, ev.Status, true)
	case DriverLost:
		d := r.b.device(ev.Device)
		r.devs[ev.Device].connected = false
		for i := range d.sides {
			s := r.sides[sideID(d, drivers.Side(i))]
			s.attach, s.detach = 0, 0
			if ev.GaveUp {
				s.said = drivers.Offline
			}
		}
	case DriverStatus:
		d := r.devs[ev.Device]
		if ev.Status.Seq > d.seq && d.ahead.IsZero() {
			d.ahead = r.b.now
		}
		d.lagging = d.lagging || ev.Status.Seq > d.seq && r.b.now.Sub(d.ahead) >= 5*time.Second
		if d.connected && (ev.Status.Seq == d.seq || d.lagging && ev.Status.Seq > d.seq) {
			d.seq, d.lagging, d.ahead = ev.Status.Seq, false, time.Time{}
			snapshot(ev.Device, ev.Status, false)
		}
	case DriverReport:
		d := r.devs[ev.Device]
		if !d.connected || ev.Event.Seq <= d.seq {
			return nil
		}
		d.lagging = d.lagging || ev.Event.Seq > d.seq+1
		d.seq, d.ahead = ev.Event.Seq, time.Time{}
		if ev.Event.Kind != drivers.EventSide {
			return nil
		}
		s := r.sides[sideID(r.b.device(ev.Device), ev.Event.Side)]
		to, _ := drivers.ParseState(ev.Event.To)
		s.present = s.present || withDriver(to) && !withDriver(s.said) // it was tried, and found
		s.said = to
		if ev.Event.Identity != "" {
			s.part = ev.Event.Identity
		}
		switch {
		case to == drivers.Removed:
			s.present = false
			r.left(s)
		case s.logged == "removed":
			s.present = true
			s.may = s.may || r.policy() == BringupAuto || s.failed
		}
		if ev.Event.Fault != "" && !s.pulled && s.logged != "shot" && s.logged != "broken" {
			faults = append(faults, seen{s, r.fault(s, ev.Event.Time, ev.Event.Injected)})
		}
	}
	return faults
}

func (r *ruleBook) knows(s *sideBook, at time.Time) bool {
	for _, t := range append(append([]time.Time(nil), r.part(s.part).real...), r.part(s.part).drill...) {
		if t.Sub(at).Abs() <= time.Second {
			return true
		}
	}
	return false
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
		s := r.sides[e.ID]
		if s == nil {
			continue
		}
		if s.logged != "" && e.From != s.logged {
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

// checkFaults: the core's verdict is the second judge's.
func (r *ruleBook) checkFaults(faults []seen, res Result) {
	for _, f := range faults {
		id := sideID(f.s.dev, f.s.index)
		if f.s.word == Out || r.forgetful || r.part(f.s.part).broken || !f.s.present {
			continue
		}
		broken := false
		for _, e := range res.Entries {
			broken = broken || e.ID == id && e.To == "broken"
		}
		if f.broken != broken && r.b.disk.Targets[id].By != ByAdmin {
			r.fail("rule 3: a fault of %s (%s): broken should be %v, is %v", id, f.s.part, f.broken, broken)
		}
		if p := r.part(f.s.part); f.broken && broken {
			p.broken, p.brokenAt = true, r.b.now
		}
	}
}

// checkAnswer: nothing that would take the last good side away is accepted, and nothing
// is refused as such that would not.
func (r *ruleBook) checkAnswer(a Answer) {
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
		if ev.Target == id && a.Status == AnswerRefused && a.Code == drivers.RuleLastSide && r.safe[id] {
			r.fail("bringdown of %s refused as the last side, and the status said that it is safe to pull", id)
		}
	}
}

// answered takes over what people have been told: words that were accepted hold.
func (r *ruleBook) answered(a Answer) {
	ask := r.asked[a.Request]
	if ask == nil {
		return
	}
	if ask.final {
		r.fail("a second final answer to %s: %s %s", a.Request, a.Status, a.Sentence)
	}
	taken := a.Status == AnswerAccepted || a.Status == AnswerDone && !ask.accepted
	_, up := ask.ev.(BringUp)
	if !ask.accepted && (a.Status == AnswerFailed || a.Status == AnswerRefused && up && a.Code != RulePersist) {
		r.unknown(ask.ev) // it was accepted, and that answer went with a write that failed
	}
	ask.accepted, ask.final = true, a.Final()
	target, word := "", In
	switch ev := ask.ev.(type) {
	case BringUp:
		target = ev.Target
	case BringDown:
		target, word = ev.Target, Out
	case ClearMTBF:
		if a.Status == AnswerDone {
			for _, s := range r.named(ev.Target) {
				*r.part(s.part) = partBook{}
			}
		}
		return
	case SetBringup:
		if a.Status == AnswerDone && ev.Policy == BringupAuto {
			for _, s := range r.sides {
				s.may = true
			}
		}
		return
	default:
		return
	}
	for _, s := range r.named(target) {
		switch {
		case taken:
			s.word, s.wordBy = word, a.Request
			if word == In {
				s.may, s.risk = true, false
				if p := r.part(s.part); p.broken {
					p.broken, p.forgivenR, p.forgivenD = false, len(p.real), len(p.drill)
				}
			}
		}
	}
}

// unknown: nobody can say any more what is wanted of the sides that a request names.
func (r *ruleBook) unknown(ev Event) {
	target := ""
	switch ev := ev.(type) {
	case BringUp:
		target = ev.Target
	case BringDown:
		target = ev.Target
	}
	for _, s := range r.named(target) {
		s.word, s.wordBy = "", ""
	}
}

// takenBack: a request was refused after it had been accepted, so that nobody knows what
// is wanted.
func (r *ruleBook) takenBack(request string) {
	for _, s := range r.sides {
		if s.wordBy == request {
			s.word = ""
		}
	}
}

// checkAction: rules 1, 4, 5 and 6 for what the core wants done.
func (r *ruleBook) checkAction(ev Event, a Action, res Result) {
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
	if a.Kind != ActionAttach && a.Kind != ActionDetach {
		return
	}
	s := r.sides[sideID(r.b.device(a.Device), a.Side)]
	id, partner := sideID(s.dev, s.index), r.partner(s)
	saved := r.savedFor(a, res)
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
		if down, now := ev.(BringDown); saved.Direction != Out && (s.word == Out || now && r.names(down.Target, s)) {
			r.fail("rule 6: %s is detached and on disk it is wanted in", id)
		}
		s.detach, s.attach, s.since = a.ID, 0, r.b.now // the core asks for one at a time
		return
	}
	if r.busy(s, s.attach) || r.busy(s, s.detach) {
		r.fail("%s is to be attached while an action on it is under way", id)
	}
	if s.word == Out && !r.wants(ev, s) {
		r.fail("rule 4: %s is attached, and an admin took it out", id)
	}
	if saved.Direction == Out {
		r.fail("rule 6: %s is attached, and on disk it is wanted out by %s", id, saved.By)
	}
	if !s.said.InService() && !partner.said.InService() && (r.busy(partner, partner.attach) || onItsWay(partner.said)) {
		r.fail("rule 5: %s is brought in while the face is down and %s is being brought in (%v, attach %d)", id, sideID(partner.dev, partner.index), partner.said, partner.attach)
	}
	if partner.said.InService() && !s.may && r.policy() == BringupDefer && !r.wants(ev, s) {
		r.fail("rule 5: %s is attached by itself, and the policy is defer", id)
	}
	s.attach, s.detach, s.since = a.ID, 0, r.b.now
}

// wants says whether the event is a request that wants the side in, or lets it in.
func (r *ruleBook) wants(ev Event, s *sideBook) bool {
	switch ev := ev.(type) {
	case BringUp:
		if r.names(ev.Target, s) {
			return true
		}
	case SetBringup:
		return ev.Policy == BringupAuto && s.word != Out
	}
	for _, a := range r.asked { // one whose answer waits for the disk
		up, ok := a.ev.(BringUp)
		if ok && !a.final && !a.accepted && r.names(up.Target, s) {
			return true
		}
	}
	return false
}

// savedFor is what is on disk about a side at the time when an action is carried out.
func (r *ruleBook) savedFor(a Action, res Result) Target {
	state := r.b.disk
	for _, w := range res.Actions {
		if w.Kind == ActionPersist && w.ID == a.After {
			state = *w.State
		}
	}
	if t, ok := state.Targets[sideID(r.b.device(a.Device), a.Side)]; ok {
		return t
	}
	return byConfig
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
	for _, d := range r.b.core.Status(r.b.now).Devices {
		for _, v := range d.Sides {
			s := r.sides[v.ID]
			partner := r.partner(s)
			if v.SafeToPull && v.State.InService() && (!partner.said.InService() || partner.word == Out || !partner.present) {
				r.fail("safe to pull: %s, and %s is not good: %v, present %v, wanted %q", v.ID, sideID(partner.dev, partner.index), partner.said, partner.present, partner.word)
			}
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
		if d.Driver == LinkGaveUp {
			continue
		}
		wanted := d.Sides[0].Target == In || d.Sides[1].Target == In
		if wanted != (d.Driver == LinkConnected) && (wanted || d.Driver != LinkNone && d.Driver != LinkConnected) {
			r.fail("in the end %s is wanted: %v, and its driver is %s", d.ID, wanted, d.Driver)
		}
		for i, v := range d.Sides {
			partner := d.Sides[1-i]
			s := r.sides[v.ID]
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
			case v.Target == Out && withDriver(v.State) && partner.State.InService() && partner.Target == In:
				r.fail("in the end %s is wanted out and is %v, and its partner is good", v.ID, v.State)
			}
			if real := s.dev.sides[i].state; d.Driver == LinkConnected && v.State.InService() != real.InService() {
				r.fail("in the end %s is %v, and for its driver %v", v.ID, v.State, real)
			}
		}
	}
}
