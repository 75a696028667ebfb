package lockstep

import (
	"bytes"
	"fmt"
)

// Adoption is how a core takes over modules whose chipset has died. It knows of them that they
// were in lockstep and have been sent the same stream, up to a number. What the predecessor had
// heard of them and what it had let out is gone; but the machine itself knows which of its
// requests have not been answered. So each module is told, one after the other:
//
//	mark ─▶ emit ─▶ digest … ─▶ save ─▶ (both agree) ─▶ load ─▶ as ever
//
//   - The mark is a command of the stream, whose number no predecessor has used: what comes
//     before its answer was meant for one of them, and is dropped.
//   - The requests that were not answered are emitted again.
//   - The digests of all memory are the table of what is agreed, the state is where all begins.
//   - The state is loaded into the module that gave it. That begins an epoch, and forgets those
//     of which the predecessors knew the numbers. It changes nothing else: if this core dies as
//     well and one module alone has done it, the two still agree.
//
// Where two modules differ here nobody can tell who is wrong: what could, died with the
// predecessor. Console output and frames that had not been let out are lost. Whether the
// machine waits, is held or has ended is not asked: it says so again when it is to run.

// adoption is one of them.
type adoption struct {
	of      [2]adoptee
	loading bool // they agree
}

// adoptee is what a module has said.
type adoptee struct {
	marked  bool
	emitted *answer
	table   []uint64
	saved   *Record
	loaded  bool
}

// Adopt makes the core of a machine that runs on these sides, at the end of the stream up to
// number.
func Adopt(cfg Config, hands Hands, sides []Side, number uint64) *Core {
	c := New(cfg, hands, make([]uint64, cfg.Pages))
	c.number = number + 1
	c.requests = c.number << 20 // no predecessor's
	c.adoption = &adoption{}
	mark := Command{Verb: Patrol, Number: c.number} // of no pages
	for _, s := range sides {
		c.sides[s] = member{place: adopting}
		c.hands.Send(s, &mark)
	}
	for _, s := range sides {
		c.request(s, Command{Verb: Emit})
	}
	return c
}

// adopting are the sides that are being adopted.
func (c *Core) adopting() (list []Side) {
	for s := range Side(2) {
		if c.sides[s].place == adopting {
			list = append(list, s)
		}
	}
	return list
}

// adoptRecord takes what a module says that is being adopted.
func (c *Core) adoptRecord(s Side, r *Record) {
	a, m := &c.adoption.of[s], &c.sides[s]
	if !a.marked {
		switch a.marked = r.Kind == Patrolled && r.Number == c.number; {
		case a.marked:
		case r.Number&requestBit == 0 && r.Number >= c.number, r.Number == m.requests[0].number:
			c.condemn(s, notAsked(r)) // it is no predecessor's, and the mark has not been answered
		}
		return
	}
	if len(m.requests) == 0 || m.requests[0].number != r.Number || r.Kind == Output && m.requests[0].verb != Emit {
		c.condemn(s, notAsked(r))
		return
	}
	if r.Kind == Output {
		c.takeOutput(s, r)
		return
	}
	if answers[m.requests[0].verb] != r.Kind {
		c.condemn(s, notAsked(r))
		return
	}
	m.requests = m.requests[1:]
	switch r.Kind {
	case Ran:
		a.emitted = c.adoptEmitted(s, r)
		c.adoptDigest(s)
	case Patrolled:
		from := len(a.table)
		if !consecutive(r.Pages, from, min(c.lookPages(), len(c.table)-from)) {
			c.condemn(s, Finding{Cause: "protocol", Text: "it was asked for digests of its memory and gave others"})
			return
		}
		for _, p := range r.Pages {
			a.table = append(a.table, p.Digest)
		}
		c.adoptDigest(s)
	case Saved:
		rec := *r
		a.saved = &rec
		c.adoptStep()
	case Loaded:
		if r.State != a.saved.State {
			c.condemn(s, Finding{Cause: "load", Text: fmt.Sprintf("it has taken over another state than it gave itself: digest %#x, not %#x", r.State, a.saved.State)})
			return
		}
		a.loaded = true
		c.adoptStep()
	}
}

