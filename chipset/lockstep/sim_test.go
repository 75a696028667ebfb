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
	simulate(t, 150, func(p *simPlan, rng *rand.Rand) {
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

func TestOneFaultIsNamedAndTheMachineGoesOn(t *testing.T) {
	struck, shot := map[ill]int{}, map[ill]int{}
	simulate(t, 1000, func(p *simPlan, rng *rand.Rand) {
		p.strict = true
		f := plannedFault{at: time.Duration(rng.IntN(30)) * time.Millisecond, side: Side(rng.IntN(2))}
		f.ill, f.seed = ill(rng.IntN(int(illEnd))), rng.Uint64()
		f.verb = []Verb{Apply, Run, Run, Run, Epoch, Patrol}[rng.IntN(6)]
		f.skip = rng.IntN(20)
		p.faults = []plannedFault{f}
	}, func(w *simWorld) {
		f := &w.plan.faults[0]
		if f.fired {
			struck[f.ill]++
			if w.shots[f.side] > 0 {
				shot[f.ill]++
			}
		}
		if !w.ended {
			w.failf("the guest has not asked for its reset")
		}
	})
	for i := range illEnd {
		t.Logf("%-22v struck %4d times, shot %4d", i, struck[i], shot[i])
	}
}
