package metadata

import "fmt"

// The judgement of one leg, for assemble.go, where the reasoning stands: by its own word
// (unservable), by the witness's (witnessed, contradicted), and without its partner
// (alone); and the verdict itself (serve).

// unservable says why a leg's own superblock forbids to serve it, or "".
func (a *assembly) unservable(i int) string {
	switch sb := a.super(i); {
	case sb.Generation.IsZero():
		return fmt.Sprintf("%s has never been in service", a.side(i))
	case sb.Syncing:
		return fmt.Sprintf("%s was being resynced and is a mixture of old and new", a.side(i))
	case !sb.Has(sb.Slot):
		return fmt.Sprintf("%s was out of service when it was last written", a.side(i))
	}
	return ""
}

// witnessed says whether the witness is of leg i's generation and names the survivor s.
func (a *assembly) witnessed(i, s int) bool {
	return a.w != nil && a.w.Generation == a.super(i).Generation && int(a.w.Survivor) == s
}

// contradicted refuses leg i when the witness proves that it is behind.
func (a *assembly) contradicted(i int) (Verdict, bool) {
	sb, w := a.super(i), a.w
	switch {
	case w == nil:
		return Verdict{}, false
	case w.Generation == sb.Generation && int(w.Survivor) == 1-i:
		return refuse(CodeStale, "%s is behind: the witness has it that %s went on alone in generation %s. Attach %s (%s)%s",
			a.side(i), a.side(1-i), w.Generation, a.side(1-i), w.Resources[1-i], a.risk(i)), true
	case w.Generation == sb.Generation && w.Survivor < 0 && sb.Alone():
		return refuse(CodeStale, "%s says it was alone in generation %s, and the witness that both legs were in service after that: what is on it is older than it should be, as after a restore. Attach %s (%s)%s",
			a.side(i), sb.Generation, a.side(1-i), w.Resources[1-i], a.risk(i)), true
	case !sb.knows(w.Generation):
		return refuse(CodeStale, "%s is behind: it is of generation %s, and the witness knows of %s, which it has never heard of%s. Attach %s (%s)%s",
			a.side(i), sb.Generation, w.Generation, survivorWords(a.name, w), a.side(1-i), w.Resources[1-i], a.risk(i)), true
	case sb.Supersedes(w.Generation) && int(w.Survivor) == 1-i && !a.present(1-i, w.Generation):
		// Rule (5): it went on from there, but never so far that the witness heard of it;
		// so the survivor may have been served since, which the witness would allow.
		return refuse(CodeStale, "%s went on alone in generation %s, which was not completed: for the witness %s is the survivor, in generation %s, and that leg is not here. Attach %s (%s)%s",
			a.side(i), sb.Generation, a.side(1-i), w.Generation, a.side(1-i), w.Resources[1-i], a.risk(i)), true
	}
	return Verdict{}, false
}

// present says whether the leg on side i is here and was in service in generation g.
func (a *assembly) present(i int, g Generation) bool {
	return a.images[i] != nil && a.super(i).Mirror == a.w.Mirror && !a.misplaced(i) && a.super(i).knows(g)
}

func survivorWords(name string, w *Witness) string {
	if w.Survivor < 0 {
		return ""
	}
	return ", with " + SideName(name, int(w.Survivor)) + " alone in service"
}

// alone judges a leg whose partner is not here to be asked: absent, or what is in its
// place is not the leg that this one was in service with.
func (a *assembly) alone(i int) Verdict {
	sb := a.super(i)
	other := a.side(1 - i)
	gone := other + " is missing"
	if a.images[1-i] != nil {
		gone = "what is now at " + other + " cannot vouch for it"
	}
	if why := a.unservable(i); why != "" {
		return refuse(CodeStale, "%s, and %s: attach the leg that was in service%s", why, gone, a.risk(i))
	}
	if v, bad := a.contradicted(i); bad {
		return v
	}
	switch {
	case a.witnessed(i, i):
		return a.serve(i, -1, "the witness names it the survivor")
	case sb.Alone() && a.w == nil:
		return a.serve(i, -1, "it was in service alone; there is no witness")
	case sb.Alone():
		return a.serve(i, -1, "it was in service alone, and the witness knows of nothing newer")
	case sb.Clean && a.witnessed(i, -1):
		return a.serve(i, -1, "it was stopped cleanly with both legs in service")
	case sb.Clean:
		return refuse(CodeStale, "%s was stopped cleanly together with %s, %s and %s: that leg may have gone on alone since. Attach %s%s",
			a.side(i), other, gone, a.witnessWords(), other, a.risk(i))
	}
	return refuse(CodeStale, "%s was in service together with %s when the box stopped without warning, and %s: it may lack writes that %s has. Attach %s%s",
		a.side(i), other, gone, other, other, a.risk(i))
}

func (a *assembly) witnessWords() string {
	if a.w == nil {
		return "there is no witness"
	}
	return "the witness is older than it"
}

// serve gives the verdict for leg i, unless an admin has taken it out. behind is the
// side that was found to be behind it, or -1.
func (a *assembly) serve(i, behind int, why string) Verdict {
	switch {
	case !a.out[i]:
		return Verdict{Serve: i, Sentence: fmt.Sprintf("%s serves: %s", a.side(i), why)}
	case behind >= 0 && !a.out[behind]:
		return refuse(CodeStale, "%s is up to date but taken out of service by an admin, and %s is behind it: bring the first one up with ftctl bringup %s, or lose what only it has with: %s",
			a.side(i), a.side(behind), a.side(i), a.resolve(behind))
	}
	return refuse(CodeNoLeg, "%s could serve, but is taken out of service by an admin, and there is no other leg that may: ftctl bringup %s", a.side(i), a.side(i))
}
