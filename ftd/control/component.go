package control

import (
	"time"

	"ft/drivers"
)

// This file holds what the core knows of sides, devices and modules. Fields fall in
// three groups, and the difference matters:
//
//   - facts and link: what the rules rest on. configure makes them, commit alone
//     changes them.
//   - work, retry, request: what the core has asked for and waits for.
//   - shown: what a driver says for people to read. No rule rests on it.

// facts are what the pipeline proposes, checks and commits for one side.
type facts struct {
	state   drivers.State
	reason  string // why it is in that state
	target  Target
	present bool // what it is made of is there
	// draining: it is cut off, but I/O from before is still under way.
	draining bool
	// recall: why the core itself wants the side out at once, whatever its target: it
	// came in without a test, or what it is made of has vanished. "" when it does not.
	recall string
	// fresh: it is new here, by boot or insertion. By policy defer it waits until an admin
	// says so.
	fresh bool
	hold  hold
}

// good says whether a face may rely on the side.
func (f *facts) good() bool {
	return f.state.InService() && !f.target.out() && f.present && f.recall == ""
}

// hold is why a side that is wanted in is not being brought in just now.
type hold struct {
	kind     holdKind
	until    time.Time // holdRetry
	code     string    // holdRefused
	sentence string
}

type holdKind uint8

const (
	holdNone    holdKind = iota
	holdRefused          // by a rule of the driver, until something changes
	holdRetry            // until a time
	holdWaits            // its driver brings it in by itself as soon as it can
)

// work is what the driver has been asked to do with a side.
type work uint8

const (
	idle      work = iota
	attaching      // ActionAttach has no result yet
	attached       // it was accepted; the driver's first report is still to come
	detaching      // ActionDetach has no result yet
	detached       // it is done; the driver's report is still to come
)

// side is one half of a device, in one module.
type side struct {
	id    string
	dev   *device
	index drivers.Side
	facts
	since time.Time // of state

	resource drivers.Resource // as configured
	identity string           // of the part, as last known

	said      drivers.State // by the driver, last
	work      work
	workID    uint64
	workGate  uint64    // the ActionPersist that it waits for
	workRisk  string    // that a detach was sent with
	workSince time.Time // when it was asked for
	workUntil time.Time // how long its result, or the report after it, is waited for
	moved     bool      // the driver has reported on the side since the attach began
	probe     bool      // attached to find out whether it is there
	told      bool      // its driver knows that it is wanted out (see untold)
	pulled    bool      // the kernel's last word on what it is made of is that it has gone
	risk      string    // that the admin accepted for the attach
	fails     int       // tries in a row that did not end in stable service
	served    time.Time // when it last came into service
	detachAt  time.Time // a failed detach is not tried again before
	outFails  int       // detaches that failed, in a row
	stirred   time.Time // when something last happened that may lift a refusal
	drainTill time.Time // how long a drain is waited for
	unjudged  judgement // a fault that has no verdict yet
	request   *request  // who waits for the side
	undo      *Target   // the target before an admin's word that is not on disk yet

	active   bool
	note     string
	progress *drivers.Progress
}

// partner is the other side of the face.
func (s *side) partner() *side { return &s.dev.sides[s.index.Other()] }

// leaving says whether the driver has been asked to take the side out, whatever has been
// wanted since.
func (s *side) leaving() bool { return s.work == detaching || s.work == detached }

// untold says that the side is wanted out and its driver does not know, which could
// bring it in: by itself, or a disk's that lost it, to serve from it when its partner is
// brought in while the face is down.
func (s *side) untold() bool {
	looks := s.dev.kind.returns || !s.dev.kind.machine && s.state == drivers.Removed && s.target.By == ByAdmin
	return looks && s.dev.link == LinkConnected && s.state != drivers.Empty &&
		s.target.out() && !withDriver(s.state) && !s.told
}

// asking says that the driver of a side that is not there is about to be told that it is
// wanted.
func (s *side) asking() bool {
	return s.dev.kind.returns && s.state == drivers.Removed && !s.pulled && s.hold.kind != holdWaits && s.hold.kind != holdRefused
}

// asked notes an action that was given out for the side.
func (s *side) asked(w work, id, gate uint64, now time.Time) {
	s.work, s.workID, s.workGate, s.moved = w, id, gate, false
	s.workSince, s.workUntil = now, now.Add(actionWait)
}

