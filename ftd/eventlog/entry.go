package eventlog

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// Severity says how loudly an event wants to be read.
type Severity string

// Severities, from quiet to loud.
const (
	Info    Severity = "info"    // a normal change: came in, went out as asked
	Warning Severity = "warning" // redundancy was lost, or something was refused
	Alarm   Severity = "alarm"   // a person is needed
)

// Entry is one event: one JSON line in the file and in the API. What an event needs
// besides (first_step, blackout_us …) stands in Detail and is written at the same
// level as the fixed fields.
type Entry struct {
	Seq      uint64
	Time     time.Time
	ID       string // component: pci1/disk0, disk0, pci1, "" for ftd itself
	From, To string // states, "" where none changed
	Reason   string
	Severity Severity
	Detail   map[string]any
}

// fixed mirrors the named fields of Entry in the order they are written.
type fixed struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	ID       string    `json:"id"`
	From     string    `json:"from"`
	To       string    `json:"to"`
	Reason   string    `json:"reason"`
	Severity Severity  `json:"severity"`
}

var fixedNames = [...]string{"seq", "time", "id", "from", "to", "reason", "severity"}

// MarshalJSON writes the fixed fields first, then Detail, in one flat object.
// A Detail key that has the name of a fixed field is left out.
func (e Entry) MarshalJSON() ([]byte, error) {
	head, err := json.Marshal(fixed{e.Seq, e.Time, e.ID, e.From, e.To, e.Reason, e.Severity})
	if err != nil || len(e.Detail) == 0 {
		return head, err
	}
	extra := maps.Clone(e.Detail)
	for _, n := range fixedNames {
		delete(extra, n)
	}
	if len(extra) == 0 {
		return head, nil
	}
	tail, err := json.Marshal(extra)
	if err != nil {
		return nil, fmt.Errorf("event %d of %s: details: %w", e.Seq, e.ID, err)
	}
	head[len(head)-1] = ','
	return append(head, tail[1:]...), nil
}

// UnmarshalJSON is the inverse of MarshalJSON; numbers in Detail become float64.
func (e *Entry) UnmarshalJSON(b []byte) error {
	var f fixed
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	var all map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for _, n := range fixedNames {
		delete(all, n)
	}
	if len(all) == 0 {
		all = nil
	}
	*e = Entry{f.Seq, f.Time, f.ID, f.From, f.To, f.Reason, f.Severity, all}
	return nil
}
