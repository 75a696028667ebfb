//go:build linux && amd64

package translate

import (
	"flag"
	"testing"

	"ft/chipset/rv64"
	"ft/chipset/rv64/unlike"
)

var (
	seeds = flag.Uint64("seeds", 150, "how many random scenarios to run")
	seed0 = flag.Uint64("seed0", 1, "the first one's seed")
)

// Random scenarios give the same with the interpreter and with machine code for every block
// that is come to, wherever runs are cut.
func TestLikeTheInterpreter(t *testing.T) {
	var all []*Translator
	pairs, err := unlike.NewPairs(func(h *rv64.Hart) error {
		tr, err := Attach(h, Options{Threshold: 1, CodeBytes: 1 << 20, Cuts: len(all)%2 == 0})
		all = append(all, tr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for seed := *seed0; seed < *seed0+*seeds; seed++ {
		if d := pairs.Run(seed); d != nil {
			t.Fatal(d)
		}
	}
	for _, tr := range all {
		if s := tr.Stats(); s.NativeSteps == 0 {
			t.Errorf("no step was in machine code: %+v", s)
		}
		t.Logf("%+v", tr.Stats())
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}
}
