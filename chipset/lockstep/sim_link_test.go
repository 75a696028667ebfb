package lockstep

import (
	"slices"
	"time"
)

// The simulated modules' places, and their links with the core.

// start puts a new module into a place.
func (w *simWorld) start(s Side) *simSlot {
	m := newSimMachine(w.plan.pages, w.plan.hot, w.plan.resetAt)
	slot := &simSlot{simModule: newSimModule(s.String(), m, w.plan.full), heard: w.now, joinedAt: w.now}
	slot.send = func(r Record) { w.deliver(s, slot, r) }
	w.slots[s] = slot
	return slot
}

// deliver brings a record to the core some time later, behind those before it.
func (w *simWorld) deliver(s Side, slot *simSlot, r Record) {
	slot.sendAt = max(slot.sendAt, w.now+w.some(500*time.Microsecond))
	w.after(slot.sendAt-w.now, func() {
		if w.slots[s] != slot {
			return
		}
		if w.hands.dead || len(slot.kept) > 0 {
			slot.kept = append(slot.kept, r)
			return
		}
		w.hear(s, slot, &r)
	})
}

// hear gives the core a record.
func (w *simWorld) hear(s Side, slot *simSlot, r *Record) {
	if r.Kind != Output && r.Kind != Injected {
		slot.asked--
		slot.heard = w.now
	}
	w.core.Record(s, r)
}

// work has a module do its next command, some time later.
func (w *simWorld) work(s Side, slot *simSlot) {
	if slot.busy || len(slot.commands) == 0 {
		return
	}
	slot.busy = true
	took := w.some(200 * time.Microsecond)
	if slot.commands[0].Verb == Apply {
		took = 0
	}
	w.after(took, func() {
		slot.busy = false
		if w.slots[s] != slot || slot.gone != "" || slot.hung {
			return
		}
		c := slot.commands[0]
		slot.commands = slot.commands[1:]
		if ofStream(&c) {
			w.goldenTo(c.Number)
		}
		slot.do(&c)
		if slot.gone != "" {
			w.logf("%v ends: %s", s, slot.gone)
			w.mourn(s, slot)
		}
		w.work(s, slot)
	})
}

// mourn reports a module that has died, some time later.
func (w *simWorld) mourn(s Side, slot *simSlot) {
	w.after(w.some(time.Millisecond), func() {
		if w.slots[s] == slot {
			w.core.Gone(s, "died", slot.gone)
		}
	})
}

// ofStream says whether a command is one that both modules get.
func ofStream(c *Command) bool { return c.Verb <= Patrol && c.Verb != Commit }

// goldenTo has the golden machine do the stream up to a command.
func (w *simWorld) goldenTo(number uint64) {
	for len(w.todo) > 0 && w.todo[0].Number <= number {
		c := w.todo[0]
		w.todo = w.todo[1:]
		w.golden.do(&c)
		if w.golden.gone != "" && !w.tainted {
			w.failf("command %d (%v) is one that no machine can take: %s", c.Number, c.Verb, w.golden.gone)
		}
	}
}

// watch reports a module that owes an answer.
func (w *simWorld) watch() {
	for s, slot := range w.slots {
		if slot != nil && !w.hands.dead && slot.asked > 0 && !slot.busy && w.now-slot.heard > hangs && slot.gone == "" {
			w.logf("cpu%d does not answer", s)
			w.core.Gone(Side(s), "hung", "it does not answer")
		}
	}
	w.after(hangs/4, w.watch)
}

// give puts a command into a module's queue.
func (w *simWorld) give(s Side, slot *simSlot, c *Command) {
	if c.Verb != Run && c.Verb != Apply && c.Verb != Patrol && c.Verb != Commit {
		w.logf("%v ◀ %v %d", s, c.Verb, c.Number&^requestBit)
	}
	if asks(c) {
		if slot.asked == 0 {
			slot.heard = w.now
		}
		slot.asked++
	}
	slot.commands = append(slot.commands, *c)
	w.work(s, slot)
}

// asks says whether a command is answered.
func asks(c *Command) bool { return !slices.Contains([]Verb{Apply, Commit, Fault, End}, c.Verb) }
