package lockstep

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"ft/chipset/module"
)

// What modules answer to the stream, and how it is compared and taken for right.

// answered takes what a side in lockstep has to say to the stream.
func (c *Core) answered(s Side, r *Record) {
	m := &c.sides[s]
	if r.Kind == Output {
		c.takeOutput(s, r)
		return
	}
	a := answer{record: *r, outputs: m.outputs}
	a.sum = a.digest()
	m.outputs, m.outputBytes = nil, 0
	if c.trial != nil {
		c.trialAnswer(s, a)
		return
	}
	if len(m.got) >= len(c.asked) || !c.asked[len(m.got)].answeredBy(r) {
		c.condemn(s, notAsked(r))
		return
	}
	m.got = append(m.got, a)
	c.compare()
}

// takeOutput keeps an output until the answer that it belongs to.
func (c *Core) takeOutput(s Side, r *Record) {
	m := &c.sides[s]
	if m.outputBytes += len(r.Data); m.outputBytes > outputBytesMax || len(m.outputs) >= outputsMax {
		c.condemn(s, Finding{Cause: "protocol", Text: fmt.Sprintf("it has sent %d outputs, %d bytes, and no answer", len(m.outputs), m.outputBytes)})
		return
	}
	m.outputs = append(m.outputs, *r)
}

// digest is a sum over all of an answer.
func (a *answer) digest() uint64 {
	var h xxhash.Digest
	h.Reset()
	var head [8]byte
	add := func(r *Record) {
		data := r.Data
		bare := *r
		bare.Data = nil
		b := bare.Append(nil)
		_, _ = h.Write(b) // never fails
		binary.LittleEndian.PutUint64(head[:], uint64(len(data)))
		_, _ = h.Write(head[:])
		_, _ = h.Write(data)
	}
	for i := range a.outputs {
		add(&a.outputs[i])
	}
	add(&a.record)
	return h.Sum64()
}

// compare takes what all modules in lockstep have answered, as far as they agree.
func (c *Core) compare() {
	for c.phase == Running && len(c.asked) > 0 {
		var front [2]*answer
		n := 0
		for s := range c.sides {
			m := &c.sides[s]
			if m.place != within {
				continue
			}
			if len(m.got) == 0 {
				return
			}
			front[s] = &m.got[0]
			n++
		}
		if n == 0 {
			return
		}
		if n == 2 && front[0].sum != front[1].sum {
			c.accuse(front)
			return
		}
		a := front[0]
		if a == nil {
			a = front[1]
		}
		agreed := *a
		for s := range c.sides {
			if m := &c.sides[s]; m.place == within {
				m.got = m.got[1:]
			}
		}
		c.agree(&agreed, n == 2)
	}
}

// agree takes an answer for right: asked's first.
func (c *Core) agree(a *answer, both bool) {
	asked := c.asked[0]
	c.asked = c.asked[1:]
	c.history = append(c.history, a.sum)
	r := &a.record
	switch asked.verb {
	case Run:
		c.runs--
		c.stats.Quanta++
		if both {
			c.stats.Compared++
		}
		c.observe(r)
		c.last = *r
		for len(c.typed) > 0 && c.typed[0].number <= r.Number {
			c.typed = c.typed[1:]
		}
		for i := range a.outputs {
			c.stats.Outputs++
			c.hands.Release(&a.outputs[i])
		}
		if r.Why != Budget || len(a.outputs) > 0 {
			c.busy = 0
		}
		switch r.Why {
		case Budget:
			c.window = min(c.window*2, c.cfg.Window)
		case Idle, Held:
			c.window = 1
		case Full:
			c.full = c.full || r.Number > c.endAt // else it has been ended already
		case Reset:
			c.reset(Event{Kind: GuestReset, Reset: module.Reset{Kind: resetType(r.ResetKind), Reason: resetReason(r.Reason)}})
		}
	case Epoch:
		c.ends--
		c.epochAgreed(r, both)
	case Patrol:
		c.patrolAgreed(r, asked, both)
	}
}

// epochAgreed takes over the digests of an epoch that has ended: what lies before is not
// needed any more.
func (c *Core) epochAgreed(r *Record, both bool) {
	c.start = r.State
	for _, p := range r.Pages {
		if int(p.Index) < len(c.table) {
			c.table[p.Index] = p.Digest
		}
	}
	c.stats.Epochs++
	c.joinDirty(r.Pages)
	for i := range c.log {
		if c.log[i].Number == r.Number {
			c.logEpoch = c.log[i].A
			rest := append([]Command(nil), c.log[i+1:]...)
			c.log, c.logBytes = rest, 0
			for j := range rest {
				c.logBytes += commandHead + len(rest[j].Data)
			}
			break
		}
	}
	c.history = c.history[:0]
	commit := Command{Verb: Commit, A: c.logEpoch}
	for s := range c.sides {
		if c.sides[s].place == within {
			c.hands.Send(Side(s), &commit)
		}
	}
	c.joinEnded(r)
	if both {
		c.patrolEnded()
	}
}

// Observer is implemented by hands that want to know at which steps inputs were applied.
type Observer interface {
	// Applied tells, behind each quantum that was agreed on, of the inputs before it: the
	// machine had run so many steps. The data are the core's.
	Applied(step uint64, in []byte)
}

// observe tells the observer, if there is one, what was applied before a quantum.
func (c *Core) observe(r *Record) {
	o, ok := c.hands.(Observer)
	if !ok {
		return
	}
	for i := range c.log {
		if cmd := &c.log[i]; cmd.Verb == Apply && cmd.Number > c.last.Number && cmd.Number < r.Number {
			o.Applied(c.last.Steps, cmd.Data)
		}
	}
}
