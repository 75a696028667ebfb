package metadata

// Relation is what a leg that wants to join is to the leg that serves.
type Relation uint8

// Relations. Only RelEqual, RelBehind and RelBehindFull may join without a person's word.
const (
	RelForeign    Relation = iota // of another mirror, or of another geometry
	RelSameLeg                    // a copy of the serving leg: it has the same leg UUID
	RelSameSlot                   // another leg that was made for the same slot
	RelEqual                      // differs at most in the marked extents
	RelBehind                     // lacks what the serving leg's missed-writes bitmap says, and the marked extents
	RelBehindFull                 // older, and nobody knows what it lacks: everything must be copied
	RelAhead                      // newer than the serving leg: never overwritten silently
	RelSplitBrain                 // both were written alone
)

// Relate compares a joiner to the leg that serves.
func Relate(serving, joiner *Superblock) Relation { return RelForeign }

// Explain says in a sentence what a relation means, with what decided it.
func Explain(name string, serving, joiner *Superblock) string { return "" }
