package control

import (
	"fmt"
	"strings"

	"ft/drivers"
)

// This file turns the requests of people into proposals. Nothing here has an effect
// but on the proposal: what else a request changes is in its then, run by commit.

// proposeBringUp wants sides in. It lifts every hold: an admin who asks means now.
func (c *Core) proposeBringUp(p *proposal, ev BringUp) *refusal {
	sc, r := c.asks(p, ev.Request, "bringup", ev.Target)
	if r != nil {
		return r
	}
	if ev.AcceptRisk != "" && ev.AcceptRisk != drivers.RiskOverwrite {
		return refuse(RuleRisk, "bringup knows no risk %q: it can be told --accept-risk=%s", ev.AcceptRisk, drivers.RiskOverwrite)
	}
	c.wantIn(p, sc, ev.By, ev.AcceptRisk)
	return nil
}

// wantIn wants sides in service, at the word of who.
func (c *Core) wantIn(p *proposal, sc scope, who, risk string) {
	var revived []*side
	for _, s := range sc.sides {
		n := p.at(s)
		if !n.target.out() && (n.state.InService() || onItsWay(n.state)) && n.recall == "" {
			continue
		}
		if n.target.Broken {
			revived = append(revived, s)
		}
		n.target = Target{Direction: In, By: ByAdmin, Who: who, Since: c.now}
		n.hold, n.fresh = hold{}, false
		if other := &p.at(s.partner()).target; other.Whole {
			other.Whole, other.Risk = false, "" // only this side is out now
		}
		switch n.state {
		case drivers.Broken:
			n.state, n.reason = drivers.Offline, "an admin wants it in again"
		case drivers.Removed:
			if s.dev.kind.returns {
				break // its driver looks all the time
			}
			if c.moduleOf(s).dark != "" {
				break // there is nothing to be looked for
			}
			n.present = true // so the admin thinks: see side.probe
			n.state, n.reason = drivers.Offline, "looked for at an admin's word"
		}
		if l := p.dev(s.dev).link; l == LinkGaveUp {
			p.dev(s.dev).link = LinkNone
		}
		p.sides = append(p.sides, s)
	}
	if len(p.sides) == 0 {
		p.nothing = fmt.Sprintf("%s is in already, or on its way", sc.id)
	}
	p.then = func() {
		for _, s := range revived {
			h := c.historyOf(s)
			h.Real.forgive()
			h.Injected.forgive()
			c.dirty = true
		}
		for _, s := range p.sides {
			s.probe = s.state == drivers.Removed && !s.dev.kind.returns
			s.risk, s.fails, s.detachAt = risk, 0, c.now
			if p := &s.dev.process; p.fails > 1 {
				p.fails, p.again = 0, c.now
			}
		}
		c.open(p, true, sc.id)
	}
}

// proposeBringDown wants sides out. A device goes down as a whole.
func (c *Core) proposeBringDown(p *proposal, ev BringDown) *refusal {
	sc, r := c.asks(p, ev.Request, "bringdown", ev.Target)
	if r != nil {
		return r
	}
	if ev.AcceptRisk != "" && ev.AcceptRisk != drivers.RiskLastSide {
		return refuse(RuleRisk, "bringdown knows no risk %q: it can be told --accept-risk=%s", ev.AcceptRisk, drivers.RiskLastSide)
	}
	p.risk = ev.AcceptRisk
	whole := sc.device != nil
	p.device = sc.device
	reason := "taken out by an admin"
	if ev.By != "" {
		reason += " (" + ev.By + ")"
	}
	for _, s := range sc.sides {
		n := p.at(s)
		if whole && n.target.out() && n.target.By != ByFault && !c.mayReturn(s) {
			continue // it was out before the device goes down, and is out if it does not
		}
		settled := n.target.By == ByAdmin && !n.target.Whole && n.target.Risk == ev.AcceptRisk && !c.mayReturn(s)
		if n.target.out() && settled && !withDriver(n.state) && s.work == idle && s.dev.link != LinkStarting {
			continue
		}
		n.target = Target{
			Direction: Out, By: ByAdmin, Who: ev.By, Since: c.now, Risk: ev.AcceptRisk, Whole: whole,
			Broken: n.target.Broken, Identity: n.target.Identity, Reason: reason,
		}
		n.hold = hold{}
		if n.state == drivers.Offline || n.state == drivers.Shot && !n.draining {
			n.state, n.reason = drivers.Offline, reason
		}
		p.sides = append(p.sides, s)
	}
	if whole && (sc.device.link == LinkNone || sc.device.link == LinkGaveUp) {
		whole, p.device = false, nil // there is no process to stop
	}
	if whole {
		p.dev(sc.device).link = LinkStopping
	} else if len(p.sides) == 0 {
		p.nothing = fmt.Sprintf("%s is out already", sc.id)
		if sc.module != nil {
			p.nothing += "; " + c.downSentence(sc.module)
		}
	} else {
		p.module = sc.module
	}
	p.then = func() {
		if whole && sc.device.link != LinkStopping {
			sc.device.stopBack = sc.device.link
		}
		for _, s := range p.sides {
			s.detachAt, s.outFails = c.now, 0
		}
		c.open(p, false, ev.Target)
	}
	return nil
}

