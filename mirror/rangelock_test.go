package mirror

import (
	"testing"

	"pgregory.net/rapid"
)

// lockProbe is an owner that knows whether it has been granted its lock.
type lockProbe struct {
	lock rangeLock
	held bool
	seq  int
}

func (p *lockProbe) lockGranted(*Engine) { p.held = true }

// TestRangeLocks draws locks and releases at random: never two that conflict are held,
// none is held before an earlier one that conflicts with it, and none is left waiting
// for nothing.
func TestRangeLocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table lockTable
		var live []*lockProbe
		seq := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(live) == 0 || rapid.Bool().Draw(t, "acquire") {
				lo := int64(rapid.IntRange(0, 20).Draw(t, "lo"))
				p := &lockProbe{seq: seq}
				seq++
				p.lock = rangeLock{lo: lo, hi: lo + int64(rapid.IntRange(1, 8).Draw(t, "len")), write: rapid.Bool().Draw(t, "write"), owner: p}
				p.held = table.acquire(&p.lock)
				live = append(live, p)
			} else {
				var held []int
				for i, p := range live {
					if p.held {
						held = append(held, i)
					}
				}
				i := rapid.SampledFrom(held).Draw(t, "release")
				for _, o := range table.release(&live[i].lock, nil) {
					o.lockGranted(nil)
				}
				live = append(live[:i:i], live[i+1:]...)
			}
			for i, p := range live {
				blocked := false
				for _, q := range live[:i] {
					if p.lock.conflicts(&q.lock) {
						blocked = true
					}
				}
				if p.held == blocked {
					t.Fatalf("lock %d: held %v, but an earlier one that conflicts is there: %v", p.seq, p.held, blocked)
				}
			}
		}
	})
}
