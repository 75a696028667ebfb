package control

import (
	"fmt"
	"maps"
	"time"

	"ft/drivers"
)

// This file turns the reports of drivers, and of the kernel about devices that come
// and go, into proposals. They are facts: the core may find them wrong (a side that
// comes in without a test is recalled) but cannot refuse them.

// proposeConnected takes over what a driver process says of itself: ftd may have been
// away, or the process may be new.
func (c *Core) proposeConnected(p *proposal, d *device, st drivers.Status) {
	n := p.dev(d)
	if n.link == LinkStopping {
		d.stopBack = LinkConnected
	} else {
		n.link = LinkConnected
	}
	d.process = processWork{}
	d.synced(st.Seq)
	if c.resumed && !d.face.settled {
		p.found = d
	}
	c.noteOn(d.name, Info, fmt.Sprintf("the driver process of %s is connected", d.name), map[string]any{"pid": st.Pid})
	for i := range d.sides {
		s, f := &d.sides[i], &n.sides[i]
		s.endWork()
		// A new process may be able to do what the old one could not, and does not know
		// what the old one was asked for.
		f.hold, s.told = hold{}, false
	}
	c.adopt(p, d, st, true)
}

// proposeStatus takes a snapshot. It is the truth about states only if no events are
// on their way that it contains already: those tell more (what was a fault).
func (c *Core) proposeStatus(p *proposal, d *device, st drivers.Status) {
	if d.link != LinkConnected && d.link != LinkStopping {
		return
	}
	if st.Seq > d.lastSeq && d.ahead.IsZero() {
		d.ahead = c.now
	}
	if st.Seq > d.lastSeq && c.now.Sub(d.ahead) >= eventWait {
		d.lagging = true // they do not come any more
	}
	if st.Seq == d.lastSeq || d.lagging && st.Seq > d.lastSeq {
		all := d.lagging
		d.synced(st.Seq)
		c.adopt(p, d, st, all)
		return
	}
	c.show(d, st)
}

// synced notes that the states are known as of an event.
func (d *device) synced(seq uint64) {
	d.lastSeq, d.lagging, d.lookAgain, d.ahead = seq, false, time.Time{}, time.Time{}
}

// show keeps what is for people to read.
func (c *Core) show(d *device, st drivers.Status) {
	d.path, d.pid, d.stats = st.Face, st.Pid, st.Stats
	for i := range d.sides {
		s := &d.sides[i]
		s.active, s.note, s.progress = st.Sides[i].Active, st.Sides[i].Note, st.Sides[i].Progress
		if p := st.Sides[i].Resource.Path; p != "" && d.kind.name == "disk" && s.resource.Path != "" {
			s.resource.Path = p // its driver knows when a leg was replaced
		}
	}
}

// adopt proposes the states of a snapshot: all of them on a new connection and after
// events were missed, else those that are not what the driver said before.
func (c *Core) adopt(p *proposal, d *device, st drivers.Status, all bool) {
	c.show(d, st)
	p.snapshot = true
	p.dev(d).down = ""
	if st.State == drivers.FaceDown && (st.Sides[0].State.InService() || st.Sides[1].State.InService()) {
		p.dev(d).down = orElse(st.Reason, "the driver cannot bring the face up")
	}
	for i := range d.sides {
		s, n, is := &d.sides[i], &p.dev(d).sides[i], st.Sides[i]
		if s.state == drivers.Empty {
			continue
		}
		if c.identify(s, is.Resource.Identity) {
			n.target = n.target.newPart()
			n.hold, n.fresh = hold{}, isNew(n.target)
		}
		c.historyOf(s)
		if !all && is.State == s.said {
			continue
		}
		was := s.state
		s.said = is.State
		n.state, n.reason, n.draining = is.State, is.Reason, is.Draining
		gone := is.State == drivers.Removed || is.State == drivers.Empty
		if !gone && !n.present && (!s.pulled || withDriver(is.State)) {
			n.present, n.hold = true, hold{} // it was only the driver that missed it
		}
		s.probe = s.probe && !withDriver(is.State)
		if is.OutBy == drivers.OutByGuest && is.State == drivers.Offline {
			c.poweredOff(p, d, is.Reason, is.Since)
		}
		switch is.State {
		case drivers.Removed, drivers.Empty:
			n.state = drivers.Removed
			c.gone(n, s)
		case drivers.Broken:
			if n.target.By != ByAdmin { // else it is to be tried all the same
				n.target = c.brokenTarget(s, n.target, is.Reason)
			}
		case drivers.Shot:
			// A fault that ftd did not see happen. It may have been counted before ftd
			// went away: then its time is in the history.
			at := is.Since
			if at.IsZero() {
				at = c.now
			}
			// If the part is not there the fault was its going. Of a kind that is shot for
			// what lies outside the part too, only the event could have told.
			if !d.kind.returns && !s.pulled && was != drivers.Shot && was != drivers.Broken && !c.historyOf(s).knows(at) {
				p.faults = append(p.faults, fault{side: s, record: FaultRecord{At: at, What: is.Reason, Slot: s.id}})
			}
		}
	}
}

