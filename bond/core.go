package bond

import (
	"fmt"
	"time"

	"ft/bond/datapath"
	"ft/drivers"
)

// Core decides which port carries the face. It has no I/O, no clock and no goroutine:
// Step takes what was seen or asked for, at a time, and returns what is to be done.
//
// What it keeps, after every step:
//
//  1. At most one port is active, and one is whenever there is a port with a carrier that
//     nobody took out. A port that is being tested, is damped, or whose path is dead is
//     better than none, and worse than one in service.
//  2. A port that was taken out is not active, nor may the kernel turn to it.
//  3. A port that has failed serves again as standby only after its carrier has been there
//     for the up-delay and its path has answered. (With no other port it serves at once.)
//  4. A path is dead only if the other port's path is good: a target that answers on no
//     port is dead itself, and says nothing about paths. A port is left for a dead path
//     only when the other's has just answered, and has done so for a while: a target that
//     dies is missed on one port first, and one that is back is heard on one port first.
//  5. A port that loses its carrier more often than FlapMax in FlapWindow is held back
//     until it has been quiet for FlapHold. Nobody turns to it meanwhile, unless the
//     other port is gone.
//
// A port comes back by itself: the last one that is left may have to when nobody else is
// there to ask. What may not come back has been taken out, by a person or by ftd.
type Core struct {
	opt     Options
	probing bool
	begun   bool
	now     time.Time
	ports   [2]port
	active  drivers.Side
	told    datapath.State // what the data path was told last, or has done since
	out     Out
}

// port is one side.
type port struct {
	side   drivers.Side
	name   string // of the NIC
	state  drivers.State
	reason string
	since  time.Time

	present   bool
	carrier   bool
	carrierAt time.Time // when it came or went
	path      Path
	pathWhy   string
	heardAt   time.Time // the last answer to a probe
	goodSince time.Time // when the path became good
	quality   int       // speed and duplex mode, higher is better
	wanted    bool      // it comes in by itself as soon as it can
	takenOut  bool
	outWhy    string

	upAt      time.Time // the end of the up-delay
	downAt    time.Time // the end of the down-delay, while it runs
	testUntil time.Time // how long a test waits for an answer on the path
	losses    []time.Time
	storm     bool // damped
	holdUntil time.Time
	turnedAt  time.Time // the kernel turned away from it: that was a loss

	cause   string // why it cannot carry the face any more
	causeAt time.Time
}

// Path is what probes say of the way behind a port.
type Path uint8

// Verdicts on a path.
const (
	PathUnknown Path = iota
	PathGood
	PathBad
)

var pathNames = [...]string{"unknown", "good", "dead"}

func (p Path) String() string { return pathNames[p] }

// Event is something that was seen or asked for.
type Event interface{ event() }

// Events.
type (
	// Adopted says, before Begin, what the data path of an earlier process does.
	Adopted struct{ State datapath.State }
	// Begin says that both ports have been looked at.
	Begin struct{}
	// Seen says that a NIC is there and that the data path is on it.
	Seen struct {
		Side    drivers.Side
		Name    string
		Carrier bool
		Quality int
	}
	// Gone says that a NIC is not there, or, with Unfit, that it is and cannot be used.
	Gone struct {
		Side  drivers.Side
		Why   string
		Unfit bool
		At    time.Time
	}
	// CarrierSeen says that a carrier came or went.
	CarrierSeen struct {
		Side drivers.Side
		Up   bool
		At   time.Time
	}
	// PathSeen is a verdict of a port's probes.
	PathSeen struct {
		Side drivers.Side
		Path Path
		Why  string
		At   time.Time
	}
	// Turned says that the kernel has turned to a port by itself.
	Turned struct {
		To drivers.Side
		At time.Time
	}
	// AttachAsked wants a port in.
	AttachAsked struct{ Side drivers.Side }
	// DetachAsked wants a port out.
	DetachAsked struct {
		Side   drivers.Side
		Reason drivers.Reason
	}
	// SwitchAsked wants a port to be the active one; None stands for the other one.
	SwitchAsked struct{ To drivers.Side }
	// Tick says only what time it is.
	Tick struct{}
)

func (Adopted) event()     {}
func (Begin) event()       {}
func (Seen) event()        {}
func (Gone) event()        {}
func (CarrierSeen) event() {}
func (PathSeen) event()    {}
func (Turned) event()      {}
func (AttachAsked) event() {}
func (DetachAsked) event() {}
func (SwitchAsked) event() {}
func (Tick) event()        {}

// Out is what is to be done, in the order of the fields.
type Out struct {
	Refusal error           // the answer to who asked; nothing has changed
	State   *datapath.State // make it so
	Planned bool            // with State: the port that was active is well
	Switch  *Switch         // the active port is another one
	Carrier *bool           // the face shows carrier, or none
	Reports []Report        // for ftd, in order
	Timer   time.Time       // when a Tick is due; zero for never
}

