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
	joinKnowing                  // an epoch is ended, so that what was written meanwhile is known
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
	endAt    uint64 // the number of the epoch's end that is waited for, 0: not sent yet
	ended    Record
	state    []byte
	saved    bool
	warmed   int           // pages of its memory that the module has looked at
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

// ErrLeaving is why a side cannot come in yet: what was in its place before is not gone.
var ErrLeaving = errors.New("the CPU module's place is not free yet")

// MayJoin says why a side cannot be brought in now.
func (c *Core) MayJoin(s Side) error {
	switch {
	case c.sides[s].place == within:
		return fmt.Errorf("%w: %v is in already", ErrJoin, s)
	case c.sides[s].place == leaving:
		return fmt.Errorf("%w: %v is on its way out", ErrLeaving, s)
	case c.sides[s].place != absent:
		return fmt.Errorf("%w: %v is on its way in", ErrJoin, s)
	case c.join != nil:
		return fmt.Errorf("%w: %v is on its way in", ErrJoin, c.join.to)
	case c.phase != Running || c.sides[s.Other()].place != within:
		return fmt.Errorf("%w: %v does not run a machine that it could join", ErrJoin, s.Other())
	}
	return nil
}

// Join begins to bring a side in, whose process has been started.
func (c *Core) Join(s Side) error {
	if err := c.MayJoin(s); err != nil {
		return err
	}
	c.sides[s] = member{place: joining}
	c.join = &join{from: s.Other(), to: s, began: c.hands.Now(), perPage: perPageFirst, dirty: make([]uint64, (len(c.table)+63)/64)}
	c.stats.Joins++
	c.request(s, Command{Verb: Test})
	c.hands.Report(Event{Kind: JoinStage, Side: s, Text: "diagnostics"})
	return nil
}

// joinRecord takes what the module that comes in says.
func (c *Core) joinRecord(s Side, r *Record) {
	j := c.join
	switch r.Kind {
	case Tested:
		if len(r.Data) > 0 {
			c.remove(s, Finding{Cause: "self-test", Text: "its self-test failed: " + string(r.Data)})
			return
		}
		c.hands.Report(Event{Kind: JoinStage, Side: s, Text: "memory copy"})
		c.copyRound(nil, len(c.table))
	case Patrolled:
		if len(r.Pages) == 0 {
			c.remove(s, Finding{Cause: "protocol", Text: "it was asked for digests of its memory and gave none"})
			return
		}
		if j.warmed += len(r.Pages); j.warmed < len(c.table) {
			c.warm()
		}
	case Loaded:
		if r.State != j.ended.State {
			c.remove(s, Finding{Cause: "load", Text: fmt.Sprintf("it has taken over another state than it was given: digest %#x, not %#x", r.State, j.ended.State)})
			return
		}
		c.joined()
	}
}

// warmPages are few, since the kernel has to find memory for each of them first, in the time
// of a command that a healthy module answers quickly (backplane's watch).
const warmPages = 256

// warm has the module look at its memory while the machine runs, so that later it does not wait
// for the kernel at its first use of each page.
func (c *Core) warm() {
	j := c.join
	c.request(j.to, Command{Verb: Digest, A: uint64(j.warmed), B: uint64(min(warmPages, len(c.table)-j.warmed))})
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
	c.pauseHere()
	c.hands.Report(Event{Kind: JoinedIn, Side: j.to, Blackout: c.stats.Blackout,
		Text: fmt.Sprintf("in lockstep after %d rounds of copying", j.round)})
}

// Copied says that the copy has ended; took is how long it took. It is not called for a copy to
// or from a side that was fenced meanwhile.
func (c *Core) Copied(pages int, took time.Duration, err error) {
	if t := c.trial; t != nil && t.stage == mending {
		c.mended(err)
		return
	}
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
		return
	}
	if j.round == 1 {
		c.warm()
	}
	j.stage, j.endAt = joinKnowing, 0
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
func (c *Core) closing() bool {
	return c.held || c.ending != nil || c.join != nil && c.join.stage >= joinClosing
}

// advanceJoin goes on with a join when there is something to do.
func (c *Core) advanceJoin() {
	j := c.join
	if j == nil || j.copying || c.phase != Running {
		return
	}
	switch {
	case j.stage == joinKnowing && j.endAt == 0:
		// Rounds are spread out, for the guest may be quieter later.
		if c.ends < endsMax && (c.hands.Now()-j.roundAt >= c.cfg.EpochTime/2 || c.resting() || c.still()) {
			c.endEpoch()
			j.endAt = c.number
		}
	case j.stage == joinClosing && len(c.asked) == 0:
		j.standing, j.stage = c.hands.Now(), joinEnding
		c.endEpoch()
		j.endAt = c.number
	}
}

// copyRound copies n pages: those listed, or all.
func (c *Core) copyRound(list []uint32, n int) {
	j := c.join
	if j.stage < joinMoving {
		j.stage, j.roundAt = joinCopying, c.hands.Now()
	}
	j.copying, j.sent = true, n
	c.hands.Copy(j.from, j.to, list)
}

// copyWritten copies what was written since it was copied.
func (c *Core) copyWritten() {
	list := c.join.take()
	c.copyRound(list, len(list))
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

// joinEnded goes on when an epoch has ended that the join waits for.
func (c *Core) joinEnded(r *Record) {
	j := c.join
	switch {
	case j == nil || r.Number != j.endAt:
	case j.stage == joinKnowing && j.blackout() <= c.cfg.BlackoutMax/2:
		if j.stage = joinClosing; j.warmed < len(c.table) {
			j.stage, j.endAt, j.roundAt = joinKnowing, 0, c.hands.Now()
		}
	case j.stage == joinKnowing, j.stage == joinEnding && j.blackout() > c.cfg.BlackoutMax:
		if c.roundsLeft() {
			c.copyWritten()
		}
	case j.stage == joinEnding:
		j.stage, j.ended = joinMoving, *r
		c.request(j.from, Command{Verb: Save})
		c.copyWritten()
	}
}

// joinSaved takes the state that the module is to go on from.
func (c *Core) joinSaved(s Side, r *Record) {
	j := c.join
	if j == nil || j.stage != joinMoving || j.from != s || len(c.sides[s].requests) > 0 {
		return // for a join that has come to nothing
	}
	if r.State != j.ended.State {
		c.remove(j.to, Finding{Cause: "save", Text: fmt.Sprintf("%v gave another state than the one that it stands at: digest %#x, not %#x", s, r.State, j.ended.State)})
		return
	}
	j.state, j.saved = r.Data, true
	c.joinLoad()
}

// joinLoad hands the state over once it and the memory are there.
func (c *Core) joinLoad() {
	j := c.join
	if j.copying || !j.saved {
		return
	}
	j.stage = joinLoading
	c.request(j.to, Command{Verb: Load, A: c.epoch, Data: j.state})
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
	return [...]string{"diagnostics", "memory copy", "memory copy", "stop", "stop", "stop", "stop"}[c.join.stage], true
}
