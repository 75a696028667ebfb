package control

import (
	"fmt"
	"slices"
	"time"

	"ft/drivers"
)

// This file holds what is peculiar to machines. To the core a machine is a face over two
// CPU modules like any other, with two differences:
//
//   - It is switched on and off. Off is its sides' target: out by an admin who stopped it, or
//     by the guest that powered itself off. Both are words of people, and are kept as such.
//   - It stands on other faces: its driver is started when they are there (waitsFor).
//
// A guest that reboots is no news to anybody: its driver goes on with one side and has the
// other brought in again.

// poweredOff takes the word of a guest that has powered its machine off, just now or at a time.
// It is about both sides: one that was out for another reason does not start the machine
// again. An admin's word that is out, or later, goes before it, unless that one turns out not
// to be kept (takeBack).
func (c *Core) poweredOff(p *proposal, d *device, reason string, at time.Time) {
	off := Target{Direction: Out, By: ByGuest, Since: c.now, Reason: orElse(reason, "the guest powered itself off")}
	for i := range d.sides {
		s := &d.sides[i]
		t := &p.at(s).target
		counts := func(t Target) bool { return at.IsZero() || t.By != ByAdmin || at.After(t.Since) }
		switch {
		case s.state == drivers.Empty:
		case t.out() && t.By == ByFault && counts(*t):
			t.By = ByGuest // the verdict stands; another part in its place starts nothing
		case !t.out() && counts(*t):
			*t = off
		case s.undo != nil && !s.undo.out() && counts(*s.undo):
			*s.undo = off
		}
		if down := c.pendingDown(s); down != nil && !down.was[s].out() && counts(down.was[s]) {
			down.was[s] = off
		}
	}
}

// asksMachine resolves the name of a machine.
func (c *Core) asksMachine(p *proposal, req Request, verb, target string) (*device, *refusal) {
	sc, r := c.asks(p, req, verb, target)
	switch {
	case r != nil:
		return nil, r
	case sc.device == nil:
		return nil, refuse(RuleMachine, "%s is no machine but a part of the box: name the machine, as ftctl ls has it", target)
	case !sc.device.kind.machine:
		return nil, refuse(RuleMachine, "%s is a %s, no machine: ftctl bringdown and bringup take it down and up", target, sc.device.kind.name)
	}
	return sc.device, nil
}

// proposeStartMachine is a bringup of the machine, in its own words.
func (c *Core) proposeStartMachine(p *proposal, ev StartMachine) *refusal {
	d, r := c.asksMachine(p, ev.Request, "machine start", ev.Target)
	if r != nil {
		return r
	}
	if d.halted() {
		return refuse(drivers.RuleState, "%s is on, and serves nobody: %s; ftctl machine reset %s starts it from the beginning", d.name, d.down, d.name)
	}
	sc := scope{id: ev.Target, device: d}
	for _, fit := range []bool{true, false} {
		for i := range d.sides {
			if s := &d.sides[i]; s.state != drivers.Empty && p.at(s).target.Broken != fit {
				sc.sides = append(sc.sides, s)
			}
		}
		if len(sc.sides) > 0 {
			break // what is broken stays so, unless there is nothing else to start on
		}
	}
	c.wantIn(p, sc, ev.By, "")
	for _, s := range p.sides {
		p.at(s).fresh = true // by policy defer the one that it does not start on waits
	}
	p.verb, p.either = "machine start", true
	if p.nothing != "" {
		p.nothing = d.name + " is on already"
	}
	return nil
}

// proposeStopMachine wants all sides of the machine out.
func (c *Core) proposeStopMachine(p *proposal, ev StopMachine) *refusal {
	d, r := c.asksMachine(p, ev.Request, "machine stop", ev.Target)
	if r != nil {
		return r
	}
	p.risk = drivers.RiskLastSide // that is what the verb says
	reason := "stopped by an admin"
	if ev.By != "" {
		reason += " (" + ev.By + ")"
	}
	for i := range d.sides {
		s := &d.sides[i]
		n := p.at(s)
		settled := n.target.out() && n.target.By != ByFault && !c.mayReturn(s) // a verdict is lifted when the part is replaced
		if s.state == drivers.Empty || settled && !withDriver(n.state) && s.work == idle && d.link != LinkStarting {
			continue
		}
		n.target = Target{
			Direction: Out, By: ByAdmin, Who: ev.By, Since: c.now, Risk: p.risk,
			Broken: n.target.Broken, Identity: n.target.Identity, Reason: reason,
		}
		n.hold = hold{}
		if n.state == drivers.Offline {
			n.reason = reason
		}
		p.sides = append(p.sides, s)
	}
	if len(p.sides) == 0 {
		p.nothing = d.name + " is off already"
	}
	p.then = func() {
		for _, s := range p.sides {
			s.detachAt, s.outFails = c.now, 0
		}
		c.open(p, false, ev.Target)
	}
	return nil
}

