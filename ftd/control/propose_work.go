package control

import (
	"fmt"

	"ft/drivers"
)

// This file takes the results of actions, and the deadlines of what did not come.
// A side that could not be brought in is tried again, at growing intervals, if the try
// failed; if a rule of the driver forbade it, it waits until something has changed: its
// device is seen, an admin asks, its partner comes into service, a new driver process.

// overdue is an internal event: the driver's report after an accepted attach, or after
// a detach, did not come.
type overdue struct{ side *side }

// verdictDue is an internal event: a fault is to be judged.
type verdictDue struct{ side *side }

// drainOver is an internal event: I/O on a cut-off side has not ended for drainWait. The
// driver is asked to take the side in all the same; it refuses if it must not.
type drainOver struct{ side *side }

// linkDue is an internal event: a device is to have a process, or to lose it.
type linkDue struct{ device *device }

func (overdue) event()    {}
func (verdictDue) event() {}
func (drainOver) event()  {}
func (linkDue) event()    {}

// due finds what follows from the last event, or from the time: internal events, each of
// which goes through the pipeline and is then no longer due.
func (c *Core) due() Event {
	for _, d := range c.devices {
		for i := range d.sides {
			s := &d.sides[i]
			late := !s.workUntil.IsZero() && !c.now.Before(s.workUntil)
			switch {
			case s.unjudged != judged:
				return verdictDue{s}
			case late && s.workID != 0:
				return noAnswer(s.workID)
			case late:
				return overdue{s}
			case s.draining && !c.now.Before(s.drainTill):
				return drainOver{s}
			}
		}
		if s := c.stuckDown(d); s != nil {
			return stuckDown{s}
		}
		for _, w := range d.works() {
			if w.id != 0 && !c.now.Before(w.until) {
				return noAnswer(w.id)
			}
		}
		if c.loaded && c.linkWrong(d) {
			return linkDue{d}
		}
	}
	return nil
}

func noAnswer(id uint64) ActionResult {
	return ActionResult{ID: id, Outcome: Failed, Code: RuleTimeout, Sentence: fmt.Sprintf("no answer for %s", short(actionWait))}
}

// linkWrong says whether a device lacks a process that it should have now, has one although
// it was taken down as a whole (before ftd was restarted), or is about to lose one
// that has come to serve since.
func (c *Core) linkWrong(d *device) bool {
	switch d.link {
	case LinkNone:
		return d.wanted() && c.waitsFor(d) == ""
	case LinkConnected:
		return d.takenDown() && d.mayStop()
	case LinkStopping:
		return d.stop.id == 0 && !d.mayStop()
	}
	return false
}

// mayStop is rule 1 for a device as a whole.
func (d *device) mayStop() bool { return d.atRest() || d.riskNamed() }

// riskNamed says whether the admin who took the device down named the risk of doing so
// while it serves. He need not have, if it did not serve as far as anybody knew.
func (d *device) riskNamed() bool {
	if d.stop.risk {
		return true
	}
	for i := range d.sides {
		if t := d.sides[i].target; t.Whole && t.Risk == drivers.RiskLastSide {
			return true
		}
	}
	return false
}

// takenDown says whether an admin took the device down as a whole.
func (d *device) takenDown() bool {
	whole := false
	for i := range d.sides {
		s := &d.sides[i]
		if s.state != drivers.Empty && !s.target.out() {
			return false
		}
		whole = whole || s.target.Whole
	}
	return whole
}

func (c *Core) proposeLink(p *proposal, d *device) {
	if d.link == LinkNone {
		p.dev(d).link = LinkStarting
		d.process = processWork{again: c.now}
		return
	}
	if d.link == LinkStopping {
		p.dev(d).link = d.stopBack
		sentence := fmt.Sprintf("%s has come into service meanwhile: taking it down stops %s; say --accept-risk=last-side if that is meant", d.name, d.faceName())
		c.logRefusal(d.name, drivers.RuleLastSide, sentence)
		c.settleDevice(&d.stop, AnswerRefused, drivers.RuleLastSide, sentence)
		return
	}
	p.dev(d).link, d.stopBack = LinkStopping, d.link
}

