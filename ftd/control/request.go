package control

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ft/drivers"
)

// This file follows requests that take time. A request ends when each of its sides has
// got where it was to go, or will not; or at its deadline, since whoever asked must not
// wait for ever. The wish stays: it is a target.

// request is one that is not finished.
type request struct {
	id       string
	up       bool
	target   string      // the id as the admin wrote it
	sides    []*side     // still under way
	either   bool        // it is done when one side has got there
	reached  bool        // one has
	device   bool        // waits for a deviceWork
	down     *moduleDown // it takes a module out
	deadline time.Time
	status   AnswerStatus // the worst so far
	code     string
	coming   string   // what is said of sides that are on their way in
	done     string   // what the last side that got there has to say
	wrong    []string // what did not
}

// open registers a request for the sides of a proposal, or for its whole device, and
// answers that it is accepted.
func (c *Core) open(p *proposal, up bool, target string) {
	if p.device != nil {
		for i := range p.device.sides {
			c.supersede(&p.device.sides[i])
		}
		if r := p.device.stop.request; r != nil {
			r.note(AnswerFailed, RuleReplaced, "a later request takes "+p.device.name+" down")
			c.abandon(r)
		}
		p.device.stop.request, p.device.stop.risk = c.openDevice(p, target), p.risk == drivers.RiskLastSide
		return
	}
	if len(p.sides) == 0 {
		return
	}
	r := &request{id: p.ask.ID, up: up, either: p.either, target: target, deadline: c.now.Add(requestWait), status: AnswerDone, coming: p.comingSentence(target)}
	if p.module != nil && !up {
		r.down = c.beginDown(p)
	}
	for _, s := range p.sides {
		c.supersede(s)
		s.request = r
		r.sides = append(r.sides, s)
	}
	c.requests = append(c.requests, r)
	c.answer(r.id, AnswerAccepted, "", fmt.Sprintf("%s %s", p.verb, target))
}

// openDevice registers a request that waits for an action on a whole device.
func (c *Core) openDevice(p *proposal, target string) *request {
	r := &request{id: p.ask.ID, target: target, device: true, deadline: c.now.Add(requestWait), status: AnswerDone}
	c.requests = append(c.requests, r)
	c.answer(r.id, AnswerAccepted, "", fmt.Sprintf("%s %s", p.verb, target))
	return r
}

// supersede ends an earlier request that waits for the side.
func (c *Core) supersede(s *side) {
	c.settleSide(s, AnswerFailed, RuleReplaced, fmt.Sprintf("a later request about %s has taken its place", s.id))
}

// settleSide notes what has become of a side that a request waits for.
func (c *Core) settleSide(s *side, status AnswerStatus, code, sentence string) {
	r := s.request
	if r == nil {
		return
	}
	s.request = nil
	for i := range r.sides {
		if r.sides[i] == s {
			r.sides = append(r.sides[:i], r.sides[i+1:]...)
			break
		}
	}
	r.note(status, code, sentence)
	c.finish(r)
}

// settleIn notes what has become of a side for a request that wants it in, settleOut for
// one that wants it out: the result of an attach means nothing to the latter.
func (c *Core) settleIn(s *side, status AnswerStatus, code, sentence string) {
	if s.request != nil && s.request.up {
		c.settleSide(s, status, code, sentence)
	}
}

func (c *Core) settleOut(s *side, status AnswerStatus, code, sentence string) {
	if s.request != nil && !s.request.up {
		c.settleSide(s, status, code, sentence)
	}
}

// settleDevice ends an action on a whole device, and the request that waits for it.
func (c *Core) settleDevice(w *deviceWork, status AnswerStatus, code, sentence string) {
	r := w.request
	*w = deviceWork{}
	if r == nil {
		return
	}
	r.device = false
	r.note(status, code, sentence)
	c.finish(r)
}

// note keeps what has become of a part of the request; the first thing that went wrong
// is its outcome.
func (r *request) note(status AnswerStatus, code, sentence string) {
	if status == AnswerDone {
		r.done, r.reached = sentence, true
		return
	}
	if r.status == AnswerDone {
		r.status, r.code = status, code
	}
	if !slices.Contains(r.wrong, sentence) { // two sides may have the same to say
		r.wrong = append(r.wrong, sentence)
	}
}

// finish answers a request that waits for nothing more.
func (c *Core) finish(r *request) {
	if len(r.sides) > 0 || r.device {
		return
	}
	for i := range c.requests {
		if c.requests[i] == r {
			c.requests = append(c.requests[:i], c.requests[i+1:]...)
			break
		}
	}
	if r.either && r.reached {
		r.status, r.code = AnswerDone, ""
	}
	sentence := r.done
	if r.up {
		sentence = r.coming
	}
	if r.down != nil {
		sentence = c.downSentence(r.down.module)
	}
	if r.status != AnswerDone {
		sentence = strings.Join(r.wrong, "; ")
		if r.up && r.reached {
			sentence += "; the rest of " + r.target + " is coming in"
		}
	}
	c.answer(r.id, r.status, r.code, sentence)
}

