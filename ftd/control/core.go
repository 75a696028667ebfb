// Package control is the policy of the whole box as a pure state machine: which side
// comes back, when, and what a person may take away. It has no I/O, no clock and no
// goroutine; the same events at the same times give the same result.
//
// # The way of an event
//
// Step takes one Event and passes it through the pipeline of DRBD's state changes:
//
//	propose   what the event asks for, on a copy of all states      propose*.go
//	sanitize  make the copy consistent (simplex or duplex, broken)  sanitize.go
//	validate  refuse a request, with a code and a sentence          validate.go
//	commit    change the states, number the changes, log them       commit.go
//	after     what has to be done so that states become targets     after.go, write.go
//
// after compares where each side is with where it is wanted, and asks for the next
// step. It looks at levels and never at the event, so that nothing is forgotten when
// an answer is lost, a driver restarts, or ftd itself does.
//
// # The rules
//
//  1. The last good side of a face is never taken away but by a fault or by an admin
//     who names the risk. (validate.go for requests, mayDetach for what the core does)
//  2. A side comes in only through diagnostics and syncing. (A driver that reports
//     otherwise has the side taken out again: proposeSide.)
//  3. Faults are judged by the MTBF policy of the part. (mtbf.go)
//  4. What an admin took out stays out over restarts; what failed comes back.
//     (Target in persist.go)
//  5. Boot is simplex: while a face is down one side at a time is brought in; the other
//     follows when the face is up, or when an admin says so. (mayAttach)
//  6. What must not be forgotten is on disk before it is acted on. (Action.After)
//
// # Facts and wishes
//
// The state of a side is a fact: its driver says it, in events and snapshots, and the
// core adds what a driver cannot know (removed, broken, shot until it has come back).
// Whether a side is wanted in or out is its Target. A request changes targets; a fault
// changes a target when it is judged. Nothing else does.
//
// # What drivers must do
//
// An event that cuts a side off says To "shot" and Fault; a side whose part is gone
// says "removed"; a side that was out and could now come in again (carrier is back)
// says "offline", and is then tried at once. Detail "draining": true says that I/O is
// still under way, and EventDrained must follow. Diagnostics that find the side not to
// be acceptable say "offline" with Detail "code": one of the codes of drivers.Refused.
//
// A driver whose kind returns (kind.go) watches what its sides are made of itself. It
// brings a side that is wanted in again as soon as it can, by diagnostics and syncing and
// without an attach; an attach that comes too early is refused with drivers.RuleWaits,
// after which the side counts as wanted. A detach is for it the word that a side is not
// wanted, whatever its state. Of other kinds RuleWaits is tried again by itself.
//
// A side that is "dumping" is out of service, and left alone until its driver says "offline".
// Detail "out_by" of a side that goes offline says that a machine was powered off from
// within, which is a word about both of its sides.
package control

import (
	"time"

	"ft/drivers"
)

// Config is the part of ft.toml that belongs to the box.
type Config struct {
	Name    string        // of the box; also the id of its own log entries
	Bringup BringupPolicy // "" is auto
	MTBF    MTBFSettings  // zero fields: DefaultMTBF
}

// Limits of waiting. Nothing is waited for without one.
const (
	actionWait   = 60 * time.Second // for the result of an action
	reportWait   = 30 * time.Second // for the first report on a side after its attach was accepted
	requestWait  = 90 * time.Second // for a request, before it is answered with "timeout"
	drainWait    = 60 * time.Second // for I/O on a cut-off side, before an attach is tried all the same
	eventWait    = 5 * time.Second  // for events that a snapshot contains, before they count as lost
	driverWait   = 30 * time.Second // for a driver to connect, before it is asked for again
	stoppedWait  = time.Second      // after one was stopped with its keeper, which is about to end as well
	retryMax     = 60 * time.Second // between two tries
	stableAfter  = 60 * time.Second // in service for so long: the next fault is tried again at once
	readyPause   = time.Second      // between tries when a side is reported ready again and again
	innerStepMax = 1000             // consequences of one event; more is a defect
)

