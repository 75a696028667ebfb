package control

import (
	"fmt"

	"ft/drivers"
)

// This file refuses. A rule looks at a proposal that a person asked for, and says in a
// sentence what speaks against it and what the way out is; "" if nothing does. What
// drivers report is never refused.

// rule is one reason to refuse.
type rule struct {
	code  string
	check func(*Core, *proposal) string
}

// rules are asked in this order: the first that speaks is the answer.
var rules = [...]rule{
	{RuleNotReady, notReady},
	{RuleNotReady, notConnected},
	{drivers.RuleState, noPower},
	{drivers.RuleBusy, stopping},
	{drivers.RuleState, dumping},
	{drivers.RuleLastSide, lastSide},
	{RuleNotReady, moduleKnown},
}

func (c *Core) validate(p *proposal) *refusal {
	if p.ask == nil {
		return nil
	}
	for _, r := range c.rules {
		if sentence := r.check(c, p); sentence != "" {
			return &refusal{r.code, sentence}
		}
	}
	return nil
}

func notReady(c *Core, p *proposal) string {
	if c.loaded {
		return ""
	}
	return "ftd is starting and has not read its state yet: try again in a moment"
}

// notConnected: a device cannot be taken down as a whole by someone who does not know
// whether it serves. (A side can: it is detached when its partner is known to be good.)
func notConnected(c *Core, p *proposal) string {
	if d := p.device; d != nil && d.link == LinkStarting && p.risk == "" {
		return fmt.Sprintf("the driver of %s has not connected yet, so that nobody knows whether its face is in use: try again in a moment, or say --accept-risk=last-side", d.name)
	}
	return ""
}

// stopping: while a device is being taken down nobody knows whether it will be, so that
// half of it cannot be wanted back.
func stopping(c *Core, p *proposal) string {
	for _, s := range p.sides {
		if s.dev.link == LinkStopping && !p.at(s).target.out() {
			return fmt.Sprintf("%s is being taken down: wait for that (ftctl show %s), then say it again", s.dev.name, s.dev.name)
		}
	}
	return ""
}

// dumping: memory that is being written out is lost when its module goes.
func dumping(c *Core, p *proposal) string {
	for _, s := range p.sides {
		if s.state == drivers.Dumping && p.at(s).target.out() {
			return fmt.Sprintf("the memory of %s is being written out: wait until it has come in again (ftctl wait %s --for duplex)", s.id, s.id)
		}
	}
	return ""
}

// atRest says that no side serves, or may do so before a stop reaches the driver.
func (d *device) atRest() bool {
	for i := range d.sides {
		if s := &d.sides[i]; withDriver(s.state) || s.work == attaching || s.work == attached {
			return false
		}
	}
	return true
}

// lastSide is rule 1: whoever wants a side out must leave its face a good one.
func lastSide(c *Core, p *proposal) string {
	if p.risk == drivers.RiskLastSide {
		return ""
	}
	if d := p.device; d != nil {
		if d.atRest() {
			return ""
		}
		return fmt.Sprintf("%s is in service, or about to be: taking it down stops %s; say --accept-risk=last-side if that is meant", d.name, d.faceName())
	}
	for _, s := range p.sides {
		if n := p.at(s); !s.state.InService() || !n.target.out() || p.at(s.partner()).good() && !s.partner().leaving() {
			continue
		}
		d, partner := s.dev, s.partner()
		stops := fmt.Sprintf("taking it out stops %s", d.faceName())
		if d.kind.machine {
			stops += fmt.Sprintf(", as ftctl machine stop %s does", d.name)
		}
		switch n := p.at(partner); {
		case partner.state == drivers.Empty:
			return fmt.Sprintf("%s is the only side of %s: %s; configure a second one in ft.toml, or say --accept-risk=last-side", s.id, d.name, stops)
		case onItsWay(n.state):
			return fmt.Sprintf("%s is the only good side of %s: %s; wait for %s, which is %v (ftctl wait %s --for duplex), or say --accept-risk=last-side", s.id, d.name, stops, partner.id, n.state, partner.id)
		case n.state.InService():
			return fmt.Sprintf("%s is the only good side of %s, for %s is about to be taken out: %s; bring %s up first, or say --accept-risk=last-side", s.id, d.name, partner.id, stops, partner.id)
		default:
			return fmt.Sprintf("%s is the only good side of %s: %s; bring %s up first, or say --accept-risk=last-side", s.id, d.name, stops, partner.id)
		}
	}
	return ""
}
