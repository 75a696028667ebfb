package sim

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"ft/mirror"
)

var (
	seeds   = flag.Int("sim.seeds", 500, "how many seeds to run")
	seed0   = flag.Uint64("sim.seed0", 1, "the first seed")
	trace   = flag.Bool("sim.trace", false, "print the whole trace of each seed")
	minutes = flag.Float64("sim.minutes", 0, "go on for so long, whatever sim.seeds says")
	keepOn  = flag.Int("sim.failures", 1, "stop after so many seeds that fail")
)

func sound(name string, o mirror.Options, env mirror.Env) Engine {
	return mirror.NewEngine(name, o, env)
}

func defective(d mirror.Defect) func(string, mirror.Options, mirror.Env) Engine {
	return func(name string, o mirror.Options, env mirror.Env) Engine {
		e := mirror.NewEngine(name, o, env)
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
	return s + fmt.Sprintf("to see it again: go test ./mirror/sim -run TestSim -sim.seed0=%d -sim.seeds=1 -sim.trace -v", failed.Seed)
}

func TestSim(t *testing.T) {
	cfg := Config{New: sound}
	if *trace {
		cfg.Trace = func(line string) { fmt.Fprintln(os.Stderr, line) }
	}
	r := NewRunner(cfg)
	begun := time.Now()
	var total Stats
	var ops, events int64
	n, failed := 0, 0
	for ; n < *seeds || time.Since(begun).Minutes() < *minutes; n++ {
		res := r.Run(*seed0 + uint64(n))
		total.add(res.Stats)
		ops += res.Ops
		events += int64(res.Events)
		if res.Err == nil {
			continue
		}
		cfg := cfg
		t.Error(explain(cfg, res))
		if failed++; failed >= *keepOn {
			break
		}
	}
	d := time.Since(begun)
	t.Logf("%d seeds from %d in %v (%.0f a second), %d leg operations, %d events, %+v",
		n, *seed0, d.Round(time.Millisecond), float64(n)/d.Seconds(), ops, events, total)
}