// comingSentence tells whoever wants sides in what happens next, and what may be waited for:
// duplex is none of what stays alone, as its partner is out or there is none.
func (p *proposal) comingSentence(target string) string {
	on, alone := false, ""
	for _, s := range p.sides {
		partner := s.partner()
		switch {
		case p.at(partner).target.out():
			alone = orElse(alone, fmt.Sprintf("%s stays out until ftctl bringup %s", partner.id, partner.id))
		case partner.state == drivers.Empty:
			alone = orElse(alone, fmt.Sprintf("it has no partner for %s", s.dev.name))
		}
		on = on || !s.dev.kind.machine || s.state.InService() || partner.state.InService()
	}
	switch {
	case on && alone != "":
		return fmt.Sprintf("%s is coming in (ftctl wait %s --for simplex); %s", target, target, alone)
	case on:
		return fmt.Sprintf("%s is coming in: diagnostics, then syncing (ftctl wait %s --for duplex)", target, target)
	}
	d := p.sides[0].dev
	return fmt.Sprintf("%s is starting: ftctl console %s shows how it gets on", d.name, d.name)
}

// settleReached ends the waiting for sides that are where a request wants them, and for
// those that cannot get there.
func (c *Core) settleReached() {
	for _, d := range c.devices {
		for i := range d.sides {
			s := &d.sides[i]
			if s.work == detached && !withDriver(s.state) || s.work == attached && s.moved {
				s.endWork()
			}
			r := s.request
			switch {
			case r == nil:
			case r.up && (s.state.InService() || onItsWay(s.state)):
				c.settleSide(s, AnswerDone, "", "")
			case r.up && r.either && s.partner().state.InService():
				c.settleSide(s, AnswerDone, "", "")
			case r.up && c.waits(d):
				c.settleSide(s, AnswerRefused, drivers.RuleWaits, c.waitSentence(d)+": it is started when that is up")
			case r.up && s.asking(): // its driver says more
			case r.up && s.work == idle && (s.state == drivers.Removed || s.state == drivers.Broken):
				c.settleSide(s, AnswerFailed, "", fmt.Sprintf("%s is %v: %s", s.id, s.state, s.reason))
			case d.link == LinkStarting: // nobody knows yet how it stands
			case !r.up && s.work == idle && !withDriver(s.state) && !s.untold():
				c.settleSide(s, AnswerDone, "", c.outSentence(s))
			}
		}
	}
}

// outSentence tells whoever took a side out what may be done now.
func (c *Core) outSentence(s *side) string {
	if s.dev.kind.machine && !s.dev.wanted() {
		return c.offSentence(s.dev)
	}
	m := c.moduleOf(s)
	out := s.id + " is out of service"
	if note := c.pullNote(m.sides...); note != "" {
		return fmt.Sprintf("%s; do not pull all of %s yet: %s", out, m.id, note)
	}
	return fmt.Sprintf("%s: %s is safe to pull", out, m.id)
}

// offSentence is about a machine that is off as a whole.
func (c *Core) offSentence(d *device) string {
	var safe, notes []string
	for i := range d.sides {
		s := &d.sides[i]
		if s.state == drivers.Empty {
			continue
		}
		if m := c.moduleOf(s); c.pullNote(m.sides...) == "" {
			safe = append(safe, m.id)
		} else {
			notes = append(notes, fmt.Sprintf("do not pull all of %s yet: %s", m.id, c.pullNote(m.sides...)))
		}
	}
	sentence := d.name + " is off"
	switch len(safe) {
	case 1:
		sentence += ": " + safe[0] + " is safe to pull"
	case 2:
		sentence += ": " + safe[0] + " and " + safe[1] + " are safe to pull"
	}
	return strings.Join(append([]string{sentence}, notes...), "; ")
}

// expireRequests answers those that have waited for too long.
func (c *Core) expireRequests() {
	for _, r := range append([]*request(nil), c.requests...) {
		if c.now.Before(r.deadline) {
			continue
		}
		r.note(AnswerFailed, RuleTimeout, fmt.Sprintf("%s is still under way after %s; it is still wanted, ftctl show %s says how it stands", r.target, short(requestWait), r.target))
		c.abandon(r)
	}
}

// abandon takes a request from whatever it waits for and answers it.
func (c *Core) abandon(r *request) {
	for _, s := range r.sides {
		s.request = nil
	}
	for _, d := range c.devices {
		for _, w := range d.works() {
			if w.request == r {
				w.request = nil
			}
		}
	}
	r.sides, r.device = nil, false
	c.finish(r)
}

// refuse answers a request that a rule forbids, and logs that it was made.
func (c *Core) refuse(p *proposal, r *refusal) {
	c.logRefusal(p.id, r.code, fmt.Sprintf("%s refused: %s", p.verb, r.sentence))
	c.answer(p.ask.ID, AnswerRefused, r.code, r.sentence)
}

func (c *Core) logRefusal(id, code, sentence string) {
	c.noteOn(id, Warning, sentence, map[string]any{"code": code})
}

func (c *Core) answer(id string, status AnswerStatus, code, sentence string) {
	c.out.Answers = append(c.out.Answers, Answer{Request: id, Status: status, Code: code, Sentence: sentence})
}
