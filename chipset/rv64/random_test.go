package rv64

import (
	"bytes"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"testing"

	"ft/chipset/rv64/scenario"
)

// Random programs (package scenario). The reference is a hart that knows nothing from one step
// to the next.

var (
	randomSeeds = flag.Int("seeds", 40, "how many random programs to run")
	randomSeed0 = flag.Uint64("seed0", 1, "the first one's seed")
)

const scenarioSteps = scenario.Steps

// driven is a board as scenarios have it.
type driven struct{ *board }

func (d driven) SetMode(priv int) { d.SetPriv(Priv(priv)) }

// Advance does not wait.
func (d driven) Advance(steps uint64) {
	if _, why := d.Run(steps); why == StopWFI {
		d.Wake()
	}
}

// scenarioOn is a scenario on boards.
type scenarioOn struct{ *scenario.Scenario }

func makeScenario(seed uint64) scenarioOn { return scenarioOn{scenario.Make(seed)} }

// reset makes a board the scenario's start.
func (s scenarioOn) reset(b *board) {
	copy(b.cfg.RAM, s.RAM)
	b.ClearDirty()
	b.Hart.SetState(State{Priv: uint64(Machine), PC: ramBase, Stimecmp: noDeadline, Mtimecmp: noDeadline, TimeDen: 1})
	b.onLoad = func(addr uint64, size int) uint64 { return s.Load(driven{b}, addr, size) }
	b.onStore = func(addr uint64, size int, v uint64) { s.Store(driven{b}, addr, size, v) }
}

func (s scenarioOn) do(b *board) { s.Do(driven{b}) }

// drive runs a scenario, in runs of the lengths that next gives, and calls at behind each.
func (s scenarioOn) drive(b *board, next func() uint64, at func(step uint64)) {
	s.Drive(driven{b}, next, func(step uint64) {
		b.loads, b.stores = b.loads[:0], b.stores[:0]
		at(step)
	})
}

// moment is what is compared.
type moment struct {
	state State
	ram   uint64 // a digest
	dirty uint64 // a bit a page: there are 64
}

func momentOf(b *board) moment {
	s := b.State()
	d := uint64(0)
	for i := 0; i < len(b.cfg.RAM); i += 8 {
		d = d*foldK + binary.LittleEndian.Uint64(b.cfg.RAM[i:])
	}
	return moment{s, d, b.Dirty()[0]}
}

func newScenarioBoard(t *testing.T, c Compare) *board {
	return newBoard(t, func(cfg *Config) {
		cfg.RAM = make([]byte, scenario.RAMBytes)
		cfg.Compare = c
	})
}

func (m moment) compare(t *testing.T, seed uint64, what string, other moment) {
	t.Helper()
	if m == other {
		return
	}
	a, b := m.state.Words(), other.state.Words()
	for i := range a {
		if a[i] != b[i] {
			t.Errorf("%s is %#x, want %#x", WordName(i), b[i], a[i])
		}
	}
	if m.ram != other.ram {
		t.Errorf("memory differs")
	}
	if m.dirty != other.dirty {
		t.Errorf("dirty pages are %#x, want %#x", other.dirty, m.dirty)
	}
	t.Fatalf("seed %d: %s differs from the reference, at step %d, pc %#x", seed, what, m.state.Steps, m.state.PC)
}

// TestExactness: however a run is cut, a hart is at every cut where one is that takes
// single steps and forgets all that it derived from memory behind each.
func TestExactness(t *testing.T) {
	reference, cut, copied := newScenarioBoard(t, EveryStep), newScenarioBoard(t, EveryStep), newScenarioBoard(t, EveryStep)
	for seed := *randomSeed0; seed < *randomSeed0+uint64(*randomSeeds); seed++ {
		s := makeScenario(seed)
		r := rand.New(rand.NewPCG(seed, 1))
		trace := make([]State, scenarioSteps+1)
		s.reset(reference)
		var cuts [scenarioSteps + 1]moment
		sampled := func(step uint64) bool { return step%97 == 0 || step == scenarioSteps }
		s.drive(reference, func() uint64 { return 1 }, func(step uint64) {
			trace[step] = reference.State()
			if sampled(step) {
				cuts[step] = momentOf(reference)
			}
			reference.Hart.SetState(trace[step])
		})
		for _, longest := range []uint64{1, 7, 300, 5000} {
			s.reset(cut)
			s.drive(cut, func() uint64 { return 1 + r.Uint64N(longest) }, func(step uint64) {
				want := moment{state: trace[step]}
				got := moment{state: cut.State()}
				if sampled(step) {
					want, got = cuts[step], momentOf(cut)
				}
				want.compare(t, seed, "a hart", got)
			})
		}
		// One that is stopped before some instructions, and looked at without a trace.
		hits := 0
		s.reset(cut)
		cut.SetHook(func(insn uint32) bool { return mix(uint64(insn)*foldK)>>7%3 == seed%3 }, func() {
			hits++
			cut.RequestStop()
			cut.Pass()
		})
		s.drive(cut, func() uint64 { return 1 + r.Uint64N(300) }, func(step uint64) {
			cut.Fetch(cut.PC())
			cut.StoreAt(cut.Reg(r.IntN(32)))
			moment{state: trace[step]}.compare(t, seed, "a hart with hooks", moment{state: cut.State()})
		})
		cuts[scenarioSteps].compare(t, seed, "a hart with hooks", momentOf(cut))
		cut.SetHook(nil, nil)
		if hits == 0 {
			t.Errorf("seed %d: no hook was hit", seed)
		}
		// And one that is copied, memory and state, to another hart now and then.
		from, to := cut, copied
		s.reset(from)
		at := r.Uint64N(scenarioSteps)
		s.drive(from, func() uint64 { return max(at-from.Steps(), 1) }, func(step uint64) {
			if step != at {
				return
			}
			s.reset(to)
			copy(to.cfg.RAM, from.cfg.RAM)
			copy(to.Dirty(), from.Dirty())
			to.Hart.SetState(from.State())
			from.steps = scenarioSteps // leave it
		})
		s.drive(to, func() uint64 { return scenarioSteps }, func(uint64) {})
		cuts[scenarioSteps].compare(t, seed, "a copied hart", momentOf(to))
		if !bytes.Equal(to.cfg.RAM, reference.cfg.RAM) {
			t.Fatalf("seed %d: memory differs", seed)
		}
	}
}
