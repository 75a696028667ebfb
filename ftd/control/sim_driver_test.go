package control

import (
	"fmt"
	"time"

	"ft/drivers"
)

// simDriver is a driver as the core sees one: a process that takes calls in order and
// answers some time later, and a data path that fails over by itself and outlives the
// process. It keeps the rules that drivers must keep (the last good side is refused,
// a side that is behind does not serve alone), so that what goes wrong is the core's.
type simDriver struct {
	name   string
	kind   *kind
	sides  [2]simSide
	needs  []string
	up     bool // the data path exists
	kept   bool // the keeper runs the process again when it dies
	alive  bool // the process does
	halted bool // a machine's kernel has panicked
	gaveUp bool
	config [2]drivers.SideConfig

	active drivers.Side // where one side is

	connected bool
	seq       uint64
	queue     []drivers.Event // on their way to ftd
	calls     []Action        // on their way to the driver
	results   []ActionResult  // on their way to ftd
}

type simSide struct {
	state    drivers.State
	reason   string
	since    time.Time
	part     string // its identity
	present  bool
	fresh    bool // it has all the data
	draining bool
	outBy    string // who took it out, where that was the guest

	// Of a kind that returns by itself.
	dark   bool // there is nothing at the other end of its cable
	wanted bool // it has been asked in, and not out since
	out    bool // it has been asked out, and not in since
}

// waits says why a side of a kind that returns by itself cannot come in now.
func (s *simSide) waits() string {
	switch {
	case !s.present:
		return "no such NIC"
	case s.dark:
		return "no carrier"
	}
	return ""
}

func (d *simDriver) serving() int {
	n := 0
	for i := range d.sides {
		if d.sides[i].state.InService() {
			n++
		}
	}
	return n
}

// set changes a side and reports it. Its partner's simplex or duplex follows, reported
// after it, as real drivers do.
func (d *simDriver) set(now time.Time, i drivers.Side, to drivers.State, ev drivers.Event) {
	s := &d.sides[i]
	if s.state == to {
		return
	}
	ev.Kind, ev.Side, ev.From, ev.To, ev.Time = drivers.EventSide, i, s.state.String(), to.String(), now
	s.state, s.reason, s.since = to, ev.Reason, now
	if s.draining {
		ev.Detail = map[string]any{"draining": true}
	}
	s.outBy, _ = ev.Detail["out_by"].(string)
	if to != drivers.Removed && withDriver(to) {
		d.sides[1-i].outBy = "" // the machine is on: who powered it off before is past
	}
	d.emit(ev)
	partner := &d.sides[1-i]
	if !to.InService() && partner.state == drivers.Duplex {
		d.set(now, 1-i, drivers.Simplex, drivers.Event{})
	}
	if to == drivers.Duplex && partner.state == drivers.Simplex {
		d.set(now, 1-i, drivers.Duplex, drivers.Event{})
	}
	if !to.InService() && partner.state.InService() && !d.kind.returns {
		s.fresh = false // writes go on without it
	}
	if d.kind.machine && d.serving() == 0 {
		d.cold()
	}
	d.choose()
}

// cold: a machine that is off has nothing that one side knows and the other does not.
func (d *simDriver) cold() {
	d.halted = false
	for i := range d.sides {
		d.sides[i].fresh = true
	}
}

// reboots: the machine begins anew on one of its sides, and the other is brought in again.
func (d *simDriver) reboots(now time.Time) {
	first := drivers.Side(0)
	if !d.sides[first].state.InService() {
		first = 1
	}
	if d.halted {
		d.panics(now, false)
	}
	if s := d.sides[1-first].state; s.InService() || onItsWay(s) {
		d.set(now, 1-first, drivers.Offline, drivers.Event{Reason: "the guest has started anew: it is brought in again"})
	}
}

// powerOff is the guest's own word. What was about to join the machine goes with it.
func (d *simDriver) powerOff(now time.Time) {
	for i := range d.sides {
		if s := d.sides[i].state; s.InService() || onItsWay(s) {
			d.set(now, drivers.Side(i), drivers.Offline, drivers.Event{Reason: "the guest powered itself off", Detail: map[string]any{"out_by": drivers.OutByGuest}})
		}
	}
}

// dumps: a side keeps its memory as it is until that is written out.
func (d *simDriver) dumps(now time.Time, i drivers.Side) {
	if d.serving() == 2 {
		d.set(now, i, drivers.Dumping, drivers.Event{Reason: "its memory is written to /var/lib/ft/dumps/guest.core"})
	}
}