// Switch is a change of the active port.
type Switch struct {
	From, To drivers.Side // datapath.None for no port
	Cause    string
	CauseAt  time.Time // when the cause was seen
	Planned  bool
	Kernel   bool // it had turned before anybody here woke
}

// Report is the change of a side's state.
type Report struct {
	Side   drivers.Side
	From   drivers.State
	To     drivers.State
	Reason string
	Fault  string // set when it counts against the NIC
}

// NewCore makes the core of a bond whose ports are not there yet.
func NewCore(opt Options, sides [2]drivers.SideConfig) *Core {
	c := &Core{opt: opt.withDefaults(), active: datapath.None, told: datapath.State{Active: datapath.None}}
	c.probing = len(c.opt.Probe) > 0
	for i := range c.ports {
		p := &c.ports[i]
		p.side, p.name = drivers.Side(i), sides[i].Resource.Path
		p.state, p.reason = drivers.Removed, p.name+" has not been seen yet"
		if p.name == "" {
			p.state, p.reason = drivers.Empty, ""
		}
		if sides[i].Out {
			p.takenOut, p.outWhy = true, "it was taken out before the driver started"
		}
	}
	return c
}

// Step takes one event.
func (c *Core) Step(now time.Time, ev Event) Out {
	c.now, c.out = now, Out{}
	switch ev := ev.(type) {
	case Adopted:
		c.adopted(ev.State)
	case Begin:
		c.begun = true
	case Seen:
		c.seen(ev)
	case Gone:
		c.gone(&c.ports[ev.Side], ev)
	case CarrierSeen:
		c.carrierSeen(&c.ports[ev.Side], ev)
	case PathSeen:
		p := &c.ports[ev.Side]
		c.pathSeen(p, ev)
	case Turned:
		c.turned(ev)
	case AttachAsked:
		c.out.Refusal = c.attach(&c.ports[ev.Side])
	case DetachAsked:
		c.out.Refusal = c.detach(&c.ports[ev.Side], ev.Reason)
	case SwitchAsked:
		c.out.Refusal = c.switchTo(ev.To)
	case Tick:
	}
	if c.begun {
		c.settle()
	}
	return c.out
}

// adopted takes over what the data path does. Who was eligible was in service.
func (c *Core) adopted(st datapath.State) {
	c.active, c.told = st.Active, st
	for i := range c.ports {
		p := &c.ports[i]
		if !p.present || p.takenOut || !p.carrier || !st.Eligible[i] && st.Active != p.side {
			continue
		}
		p.wanted = true
		c.become(p, drivers.Syncing, "taken over from an earlier process")
		c.become(p, drivers.Simplex, "")
	}
}

func (c *Core) seen(ev Seen) {
	p := &c.ports[ev.Side]
	p.name, p.quality = ev.Name, ev.Quality
	if p.present && !p.takenOut {
		return // its carrier is told apart
	}
	p.present, p.carrier, p.carrierAt = true, ev.Carrier, c.now
	p.path, p.pathWhy = PathUnknown, ""
	p.upAt = c.now
	if c.begun {
		p.upAt = c.now.Add(c.opt.UpDelay)
	}
	p.testUntil = c.now.Add(c.testTime())
	if !p.carrier {
		p.cause, p.causeAt = p.noCarrier(), c.now
	}
	if p.takenOut {
		c.become(p, drivers.Offline, p.outWhy)
		return
	}
	reason := p.name + " is there"
	if !p.carrier {
		reason = p.noCarrier()
	}
	c.become(p, drivers.Offline, reason)
}

func (c *Core) gone(p *port, ev Gone) {
	if p.state == drivers.Empty {
		return
	}
	p.present, p.carrier, p.downAt, p.path = false, false, time.Time{}, PathUnknown
	p.cause, p.causeAt = ev.Why, ev.At
	to := drivers.Removed
	if ev.Unfit {
		to = drivers.Offline
	}
	c.become(p, to, ev.Why)
}

func (c *Core) carrierSeen(p *port, ev CarrierSeen) {
	if !p.present || p.carrier == ev.Up {
		return
	}
	p.carrier, p.carrierAt = ev.Up, ev.At
	if ev.Up {
		if p.downAt.IsZero() { // else it never counted as lost
			p.upAt = ev.At.Add(c.opt.UpDelay)
			p.testUntil = ev.At.Add(c.testTime())
		}
		p.downAt = time.Time{}
		return
	}
	p.cause, p.causeAt = p.noCarrier(), ev.At
	p.downAt = ev.At.Add(c.opt.DownDelay)
}

