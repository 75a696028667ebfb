package lockstep

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The simulated chipset's death: from some call of its hands on, nothing that it does has an
// effect. The last commands may not have reached their modules, of one less than of the other;
// what the modules send is kept, and its successor hears it.

// simHands are the hands of one core.
type simHands struct {
	*simWorld
	dead bool
}

// simDeaths is what a world knows of deaths.
type simDeaths struct {
	dying     int         // calls of the hands until the chipset dies; 0: it does not
	died      int         // times
	between   bool        // it is dead, and has no successor yet
	journal   [2]*simSlot // those in lockstep
	heirs     []Side      // that are being adopted
	owesEqual bool
	adoptions int
	wronged   int // modules shot that no fault has struck, before anything was undecided
}

// gone says whether the chipset is dead. The last call is the one that tells of the guest's end.
func (h *simHands) gone(last bool) bool {
	w := h.simWorld
	if h.dead || w.dying == 0 || !w.mayDie(last) {
		return h.dead
	}
	if w.dying--; w.dying == 0 {
		w.die()
	}
	return h.dead
}

func (w *simWorld) die() {
	w.dying, w.hands.dead = 0, true
	w.logf("☠ the chipset dies")
}

// mayDie says whether there is a successor that takes the machine over. While modules are at
// odds there is none.
func (w *simWorld) mayDie(last bool) bool {
	c := w.core
	if c != nil && (c.trial != nil || c.phase == Judging || c.phase == Booting && c.adoption == nil || c.phase == Over && !last) {
		return false
	}
	return slices.ContainsFunc(w.journal[:], func(slot *simSlot) bool { return slot != nil && len(slot.sent) > 0 })
}

func (h *simHands) Send(s Side, c *Command) {
	if !h.gone(false) {
		h.simWorld.Send(s, c)
	}
}

func (h *simHands) Release(r *Record) {
	if !h.gone(false) {
		h.simWorld.Release(r)
	}
}

func (h *simHands) Copy(from, to Side, pages []uint32) {
	if !h.gone(false) {
		h.simWorld.Copy(from, to, pages)
	}
}

func (h *simHands) Fence(s Side, why string) {
	if !h.gone(false) {
		h.simWorld.Fence(s, why)
	}
}

func (h *simHands) Referee(from Side, state []byte, log []Command) {
	if !h.gone(false) {
		h.simWorld.Referee(from, state, log)
	}
}

func (h *simHands) Report(e Event) {
	if !h.gone(e.Kind == GuestReset) {
		h.simWorld.Report(e)
	}
}

// doom has the chipset die soon, in the midst of what it does or at rest.
func (w *simWorld) doom() {
	if w.died >= len(w.plan.deaths) {
		return
	}
	if w.hands.dead || w.dying > 0 || !w.mayDie(false) {
		w.after(300*time.Microsecond, w.doom)
		return
	}
	w.dying = 1 + w.rng.IntN(40)
	w.after(w.some(5*time.Millisecond), func() {
		if w.dying > 0 && !w.hands.dead && w.mayDie(false) {
			w.die()
		}
	})
}

// succeed has a successor come some time after a death.
func (w *simWorld) succeed() {
	if !w.hands.dead || w.between {
		return
	}
	w.between = true
	w.died++
	for _, slot := range w.journal {
		if slot == nil || w.rng.IntN(2) == 0 {
			continue
		}
		kept := w.rng.IntN(len(slot.commands) + 1)
		if slot.busy {
			kept = max(kept, 1)
		}
		for len(slot.commands) > kept && len(slot.sent) > 1 {
			c := slot.commands[len(slot.commands)-1]
			slot.commands = slot.commands[:len(slot.commands)-1]
			if asks(&c) {
				slot.asked--
			}
			if ofStream(&c) {
				slot.sent = slot.sent[:len(slot.sent)-1]
			}
		}
	}
	w.after(w.some(20*time.Millisecond), w.adopt)
}

