package control

import (
	"fmt"
	"strings"

	"ft/drivers"
)

// This file begins the pipeline: a copy of all facts, and the dispatch of events to
// the functions that write what they ask for into the copy. propose_driver.go has
// the reports, propose_admin.go the requests, propose_work.go results and deadlines.
//
// Proposing a request has no effect but on the copy, so that a refusal changes
// nothing. Reports cannot be refused, and note at once what no rule rests on.

// deviceNext is the proposed state of one device.
type deviceNext struct {
	link  DriverLink
	down  string
	sides [2]facts
}

// proposal is a change that is being considered.
type proposal struct {
	next  []deviceNext
	cause *side          // whose change this is: it is logged first
	extra map[string]any // for its log entry
	via   *side          // it passes through syncing on its way
	// snapshot: what has not changed keeps its reason.
	snapshot bool
	found    *device // whose driver ran before this ftd: what is in service has not come into it
	faults   []fault // to be noted in the histories, and then judged
	// requests
	ask     *Request
	verb    string // for the log
	id      string // as the admin wrote it
	sides   []*side
	device  *device // the request is about the whole device
	module  *module // the request takes a module out
	risk    string
	either  bool   // one of the sides is enough
	then    func() // what a request changes beside facts; run by commit
	nothing string // the request asks for what is so already: answer with this
}

func (p *proposal) at(s *side) *facts { return &p.next[s.dev.index].sides[s.index] }

func (p *proposal) dev(d *device) *deviceNext { return &p.next[d.index] }

// fault is what a driver reported as one.
type fault struct {
	side     *side
	record   FaultRecord
	injected bool
}

// copyFacts takes the copy that a proposal works on.
func (c *Core) copyFacts() []deviceNext {
	c.next = c.next[:0]
	for _, d := range c.devices {
		c.next = append(c.next, deviceNext{d.link, d.down, [2]facts{d.sides[0].facts, d.sides[1].facts}})
	}
	return c.next
}

// refusal is a request that a rule forbids.
type refusal struct{ code, sentence string }