// proposeLost: the sides are as they were; what was asked of it is void and is asked of its
// successor.
func (c *Core) proposeLost(p *proposal, d *device, ev DriverLost) {
	n := p.dev(d)
	if n.link == LinkNone || ev.Stopped && n.link == LinkStopping {
		return // it was stopped, or is being stopped, by us
	}
	link, severity, what := LinkLost, Warning, "its successor takes the face over"
	if ev.GaveUp {
		link, severity = LinkGaveUp, Critical
		what = "it died too often and is not started again" + d.kind.kept
	}
	if ev.Stopped {
		severity, what = Critical, "its face is down, until there is a keeper again"
	}
	if n.link == LinkStopping {
		d.stopBack = link
	} else {
		n.link = link
		wait := driverWait
		if ev.Stopped {
			wait = stoppedWait
		}
		d.process = processWork{again: c.now.Add(wait)}
	}
	d.lagging, d.lookAgain, d.pid = false, time.Time{}, 0
	reason := fmt.Sprintf("the driver process of %s is gone (%s): %s", d.name, orElse(ev.Reason, "no reason known"), what)
	c.noteOn(d.name, severity, reason, nil)
	if d.change.id != 0 {
		c.settleDevice(&d.change, AnswerFailed, "", reason)
	}
	for i := range d.sides {
		d.sides[i].endWork()
		if f := &n.sides[i]; (ev.GaveUp || ev.Stopped) && withDriver(f.state) {
			f.state, f.reason = drivers.Offline, reason
		}
	}
}

// proposeReport takes one event.
func (c *Core) proposeReport(p *proposal, d *device, ev drivers.Event) {
	if d.link != LinkConnected && d.link != LinkStopping || ev.Seq <= d.lastSeq {
		return // of a process that is gone, or contained in a snapshot
	}
	if ev.Seq > d.lastSeq+1 {
		d.lagging = true
	}
	d.lastSeq, d.ahead = ev.Seq, time.Time{}
	switch {
	case ev.Kind == drivers.EventFace:
		n := p.dev(d)
		n.down = ""
		if ev.To == drivers.FaceDown.String() {
			n.down = orElse(ev.Reason, "the driver has the face down")
		}
	case ev.Kind == drivers.EventSide && ev.Side.Valid():
		c.proposeSide(p, &d.sides[ev.Side], ev)
	case ev.Kind == drivers.EventDrained && ev.Side.Valid():
		s := &d.sides[ev.Side]
		n := p.at(s)
		if n.draining = false; s.draining && n.hold.kind == holdRetry {
			n.hold = hold{}
		}
	case ev.Kind == drivers.EventNote:
		id, severity := d.name, Info
		if ev.Side.Valid() {
			id = d.sides[ev.Side].id
		}
		if ev.Fault != "" { // that has passed, or was mended
			severity = Warning
		}
		c.noteOn(id, severity, ev.Reason, extraOf(ev))
	default:
		d.lagging = true
		c.noteOn(d.name, Warning, fmt.Sprintf("the driver of %s sent an event that means nothing: kind %q, side %d", d.name, ev.Kind, ev.Side), nil)
	}
}

