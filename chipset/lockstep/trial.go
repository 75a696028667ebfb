package lockstep

import (
	"slices"
	"time"
)

// A trial begins when two modules have answered differently. They go back to the beginning of
// the oldest epoch that is not agreed and do it again. What each of them made of the epoch, the
// first time and again, is a vote, and so is what a referee makes of it.
//
//	accuse ──▶ restoring ──▶ (mending) ──▶ replaying ──▶ decide ──▶ one is shot, the other goes on
//	               ▲    │                                  │
//	               │    ├──▶ looking                       │ not yet
//	               │    └──▶ saving ──▶ refereeing ──▶ decide
//	               └───────────────────────────────────────┘
//
// Invariants:
//   - A result of the epoch is right when two different processes have come to it from the
//     beginning that was agreed, and fewer have come to any other (judge.go). No output leaves
//     but by such a result.
//   - A module whose memory or state at the beginning is not what was agreed is wrong, if the
//     other's is, and its votes do not count. With the other's pages in place of the damaged
//     ones it does the epoch again as a witness for the other, before it is shot.
//   - A module goes on only from where it stands when it has just come to the right result.
//   - Each stage waits for answers of those that stand, and ends when they have answered or
//     are gone. Replays and referees are numbered.

// stage is how far a trial is.
type stage uint8

const (
	restoring  stage = iota // all that stand go back to the beginning
	mending                 // at the beginning: one gets the other's pages in place of damaged ones
	replaying               // they do it again
	looking                 // at the beginning: all of their memory is looked at
	saving                  // at the beginning: the state of one is wanted, for a referee
	refereeing              // at the beginning: the referee does it
)

const (
	refereesMax = 4 // two from each side: one module and one referee may be wrong
	replaysMax  = 4
	mendMax     = 1024 // pages
)

// vote is what a process made of the epoch: the sums of its answers.
type vote struct {
	voter int // 0, 1: the modules; from 2 on referees
	sums  []uint64
}

// trial is one of them.
type trial struct {
	stage    stage
	next     stage // what follows the way back
	began    time.Duration
	asked    []ask // all answers since the beginning of the epoch
	agreed   int   // of them, before the two differed
	from, pc uint64

	stands [2]bool
	shot   [2]bool
	front  [2]answer   // in which they differed
	first  [2][]uint64 // sums
	runs   [2][]answer // of the last replay
	votes  []vote
	done   bool // those that stand have done the replay; otherwise they are at the beginning

	restored [2]bool
	digested [2]int // pages
	looked   bool
	bad      [2]map[uint32]uint64 // pages that are not what was agreed, with what they are
	spoilt   [2]bool              // the state at the beginning is not
	written  map[uint32]bool
	damage   [2]*Case // of a module that was mended
	replays  int
	referees int
	witness  Side // whose memory and state the referee gets
	doubt    string
	believe  bool // the configuration says so, nothing else does
}

// accuse begins a trial.
func (c *Core) accuse(front [2]*answer) {
	c.phase = Judging
	c.stats.Trials++
	t := &trial{
		began: c.hands.Now(), next: replaying, agreed: len(c.history), from: c.last.Steps, pc: c.last.PC,
		stands: [2]bool{true, true}, written: map[uint32]bool{}, bad: [2]map[uint32]uint64{{}, {}},
	}
	for i := range c.log {
		if a, ok := askOf(&c.log[i]); ok {
			t.asked = append(t.asked, a)
		}
	}
	for s := range c.sides {
		m := &c.sides[s]
		t.front[s] = *front[s]
		t.first[s] = slices.Clone(c.history)
		for i := range m.got {
			t.first[s] = append(t.first[s], m.got[i].sum)
		}
		m.got = nil // but not what it has sent of the next answer
	}
	c.trial = t
	c.sendBack(replaying)
}

// sendBack sends all that stand back.
func (c *Core) sendBack(next stage) {
	t := c.trial
	t.stage, t.next, t.done = restoring, next, false
	for _, s := range t.standing() {
		t.restored[s] = false
		c.request(s, Command{Verb: Back, A: c.logEpoch})
	}
}

// standing are those that take part.
func (t *trial) standing() (list []Side) {
	for s, stands := range t.stands {
		if stands {
			list = append(list, Side(s))
		}
	}
	return list
}

// trialAnswer takes an answer to a command of the stream.
func (c *Core) trialAnswer(s Side, a answer) {
	t := c.trial
	n := len(t.runs[s])
	if t.stage == restoring && t.replays == 0 {
		n = len(t.first[s])
	} else if t.stage != replaying {
		n = len(t.asked)
	}
	if n >= len(t.asked) || !t.asked[n].answeredBy(&a.record) {
		c.condemn(s, notAsked(&a.record))
		return
	}
	if t.stage == restoring {
		t.first[s] = append(t.first[s], a.sum)
		return
	}
	if t.runs[s] = append(t.runs[s], a); n+1 == len(t.asked) {
		t.votes = append(t.votes, vote{int(s), sums(t.runs[s])})
		c.trialStep()
	}
}

// trialRestored takes what a module finds when it has gone back.
func (c *Core) trialRestored(s Side, r *Record) {
	t := c.trial
	if t.replays == 0 && !t.restored[s] && len(t.votes) < 2 {
		t.votes = append(t.votes, vote{int(s), t.first[s]})
	}
	t.restored[s] = true
	t.spoilt[s] = t.spoilt[s] || r.State != c.start
	for _, p := range r.Pages {
		t.written[p.Index] = true
		c.look(s, p)
	}
	c.sides[s].outputs, c.sides[s].outputBytes = nil, 0
	c.trialStep()
}