// panics: the machine is on and serves nobody, or is reset and serves again.
func (d *simDriver) panics(now time.Time, halted bool) {
	ev := drivers.Event{Kind: drivers.EventFace, Side: drivers.Whole, To: drivers.FaceSimplex.String(), Time: now}
	if d.halted = halted; halted {
		ev.To, ev.Reason = drivers.FaceDown.String(), "the guest's kernel has panicked"
	}
	d.emit(ev)
}

// choose makes the side that serves alone the active one.
func (d *simDriver) choose() {
	for i := range d.sides {
		if d.serving() == 1 && d.sides[i].state.InService() {
			d.active = drivers.Side(i)
		}
	}
}

func (d *simDriver) emit(ev drivers.Event) {
	d.seq++
	ev.Seq = d.seq
	if d.connected {
		d.queue = append(d.queue, ev)
	}
}

// status is a snapshot.
func (d *simDriver) status() drivers.Status {
	st := drivers.Status{Name: d.name, Kind: d.kind.name, Pid: 1, Seq: d.seq, Face: "/dev/ft/" + d.name, State: drivers.FaceSimplex}
	if d.halted {
		st.State, st.Reason = drivers.FaceDown, "the guest's kernel has panicked"
	}
	for i := range d.sides {
		s := &d.sides[i]
		st.Sides[i] = drivers.SideStatus{State: s.state, Reason: s.reason, Since: s.since, Draining: s.draining, OutBy: s.outBy}
		st.Sides[i].Resource.Identity = s.part
		st.Sides[i].Active = d.kind.switchable && s.state.InService() && d.active == drivers.Side(i)
	}
	return st
}

// start begins a process: it adopts the data path, or makes one from the best side.
func (d *simDriver) start(now time.Time) {
	d.alive, d.kept, d.gaveUp, d.connected = true, true, false, false
	d.queue, d.seq = nil, 0
	for i := range d.sides {
		switch s := &d.sides[i]; {
		case onItsWay(s.state):
			s.state = drivers.Offline // the work of the old process is lost
		case s.state.InService() && !s.present:
			s.state = drivers.Removed
		}
		if s := &d.sides[i]; d.kind.returns {
			switch {
			case !s.present:
				s.state = drivers.Removed
			case s.state == drivers.Removed:
				s.state = drivers.Offline
			case s.state.InService() && s.dark:
				s.state, s.reason, s.since = drivers.Shot, "no carrier", now
			}
			s.wanted, s.out = s.state.InService() && !d.config[i].Out, d.config[i].Out
		}
	}
	for i := range d.sides {
		if s, partner := &d.sides[i], &d.sides[1-i]; !s.state.InService() && partner.state.InService() {
			s.fresh, partner.state = d.kind.returns, drivers.Simplex
		}
	}
	d.choose()
	if d.up {
		return
	}
	d.up = true
	for i := range d.sides {
		s := &d.sides[i]
		if s.state != drivers.Removed {
			s.state = drivers.Offline
		}
		if s.present && s.fresh && !s.dark && !d.config[i].Out && d.serving() == 0 {
			s.state, s.since, s.wanted = drivers.Simplex, now, true
			d.choose()
		}
	}
}

// die ends the process. The data path goes on, unless the keeper has given up.
func (d *simDriver) die(gaveUp bool) {
	d.alive, d.connected, d.gaveUp = false, false, gaveUp
	d.calls, d.queue, d.results = nil, nil, nil
	if gaveUp {
		d.takeDown()
	}
	d.kept = d.kept && !gaveUp
}

func (d *simDriver) takeDown() {
	d.up = false
	behind := d.serving() == 1
	for i := range d.sides {
		s := &d.sides[i]
		if behind && !s.state.InService() && !d.kind.returns {
			s.fresh = false
		}
		if s.state != drivers.Removed {
			s.state = drivers.Offline
		}
		s.draining, s.outBy = false, ""
	}
	if d.kind.machine {
		d.cold()
	}
}

