package lockstep

import (
	"fmt"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A trial begins when two modules have answered differently. Both go back to the beginning of
// the oldest epoch that is not agreed and do it again; what they then answer, what they
// answered first, and the agreed digests of their memory say who is wrong.

// stage is how far a trial is.
type stage uint8

const (
	restoring      stage = iota // both go back
	replaying                   // both do it again
	restoringAgain              // both repeat themselves: they go back once more …
	digesting                   // … and all of their memory is looked at
	saving                      // memory is not it: a third opinion is wanted, from the state of one
	refereeing
	resuming // the good one, which stands at the beginning, does it once more
)

// trial is one of them.
type trial struct {
	stage  stage
	began  time.Duration
	asked  []ask // all answers since the beginning of the epoch
	agreed int   // of them, before the two differed
	verb   Verb  // of the command at which they differed
	from   uint64
	pc     uint64

	stands   [2]bool // it takes part still
	front    [2]answer
	first    [2][]uint64 // sums
	second   [2][]answer
	sent     [2]int // commands of the log
	restored [2]bool
	bad      [2][]uint32 // pages that are not what was agreed
	written  map[uint32]bool
	digested [2]int  // pages
	witness  Side    // whose memory and state the referee gets
	believe  bool    // the configuration says so, nothing else does
	held     Finding // of the module that is wrong, while the other resumes
	shot     [2]bool
}

// digestPages is how many pages are digested at a time.
const digestPages = 4096

// accuse begins a trial.
func (c *Core) accuse(front [2]*answer) {
	c.phase = Judging
	c.stats.Trials++
	t := &trial{
		began: c.hands.Now(), agreed: len(c.history), verb: c.asked[0].verb, from: c.last.Steps, pc: c.last.PC,
		stands: [2]bool{true, true}, written: map[uint32]bool{},
	}
	for i := range c.log {
		switch cmd := &c.log[i]; cmd.Verb {
		case Run, Epoch, Patrol:
			t.asked = append(t.asked, ask{number: cmd.Number, verb: cmd.Verb, a: cmd.A, b: cmd.B})
		}
	}
	for s := range c.sides {
		m := &c.sides[s]
		t.front[s] = *front[s]
		t.first[s] = slices.Clone(c.history)
		for i := range m.got {
			t.first[s] = append(t.first[s], m.got[i].sum)
		}
		m.got, m.outputs = nil, nil
	}
	c.trial = t
	c.sendBack()
}

// sendBack sends all that take part back.
func (c *Core) sendBack() {
	t := c.trial
	for s := range c.sides {
		if t.stands[s] {
			t.restored[s] = false
			c.hands.Send(Side(s), &Command{Verb: Back, A: c.logEpoch})
		}
	}
}

// trialAnswer takes an answer to a command of the stream.
func (c *Core) trialAnswer(s Side, a answer) {
	t := c.trial
	switch t.stage {
	case restoring:
		if len(t.first[s]) < len(t.asked) {
			t.first[s] = append(t.first[s], a.sum)
		}
	case replaying, resuming:
		if i := len(t.second[s]); i >= len(t.asked) || t.asked[i].number != a.record.Number {
			c.condemn(s, Finding{Cause: "protocol", Text: fmt.Sprintf("it answers command %d, which it was not asked", a.record.Number)})
			return
		}
		t.second[s] = append(t.second[s], a)
		c.trialStep()
	}
}

// trialRestored takes what a module finds when it has gone back.
func (c *Core) trialRestored(s Side, r *Record) {
	t := c.trial
	if t.restored[s] || (t.stage != restoring && t.stage != restoringAgain) {
		return
	}
	t.restored[s] = true
	for _, p := range r.Pages {
		t.written[p.Index] = true
		if int(p.Index) < len(c.table) && c.table[p.Index] != p.Digest && !slices.Contains(t.bad[s], p.Index) {
			t.bad[s] = append(t.bad[s], p.Index)
		}
	}
	c.sides[s].outputs = nil
	c.trialStep()
}

// trialGone is called when a module does not answer any more.
func (c *Core) trialGone(s Side) {
	t := c.trial
	t.stands[s] = false
	if !t.stands[s.Other()] {
		c.trial = nil
		c.over(Event{Kind: Lost, Side: s, Text: "no CPU module is left"})
		return
	}
	if t.stage == saving && t.witness == s {
		c.askReferee(s.Other())
		return
	}
	c.trialStep()
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

// trialStep goes on when all have done what the stage asks for.
func (c *Core) trialStep() {
	t := c.trial
	sides := t.standing()
	for _, s := range sides {
		switch t.stage {
		case restoring, restoringAgain:
			if !t.restored[s] {
				return
			}
		case replaying, resuming:
			if len(t.second[s]) < len(t.asked) {
				return
			}
		case digesting:
			if t.digested[s] < len(c.table) {
				return
			}
		case saving, refereeing:
			return
		}
	}
	switch t.stage {
	case restoring:
		c.judgeRestored(sides)
	case replaying:
		c.judgeReplay(sides)
	case restoringAgain:
		if c.judgeMemory(sides) {
			return
		}
		t.stage = digesting
		for _, s := range sides {
			c.askDigest(s)
		}
	case digesting:
		if !c.judgeMemory(sides) {
			c.askReferee(sides[0])
		}
	case resuming:
		c.judgeResumed(sides[0])
	}
}

// judgeRestored looks at the pages that the modules found when they went back.
func (c *Core) judgeRestored(sides []Side) {
	t := c.trial
	if t.verb == Patrol && len(sides) == 2 {
		c.judgePatrol()
	}
	if c.judgeMemory(sides) {
		return
	}
	c.replay(replaying, sides)
}

// judgePatrol finds the pages in which two patrols differ and which nobody has written since
// their digests were agreed.
func (c *Core) judgePatrol() {
	t := c.trial
	a, b := t.front[0].record.Pages, t.front[1].record.Pages
	if len(a) != len(b) {
		return
	}
	for i := range a {
		if a[i].Index != b[i].Index || int(a[i].Index) >= len(c.table) || t.written[a[i].Index] {
			continue
		}
		for s, p := range [2]Page{a[i], b[i]} {
			if p.Digest != c.table[p.Index] && !slices.Contains(t.bad[s], p.Index) {
				t.bad[s] = append(t.bad[s], p.Index)
			}
		}
	}
}

// judgeMemory shoots the module whose memory is not what was agreed, if the other's is. Both
// stand at the beginning. It reports whether the trial has gone on by that.
func (c *Core) judgeMemory(sides []Side) bool {
	t := c.trial
	switch {
	case len(sides) == 2 && len(t.bad[0]) > 0 && len(t.bad[1]) > 0:
		c.undecided(fmt.Sprintf("the memories of both modules are damaged: page %d of cpu0, page %d of cpu1", t.bad[0][0], t.bad[1][0]))
	case len(sides) == 2 && len(t.bad[0])+len(t.bad[1]) > 0:
		wrong := Side(0)
		if len(t.bad[1]) > 0 {
			wrong = 1
		}
		f := t.finding(wrong)
		f.Page, f.HasPage = t.bad[wrong][0], true
		if f.Cause != "patrol" {
			f.Cause = "memory"
		}
		f.Text = fmt.Sprintf("its memory is not what was agreed: page %#x (%d of %d looked at)", f.Page, len(t.bad[wrong]), len(c.table))
		c.shoot(wrong, f, true)
		c.replay(resuming, []Side{wrong.Other()})
	case len(sides) == 1 && len(t.bad[sides[0]]) > 0:
		c.undecided(fmt.Sprintf("%v is alone, and page %d of its memory is damaged", sides[0], t.bad[sides[0]][0]))
	default:
		return false
	}
	return true
}

// replay has modules do the epoch again.
func (c *Core) replay(st stage, sides []Side) {
	t := c.trial
	t.stage = st
	for _, s := range sides {
		t.second[s] = nil
		for i := range c.log {
			c.hands.Send(s, &c.log[i])
		}
	}
	if len(t.asked) == 0 {
		c.trialStep()
	}
}

// judgeReplay compares what was answered twice.
func (c *Core) judgeReplay(sides []Side) {
	t := c.trial
	if len(sides) == 1 {
		s := sides[0]
		if slices.Equal(sums(t.second[s]), t.first[s]) {
			c.goOn(s, false)
			return
		}
		c.againAndReferee()
		return
	}
	second := [2][]uint64{sums(t.second[0]), sums(t.second[1])}
	switch {
	case slices.Equal(second[0], second[1]):
		wrong := [2]bool{!slices.Equal(t.first[0], second[0]), !slices.Equal(t.first[1], second[1])}
		switch {
		case wrong[0] && wrong[1]:
			for s := range Side(2) {
				f := t.findingAgainst(s, &t.second[s][min(t.agreed, len(t.second[s])-1)])
				f.Latency = c.hands.Now() - t.began
				c.hands.Report(Event{Kind: Transient, Side: s, Fault: f})
			}
			c.stats.Repaired++
			c.goOn(0, true)
		case wrong[0] || wrong[1]:
			s := Side(0)
			if wrong[1] {
				s = 1
			}
			c.shoot(s, t.finding(s), false)
			c.goOn(s.Other(), false)
		default:
			c.stats.Repaired++
			c.hands.Report(Event{Kind: Repaired})
			c.goOn(0, true)
		}
	case slices.Equal(t.first[0], second[1]):
		// Two processes agree, and cpu0 has not repeated it: what it stands at is wrong.
		c.shoot(0, t.finding(0), false)
		c.goOn(1, false)
	case slices.Equal(t.first[1], second[0]):
		c.shoot(1, t.finding(1), false)
		c.goOn(0, false)
	default:
		c.againAndReferee()
	}
}

// againAndReferee goes back once more, for a look at all memory and a third opinion.
func (c *Core) againAndReferee() {
	c.trial.stage = restoringAgain
	c.sendBack()
}

func sums(answers []answer) []uint64 {
	list := make([]uint64, len(answers))
	for i := range answers {
		list[i] = answers[i].sum
	}
	return list
}

// askDigest asks for the digests of the next pages.
func (c *Core) askDigest(s Side) {
	from := c.trial.digested[s]
	c.hands.Send(s, &Command{Verb: Digest, A: uint64(from), B: uint64(min(digestPages, len(c.table)-from))})
}

// digesting says whether a record is the answer to askDigest.
func (t *trial) digesting(s Side, r *Record) bool {
	return t.stage == digesting && r.Kind == Patrolled && t.stands[s]
}

// trialDigest takes digests of a module's whole memory.
func (c *Core) trialDigest(s Side, r *Record) {
	t := c.trial
	want := min(digestPages, len(c.table)-t.digested[s])
	if len(r.Pages) != want || want == 0 || int(r.Pages[0].Index) != t.digested[s] || int(r.Pages[want-1].Index) != t.digested[s]+want-1 {
		c.condemn(s, Finding{Cause: "protocol", Text: "it was asked for digests of its memory and gave others"})
		return
	}
	for _, p := range r.Pages {
		if c.table[p.Index] != p.Digest {
			t.bad[s] = append(t.bad[s], p.Index)
		}
	}
	if t.digested[s] += want; t.digested[s] < len(c.table) {
		c.askDigest(s)
		return
	}
	c.trialStep()
}

// askReferee asks for a third opinion, from the memory and state of a side.
func (c *Core) askReferee(s Side) {
	t := c.trial
	t.stage, t.witness = saving, s
	c.hands.Send(s, &Command{Verb: Save})
}

// Refereed is the answer to Hands.Referee.
func (c *Core) Refereed(heard *Transcript, err error) {
	t := c.trial
	if t == nil || t.stage != refereeing {
		return
	}
	if err != nil {
		c.undecided("no third opinion was to be had: " + err.Error())
		return
	}
	said := heard.Sums()
	sides := t.standing()
	var right []Side
	for _, s := range sides {
		if slices.Equal(said, sums(t.second[s])) || slices.Equal(said, t.first[s]) {
			right = append(right, s)
		}
	}
	switch {
	case len(right) != 1:
		c.undecided(fmt.Sprintf("the referee agrees with %d of %d modules", len(right), len(sides)))
	case len(sides) == 2:
		wrong := right[0].Other()
		c.shoot(wrong, t.findingAgainst(wrong, &t.front[right[0]]), true)
		c.replay(resuming, right)
	default:
		c.replay(resuming, right)
	}
}

// judgeResumed lets a module go on that has done the epoch once more.
func (c *Core) judgeResumed(s Side) {
	t := c.trial
	if !t.believe && !slices.Equal(sums(t.second[s]), t.first[s]) {
		// The other was wrong, and now this one does not repeat itself.
		c.undecided(fmt.Sprintf("%v does not repeat what it did", s))
		return
	}
	c.goOn(s, false)
}

// goOn ends a trial: s stands at the end of the log with the right answers, and so does the
// other if both is set.
func (c *Core) goOn(s Side, both bool) {
	t := c.trial
	right := t.second[s]
	for i := range t.agreed {
		if right[i].sum != c.history[i] && !t.believe {
			c.undecided(fmt.Sprintf("%v now denies what was agreed on before", s))
			return
		}
	}
	c.trial, c.phase = nil, Running
	for i := range c.sides {
		c.sides[i].got, c.sides[i].outputs = nil, nil
	}
	for i := t.agreed; i < len(right) && c.phase == Running; i++ {
		c.agree(&right[i], both, true)
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
	cs := &Case{Side: s, Log: slices.Clone(c.log), Patches: map[uint32][]byte{}, Fault: f}
	const patchesMax = 64
	for _, page := range t.bad[s][:min(len(t.bad[s]), patchesMax)] {
		cs.Patches[page] = c.hands.Page(s.Other(), page)
	}
	c.hands.Report(Event{Kind: Shot, Side: s, Fault: f})
	c.sides[s] = member{place: leaving, evidence: cs}
	if !atStart {
		c.hands.Send(s, &Command{Verb: Back, A: c.logEpoch})
	}
	c.hands.Send(s, &Command{Verb: Save})
}

// condemn shoots a side at once for what no module in order does.
func (c *Core) condemn(s Side, f Finding) { c.remove(s, f) }

// undecided ends the machine, or follows the configuration.
func (c *Core) undecided(text string) {
	t := c.trial
	c.hands.Report(Event{Kind: Undecided, Text: text})
	keep, named := map[Policy]Side{UndecidedCPU0: 0, UndecidedCPU1: 1}[c.cfg.Undecided]
	if named && !t.believe && t.stands[keep] {
		if other := keep.Other(); t.stands[other] {
			f := t.finding(other)
			f.Cause, f.Text = "undecided", text+"; the configuration says to believe "+keep.String()
			t.stands[other], t.shot[other] = false, true
			f.Side = other
			c.sides[other] = member{}
			c.hands.Report(Event{Kind: Shot, Side: other, Fault: f})
			c.hands.Fence(other, f.Text)
		}
		t.believe, t.bad[keep] = true, nil
		t.stage = restoringAgain
		t.restored[keep] = false
		c.hands.Send(keep, &Command{Verb: Back, A: c.logEpoch})
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

// finding says what was wrong with a side, by the answers that began the trial.
func (t *trial) finding(s Side) Finding { return t.findingAgainst(s, &t.front[s.Other()]) }

// findingAgainst says it by another answer to the same command.
func (t *trial) findingAgainst(s Side, good *answer) Finding {
	bad := &t.front[s]
	f := Finding{
		Side: s, Cause: map[Verb]string{Run: "compare", Epoch: "epoch", Patrol: "patrol"}[t.verb],
		From: t.from, To: max(bad.record.Steps, good.record.Steps), PC: t.pc, Differs: differences(bad, good),
	}
	switch t.verb {
	case Run:
		f.Text = fmt.Sprintf("it differed from %v between step %d and step %d", s.Other(), f.From, f.To)
	case Epoch:
		f.Text = fmt.Sprintf("its memory or state differed from %v's at the end of an epoch, step %d", s.Other(), f.From)
	default:
		f.Text = fmt.Sprintf("the patrol found its memory to differ from %v's", s.Other())
	}
	return f
}

// differences are in what two answers to one command differ.
func differences(bad, good *answer) (list []Difference) {
	b, g := &bad.record, &good.record
	add := func(what string, bad, good uint64) {
		if bad != good {
			list = append(list, Difference{what, bad, good})
		}
	}
	add("steps", b.Steps, g.Steps)
	add("end of the quantum", uint64(b.Why), uint64(g.Why))
	add("fingerprint", b.Fingerprint, g.Fingerprint)
	add("registers' digest", b.State, g.State)
	add("pc", b.PC, g.PC)
	add("guest time", b.Time, g.Time)
	add("outputs", uint64(len(bad.outputs)), uint64(len(good.outputs)))
	for i := range min(len(bad.outputs), len(good.outputs)) {
		x, y := &bad.outputs[i], &good.outputs[i]
		add(fmt.Sprintf("output %d's slot", i), uint64(x.Slot), uint64(y.Slot))
		add(fmt.Sprintf("output %d's sector", i), x.Sector, y.Sector)
		add(fmt.Sprintf("output %d's length", i), x.Length+uint64(len(x.Data)), y.Length+uint64(len(y.Data)))
		add(fmt.Sprintf("output %d's data", i), xxhash.Sum64(x.Data), xxhash.Sum64(y.Data))
	}
	// Both lists are sorted by page.
	const pagesMax = 8
	for i, j := 0, 0; (i < len(b.Pages) || j < len(g.Pages)) && len(list) < pagesMax; {
		switch {
		case j == len(g.Pages) || i < len(b.Pages) && b.Pages[i].Index < g.Pages[j].Index:
			add(fmt.Sprintf("page %#x", b.Pages[i].Index), b.Pages[i].Digest, 0)
			i++
		case i == len(b.Pages) || g.Pages[j].Index < b.Pages[i].Index:
			add(fmt.Sprintf("page %#x", g.Pages[j].Index), 0, g.Pages[j].Digest)
			j++
		default:
			add(fmt.Sprintf("page %#x", b.Pages[i].Index), b.Pages[i].Digest, g.Pages[j].Digest)
			i, j = i+1, j+1
		}
	}
	return list
}

// Transcript is what a module answers to a stream, for comparing.
type Transcript struct {
	answers []answer
	outputs []Record
}

// Add takes a record.
func (t *Transcript) Add(r *Record) {
	switch r.Kind {
	case Output:
		t.outputs = append(t.outputs, *r)
	case Ran, Ended, Patrolled:
		a := answer{record: *r, outputs: t.outputs}
		a.sum = a.digest()
		t.answers = append(t.answers, answer{record: Record{Number: r.Number}, sum: a.sum})
		t.outputs = nil
	}
}

// Last is the number of the last command that was answered.
func (t *Transcript) Last() uint64 {
	if len(t.answers) == 0 {
		return 0
	}
	return t.answers[len(t.answers)-1].record.Number
}

// Sums are the answers' digests.
func (t *Transcript) Sums() []uint64 { return sums(t.answers) }

// Asks says how many answers a log of commands asks for.
func Asks(log []Command) (n int) {
	for i := range log {
		switch log[i].Verb {
		case Run, Epoch, Patrol:
			n++
		}
	}
	return n
}
