package control

import (
	"fmt"
	"slices"
	"strings"

	"ft/drivers"
)

// This file takes a module out as a whole, so that it can be pulled.
//
// Nothing of it goes before every partner is known to carry: the request is refused as a
// whole, and names the first that is not good, or whose driver cannot be asked. Then one part
// goes after the other, each when the one before is out, and each is checked once more by its
// own driver at the moment when it goes. If one of them does not go after all, those that went
// before come back: a module is out, or it is in.
//
// The order is that of what it costs to be wrong:
//
//  1. NICs. One that went too early is back after its up-delay, with nothing to be brought up
//     to date; and a path that was thought good and is not (a switch beyond it, a cable) is the
//     likeliest thing to turn out wrong. If it does, all disks still have both legs.
//  2. Disks that nothing stands on. A leg that comes back must be resynced, and its disk is on
//     one leg until that is done.
//  3. Disks and NICs that a machine stands on come after the others of their kind, so that
//     what could go wrong has gone wrong before: a machine is never on one leg, or one path, for
//     the sake of a module that stays in.
//  4. CPU modules carry machines only: those in the order of the configuration.
//
// An admin who names the risk (--accept-risk=last-side) is not kept from it by partners, nor by
// drivers that cannot be asked.
//
// After a restart of ftd nobody waits for the request any more. What is wanted out is on disk,
// and goes part by part as its partners allow.

// downOrder sorts the sides of a module for being taken out.
func (c *Core) downOrder(sides []*side) []*side {
	stoodOn := map[string]bool{}
	for _, d := range c.devices {
		for _, name := range d.needs {
			stoodOn[name] = true
		}
	}
	place := func(s *side) (n int) {
		switch {
		case s.dev.kind.returns:
		case !s.dev.kind.machine:
			n = 2
		default:
			n = 4
		}
		if stoodOn[s.dev.name] {
			n++
		}
		return n
	}
	order := slices.Clone(sides)
	slices.SortStableFunc(order, func(a, b *side) int { return place(a) - place(b) })
	return order
}

// moduleKnown refuses to take a module out while the driver of something that it carries
// cannot be asked: nobody knows whether the partner carries.
func moduleKnown(c *Core, p *proposal) string {
	if p.module == nil || p.risk == drivers.RiskLastSide {
		return ""
	}
	for _, s := range p.sides {
		d := s.dev
		if !p.at(s).target.out() || d.link == LinkNone || d.link == LinkGaveUp || d.link == LinkConnected && !d.lagging {
			continue
		}
		return fmt.Sprintf("nothing of %s is taken out while the driver process of %s cannot be asked (%s), so that nobody knows whether %s carries it: try again in a moment, or take its parts out one by one",
			p.module.id, d.name, map[bool]string{true: "it is being asked how it stands", false: string(d.link)}[d.link == LinkConnected], s.partner().id)
	}
	return ""
}

// moduleDown is a request that takes a module out.
type moduleDown struct {
	*module
	order []*side
	was   map[*side]Target // before it
	set   map[*side]Target // by it
	risk  bool             // an admin named the risk
}

// beginDown makes it of an accepted proposal, before that is committed.
func (c *Core) beginDown(p *proposal) *moduleDown {
	down := &moduleDown{module: p.module, order: c.downOrder(p.sides), was: map[*side]Target{}, set: map[*side]Target{}, risk: p.risk == drivers.RiskLastSide}
	for _, s := range p.sides {
		down.was[s], down.set[s] = s.target, p.at(s).target
		if before := c.pendingDown(s); before != nil && before.module == p.module {
			down.was[s] = before.was[s] // the same word, said again
		}
	}
	return down
}

// mine says whether a side is still wanted out by this request and nothing later.
func (m *moduleDown) mine(s *side) bool { return s.target == m.set[s] }

// pendingDown is the request that a side is being taken out by with its module, and that may
// still be taken back; nil for none.
func (c *Core) pendingDown(s *side) *moduleDown {
	for _, r := range c.requests {
		if r.down != nil && r.down.mine(s) {
			return r.down
		}
	}
	return nil
}

// mayReturn says that a side is out by the word of a request that is not finished, and that may
// still be taken back: whoever wants it out now says so on his own account.
func (c *Core) mayReturn(s *side) bool { return s.request != nil || c.pendingDown(s) != nil }

// holds says whether a side has to wait: for one that goes before it, or for one after it that
// is just going, where it has come in again since its turn.
func (m *moduleDown) holds(s *side) bool {
	turn := slices.Index(m.order, s)
	for i, x := range m.order {
		if i != turn && m.mine(x) && (i < turn && withDriver(x.state) || x.work != idle) {
			return true
		}
	}
	return false
}

// stuckDown is an internal event: the part of a module whose turn it is cannot go, because its
// partner has been lost since.
type stuckDown struct{ side *side }

func (stuckDown) event() {}

// stuckDown finds a side of a device that is to go with its module and cannot, nil for none.
func (c *Core) stuckDown(d *device) *side {
	if d.link != LinkConnected || d.lagging {
		return nil
	}
	for i := range d.sides {
		s := &d.sides[i]
		r := s.request
		if r == nil || r.down == nil || r.down.risk || !r.down.mine(s) || !s.state.InService() || s.work != idle {
			continue
		}
		if partner := s.partner(); !partner.good() || partner.leaving() {
			return s
		}
	}
	return nil
}

// takeBackModule puts the module where it was before the request, and says so to whoever
// made it. s is the part that does not go.
func (c *Core) takeBackModule(p *proposal, s *side, status AnswerStatus, code, why string) {
	r := s.request
	var back []string
	for _, x := range r.down.order {
		if !r.down.mine(x) {
			continue
		}
		n := p.at(x)
		n.target = r.down.was[x]
		n.fresh = n.fresh && isNew(n.target)
		if x == s || x.told {
			n.hold = hold{} // its driver has been told, or may have been, that it is wanted out
		}
		if x != s && !withDriver(x.state) && !n.target.out() && x.state != drivers.Removed {
			back = append(back, x.id)
			n.reason = fmt.Sprintf("it was taken out with %s, which stays in", r.down.id)
		}
		x.detachAt = c.now
	}
	sentence := fmt.Sprintf("%s stays in, for %s does not go: %s", r.down.id, s.id, why)
	if len(back) > 0 {
		sentence += "; " + strings.Join(back, ", ") + map[bool]string{true: " comes back", false: " come back"}[len(back) == 1]
	}
	if status == AnswerFailed {
		code = "" // its own code is about the part
	}
	c.noteOn(r.down.id, Warning, sentence, nil)
	r.note(status, code, sentence)
	c.abandon(r)
}

// downSentence tells whoever took a module out what may be done now.
func (c *Core) downSentence(m *module) string {
	if note := c.pullNote(m.sides...); note != "" {
		return fmt.Sprintf("what %s carries is out of service; do not pull it yet: %s", m.id, note)
	}
	return fmt.Sprintf("%s is safe to pull: %s %s out of service", m.id, m.listed(), map[bool]string{true: "is", false: "are"}[m.carries() == 1])
}