// do carries out a call and returns its result. moods: whatever may go wrong does when
// bad is true.
func (d *simDriver) do(now time.Time, a Action, bad bool) ActionResult {
	res := ActionResult{ID: a.ID, Outcome: OK}
	refuse := func(code, sentence string) ActionResult {
		return ActionResult{ID: a.ID, Outcome: Refused, Code: code, Sentence: sentence}
	}
	switch a.Kind {
	case ActionAttach:
		s, partner := &d.sides[a.Side], &d.sides[1-a.Side]
		if d.kind.returns {
			s.wanted, s.out = true, false
		}
		switch {
		case withDriver(s.state):
			return refuse(drivers.RuleState, "in already")
		case d.kind.returns && s.waits() != "":
			return refuse(drivers.RuleWaits, s.waits())
		case s.draining:
			return refuse(drivers.RuleBusy, "I/O has not ended")
		case !s.present || bad:
			return ActionResult{ID: a.ID, Outcome: Failed, Sentence: "no such device"}
		case !partner.state.InService() && !s.fresh:
			return refuse(drivers.RuleStale, "it is behind and cannot serve alone")
		}
		d.set(now, a.Side, drivers.Diagnostics, drivers.Event{})
	case ActionDetach:
		s, partner := &d.sides[a.Side], &d.sides[1-a.Side]
		switch {
		case s.state.InService() && !partner.state.InService() && a.Reason.AcceptRisk != drivers.RiskLastSide:
			return refuse(drivers.RuleLastSide, "it is the last good side")
		case bad:
			return ActionResult{ID: a.ID, Outcome: Failed, Sentence: "the metadata could not be written"}
		case s.state == drivers.Dumping:
			return refuse(drivers.RuleState, "its memory is being written out")
		case withDriver(s.state) || d.kind.returns && s.present:
			d.set(now, a.Side, drivers.Offline, drivers.Event{Reason: a.Reason.Text})
		}
		s.wanted, s.out = false, true
	case ActionStop:
		if bad {
			return refuse(drivers.RuleBusy, "it is mounted")
		}
		d.takeDown()
		d.die(false)
		d.kept = false
	case ActionSwitch:
		switch to := a.Side; {
		case bad || d.serving() < 2:
			return refuse(drivers.RuleState, "the other one is not good")
		case to == drivers.Whole:
			d.active = 1 - d.active
		default:
			d.active = to
		}
	}
	return res
}

// progress brings a side that is on its way one step further.
func (d *simDriver) progress(now time.Time, i drivers.Side) {
	s, partner := &d.sides[i], &d.sides[1-i]
	switch {
	case d.kind.returns && s.wanted && s.waits() == "" && !withDriver(s.state) && !s.draining:
		d.set(now, i, drivers.Diagnostics, drivers.Event{Reason: "it can come in again"})
	case s.state == drivers.Diagnostics && partner.state.InService():
		d.set(now, i, drivers.Syncing, drivers.Event{})
	case s.state == drivers.Diagnostics && s.fresh:
		d.set(now, i, drivers.Simplex, drivers.Event{})
	case s.state == drivers.Syncing && partner.state.InService():
		s.fresh = true
		d.set(now, i, drivers.Duplex, drivers.Event{})
	case s.state == drivers.Dumping:
		d.set(now, i, drivers.Offline, drivers.Event{Reason: "its memory has been written out"})
	case onItsWay(s.state) && d.kind.machine:
		d.set(now, i, drivers.Offline, drivers.Event{Reason: "the machine that it was to join has ended"})
	case onItsWay(s.state):
		d.set(now, i, drivers.Offline, drivers.Event{Reason: "it is behind and cannot serve alone", Detail: map[string]any{"code": drivers.RuleStale}})
	}
}

// fail is a fault of a side. The last good side is never cut off for one.
func (d *simDriver) fail(now time.Time, i drivers.Side, injected, draining bool) {
	s := &d.sides[i]
	if s.state.InService() && d.serving() == 1 || !s.state.InService() && !onItsWay(s.state) || !d.alive {
		return
	}
	s.draining = draining
	d.set(now, i, drivers.Shot, drivers.Event{Fault: "write-error", Reason: "write error", Injected: injected, Identity: s.part})
}

// lose is a part that goes. The driver sees it when it is in use, or looks all the time.
func (d *simDriver) lose(now time.Time, i drivers.Side) {
	s := &d.sides[i]
	s.present = false
	if (withDriver(s.state) || d.kind.returns) && d.alive {
		d.set(now, i, drivers.Removed, drivers.Event{Reason: "no such device"})
	}
}

// found is a part that is there again, where the driver looks all the time.
func (d *simDriver) found(now time.Time, i drivers.Side) {
	if d.alive && d.sides[i].state == drivers.Removed {
		d.set(now, i, drivers.Offline, drivers.Event{Reason: "there it is", Identity: d.sides[i].part})
	}
}

// darken pulls a cable or puts it back. That is no fault, and the last side goes too.
func (d *simDriver) darken(now time.Time, i drivers.Side) {
	s := &d.sides[i]
	if s.dark = !s.dark; s.dark && withDriver(s.state) && d.alive {
		d.set(now, i, drivers.Shot, drivers.Event{Reason: "no carrier"})
	}
}

func (d *simDriver) String() string {
	return fmt.Sprintf("%s: up %v alive %v connected %v, %v/%v fresh %v/%v present %v/%v, %d calls %d results %d events",
		d.name, d.up, d.alive, d.connected, d.sides[0].state, d.sides[1].state, d.sides[0].fresh, d.sides[1].fresh,
		d.sides[0].present, d.sides[1].present, len(d.calls), len(d.results), len(d.queue))
}
