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
	{drivers.RuleState, dumping},
	{drivers.RuleLastSide, lastSide},
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

// dumping: memory that is being written out is lost when its module goes.
func dumping(c *Core, p *proposal) string {
	for _, s := range p.sides {
		if s.state == drivers.Dumping && p.at(s).target.out() {
			return fmt.Sprintf("the memory of %s is being written out: wait for the end of the dump (ftctl wait %s --for offline)", s.id, s.id)
		}
	}
	return ""
}

// lastSide is rule 1: whoever wants a side out must leave its face a good one.
func lastSide(c *Core, p *proposal) string {
	if p.risk == drivers.RiskLastSide {
		return ""
	}
	for _, s := range p.sides {
		if n := p.at(s); !s.state.InService() || !n.target.out() || p.at(s.partner()).good() {
			continue
		}
		d, partner := s.dev, s.partner()
		stops := fmt.Sprintf("taking it out stops %s", d.faceName())
		switch n := p.at(partner); {
		case p.device != nil || partner.good():
			return fmt.Sprintf("%s is in service: taking both its sides out stops %s; say --accept-risk=last-side if that is meant", d.name, d.faceName())
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
