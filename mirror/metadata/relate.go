package metadata

import (
	"fmt"
	"slices"
	"strings"
)

// Relation is what a leg that wants to join is to the leg that serves.
type Relation uint8

// Relations. RelEqual, RelBehind and RelBehindFull may join by themselves; the others
// need a person's word, because joining overwrites the leg.
const (
	RelForeign    Relation = iota // of another mirror, or of other sizes
	RelSameLeg                    // a copy of the serving leg: both have the same leg UUID
	RelSameSlot                   // another leg that was made for the serving leg's slot
	RelEqual                      // differs at most in the marked extents
	RelBehind                     // lacks at most what the serving leg's missed-writes bitmap tells, and the marked extents
	RelBehindFull                 // older, and nobody knows what it lacks: everything must be copied
	RelAhead                      // newer than the serving leg
	RelSplitBrain                 // both went on alone, or it cannot be told that they did not
)

var relationNames = [...]string{"foreign", "same leg", "same slot", "equal", "behind", "behind, extent unknown", "ahead", "split-brain"}

func (r Relation) String() string {
	if int(r) < len(relationNames) {
		return relationNames[r]
	}
	return fmt.Sprintf("relation(%d)", uint8(r))
}

// MayJoin says whether a leg in this relation may be overwritten without asking.
func (r Relation) MayJoin() bool { return r == RelEqual || r == RelBehind || r == RelBehindFull }

// Relate compares a joiner with the leg that serves, by their superblocks alone. That
// serving is fit to serve has been decided before (Assemble, or a person).
//
// A bitmap is believed only when it names the joiner by its leg UUID *and* counts from
// the generation the joiner has: a leg that was elsewhere in between, or was alone
// since, has another one. RelBehind also holds for the generation that the serving leg
// itself has: the joiner has then joined once, as far as its own superblock tells, and
// the serving leg went on without it, counting all the while.
func Relate(serving, joiner *Superblock) Relation {
	s, j := serving, joiner
	switch {
	case s.Mirror != j.Mirror || !s.sameGeometry(j):
		return RelForeign
	case s.Leg == j.Leg:
		return RelSameLeg
	case s.Slot == j.Slot:
		return RelSameSlot
	case s.Generation.IsZero():
		return RelSplitBrain // it has no history that anything could be compared to
	case s.resyncs(j):
		return RelBehind // also one that was newer: somebody has decided that
	case j.Generation.IsZero():
		return s.lacks(j)
	case s.Generation == j.Generation:
		return relateSameGeneration(s, j)
	}
	behind, ahead := s.Supersedes(j.Generation), j.Supersedes(s.Generation)
	switch {
	case behind && ahead:
		return RelSplitBrain // no history is like that: one of them is not to be believed
	case ahead:
		return RelAhead
	case behind || s.counts(j):
		return s.lacks(j)
	}
	return RelSplitBrain
}

func relateSameGeneration(s, j *Superblock) Relation {
	alone := !j.Syncing && j.Alone()
	switch {
	case alone && s.Alone():
		return RelSplitBrain
	case alone:
		return RelAhead // it served alone until the serving leg joined it
	case !j.Syncing && j.Both() && s.Both() && !s.Disowns(j):
		return RelEqual
	}
	return s.lacks(j)
}

// counts says whether the missed-writes bitmap of s tells what j lacks.
func (s *Superblock) counts(j *Superblock) bool {
	switch {
	case s.MissedLeg != j.Leg || s.Has(j.Slot):
		return false // counts for another leg; or for none, since both were in service
	case j.Generation != s.MissedFrom && j.Generation != s.Generation:
		return false
	}
	// What a leg wrote that thought itself alone, no bitmap of another leg can tell.
	return j.Syncing || !j.Alone() || j.Generation.IsZero()
}

// resyncs says whether s was making j its partner when both were last written.
func (s *Superblock) resyncs(j *Superblock) bool { return j.Syncing && !s.Syncing && s.counts(j) }

