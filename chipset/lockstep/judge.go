package lockstep

import (
	"fmt"
	"maps"
	"slices"
)

// What a trial comes to.

// judgePatrol looks at the pages in which two patrols differ and which nobody has written since
// their digests were agreed.
func (c *Core) judgePatrol() {
	t := c.trial
	if t.asked[t.agreed].verb != Patrol || t.replays > 0 {
		return
	}
	for s, front := range t.front {
		for _, p := range front.record.Pages {
			if t.stands[s] && !t.written[p.Index] {
				c.look(Side(s), p)
			}
		}
	}
}

// judgeBeginning looks at what the modules stand at in the beginning. One whose memory or state
// is not what was agreed is shot, if the other's is.
func (c *Core) judgeBeginning() {
	t := c.trial
	if t.believe {
		c.begun(t.next)
		return
	}
	c.damagedAlike()
	sides := t.standing()
	var wrong []Side
	for _, s := range sides {
		if len(t.bad[s]) > 0 || t.spoilt[s] {
			wrong = append(wrong, s)
		}
	}
	switch {
	case len(wrong) == 0:
		c.begun(t.next)
	case len(wrong) == len(sides):
		text := t.beginning(wrong[0])
		for _, s := range wrong[1:] {
			text += ", and " + t.beginning(s)
		}
		c.undecided(text)
	default:
		c.convict(wrong[0])
	}
}

// convict deals with a module that does not stand at what was agreed, while the other does.
func (c *Core) convict(s Side) {
	t := c.trial
	t.votes = slices.DeleteFunc(t.votes, func(v vote) bool { return v.voter == int(s) })
	pages := t.badPages(s)
	if t.spoilt[s] || t.damage[s] != nil || len(pages) > mendMax {
		c.shoot(s, c.findingBeginning(s), true)
		c.begun(replaying)
		return
	}
	t.damage[s] = c.evidence(s, c.findingBeginning(s))
	t.stage = mending
	c.hands.Copy(s.Other(), s, pages)
}

// mended goes on when a module has got what it should have stood at.
func (c *Core) mended(err error) {
	t := c.trial
	for s, cs := range t.damage {
		switch {
		case cs == nil || !t.stands[s]:
		case err == nil:
			clear(t.bad[s])
		default:
			c.shoot(Side(s), cs.Fault, true)
		}
	}
	c.begun(replaying)
}

// beginning says what is wrong with what a module stands at.
func (t *trial) beginning(s Side) string {
	if pages := t.badPages(s); len(pages) > 0 {
		text := fmt.Sprintf("the memory of %v is not what was agreed: page %#x", s, pages[0])
		if n := len(pages) - 1; n > 0 {
			text += fmt.Sprintf(" and %d others", n)
		}
		return text
	}
	return fmt.Sprintf("%v's state at the beginning of the epoch is not what was agreed", s)
}

func (t *trial) badPages(s Side) []uint32 { return slices.Sorted(maps.Keys(t.bad[s])) }

// damagedAlike takes pages for agreed that both modules hold alike, and that are not what was
// agreed before: they were damaged while one module ran alone, from which the other came.
func (c *Core) damagedAlike() {
	t := c.trial
	if !t.stands[0] || !t.stands[1] {
		return
	}
	for _, p := range t.badPages(0) {
		if digest, both := t.bad[1][p]; both && digest == t.bad[0][p] {
			c.damaged(Page{p, digest})
			delete(t.bad[0], p)
			delete(t.bad[1], p)
		}
	}
}

// damaged takes a page's digest for agreed, on which two processes agree.
func (c *Core) damaged(p Page) {
	c.table[p.Index] = p.Digest
	c.hands.Report(Event{Kind: DamagedAlone, Text: fmt.Sprintf("both modules hold page %#x alike, and it is not what it was: it was damaged while one module ran alone", p.Index)})
}

// confirmed is the result to which two different processes have come, and fewer to any other.
// One that denies what was agreed on before is none.
func (c *Core) confirmed() (result []uint64, ok bool) {
	most, draw := 1, false
	for i, v := range c.trial.votes {
		if c.denies(v.sums) || slices.ContainsFunc(c.trial.votes[:i], func(u vote) bool { return slices.Equal(u.sums, v.sums) }) {
			continue
		}
		voters := map[int]bool{}
		for _, u := range c.trial.votes {
			if slices.Equal(u.sums, v.sums) {
				voters[u.voter] = true
			}
		}
		switch n := len(voters); {
		case n > most:
			most, draw, result = n, false, v.sums
		case n == most:
			draw = true
		}
	}
	return result, most > 1 && !draw
}

// denies says whether a result is another than what was agreed on before the two differed.
func (c *Core) denies(sums []uint64) bool {
	return len(sums) != len(c.trial.asked) || !slices.Equal(sums[:c.trial.agreed], c.history)
}

// decide looks for the right result among the votes, and for more votes when there is none.
func (c *Core) decide() {
	t := c.trial
	sides := t.standing()
	if t.believe {
		if s := sides[0]; c.denies(sums(t.runs[s])) {
			c.undecided(fmt.Sprintf("%v is to be believed, and denies what has left the machine already", s))
			return
		}
		c.goOn(sides)
		return
	}
	if result, ok := c.confirmed(); ok {
		c.conclude(result)
		return
	}
	next := looking
	if t.looked {
		next = saving
		if t.referees >= refereesMax {
			text := fmt.Sprintf("after %d replays and %d referees no two processes agree", t.replays, t.referees)
			if t.doubt != "" {
				text += " (" + t.doubt + ")"
			}
			c.undecided(text)
			return
		}
	}
	if t.done {
		c.sendBack(next)
	} else {
		c.begun(next)
	}
}

