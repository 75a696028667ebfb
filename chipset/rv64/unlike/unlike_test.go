package unlike

import (
	"flag"
	"os"
	"testing"
	"time"

	"ft/chipset/rv64"
	"ft/chipset/rv64/scenario"
	"ft/chipset/rv64/translate"
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

// translator attaches translators, which translate at once and have little room, so that they
// come to its end. stats, unless nil, has them.
func translator(all *[]*translate.Translator) Attach {
	return func(h *rv64.Hart) error {
		t, err := translate.Attach(h, translate.Options{Threshold: 1, CodeBytes: 1 << 20})
		if err == nil && all != nil {
			*all = append(*all, t)
		}
		return err
	}
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
	var all []*translate.Translator
	p := pairs(t, translator(&all))
	native := func() (n uint64) {
		for _, tr := range all {
			n += tr.Stats().NativeSteps
		}
		return n
	}
	type share struct{ programs, native uint64 }
	shares := map[scenario.Flavour]share{}
	told := time.Now()
	for seed := *seed0; seed < *seed0+*programs; seed++ {
		before := native()
		if d := p.Run(seed); d != nil {
			t.Fatal(d)
		}
		f := scenario.FlavourOf(seed)
		s := shares[f]
		shares[f] = share{s.programs + 1, s.native + native() - before}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			t.Logf("%d of %d programs", seed-*seed0+1, *programs)
		}
	}
	// That nothing differs means little where little was translated.
	for f, s := range shares {
		percent := 100 * s.native / (s.programs * scenario.Steps)
		t.Logf("%v: %d programs, %d %% of their steps translated", f, s.programs, percent)
		if percent < leastTranslated {
			t.Errorf("%v: %d %% of the steps were translated: want %d at least", f, percent, leastTranslated)
		}
	}
}

// leastTranslated is how many of a hundred steps of each flavour are run in machine code.
const leastTranslated = 5

// FuzzPrograms: the same, on whatever seeds the fuzzer comes to.
func FuzzPrograms(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Add(uint64(8709)) // a doorbell in memory, rung from the middle of a block
	p := pairs(f, translator(nil))
	f.Fuzz(func(t *testing.T, seed uint64) {
		if d := p.Run(seed); d != nil {
			t.Fatal(d)
		}
	})
}
