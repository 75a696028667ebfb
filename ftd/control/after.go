package control

import (
	"fmt"
	"time"

	"ft/drivers"
)

// after asks for what brings states nearer to targets. It looks at levels: whatever an
// event was, and whatever was lost on the way, what is still to be done is done. What
// has been asked for is noted at the side (work) and not asked for again until it is
// answered, or its time is over.
func (c *Core) after() {
	c.expireRequests()
	if c.loaded {
		gate := c.persist()
		for _, d := range c.devices {
			c.afterDevice(d, gate)
		}
		c.gateAnswers(gate)
	}
	for i := range c.out.Entries {
		if e := &c.out.Entries[i]; e.Severity == Error || e.Severity == Critical {
			c.act(Action{Kind: ActionAlarm, Entry: e})
		}
	}
	if at := c.deadline(); !at.Equal(c.timer) {
		c.timer = at
		c.act(Action{Kind: ActionTimer, At: at})
	}
}

// act numbers an action and gives it out.
func (c *Core) act(a Action) uint64 {
	c.lastAction++
	a.ID = c.lastAction
	c.out.Actions = append(c.out.Actions, a)
	return a.ID
}

// afterDevice asks for what one device needs.
func (c *Core) afterDevice(d *device, gate uint64) {
	if d.retarget {
		d.retarget = false
		if d.link != LinkNone && d.link != LinkStopping {
			d.toldGate = gate
			c.act(Action{Kind: ActionConfigure, After: gate, Device: d.name, Sides: d.sideConfigs()})
		}
	}
	switch d.link {
	case LinkStarting, LinkLost:
		c.afterLost(d, gate)
	case LinkStopping:
		if d.stop.id == 0 && !c.now.Before(d.stop.again) {
			d.stop.id = c.act(Action{Kind: ActionStop, After: gate, Device: d.name})
			d.stop.gate, d.stop.until = gate, c.now.Add(actionWait)
		}
	case LinkConnected:
		if d.lagging {
			if !c.now.Before(d.lookAgain) {
				d.lookAgain = c.now.Add(eventWait)
				c.act(Action{Kind: ActionSnapshot, Device: d.name})
			}
			return // the picture is not complete: decide nothing on it
		}
		if d.change.wanted && d.change.id == 0 {
			c.beginSwitch(d, gate)
		}
		for i := range d.sides {
			c.afterSide(&d.sides[i], gate)
		}
	}
}

// beginSwitch asks for a switch, unless the standby was lost since it was wanted.
func (c *Core) beginSwitch(d *device, gate uint64) {
	if r := c.noStandby(d, d.change.to); r != nil {
		c.settleDevice(&d.change, AnswerRefused, r.code, r.sentence)
		return
	}
	d.change.id = c.act(Action{Kind: ActionSwitch, After: gate, Device: d.name, Side: d.change.to})
	d.change.gate, d.change.until = gate, c.now.Add(actionWait)
}

// afterLost has the keeper start the driver, and asks again when it does not connect.
func (c *Core) afterLost(d *device, gate uint64) {
	if c.now.Before(d.process.again) {
		return
	}
	if (d.process.fails > 0 || d.process.id != 0) && !d.process.told {
		d.process.told = true
		c.noteOn(d.name, Error, fmt.Sprintf("the driver of %s has not connected yet: asking the keeper again", d.name), nil)
	}
	d.process.fails++
	d.process.id = c.act(Action{Kind: ActionStart, After: gate, Device: d.name, Sides: d.sideConfigs()})
	d.process.gate, d.process.again = gate, c.now.Add(actionWait)
}

// sideConfigs is what a new driver process is told: it must not take in a side that is
// wanted out.
func (d *device) sideConfigs() (sc [2]drivers.SideConfig) {
	for i := range d.sides {
		s := &d.sides[i]
		sc[i] = drivers.SideConfig{Resource: s.resource, Out: s.target.out()}
	}
	return sc
}

func (c *Core) afterSide(s *side, gate uint64) {
	// Rule 6, where a write has failed and the next is not due yet: what is done about a
	// side must be what the disk says of it, or will by then.
	if s.work != idle || s.recall == "" && c.writtenTarget(s.id).Direction != s.target.Direction {
		return
	}
	switch {
	case c.mayDetach(s) || s.untold() && !c.now.Before(s.detachAt):
		why := drivers.Reason{Text: s.target.Reason, AcceptRisk: s.target.Risk}
		if s.recall != "" {
			why.Text = s.recall
		}
		s.workRisk = why.AcceptRisk
		s.asked(detaching, c.act(Action{Kind: ActionDetach, After: gate, Device: s.dev.name, Side: s.index, Reason: why}), gate, c.now)
	case c.mayAttach(s):
		s.probe = s.probe || s.state == drivers.Removed && !s.dev.kind.returns
		s.told = false
		res := s.resource
		res.Identity, res.AcceptRisk = s.identity, s.risk
		s.asked(attaching, c.act(Action{Kind: ActionAttach, After: gate, Device: s.dev.name, Side: s.index, Resource: res}), gate, c.now)
	}
}

// mayDetach: the side is wanted out, and rule 1 allows it now.
func (c *Core) mayDetach(s *side) bool {
	wanted := s.target.out() || s.recall != ""
	if r := s.request; r != nil && r.down != nil && r.down.holds(s) {
		return false
	}
	if !wanted || !withDriver(s.state) || s.state == drivers.Dumping || c.now.Before(s.detachAt) {
		return false
	}
	if !s.state.InService() || s.target.out() && s.target.Risk == drivers.RiskLastSide {
		return true
	}
	return s.partner().good() && !s.partner().leaving()
}

// mayAttach: the side is wanted in, could come in, and it is its turn. While the face is
// down the sides are tried one after the other (rule 5): the first that serves is what
// the other is synced from.
func (c *Core) mayAttach(s *side) bool {
	if s.target.out() || s.draining || c.moduleOf(s).dark != "" {
		return false
	}
	partner := s.partner()
	faceUp := partner.state.InService()
	switch s.state {
	case drivers.Offline, drivers.Shot:
	case drivers.Removed: // see gone
		if s.pulled {
			return false
		}
	default:
		return false
	}
	switch s.hold.kind {
	case holdRefused, holdWaits:
		return false
	case holdRetry:
		if c.now.Before(s.hold.until) {
			return false
		}
	}
	if faceUp && s.fresh && c.bringup() == BringupDefer {
		return false
	}
	return faceUp || partner.work == idle && !onItsWay(partner.state)
}

// deadline is the next time at which something is due, or zero.
func (c *Core) deadline() (at time.Time) {
	next := func(t time.Time) {
		if t.After(c.now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if c.dirty {
		next(c.writeAgain)
	}
	for _, r := range c.requests {
		next(r.deadline)
	}
	for _, d := range c.devices {
		if d.link == LinkStarting || d.link == LinkLost {
			next(d.process.again)
		}
		next(d.lookAgain)
		next(d.stop.until)
		next(d.stop.again)
		next(d.change.until)
		for i := range d.sides {
			s := &d.sides[i]
			next(s.workUntil)
			if s.draining {
				next(s.drainTill)
			}
			if s.hold.kind == holdRetry {
				next(s.hold.until)
			}
			if withDriver(s.state) || s.untold() {
				next(s.detachAt)
			}
		}
	}
	return at
}