func (c *Core) proposeResult(p *proposal, ev ActionResult) {
	if ev.ID == 0 || c.writeResult(p, ev) {
		return
	}
	for _, d := range c.devices {
		switch ev.ID {
		case d.process.id:
			c.startResult(p, d, ev)
			return
		case d.stop.id:
			c.stopResult(p, d, ev)
			return
		case d.change.id:
			done := d.name + " has switched"
			if to := d.change.to; to.Valid() {
				done = d.sides[to].id + " is the active side now"
			}
			c.settleDevice(&d.change, statusOf(ev.Outcome), ev.Code, orElse(ev.Sentence, done))
			return
		}
		for i := range d.sides {
			if s := &d.sides[i]; s.workID == ev.ID {
				if s.work == attaching {
					c.attachResult(p, s, ev)
				} else {
					c.detachResult(p, s, ev)
				}
				return
			}
		}
	}
}

func statusOf(o Outcome) AnswerStatus {
	switch o {
	case OK:
		return AnswerDone
	case Refused:
		return AnswerRefused
	}
	return AnswerFailed
}

// attachResult: the driver has accepted the side, or not.
func (c *Core) attachResult(p *proposal, s *side, ev ActionResult) {
	n := p.at(s)
	p.cause = s
	switch {
	case ev.Outcome == OK:
		s.probe, s.risk = false, ""
		switch {
		case !s.moved:
			s.answered(attached, c.now)
		case s.state == drivers.Offline && !n.target.out() && n.hold.kind == holdNone:
			// It has come and gone before the result was here.
			s.endWork()
			c.tryAgain(n, s, AnswerFailed, s.reason)
		default:
			s.endWork()
		}
		return
	case ev.Outcome == Refused && ev.Code == drivers.RuleBusy:
		n.draining = true
		c.tryAgain(n, s, "", ev.Sentence)
	case ev.Outcome == Refused && ev.Code == drivers.RuleWaits && !s.dev.kind.returns:
		c.tryAgain(n, s, "", ev.Sentence) // its driver cannot take it in yet, and will not by itself
	case ev.Outcome == Refused && ev.Code == drivers.RuleWaits:
		c.comesByItself(n, s, ev.Sentence)
	case ev.Outcome == Refused && ev.Code == drivers.RuleState && withDriver(n.state):
		s.dev.lagging = true // it has come in by itself meanwhile
	case ev.Outcome == Refused && ev.Code == drivers.RuleState:
		s.dev.lagging = true // it sees the side otherwise: look again
		c.tryAgain(n, s, AnswerRefused, ev.Sentence)
	case ev.Outcome == Refused:
		c.forbidden(n, s, ev.Code, ev.Sentence)
	default:
		c.tryAgain(n, s, AnswerFailed, ev.Sentence)
	}
	s.endWork()
}

// comesByItself: the side cannot come in now. Its driver knows since this attach that it is wanted,
// and brings it in by itself as soon as it can: nothing is tried again, no state changes.
func (c *Core) comesByItself(n *facts, s *side, sentence string) {
	if withDriver(n.state) {
		return // it has come in since
	}
	sentence = orElse(sentence, "its driver takes it in as soon as it can")
	n.hold = hold{kind: holdWaits, code: drivers.RuleWaits, sentence: sentence}
	if n.state == drivers.Offline {
		n.reason = sentence
	}
	s.risk = ""
	c.settleIn(s, AnswerRefused, drivers.RuleWaits, sentence)
}

// forbidden: a rule of the driver keeps the side out. No retry by time.
func (c *Core) forbidden(n *facts, s *side, code, sentence string) {
	sentence = orElse(sentence, "the driver refused it: "+code)
	if s.probe {
		n.present, s.probe = true, false // it was looked at
	}
	if s.stirred.After(s.workSince) {
		// It was refused as things were when it was asked for. They have changed.
		c.tryAgain(n, s, AnswerRefused, sentence)
		return
	}
	n.hold = hold{kind: holdRefused, code: code, sentence: sentence}
	if !withDriver(n.state) {
		n.state, n.reason = drivers.Offline, sentence
	}
	s.risk = ""
	c.settleIn(s, AnswerRefused, code, sentence)
}