// lacks is the relation of a leg that is older than s.
func (s *Superblock) lacks(j *Superblock) Relation {
	if s.counts(j) {
		return RelBehind
	}
	return RelBehindFull
}

// Explain says in a sentence what Relate found between the legs of the disk called
// name, and where the joiner may not join by itself, the way out.
func Explain(name string, serving, joiner *Superblock) string {
	rel := Relate(serving, joiner)
	text := explain(rel, name, serving, joiner)
	if rel.MayJoin() {
		return text
	}
	j := SideName(name, 1-int(serving.Slot)) // its place, whatever it says itself
	return fmt.Sprintf("%s. Connect another device there; or lose what is on this one and make it the partner of %s: ftctl bringup %s --accept-risk=overwrite",
		text, SideName(name, int(serving.Slot)), j)
}

func explain(rel Relation, name string, serving, joiner *Superblock) string {
	s, j := SideName(name, int(serving.Slot)), SideName(name, 1-int(serving.Slot))
	switch rel {
	case RelForeign:
		if serving.Mirror != joiner.Mirror {
			return fmt.Sprintf("the leg at %s belongs to another mirror, %s, and %s is %s", j, joiner.Mirror, name, serving.Mirror)
		}
		return fmt.Sprintf("the leg at %s holds %d bytes in regions of %d and extents of %d, and %s holds %d in %d and %d",
			j, joiner.DataBytes, joiner.RegionSize, joiner.ExtentSize, s, serving.DataBytes, serving.RegionSize, serving.ExtentSize)
	case RelSameLeg:
		return fmt.Sprintf("the leg at %s is a copy of %s, which serves: both are leg %s", j, s, serving.Leg)
	case RelSameSlot:
		return fmt.Sprintf("the leg at %s was made for the place of %s, which serves", j, s)
	case RelEqual:
		return fmt.Sprintf("%s and %s are of the same generation %s: they differ at most in the marked extents", j, s, serving.Generation)
	case RelBehind:
		return fmt.Sprintf("%s is behind %s, which knows what it lacks", j, s)
	case RelBehindFull:
		return fmt.Sprintf("%s is behind %s (generation %s, now %s), and what it lacks is not known: all is copied", j, s, joiner.Generation, serving.Generation)
	case RelAhead:
		return fmt.Sprintf("%s is newer than %s, which serves: %s", j, s, histories(name, serving, joiner))
	default:
		return fmt.Sprintf("%s and %s were each written alone: %s", s, j, histories(name, serving, joiner))
	}
}

// SideName is what a side of the disk called name is called.
func SideName(name string, side int) string { return fmt.Sprintf("pci%d/%s", side, name) }

// historyShown is how many generations of a leg a sentence names.
const historyShown = 6

// histories shows the generations of both legs, newest first, and where they part.
func histories(name string, a, b *Superblock) string {
	one := func(sb *Superblock) string {
		gs := append([]Generation{sb.Generation}, sb.History...)
		more := len(gs) > historyShown
		gs = gs[:min(len(gs), historyShown)]
		words := make([]string, len(gs))
		for i, g := range gs {
			words[i] = g.String()
		}
		if more {
			words = append(words, "…")
		}
		return fmt.Sprintf("%s went through generations %s%s", SideName(name, int(sb.Slot)), strings.Join(words, " ← "), lastWritten(sb))
	}
	parted := "they have no generation in common"
	theirs := append([]Generation{b.Generation}, b.History...)
	for _, g := range append([]Generation{a.Generation}, a.History...) {
		if !g.IsZero() && slices.Contains(theirs, g) {
			parted = "the last that both have is " + g.String()
			break
		}
	}
	return one(a) + "; " + one(b) + "; " + parted
}

func lastWritten(sb *Superblock) string {
	if sb.Time.IsZero() {
		return ""
	}
	return " (last recorded " + sb.Time.UTC().Format("2006-01-02 15:04:05 UTC") + ")"
}
