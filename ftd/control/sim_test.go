package control

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ft/drivers"
)

// The simulator runs the core in boxes where everything goes wrong that can, at any
// moment, and has a ruleBook look at every step. A run is its seed.

var (
	simSeeds = flag.Int("control.seeds", 100_000, "simulated boxes")
	simSeed0 = flag.Uint64("control.seed0", 1, "the first seed")
	simStory = flag.Int("control.story", 100, "lines shown of what happened before a failure")
)

// What happens in a run. Most are short: what two or three things do to one another is found
// there, in as many ways as time allows. Each longEvery-th is long, for what takes long.
const (
	simThings = 150
	simShort  = 20 // and up to as many more
	longEvery = 16
)

// thingsOf is how much happens in the run of a seed.
func thingsOf(seed uint64) int {
	if seed%longEvery == 0 {
		return simThings
	}
	return simShort + int(seed%simShort)
}

func newCore(cfg Config) stepper { return New(cfg) }

// simulate runs one box, and returns what was wrong with the core.
func simulate(pick func(int) int, things int, telling bool, make func(Config) stepper) *simBox {
	b := newSimBox(pick, telling, make)
	for n := 0; n < things && len(b.rules.wrong) == 0; n++ {
		b.happen()
	}
	if len(b.rules.wrong) == 0 {
		b.settle()
		b.rules.settled()
	}
	return b
}

func seeded(seed uint64) func(int) int {
	rnd := rand.New(rand.NewPCG(seed, 0))
	return rnd.IntN
}

// TestSimulator runs the boxes side by side, as many as there are cores.
func TestSimulator(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // a box lives for a millisecond
	start := time.Now()
	end := *simSeed0 + uint64(*simSeeds)
	var next, wrong atomic.Uint64 // seeds: the next to run, the first that was wrong
	next.Store(*simSeed0)
	wrong.Store(end)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for seed := next.Add(1) - 1; seed < wrong.Load(); seed = next.Add(1) - 1 {
				if b := simulate(seeded(seed), thingsOf(seed), false, newCore); len(b.rules.wrong) == 0 {
					continue
				}
				for was := wrong.Load(); seed < was && !wrong.CompareAndSwap(was, seed); was = wrong.Load() {
				}
			}
		}()
	}
	wg.Wait()
	if seed := wrong.Load(); seed < end {
		b := simulate(seeded(seed), thingsOf(seed), true, newCore)
		t.Fatalf("seed %d (-control.seed0=%d -control.seeds=1):\n%s\n\n%s", seed, seed, b.rules.wrong[0], b.transcript(*simStory))
	}
	t.Logf("%d boxes in %v", *simSeeds, time.Since(start).Round(time.Millisecond))
}

// TestSimulatorShrinks runs the same simulation on choices that can be shrunk, so that
// a failure is shown by the shortest story that rapid can find.
func TestSimulatorShrinks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pick := func(n int) int {
			if n <= 1 {
				return 0
			}
			return rapid.IntRange(0, n-1).Draw(t, "pick")
		}
		if b := simulate(pick, 40, true, newCore); len(b.rules.wrong) > 0 {
			t.Fatalf("%s\n\n%s", strings.Join(b.rules.wrong, "\n"), b.transcript(200))
		}
	})
}

// TestSameEventsSameResult: the core is a function of its events.
func TestSameEventsSameResult(t *testing.T) {
	for seed := uint64(1); seed <= 100; seed++ {
		var first []Result
		for run := 0; run < 2; run++ {
			rec := &recorder{}
			simulate(seeded(seed), simThings, false, func(cfg Config) stepper {
				rec.stepper = New(cfg)
				return rec
			})
			if run == 0 {
				first = rec.results
				continue
			}
			if len(first) != len(rec.results) {
				t.Fatalf("seed %d: %d steps, then %d", seed, len(first), len(rec.results))
			}
			for i := range first {
				if !reflect.DeepEqual(first[i], rec.results[i]) {
					t.Fatalf("seed %d, step %d: first %+v, then %+v", seed, i, first[i], rec.results[i])
				}
			}
		}
	}
}

