package control

import (
	"fmt"
	"time"

	"ft/drivers"
)

// This file holds what is peculiar to machines. To the core a machine is a face over two
// CPU modules like any other, with three differences:
//
//   - It is switched on and off. Off is its sides' target: out by an admin who stopped it, or
//     by the guest that powered itself off. Both are words of people, and are kept as such.
//   - It stands on other faces: its driver is started when they are there (waitsFor).
//   - This version can give it one CPU module. So it is simplex at its best: that is said,
//     and is nothing that a person could mend (alone).

// poweredOff takes the word of a guest that has powered its machine off, just now or at a time.
// An admin's word that is out, or later, goes before it, unless that one turns out not to be
// kept (takeBack).
func (c *Core) poweredOff(n *facts, s *side, reason string, at time.Time) {
	counts := func(t Target) bool { return !t.out() && (at.IsZero() || at.After(t.Since)) }
	off := Target{Direction: Out, By: ByGuest, Since: c.now, Reason: orElse(reason, "the guest powered itself off")}
	switch {
	case counts(n.target):
		n.target = off
	case s.undo != nil && counts(*s.undo):
		*s.undo = off
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
	if r := c.proposeBringUp(p, BringUp{Request: ev.Request, Target: ev.Target}); r != nil {
		return r
	}
	p.verb = "machine start"
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
		settled := n.target.out() && n.target.By != ByFault // a verdict is lifted when the part is replaced
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

// restarts says that the machine is down because it starts from the beginning: somebody had
// it reset, or its guest reboots.
func (d *device) restarts() bool {
	return d.kind.machine && (onItsWay(d.sides[0].state) || onItsWay(d.sides[1].state))
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

// waits says that the device is wanted, and what it stands on is not there.
func (c *Core) waits(d *device) bool {
	return d.link == LinkNone && d.wanted() && c.waitsFor(d) != ""
}

// waitSentence is about a device that waits.
func (c *Core) waitSentence(d *device) string {
	return fmt.Sprintf("%s waits for %s, which is down", d.name, c.waitsFor(d))
}

// machineVerdict is about a machine of one side that has a driver process, or needs none.
func (c *Core) machineVerdict(d *device, s *side, now time.Time) (verdict, action string) {
	start := d.startCommand()
	does := func(what, why string) string { return fmt.Sprintf("%s %s: %s", d.name, what, why) }
	switch {
	case d.atBest() && s.target.out():
		return does("is being stopped", s.target.Reason), "none: it is off when its I/O has ended"
	case d.atBest():
		return fmt.Sprintf("%s runs on %s alone: %s", d.name, d.kind.modules[s.index], d.kind.alone), "none"
	case d.halted():
		return does("is down", d.down), fmt.Sprintf("ftctl console %s shows its last words; ftctl machine reset %s starts it again", d.name, d.name)
	case s.state == drivers.Broken:
		return does("does not start", s.reason), "mend that, then: " + start
	case onItsWay(s.state) || s.work == attaching || s.work == attached:
		return d.name + " is starting", "none: it comes up by itself"
	case s.target.out():
		return does("is off", s.reason), start + " when it is wanted again"
	case s.hold.kind == holdRetry:
		return does("could not be started", s.hold.sentence), "none: it is tried again" + s.when(now)
	case s.hold.kind == holdRefused:
		return does("is not started", s.hold.sentence), "mend that, then: " + start
	case s.hold.kind == holdWaits:
		return does("waits", s.hold.sentence), "mend that: it is then started by itself"
	}
	return does("is down", s.reason), "none: it is started by itself"
}

// startCommand brings the device up after it was down.
func (d *device) startCommand() string {
	if d.kind.machine {
		return "ftctl machine start " + d.name
	}
	return "ftctl bringup " + d.name
}

// soleSide is the one side that the device can have, nil where it can have two.
func (d *device) soleSide() *side {
	for i := range d.sides {
		if s := &d.sides[i]; s.alone() {
			return s
		}
	}
	return nil
}