func refuse(code, format string, args ...any) *refusal {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// propose writes into p what the event asks for.
func (c *Core) propose(p *proposal, ev Event) *refusal {
	switch ev := ev.(type) {
	case StateLoaded:
		c.proposeLoaded(p, ev)
	case DeviceConfigured:
		c.configure(ev)
		p.next = c.copyFacts()
	case DriverConnected:
		c.withDevice(ev.Device, "a driver connected", func(d *device) { c.proposeConnected(p, d, ev.Status) })
	case DriverLost:
		c.withDevice(ev.Device, "a driver was lost", func(d *device) { c.proposeLost(p, d, ev) })
	case DriverReport:
		c.withDevice(ev.Device, "a driver reported", func(d *device) { c.proposeReport(p, d, ev.Event) })
	case DriverStatus:
		c.withDevice(ev.Device, "a driver's status came", func(d *device) { c.proposeStatus(p, d, ev.Status) })
	case DeviceVanished:
		c.proposeVanished(p, ev)
	case DeviceSeen:
		c.proposeSeen(p, ev)
	case ModulePower:
		c.proposePower(p, ev)
	case stuckDown:
		s := ev.side
		partner := s.partner()
		c.takeBackModule(p, s, AnswerRefused, drivers.RuleLastSide, fmt.Sprintf("%s is %v: %s", partner.id, partner.state, partner.reason))
	case ActionResult:
		c.proposeResult(p, ev)
	case overdue:
		c.proposeOverdue(p, ev)
	case verdictDue:
		c.proposeVerdict(p, ev.side)
	case drainOver:
		p.at(ev.side).draining = false
	case linkDue:
		c.proposeLink(p, ev.device)
	case Tick:
	case BringUp:
		return c.proposeBringUp(p, ev)
	case BringDown:
		return c.proposeBringDown(p, ev)
	case StartMachine:
		return c.proposeStartMachine(p, ev)
	case StopMachine:
		return c.proposeStopMachine(p, ev)
	case SwitchActive:
		return c.proposeSwitch(p, ev)
	case SetBringup:
		return c.proposeBringupPolicy(p, ev)
	case SetMTBF:
		return c.proposeSetMTBF(p, ev)
	case ClearMTBF:
		return c.proposeClearMTBF(p, ev)
	}
	return nil
}

func (c *Core) withDevice(name, what string, do func(*device)) {
	if d := c.device(name); d != nil {
		do(d)
		return
	}
	c.noteOn(name, Warning, fmt.Sprintf("%s for %q, which is not configured: ignored", what, name), nil)
}

// configure adds a device.
func (c *Core) configure(ev DeviceConfigured) {
	k := kindOf(ev.Kind)
	switch {
	case k == nil:
		c.noteOn(ev.Name, Critical, fmt.Sprintf("%q is no kind of device (disk, nic, machine): it is not served", ev.Kind), nil)
		return
	case ev.Name == "" || strings.Contains(ev.Name, "/") || c.taken(ev.Name):
		c.noteOn(ev.Name, Critical, fmt.Sprintf("the name %q cannot be used for a %s: it is empty, has a slash or is taken", ev.Name, ev.Kind), nil)
		return
	}
	d := &device{name: ev.Name, kind: k, index: len(c.devices), link: LinkNone, needs: ev.Needs}
	d.face = mark[drivers.FaceState]{state: drivers.FaceDown, reason: "not started yet", since: c.now}
	for i := range d.sides {
		s, spec := &d.sides[i], ev.Sides[i]
		*s = side{
			id: k.modules[i] + "/" + ev.Name, dev: d, index: drivers.Side(i), since: c.now,
			resource: spec.Resource, identity: spec.Resource.Identity, pulled: spec.Absent,
			facts: facts{target: byConfig, present: !spec.Absent},
		}
		switch {
		case spec.Resource.Path == "":
			s.state, s.reason = drivers.Empty, "nothing is configured here"
		case c.module(k.modules[i]).dark != "":
			s.state, s.reason = drivers.Removed, c.module(k.modules[i]).dark
			s.pulled, s.present = true, false
		case spec.Absent:
			s.state, s.reason = drivers.Removed, spec.Resource.Path+" was not there at start"
		default:
			s.state, s.reason = drivers.Offline, "not tested yet"
		}
		c.carry(k.modules[i], s)
	}
	c.changes++
	c.devices = append(c.devices, d)
	if c.loaded {
		c.adoptTargets(d)
	}
}

// taken says whether an id stands for something already.
func (c *Core) taken(id string) bool {
	if c.device(id) != nil {
		return true
	}
	for _, m := range moduleIDs {
		if m == id {
			return true
		}
	}
	return false
}

// carry makes a module the carrier of a side.
func (c *Core) carry(id string, s *side) {
	m := c.module(id)
	m.sides = append(m.sides, s)
	if m.since.IsZero() {
		m.since = c.now
	}
}

// adoptTargets gives a device the targets that were on disk. By policy defer, its
// sides wait for an admin; those that failed do not, they come back by themselves.
func (c *Core) adoptTargets(d *device) {
	for i := range d.sides {
		s := &d.sides[i]
		if t, ok := c.strangers[s.id]; ok {
			s.target = t
			delete(c.strangers, s.id)
		}
		// What is in it now may be known already; else it is what was in it last, until
		// its driver says otherwise.
		if is := s.identity; is == "" {
			s.identity = c.parts[s.id]
		} else if s.target.Broken && s.target.Identity != "" && s.target.Identity != is {
			s.target, c.dirty = s.target.newPart(), true
		}
		s.fresh = isNew(s.target)
		if s.target.out() && s.state == drivers.Offline {
			s.reason = s.target.Reason
			if s.target.Broken {
				s.state = drivers.Broken
			}
		}
	}
}

// isNew says whether a side that appears, at boot or by insertion, counts as new here. One
// that failed does not: it comes back by itself.
func isNew(t Target) bool { return t.By != ByFault }

func (c *Core) proposeLoaded(p *proposal, ev StateLoaded) {
	if c.loaded {
		c.noteOn(c.cfg.Name, Warning, "the saved state was read twice: the second time is ignored", nil)
		return
	}
	c.load(ev)
	for _, d := range c.devices {
		c.adoptTargets(d)
	}
	p.next = c.copyFacts()
}