type recorder struct {
	stepper
	results []Result
}

func (r *recorder) Step(now time.Time, ev Event) Result {
	res := r.stepper.Step(now, ev)
	r.results = append(r.results, res)
	return res
}

// variant is a core that breaks a rule: each must be found.
type variant struct {
	*Core
	change func(*Core, Event, *Result)
}

func (v variant) Step(now time.Time, ev Event) Result {
	res := v.Core.Step(now, ev)
	if v.change != nil {
		v.change(v.Core, ev, &res)
	}
	return res
}

func TestSimulatorFindsBrokenRules(t *testing.T) {
	without := func(code string) []rule {
		var kept []rule
		for _, r := range rules {
			if r.code != code {
				kept = append(kept, r)
			}
		}
		return kept
	}
	for _, m := range []struct {
		name string
		find string // in what is found wrong
		make func(Config) stepper
	}{
		{"the last side is given away", "rule 1", func(cfg Config) stepper {
			c := New(cfg)
			c.rules = without("last-side")
			return c
		}},
		{"every detach claims that the risk was named", "rule 1", func(cfg Config) stepper {
			return variant{New(cfg), func(_ *Core, _ Event, r *Result) {
				for i := range r.Actions {
					if r.Actions[i].Kind == ActionDetach {
						r.Actions[i].Reason.AcceptRisk = "last-side"
					}
				}
			}}
		}},
		{"syncing is left out", "rule 2", func(cfg Config) stepper {
			return variant{New(cfg), func(_ *Core, ev Event, r *Result) {
				for i := range r.Entries {
					if r.Entries[i].From == "syncing" {
						r.Entries[i].From = "diagnostics"
					}
					if r.Entries[i].To == "syncing" {
						r.Entries[i].To = "diagnostics"
					}
				}
			}}
		}},
		{"every fault is forgiven", "rule 3", func(cfg Config) stepper {
			cfg.MTBF.Policy = MTBFAlways
			return New(cfg)
		}},
		{"one fault too few is forgiven", "rule 3", func(cfg Config) stepper {
			cfg.MTBF.MinFaults = 2
			return New(cfg)
		}},
		{"targets are forgotten over a restart", "rule 4", func(cfg Config) stepper {
			return forgetful{New(cfg)}
		}},
		{"both sides are brought in at once", "rule 5", func(cfg Config) stepper {
			return variant{New(cfg), func(c *Core, _ Event, r *Result) {
				for _, a := range r.Actions {
					d := c.device(a.Device)
					if a.Kind == ActionAttach && d.sides[1-a.Side].state == 2 && d.sides[1-a.Side].work == idle {
						a.Side = 1 - a.Side
						r.Actions = append(r.Actions, a)
					}
				}
			}}
		}},
		{"defer is ignored", "rule 5", func(cfg Config) stepper {
			cfg.Bringup = BringupAuto
			return New(cfg)
		}},
		{"actions do not wait for the disk", "rule 6", func(cfg Config) stepper {
			return variant{New(cfg), func(_ *Core, _ Event, r *Result) {
				for i := range r.Actions {
					r.Actions[i].After = 0
				}
			}}
		}},
		{"nothing is ever tried again", "in the end", func(cfg Config) stepper {
			return variant{New(cfg), func(_ *Core, _ Event, r *Result) {
				for i := range r.Actions {
					if r.Actions[i].Kind == ActionTimer {
						r.Actions[i].At = time.Time{}
					}
				}
			}}
		}},
		{"what comes in by itself is asked for again and again", "by itself", func(cfg Config) stepper {
			return deaf{New(cfg)}
		}},
		{"drivers are not told what is out", "does not know", func(cfg Config) stepper {
			return variant{New(cfg), func(c *Core, _ Event, r *Result) {
				for i := range r.Actions {
					if a := &r.Actions[i]; a.Kind == ActionDetach && !withDriver(c.device(a.Device).sides[a.Side].state) {
						a.Kind = ActionSnapshot
					}
				}
			}}
		}},
		{"a guest that powers itself off is not heard", "powered it off", func(cfg Config) stepper {
			return altered{New(cfg), func(ev Event) Event {
				if rep, ok := ev.(DriverReport); ok {
					rep.Event.Detail = nil
					return rep
				}
				return ev
			}}
		}},
		{"nothing is known of what a machine stands on", "is down", func(cfg Config) stepper {
			return altered{New(cfg), func(ev Event) Event {
				if dev, ok := ev.(DeviceConfigured); ok {
					dev.Needs = nil
					return dev
				}
				return ev
			}}
		}},
		{"a module goes all at once", "at the same time", func(cfg Config) stepper {
			return variant{New(cfg), func(c *Core, _ Event, r *Result) {
				for _, r := range c.requests {
					if r.down != nil {
						r.down.order = nil
					}
				}
				c.after()
				r.Actions = append(r.Actions, c.out.Actions[len(r.Actions):]...)
			}}
		}},
		{"half of a module is left out", "is left out", func(cfg Config) stepper {
			return variant{New(cfg), func(c *Core, _ Event, _ *Result) {
				for _, r := range c.requests {
					if r.down != nil {
						r.down.was = r.down.set
					}
				}
			}}
		}},
		{"a module without power is not known", "has no power", func(cfg Config) stepper {
			return altered{New(cfg), func(ev Event) Event {
				if _, ok := ev.(ModulePower); ok {
					return Tick{}
				}
				return ev
			}}
		}},
		{"faults that were forgotten count", "rule 6", func(cfg Config) stepper {
			return altered{New(cfg), func(ev Event) Event {
				if c, ok := ev.(ClearMTBF); ok {
					return SetMTBF{Request: c.Request, Target: c.Target}
				}
				return ev
			}}
		}},
		{"what is set for one part holds for nobody", "rule 6", func(cfg Config) stepper {
			return altered{New(cfg), func(ev Event) Event {
				if set, ok := ev.(SetMTBF); ok {
					set.Settings = MTBFSettings{}
					return set
				}
				return ev
			}}
		}},
		{"a policy that was set is not kept", "rule 5", func(cfg Config) stepper {
			return altered{New(cfg), func(ev Event) Event {
				if loaded, ok := ev.(StateLoaded); ok {
					loaded.State.Bringup = ""
					return loaded
				}
				return ev
			}}
		}},
		{"last answers are lost", "nobody has answered", func(cfg Config) stepper {
			return variant{New(cfg), func(_ *Core, _ Event, r *Result) {
				kept := r.Answers[:0]
				for _, a := range r.Answers {
					if a.Status != AnswerFailed {
						kept = append(kept, a)
					}
				}
				r.Answers = kept
			}}
		}},
	} {
		t.Run(m.name, func(t *testing.T) {
			const enough = 1000
			var other []string
			for seed := uint64(1); seed <= enough; seed++ {
				wrong := strings.Join(simulate(seeded(seed), simThings, false, m.make).rules.wrong, "\n")
				if strings.Contains(wrong, m.find) {
					t.Logf("found with seed %d: %s", seed, wrong)
					return
				}
				if wrong != "" {
					other = append(other, fmt.Sprintf("seed %d: %s", seed, wrong))
				}
			}
			t.Fatalf("not found in %d boxes (%q expected); found instead: %s", enough, m.find, strings.Join(other[:min(3, len(other))], "\n"))
		})
	}
}

// altered is a core that gets its events changed.
type altered struct {
	*Core
	change func(Event) Event
}

func (a altered) Step(now time.Time, ev Event) Result { return a.Core.Step(now, a.change(ev)) }

// deaf does not understand that a side waits.
type deaf struct{ *Core }

func (d deaf) Step(now time.Time, ev Event) Result {
	if res, ok := ev.(ActionResult); ok && res.Code == drivers.RuleWaits {
		res.Outcome, res.Code = Failed, ""
		ev = res
	}
	return d.Core.Step(now, ev)
}

// forgetful loses the targets of its predecessor.
type forgetful struct{ *Core }

func (f forgetful) Step(now time.Time, ev Event) Result {
	if loaded, ok := ev.(StateLoaded); ok {
		loaded.State.Targets = nil
		ev = loaded
	}
	return f.Core.Step(now, ev)
}
