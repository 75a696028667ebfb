package metadata

import (
	"fmt"
	"slices"
	"strings"
)

// # Which leg may be served first
//
// At start nothing is known but what is stored: a superblock on each leg that is
// present, and the witness. Assemble decides from these alone, with no I/O, which leg
// may be served. It must never choose a leg that lacks an acknowledged write; beyond
// that it should choose one whenever it can.
//
// What it relies on is the order in which the engine records things, each step durable
// before the next:
//
//	a loss      the survivor's superblock (a new generation, InService only itself),
//	            the witness, and only then is anything acknowledged that the lost leg lacks
//	a join      the joiner's superblock (the server's generation, InService both,
//	            not Syncing), the server's superblock (InService both), the witness
//	a creation  the first leg alone (InService only itself), the witness; the second
//	            comes in by a join
//	a start     a leg that is served alone while its superblock says both goes through
//	            a loss before its first write; when the superblock copies differed, both
//	            are rewritten before anything else; and a witness that does not name the
//	            leg's generation and survivor (it is older, or there is none) is written
//	            before the first acknowledgement alone, and before a leg is resynced
//	a replacement  the partner names the leg that took the place of another one (MissedLeg,
//	            in the same generation), before anything is acknowledged that the old one
//	            lacks: so the old one is known as replaced (Disowns); see mirror/replace.go
//	a resolve   a loss whose Bump names the generations that were given up, so that
//	            they are history from then on
//
// From this follows:
//
//	(1) Generations form a tree. A leg whose generation is in the other's History is
//	    behind it: the other went on without it. Neither in the other's: both went on
//	    alone, which is split-brain, and no program can merge that.
//	(2) In one generation, a leg that says it is alone is ahead of one that says both:
//	    the second has joined, and the first had not yet heard, or never did.
//	(3) Both say both: they differ at most where writes were under way, and those
//	    extents are marked.
//	(4) Nothing that only the survivor has was acknowledged before the witness knew its
//	    generation. So a leg whose generation the witness does not exceed lacks nothing
//	    that was acknowledged; a leg that does not know the witness's generation may.
//	(5) A leg that says {itself} is not overtaken without its knowledge: before anyone
//	    else is in service, it says both. The exception is a leg that is lost in the
//	    middle of a join: the joiner, which has everything, goes on. When that was
//	    witnessed, the lost leg is behind; when it was not, nothing was acknowledged
//	    without the lost leg, and it may have been served since.
//	(6) Without a witness, {itself} is believed. That is wrong for a leg of the exception
//	    in (5), for one that a person gave up while it was away, and for one whose going
//	    alone was cut short before the witness and whose partner then went on: each
//	    takes the loss of the witness besides, while the newer leg is missing.
//
// (4) would allow more than is done here: a leg alone, left in duplex without a clean
// stop, with a witness of its generation. It is refused all the same, as the design
// wants: the witness lies on one disk, which may have been restored from a backup, and
// the other leg is the better witness. The risk is a person's to take.
//
// Damage to a map makes a leg cost more to resync, not less up to date. Damage to a
// superblock is the loader's business: of two copies the newer whole one counts.

// Codes of refusals, the same words as in package drivers.
const (
	CodeStale      = "stale"       // what is present may lack acknowledged writes
	CodeSplitBrain = "split-brain" // both were written alone
	CodeNoLeg      = "no-leg"      // no leg is there, or none that may be used
	CodeUnfit      = "unfit"       // what is there does not belong together
)

// Verdict says which leg may be served first.
type Verdict struct {
	Serve    int      // side, or -1
	Create   bool     // there is no metadata at all: the mirror is to be made
	Code     string   // why none may serve, "" when one may
	Sentence string   // why this one; or why none, and the way out
	Notes    []string // what else a person should know
}

// Assemble decides which leg of the disk called name may be served first. images holds
// the metadata by side, nil where the leg is absent, blank or unreadable; w is the
// witness, nil when there is none; out marks sides that an admin has taken out: they
// are not served, but what they know counts. It is the caller's part to see to it that
// both devices are there before it follows Create.
func Assemble(name string, images [2]*Image, w *Witness, out [2]bool) Verdict {
	a := &assembly{name: name, images: images, w: w, out: out}
	v := a.decide()
	v.Notes = a.notes
	return v
}

type assembly struct {
	name   string
	images [2]*Image
	w      *Witness
	out    [2]bool
	notes  []string
}

func (a *assembly) side(i int) string       { return SideName(a.name, i) }
func (a *assembly) super(i int) *Superblock { return &a.images[i].Super }

func (a *assembly) note(format string, args ...any) {
	a.notes = append(a.notes, fmt.Sprintf(format, args...))
}

func refuse(code, format string, args ...any) Verdict {
	return Verdict{Serve: -1, Code: code, Sentence: fmt.Sprintf(format, args...)}
}

// resolve is the command that ends a refusal by a person's decision.
func (a *assembly) resolve(i int) string {
	return fmt.Sprintf("ftctl resolve %s --keep %s", a.name, a.side(i))
}

