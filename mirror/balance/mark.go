package balance

import "fmt"

// Mark is what an admin says of a leg's part in reads.
type Mark uint8

// The marks.
const (
	Balance Mark = iota // its share
	Prefer              // all reads, while it keeps up
	Avoid               // none that the other leg can have: md's write-mostly
)

// Marks are their names.
var Marks = []string{Balance: "balance", Prefer: "prefer", Avoid: "avoid"}

// WriteMostly is another name for Avoid, that of md.
const WriteMostly = "write-mostly"

func (m Mark) String() string { return Marks[m] }

// ParseMark takes a name; "" is Balance.
func ParseMark(s string) (Mark, error) {
	switch s {
	case "":
		return Balance, nil
	case WriteMostly:
		return Avoid, nil
	}
	for m, name := range Marks {
		if s == name {
			return Mark(m), nil
		}
	}
	return Balance, fmt.Errorf("%q is nothing that can be said of a leg's reads: balance, prefer, or avoid, which md calls %s", s, WriteMostly)
}

// MarshalText and UnmarshalText write it as its name.
func (m Mark) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (m *Mark) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMark(string(b))
	return err
}

// Word is what an admin said of a leg, and what the configuration said then. It counts
// until the configuration says something else: the newest word holds.
type Word struct {
	Said       bool `json:"said,omitempty"`
	Mark       Mark `json:"mark"`
	Configured Mark `json:"configured"`
}

// Over is the mark of a leg that the configuration marks so.
func (w Word) Over(configured Mark) Mark {
	if w.Said && w.Configured == configured {
		return w.Mark
	}
	return configured
}
