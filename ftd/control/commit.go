package control

import (
	"fmt"

	"ft/drivers"
)

// commit makes a proposal the truth. It is the only place where states change, and
// they change through the become functions at the end of this file, each change with
// its old state, the new one, the reason and the time in the log. First the sides, the
// one that is the cause before the others; then what follows from them: faces,
// modules, the box.
func (c *Core) commit(p *proposal) {
	for _, f := range p.faults {
		c.noteFault(f)
	}
	if p.then != nil {
		p.then()
	}
	if p.cause != nil {
		c.commitSide(p, p.cause)
	}
	for _, d := range c.devices {
		n := p.dev(d)
		if d.link != n.link || d.down != n.down {
			c.changes++
		}
		d.link, d.down = n.link, n.down
		for i := range d.sides {
			if s := &d.sides[i]; s != p.cause {
				c.commitSide(p, s)
			}
		}
	}
	if c.changes != c.derived {
		c.derived = c.changes
		c.derive()
	}
	c.settleReached()
	if p.ask != nil && p.nothing != "" {
		c.answer(p.ask.ID, AnswerDone, "", p.nothing)
	}
}

// derive follows the changes of sides through faces and modules to the box.
func (c *Core) derive() {
	for _, d := range c.devices {
		down := d.face.state == drivers.FaceDown
		c.becomeFace(d)
		if down && d.face.state != drivers.FaceDown {
			c.faceIsUp(d)
		}
	}
	for i := range c.modules {
		c.becomeModule(&c.modules[i])
	}
	c.becomeBox()
	c.watchBoot()
}

func (c *Core) commitSide(p *proposal, s *side) {
	n := *p.at(s)
	if n.target != s.target {
		c.dirty = true
		if p.ask != nil && s.undo == nil {
			before := s.target
			s.undo = &before
		}
		if n.target.Direction != s.target.Direction {
			s.dev.retarget = true
		}
	}
	if n.draining && !s.draining {
		s.drainTill = c.now.Add(drainWait)
	}
	var extra map[string]any
	if s == p.cause {
		extra = p.extra
	}
	if s == p.via {
		c.becomeSide(s, drivers.Syncing, "it was up to date: nothing to bring over", nil, false)
	}
	state, reason := n.state, n.reason
	n.state, n.reason = s.state, s.reason
	s.facts = n
	c.becomeSide(s, state, reason, extra, s.dev == p.found && state.InService())
}

// noteFault puts a fault into the history of the part, where it waits for its verdict.
func (c *Core) noteFault(f fault) {
	c.historyOf(f.side).list(f.injected).add(f.record)
	c.dirty = true
	f.side.unjudged = unjudgedReal
	if f.injected {
		f.side.unjudged = unjudgedInjected
	}
}

// becomeSide is the only function that changes the state of a side; found: what changes is
// only what is known of it.
func (c *Core) becomeSide(s *side, to drivers.State, reason string, extra map[string]any, found bool) {
	from := s.state
	if from == to && reason == s.reason {
		return
	}
	c.changes++
	s.state, s.reason = to, reason
	if from != to {
		s.since = c.now
		s.progress = nil
		c.served(s, from)
	}
	if found {
		c.logFound(s.id, to.String(), reason)
		return
	}
	c.log(Entry{ID: s.id, From: from.String(), To: to.String(), Reason: reason, Severity: c.severity(s, from, to), Extra: extra})
}

// logFound is about what was so when this ftd came: nothing has happened.
func (c *Core) logFound(id, state, reason string) {
	c.log(Entry{ID: id, From: state, To: state, Severity: Info, Reason: "as ftd found it: " + reason, Extra: map[string]any{"found": true}})
}

// served follows a side into service and out of it.
func (c *Core) served(s *side, from drivers.State) {
	switch in := s.state.InService(); {
	case in && !from.InService():
		s.served = c.now
		s.partner().stirred = c.now
	case !in && from.InService():
		s.active, s.note = false, "" // what was said of it in service
		if c.now.Sub(s.served) >= stableAfter {
			s.fails = 0
		}
	}
}

