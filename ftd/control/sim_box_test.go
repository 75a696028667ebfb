package control

import (
	"fmt"
	"strings"
	"time"

	"ft/drivers"
)

// simBox is a whole box around the core: disks, NICs and machines with their drivers, a
// keeper, a state directory, admins, and a shell that keeps the contract of Result.
// Everything that happens is chosen by pick, so that a run is its choices.
type simBox struct {
	pick  func(n int) int
	core  stepper
	make  func(Config) stepper // a core, or a broken variant of it
	cfg   Config
	now   time.Time
	timer time.Time

	devices  []*simDriver
	uevents  []Event // on their way to ftd
	disk     Persistent
	diskBad  bool
	written  []ActionResult  // of writes, on their way to the core
	failed   map[uint64]bool // writes that failed
	jobs     []job           // sim_disk_test.go: what waits for the disk
	held     []Action        // that wait for it too
	lastSeq  uint64
	requests int
	parts    int

	// What kind of run this is.
	faulty   bool            // parts fail more often than admins have wishes
	slowDisk bool            // writes take a while, and may be lost with ftd
	dark     map[string]bool // modules without power
	polls    bool            // the shell looks at the drivers' status regularly; else events are never lost

	rules   *ruleBook
	telling bool     // whether the story is kept
	story   []string // what happened, for whoever has to find out why
	calm    bool     // nothing goes wrong any more
}

// stepper is a Core, or a variant that breaks a rule.
type stepper interface {
	Step(time.Time, Event) Result
	Status(time.Time) StatusDocument
	pull() []pullView
	faces() []faceView
}

// faceView is what the status says of a face, and its driver.
type faceView struct {
	id, kind string
	state    drivers.FaceState
	driver   DriverLink
}

func (c *Core) faces() (views []faceView) {
	for _, d := range c.devices {
		views = append(views, faceView{d.name, d.kind.name, d.face.state, d.link})
	}
	return views
}

// pullView is what the status says of a side, without what takes time to say: it is asked for
// at nearly every step.
type pullView struct {
	id    string
	state drivers.State
	safe  bool
	out   Author // by whose word it is wanted out, "" when it is wanted in
}

func (c *Core) pull() (views []pullView) {
	views = make([]pullView, 0, 2*len(c.devices))
	for _, d := range c.devices {
		for i := range d.sides {
			s := &d.sides[i]
			v := pullView{id: s.id, state: s.state, safe: c.pullNote(s) == ""}
			if s.target.out() {
				v.out = s.target.By
			}
			views = append(views, v)
		}
	}
	return views
}

func newSimBox(pick func(int) int, telling bool, make func(Config) stepper) *simBox {
	b := &simBox{
		pick: pick, make: make, telling: telling, now: time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC),
		cfg: Config{Name: "box", Bringup: BringupAuto}, dark: map[string]bool{},
	}
	if pick(4) == 0 {
		b.cfg.Bringup = BringupDefer
	}
	b.faulty, b.polls, b.slowDisk = pick(3) == 0, pick(2) == 0, pick(3) == 0
	for i, n := 0, 1+pick(3); i < n; i++ {
		d := &simDriver{kind: &kinds[pick(len(kinds))]}
		d.name = fmt.Sprintf("%s%d", d.kind.name, i)
		for j := range d.sides {
			d.sides[j] = simSide{state: drivers.Offline, part: b.newPart(), present: true, fresh: true}
		}
		if d.kind.machine && i > 0 && pick(2) == 0 {
			d.needs = []string{b.devices[pick(i)].name}
		}
		b.devices = append(b.devices, d)
	}
	b.rules = newRuleBook(b)
	b.boot()
	if pick(3) == 0 {
		b.warm()
	}
	return b
}

func (b *simBox) newPart() string {
	b.parts++
	return fmt.Sprintf("SN-%d", b.parts)
}

func (b *simBox) tell(format string, args ...any) {
	if !b.telling {
		return
	}
	if format == "%s" && args[0] == "" {
		return
	}
	b.story = append(b.story, b.now.Format("15:04:05 ")+fmt.Sprintf(format, args...))
}