// extraOf is what the log keeps of an event beside its sentence.
func extraOf(ev drivers.Event) map[string]any {
	if ev.Fault == "" && !ev.Injected {
		return ev.Detail
	}
	extra := maps.Clone(ev.Detail)
	if extra == nil {
		extra = map[string]any{}
	}
	if ev.Fault != "" {
		extra["fault"] = ev.Fault
	}
	if ev.Injected {
		extra["injected"] = true
	}
	return extra
}

// proposeSide takes the report that a side changed.
func (c *Core) proposeSide(p *proposal, s *side, ev drivers.Event) {
	to, err := drivers.ParseState(ev.To)
	if err != nil || s.state == drivers.Empty {
		s.dev.lagging = true
		c.noteOn(s.id, Warning, fmt.Sprintf("the driver of %s says that %s is %q, which cannot be: asking again", s.dev.name, s.id, ev.To), nil)
		return
	}
	n, was := p.at(s), s.state
	if c.identify(s, ev.Identity) {
		n.target = n.target.newPart()
	}
	s.said = to
	if to != was { // else it may be the end of a detach from before the attach
		s.moved = true
	}
	p.cause, p.extra = s, extraOf(ev)
	n.state, n.reason = to, ev.Reason
	n.draining, _ = ev.Detail["draining"].(bool)

	s.probe = s.probe && !withDriver(to)
	switch {
	case to == drivers.Removed || to == drivers.Empty:
		n.state = drivers.Removed
		c.gone(n, s)
	case was == drivers.Removed:
		n.present = true
		n.hold, n.fresh = hold{}, isNew(n.target)
	}
	switch {
	case to == drivers.Offline && ev.Detail["out_by"] == drivers.OutByGuest:
		c.poweredOff(p, s.dev, ev.Reason, time.Time{})
	case ev.Fault != "" && (to == drivers.Shot || to == drivers.Offline):
		n.state = drivers.Shot
		if was != drivers.Shot && was != drivers.Broken && !s.pulled { // else it was its going
			p.faults = append(p.faults, c.faultOf(s, ev))
		}
	case to == drivers.Broken:
		n.target = c.brokenTarget(s, n.target, ev.Reason)
	case to == drivers.Offline && onItsWay(was) && !n.target.out() && !s.leaving():
		c.attachEnded(n, s, ev)
	case to == drivers.Offline && was != drivers.Removed && !withDriver(was):
		c.readyAgain(n, s)
	case to.InService() && !withDriver(was) && c.partnerServes(p, s) && !s.dev.lagging:
		// Rule 2. Its data may be anything: out with it, and in again by the way that
		// tests it. That is a fault, so that it cannot go on for ever.
		n.recall = untested
		p.faults = append(p.faults, fault{side: s, record: FaultRecord{At: c.now, What: n.recall, Slot: s.id}})
		c.noteOn(s.id, Critical, fmt.Sprintf("the driver of %s reports %s %v straight from %v: it is taken out again", s.dev.name, s.id, to, was), nil)
	case to.InService() && was == drivers.Diagnostics && c.partnerServes(p, s):
		p.via = s // it was up to date: there was nothing to sync
	}
}

// untested is the recall of a side that came in where it must not.
const untested = "it came in without diagnostics and syncing"

func (c *Core) partnerServes(p *proposal, s *side) bool { return p.at(s.partner()).state.InService() }

// faultOf is the record of a fault that a driver reported.
func (c *Core) faultOf(s *side, ev drivers.Event) fault {
	at := ev.Time
	if at.IsZero() {
		at = c.now
	}
	what := ev.Fault
	if ev.Reason != "" {
		what = ev.Reason
	}
	return fault{side: s, record: FaultRecord{At: at, What: what, Slot: s.id}, injected: ev.Injected}
}

