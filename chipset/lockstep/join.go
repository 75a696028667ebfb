package lockstep

import (
	"errors"
	"fmt"
	"time"
)

// Re-integration. Memory is copied in rounds while the machine runs (brownout); what was
// written meanwhile is known from the epochs that end, and copied in the next round. When
// little is left, the machine stands (blackout), the rest and the state are moved, and both go
// on. A patrol then proves the memories equal.

// joinStage is how far a join is.
type joinStage uint8

const (
	joinTesting joinStage = iota // the module tests itself
	joinCopying                  // memory is copied while the machine runs
	joinClosing                  // no more quanta: those under way end
	joinEnding                   // the epoch is ended, so that all that was written is known
	joinMoving                   // the rest of the memory and the state are moved
	joinLoading                  // the module takes the state over
)

// join is one of them.
type join struct {
	from, to Side
	stage    joinStage
	began    time.Duration
	standing time.Duration // when the machine stopped
	dirty    []uint64      // pages to copy: a bit each
	count    int
	copying  bool
	sent     int           // pages of the copy under way
	perPage  time.Duration // measured
	round    int
	roundAt  time.Duration
	ended    Record
	state    []byte
	delay    time.Duration // of the throttle, a quantum
}

// Limits of a join.
const (
	joinRounds      = 12 // until the guest is slowed down, where that is allowed
	joinRoundsMax   = 40
	joinRoundsAlone = 24                     // where it is not
	perPageFirst    = 2 * time.Microsecond   // until it is measured
	joinOverhead    = 1 * time.Millisecond   // of a blackout, beside the pages
	throttleFirst   = 500 * time.Microsecond // a quantum
	throttleMax     = 50 * time.Millisecond
)

// ErrJoin is why a side cannot come in now.
var ErrJoin = errors.New("the CPU module cannot be brought in")

// Join begins to bring a side in, whose process has been started.
func (c *Core) Join(s Side) error {
	switch {
	case c.sides[s].place == within:
		return fmt.Errorf("%w: %v is in already", ErrJoin, s)
	case c.sides[s].place != absent:
		return fmt.Errorf("%w: %v is on its way in or out", ErrJoin, s)
	case c.join != nil:
		return fmt.Errorf("%w: %v is on its way in", ErrJoin, c.join.to)
	case c.phase != Running || c.sides[s.Other()].place != within:
		return fmt.Errorf("%w: %v does not run a machine that it could join", ErrJoin, s.Other())
	}
	c.sides[s] = member{place: joining}
	c.join = &join{from: s.Other(), to: s, began: c.hands.Now(), perPage: perPageFirst, dirty: make([]uint64, (len(c.table)+63)/64)}
	c.stats.Joins++
	c.hands.Send(s, &Command{Verb: Test})
	c.hands.Report(Event{Kind: JoinStage, Side: s, Text: "diagnostics"})
	return nil
}

// joinRecord takes what the module that comes in says.
func (c *Core) joinRecord(s Side, r *Record) {
	j := c.join
	if j == nil || j.to != s {
		return
	}
	switch {
	case r.Kind == Tested && j.stage == joinTesting:
		if len(r.Data) > 0 {
			c.remove(s, Finding{Cause: "self-test", Text: "its self-test failed: " + string(r.Data)})
			return
		}
		j.stage, j.copying, j.sent, j.roundAt = joinCopying, true, len(c.table), c.hands.Now()
		c.hands.Report(Event{Kind: JoinStage, Side: s, Text: "memory copy"})
		c.hands.Copy(j.from, j.to, nil)
	case r.Kind == Loaded && j.stage == joinLoading:
		if r.State != j.ended.State {
			c.remove(s, Finding{Cause: "load", Text: fmt.Sprintf("it has taken over another state than it was given: digest %#x, not %#x", r.State, j.ended.State)})
			return
		}
		c.joined()
	}
}

