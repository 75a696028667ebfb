package bond

import (
	"fmt"
	"time"

	"ft/bond/datapath"
	"ft/drivers"
)

// stepsMax bounds how often a port may move on within one step: removed, offline,
// diagnostics, syncing, in service.
const stepsMax = 8

// settle first inspects both ports, then commits: who is active, what the kernel may
// turn to, what ftd is told.
func (c *Core) settle() {
	for range stepsMax {
		if moved := c.advance(&c.ports[0]); !c.advance(&c.ports[1]) && !moved {
			break
		}
	}
	c.choose()
	c.name()
	st := c.wantedState()
	if st != c.told {
		c.out.State = &st
		c.told = st
	}
	if s := c.out.Switch; s != nil && (s.From == datapath.None) != (s.To == datapath.None) {
		up := s.To != datapath.None
		c.out.Carrier = &up
	}
	c.out.Timer = c.deadline()
}

// wantedState is what the data path should do. The kernel may turn to what is in
// service; not with a down-delay, which it knows nothing of.
func (c *Core) wantedState() datapath.State {
	st := datapath.State{Active: c.active}
	for i := range c.ports {
		st.Eligible[i] = c.ports[i].state.InService() && c.opt.DownDelay == 0
	}
	return st
}

// advance moves a port on by one state; false when it stays where it is.
func (c *Core) advance(p *port) bool {
	was := p.state
	switch {
	case !p.present || p.takenOut:
		return false
	case c.hasLost(p):
		if p.turnedAt.IsZero() || p.carrierAt.Sub(p.turnedAt) > turnWindow {
			c.lost(p, p.carrierAt)
		}
		p.turnedAt, p.downAt = time.Time{}, time.Time{}
		c.fail(p, p.noCarrier())
	case !p.carrier:
		return false
	case c.calm(p):
		p.storm, p.losses = false, nil
	}
	switch p.state {
	case drivers.Offline, drivers.Shot, drivers.Removed:
		if p.wanted && c.waitsFor(p) == "" {
			c.become(p, drivers.Diagnostics, "")
		}
	case drivers.Diagnostics:
		if c.pathDead(p) {
			c.fail(p, p.pathDead())
		} else if !c.probing || p.path == PathGood || !c.now.Before(p.testUntil) {
			c.become(p, drivers.Syncing, "")
		}
	case drivers.Syncing:
		if c.pathDead(p) {
			c.fail(p, p.pathDead())
		} else if !c.now.Before(p.upAt) {
			c.serve(p)
		}
	case drivers.Simplex, drivers.Duplex:
		if c.pathDead(p) && c.ports[p.side.Other()].state.InService() && c.proven(p.side.Other()) {
			c.fail(p, p.pathDead())
		}
	}
	return p.state != was
}

// turnWindow is how long after a turn of the kernel's the poll may see the same loss.
const turnWindow = 100 * time.Millisecond

// hasLost says that a loss of carrier has lasted for the down-delay and is to be acted on.
func (c *Core) hasLost(p *port) bool {
	return !p.carrier && !p.downAt.IsZero() && !c.now.Before(p.downAt)
}

// lost counts a loss of carrier, and begins to hold the port back when there were too many.
func (c *Core) lost(p *port, at time.Time) {
	keep := p.losses[:0]
	for _, l := range p.losses {
		if at.Sub(l) < c.opt.FlapWindow {
			keep = append(keep, l)
		}
	}
	if len(keep) > c.opt.FlapMax {
		keep = append(keep[:0], keep[1:]...)
	}
	p.losses = append(keep, at)
	if len(p.losses) > c.opt.FlapMax {
		p.holdUntil = at.Add(c.opt.FlapHold)
		if !p.storm {
			p.storm = true
			from := p.state
			p.state, p.reason, p.since = drivers.Shot, c.flapping(p), c.now
			c.report(p, from, "flapping")
		}
	}
}

func (c *Core) flapping(p *port) string {
	return fmt.Sprintf("%s flaps: %d losses of carrier within %s; kept out until it has been quiet for %s", p.name, c.opt.FlapMax+1, c.opt.FlapWindow, c.opt.FlapHold)
}

// calm says that a flapping port has been quiet long enough.
func (c *Core) calm(p *port) bool { return p.storm && !c.now.Before(p.holdUntil) }

// fail takes a port out of what it was in.
func (c *Core) fail(p *port, why string) {
	if p.storm || p.state == drivers.Shot {
		return // it is out and has said why
	}
	if p.state == drivers.Offline || p.state == drivers.Removed {
		p.reason = why
		return
	}
	c.become(p, drivers.Shot, why)
}

// waitsFor says what keeps a wanted port from being tested now; "" for nothing.
func (c *Core) waitsFor(p *port) string {
	switch {
	case !p.present:
		return p.reason
	case !p.carrier:
		return p.noCarrier()
	case p.storm:
		return c.flapping(p)
	case c.pathDead(p):
		return p.pathDead()
	}
	return ""
}

// pathDead is invariant 4.
func (c *Core) pathDead(p *port) bool {
	other := &c.ports[p.side.Other()]
	return p.path == PathBad && other.path == PathGood && other.present && other.carrier && !other.takenOut
}