// boot starts ftd: a new core with what is on disk.
func (b *simBox) boot() {
	b.tell("ftd starts")
	b.core, b.timer, b.uevents = b.make(b.cfg), time.Time{}, nil
	b.rules.forgetful = b.rules.forgetful || len(b.jobs) > 0
	b.written, b.failed, b.jobs, b.held = nil, map[uint64]bool{}, nil, nil
	b.rules.booted()
	loaded := StateLoaded{State: b.disk, LastSeq: b.lastSeq, Booted: b.now}
	for _, d := range b.devices {
		if d.alive {
			loaded.Booted = time.Time{}
		}
	}
	b.step(loaded)
	for _, module := range moduleIDs {
		if b.dark[module] {
			b.step(ModulePower{Module: module})
		}
	}
	for _, d := range b.devices {
		d.connected, d.queue, d.results = false, nil, nil
		if b.pick(2) == 0 {
			d.calls = nil // lost with ftd; else the driver has them already
		}
		for i := range d.calls {
			d.calls[i].ID = 0 // and nobody is there for the result
		}
		ev := DeviceConfigured{Kind: d.kind.name, Name: d.name, Needs: d.needs}
		for i := range d.sides {
			ev.Sides[i] = SideSpec{Resource: drivers.Resource{Path: fmt.Sprintf("/dev/%s-%d", d.name, i)}, Absent: !d.sides[i].present && !d.kind.returns}
		}
		b.step(ev)
	}
}

func (b *simBox) device(name string) *simDriver {
	for _, d := range b.devices {
		if d.name == name {
			return d
		}
	}
	panic("no device " + name)
}

func sideID(d *simDriver, i drivers.Side) string { return d.kind.modules[i] + "/" + d.name }

// step gives the core an event, has the rules checked, and carries out what it asks for.
func (b *simBox) step(ev Event) {
	b.now = b.now.Add(time.Millisecond)
	b.rules.before(ev)
	r := b.core.Step(b.now, ev)
	if b.telling {
		b.tell("%s", describe(ev, r))
	}
	for _, e := range r.Entries {
		b.tell("  %s %s → %s: %s", e.ID, e.From, e.To, e.Reason)
		b.lastSeq = e.Seq
	}
	b.rules.after(ev, r)
	b.carryOut(r)
}

// describe is an event in a line, or "" if nothing came of it that is worth one.
func describe(ev Event, r Result) string {
	switch ev := ev.(type) {
	case Tick:
		return ""
	case DriverStatus:
		if len(r.Entries) == 0 {
			return ""
		}
		return describeStatus("status", ev.Device, ev.Status)
	case DriverConnected:
		return describeStatus("connected", ev.Device, ev.Status)
	case DriverReport:
		e := ev.Event
		return fmt.Sprintf("report %s %d: %s side %d %s %s %s", ev.Device, e.Seq, e.Kind, e.Side, e.To, e.Fault, e.Reason)
	case StateLoaded:
		return fmt.Sprintf("loaded: bringup %q, targets %v", ev.State.Bringup, ev.State.Targets)
	case ActionResult:
		if len(r.Entries)+len(r.Actions) == 0 {
			return ""
		}
		return fmt.Sprintf("result %d %s %s", ev.ID, ev.Outcome, ev.Code)
	}
	return fmt.Sprintf("%T%+v", ev, ev)
}

func describeStatus(what, device string, st drivers.Status) string {
	return fmt.Sprintf("%s %s, seq %d: %v %s, %v %s", what, device, st.Seq,
		st.Sides[0].State, st.Sides[0].Resource.Identity, st.Sides[1].State, st.Sides[1].Resource.Identity)
}

// writesDone lets the disk finish and brings the results to the core: now, or later.
func (b *simBox) writesDone() {
	b.write(len(b.jobs))
	for len(b.written) > 0 {
		res := b.written[0]
		b.written = b.written[1:]
		b.step(res)
	}
}

// transcript is what happened before the core was first wrong.
func (b *simBox) transcript(lines int) string {
	story := b.story
	for i, line := range story {
		if strings.Contains(line, "WRONG") {
			story = story[:min(i+12, len(story))]
			break
		}
	}
	if len(story) > lines {
		story = story[len(story)-lines:]
	}
	return strings.Join(story, "\n")
}