// answered notes that the action is done and only the driver's report is to come.
func (s *side) answered(w work, now time.Time) {
	s.work, s.workID, s.workGate, s.workUntil = w, 0, 0, now.Add(reportWait)
}

func (s *side) endWork() { s.work, s.workID, s.workGate, s.workUntil = idle, 0, 0, time.Time{} }

// judgement says which history a side is to be judged by.
type judgement uint8

const (
	judged judgement = iota
	unjudgedReal
	unjudgedInjected
)

// mark is a derived state: of a face, a module, the box.
type mark[S comparable] struct {
	state   S
	reason  string
	since   time.Time
	settled bool // it is known how it was when this ftd came
}

// device is one face over two sides.
type device struct {
	name  string
	kind  *kind
	index int
	needs []string // devices whose faces must be there before its driver is started
	link  DriverLink
	down  string // why the driver has the face down though a side is in service; ""
	sides [2]side
	face  mark[drivers.FaceState]

	lastSeq   uint64    // of the driver's events on this connection
	lagging   bool      // events were missed: the next snapshot is the truth
	lookAgain time.Time // it has been asked for: when to ask again, or zero
	ahead     time.Time // since when snapshots contain events that have not come, or zero
	process   processWork
	stop      deviceWork
	change    deviceWork // switch
	stopBack  DriverLink // the link that a stop which is not carried out goes back to
	retarget  bool       // targets have changed: the keeper must know
	toldGate  uint64     // the ActionPersist that telling it waits for

	path  string // of the face
	pid   int
	stats map[string]any
}

// processWork is the bringing up of the driver process.
type processWork struct {
	id    uint64    // ActionStart without a result
	gate  uint64    // the ActionPersist that it waits for
	again time.Time // when it is asked for again
	fails int
	told  bool // that it is overdue has been logged
}

// deviceWork is an action on a whole device.
type deviceWork struct {
	wanted  bool
	id      uint64 // of the action, while it has no result
	gate    uint64 // the ActionPersist that it waits for
	until   time.Time
	again   time.Time // after it failed: not before
	fails   int
	risk    bool         // an admin named the risk of a stop while it serves
	to      drivers.Side // the side that a switch shall make active; Whole: the other one
	request *request
}

// wanted says whether the device should have a driver process.
func (d *device) wanted() bool {
	for i := range d.sides {
		if s := &d.sides[i]; s.state != drivers.Empty && !s.target.out() {
			return true
		}
	}
	return false
}

// works are the actions on the whole device that may be under way.
func (d *device) works() [2]*deviceWork { return [2]*deviceWork{&d.stop, &d.change} }

// faceName is what people call the face.
func (d *device) faceName() string {
	if d.path != "" {
		return d.path
	}
	return d.kind.face + " " + d.name
}

func (c *Core) device(name string) *device {
	for _, d := range c.devices {
		if d.name == name {
			return d
		}
	}
	return nil
}

func (c *Core) side(id string) *side {
	for _, d := range c.devices {
		for i := range d.sides {
			if d.sides[i].id == id {
				return &d.sides[i]
			}
		}
	}
	return nil
}

// scope is what an id in a request stands for.
type scope struct {
	id     string
	sides  []*side // configured ones only
	device *device // set when the id is a device
	module *module // set when the id is a module
}

// find resolves the id of a side, a device or a module.
func (c *Core) find(id string) (scope, *refusal) {
	sc := scope{id: id}
	add := func(s *side) {
		if s.state != drivers.Empty {
			sc.sides = append(sc.sides, s)
		}
	}
	if s := c.side(id); s != nil {
		add(s)
	} else if d := c.device(id); d != nil {
		sc.device = d
		add(&d.sides[0])
		add(&d.sides[1])
	} else {
		if sc.module = c.module(id); sc.module == nil {
			return sc, refuse(RuleUnknown, "there is no %q: ftctl ls shows modules, devices and sides", id)
		}
		for _, s := range sc.module.sides {
			add(s)
		}
	}
	if len(sc.sides) == 0 {
		return sc, refuse(drivers.RuleState, "nothing is configured in %s: name it in ft.toml first", id)
	}
	return sc, nil
}