// joined puts the module into lockstep.
func (c *Core) joined() {
	j := c.join
	now := c.hands.Now()
	c.stats.Blackout, c.stats.Rounds = now-j.standing, j.round
	c.stats.Brownout = j.standing - j.began
	c.join = nil
	c.sides[j.to] = member{place: within}
	c.patrol = patrol{syncing: true, side: j.to}
	c.began = now
	c.hands.Report(Event{Kind: JoinedIn, Side: j.to, Blackout: c.stats.Blackout,
		Text: fmt.Sprintf("in lockstep after %d rounds of copying", j.round)})
}

// Copied says that the copy has ended; took is how long it took.
func (c *Core) Copied(pages int, took time.Duration, err error) {
	j := c.join
	if j == nil || !j.copying {
		return
	}
	j.copying = false
	j.round++
	if err != nil {
		c.remove(j.to, Finding{Cause: "copy", Text: "its memory could not be filled: " + err.Error()})
		return
	}
	if pages >= 64 && j.round > 1 {
		j.perPage = max((j.perPage+took/time.Duration(pages))/2, 50*time.Nanosecond)
	}
	if j.stage == joinMoving {
		c.joinLoad()
	}
}

// joinDirty takes note of pages that were written.
func (c *Core) joinDirty(pages []Page) {
	j := c.join
	if j == nil || j.stage == joinTesting {
		return
	}
	for _, p := range pages {
		if w, bit := p.Index/64, uint64(1)<<(p.Index%64); int(w) < len(j.dirty) && j.dirty[w]&bit == 0 {
			j.dirty[w] |= bit
			j.count++
		}
	}
}

// take lists the pages to copy, and forgets them.
func (j *join) take() []uint32 {
	list := make([]uint32, 0, j.count)
	for w, bits := range j.dirty {
		for b := uint32(0); bits != 0; b, bits = b+1, bits>>1 {
			if bits&1 != 0 {
				list = append(list, uint32(w)*64+b)
			}
		}
		j.dirty[w] = 0
	}
	j.count = 0
	return list
}

// blackout is how long the machine would stand now.
func (j *join) blackout() time.Duration {
	return time.Duration(j.count)*j.perPage + joinOverhead
}

// closing says that no quantum may begin.
func (c *Core) closing() bool { return c.join != nil && c.join.stage >= joinClosing }

// advanceJoin goes on with a join when there is something to do.
func (c *Core) advanceJoin() {
	j := c.join
	if j == nil || j.copying || c.phase != Running {
		return
	}
	switch j.stage {
	case joinCopying:
		// What is written now comes with the epoch's end: have one when a round is through.
		if c.hands.Now()-j.roundAt < c.cfg.EpochTime/2 && !c.resting() {
			return
		}
		j.roundAt = c.hands.Now()
		if j.blackout() <= c.cfg.BlackoutMax/2 {
			j.stage = joinClosing
			c.advanceJoin()
			return
		}
		if !c.roundsLeft() {
			return
		}
		c.copyRound()
	case joinClosing:
		if len(c.asked) == 0 {
			j.standing, j.stage = c.hands.Now(), joinEnding
			c.endEpoch()
		}
	}
}

func (c *Core) copyRound() {
	j := c.join
	list := j.take()
	j.copying, j.sent = true, len(list)
	c.hands.Copy(j.from, j.to, list)
}

// roundsLeft gives up, or slows the guest down, when a join does not come to an end.
func (c *Core) roundsLeft() bool {
	j := c.join
	most := joinRoundsAlone
	if c.cfg.Throttle {
		most = joinRoundsMax
		if j.round >= joinRounds {
			j.delay = min(max(j.delay*2, throttleFirst), throttleMax)
			c.hands.Report(Event{Kind: JoinStage, Side: j.to, Text: fmt.Sprintf("the guest writes faster than is copied: it waits %v in each quantum", j.delay)})
		}
	}
	if j.round < most {
		return true
	}
	text := fmt.Sprintf("the guest writes memory faster than it can be copied: after %d rounds %d pages are left, and blackout_max = %q allows %d",
		j.round, j.count, c.cfg.BlackoutMax, max((c.cfg.BlackoutMax-joinOverhead)/j.perPage, 0))
	c.remove(j.to, Finding{Cause: "converge", Text: text})
	return false
}

