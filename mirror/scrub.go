package mirror

import (
	"time"

	"ft/drivers"
	"ft/mirror/scrub"
)

// A scrub compares everything that both legs have, in the background, from one end to
// the other. It needs both legs in service and equal: while one is out, or being
// resynced, it waits, and goes on where it was.
//
// It survives its process. How far it is, what it has found, when the last one ended,
// and what people said (pause, priority) is a scrub.State, which the shell keeps on stable
// storage: at each change, and every few seconds of work. What was compared since the
// last of these is compared again.

const (
	findingsTold = 16 // findings of one scrub that are events of their own
	// scrubChunkBusy is what is compared at once under load, so that a write does not wait long.
	scrubChunkBusy = 256 << 10
)

// span is a range of bytes.
type span struct{ lo, hi int64 }

// scrubbing is the state and what is under way.
type scrubbing struct {
	scrub.State
	cursor   int64
	running  []*exam // of the scrub
	again    []span  // to be read in smaller pieces
	told     int
	meter    rateMeter
	nextSave int64
}

// RestoreScrub takes back what a predecessor kept. Call it before Start.
func (e *Engine) RestoreScrub(s scrub.State) {
	if s.Phase == "" {
		s.Phase, s.From = scrub.Idle, scrub.NoSide
	}
	e.scrub.State = s
	e.pace.priority = Priority(s.Priority)
	e.reads = s.Reads
	e.markReads()
	e.scrubRewind()
}

// ScrubState is what there is to keep.
func (e *Engine) ScrubState() scrub.State {
	s := e.scrub.State
	s.Priority, s.Reads = string(e.pace.priority), e.reads
	s.Findings = append([]scrub.Finding{}, s.Findings...)
	return s
}

func (e *Engine) scrubRewind() {
	s := &e.scrub
	s.cursor = s.Position
	s.again = nil
	s.meter = rateMeter{at: e.env.Now(), done: s.Position}
	s.nextSave = e.env.Now() + int64(saveEvery)
}

func (e *Engine) scrubSave() {
	e.scrub.nextSave = e.env.Now() + int64(saveEvery)
	e.env.SaveScrub(e.ScrubState())
}

// scrubKnown makes sure that the state is of this mirror: what was known of another one
// that had the name is forgotten.
func (e *Engine) scrubKnown() {
	s := &e.scrub
	if s.Mirror == e.id.Mirror {
		return
	}
	s.State = scrub.State{Mirror: e.id.Mirror, Phase: scrub.Idle, From: scrub.NoSide, Since: e.env.Wall(), Priority: string(e.pace.priority), Reads: e.reads}
	e.scrubRewind()
	e.scrubSave()
}

// Scrub begins a scrub. repair says that where the legs differ, and nothing says which
// one is wrong, that of the side from is the right one.
func (e *Engine) Scrub(repair bool, from int) error {
	defer e.run()
	s := &e.scrub
	switch {
	case e.in() != 3 || !e.made:
		return drivers.Refuse(drivers.RuleState, "%s is %v: a scrub compares its two sides, and needs both", e.name, e.faceState())
	case repair && from == scrub.NoSide && !e.summed():
		return drivers.Refuse(RuleWhichSide, "%s has no checksums, so that nothing says which side is right where they differ. "+
			"Look first (ftctl scrub %s), then name the side whose data stay: ftctl scrub %s --repair --from pci0", e.name, e.name, e.name)
	case s.Phase != scrub.Idle:
		return drivers.Refuse(drivers.RuleState, "%s is being scrubbed already (%s, %.0f %%): ftctl scrub %s --cancel ends that", e.name, s.Phase, e.scrubProgress().Percent, e.name)
	}
	e.scrubKnown()
	e.scrubBegin(repair, from, false)
	return nil
}

// RuleWhichSide refuses a repair when nothing says which side is the right one.
const RuleWhichSide = "which-side"

func (e *Engine) scrubBegin(repair bool, from int, scheduled bool) {
	s := &e.scrub
	s.Phase, s.Repair, s.From, s.Scheduled = scrub.Running, repair, from, scheduled
	s.Summed = e.sums.on
	s.Position, s.Began, s.Found, s.told = 0, e.env.Wall(), scrub.Tally{}, 0
	e.scrubRewind()
	e.scrubSave()
	why := ""
	if scheduled {
		why = ", as scheduled"
	}
	e.note(drivers.Whole, "scrub begins: %d bytes of both sides are compared%s", int64(e.id.DataBytes), why)
}

// PauseScrub and its like are an admin's word about the scrub under way.
func (e *Engine) PauseScrub() error  { return e.scrubTurn(scrub.Running, scrub.Paused, "pause") }
func (e *Engine) ResumeScrub() error { return e.scrubTurn(scrub.Paused, scrub.Running, "resume") }

func (e *Engine) scrubTurn(from, to scrub.Phase, what string) error {
	defer e.run()
	s := &e.scrub
	if s.Phase != from {
		return drivers.Refuse(drivers.RuleState, "there is no scrub of %s to %s: it is %s", e.name, what, s.Phase)
	}
	s.Phase = to
	if to == scrub.Running {
		e.scrubRewind()
	}
	e.scrubSave()
	return nil
}

// CancelScrub ends the scrub under way. What it has found stays known.
func (e *Engine) CancelScrub() error {
	defer e.run()
	s := &e.scrub
	if s.Phase == scrub.Idle {
		return drivers.Refuse(drivers.RuleState, "there is no scrub of %s to cancel", e.name)
	}
	s.Phase = scrub.Idle
	e.note(drivers.Whole, "scrub cancelled after %d bytes: %s", s.Position, s.Found.Words(e.sideIDs()))
	e.scrubSave()
	return nil
}