// risk ends a sentence with the way out for a person who would rather lose writes than
// wait. There is none with a leg that is a mixture: it is no state the disk ever had.
func (a *assembly) risk(sides ...int) string {
	var ways []string
	for _, i := range sides {
		if sb := a.super(i); !sb.Syncing && !sb.Generation.IsZero() {
			ways = append(ways, a.resolve(i))
		}
	}
	if len(ways) == 0 {
		return ""
	}
	return ", or take the risk with: " + strings.Join(ways, ", or ")
}

// decide narrows down: what is there, what belongs together, and then the judgement.
func (a *assembly) decide() Verdict {
	for i, img := range a.images {
		if img != nil {
			for _, d := range img.Damage {
				a.note("%s: %s", a.side(i), d)
			}
		}
	}
	if a.images[0] == nil && a.images[1] == nil {
		if a.w != nil {
			return refuse(CodeNoLeg, "neither leg of %s carries its metadata, yet the witness tells of mirror %s, generation %s, on %s and %s: attach its legs; or make a new, empty disk with: ftctl bringup %s --accept-risk=overwrite",
				a.name, a.w.Mirror, a.w.Generation, a.w.Resources[0], a.w.Resources[1], a.side(0))
		}
		return Verdict{Serve: -1, Create: true, Sentence: fmt.Sprintf("neither leg of %s carries metadata: the mirror is to be made", a.name)}
	}
	if a.w != nil && !a.known(a.w.Mirror) {
		a.note("the witness is of another mirror, %s, and is not heeded", a.w.Mirror)
		a.w = nil
	}
	if a.images[0] != nil && a.images[1] != nil {
		return a.pair()
	}
	i := 0
	if a.images[0] == nil {
		i = 1
	}
	if a.misplaced(i) {
		return a.refuseMisplaced(i)
	}
	return a.alone(i)
}

func (a *assembly) known(mirror UUID) bool {
	return slices.ContainsFunc(a.images[:], func(img *Image) bool { return img != nil && img.Super.Mirror == mirror })
}

func (a *assembly) misplaced(i int) bool { return int(a.super(i).Slot) != i }

func (a *assembly) refuseMisplaced(i int) Verdict {
	return refuse(CodeUnfit, "the leg in the place of %s is that of %s: put it there, or exchange pci0 and pci1 of %s in the configuration", a.side(i), a.side(1-i), a.name)
}

// pair sorts out two legs that do not make one mirror. Such a leg serves as evidence at
// most, and the other is judged alone.
func (a *assembly) pair() Verdict {
	s0, s1 := a.super(0), a.super(1)
	switch {
	case s0.Mirror != s1.Mirror && a.w == nil:
		return refuse(CodeUnfit, "%s belongs to mirror %s and %s to mirror %s, and no witness tells which is %s's: disconnect the wrong one, or choose with %s or %s",
			a.side(0), s0.Mirror, a.side(1), s1.Mirror, a.name, a.resolve(0), a.resolve(1))
	case s0.Mirror != s1.Mirror:
		i := 0
		if s1.Mirror == a.w.Mirror {
			i = 1
		}
		a.note("%s belongs to another mirror, %s, and is not used", a.side(1-i), a.super(1-i).Mirror)
		if a.misplaced(i) {
			return a.refuseMisplaced(i)
		}
		return a.alone(i)
	case s0.Leg == s1.Leg:
		return refuse(CodeUnfit, "%s and %s are copies of each other, both are leg %s, and which is the original cannot be told: disconnect the copy", a.side(0), a.side(1), s0.Leg)
	case a.misplaced(0) && a.misplaced(1):
		return refuse(CodeUnfit, "the legs of %s are exchanged, each lies in the place of the other: put them back, or exchange pci0 and pci1 of %s in the configuration", a.name, a.name)
	case a.misplaced(0) || a.misplaced(1):
		i := 0 // the one in its place
		if a.misplaced(0) {
			i = 1
		}
		if !a.super(i).Supersedes(a.super(1-i).Generation) && !a.super(1-i).Generation.IsZero() {
			return refuse(CodeUnfit, "%s and the leg in the place of %s were both made for that slot, and it cannot be told that the second is older: disconnect the wrong one; %s",
				a.side(i), a.side(1-i), histories(a.name, a.super(i), a.super(1-i)))
		}
		a.note("the leg in the place of %s is an older one of %s and is not used", a.side(1-i), a.side(i))
		return a.alone(i)
	}
	return a.both()
}

// both judges two legs of one mirror, each in its place.
func (a *assembly) both() Verdict {
	s0, s1 := a.super(0), a.super(1)
	newer := func(i int) bool { // i has gone on from what its partner is
		s, o := a.super(i), a.super(1-i)
		switch {
		case s.resyncs(o):
			return true
		case o.resyncs(s):
			return false
		}
		return s.Supersedes(o.Generation) || o.Generation.IsZero() && !s.Generation.IsZero()
	}
	switch n0, n1 := newer(0), newer(1); {
	case s0.Generation == s1.Generation:
		return a.sameGeneration()
	case n0 == n1:
		return a.splitBrain()
	case n0:
		return a.ordered(0, 1)
	}
	return a.ordered(1, 0)
}

