package control

import (
	"fmt"
	"time"

	"ft/drivers"
)

// This file keeps rule 6: what is given out to be written, what waits for it, and what
// is taken back when it could not be written.
//
// An admin's word is given out in the Step that accepts it, and everything that rests on
// it, the answer too, waits for that write (After). So of what people have said, memory
// is never ahead of the disk by more than the writes that are under way.

// write is a state that was given out to be written.
type write struct {
	id    uint64
	state *Persistent
	asked []string // requests whose last answer waits for it
}

// persist gives out what is not on disk yet, and returns the write that all that follows
// must wait for, 0 for none.
//
// After a write that failed the next one waits for a while, unless an admin asks for
// something. Nothing else waits for it then: what admins have said since was taken back
// (writeResult), so that what is not on disk is only what happened to the parts. To
// forget that over a restart is a lesser evil than to leave a face on one side.
func (c *Core) persist() (gate uint64) {
	if c.dirty && (!c.now.Before(c.writeAgain) || c.asksNow()) {
		w := write{state: c.snapshot()}
		w.id = c.act(Action{Kind: ActionPersist, State: w.state})
		c.writes = append(c.writes, w)
		c.dirty = false
		for _, cl := range c.cleared {
			if cl.write == 0 {
				cl.write = w.id
			}
		}
	}
	if n := len(c.writes); n > 0 {
		gate = c.writes[n-1].id
	}
	return gate
}

// asksNow says whether this Step has accepted a request.
func (c *Core) asksNow() bool {
	for _, a := range c.out.Answers {
		if a.Status == AnswerAccepted || a.Status == AnswerDone {
			return true
		}
	}
	return false
}

// gateAnswers makes answers wait for the disk, and notes who is to be told if it fails.
func (c *Core) gateAnswers(gate uint64) {
	if gate == 0 {
		return
	}
	w := &c.writes[len(c.writes)-1]
	for i := range c.out.Answers {
		a := &c.out.Answers[i]
		if a.Status != AnswerAccepted && a.Status != AnswerDone {
			continue
		}
		if a.After = gate; a.Final() {
			w.asked = append(w.asked, a.Request)
		}
	}
}

// writeResult takes the result of an ActionPersist. When it failed, what was to follow
// has not been done. A later write that is under way contains all that this one did, and
// decides; else what admins have said since the last good write is taken back and
// refused, for it would be forgotten.
func (c *Core) writeResult(p *proposal, ev ActionResult) (mine bool) {
	at := -1
	for i := range c.writes {
		if c.writes[i].id == ev.ID {
			at = i
		}
	}
	if at < 0 {
		return false
	}
	w := c.writes[at]
	if ev.Outcome == OK {
		if c.writeFails > 0 {
			c.noteOn(c.cfg.Name, Info, "the state can be written again", nil)
		}
		c.saved, c.writeFails, c.writeAgain = *w.state, 0, time.Time{}
		c.writes = append(c.writes[:0], c.writes[at+1:]...)
		for key, cl := range c.cleared {
			if cl.write != 0 && cl.write <= w.id {
				delete(c.cleared, key)
			}
		}
		for _, d := range c.devices {
			for i := range d.sides {
				s := &d.sides[i]
				if saved := c.savedTarget(s.id); s.target == saved {
					s.undo = nil
				} else if s.undo != nil {
					*s.undo = saved
				}
			}
		}
		return true
	}
	c.writes = append(c.writes[:at], c.writes[at+1:]...)
	if at < len(c.writes) {
		for _, id := range w.asked {
			c.answer(id, AnswerFailed, RulePersist, "the state could not be written at once: ask again whether it holds (ftctl status)")
		}
		for _, d := range c.devices {
			c.dropped(p, d, w.id)
		}
		return true
	}
	c.writeFails++
	c.writeAgain, c.dirty = c.now.Add(backoff(c.writeFails)), true
	sentence := fmt.Sprintf("the state could not be written: %s; until it can be, no request is accepted, and faults are forgotten when ftd restarts",
		orElse(ev.Sentence, "no reason was given"))
	if c.writeFails == 1 {
		c.noteOn(c.cfg.Name, Critical, sentence, nil) // once: the log may be on the same full disk
	}
	for _, id := range w.asked {
		c.answer(id, AnswerRefused, RulePersist, sentence)
	}
	c.bringupSet, c.settings = c.saved.Bringup, map[string]MTBFSettings{}
	for id, set := range c.saved.Settings {
		c.settings[id] = set
	}
	c.uncleared()
	for _, d := range c.devices {
		c.dropped(p, d, w.id)
		c.takeBack(p, d, sentence)
	}
	return true
}

// dropped forgets, for one device, the actions that went with a write that failed. What
// is still wanted is asked for again.
func (c *Core) dropped(p *proposal, d *device, gate uint64) {
	if d.process.gate == gate {
		d.process = processWork{again: c.now}
	}
	for _, w := range d.works() {
		if w.gate == gate {
			w.id, w.gate, w.until = 0, 0, time.Time{}
		}
	}
	for i := range d.sides {
		if s := &d.sides[i]; s.workGate == gate {
			s.endWork()
		}
	}
	if d.toldGate == gate {
		d.retarget, d.toldGate = true, 0
	}
}

// takeBack undoes, for one device, what admins have said and what is not on disk.
func (c *Core) takeBack(p *proposal, d *device, sentence string) {
	n := p.dev(d)
	if d.change.id == 0 {
		c.settleDevice(&d.change, AnswerRefused, RulePersist, sentence)
	}
	if n.link == LinkStopping && d.stop.id == 0 && d.stop.request != nil {
		n.link = d.stopBack
		c.settleDevice(&d.stop, AnswerRefused, RulePersist, sentence)
	}
	for i := range d.sides {
		s, f := &d.sides[i], &n.sides[i]
		was := s.undo
		if s.undo = nil; was == nil {
			continue
		}
		switch happened := f.target; { // since the word was given
		case happened.Broken:
			f.target = c.brokenTarget(s, *was, happened.Reason)
		case happened.By == ByGuest && !was.out(): // its word stands, whatever became of an admin's
		case happened.By != ByFault || was.out():
			f.target = *was
		}
		f.fresh = isNew(f.target) // it waits for a word that is kept
		if f.state == drivers.Offline {
			f.reason = "as before: what an admin wanted could not be written"
		}
		c.settleSide(s, AnswerRefused, RulePersist, sentence)
	}
}