// proposeSwitch makes the standby the active side.
func (c *Core) proposeSwitch(p *proposal, ev SwitchActive) *refusal {
	sc, r := c.asks(p, ev.Request, "switch", ev.Target)
	if r != nil {
		return r
	}
	if sc.module != nil {
		return refuse(RuleNoSwitch, "%s is a module: name one of its NICs, or bring the module down", sc.id)
	}
	d := sc.sides[0].dev
	if !d.kind.switchable {
		return refuse(RuleNoSwitch, "%s is a %s: both sides carry it, there is no standby to switch to", d.name, d.kind.name)
	}
	to := drivers.Whole
	if sc.device == nil {
		to = sc.sides[0].index
		if s := sc.sides[0]; s.active && s.state.InService() {
			p.nothing = sc.id + " is the active side already"
			return nil
		}
	}
	if r := c.noStandby(d, to); r != nil {
		return r
	}
	if d.change.wanted {
		return refuse(drivers.RuleBusy, "%s is switching already", d.name)
	}
	if d.link != LinkConnected {
		return refuse(drivers.RuleState, "the driver process of %s is not connected (%s): try again in a moment", d.name, d.link)
	}
	p.then = func() {
		d.change = deviceWork{wanted: true, to: to, request: c.openDevice(p, ev.Target)}
	}
	return nil
}

// noStandby refuses a switch to a side that is not good; to the other one, whichever that
// is, both must be.
func (c *Core) noStandby(d *device, to drivers.Side) *refusal {
	for i := range d.sides {
		if s := &d.sides[i]; (to == drivers.Whole || to == s.index) && !s.good() {
			return refuse(RuleNoSwitch, "%s cannot switch: %s", d.name, c.notGood(s))
		}
	}
	return nil
}

// notGood says why a face may not rely on a side, and what can be done about that.
func (c *Core) notGood(s *side) string {
	if s.state.InService() {
		return fmt.Sprintf("%s is about to be taken out; bring it up first: ftctl bringup %s", s.id, s.id)
	}
	verdict, action := c.sideVerdict(s, c.now)
	return verdict + "; " + strings.TrimPrefix(action, "none: ")
}

// proposeBringupPolicy: what waits for an admin under defer comes in under auto, for
// mayAttach looks at the policy.
func (c *Core) proposeBringupPolicy(p *proposal, ev SetBringup) *refusal {
	p.ask, p.verb, p.id = &ev.Request, "policy bringup", c.cfg.Name
	if ev.Policy != BringupAuto && ev.Policy != BringupDefer {
		return refuse(RuleValue, "%q is no bring-up policy: say auto or defer", string(ev.Policy))
	}
	p.nothing = fmt.Sprintf("the bring-up policy is %s", ev.Policy)
	p.then = func() {
		c.bringupSet, c.dirty = ev.Policy, true
		c.noteOn(c.cfg.Name, Info, p.nothing+by(ev.By), nil)
	}
	return nil
}

func (c *Core) proposeSetMTBF(p *proposal, ev SetMTBF) *refusal {
	sc, r := c.asks(p, ev.Request, "mtbf set", ev.Target)
	if r != nil {
		return r
	}
	if r := ev.Settings.check(); r != nil {
		return r
	}
	next := func(s *side) MTBFSettings {
		if ev.Default {
			return ev.Settings
		}
		return ev.Settings.over(c.settings[s.id])
	}
	p.nothing = fmt.Sprintf("the MTBF policy of %s is %s", sc.id, c.fullSettings(next(sc.sides[0])))
	if len(sc.sides) > 1 {
		p.nothing = fmt.Sprintf("faults of all of %s are judged by the new settings from now on", sc.id)
	}
	p.then = func() {
		for _, s := range sc.sides {
			c.settings[s.id], c.dirty = next(s), true
			if c.settings[s.id] == (MTBFSettings{}) {
				delete(c.settings, s.id)
			}
			c.noteOn(s.id, Info, fmt.Sprintf("MTBF policy %s%s", c.settingsOf(s), by(ev.By)), nil)
		}
	}
	return nil
}

// proposeClearMTBF forgets faults. A broken side becomes offline and waits for bringup:
// a person has looked at it, and says so with a second word.
func (c *Core) proposeClearMTBF(p *proposal, ev ClearMTBF) *refusal {
	sc, r := c.asks(p, ev.Request, "mtbf clear", ev.Target)
	if r != nil {
		return r
	}
	revived := false
	for _, s := range sc.sides {
		n := p.at(s)
		if !n.target.Broken {
			continue
		}
		revived = true
		reason := "its faults were forgotten by an admin; ftctl bringup " + s.id + " takes it in"
		n.target = Target{Direction: Out, By: ByAdmin, Who: ev.By, Since: c.now, Reason: reason}
		if n.state == drivers.Broken {
			n.state, n.reason = drivers.Offline, reason
		}
	}
	p.nothing = fmt.Sprintf("the faults of %s are forgotten", sc.id)
	if revived {
		p.nothing += fmt.Sprintf("; ftctl bringup %s takes it in", sc.id)
	}
	p.then = func() {
		for _, s := range sc.sides {
			c.clearHistory(s)
			c.noteOn(s.id, Info, "fault history cleared"+by(ev.By), nil)
		}
	}
	return nil
}

// asks notes who asks for what, and resolves the id.
func (c *Core) asks(p *proposal, req Request, verb, target string) (scope, *refusal) {
	p.ask, p.verb, p.id = &req, verb, target
	return c.find(target)
}

func by(who string) string {
	if who == "" {
		return ""
	}
	return ", by " + who
}