func (c *Core) pathSeen(p *port, ev PathSeen) {
	if p.path == PathBad && ev.Path == PathGood {
		p.upAt = ev.At.Add(c.opt.UpDelay) // as after a carrier that was away
	}
	if p.path != PathGood && ev.Path == PathGood {
		p.goodSince = ev.At
	}
	p.path, p.pathWhy = ev.Path, ev.Why
	switch ev.Path {
	case PathGood:
		c.Heard(p.side, ev.At)
	case PathBad:
		p.cause, p.causeAt = p.pathDead(), ev.At
	}
}

// Heard notes when a port's probes were last answered. It decides nothing: it is to be
// called before each step with what is known then.
func (c *Core) Heard(s drivers.Side, at time.Time) { c.ports[s].heardAt = at }

// turned: the kernel found no carrier on a port that had to send, and turned. Whether
// the carrier is back already the poll says.
func (c *Core) turned(ev Turned) {
	if ev.To == c.active || !ev.To.Valid() {
		return
	}
	from := c.active
	c.active, c.told.Active = ev.To, ev.To
	cause := "no port was active"
	if from.Valid() {
		p := &c.ports[from]
		cause = p.noCarrier()
		p.turnedAt = ev.At
		c.told.Eligible[from] = false // it does not turn back by itself: it has to be told so
		c.lost(p, ev.At)
	}
	c.out.Switch = &Switch{From: from, To: ev.To, Cause: cause, CauseAt: ev.At, Kernel: true}
}

// testTime is how long the test of a port waits for an answer on its path.
func (c *Core) testTime() time.Duration {
	return time.Duration(c.opt.ProbeMisses) * c.opt.ProbeInterval
}

func (c *Core) attach(p *port) error {
	id := c.id(p.side)
	switch {
	case p.state == drivers.Empty:
		return drivers.Refuse(drivers.RuleState, "%s: no NIC is configured there", id)
	case p.state.InService():
		return drivers.Refuse(drivers.RuleState, "%s is in service already", id)
	}
	p.takenOut, p.outWhy, p.wanted = false, "", true
	if why := c.waitsFor(p); why != "" {
		if p.state == drivers.Offline {
			p.reason = why
		}
		return drivers.Refuse(drivers.RuleWaits, "%s: %s: it comes in by itself when that is over", id, why)
	}
	if p.state == drivers.Diagnostics || p.state == drivers.Syncing {
		c.report(p, p.state, "") // whoever asks has missed it
		return nil
	}
	p.testUntil = c.now.Add(c.testTime())
	c.become(p, drivers.Diagnostics, "")
	return nil
}

func (c *Core) detach(p *port, why drivers.Reason) error {
	other := &c.ports[p.side.Other()]
	if p.state.InService() && !other.state.InService() && why.AcceptRisk != drivers.RiskLastSide {
		return drivers.Refuse(drivers.RuleLastSide, "%s is the only good port of the face: taking it out cuts it off; bring %s up first, or say --accept-risk=%s",
			c.id(p.side), c.id(other.side), drivers.RiskLastSide)
	}
	p.takenOut, p.wanted = true, false
	p.outWhy = why.Text
	if p.outWhy == "" {
		p.outWhy = "taken out"
	}
	p.cause, p.causeAt = p.name+" was taken out", c.now
	if p.present && p.state != drivers.Empty {
		c.become(p, drivers.Offline, p.outWhy)
	}
	return nil
}

func (c *Core) switchTo(to drivers.Side) error {
	if to == datapath.None {
		if c.active == datapath.None {
			return drivers.Refuse(drivers.RuleState, "no port is active: there is nothing to switch from")
		}
		to = c.active.Other()
	}
	p := &c.ports[to]
	switch {
	case to == c.active:
		return drivers.Refuse(drivers.RuleState, "%s is the active port already", c.id(to))
	case !p.state.InService():
		return drivers.Refuse(drivers.RuleState, "%s cannot take over: it is %v (%s)", c.id(to), p.state, p.reason)
	case c.pathDead(p):
		return drivers.Refuse(drivers.RuleState, "%s cannot take over: %s", c.id(to), p.pathDead())
	}
	c.turnTo(to, "asked for by an admin", c.now)
	return nil
}

// id names a side as ftd does, without the device's name: that is the shell's.
func (c *Core) id(s drivers.Side) string {
	return fmt.Sprintf("pci%d (%s)", s, c.ports[s].name)
}

func (p *port) noCarrier() string { return "no carrier on " + p.name }

func (p *port) pathDead() string {
	if p.pathWhy == "" {
		return "the path behind " + p.name + " is dead"
	}
	return "the path behind " + p.name + " is dead: " + p.pathWhy
}
