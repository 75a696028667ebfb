// Package scrub is what is to be known of a disk's scrub: in the driver that does it, in the
// file that outlives the driver, and in the answers to people and programs.
package scrub

import (
	"fmt"
	"time"

	"ft/drivers"
	"ft/mirror/balance"
	"ft/mirror/metadata"
)

// FindingsMax is how many findings are remembered, the latest.
const FindingsMax = 64

// NoSide says that nobody knows which leg is the right one.
const NoSide = -1

// Phase is where a scrub stands.
type Phase string

// The phases. A scrub that runs may be waiting for both legs.
const (
	Idle    Phase = "idle"
	Running Phase = "running"
	Paused  Phase = "paused"
)

// Tally counts bytes in which something was wrong.
type Tally struct {
	Differ   int64    `json:"differ_bytes"`    // not known which leg is wrong
	Wrong    [2]int64 `json:"wrong_bytes"`     // of each leg
	Lost     int64    `json:"lost_bytes"`      // on both legs
	Repaired int64    `json:"repaired_bytes"`  // of these
	Table    [2]int64 `json:"table_bad_bytes"` // each leg's checksums that were wrong
}

// Add counts a finding.
func (t *Tally) Add(f Finding) {
	switch f.What {
	case Differ:
		t.Differ += f.Bytes
	case Table:
		for side := range t.Table {
			if f.Side == NoSide || f.Side == side {
				t.Table[side] += f.Bytes
			}
		}
	case Wrong:
		t.Wrong[f.Side] += f.Bytes
	default:
		t.Lost += f.Bytes
	}
	if f.Repaired {
		t.Repaired += f.Bytes
	}
}

// Clean says whether nothing was wrong.
func (t Tally) Clean() bool { return t == Tally{} }

// Run is a scrub that has ended.
type Run struct {
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	Whole bool      `json:"whole"` // it was not cancelled
	Bytes int64     `json:"bytes"`
	Found Tally     `json:"found"`
}

// State is what outlives the process.
type State struct {
	Mirror      metadata.UUID `json:"mirror"`
	Phase       Phase         `json:"phase"`
	Repair      bool          `json:"repair"`    // where it is not known which leg is wrong, from From
	From        int           `json:"from"`      // -1: no side
	Scheduled   bool          `json:"scheduled"` // nobody asked for it
	Build       bool          `json:"build"`     // checksums are to be made of what is there
	Summed      bool          `json:"summed"`    // it began under checksums
	Position    int64         `json:"position"`  // everything below was compared, bytes
	Began       time.Time     `json:"began,omitzero"`
	Found       Tally         `json:"found"`             // by the one under way
	Outstanding Tally         `json:"outstanding"`       // since the last scrub that found nothing
	Findings    []Finding     `json:"findings"`          // the latest, oldest first
	Last        *Run          `json:"last,omitempty"`    // the latest whole one
	Since       time.Time     `json:"since,omitzero"`    // what the schedule counts from when there is none
	Priority    string        `json:"priority,omitzero"` // as an admin said
	// Reads is what an admin said of each leg's part in reads.
	Reads [2]balance.Word `json:"reads,omitzero"`
}

// Status is the scrub as people and programs see it.
type Status struct {
	State
	Waits    string            `json:"waits,omitempty"` // why it does not go on
	Progress *drivers.Progress `json:"progress,omitempty"`
	Due      time.Time         `json:"due,omitzero"` // when the next one begins by itself
}

// Finding is a range of which something was wrong.
type Finding struct {
	What     string    `json:"what"` // differ, wrong, unreadable, lost, table
	Side     int       `json:"side"` // the leg that is wrong, -1: not known, or both
	Offset   int64     `json:"offset"`
	Bytes    int64     `json:"bytes"`
	Repaired bool      `json:"repaired"`
	Time     time.Time `json:"time"`
}

// What a finding is.
const (
	Differ     = "differ"     // the legs differ, and nothing says which one is wrong
	Wrong      = "wrong"      // the leg is not what was written, or cannot be read
	Unreadable = "unreadable" // neither leg can be read
	Lost       = "lost"       // neither leg is what was written
	Table      = "table"      // the leg's checksums, those of the data from Offset on
)

// Words says what was found, with the sides' names.
func (t Tally) Words(sides [2]string) string {
	if t.Clean() {
		return "no difference"
	}
	out := ""
	add := func(n int64, format string, args ...any) {
		if n == 0 {
			return
		}
		if out != "" {
			out += ", "
		}
		out += fmt.Sprintf("%d bytes ", n) + fmt.Sprintf(format, args...)
	}
	add(t.Differ, "differ")
	for i, n := range t.Wrong {
		add(n, "wrong on %s", sides[i])
	}
	add(t.Lost, "lost on both sides")
	for i, n := range t.Table {
		add(n, "of checksums wrong on %s", sides[i])
	}
	add(t.Repaired, "repaired")
	return out
}

// Check says what no program of ours would have written.
func (s *State) Check() error {
	switch {
	case s.Phase != Idle && s.Phase != Running && s.Phase != Paused:
		return fmt.Errorf("a scrub that is %q", s.Phase)
	case s.From < NoSide || s.From > 1:
		return fmt.Errorf("side %d", s.From)
	case s.Position < 0 || s.Position%metadata.BlockSize != 0:
		return fmt.Errorf("position %d", s.Position)
	case len(s.Findings) > FindingsMax:
		return fmt.Errorf("%d findings", len(s.Findings))
	}
	return nil
}