// halted says that the machine is on and serves nobody: its kernel has panicked.
func (d *device) halted() bool {
	return d.kind.machine && d.down != "" && (d.sides[0].state.InService() || d.sides[1].state.InService())
}

// waitsFor is the first of a device's needs whose face is not there, or "". A disk's face is
// there when it is up. A NIC's is also when it has no carrier: who hangs on it gets one
// together with it.
func (c *Core) waitsFor(d *device) string {
	for _, name := range d.needs {
		on := c.device(name)
		if on == nil || on.face.state != drivers.FaceDown || on.kind.returns && on.link == LinkConnected && on.path != "" {
			continue
		}
		return name
	}
	return ""
}

// faceIsUp lifts refusals of what stands on a face that has come up: a driver that runs already
// may have looked at what lay in its place before (after all was killed, the keeper starts the
// drivers by itself, all at once).
func (c *Core) faceIsUp(on *device) {
	for _, d := range c.devices {
		if !slices.Contains(d.needs, on.name) {
			continue
		}
		for i := range d.sides {
			s := &d.sides[i]
			if s.stirred = c.now; s.hold.kind == holdRefused {
				s.hold = hold{}
			}
		}
	}
}

// waits says that the device is wanted, and what it stands on is not there.
func (c *Core) waits(d *device) bool {
	return d.link == LinkNone && d.wanted() && c.waitsFor(d) != ""
}

// waitSentence is about a device that waits.
func (c *Core) waitSentence(d *device) string {
	return fmt.Sprintf("%s waits for %s, which is down", d.name, c.waitsFor(d))
}

// goingOff is a side that serves a machine which is wanted off, nil when there is none.
func (d *device) goingOff() *side {
	if !d.kind.machine || d.wanted() {
		return nil
	}
	for i := range d.sides {
		if s := &d.sides[i]; s.state.InService() {
			return s
		}
	}
	return nil
}

// machineDown is about a machine that serves nobody, and whose driver process is there or not
// needed.
func (c *Core) machineDown(d *device, now time.Time) (verdict, action string) {
	start := d.startCommand()
	does := func(what, why string) string { return fmt.Sprintf("%s %s: %s", d.name, what, why) }
	if d.halted() {
		return does("is down", d.down), fmt.Sprintf("ftctl console %s shows its last words; ftctl machine reset %s starts it again", d.name, d.name)
	}
	var off, tried, refused, waits *side // the first of each, but for off
	coming, wanted := false, 0
	first := func(at **side, s *side) {
		if *at == nil {
			*at = s
		}
	}
	for i := range d.sides {
		s := &d.sides[i]
		coming = coming || onItsWay(s.state) || s.work == attaching || s.work == attached
		switch {
		case s.state == drivers.Empty:
			continue
		case s.target.out():
			if s.target.By != ByFault && (off == nil || s.target.Since.After(off.target.Since)) {
				off = s // the last word
			}
			continue
		case s.hold.kind == holdRefused:
			first(&refused, s)
		case s.hold.kind == holdWaits:
			first(&waits, s)
		case s.state != drivers.Removed:
			first(&tried, s)
		}
		wanted++
	}
	switch {
	case coming:
		return d.name + " is starting", "none: it comes up by itself"
	case wanted == 0 && off != nil:
		return does("is off", off.target.Reason), start + " when it is wanted again"
	case tried != nil && tried.state == drivers.Shot:
		return does("is down", tried.shotReason()), "none: it is started again by itself" + tried.when(now)
	case tried != nil && tried.hold.kind == holdRetry:
		return does("could not be started", tried.hold.sentence), "none: it is tried again" + tried.when(now)
	case tried != nil:
		return does("is down", tried.reason), "none: it is started by itself"
	case refused != nil:
		return does("is not started", refused.hold.sentence), "mend that, then: " + start
	case waits != nil:
		return does("waits", waits.hold.sentence), "mend that: it is then started by itself"
	}
	return c.bothVerdicts(d, d.telling(), now)
}

// startCommand brings the device up after it was down.
func (d *device) startCommand() string {
	if d.kind.machine {
		return "ftctl machine start " + d.name
	}
	return "ftctl bringup " + d.name
}
