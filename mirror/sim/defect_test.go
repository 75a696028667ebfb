package sim

import (
	"fmt"
	"io"
	"testing"

	"ft/mirror"
	"ft/mirror/metadata"
)

// defectSeeds is within how many seeds a mistake must be found.
const defectSeeds = 1000

// The deliberate mistakes of the engine, and the theme of the seeds that find them.
var defects = []struct {
	name   string
	defect mirror.Defect
	theme  Theme
}{
	{"acknowledging before the other leg is recorded as out of date", mirror.AckBeforeRecord, LossAndKill},
	{"taking marks back without a flush", mirror.ClearIntentEarly, Any},
	{"copying without locking the range", mirror.ResyncWithoutLock, Any},
	{"going on alone in the same generation", mirror.NoGenerationBump, Any},
	{"reading what is not resynced yet", mirror.ReadUnsynced, Any},
	{"flushing one leg only", mirror.FlushOneLeg, Any},
	{"taking missed bits back before the target has flushed", mirror.ClearMissedBeforeFlush, SlowResync},
	{"never writing the witness", mirror.SkipWitness, Any},
	{"letting the range go before the answer has gone out", mirror.UnlockBeforeReplied, LostAnswers},
	{"forgetting what a lost leg had not flushed", mirror.NoUnflushedTracking, Any},
	{"taking marks back before the checksums are written", mirror.MarksBeforeSums, Any},
	{"believing the checksums of marked extents after a crash", mirror.TrustMarkedSums, Any},
	{"taking a leg in without the checksums that it lacks", mirror.NoSumCatchUp, Any},
	{"returning what does not agree with its checksum", mirror.NoVerify, Spoiled},
	{"repairing one leg always, whichever is wrong", mirror.RepairFromFirst, Spoiled},
	{"making checksums of what is copied, right or wrong", mirror.SumsFollowCopies, Spoiled},
	{"locking bytes and not whole blocks", mirror.PlainLocks, Any},
	{"a new target that is not told of the writes under way", mirror.JoinForgetsInFlight, Any},
	{"writing while the marks are being written", mirror.WriteBeforeMarks, Any},
	{"writing though the marks could not be written", mirror.IgnoreMarkErrors, Faulty},
	{"taking marks back without saving the missed bits", mirror.MarksGoUnsaved, SlowResync},
	{"overlapping writes side by side", mirror.OverlappingWrites, Any},
	{"overwriting a leg as if it were only behind", mirror.OverwriteByBitmap, Any},
	{"counting the error of the last piece only", mirror.LastPieceCounts, Faulty},
	{"taking a record for newer than it is", mirror.RecordBehind, LossAndKill},
	{"not noting what one leg lacks", mirror.StaleOnlyWhenCut, Any},
	{"two writes of a block of checksums at a time", mirror.NoSumOrder, LossAndKill},
}

func TestDefectsFound(t *testing.T) {
	for _, d := range defects {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{New: defective(d.defect), Theme: d.theme}
			r := NewRunner(cfg)
			for seed := range uint64(defectSeeds) {
				res := r.Run(seed + 1)
				if res.Err == nil {
					continue
				}
				t.Logf("found by seed %d: %v", seed+1, trim(res.Err))
				if *shrinkTo != "" {
					keepShrunk(t, cfg, d.name, seed+1)
				}
				return
			}
			t.Errorf("not found within %d seeds", defectSeeds)
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

// stale chooses the wrong copy of the superblock, when they differ.
func stale(r io.ReaderAt, bytes int64) (*metadata.Image, error) {
	img, err := metadata.Load(r, bytes)
	if err != nil {
		return nil, err
	}
	y, err := img.Super.Layout()
	if err != nil {
		return nil, err
	}
	for _, off := range y.SuperOff {
		buf := metadata.AlignedBlock()
		if _, err := r.ReadAt(buf, off); err != nil {
			return nil, err
		}
		if sb, err := metadata.DecodeSuper(buf); err == nil && sb.Sequence < img.Super.Sequence {
			img.Super = sb
		}
	}
	return img, nil
}

func TestStaleSuperblockFound(t *testing.T) {
	r := NewRunner(Config{New: sound, Load: stale, Theme: Rot})
	for seed := range uint64(defectSeeds) {
		if res := r.Run(seed + 1); res.Err != nil {
			t.Logf("found by seed %d: %v", seed+1, trim(res.Err))
			return
		}
	}
	t.Error("not found")
}

// The sound engine passes where the mistakes are found.
func TestThemes(t *testing.T) {
	for theme := Mixed; theme < themes; theme++ {
		t.Run(fmt.Sprint(theme), func(t *testing.T) {
			t.Parallel()
			cfg := Config{New: sound, Theme: theme}
			r := NewRunner(cfg)
			for seed := range uint64(60) {
				if res := r.Run(seed + 1); res.Err != nil {
					t.Fatal(explain(cfg, res))
				}
			}
		})
	}
}