// attachEnded: diagnostics or sync came to an end without service, and without a
// fault of the part. A code says that a rule of the driver forbids the side; else it
// is tried again.
func (c *Core) attachEnded(n *facts, s *side, ev drivers.Event) {
	if code, _ := ev.Detail["code"].(string); code != "" {
		c.forbidden(n, s, code, ev.Reason)
		return
	}
	switch {
	case s.work == attaching: // its result says more
	case n.hold.kind == holdRefused, n.hold.kind == holdRetry && n.hold.until.After(c.now):
		// Its result came before this, and has said what follows.
	default:
		c.tryAgain(n, s, AnswerFailed, ev.Reason)
	}
}

// readyAgain: a side that was out could now come in (its carrier is back). It is tried
// at once, but never faster than once in readyPause.
func (c *Core) readyAgain(n *facts, s *side) {
	s.stirred = c.now
	switch soon := s.workSince.Add(readyPause); {
	case n.hold.kind == holdRefused || n.hold.kind == holdWaits:
		n.hold = hold{}
	case n.hold.kind == holdRetry && soon.Before(n.hold.until):
		n.hold.until = soon
	}
}

// gone notes that what a side is made of is not there. I/O errors just before were its
// removal, and so was a verdict that rests on them.
//
// If the kernel says so it will say when the part is back. If only the driver does,
// nobody may: the part may have come back before the driver found that it had gone, or
// be of a kind that the kernel does not report. Then the side is tried now and then,
// unless the driver has said that it will bring it in by itself.
func (c *Core) gone(n *facts, s *side) {
	n.present, n.draining = false, false
	s.fails, s.outFails, s.probe = 0, 0, false
	switch {
	case s.state == drivers.Removed && n.hold.kind == holdWaits:
	case s.pulled:
		n.hold = hold{}
	default:
		n.hold = hold{kind: holdRetry, until: c.now.Add(readyPause), sentence: n.reason}
	}
	window := c.now.Add(-vanishWindow)
	if h := c.historyOf(s); h.Real.retract(s.id, window) > 0 {
		h.Excused, c.dirty = c.now, true
		if n.target.By == ByFault && n.target.Since.After(window) {
			n.target = byConfig
		}
	}
	n.fresh = isNew(n.target) // it is new here when it comes back
	s.unjudged = judged
}

func (c *Core) proposeVanished(p *proposal, ev DeviceVanished) {
	s := c.side(ev.ID)
	if s == nil || s.state == drivers.Empty {
		return
	}
	n := p.at(s)
	if s.pulled = true; !s.present {
		if n.hold.kind == holdRetry {
			n.hold = hold{} // the kernel says so too, and will say when it is back
		}
		return
	}
	p.cause = s
	reason := orElse(ev.Reason, s.resource.Path+" has vanished")
	c.gone(n, s)
	if withDriver(n.state) {
		// The driver still holds it. It will see for itself; if its partner is good it
		// need not wait for that.
		n.recall = reason
		return
	}
	n.state, n.reason = drivers.Removed, reason
}

func (c *Core) proposeSeen(p *proposal, ev DeviceSeen) {
	s := c.side(ev.ID)
	if s == nil || s.state == drivers.Empty {
		return
	}
	if c.moduleOf(s).dark != "" {
		return // it cannot be: whoever gives the power back looks again
	}
	n := p.at(s)
	p.cause, s.pulled, s.probe, s.stirred = s, false, false, c.now
	switch {
	case withDriver(n.state):
		// The driver knows which part it holds, and will see if it has lost it.
		if n.recall != untested {
			n.recall = ""
		}
	case c.identify(s, ev.Identity):
		n.target = n.target.newPart()
		n.hold, n.fresh = hold{}, isNew(n.target)
		n.state, n.reason = drivers.Offline, s.resource.Path+" is another part now"
	}
	if !n.present {
		n.present = true
		n.hold, n.fresh = hold{}, isNew(n.target)
		if !withDriver(n.state) {
			n.state, n.reason = drivers.Offline, s.resource.Path+" is there again"
			if n.target.By == ByAdmin && n.target.out() {
				n.reason = n.target.Reason // that it is there is not why it is out
			}
		}
	}
	if n.hold.kind != holdWaits { // else its driver brings it in by itself
		n.hold = hold{}
	}
	s.fails = 0
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
