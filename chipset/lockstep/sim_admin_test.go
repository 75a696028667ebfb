package lockstep

import (
	"time"

	"ft/chipset/module"
)

// What people do to a simulated machine, and the guest's users.

// bring brings a side in, again and again until it comes.
func (w *simWorld) bring(s Side) {
	w.after(time.Millisecond+w.some(20*time.Millisecond), func() {
		if !w.hands.dead && (w.core.Phase() == Over || w.core.Within(s) || w.core.Joining(s)) {
			return
		}
		if w.hands.dead || w.core.MayJoin(s) != nil {
			w.bring(s)
			return
		}
		slot := w.start(s)
		w.joins++
		for i := range w.plan.faults {
			if f := &w.plan.faults[i]; f.join && f.side == s && !f.fired && w.joins > 1 {
				w.spoil(s, slot, &f.simFault)
			}
		}
		if err := w.core.Join(s); err != nil {
			w.failf("join %v: %v", s, err)
		}
	})
}

// spoil makes a fault a module's.
func (w *simWorld) spoil(s Side, slot *simSlot, f *simFault) {
	f.tell = func(f *simFault) {
		w.struck[s]++
		w.lastStrike = w.now
		w.logf("  ⚡ %v strikes %v", f, s)
		if f.ill == hang {
			slot.asked = max(slot.asked, 1)
		}
	}
	// What befalls a module that runs alone is beyond what can be found.
	f.may = func() bool { return w.core.Duplex() || w.core.Joining(s) }
	slot.faults = append(slot.faults, f)
}

// admin does what people do in the meantime.
func (w *simWorld) admin() {
	for i := range w.plan.faults {
		f := &w.plan.faults[i]
		if f.join || f.third || f.heir {
			continue
		}
		var arm func()
		arm = func() {
			if w.hands.dead || !w.core.Duplex() || f.late && len(w.plan.deaths) > w.died {
				w.after(time.Millisecond, arm)
				return
			}
			w.spoil(f.side, w.slots[f.side], &f.simFault)
		}
		w.after(f.at, arm)
	}
	for _, at := range w.plan.leaves {
		w.after(at, func() {
			s := Side(w.rng.IntN(2))
			if !w.hands.dead && w.core.Phase() == Running && (w.core.Duplex() || w.core.Joining(s)) && !(w.plan.strict && w.struck[s.Other()] > 0) {
				w.logf("%v is taken out", s)
				w.alone(s.Other())
				w.struck[s] = 0
				was := w.core.Within(s)
				w.core.Leave(s, "an admin wants it out")
				if was {
					w.bring(s)
				}
			}
		})
	}
	for _, at := range w.plan.splits {
		w.after(at, func() {
			s := Side(w.rng.IntN(2))
			if !w.hands.dead && w.core.Duplex() && w.core.Phase() == Running {
				w.logf("%v is split off", s)
				w.alone(s.Other())
				if err := w.core.SplitOff(s, false); err != nil {
					w.failf("split %v off: %v", s, err)
				}
			}
		})
	}
	for _, at := range w.plan.deaths {
		w.after(at, w.doom)
	}
	var type_, patrol, frame func()
	type_ = func() {
		if n := w.core.Room(); n > 0 {
			w.core.Put(&module.Input{Kind: module.InputConsole, Data: []byte("abcdefghijklmnop")[:1+w.rng.IntN(min(n, 16))]})
		}
		w.after(w.some(5*time.Millisecond), type_)
	}
	frame = func() {
		w.core.Put(&module.Input{Kind: module.InputFrame, Slot: module.NICSlot, ID: w.rng.Uint64N(1 << 40)})
		w.after(w.some(3*time.Millisecond), frame)
	}
	patrol = func() {
		w.core.Patrol()
		w.after(500*time.Microsecond, patrol)
	}
	if w.plan.cfg.Hold {
		var resume func()
		resume = func() {
			w.core.Resume(w.core.Holds())
			w.after(w.some(3*time.Millisecond)+time.Microsecond, resume)
		}
		w.after(0, resume)
	}
	w.after(0, type_)
	w.after(0, frame)
	w.after(0, patrol)
	w.after(0, w.watch)
}
