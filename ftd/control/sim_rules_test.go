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
	wordAt  time.Time     // when it was made: a late answer to an earlier one does not count
	risk    bool          // an admin has named last-side, and has not had it in since
	riskAt  time.Time     // when
	part    string        // by identity, as delivered
	may     bool          // under defer: may come in without an admin
	off     bool          // the guest powered it off, and nobody has wanted it in since
	asked   string        // the last request that named it
	wanted  time.Time     // when somebody last asked for it, heard or not
	waits   bool          // its driver brings it in by itself: it need not be asked for again
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
	started   bool   // its process has been asked for
}

type askBook struct {
	ev       Event
	at       time.Time
	accepted bool
	final    bool
	in       []string // of a bringdown: the sides that were wanted in until then; of ClearMTBF: the parts
}

// partBook is a second, simpler judge.
type partBook struct {
	since       time.Time // known, or cleared
	excused     time.Time // faults up to here were its going
	real, drill []time.Time
	slots       []string // of real
	forgivenR   int
	forgivenD   int
	broken      bool
	brokenAt    time.Time
}

// clear forgets what happened up to a time.
func (p *partBook) clear(at time.Time) {
	real, drill := upTo(p.real, at), upTo(p.drill, at)
	*p = partBook{since: at, real: p.real[real:], slots: p.slots[real:], drill: p.drill[drill:],
		broken: p.broken && p.brokenAt.After(at), brokenAt: p.brokenAt}
}

// upTo is how many of these times are not after one of them.
func upTo(times []time.Time, at time.Time) (n int) {
	for n < len(times) && !times[n].After(at) {
		n++
	}
	return n
}