// throttle delays the next quantum while a join needs it.
func (c *Core) throttle() {
	if j := c.join; j != nil && j.delay > 0 {
		c.pause = c.hands.Now() + j.delay
		c.stats.Throttled += j.delay
	}
}

// Pause is until when no quantum begins.
func (c *Core) Pause() time.Duration { return c.pause }

// joinEnded goes on when the epoch has ended behind which the module is to come in.
func (c *Core) joinEnded(r *Record) {
	j := c.join
	if j == nil || j.stage != joinEnding {
		return
	}
	if j.blackout() > c.cfg.BlackoutMax && j.round < joinRoundsAlone {
		j.stage, j.roundAt = joinCopying, c.hands.Now()
		c.copyRound()
		return
	}
	j.stage, j.ended, j.state = joinMoving, *r, nil
	c.hands.Send(j.from, &Command{Verb: Save})
	c.copyRound()
}

// saved takes a state that was asked for.
func (c *Core) saved(s Side, r *Record) {
	switch t, j := c.trial, c.join; {
	case t != nil && t.stage == saving && t.witness == s:
		t.stage = refereeing
		c.hands.Referee(s, r.Data, append([]Command(nil), c.log...))
	case j != nil && j.stage == joinMoving && j.from == s:
		j.state = r.Data
		c.joinLoad()
	}
}

// joinLoad hands the state over once it and the memory are there.
func (c *Core) joinLoad() {
	j := c.join
	if j.copying || j.state == nil {
		return
	}
	j.stage = joinLoading
	c.hands.Send(j.to, &Command{Verb: Load, A: c.epoch, Data: j.state})
}

// joinFailed is called when the module that comes in does not.
func (c *Core) joinFailed(f Finding) {
	c.join = nil
	c.hands.Report(Event{Kind: JoinFailed, Side: f.Side, Fault: f})
}

// Progress is how far the copy of a join is.
func (c *Core) Progress() (what string, ok bool) {
	if c.join == nil {
		return "", false
	}
	return [...]string{"diagnostics", "memory copy", "stop", "stop", "stop", "stop"}[c.join.stage], true
}

// leave.go's part: sides that stand apart.

// SplitOff takes a side out of lockstep as it is, for a dump: its state comes with the event
// Split, and its memory stays until the hands end it. The last side goes only if last is set,
// and the machine is over then.
func (c *Core) SplitOff(s Side, last bool) error {
	switch {
	case c.sides[s].place != within || c.phase != Running:
		return fmt.Errorf("%v does not run the machine now", s)
	case c.sides[s.Other()].place != within && !last:
		return fmt.Errorf("%v is the only module that runs the machine", s)
	}
	c.sides[s] = member{place: leaving}
	c.hands.Send(s, &Command{Verb: Save})
	c.left(s)
	return nil
}

// Leave takes a side out of lockstep for good.
func (c *Core) Leave(s Side, why string) {
	if c.sides[s].place == absent {
		return
	}
	was := c.sides[s].place
	c.sides[s] = member{}
	c.hands.Fence(s, why)
	switch {
	case was == joining:
		c.joinFailed(Finding{Side: s, Cause: "leave", Text: why})
	case was == within && c.trial != nil:
		c.trialGone(s)
	case was == within:
		c.left(s)
	}
}

// leaveRecord takes what a side says that stands apart: its state, and nothing else.
func (c *Core) leaveRecord(s Side, r *Record) {
	if r.Kind != Saved {
		return
	}
	m := &c.sides[s]
	if cs := m.evidence; cs != nil {
		cs.State = r.Data
		c.sides[s] = member{}
		c.hands.Fence(s, cs.Fault.Text)
		c.hands.Report(Event{Kind: Evidence, Side: s, Case: cs})
		return
	}
	c.sides[s] = member{}
	c.hands.Report(Event{Kind: Split, Side: s, State: r.Data})
}

// leaveGone is called when a side that stands apart has died.
func (c *Core) leaveGone(s Side) {
	why := "it has ended while it stood apart"
	if cs := c.sides[s].evidence; cs != nil {
		why = cs.Fault.Text
	}
	c.sides[s] = member{}
	c.hands.Fence(s, why)
}
