package unlike

import (
	"flag"
	"os"
	"testing"
	"time"

	"ft/chipset/rv64"
)

// make unlike PROGRAMS=n SEED0=s
var (
	programs = flag.Uint64("unlike.programs", 400, "how many random programs to run on both engines")
	seed0    = flag.Uint64("unlike.seed0", 1, "the first one's seed")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(m.Run())
}

func pairs(t testing.TB, attach Attach) *Pairs {
	t.Helper()
	p, err := NewPairs(attach)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPrograms: both engines do the same.
func TestPrograms(t *testing.T) {
	p := pairs(t, func(*rv64.Hart) error { return nil })
	told := time.Now()
	for seed := *seed0; seed < *seed0+*programs; seed++ {
		if d := p.Run(seed); d != nil {
			t.Fatal(d)
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			t.Logf("%d of %d programs", seed-*seed0+1, *programs)
		}
	}
}