// look takes note of what a page was at the beginning.
func (c *Core) look(s Side, p Page) {
	if int(p.Index) < len(c.table) && c.table[p.Index] != p.Digest {
		c.trial.bad[s][p.Index] = p.Digest
	}
}

// trialGone is called when a module does not answer any more.
func (c *Core) trialGone(s Side) {
	t := c.trial
	t.stands[s], t.shot[s] = false, true
	switch {
	case !t.stands[s.Other()]:
		c.trial = nil
		c.over(Event{Kind: Lost, Side: s, Text: "no CPU module is left"})
	case t.stage == mending:
		c.judgeBeginning() // on whoever of the two is left
	case t.stage == saving && t.witness == s:
		c.askReferee()
	case t.stage != saving && t.stage != refereeing:
		c.trialStep()
	}
}

// trialStep goes on when all that stand have done what the stage asks for.
func (c *Core) trialStep() {
	t := c.trial
	for _, s := range t.standing() {
		if t.stage == restoring && !t.restored[s] || t.stage == replaying && len(t.runs[s]) < len(t.asked) || t.stage == looking && t.digested[s] < len(c.table) {
			return
		}
	}
	switch t.stage {
	case restoring:
		c.judgePatrol()
		c.judgeBeginning()
	case looking:
		t.looked = true
		c.judgeBeginning()
	case replaying:
		t.done = true
		c.decide()
	}
}

// begun goes on from the beginning, where all that stand are.
func (c *Core) begun(next stage) {
	t := c.trial
	switch {
	case next == replaying:
		c.replay()
	case next == looking && !t.looked:
		t.stage = looking
		for _, s := range t.standing() {
			c.askDigest(s)
		}
	default:
		c.askReferee()
	}
}

// replay has all that stand do the epoch again.
func (c *Core) replay() {
	t := c.trial
	t.stage = replaying
	t.replays++
	for _, s := range t.standing() {
		t.runs[s] = nil
		for i := range c.log {
			c.hands.Send(s, &c.log[i])
		}
	}
}

func sums(answers []answer) []uint64 {
	list := make([]uint64, len(answers))
	for i := range answers {
		list[i] = answers[i].sum
	}
	return list
}

// lookPages is how many pages are looked at at a time.
func (c *Core) lookPages() int { return min(256*c.cfg.PatrolPages, PagesMax) }

// askDigest asks for the digests of the next pages.
func (c *Core) askDigest(s Side) {
	from := c.trial.digested[s]
	c.request(s, Command{Verb: Digest, A: uint64(from), B: uint64(min(c.lookPages(), len(c.table)-from))})
}

// trialDigest takes digests of a module's whole memory.
func (c *Core) trialDigest(s Side, r *Record) {
	t := c.trial
	from := t.digested[s]
	if !consecutive(r.Pages, from, min(c.lookPages(), len(c.table)-from)) {
		c.condemn(s, Finding{Cause: "protocol", Text: "it was asked for digests of its memory and gave others"})
		return
	}
	for _, p := range r.Pages {
		c.look(s, p)
	}
	if t.digested[s] += len(r.Pages); t.digested[s] < len(c.table) {
		c.askDigest(s)
		return
	}
	c.trialStep()
}

// consecutive says whether a list is of n pages from one on. It is sorted.
func consecutive(pages []Page, from, n int) bool {
	return len(pages) == n && (n == 0 || int(pages[0].Index) == from && int(pages[n-1].Index) == from+n-1)
}

// askReferee asks for a third opinion, from the memory and state of one that stands; each time
// of another.
func (c *Core) askReferee() {
	t := c.trial
	sides := t.standing()
	t.stage, t.witness = saving, sides[t.referees%len(sides)]
	t.referees++
	c.request(t.witness, Command{Verb: Save})
}

// trialSaved hands the witness's state to the referee, which looks at all of its memory first.
func (c *Core) trialSaved(r *Record) {
	t := c.trial
	t.stage = refereeing
	var log []Command
	for from := 0; from < len(c.table); from += c.lookPages() {
		log = append(log, Command{Verb: Digest, Number: requestBit | uint64(len(log)+1), A: uint64(from), B: uint64(min(c.lookPages(), len(c.table)-from))})
	}
	c.hands.Referee(t.witness, r.Data, append(log, c.log...))
}

// Refereed is the answer to Hands.Referee.
func (c *Core) Refereed(heard *Transcript, err error) {
	t := c.trial
	if t == nil || t.stage != refereeing {
		return
	}
	switch {
	case err != nil:
		t.doubt = "no third opinion was to be had: " + err.Error()
	case heard.state != c.start || !c.agreedMemory(heard.pages):
		t.doubt = "what the referee got from " + t.witness.String() + " was not what was agreed"
	default:
		t.votes = append(t.votes, vote{1 + t.referees, heard.Sums()})
	}
	c.decide()
}

// agreedMemory says whether digests are those of all memory as it was agreed.
func (c *Core) agreedMemory(pages []Page) bool {
	if !consecutive(pages, 0, len(c.table)) {
		return false
	}
	for _, p := range pages {
		if c.table[p.Index] != p.Digest {
			return false
		}
	}
	return true
}
