package control

import (
	"strings"
	"testing"
	"time"

	"ft/drivers"
)

// TestProspectIsWhatTheJudgeSays: what is foretold of the next fault is the verdict on it.
func TestProspectIsWhatTheJudgeSays(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	for _, set := range []MTBFSettings{
		{MTBFThreshold, 24 * time.Hour, 3}, {MTBFThreshold, time.Hour, 1}, {MTBFThreshold, 10 * time.Hour, 2},
		{MTBFThreshold, 5 * time.Hour, 5}, {MTBFNever, 0, 3}, {MTBFAlways, 0, 3},
	} {
		for _, apart := range []time.Duration{time.Minute, time.Hour, 6 * time.Hour, 30 * time.Hour} {
			var l FaultList
			now := start
			for n := 0; n < 8; n++ {
				foretold := l.prospect(set, now)
				next := l
				next.Last = append([]FaultRecord(nil), l.Last...)
				next.add(FaultRecord{At: now.Add(time.Millisecond)})
				if broken, why := next.judge(set); broken != strings.Contains(foretold, "makes it broken") {
					t.Errorf("%v, %d faults %v apart: %q, and the verdict is: broken %v, %s", set, n, apart, foretold, broken, why)
				}
				l.add(FaultRecord{At: now})
				now = now.Add(apart)
			}
		}
	}
}

// TestProspectNamesTheTime: the time until which another fault breaks the part is exact.
func TestProspectNamesTheTime(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	set := MTBFSettings{MTBFThreshold, 12 * time.Hour, 3}
	l := FaultList{}
	l.add(FaultRecord{At: start})
	l.add(FaultRecord{At: start.Add(10 * time.Hour)})
	if got, want := l.prospect(set, start.Add(11*time.Hour)), "good: 2 faults count against it; another one in the next 13 h makes it broken"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := l.prospect(set, start.Add(24*time.Hour)), "good: 2 faults count against it; the next one is forgiven, for it comes late enough"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestClearedHistoryComesBack: faults that were to be forgotten, and could not be on disk, are
// not, and those that came meanwhile are there too.
func TestClearedHistoryComesBack(t *testing.T) {
	c := New(Config{Name: "box"})
	now := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	c.Step(now, StateLoaded{})
	r := c.Step(now, DeviceConfigured{Kind: "disk", Name: "disk0", Sides: [2]SideSpec{
		{Resource: drivers.Resource{Path: "/dev/loop0"}}, {Resource: drivers.Resource{Path: "/dev/loop1"}}}})
	settle := func(r Result, out Outcome) {
		for _, a := range r.Actions {
			if a.Kind == ActionPersist {
				r = c.Step(now, ActionResult{ID: a.ID, Outcome: out, Sentence: "disk full"})
			}
		}
	}
	settle(r, OK)
	s := c.side("pci1/disk0")
	c.historyOf(s).Real.add(FaultRecord{At: now, What: "first"})
	r = c.Step(now, ClearMTBF{Request{ID: "r1"}, "pci1/disk0"})
	if n := c.historyOf(s).Real.Count; n != 0 {
		t.Fatalf("%d faults after they were forgotten", n)
	}
	c.historyOf(s).Real.add(FaultRecord{At: now, What: "second"})
	settle(r, Failed)
	if last := c.historyOf(s).Real.Last; len(last) != 2 || last[0].What != "first" || last[1].What != "second" {
		t.Fatalf("after the word that could not be kept: %+v", last)
	}
	r = c.Step(now, ClearMTBF{Request{ID: "r2"}, "pci1/disk0"})
	settle(r, OK)
	if n := c.historyOf(s).Real.Count; n != 0 || len(c.cleared) != 0 {
		t.Fatalf("%d faults after they were forgotten, %d to be taken back", n, len(c.cleared))
	}
}
