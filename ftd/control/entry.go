package control

import (
	"encoding/json"
	"fmt"
	"time"
)

// Severity of a log entry. Error and critical also raise an alarm.
type Severity string

// Severities, from least to worst.
const (
	Info     Severity = "info"
	Warning  Severity = "warning"  // redundancy is less than it should be, or a request was refused
	Error    Severity = "error"    // a part failed
	Critical Severity = "critical" // a person is needed: a face is down, a part is broken
)

// Entry is one record of the event log: one change of one component. Side, device,
// module and box each have their own entries, so that a reader who follows one id
// sees every state that it was in. From equals To where something happened that
// changed no state (a refusal, a driver's note).
//
// In JSON, Extra stands beside the other fields: {"seq":…,"id":…,"first_step":…}.
type Entry struct {
	Seq      uint64
	Time     time.Time
	ID       string
	From     string
	To       string
	Reason   string
	Severity Severity
	Extra    map[string]any // what else the event needs: first_step, pc, blackout_us …
}

// entryFields are the names that Extra cannot take.
type entryFields struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	ID       string    `json:"id"`
	From     string    `json:"from"`
	To       string    `json:"to"`
	Reason   string    `json:"reason"`
	Severity Severity  `json:"severity"`
}

var entryNames = [...]string{"seq", "time", "id", "from", "to", "reason", "severity"}

// MarshalJSON writes the entry as one flat object. A name in Extra that is one of the
// entry's own is written as "x_" and that name: nothing is lost, nothing is forged.
func (e Entry) MarshalJSON() ([]byte, error) {
	head, err := json.Marshal(entryFields{e.Seq, e.Time, e.ID, e.From, e.To, e.Reason, e.Severity})
	if err != nil {
		return nil, fmt.Errorf("encode log entry %d of %s: %w", e.Seq, e.ID, err)
	}
	if len(e.Extra) == 0 {
		return head, nil
	}
	extra := make(map[string]any, len(e.Extra))
	for k, v := range e.Extra {
		extra[k] = v
	}
	for _, own := range entryNames {
		if v, taken := extra[own]; taken {
			delete(extra, own)
			extra["x_"+own] = v
		}
	}
	tail, err := json.Marshal(extra)
	if err != nil {
		return nil, fmt.Errorf("encode log entry %d of %s: details: %w", e.Seq, e.ID, err)
	}
	head[len(head)-1] = ','
	return append(head, tail[1:]...), nil
}

// UnmarshalJSON is the inverse: what is not one of the entry's own fields goes to Extra.
func (e *Entry) UnmarshalJSON(b []byte) error {
	var own entryFields
	if err := json.Unmarshal(b, &own); err != nil {
		return fmt.Errorf("decode log entry: %w", err)
	}
	var extra map[string]any
	if err := json.Unmarshal(b, &extra); err != nil {
		return fmt.Errorf("decode log entry: %w", err)
	}
	for _, name := range entryNames {
		delete(extra, name)
	}
	if len(extra) == 0 {
		extra = nil
	}
	*e = Entry{own.Seq, own.Time, own.ID, own.From, own.To, own.Reason, own.Severity, extra}
	return nil
}
