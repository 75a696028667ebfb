package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"ft/mirror"
)

var (
	seeds   = flag.Int("sim.seeds", 10000, "how many seeds to run")
	seed0   = flag.Uint64("sim.seed0", 1, "the first seed")
	trace   = flag.Bool("sim.trace", false, "print the whole trace of each seed")
	minutes = flag.Float64("sim.minutes", 0, "go on for so long, whatever sim.seeds says")
	sweeps  = flag.Int("sim.sweeps", 4, "how many seeds to crash at every operation")
	theme   = flag.Uint("sim.theme", 0, "what the seeds are about, by number; 0 draws")
	calm    = flag.Bool("sim.calm", false, "nothing goes wrong but one crash")
	crashAt = flag.Int64("sim.crash-at", 0, "crash after so many operations")
	kill    = flag.Bool("sim.kill", false, "with sim.crash-at: kill the driver, not the power")
	keepOn  = flag.Int("sim.failures", 1, "stop after so many seeds that fail")
)

func sound(name string, o mirror.Options, env mirror.Env) Engine {
	e := mirror.NewEngine(name, o, env)
	e.SetZeroPiece(zeroPiece)
	return e
}

func defective(d mirror.Defect) func(string, mirror.Options, mirror.Env) Engine {
	return func(name string, o mirror.Options, env mirror.Env) Engine {
		e := mirror.NewEngine(name, o, env)
		e.SetZeroPiece(zeroPiece)
		e.SetDefect(d)
		return e
	}
}

// traceTail is how much of a failing seed's trace is printed.
const traceTail = 120

// explain runs a failing seed again, with a trace, and says how it went.
func explain(cfg Config, failed Result) string {
	var lines []string
	cfg.Trace = func(line string) { lines = append(lines, line) }
	again := NewRunner(cfg).Run(failed.Seed)
	if !*trace && len(lines) > traceTail {
		lines = append([]string{fmt.Sprintf("… %d lines before (see all with -sim.trace)", len(lines)-traceTail)}, lines[len(lines)-traceTail:]...)
	}
	s := fmt.Sprintf("seed %d: %v\n%s\n", failed.Seed, failed.Err, strings.Join(lines, "\n"))
	if again.Hash != failed.Hash || again.Err == nil {
		s += "NOTE: the second run of the seed went differently: the engine is not deterministic\n"
	}
	plainly := cfg
	plainly.Trace = nil
	if short := shrunk(plainly, failed.Seed, nil, Budget{Tries: shrinkTries, Until: time.Now().Add(shrinkTime)}); short != nil {
		s += fmt.Sprintf("as a script of %d steps:\n%s", len(short.steps), short)
		if f, err := os.CreateTemp("", fmt.Sprintf("ft-sim-%d-*.script", failed.Seed)); err == nil {
			_, _ = f.WriteString(short.String())
			_ = f.Close()
			s += fmt.Sprintf("to run it: go test ./mirror/sim -run 'TestScript$' -v -sim.script %s\n", f.Name())
		}
	} else {
		s += "it does not fail as a script: the whole trace has it\n"
	}
	s += fmt.Sprintf("to see it again: go test ./mirror/sim -run 'TestSim$' -v -sim.trace -sim.seeds=1 -sim.seed0=%d", failed.Seed)
	if cfg.Theme != Any {
		s += fmt.Sprintf(" -sim.theme=%d", cfg.Theme)
	}
	if cfg.Calm {
		s += " -sim.calm"
	}
	if cfg.CrashAt > 0 {
		s += fmt.Sprintf(" -sim.crash-at=%d -sim.kill=%v", cfg.CrashAt, cfg.CrashKind == KillDriver)
	}
	return s
}

func TestSim(t *testing.T) {
	cfg := Config{New: sound, Theme: Theme(*theme), Calm: *calm, CrashAt: *crashAt}
	if *kill {
		cfg.CrashKind = KillDriver
	}
	if *trace {
		cfg.Trace = func(line string) { fmt.Fprintln(os.Stderr, line) }
	}
	begun := time.Now()
	// A seed is run by whoever is free; how it goes depends on nothing else.
	var mu sync.Mutex
	var total Stats
	var ops, events int64
	n, failed := 0, 0
	next := func() (seed uint64, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if failed >= *keepOn || n >= *seeds && time.Since(begun).Minutes() >= *minutes {
			return 0, false
		}
		n++
		return *seed0 + uint64(n-1), true
	}
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			r := NewRunner(cfg)
			for seed, ok := next(); ok; seed, ok = next() {
				res := r.Run(seed)
				mu.Lock()
				total.add(res.Stats)
				ops += res.Ops
				events += int64(res.Events)
				if res.Err != nil {
					failed++
					t.Error(explain(cfg, res))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	d := time.Since(begun)
	t.Logf("%d seeds from %d in %v (%.0f a second), %d leg operations, %d events, %+v",
		n, *seed0, d.Round(time.Millisecond), float64(n)/d.Seconds(), ops, events, total)
}

// A run is a function of its seed: other seeds before it, or a trace, change nothing.
func TestSeedsReproduce(t *testing.T) {
	a, b := NewRunner(Config{New: sound}), NewRunner(Config{New: sound, Trace: func(string) {}})
	b.Run(99)
	for seed := uint64(1); seed <= 20; seed++ {
		x, y := a.Run(seed), b.Run(seed)
		if x.Hash != y.Hash || x.Events != y.Events {
			t.Errorf("seed %d went differently the second time: %d and %d events", seed, x.Events, y.Events)
		}
	}
}

// The seeds go through what they are for: none of these may become rare by accident.
func TestSeedsReach(t *testing.T) {
	r := NewRunner(Config{New: sound})
	var s Stats
	const n = 300
	for seed := range uint64(n) {
		res := r.Run(seed + 1)
		if res.Err != nil {
			t.Fatal(explain(Config{New: sound}, res))
		}
		s.add(res.Stats)
	}
	for what, have := range map[string]int{
		"power cuts": s.PowerCuts * 4, "kills": s.Kills * 2, "stops": s.Stops, "losses": s.Losses * 2, "resyncs": s.Resyncs,
		"legs served alone": s.AloneChecks, "requests sent again": s.Resent, "refusals": s.Refused * 8, "rotten superblocks": s.Rots * 20,
		"resolves": s.Resolves * 300, "errors that were answered": s.Errors, "forced writes": s.FUA,
		"seeds with the control core": s.Controlled * 6, "starts of ftd": s.Ftds * 2, "answers of ftd": s.Answers * 3,
	} {
		if have < n {
			t.Errorf("%s are rare: %+v", what, s)
		}
	}
}
