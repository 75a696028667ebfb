package sim

import "testing"

// TestCrashAnywhere runs a few short seeds in which nothing else goes wrong, once for
// each operation of the legs, and crashes there: between any two operations, of data and
// of metadata, by power and by process.
func TestCrashAnywhere(t *testing.T) {
	runs := 0
	for seed := range uint64(*sweeps) {
		for _, kind := range []CrashKind{PowerCut, KillDriver} {
			cfg := Config{New: sound, Calm: true, CrashKind: kind}
			r := NewRunner(cfg)
			whole := r.Run(*seed0 + seed)
			if whole.Err != nil {
				t.Fatal(explain(cfg, whole))
			}
			for at := int64(1); at <= whole.Steps; at++ {
				cfg.CrashAt = at
				r.cfg.CrashAt = at
				if res := r.Run(*seed0 + seed); res.Err != nil {
					t.Fatal(explain(cfg, res))
				}
				runs++
			}
		}
	}
	t.Logf("%d crashes", runs)
}
