package lockstep

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// seeds are those to try: SEEDS is how many, or SEED one of them.
func seeds(t *testing.T, usual int) (list []uint64) {
	if s := os.Getenv("SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return []uint64{n}
	}
	if s := os.Getenv("SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		usual = n
	}
	for i := range usual {
		list = append(list, uint64(i))
	}
	return list
}

// plan draws a run from a seed, without faults.
func plan(seed uint64) (*simPlan, *rand.Rand) {
	rng := rand.New(rand.NewPCG(seed, 5))
	p := &simPlan{
		seed: seed, pages: 8 + rng.IntN(200), resetAt: uint64(2000 + rng.IntN(6000)), perPage: time.Duration(500+rng.IntN(1500)) * time.Nanosecond,
		cfg: Config{
			Quantum: uint64(10 + rng.IntN(60)), Window: 1 + rng.IntN(5), EpochTime: time.Duration(500+rng.IntN(3000)) * time.Microsecond,
			BlackoutMax: time.Duration(2500+rng.IntN(10000)) * time.Microsecond, PatrolPages: 1 + rng.IntN(4), Throttle: rng.IntN(2) == 0,
		},
	}
	p.cfg.Prove, p.cfg.Hold = rng.IntN(3) == 0, rng.IntN(5) == 0
	p.hot = 1 + rng.IntN(min(p.pages, 20))
	p.full = p.hot + 2 + rng.IntN(20)
	return p, rng
}

// simulate runs plans, and shows what happened in the first that fails.
func simulate(t *testing.T, usual int, draw func(p *simPlan, rng *rand.Rand), check func(w *simWorld)) {
	t.Helper()
	for _, seed := range seeds(t, usual) {
		p, rng := plan(seed)
		draw(p, rng)
		w := newSimWorld(p)
		err := w.run()
		if err == nil && check != nil {
			check(w)
			err = w.err
		}
		if err != nil {
			t.Fatalf("seed %d: %v\nplan: %+v\n%s", seed, err, *p, w.transcript())
		}
		if testing.Verbose() && os.Getenv("SEED") != "" {
			t.Logf("%+v\n%s", *p, w.transcript())
		}
	}
}

func TestMachinesWithoutFaultsRunToTheirEnd(t *testing.T) {
	equal := 0
	simulate(t, 40, func(p *simPlan, rng *rand.Rand) {
		p.strict = true
		for range rng.IntN(4) {
			p.leaves = append(p.leaves, time.Duration(rng.IntN(200))*time.Millisecond)
		}
		for range rng.IntN(3) {
			p.splits = append(p.splits, time.Duration(rng.IntN(200))*time.Millisecond)
		}
	}, func(w *simWorld) {
		if !w.ended {
			w.failf("the guest has not asked for its reset")
		}
		equal += w.equalSeen
	})
	if equal == 0 {
		t.Error("no module was ever proved equal")
	}
}

// draw draws a fault of a module in duplex that strikes at one of some commands.
func (p *simPlan) draw(rng *rand.Rand, side Side, verbs ...Verb) *plannedFault {
	f := plannedFault{at: time.Duration(rng.IntN(30)) * time.Millisecond, side: side}
	f.ill, f.seed = ill(rng.IntN(int(illEnd))), rng.Uint64()
	f.verb = verbs[rng.IntN(len(verbs))]
	switch f.verb {
	case Apply, Run:
		f.skip = rng.IntN(20)
	case Epoch, Patrol:
		f.skip = rng.IntN(4)
	}
	if special, ok := map[Verb]ill{Test: failTest, Load: wrongLoad, Save: wrongSave}[f.verb]; ok && rng.IntN(2) == 0 {
		f.ill = special
	}
	p.faults = append(p.faults, f)
	return &p.faults[len(p.faults)-1]
}