// backoff is the pause before try n: none, 1, 2, 4 … 60 seconds.
func backoff(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	if n > 6 {
		return retryMax
	}
	return min(time.Second<<(n-1), retryMax)
}

// Core is the state of the box. It is not safe for use by several goroutines.
type Core struct {
	cfg        Config
	loaded     bool          // StateLoaded has come
	resumed    bool          // the box ran when this ftd came, as far as is known
	bringupSet BringupPolicy // as an admin set it, or ""
	devices    []*device     // in the order of the configuration
	modules    [len(moduleIDs)]module
	box        mark[drivers.FaceState]

	settings  map[string]MTBFSettings // by side id
	history   map[string]*History     // by identity
	boot      *Boot                   // the last one, nil for none known
	cleared   map[string]*cleared     // by identity
	strangers map[string]Target       // targets of sides that are not configured now
	parts     map[string]string       // by side id: the identity of what was in it last

	requests []*request // unfinished, oldest first

	// Rule 6. dirty: memory is ahead of what has been given to be written.
	dirty      bool
	saved      Persistent // as it is on disk
	writes     []write    // given to be written, no result yet
	writeFails int        // in a row
	writeAgain time.Time  // not before

	rules []rule // validate.go

	// The Step under way.
	now        time.Time
	seq        uint64
	changes    uint64 // of what faces, modules and the box are derived from
	derived    uint64 // as of which change they have been
	lastAction uint64
	timer      time.Time
	out        Result
	next       []deviceNext // the copy that is proposed on
}

// New makes a core that knows no device yet.
func New(cfg Config) *Core {
	c := &Core{
		cfg:       cfg,
		settings:  map[string]MTBFSettings{},
		history:   map[string]*History{},
		cleared:   map[string]*cleared{},
		strangers: map[string]Target{},
		parts:     map[string]string{},
		rules:     rules[:],
	}
	for i := range c.modules {
		c.modules[i].id = moduleIDs[i]
	}
	c.box.state = drivers.FaceDown
	return c
}

// Step takes one event at a time that the caller read from a clock, and returns what is
// to be done. It never fails: what it cannot use it logs.
func (c *Core) Step(now time.Time, ev Event) Result {
	c.now, c.out = now, Result{}
	if c.box.since.IsZero() {
		c.box.since = now
	}
	c.apply(ev)
	for n := 0; ; n++ {
		due := c.due()
		if due == nil {
			break
		}
		if n == innerStepMax {
			c.noteOn(c.cfg.Name, Critical, "the consequences of an event do not end: this is a defect of ftd, please report it", nil)
			break
		}
		c.apply(due)
	}
	c.after()
	return c.out
}

// apply passes one event through the pipeline up to commit.
func (c *Core) apply(ev Event) {
	p := &proposal{next: c.copyFacts()}
	if r := c.propose(p, ev); r != nil {
		c.refuse(p, r)
		return
	}
	c.sanitize(p)
	if r := c.validate(p); r != nil {
		c.refuse(p, r)
		return
	}
	c.commit(p)
}

// bringup is the policy in force.
func (c *Core) bringup() BringupPolicy {
	switch {
	case c.bringupSet != "":
		return c.bringupSet
	case c.cfg.Bringup != "":
		return c.cfg.Bringup
	}
	return BringupAuto
}

// Unheard are the devices of which nobody knows yet how they stand.
func (c *Core) Unheard() (names []string) {
	for _, d := range c.devices {
		if d.link == LinkStarting {
			names = append(names, d.name)
		}
	}
	return names
}

// unheard says that of a device, and of one that will be asked in a moment.
func (c *Core) unheard(d *device) bool {
	if d.link != LinkNone {
		return d.link == LinkStarting
	}
	if !d.wanted() {
		return false
	}
	on := c.device(c.waitsFor(d))
	return on == nil || c.unheard(on)
}

// Seq is the number of the last log entry.
func (c *Core) Seq() uint64 { return c.seq }
