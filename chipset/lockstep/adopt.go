package lockstep

import "fmt"

// Adoption is how a core takes over modules whose chipset has died. It knows of them that they
// were in lockstep and have been sent the same stream, up to a number. What the predecessor had
// heard of them and what it had let out is gone; but the machine itself knows which of its
// requests have not been answered. So:
//
//   - Both are asked to emit those again. All that they had sent before comes first, and is
//     dropped.
//   - All of their memory is digested: that is the table of what is agreed.
//   - A new epoch begins. From there on all is as ever.
//
// Where two modules differ here nobody can tell who is wrong: what could, died with the
// predecessor. Console output and frames that had not been let out are lost.

// adoption is one of them.
type adoption struct {
	emitted  [2]*answer
	number   [2]uint64 // of the request to emit
	outputs  [2][]Record
	digested [2]int
	tables   [2][]uint64
	ending   bool
}

// Adopt makes the core of a machine that runs on these sides, at the end of the stream up to
// number.
func Adopt(cfg Config, hands Hands, sides []Side, number uint64) *Core {
	c := New(cfg, hands, make([]uint64, cfg.Pages))
	// No module has been told of more epochs than commands.
	c.number, c.epoch, c.logEpoch = number, number+1, number+1
	c.adoption = &adoption{}
	for _, s := range sides {
		c.sides[s] = member{place: adopting}
	}
	for _, s := range sides {
		c.request(s, Command{Verb: Emit})
		c.adoption.number[s] = requestBit | c.requests
	}
	return c
}

// adoptRecord takes what a module says that is being adopted.
func (c *Core) adoptRecord(s Side, r *Record) {
	a, m := c.adoption, &c.sides[s]
	switch {
	case r.Kind == Output && r.Number == a.number[s]:
		a.outputs[s] = append(a.outputs[s], *r)
	case r.Kind == Ran && r.Number == a.number[s] && a.emitted[s] == nil:
		m.requests = m.requests[1:]
		rec := *r
		rec.Number = 0 // it differs between the sides
		for i := range a.outputs[s] {
			a.outputs[s][i].Number = 0
		}
		ans := &answer{record: rec, outputs: a.outputs[s]}
		ans.sum = ans.digest()
		a.emitted[s] = ans
		c.adoptStep()
	case r.Kind == Patrolled && r.Number&requestBit != 0 && a.emitted[s] != nil:
		m.requests = m.requests[min(1, len(m.requests)):]
		want := min(c.lookPages(), len(c.table)-a.digested[s])
		if len(r.Pages) != want || want == 0 || int(r.Pages[0].Index) != a.digested[s] || int(r.Pages[want-1].Index) != a.digested[s]+want-1 {
			c.condemn(s, Finding{Cause: "protocol", Text: "it was asked for digests of its memory and gave others"})
			return
		}
		for _, p := range r.Pages {
			a.tables[s] = append(a.tables[s], p.Digest)
		}
		if a.digested[s] += want; a.digested[s] < len(c.table) {
			c.adoptDigest(s)
			return
		}
		c.adoptStep()
	}
}

func (c *Core) adoptDigest(s Side) {
	from := c.adoption.digested[s]
	c.request(s, Command{Verb: Digest, A: uint64(from), B: uint64(min(c.lookPages(), len(c.table)-from))})
}

// adoptStep goes on when all sides have got so far.
func (c *Core) adoptStep() {
	a := c.adoption
	var sides []Side
	emitted, digested := true, true
	for s := range Side(2) {
		if c.sides[s].place == adopting {
			sides = append(sides, s)
			emitted = emitted && a.emitted[s] != nil
			digested = digested && a.digested[s] == len(c.table)
		}
	}
	switch {
	case len(sides) == 0 || !emitted:
	case !digested:
		for _, s := range sides {
			if a.digested[s] == 0 && len(c.sides[s].requests) == 0 {
				c.adoptDigest(s)
			}
		}
	default:
		c.adopted(sides)
	}
}

// adopted goes on with the modules, if they agree.
func (c *Core) adopted(sides []Side) {
	a := c.adoption
	if len(sides) == 2 {
		text := ""
		if a.emitted[0].sum != a.emitted[1].sum {
			text = "after the chipset's death the modules are not in the same state"
		}
		for i := range c.table {
			if text == "" && a.tables[0][i] != a.tables[1][i] {
				text = fmt.Sprintf("after the chipset's death page %d of the modules' memories differs", i)
			}
		}
		if text != "" && !c.adoptUndecided(text) {
			return
		}
	}
	keep := sides[0]
	if c.sides[keep].place != adopting {
		keep = keep.Other()
	}
	c.table = a.tables[keep]
	c.last = a.emitted[keep].record
	c.phase = Running
	for s := range c.sides {
		if c.sides[s].place == adopting {
			c.sides[s] = member{place: within}
		}
	}
	for i := range a.emitted[keep].outputs {
		c.stats.Outputs++
		c.hands.Release(&a.emitted[keep].outputs[i])
	}
	a.ending = true
	c.endEpoch()
}

// adoptUndecided follows the configuration where two modules differ; false: the machine is over.
func (c *Core) adoptUndecided(text string) bool {
	c.hands.Report(Event{Kind: Undecided, Text: text})
	keep, named := map[Policy]Side{UndecidedCPU0: 0, UndecidedCPU1: 1}[c.cfg.Undecided]
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

// adoptEnded is called when an epoch's end is agreed: an adoption is over with the first.
func (c *Core) adoptEnded() {
	if a := c.adoption; a == nil || !a.ending {
		return
	}
	c.adoption = nil
	s := Side(0)
	if c.sides[s].place != within {
		s = 1
	}
	c.hands.Report(Event{Kind: Adopted, Side: s})
	if c.Duplex() {
		c.hands.Report(Event{Kind: Equal, Side: 1})
	}
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