// drawReferee draws a fault of a referee. What happens to writes or digests could come out just
// as in a module, and two faults that agree are beyond what can be told.
func (p *simPlan) drawReferee(rng *rand.Rand) {
	f := p.draw(rng, 0, Load, Digest, Run, Epoch)
	f.third = true
	f.ill = []ill{flipState, stuck, wrongOutput, missingOutput, wrongNumber, swallow, wrongLoad, die, hang}[rng.IntN(9)]
}

// census counts what happened to faults, to see that tests try what they mean to.
type census struct {
	struck, shot [illEnd]int
	events       map[EventKind]int
	referees     int
}

func (c *census) count(w *simWorld) {
	if c.events == nil {
		c.events = map[EventKind]int{}
	}
	for i := range w.plan.faults {
		if f := &w.plan.faults[i]; f.fired {
			c.struck[f.ill]++
			if w.shots[f.side] > 0 {
				c.shot[f.ill]++
			}
		}
	}
	for k, n := range w.kinds {
		c.events[k] += n
	}
	c.referees += w.referees
}

func (c *census) log(t *testing.T) {
	for i := range illEnd {
		t.Logf("%-22v struck %4d times, shot %4d", i, c.struck[i], c.shot[i])
	}
	for k := range Adopted + 1 {
		if c.events[k] > 0 {
			t.Logf("%-22s %d", eventNames[k], c.events[k])
		}
	}
	t.Logf("%-22s %d", "referees", c.referees)
}

// ends checks that the guest has come to its end.
func ends(w *simWorld) {
	if !w.ended {
		w.failf("the guest has not come to its end")
	}
}

// streamVerbs are those at which a fault may begin.
var streamVerbs = []Verb{Apply, Run, Run, Run, Epoch, Patrol}

func TestOneFaultIsNamedAndTheMachineGoesOn(t *testing.T) {
	var c census
	simulate(t, 120, func(p *simPlan, rng *rand.Rand) {
		p.strict = true
		p.draw(rng, Side(rng.IntN(2)), streamVerbs...)
	}, func(w *simWorld) {
		ends(w)
		c.count(w)
		if f := &w.plan.faults[0]; f.fired && w.shots[f.side] == 0 && f.ill.shows() {
			w.failf("%v was never found", f)
		}
	})
	c.log(t)
}

// A module that is not in order may do whatever it likes, and again while it is judged: its
// partner is never blamed for it.
func TestAModuleThatFailsInManyWays(t *testing.T) {
	var c census
	simulate(t, 120, func(p *simPlan, rng *rand.Rand) {
		p.strict = true
		side := Side(rng.IntN(2))
		p.draw(rng, side, streamVerbs...)
		for range 1 + rng.IntN(3) {
			f := p.draw(rng, side, Back, Save, Digest, Run, Epoch, Apply)
			f.at = p.faults[0].at
		}
		if rng.IntN(3) == 0 {
			p.drawReferee(rng)
		}
	}, func(w *simWorld) {
		ends(w)
		c.count(w)
	})
	c.log(t)
}

// lasting are faults after which a module repeats what is wrong.
var lasting = []ill{stuck, wrongOutputs, wrongDigests, flipIdle, flipHidden}

// What one module repeats is for a referee to judge; meanwhile it fails in other ways.
func TestAModuleThatRepeatsItselfAndFails(t *testing.T) {
	var c census
	simulate(t, 120, func(p *simPlan, rng *rand.Rand) {
		p.strict = true
		p.faults = make([]plannedFault, 0, 3)
		first := p.draw(rng, Side(rng.IntN(2)), Run)
		first.ill = lasting[rng.IntN(len(lasting))]
		for range 2 {
			f := p.draw(rng, first.side, Back, Save, Save, Digest, Run)
			f.at, f.after = first.at, &first.simFault
		}
	}, func(w *simWorld) {
		ends(w)
		c.count(w)
	})
	c.log(t)
}