// conclude ends the trial with the right result, or has it come to once more.
func (c *Core) conclude(result []uint64) {
	t := c.trial
	sides := t.standing()
	var ready, able []Side // which stand behind it; which have come to it before
	for _, s := range sides {
		gave := slices.ContainsFunc(t.votes, func(v vote) bool { return v.voter == int(s) && slices.Equal(v.sums, result) })
		switch {
		case t.done && slices.Equal(sums(t.runs[s]), result):
			ready = append(ready, s)
		case gave:
			able = append(able, s)
		}
	}
	good := ready
	if len(ready) == 0 {
		good = able
	}
	if len(good) == 0 || len(ready) == 0 && t.replays >= replaysMax {
		c.undecided("what two processes agree on, no module comes to")
		return
	}
	for _, s := range sides {
		if !slices.Contains(good, s) {
			c.shoot(s, c.finding(s, good[0], result), !t.done)
		}
	}
	switch {
	case len(ready) == 0 && t.done:
		c.sendBack(replaying)
		return
	case len(ready) == 0:
		c.replay()
		return
	case len(ready) == 2:
		wrong := slices.DeleteFunc(slices.Clone(ready), func(s Side) bool { return t.inOrder(s, result) })
		if len(wrong) == 1 {
			c.shoot(wrong[0], c.finding(wrong[0], wrong[0].Other(), result), false)
			ready = []Side{wrong[0].Other()}
		}
	}
	for _, s := range ready {
		if !t.inOrder(s, result) {
			f := c.finding(s, s, result)
			f.Latency = c.hands.Now() - t.began
			c.hands.Report(Event{Kind: Transient, Side: s, Fault: f})
		}
	}
	if len(ready) == 2 {
		c.stats.Repaired++
		c.hands.Report(Event{Kind: Repaired})
	}
	c.goOn(ready)
}

// inOrder says whether a side has been right from the beginning.
func (t *trial) inOrder(s Side, result []uint64) bool {
	return t.damage[s] == nil && slices.Equal(t.first[s], result)
}

// goOn ends a trial: the sides stand at the end of the log, with the right answers.
func (c *Core) goOn(sides []Side) {
	t := c.trial
	right := t.runs[sides[0]]
	c.trial, c.phase = nil, Running
	c.full = true // what has been in doubt is over with
	if len(sides) == 1 {
		c.patrol.alone()
	}
	for i := t.agreed; i < len(right) && c.phase == Running; i++ {
		c.agree(&right[i], len(sides) == 2)
	}
	took := c.hands.Now() - t.began
	for i, shot := range t.shot {
		if shot {
			c.hands.Report(Event{Kind: WentOn, Side: Side(i).Other(), Latency: took})
		}
	}
}

// shoot takes a side out of lockstep that is wrong. What it says is not used from here on, but
// for the evidence: its state at the beginning of the epoch. atStart says that it stands there.
func (c *Core) shoot(s Side, f Finding, atStart bool) {
	t := c.trial
	t.stands[s], t.shot[s] = false, true
	f.Side = s
	cs := t.damage[s]
	if cs == nil {
		cs = c.evidence(s, f)
	}
	c.pauseHere()
	c.hands.Report(Event{Kind: Shot, Side: s, Fault: f})
	c.sides[s] = member{place: leaving, evidence: cs}
	if !atStart {
		c.request(s, Command{Verb: Back, A: c.logEpoch})
	}
	c.request(s, Command{Verb: Save})
}

// evidence is what is to be kept of a side that is wrong, which stands at the beginning if
// pages of it are damaged.
func (c *Core) evidence(s Side, f Finding) *Case {
	cs := &Case{Side: s, Log: slices.Clone(c.log), Damaged: map[uint32][]byte{}, Patches: map[uint32][]byte{}, Fault: f}
	const patchesMax = 64
	pages := c.trial.badPages(s)
	for _, page := range pages[:min(len(pages), patchesMax)] {
		cs.Damaged[page], cs.Patches[page] = c.hands.Page(s, page), c.hands.Page(s.Other(), page)
	}
	return cs
}

// undecided ends the machine, or follows the configuration.
func (c *Core) undecided(text string) {
	t := c.trial
	c.hands.Report(Event{Kind: Undecided, Text: text})
	keep, named := map[Policy]Side{UndecidedCPU0: 0, UndecidedCPU1: 1}[c.cfg.Undecided]
	if named && !t.believe && t.stands[keep] {
		t.believe = true
		if other := keep.Other(); t.stands[other] {
			f := Finding{Side: other, Cause: "undecided", Text: text + "; the configuration says to believe " + keep.String()}
			t.stands[other], t.shot[other] = false, true
			c.sides[other] = member{}
			c.hands.Report(Event{Kind: Shot, Side: other, Fault: f})
			c.hands.Fence(other, f.Text)
		}
		c.sendBack(replaying)
		return
	}
	for s := range c.sides {
		if c.sides[s].place == within {
			c.sides[s] = member{}
			c.hands.Fence(Side(s), "nothing could be decided: "+text)
		}
	}
	c.trial = nil
	c.over(Event{Kind: Lost, Text: text})
}