// tryAgain: the side could not be brought in this time.
func (c *Core) tryAgain(n *facts, s *side, answer AnswerStatus, sentence string) {
	sentence = orElse(sentence, "no reason was given")
	s.fails = max(s.fails, 1)
	pause := backoff(s.fails)
	s.fails++
	n.hold = hold{kind: holdRetry, until: c.now.Add(pause), sentence: sentence}
	if s.probe {
		// It was tried to find out whether it is there. It is not.
		n.present, s.probe, n.state = false, false, drivers.Removed
		if s.pulled {
			n.hold = hold{} // the kernel will say when it is back
		}
	}
	if !withDriver(n.state) {
		n.reason = "could not be brought in: " + sentence
	}
	if answer != "" {
		s.risk = ""
		more := fmt.Sprintf("; it is tried again in %s", short(pause))
		if n.hold.kind != holdRetry {
			more = ""
		}
		c.settleIn(s, answer, "", fmt.Sprintf("%s could not be brought in: %s%s", s.id, sentence, more))
	}
}

// detachResult: no new I/O reaches the side, or it is where it was.
func (c *Core) detachResult(p *proposal, s *side, ev ActionResult) {
	n := p.at(s)
	p.cause = s
	switch {
	case ev.Outcome == OK:
		s.outFails, s.told = 0, n.target.out()
		s.endWork()
		if withDriver(n.state) {
			s.answered(detached, c.now)
		}
	case ev.Outcome == Refused && ev.Code == drivers.RuleLastSide && s.workRisk != n.target.Risk:
		s.endWork() // an admin has named the risk since: ask again, with it
	case s.request != nil && s.request.down != nil && (ev.Outcome == Failed || ev.Code == drivers.RuleLastSide || withDriver(n.state)):
		s.endWork()
		s.dev.lagging = true
		c.takeBackModule(p, s, statusOf(ev.Outcome), ev.Code, orElse(ev.Sentence, "no reason was given"))
	case ev.Outcome == Refused && ev.Code == drivers.RuleLastSide && s.request != nil && !s.request.up:
		// The partner was lost meanwhile: rule 1 goes before the wish, and whoever has it
		// is told. (Without him the wish stays, and waits for the partner.)
		n.target = byConfig
		s.endWork()
		c.settleOut(s, AnswerRefused, ev.Code, ev.Sentence)
		c.logRefusal(s.id, ev.Code, ev.Sentence)
	case ev.Outcome == Refused && ev.Code != drivers.RuleLastSide && !withDriver(n.state):
		s.told = true // it has nothing to do with it
		s.endWork()
	default:
		s.outFails++
		s.endWork()
		s.dev.lagging = true
		s.detachAt = c.now.Add(backoff(s.outFails))
		sentence := fmt.Sprintf("%s could not be taken out: %s; it is tried again in %s", s.id, orElse(ev.Sentence, "no reason was given"), short(backoff(s.outFails)))
		c.noteOn(s.id, Error, sentence, nil)
		c.settleOut(s, statusOf(ev.Outcome), ev.Code, sentence)
	}
}

// startResult: whether the keeper has begun to run the driver.
func (c *Core) startResult(p *proposal, d *device, ev ActionResult) {
	d.process.id, d.process.gate = 0, 0
	if ev.Outcome == OK {
		d.process.again = c.now.Add(driverWait)
		return
	}
	d.process.fails++
	pause := backoff(d.process.fails)
	d.process.again = c.now.Add(pause)
	reason := fmt.Sprintf("the driver of %s could not be started: %s; it is tried again in %s", d.name, orElse(ev.Sentence, "no reason was given"), short(pause))
	c.noteOn(d.name, Error, reason, nil)
	for i := range d.sides {
		if n := &p.dev(d).sides[i]; !withDriver(n.state) && n.state != drivers.Empty && n.state != drivers.Removed {
			n.reason = reason
		}
		c.settleIn(&d.sides[i], AnswerFailed, "", reason)
	}
}