// even gives both modules the same stream.
func (w *simWorld) even() (number uint64) {
	var last [2]uint64
	for _, s := range w.heirs {
		sent := w.slots[s].sent
		last[s] = sent[len(sent)-1].Number
		number = max(number, last[s])
	}
	for _, s := range w.heirs {
		if last[s] == number {
			continue
		}
		var rest []Command
		from := w.slots[s.Other()].sent
		for i := len(from) - 1; from[i].Number > last[s]; i-- {
			rest = append(rest, from[i])
		}
		slices.Reverse(rest)
		w.logf("%v gets the stream from %d to %d", s, last[s]+1, number)
		for i := range rest {
			w.slots[s].sent = append(w.slots[s].sent, rest[i])
			w.give(s, w.slots[s], &rest[i])
		}
	}
	return number
}

// adopt makes the successor.
func (w *simWorld) adopt() {
	w.heirs = nil
	for s := range Side(2) {
		if slot := w.journal[s]; slot != nil && len(slot.sent) > 0 {
			w.heirs = append(w.heirs, s)
			continue
		}
		w.slots[s], w.journal[s], w.struck[s] = nil, nil, 0
		w.bring(s)
	}
	number := w.even()
	w.stream = number
	w.todo = slices.DeleteFunc(w.todo, func(c Command) bool { return c.Number > number })
	w.goldenTo(number)
	if !w.tainted {
		// What was not let out is lost, or emitted again by a machine that has no answer yet.
		w.expect = w.expect[:w.passed]
		w.golden.emitAgain()
	}
	w.logf("a successor takes %v over at %d; %d requests are not answered", w.heirs, number, len(w.expect)-w.passed)
	for i := range w.plan.faults {
		if f := &w.plan.faults[i]; f.heir && !f.fired && slices.Contains(w.heirs, f.side) {
			w.spoil(f.side, w.slots[f.side], &f.simFault)
			f.may = func() bool { return w.core == nil || w.core.Duplex() || len(w.core.adopting()) == 2 }
		}
	}
	w.hands, w.core = &simHands{simWorld: w}, nil
	w.between, w.owesEqual, w.wakeAt = false, false, -1
	if w.died < len(w.plan.deaths) && w.rng.IntN(3) == 0 {
		w.dying = 1 + w.rng.IntN(16)
	}
	hands := w.hands
	w.core = Adopt(w.plan.cfg, hands, w.heirs, number)
	for _, s := range w.heirs {
		slot := w.slots[s]
		slot.heard = w.now
		if slot.gone != "" {
			w.mourn(s, slot)
		}
		w.after(0, func() {
			for len(slot.kept) > 0 && w.slots[s] == slot && !w.hands.dead {
				r := slot.kept[0]
				slot.kept = slot.kept[1:]
				w.hear(s, slot, &r)
			}
		})
	}
}

// adopted checks that those that were in lockstep are, and stand where they should.
func (w *simWorld) adopted() {
	w.adoptions++
	w.owesEqual = w.core.Duplex()
	for _, s := range w.heirs {
		slot := w.slots[s]
		switch {
		case slot == nil:
		case !w.core.Within(s):
			w.failf("%v was in lockstep when the chipset died, and has not been adopted", s)
		case w.struck != [2]int{} || w.tainted:
		case !slices.Equal(slot.ram, w.golden.ram) || slot.simState != w.golden.simState:
			w.failf("%v does not stand where the machine does", s)
		}
	}
	seen := !slices.ContainsFunc(w.plan.faults, func(f plannedFault) bool { // what strikes later, or hides
		return f.fired && (f.verb == Save || f.verb == Load || slices.Contains([]ill{flipHidden, wrongDigest, wrongDigests}, f.ill))
	})
	if w.core.Duplex() && seen && !slices.Equal(w.slots[0].ram, w.slots[1].ram) {
		w.failf("both modules are adopted, and their memories differ")
	}
}

// dies draws when the chipset does.
func (p *simPlan) dies(rng *rand.Rand, most int) {
	for range 1 + rng.IntN(most) {
		p.deaths = append(p.deaths, time.Duration(rng.IntN(60))*time.Millisecond)
	}
}