func (a *assembly) splitBrain() Verdict {
	var ways []string
	for i := range a.images {
		if why := a.unservable(i); why != "" {
			a.note("%s", why)
		} else {
			ways = append(ways, a.resolve(i))
		}
	}
	if len(ways) == 0 {
		ways = []string{a.resolve(0), a.resolve(1)}
	}
	return refuse(CodeSplitBrain, "%s and %s were each written alone, and only one can be kept: %s. Keep one and lose what only the other has: %s",
		a.side(0), a.side(1), histories(a.name, a.super(0), a.super(1)), strings.Join(ways, ", or "))
}

// ordered judges two legs of which one, n, has gone on from the generation of the
// other, o.
func (a *assembly) ordered(n, o int) Verdict {
	// Rule (5): o said that it was alone and knows nothing of its being overtaken.
	if so := a.super(o); !so.Syncing && so.Alone() {
		switch {
		case a.w == nil:
			return a.splitBrain()
		case a.w.Generation == so.Generation && int(a.w.Survivor) == o:
			a.note("%s went on to generation %s, which the witness never heard of: nothing was acknowledged in it", a.side(n), a.super(n).Generation)
			return a.serve(o, n, "the witness names it the survivor")
		}
	}
	if why := a.unservable(n); why != "" {
		return refuse(CodeStale, "%s, and %s is older still: %s. Attach the leg that it was resynced from%s",
			why, a.side(o), histories(a.name, a.super(n), a.super(o)), a.risk(o))
	}
	if a.super(n).Both() {
		// It was duplex with a leg that is not here: that one had its generation.
		a.note("%s is older than %s and was not its partner when that was last written", a.side(o), a.side(n))
		return a.alone(n)
	}
	if v, bad := a.contradicted(n); bad {
		return v
	}
	return a.serve(n, o, "it went on alone after "+a.side(o)+" was lost")
}

// sameGeneration judges two legs that have seen the same writes, or of which one has
// gone on without the other within its generation.
func (a *assembly) sameGeneration() Verdict {
	fit := func(i int) bool { return a.unservable(i) == "" }
	claims := func(i int) bool { // to be alone, and the witness does not know better
		return fit(i) && a.super(i).Alone() && !a.witnessed(i, -1)
	}
	switch {
	case !fit(0) && !fit(1):
		return refuse(CodeStale, "%s, and %s: no leg of %s is whole. Attach the one that they were resynced from%s",
			a.unservable(0), a.unservable(1), a.name, a.risk(0, 1))
	case fit(0) && fit(1) && a.super(0).Alone() && a.super(1).Alone():
		return a.splitBrain()
	case claims(0) || !fit(1):
		return a.claimant(0)
	case claims(1) || !fit(0):
		return a.claimant(1)
	}
	return a.equals()
}

// claimant judges the leg that says it is alone, or the only whole one, of two in one
// generation.
func (a *assembly) claimant(i int) Verdict {
	if a.super(i).Both() {
		return a.alone(i)
	}
	if a.witnessed(i, 1-i) && a.unservable(1-i) == "" {
		return a.splitBrain() // the witness has it that the other was alone
	}
	if v, bad := a.contradicted(i); bad {
		return v
	}
	return a.serve(i, 1-i, "it was in service alone")
}

// equals chooses among two legs that differ at most in the marked extents.
func (a *assembly) equals() Verdict {
	if s0, s1 := a.super(0), a.super(1); s0.Both() && s1.Both() {
		switch d0, d1 := s0.Disowns(s1), s1.Disowns(s0); {
		case d0 && d1:
			return refuse(CodeUnfit, "%s and %s were each in service with another partner: one of them was replaced. Disconnect that one%s", a.side(0), a.side(1), a.risk(0, 1))
		case d0 || d1:
			i := sideIf(d1) // the one that has a new partner
			a.note("%s was replaced by another leg and is not used", a.side(1-i))
			return a.alone(i)
		}
	}
	if a.w != nil && !a.super(0).knows(a.w.Generation) {
		return refuse(CodeStale, "%s and %s are of generation %s, and the witness knows of %s, which neither has: the mirror went on with another leg (%s, %s). Attach that%s",
			a.side(0), a.side(1), a.super(0).Generation, a.w.Generation, a.w.Resources[0], a.w.Resources[1], a.risk(0, 1))
	}
	i := 0
	both := a.super(0).Both() && a.super(1).Both()
	switch {
	case !both: // one's word was overruled by the witness: it is not to be preferred
		if a.super(0).Alone() {
			i = 1
		}
		a.note("%s says it was alone in generation %s, and the witness that both were in service: its superblock is older than its time", a.side(1-i), a.super(i).Generation)
		return a.serve(i, -1, "both were in service as the witness knows")
	case a.out[0] != a.out[1]:
		i = sideIf(a.out[0])
	case (len(a.images[0].Damage) == 0) != (len(a.images[1].Damage) == 0):
		i = sideIf(len(a.images[0].Damage) != 0)
	case a.witnessed(0, 1):
		i = 1
	}
	return a.serve(i, -1, "both legs are of the same generation")
}

func sideIf(one bool) int {
	if one {
		return 1
	}
	return 0
}
