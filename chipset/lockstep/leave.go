package lockstep

import "fmt"

// Sides that stand apart.

// SplitOff takes a side out of lockstep as it is, for a dump: its state comes with the event
// Split, and its memory stays until the hands end it. The last side goes only if last is set,
// and the machine is over then.
func (c *Core) SplitOff(s Side, last bool) error {
	m := &c.sides[s]
	switch {
	case m.place != within || c.phase != Running:
		return fmt.Errorf("%v does not run the machine now", s)
	case c.sides[s.Other()].place != within && !last:
		return fmt.Errorf("%v is the only module that runs the machine", s)
	}
	*m = member{place: leaving, requests: m.requests}
	c.request(s, Command{Verb: Save})
	c.left(s)
	return nil
}

// Leave takes a side out of lockstep for good.
func (c *Core) Leave(s Side, why string) {
	was := c.sides[s].place
	if was == absent {
		return
	}
	c.sides[s] = member{}
	c.hands.Fence(s, why)
	switch {
	case was == joining:
		c.joinFailed(Finding{Side: s, Cause: "leave", Text: why})
	case was == adopting:
		c.adoptGone(s)
	case was == within && c.trial != nil:
		c.trialGone(s)
	case was == within, was == loading:
		c.left(s)
	}
}

// leaveSaved takes the state of a side that stands apart.
func (c *Core) leaveSaved(s Side, r *Record) {
	m := &c.sides[s]
	if len(m.requests) > 0 {
		return // it was asked for something else, before
	}
	cs := m.evidence
	*m = member{}
	if cs == nil {
		c.hands.Report(Event{Kind: Split, Side: s, State: r.Data})
		return
	}
	cs.State = r.Data
	c.hands.Fence(s, cs.Fault.Text)
	c.hands.Report(Event{Kind: Evidence, Side: s, Case: cs})
}

// leaveGone is called when a side that stands apart does not answer.
func (c *Core) leaveGone(s Side, text string) {
	cs := c.sides[s].evidence
	c.sides[s] = member{}
	if cs != nil {
		c.hands.Fence(s, cs.Fault.Text)
		return
	}
	text = "it did not give its state when it was split off: " + text
	c.hands.Fence(s, text)
	c.hands.Report(Event{Kind: Split, Side: s, Text: text})
}
