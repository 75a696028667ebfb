package sim

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"ft/mirror"
)

// register is what porcupine is told of a sector: it holds what was written last.
var register = porcupine.Model{
	Init: func() any { return uint32(0) },
	Step: func(state, input, output any) (bool, any) {
		if v, ok := input.(uint32); ok {
			return true, v
		}
		return output == state, state
	},
	Equal: func(a, b any) bool { return a == b },
}

const (
	sectorsJudged = 24              // of each seed, those with the most requests
	judgeFor      = 5 * time.Second // a sector; undecided counts as unknown
)

// linearizable judges the history of a seed, sector by sector.
func linearizable(records []*Record) (bad []int64, unknown, judged int) {
	sectors := map[int64][]porcupine.Operation{}
	for i, r := range records {
		for k := range r.N {
			op := porcupine.Operation{ClientId: i, Call: r.Call, Return: r.Return}
			switch {
			case r.Op == opRead && r.Return == 0:
				continue
			case r.Op == opRead:
				op.Output = r.Seen[k]
			default:
				op.Input = r.Value
				if r.Return == 0 {
					op.Return = math.MaxInt64
				}
			}
			sectors[r.Sector+k] = append(sectors[r.Sector+k], op)
		}
	}
	var order []int64
	for s := range sectors {
		order = append(order, s)
	}
	slices.SortFunc(order, func(a, b int64) int {
		if d := len(sectors[b]) - len(sectors[a]); d != 0 {
			return d
		}
		return int(a - b)
	})
	for _, s := range order[:min(len(order), sectorsJudged)] {
		judged++
		switch porcupine.CheckOperationsTimeout(register, sectors[s], judgeFor) {
		case porcupine.Illegal:
			bad = append(bad, s)
		case porcupine.Unknown:
			unknown++
		}
	}
	return bad, unknown, judged
}

// What clients see of each sector is a linearizable register, also for a judge that is not
// ours.
func TestHistoriesAreLinearizable(t *testing.T) {
	judged, unknown := 0, 0
	cfg := Config{New: sound, History: func(seed uint64, records []*Record) {
		bad, u, n := linearizable(records)
		judged, unknown = judged+n, unknown+u
		if len(bad) > 0 {
			t.Errorf("seed %d: the histories of sectors %v are not linearizable", seed, bad)
		}
	}}
	r := NewRunner(cfg)
	for seed := range uint64(80) {
		if res := r.Run(seed + 1); res.Err != nil {
			t.Fatal(explain(Config{New: sound}, res))
		}
	}
	t.Logf("%d histories, %d not decided", judged, unknown)
	if judged < 1000 || unknown > judged/20 {
		t.Errorf("%d histories were judged, %d of them without a result", judged, unknown)
	}
}

// Where our own model finds a value that went back, porcupine does so too.
func TestJudgesAgree(t *testing.T) {
	var last []*Record
	r := NewRunner(Config{New: defective(mirror.UnlockBeforeReplied), Theme: LostAnswers,
		History: func(_ uint64, records []*Record) { last = records }})
	agreed := 0
	for seed := uint64(1); seed < defectSeeds && agreed < 2; seed++ {
		res := r.Run(seed)
		if res.Err == nil || !strings.Contains(res.Err.Error(), "went back") {
			continue
		}
		if bad, _, _ := linearizable(last); len(bad) > 0 {
			agreed++
		}
	}
	if agreed < 2 {
		t.Errorf("they agree on %d seeds only", agreed)
	}
}