func TestAChipsetThatDies(t *testing.T) {
	died, adoptions, late := 0, 0, 0
	simulate(t, 150, func(p *simPlan, rng *rand.Rand) {
		p.strict = true
		p.cfg.Prove = rng.IntN(4) > 0
		p.dies(rng, 5)
		if rng.IntN(4) == 0 {
			p.resetAt = uint64(200 + rng.IntN(1000))
		}
		for range rng.IntN(3) {
			p.leaves = append(p.leaves, time.Duration(rng.IntN(60))*time.Millisecond)
		}
		for range rng.IntN(3) {
			p.splits = append(p.splits, time.Duration(rng.IntN(60))*time.Millisecond)
		}
	}, func(w *simWorld) {
		ends(w)
		died += w.died
		adoptions += w.adoptions
		if w.died > w.adoptions {
			late++
		}
	})
	t.Logf("the chipset died %d times, %d times its machine was taken over; %d times it had died before it had done so", died, adoptions, late)
}

// A fault after an adoption is found as ever.
func TestAModuleThatFailsUnderASuccessor(t *testing.T) {
	var c census
	simulate(t, 80, func(p *simPlan, rng *rand.Rand) {
		p.strict = true
		p.dies(rng, 3)
		for i := range p.deaths {
			p.deaths[i] /= 3
		}
		f := p.draw(rng, Side(rng.IntN(2)), streamVerbs...)
		f.late, f.skip = true, f.skip/2
	}, func(w *simWorld) {
		ends(w)
		c.count(w)
		if f := &w.plan.faults[0]; f.fired && w.shots[f.side] == 0 && f.ill.shows() {
			w.failf("%v was never found", f)
		}
	})
	c.log(t)
}

// heirVerbs are what a module does while it is being adopted.
var heirVerbs = []Verb{Apply, Run, Epoch, Patrol, Emit, Digest, Digest, Save, Load}

// drawHeir draws a fault of a module that is being adopted.
func (p *simPlan) drawHeir(rng *rand.Rand, side Side) *plannedFault {
	f := p.draw(rng, side, heirVerbs...)
	f.heir, f.skip = true, rng.IntN(3)/2
	return f
}

// One module that is damaged while it is being adopted may leave nothing to decide by. But what
// it does that no module in order does is its own fault.
func TestAModuleThatFailsWhileItIsAdopted(t *testing.T) {
	var c census
	simulate(t, 120, func(p *simPlan, rng *rand.Rand) {
		p.dies(rng, 3)
		if f := p.drawHeir(rng, Side(rng.IntN(2))); rng.IntN(6) == 0 {
			f.ill, f.verb = flipIdle, []Verb{Patrol, Emit, Digest}[rng.IntN(3)]
		}
	}, func(w *simWorld) {
		c.count(w)
		f := &w.plan.faults[0]
		switch {
		case w.wronged > 0:
			w.failf("a module was shot, and nothing was wrong with it: %v", f)
		case w.lost && w.kinds[Undecided] == 0:
			w.failf("the machine is lost with %v in one module, and something could have been decided", f)
		case !w.ended && !w.lost:
			w.failf("neither has the guest come to its end nor the machine to its own")
		case w.lost && (slices.Contains([]ill{die, hang, swallow, wrongNumber, wrongKind, flipUndo, flipUndoState}, f.ill) || f.ill == wrongLoad && w.died == 1):
			w.failf("the machine is lost with %v in one module", f)
		}
	})
	c.log(t)
	for _, k := range []EventKind{Undecided, Shot} {
		if c.events[k] == 0 {
			t.Errorf("%s was never seen", eventNames[k])
		}
	}
}

// With both damaged nothing wrong leaves, unless the configuration says whom to believe.
func TestBothModulesFailWhileTheyAreAdopted(t *testing.T) {
	var c census
	simulate(t, 80, func(p *simPlan, rng *rand.Rand) {
		p.cfg.Undecided = []Policy{"", UndecidedCPU0, UndecidedCPU1}[rng.IntN(3)]
		p.dies(rng, 2)
		p.faults = make([]plannedFault, 0, 2)
		f := p.drawHeir(rng, 0)
		if g := p.drawHeir(rng, 1); f.ill == g.ill {
			g.ill = flipState
		}
	}, func(w *simWorld) {
		if !w.ended && !w.lost {
			w.failf("neither has the guest come to its end nor the machine to its own")
		}
		c.count(w)
	})
	c.log(t)
}