func newRuleBook(b *simBox) *ruleBook {
	r := &ruleBook{b: b, sides: map[string]*sideBook{}, devs: map[string]*devBook{}, asked: map[string]*askBook{}, parts: map[string]*partBook{}}
	for _, d := range b.devices {
		r.devs[d.name] = &devBook{}
		for i := range d.sides {
			r.sides[sideID(d, drivers.Side(i))] = &sideBook{dev: d, index: drivers.Side(i), said: d.sides[i].state, present: true}
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
		s.logged, s.attach, s.detach, s.waits = "", 0, 0, false
		s.off = s.off && r.b.disk.target(id).out()
		s.said, s.present = drivers.Offline, (s.dev.sides[s.index].present || s.dev.kind.returns) && !r.b.dark[s.dev.kind.modules[s.index]]
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

func (r *ruleBook) policy() BringupPolicy { return r.policyOf(r.b.given()) }

func (r *ruleBook) policyOf(disk *Persistent) BringupPolicy {
	if disk.Bringup != "" {
		return disk.Bringup
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
		r.parts[name] = &partBook{since: r.b.now}
	}
	return r.parts[name]
}

// plain is what a request about a machine means to its sides. One that is broken is not
// started on, unless both are.
func (r *ruleBook) plain(ev Event) Event {
	switch ev := ev.(type) {
	case StartMachine:
		if ask := r.asked[ev.ID]; ask != nil {
			return ask.ev
		}
		target := ev.Target
		broken := func(v SideView) bool {
			return v.State == drivers.Broken || r.part(r.sides[v.ID].part).broken
		}
		for _, d := range r.b.core.Status(r.b.now).Devices {
			for i, v := range d.Sides {
				if d.ID == ev.Target && broken(v) && !broken(d.Sides[1-i]) {
					target = d.Sides[1-i].ID
				}
			}
		}
		return BringUp{ev.Request, target, ""}
	case StopMachine:
		return BringDown{ev.Request, ev.Target, drivers.RiskLastSide}
	}
	return ev
}

// before looks at an event that the core is about to get.
func (r *ruleBook) before(ev Event) {
	ev = r.plain(ev)
	if r.b.diskBad {
		r.forgetful = true
	}
	if r.b.pick(8) == 0 {
		r.checkPull() // as the last event has left it, answers and all
	}
	switch ev := ev.(type) {
	case BringUp:
		r.asked[ev.ID] = &askBook{ev: ev, at: r.b.now}
		for _, s := range r.named(ev.Target) {
			s.asked = ev.ID
			s.waits, s.off, s.wanted = false, false, r.b.now
		}
	case BringDown:
		r.asked[ev.ID] = &askBook{ev: ev, at: r.b.now}
		for _, s := range r.named(ev.Target) {
			s.asked = ev.ID
			s.waits = false // also if that word is taken back
		}
		if ev.AcceptRisk == drivers.RiskLastSide {
			for _, s := range r.named(ev.Target) {
				s.risk, s.riskAt = true, r.b.now
			}
		}
		r.safe = map[string]bool{}
		for _, v := range r.b.core.pull() {
			r.safe[v.id] = v.safe
			if v.out == "" && r.names(ev.Target, r.sides[v.id]) {
				r.asked[ev.ID].in = append(r.asked[ev.ID].in, v.id)
			}
		}
	case SwitchActive:
		r.asked[ev.ID] = &askBook{ev: ev, at: r.b.now}
	case SetBringup:
		r.asked[ev.ID] = &askBook{ev: ev, at: r.b.now}
	case SetMTBF:
		r.asked[ev.ID] = &askBook{ev: ev, at: r.b.now}
	case ClearMTBF:
		ask := &askBook{ev: ev, at: r.b.now}
		for _, s := range r.named(ev.Target) {
			if s.part != "" {
				ask.in = append(ask.in, s.part)
			}
		}
		r.asked[ev.ID] = ask
	case DeviceVanished:
		r.vanished(r.sides[ev.ID])
	case ModulePower:
		for _, s := range r.named(ev.Module) {
			if !ev.On {
				r.vanished(s)
			}
		}
	case DeviceSeen:
		s := r.sides[ev.ID]
		if !s.present {
			s.may = s.may || r.policy() == BringupAuto || s.failed
		}
		s.present, s.pulled = true, false
		if state, _ := drivers.ParseState(s.logged); ev.Identity != "" && !withDriver(state) {
			s.part = ev.Identity
			r.part(s.part) // known from now on
		}
	case DriverReport: // what a side waits for may be over
		if ev.Event.Kind == drivers.EventSide {
			r.sides[sideID(r.b.device(ev.Device), ev.Event.Side)].waits = false
		}
	case ActionResult:
		for _, s := range r.sides {
			if s.attach == ev.ID {
				s.attach = 0
				if state, _ := drivers.ParseState(s.logged); r.busy(s, ev.ID) && ev.Code == drivers.RuleWaits && !withDriver(state) {
					s.waits = true
				}
			}
			if s.detach == ev.ID {
				s.detach = 0
				if ask := r.asked[s.wordBy]; ev.Code == drivers.RuleLastSide && ask != nil && !ask.final {
					s.word = "" // whoever asked is told when all of his request is done
				}
			}
			if d := r.devs[s.dev.name]; ev.ID != 0 && d.stop == ev.ID && ev.Outcome == OK {
				s.said, d.connected, d.started = drivers.Offline, false, false
			}
		}
	}
}

// vanished: the kernel, or the power, says that it is gone.
func (r *ruleBook) vanished(s *sideBook) {
	if s.pulled = true; s.present {
		s.present = false
		r.left(s)
	}
}

// left: I/O errors just before a part went were its going.
func (r *ruleBook) left(s *sideBook) {
	s.may = s.word == In || s.failed || s.said.InService() // in service, it may be back before anybody misses it
	p := r.part(s.part)
	window := r.b.now.Add(-5 * time.Second)
	retracted := false
	for n := len(p.real); n > 0 && p.real[n-1].After(window) && p.slots[n-1] == sideID(s.dev, s.index); n = len(p.real) {
		p.real, p.slots, retracted = p.real[:n-1], p.slots[:n-1], true
	}
	if retracted {
		p.excused = r.b.now
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
	set := r.b.given().Settings[sideID(s.dev, s.index)]
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
			s.waits = s.waits && !all && is.State == s.said && is.Resource.Identity == s.part
			if s.part = is.Resource.Identity; all {
				s.attach, s.detach = 0, 0
			}
			r.part(s.part)
			if !all && is.State == s.said {
				continue
			}
			s.said = is.State
			s.off = s.off && !is.State.InService()
			if is.OutBy == drivers.OutByGuest {
				r.turnedOff(s, is.Since)
			}
			switch {
			case is.State == drivers.Removed:
				s.present = false
				r.left(s)
			case withDriver(is.State) || !s.pulled:
				s.present = true
			}
			switch {
			case is.State == drivers.Shot && !d.kind.returns && !s.pulled && s.logged != "shot" && s.logged != "broken" && !r.knows(s, is.Since):
				faults = append(faults, seen{s, r.fault(s, is.Since, false)})
			}
		}
	}
	switch ev := ev.(type) {
	case DriverConnected:
		*r.devs[ev.Device] = devBook{seq: ev.Status.Seq, connected: true, stop: r.devs[ev.Device].stop, started: true}
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
		s.off = s.off && !to.InService()
		if ev.Event.Detail["out_by"] == drivers.OutByGuest {
			r.turnedOff(s, r.b.now)
		}
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
	if p := r.part(s.part); at.Before(p.since) || !at.After(p.excused) {
		return true
	}
	for _, t := range append(append([]time.Time(nil), r.part(s.part).real...), r.part(s.part).drill...) {
		if t.Sub(at).Abs() <= time.Second {
			return true
		}
	}
	return false
}