// adoptEmitted is what a module wants to leave and where it stands. How many pages it has
// written in its epoch depends on which epoch that is.
func (c *Core) adoptEmitted(s Side, r *Record) *answer {
	m := &c.sides[s]
	ans := &answer{record: *r, outputs: m.outputs}
	m.outputs, m.outputBytes = nil, 0
	ans.record.Number, ans.record.Dirty = c.number, 0
	for i := range ans.outputs {
		ans.outputs[i].Number = c.number
	}
	ans.sum = ans.digest()
	return ans
}

// adoptDigest asks for the next digests, or for the state behind the last ones.
func (c *Core) adoptDigest(s Side) {
	from := len(c.adoption.of[s].table)
	if from == len(c.table) {
		c.request(s, Command{Verb: Save})
		return
	}
	c.request(s, Command{Verb: Digest, A: uint64(from), B: uint64(min(c.lookPages(), len(c.table)-from))})
}

// adoptStep goes on when all sides have got so far.
func (c *Core) adoptStep() {
	a := c.adoption
	loaded := true
	for _, s := range c.adopting() {
		if a.of[s].saved == nil {
			return
		}
		loaded = loaded && a.of[s].loaded
	}
	switch {
	case loaded:
		c.adopted(c.adopting())
	case !a.loading:
		if text := c.adoptDiffer(); text != "" && !c.adoptUndecided(text) {
			return
		}
		a.loading = true
		for _, s := range c.adopting() {
			c.request(s, Command{Verb: Load, A: c.epoch, Data: a.of[s].saved.Data})
		}
	}
}

// adoptDiffer says in what two modules differ.
func (c *Core) adoptDiffer() string {
	if len(c.adopting()) < 2 {
		return ""
	}
	x, y := &c.adoption.of[0], &c.adoption.of[1]
	for i := range c.table {
		if x.table[i] != y.table[i] {
			return fmt.Sprintf("after the chipset's death page %#x of the modules' memories differs", i)
		}
	}
	if x.emitted.sum != y.emitted.sum || x.saved.State != y.saved.State || !bytes.Equal(x.saved.Data, y.saved.Data) {
		return "after the chipset's death the modules are not in the same state"
	}
	return ""
}

// adopted goes on with the modules, which agree.
func (c *Core) adopted(sides []Side) {
	a := &c.adoption.of[sides[0]]
	c.adoption = nil
	c.table, c.start, c.last = a.table, a.saved.State, a.emitted.record
	c.phase, c.began = Running, c.hands.Now()
	for _, s := range sides {
		c.sides[s] = member{place: within}
	}
	c.pauseHere()
	for i := range a.emitted.outputs {
		c.stats.Outputs++
		c.hands.Release(&a.emitted.outputs[i])
	}
	c.hands.Report(Event{Kind: Adopted, Side: sides[0]})
	if c.Duplex() {
		c.hands.Report(Event{Kind: Equal, Side: 1})
	}
}

// adoptUndecided follows the configuration where two modules differ; false: the machine is over.
func (c *Core) adoptUndecided(text string) bool {
	c.hands.Report(Event{Kind: Undecided, Text: text})
	keep, named := map[Policy]Side{UndecidedCPU0: 0, UndecidedCPU1: 1}[c.cfg.Undecided]
	if named {
		text += "; the configuration says to believe " + keep.String()
	}
	for s := range Side(2) {
		if named && s == keep {
			continue
		}
		c.sides[s] = member{}
		f := Finding{Side: s, Cause: "undecided", Text: text}
		c.hands.Report(Event{Kind: Shot, Side: s, Fault: f})
		c.hands.Fence(s, text)
	}
	if !named {
		c.adoption = nil
		c.over(Event{Kind: Lost, Text: text})
	}
	return named
}

// adoptGone is called when a module has gone before it was adopted.
func (c *Core) adoptGone(s Side) {
	if c.sides[s.Other()].place != adopting {
		c.adoption = nil
		c.over(Event{Kind: Lost, Side: s, Text: "no CPU module is left"})
		return
	}
	c.adoptStep()
}

// Adopted tells that the modules of a core that has died run on under this one, Side among
// them.
const Adopted EventKind = 64