// proven says that a port's probes have been answered just now, and not for the first time
// since the path was dead: the other port's have had their turn as well.
func (c *Core) proven(s drivers.Side) bool {
	p, turn := &c.ports[s], c.opt.ProbeInterval*3/2
	return p.path == PathGood && c.now.Sub(p.heardAt) <= turn && c.now.Sub(p.goodSince) >= turn
}

// serve puts a port in service.
func (c *Core) serve(p *port) {
	to := drivers.Simplex
	if c.ports[p.side.Other()].state.InService() {
		to = drivers.Duplex
	}
	c.become(p, to, "")
	cur := c.active
	if p.side != c.opt.Primary || cur == p.side || cur == datapath.None || !c.ports[cur].state.InService() {
		return
	}
	switch c.opt.Reselect {
	case ReselectBetter:
		if p.quality <= c.ports[cur].quality {
			return
		}
	case ReselectFailure:
		return
	}
	c.turnTo(p.side, p.name+" is the primary port and is back", c.now)
}

// Ranks of ports, from useless to good. See invariant 1.
const (
	rankUseless   = iota
	rankPathDead  // its path is dead and the other's is not, but it has a carrier
	rankDeferred  // nobody has asked for it yet
	rankUntested  // on its way in, or held back
	rankDoubtful  // in service, and its path does not answer
	rankInService //
)

func (c *Core) rank(p *port) int {
	switch {
	case !p.present || p.takenOut || p.state == drivers.Empty:
		return rankUseless
	case !p.carrier && p.downAt.IsZero():
		return rankUseless
	case p.state.InService() && p.path != PathBad:
		return rankInService
	case p.state.InService():
		return rankDoubtful
	case p.path == PathBad:
		return rankPathDead
	case p.wanted:
		return rankUntested
	}
	return rankDeferred
}

// choose commits who is active.
func (c *Core) choose() {
	best := c.active
	bestRank := rankUseless
	if best.Valid() {
		bestRank = c.rank(&c.ports[best])
	}
	if bestRank < rankInService {
		for _, s := range [2]drivers.Side{c.opt.Primary, c.opt.Primary.Other()} {
			r := c.rank(&c.ports[s])
			if bestRank == rankDoubtful && !c.proven(s) {
				continue // not known to be better
			}
			if r > bestRank {
				best, bestRank = s, r
			}
		}
	}
	if bestRank == rankUseless {
		best = datapath.None
	}
	if best.Valid() {
		c.mustServe(&c.ports[best])
	}
	if best == c.active {
		return
	}
	cause, at := "a port is there", c.now
	if c.active.Valid() {
		cause, at = c.ports[c.active].cause, c.ports[c.active].causeAt
	}
	c.turnTo(best, cause, at)
}

// mustServe puts a port in service that nobody had time to test: it is the only one.
func (c *Core) mustServe(p *port) {
	if p.state.InService() {
		return
	}
	p.wanted = true
	const why = "there is no other port"
	if p.state != drivers.Diagnostics && p.state != drivers.Syncing {
		c.become(p, drivers.Diagnostics, why)
	}
	if p.state != drivers.Syncing {
		c.become(p, drivers.Syncing, why)
	}
	c.become(p, drivers.Simplex, why)
}

// turnTo makes a port the active one.
func (c *Core) turnTo(to drivers.Side, cause string, at time.Time) {
	from := c.active
	c.active = to
	planned := from.Valid() && c.ports[from].present && c.ports[from].carrier && c.ports[from].path != PathBad
	c.out.Planned = planned
	if s := c.out.Switch; s != nil { // a second one in this step: what counts is where it began
		from, cause, at = s.From, s.Cause, s.CauseAt
		if from == to {
			c.out.Switch = nil
			return
		}
	}
	c.out.Switch = &Switch{From: from, To: to, Cause: cause, CauseAt: at, Planned: planned}
}

// name calls ports in service simplex when alone and duplex when not.
func (c *Core) name() {
	for i := range c.ports {
		p, other := &c.ports[i], &c.ports[1-i]
		if !p.state.InService() {
			continue
		}
		want := drivers.Simplex
		if other.state.InService() {
			want = drivers.Duplex
		}
		if p.state != want {
			c.become(p, want, "")
		}
	}
}

// become is the only way in which a port's state changes (but for the first report of a storm).
func (c *Core) become(p *port, to drivers.State, reason string) {
	from := p.state
	if from == to && p.reason == reason {
		return
	}
	p.state, p.reason, p.since = to, reason, c.now
	c.report(p, from, "")
}

func (c *Core) report(p *port, from drivers.State, fault string) {
	c.out.Reports = append(c.out.Reports, Report{Side: p.side, From: from, To: p.state, Reason: p.reason, Fault: fault})
}

// deadline is when something is due that only time brings about.
func (c *Core) deadline() (at time.Time) {
	next := func(t time.Time) {
		if t.After(c.now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for i := range c.ports {
		p := &c.ports[i]
		if !p.present || p.takenOut {
			continue
		}
		next(p.downAt)
		if p.storm {
			next(p.holdUntil)
		}
		switch p.state {
		case drivers.Diagnostics:
			next(p.testUntil)
		case drivers.Syncing:
			next(p.upAt)
		case drivers.Simplex, drivers.Duplex:
			if c.pathDead(p) { // until the other one's path answers, or is dead too
				next(c.now.Add(c.opt.ProbeInterval / 2))
			}
		}
	}
	return at
}