// stopResult: the device is down as a whole, or goes on as it was.
func (c *Core) stopResult(p *proposal, d *device, ev ActionResult) {
	n := p.dev(d)
	back := d.stopBack
	if ev.Outcome == OK {
		n.link, n.down = LinkNone, ""
		d.path, d.pid, d.stats = "", 0, nil
		d.process = processWork{}
		for i := range d.sides {
			s, f := &d.sides[i], &n.sides[i]
			s.endWork()
			s.active, s.note, s.progress = false, "", nil
			if withDriver(f.state) {
				f.state, f.reason = drivers.Offline, orElse(f.target.Reason, d.name+" was taken down")
			}
		}
		c.settleDevice(&d.stop, AnswerDone, "", fmt.Sprintf("%s is down: its face is gone and its process has ended", d.name))
		return
	}
	sentence := fmt.Sprintf("%s was not taken down: %s", d.name, orElse(ev.Sentence, "no reason was given"))
	if ev.Outcome == Failed || d.stop.request == nil {
		// It failed, and nobody knows how far it got; or it was refused, and there is
		// nobody to be told. The word stands, and it is tried again.
		fails := d.stop.fails + 1
		sentence += "; it is tried again in " + short(backoff(fails))
		if fails == 1 {
			c.noteOn(d.name, Error, sentence, nil)
		}
		risk := d.stop.risk
		c.settleDevice(&d.stop, AnswerFailed, ev.Code, sentence)
		d.stop.fails, d.stop.again, d.stop.risk = fails, c.now.Add(backoff(fails)), risk
		return
	}
	n.link = back
	for i := range d.sides {
		if f := &n.sides[i]; f.target.Whole {
			f.target = f.target.notWhole()
		}
	}
	c.logRefusal(d.name, ev.Code, sentence)
	c.settleDevice(&d.stop, AnswerRefused, ev.Code, sentence)
}

// proposeOverdue: an action was done, but the driver does not say so.
func (c *Core) proposeOverdue(p *proposal, ev overdue) {
	s := ev.side
	n := p.at(s)
	s.dev.lagging = true
	if s.work == attached {
		c.tryAgain(n, s, AnswerFailed, fmt.Sprintf("its driver accepted it and has not reported on it for %s", short(reportWait)))
	}
	s.endWork()
}

// proposeVerdict judges a fault.
func (c *Core) proposeVerdict(p *proposal, s *side) {
	n := p.at(s)
	list := c.historyOf(s).list(s.unjudged == unjudgedInjected)
	s.unjudged = judged
	if n.target.out() {
		return // it stays out in any case
	}
	p.cause = s
	broken, why := list.judge(c.settingsOf(s))
	what := n.reason
	if n.recall != "" {
		what = n.recall
	}
	if broken {
		n.target = c.brokenTarget(s, n.target, what+": "+why)
		if !withDriver(n.state) {
			n.state, n.reason = drivers.Broken, n.target.Reason
		}
		return
	}
	if n.hold.kind == holdRefused {
		// It failed the diagnostics of an attach that was refused for that: it is not tried
		// again by itself. Which of the two is heard of first makes no difference.
		n.state, n.reason = drivers.Offline, n.hold.sentence
		return
	}
	pause := backoff(s.fails)
	s.fails++
	n.target = Target{Direction: In, By: ByFault, Since: c.now, Identity: s.identity, Reason: what}
	n.hold, n.fresh = hold{}, false
	if pause > 0 {
		n.hold = hold{kind: holdRetry, until: c.now.Add(pause), sentence: what}
	}
	if !withDriver(n.state) {
		n.reason = what + "; " + why + ", it returns by itself"
	}
}

// brokenTarget is the verdict on a part. Where an admin had taken it out it stays his.
func (c *Core) brokenTarget(s *side, t Target, why string) Target {
	if t.Broken {
		return t
	}
	if t.By != ByAdmin || !t.out() {
		t = Target{Direction: Out, By: ByFault, Since: c.now}
	}
	t.Broken, t.Identity, t.Reason = true, s.identity, why
	return t
}
