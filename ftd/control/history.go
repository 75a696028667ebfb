package control

import (
	"fmt"
	"time"

	"ft/drivers"
)

// This file fills what `ftctl mtbf show` says of a part: its whole fault history, how that is
// judged, and what follows. Like status.go it changes nothing.

// HistoryView is the fault history of what is in a side now. The names of its JSON fields
// are part of the product, as those of the status document are.
type HistoryView struct {
	ID       string        `json:"id"`   // of the side
	Part     string        `json:"part"` // the identity that the history is kept by, "" where only the slot is known
	Resource string        `json:"resource"`
	State    drivers.State `json:"state"`
	Since    time.Time     `json:"since"`       // when its history began, or was cleared last
	Hours    float64       `json:"hours"`       // over how many hours that is
	Real     FaultsView    `json:"real"`        // faults of the part
	Injected FaultsView    `json:"injected"`    // faults of drills: judged in the same way, apart
	Settings SettingsView  `json:"settings"`    // how they are judged
	Broken   bool          `json:"broken"`      // the verdict
	Verdict  string        `json:"verdict"`     // in a sentence
	Action   string        `json:"action"`      // what to do about it; begins with "none" when nothing is
	Oldest   int           `json:"oldest_kept"` // how many faults of each kind are kept: older ones are only counted
}

// FaultsView is one kind of faults of a part.
type FaultsView struct {
	Count     int         `json:"count"`                // since the history began
	Forgiven  int         `json:"forgiven"`             // of them: an admin has brought the part up again since
	MeanHours *float64    `json:"mean_hours,omitempty"` // between the last that count; absent below two
	Faults    []FaultView `json:"faults"`               // the last ones, oldest first
}

// FaultView is one fault.
type FaultView struct {
	FaultRecord
	Counts bool `json:"counts"` // it counts at the next verdict
}

// SettingsView is how the faults of a part are judged.
type SettingsView struct {
	Policy         MTBFPolicy `json:"policy"`
	ThresholdHours float64    `json:"threshold_hours"`
	MinFaults      int        `json:"min_faults"`
	Own            bool       `json:"own"` // set for this side by an admin; else as for the whole box
}

// Histories are those of the parts that an id stands for: a side, a device or a module. found
// is false when there is no such id, or nothing is configured there.
func (c *Core) Histories(id string, now time.Time) (views []HistoryView, found bool) {
	sc, r := c.find(id)
	if r != nil {
		return nil, false
	}
	for _, s := range sc.sides {
		views = append(views, c.historyView(s, now))
	}
	return views, true
}

func (c *Core) historyView(s *side, now time.Time) HistoryView {
	h := c.history[s.historyKey()]
	if h == nil {
		h = &History{Since: now}
	}
	set := c.settingsOf(s)
	own := c.settings[s.id] != MTBFSettings{}
	v := HistoryView{
		ID: s.id, Part: s.identity, Resource: s.resource.Path, State: s.state, Since: h.Since, Hours: hours(now.Sub(h.Since)),
		Real: h.Real.view(set), Injected: h.Injected.view(set), Oldest: historyDepth,
		Settings: SettingsView{Policy: set.Policy, ThresholdHours: hours(set.Threshold), MinFaults: set.MinFaults, Own: own},
		Broken:   s.target.Broken, Action: "none",
	}
	switch {
	case v.Broken:
		v.Verdict = "broken: " + s.target.Reason
		v.Action = s.replaceOrClear()
	case s.target.out() && s.target.By == ByAdmin:
		v.Verdict = "out of service: " + s.target.Reason
		v.Action = "ftctl bringup " + s.id + " when the work on it is done"
	default:
		v.Verdict = h.Real.prospect(set, now)
	}
	return v
}

// replaceOrClear is what can be done about a broken part.
func (s *side) replaceOrClear() string {
	return fmt.Sprintf("replace %s (%s), or if it is good: ftctl mtbf clear %s, then ftctl bringup %s", s.id, s.resource.Path, s.id, s.id)
}

func (l *FaultList) view(set MTBFSettings) FaultsView {
	v := FaultsView{Count: l.Count, Forgiven: min(l.Forgiven, l.Count), Faults: []FaultView{}}
	if mean, ok := l.mean(set.MinFaults); ok {
		m := hours(mean)
		v.MeanHours = &m
	}
	counting := len(l.counting())
	for i, f := range l.Last {
		v.Faults = append(v.Faults, FaultView{f, i >= len(l.Last)-counting})
	}
	return v
}

// prospect says of a part that is good what its next fault will do.
func (l *FaultList) prospect(set MTBFSettings, now time.Time) string {
	counting := l.counting()
	n := len(counting)
	good := "good: no fault counts against it"
	if n > 0 {
		good = fmt.Sprintf("good: %d %s against it", n, map[bool]string{true: "fault counts", false: "faults count"}[n == 1])
	}
	switch set.Policy {
	case MTBFNever:
		return good + "; one more makes it broken"
	case MTBFAlways:
		return good + "; it always comes back"
	}
	least := max(set.MinFaults, 2)
	if n+1 < least {
		more := least - 1 - n
		return fmt.Sprintf("%s; %d more %s forgiven", good, more, map[bool]string{true: "is", false: "are"}[more == 1])
	}
	// The next one is judged together with the least-1 before it. Until then it breaks the
	// part: the mean is below the threshold.
	until := counting[n-(least-1)].At.Add(set.Threshold * time.Duration(least-1))
	if !until.After(now) {
		return good + "; the next one is forgiven, for it comes late enough"
	}
	return fmt.Sprintf("%s; another one in the next %s makes it broken", good, short(until.Sub(now)))
}