// When the partner of a module that repeats what is wrong dies during the trial, nobody is left
// to contradict it but a referee.
func TestAPartnerThatDiesDuringTheTrial(t *testing.T) {
	var c census
	simulate(t, 80, func(p *simPlan, rng *rand.Rand) {
		p.faults = make([]plannedFault, 0, 2)
		first := p.draw(rng, Side(rng.IntN(2)), Run)
		first.ill = lasting[rng.IntN(len(lasting))]
		f := p.draw(rng, first.side.Other(), Back, Digest, Run, Run, Run)
		f.ill, f.at, f.after, f.skip = []ill{die, hang}[rng.IntN(2)], first.at, &first.simFault, rng.IntN(8)
	}, func(w *simWorld) {
		if !w.ended && !w.lost {
			w.failf("neither has the guest come to its end nor the machine to its own")
		}
		c.count(w)
	})
	c.log(t)
}

// The guest may end at any moment of a join.
func TestAMachineThatEndsDuringAJoin(t *testing.T) {
	simulate(t, 300, func(p *simPlan, rng *rand.Rand) {
		p.strict = true
		p.resetAt = uint64(200 + rng.IntN(1200))
		p.cfg.Prove = rng.IntN(4) > 0
	}, ends)
}

// A guest that rests for days is patrolled all the time, and nothing grows by that.
func TestAGuestThatRests(t *testing.T) {
	h := &script{}
	if err := h.do("boot"); err != nil {
		t.Fatal(err)
	}
	h.core.Go(false)
	for _, line := range []string{"both ran idle", "both patrolled"} {
		if err := h.do(line); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 {
		h.now += 10 * time.Millisecond
		h.core.Patrol()
		if err := h.settle(); err != nil {
			t.Fatal(err)
		}
	}
	if got := h.core.Stats(); got.Quanta > 100 || got.Passes < 1000 {
		t.Fatalf("the guest has not rested: %+v", got)
	}
	if n := len(h.core.log) + len(h.core.history); n > 100 {
		t.Errorf("%d commands and answers are kept", n)
	}
}

func TestAModuleThatFailsWhileItIsBroughtIn(t *testing.T) {
	var c census
	failed := 0
	simulate(t, 60, func(p *simPlan, rng *rand.Rand) {
		p.strict = true
		side := Side(rng.IntN(2))
		p.leaves = []time.Duration{time.Duration(rng.IntN(40)) * time.Millisecond, time.Duration(rng.IntN(80)) * time.Millisecond}
		for range 1 + rng.IntN(2) {
			p.draw(rng, side, Test, Test, Load, Load, Run, Epoch, Patrol).join = true
		}
	}, func(w *simWorld) {
		ends(w)
		c.count(w)
		failed += w.kinds[JoinFailed]
	})
	c.log(t)
	if failed == 0 {
		t.Error("no join has failed")
	}
}

// With faults in both modules nothing wrong leaves, and the machine comes to an end, one or
// the other.
func TestFaultsInBothModules(t *testing.T) {
	var c census
	simulate(t, 120, func(p *simPlan, rng *rand.Rand) {
		p.cfg.Undecided = []Policy{"", "", UndecidedCPU0, UndecidedCPU1}[rng.IntN(4)]
		at := time.Duration(rng.IntN(30)) * time.Millisecond
		for i := range 2 + rng.IntN(3) {
			f := p.draw(rng, Side(i%2), Apply, Run, Run, Epoch, Patrol, Back, Save, Digest)
			f.at = at
			f.skip /= 4
			for _, g := range p.faults[:i] {
				if f.ill == g.ill && f.side != g.side {
					f.ill = flipState // two faults that agree are beyond what can be told
				}
			}
		}
		if rng.IntN(3) == 0 {
			p.drawReferee(rng)
		}
	}, func(w *simWorld) {
		if !w.ended && !w.lost {
			w.failf("neither has the guest come to its end nor the machine to its own")
		}
		c.count(w)
	})
	c.log(t)
	for _, k := range []EventKind{Transient, Undecided, Lost, Shot} {
		if c.events[k] == 0 {
			t.Errorf("%s was never seen", eventNames[k])
		}
	}
}
