package control

import (
	"fmt"

	"ft/drivers"
)

// sanitize makes a proposal consistent with itself, so that the functions that propose
// need to know only their own event:
//
//   - in service means simplex when alone and duplex when not;
//   - a side out of service is removed when its part is not there, else broken when
//     that is the verdict on the part, else what its driver says;
//   - a side that failed stays shot until it is on its way in again, although its
//     driver, which does not know what is decided, calls it offline once it is quiet.
//
// It is idempotent, and looks at every device: a proposal may touch several.
func (c *Core) sanitize(p *proposal) {
	for _, d := range c.devices {
		n := &p.next[d.index]
		for i := range d.sides {
			c.sanitizeSide(p, &d.sides[i], &n.sides[i])
		}
		c.sanitizePair(p, d, n)
	}
}

// unsaid are the reasons of states that a driver gives none for.
var unsaid = map[drivers.State]string{
	drivers.Offline:     "its driver has it out of service",
	drivers.Diagnostics: "being tested before it may come in",
	drivers.Dumping:     "its memory is being written out",
	drivers.Shot:        "cut off after a fault",
	drivers.Broken:      "its driver finds it unfit",
}

func (c *Core) sanitizeSide(p *proposal, s *side, n *facts) {
	if s.state == drivers.Empty {
		*n = s.facts
		return
	}
	if !withDriver(n.state) {
		n.present = n.present && c.moduleOf(s).dark == ""
		n.recall = ""
		n.state, n.reason = c.outState(s, n)
	} else {
		n.draining = false
	}
	if n.state == drivers.Syncing {
		n.reason = orElse(n.reason, s.dev.kind.syncing)
	}
	n.reason = orElse(n.reason, unsaid[n.state])
	if n.state.InService() {
		n.hold, n.fresh = hold{}, false
		if n.target.By == ByFault && !n.target.out() {
			n.target = byConfig // it has come back
		}
	}
	if p.snapshot && n.state == s.state && n.target == s.target {
		n.reason = s.reason
	}
}

// outState is the state of a side that its driver has nothing to do with.
func (c *Core) outState(s *side, n *facts) (drivers.State, string) {
	switch {
	case !n.present:
		if dark := c.moduleOf(s).dark; dark != "" {
			return drivers.Removed, dark
		}
		if s.state == drivers.Removed {
			return drivers.Removed, s.reason
		}
		if n.state == drivers.Removed {
			return drivers.Removed, orElse(n.reason, s.resource.Path+" is gone")
		}
		return drivers.Removed, orElse(s.recall, s.resource.Path+" has vanished")
	case n.target.Broken:
		if s.state == drivers.Broken {
			return drivers.Broken, s.reason
		}
		return drivers.Broken, n.target.Reason
	case n.target.out():
		if n.state == drivers.Shot && n.draining {
			return drivers.Shot, n.reason
		}
		if n.state == drivers.Shot || n.target != s.target || withDriver(s.state) {
			return drivers.Offline, n.target.Reason
		}
	case s.state == drivers.Shot && n.state == drivers.Offline && n.hold.kind != holdRefused:
		return drivers.Shot, s.reason
	case n.state == drivers.Removed || n.state == drivers.Broken || n.state == drivers.Empty:
		return drivers.Offline, n.reason // there it is, and there is nothing against it
	}
	return n.state, n.reason
}

func (c *Core) sanitizePair(p *proposal, d *device, n *deviceNext) {
	for i := range d.sides {
		f, partner := &n.sides[i], &n.sides[1-i]
		if !f.state.InService() {
			continue
		}
		state := drivers.Simplex
		if partner.state.InService() {
			state = drivers.Duplex
		}
		s := &d.sides[i]
		said := p.cause == s && f.reason != "" && f.state == state // why, by its driver
		if !s.state.InService() && partner.hold.kind == holdRefused {
			partner.hold = hold{} // what forbade it may be mended by this: ask again
		}
		f.state = state
		switch {
		case state == s.state:
			f.reason = s.reason
		case said:
		case state == drivers.Duplex:
			f.reason = "with its partner " + d.sides[1-i].id
		default:
			f.reason = fmt.Sprintf("alone: %s is %v", d.sides[1-i].id, partner.state)
		}
	}
}