// severity of a change of a side.
func (c *Core) severity(s *side, from, to drivers.State) Severity {
	switch {
	case from == to:
		return Info
	case to == drivers.Broken:
		return Critical
	case to == drivers.Shot:
		return Error
	case to == drivers.Simplex && from == drivers.Duplex,
		to == drivers.Removed && !s.target.out(),
		to == drivers.Offline && withDriver(from) && from != drivers.Dumping && !s.target.out():
		return Warning
	}
	return Info
}

// becomeFace derives the state of a face from its sides, and from its driver where that
// cannot bring it up.
func (c *Core) becomeFace(d *device) {
	a, b := &d.sides[0], &d.sides[1]
	to, reason := drivers.FaceDown, "no side is in service"
	switch {
	case d.down != "":
		reason = d.down
	case c.waits(d):
		reason = c.waitSentence(d)
	case a.state.InService() && b.state.InService():
		to, reason = drivers.FaceDuplex, "both sides are in service"
	case a.state.InService() || b.state.InService():
		if b.state.InService() {
			a, b = b, a
		}
		to, reason = drivers.FaceSimplex, fmt.Sprintf("on %s alone: %s is %v", a.id, b.id, b.state)
		if onItsWay(b.state) {
			to, reason = drivers.FaceSyncing, fmt.Sprintf("on %s, %s is coming in", a.id, b.id)
		}
	}
	severity := Info
	switch {
	case to == drivers.FaceDown && d.wanted():
		severity = Critical
	case to < d.face.state:
		severity = Warning
	}
	become(c, &d.face, d.name, to, reason, severity, !c.unheard(d))
}

// becomeBox derives the state of the box: its worst face.
func (c *Core) becomeBox() {
	if len(c.devices) == 0 {
		return
	}
	to, reason := drivers.FaceDuplex, "all faces are duplex"
	known := true
	for _, d := range c.devices {
		known = known && d.face.settled
		if d.face.state < to {
			to, reason = d.face.state, d.name+": "+d.face.reason
		}
	}
	severity := Info
	if to < c.box.state {
		severity = Warning
	}
	become(c, &c.box, c.cfg.Name, to, reason, severity, known)
}

// become changes a derived state. A change of the reason alone is kept but not logged:
// the side that it comes from has its own entry. Nor is one of a box that ran before this ftd
// came, until it is known how all stood then that it is derived from.
func become[S interface {
	comparable
	fmt.Stringer
}](c *Core, m *mark[S], id string, to S, reason string, severity Severity, known bool) {
	from, first := m.state, c.resumed && !m.settled
	m.reason, m.settled = reason, m.settled || known
	if from != to {
		m.state, m.since = to, c.now
	}
	var nothing S // down, or empty
	switch {
	case first && known && to != nothing:
		c.logFound(id, to.String(), reason)
		return
	case first, from == to:
		return
	}
	c.log(Entry{ID: id, From: from.String(), To: to.String(), Reason: reason, Severity: severity})
}

// noteOn logs something about a component that changes no state.
func (c *Core) noteOn(id string, severity Severity, reason string, extra map[string]any) {
	state := c.stateOf(id)
	c.log(Entry{ID: id, From: state, To: state, Severity: severity, Reason: reason, Extra: extra})
}

// stateOf is the word for the state of a side, device, module or the box; "" for what
// is none of them.
func (c *Core) stateOf(id string) string {
	if s := c.side(id); s != nil {
		return s.state.String()
	}
	if d := c.device(id); d != nil {
		return d.face.state.String()
	}
	for i := range c.modules {
		if c.modules[i].id == id {
			return c.modules[i].state.String()
		}
	}
	if id == c.cfg.Name {
		return c.box.state.String()
	}
	return ""
}

// log numbers an entry and gives it out; after raises an alarm for the bad ones.
func (c *Core) log(e Entry) {
	c.seq++
	e.Seq, e.Time = c.seq, c.now
	c.out.Entries = append(c.out.Entries, e)
}
