package sim

import (
	"fmt"
	"testing"

	"ft/mirror"
)

// The deliberate mistakes of the engine, and within how many seeds each must be found.
var defects = []struct {
	name   string
	defect mirror.Defect
	seeds  int
}{
	{"acknowledging before the other leg is recorded as out of date", mirror.AckBeforeRecord, 2500},
	{"taking marks back without a flush", mirror.ClearIntentEarly, 500},
	{"copying without locking the range", mirror.ResyncWithoutLock, 500},
	{"going on alone in the same generation", mirror.NoGenerationBump, 500},
	{"reading what is not resynced yet", mirror.ReadUnsynced, 500},
	{"flushing one leg only", mirror.FlushOneLeg, 500},
	{"taking missed bits back before the target has flushed", mirror.ClearMissedBeforeFlush, 2000},
	{"never writing the witness", mirror.SkipWitness, 500},
	{"letting the range go before the answer has gone out", mirror.UnlockBeforeReplied, 2500},
	{"forgetting what a lost leg had not flushed", mirror.NoUnflushedTracking, 500},
}

func TestDefectsFound(t *testing.T) {
	for _, d := range defects {
		t.Run(d.name, func(t *testing.T) {
			r := NewRunner(Config{New: defective(d.defect)})
			for seed := range uint64(d.seeds) {
				if res := r.Run(seed + 1); res.Err != nil {
					t.Logf("found by seed %d: %v", seed+1, trim(res.Err))
					return
				}
			}
			t.Errorf("not found within %d seeds", d.seeds)
		})
	}
}

func trim(err error) string {
	s := err.Error()
	if len(s) > 200 {
		s = fmt.Sprintf("%s…", s[:200])
	}
	return s
}