// scrubWaits says why a scrub that runs does not go on, "" when it does.
func (e *Engine) scrubWaits() string {
	switch {
	case e.in() != 3:
		return "waits for both sides"
	case e.suspect() || e.resync.what != "" || !e.recorded():
		return "waits until both sides are equal"
	case e.repl.phase != replNone:
		return "waits until a leg is replaced"
	}
	return ""
}

// pumpScrub starts as many exams as the pace allows, and ends the scrub after the last.
func (e *Engine) pumpScrub() {
	s := &e.scrub
	if !e.made || e.stopping || s.Phase != scrub.Running || s.Mirror != e.id.Mirror || e.scrubWaits() != "" {
		return
	}
	size := int64(e.id.DataBytes)
	if s.cursor >= size && len(s.running) == 0 && len(s.again) == 0 {
		e.scrubDone()
		return
	}
	now := e.env.Now()
	for len(s.running) < e.copiesAllowed(now) && (s.cursor < size || len(s.again) > 0) {
		next := span{s.cursor, min(s.cursor+copyChunk, size)}
		if e.appBusy(now) {
			next.hi = min(s.cursor+scrubChunkBusy, size)
		}
		small := len(s.again) > 0
		if small {
			next = s.again[len(s.again)-1]
		}
		from := scrub.NoSide
		if s.Repair {
			from = s.From
		}
		j := e.newExam(next.lo, next.hi-next.lo, from)
		j.scrub = true
		if !j.alloc(e) {
			return
		}
		if small {
			s.again = s.again[:len(s.again)-1]
		} else {
			s.cursor = next.hi
		}
		e.pace.tokens -= float64(next.hi - next.lo)
		s.running = append(s.running, j)
		j.start(e)
	}
}

// scrubbed: an exam of the scrub has ended. One that is void is looked at again.
func (e *Engine) scrubbed(j *exam) {
	s := &e.scrub
	for i, x := range s.running {
		if x == j {
			s.running = append(s.running[:i], s.running[i+1:]...)
			break
		}
	}
	if !j.complete {
		s.again = append(s.again, span{j.lock.lo, j.lock.hi})
	}
	if s.Phase == scrub.Idle {
		s.again = nil
		return
	}
	// Everything below what is still to be looked at is done.
	pos := s.cursor
	for _, x := range s.running {
		pos = min(pos, x.lock.lo)
	}
	for _, x := range s.again {
		pos = min(pos, x.lo)
	}
	s.Position = max(s.Position, pos)
}

func (e *Engine) scrubDone() {
	s := &e.scrub
	s.Phase = scrub.Idle
	run := scrub.Run{Began: s.Began, Ended: e.env.Wall(), Whole: true, Bytes: int64(e.id.DataBytes), Found: s.Found}
	s.Last = &run
	if s.Found.Clean() {
		s.Outstanding = scrub.Tally{}
	}
	s.Build = s.Build && !s.Summed
	ev := drivers.Event{Kind: drivers.EventNote, Side: drivers.Whole, Reason: "scrub done: " + s.Found.Words(e.sideIDs()),
		Detail: map[string]any{"bytes": run.Bytes, "seconds": run.Ended.Sub(run.Began).Seconds(), "found": s.Found}}
	if !s.Found.Clean() {
		ev.Fault = "mismatch"
	}
	e.event(ev)
	e.scrubSave()
}

// tickScrub keeps the rate, saves how far it is, and begins what is due.
func (e *Engine) tickScrub() {
	if !e.made || e.stopping || e.in() == 0 {
		return
	}
	e.scrubKnown()
	s := &e.scrub
	now := e.env.Now()
	if s.Phase == scrub.Running {
		s.meter.measure(now, s.Position)
		if now >= s.nextSave {
			e.scrubSave()
		}
		return
	}
	if s.Phase == scrub.Idle && s.Build && e.sums.on && e.scrubWaits() == "" {
		e.scrubBegin(false, scrub.NoSide, true)
		return
	}
	if s.Phase == scrub.Idle && e.opt.ScrubEvery > 0 && e.scrubWaits() == "" && !e.env.Wall().Before(e.scrubDue()) {
		e.scrubBegin(false, scrub.NoSide, true)
	}
}

// scrubDue is when the next scheduled scrub begins; zero when none does.
func (e *Engine) scrubDue() time.Time {
	s := &e.scrub
	if e.opt.ScrubEvery <= 0 {
		return time.Time{}
	}
	last := s.Since
	if s.Last != nil && s.Last.Ended.After(last) {
		last = s.Last.Ended
	}
	if wall := e.env.Wall(); last.After(wall) { // the clock was set back
		last = wall
		s.Since, s.Last = wall, nil
	}
	return last.Add(e.opt.ScrubEvery)
}

func (e *Engine) scrubProgress() *drivers.Progress {
	s := &e.scrub
	total := int64(e.id.DataBytes)
	rate := s.meter.rate
	if s.Phase == scrub.Paused || e.scrubWaits() != "" {
		rate = 0
	}
	return progressOf("scrub", total-s.Position, total, rate)
}

func (e *Engine) sideIDs() [2]string { return [2]string{e.sideID(0), e.sideID(1)} }

// ScrubStatus is a copy of what is.
func (e *Engine) ScrubStatus() scrub.Status {
	st := scrub.Status{State: e.ScrubState()}
	if !e.made {
		return st
	}
	st.Due = e.scrubDue()
	if st.Phase != scrub.Idle {
		st.Progress = e.scrubProgress()
		if st.Phase == scrub.Paused {
			st.Waits = "is paused"
		} else {
			st.Waits = e.scrubWaits()
		}
	}
	return st
}
