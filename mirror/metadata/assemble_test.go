package metadata

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"ft/drivers"
)

// A leg in these tests is a word: its generation, then what it says of itself.
//
//	g2 {0}     generation g2, in service alone
//	g2 both    both in service, stopped without warning
//	g2 clean   both in service, stopped cleanly
//	g2 sync    being resynced; g2 is what it had before
//	g2 out     not in service as it last knew
//	- new      never in service, being resynced
//
// Generations descend like this:
//
//	g1 ── g2 ── g3
//	 └─── h2 ── h3        a fork: the other leg went on alone from g1
var testHistory = map[string][]string{
	"-": nil, "g1": nil, "g2": {"g1"}, "g3": {"g2", "g1"}, "h2": {"g1"}, "h3": {"h2", "g1"}, "x9": nil,
}

func gen(name string) Generation {
	if name == "-" {
		return Generation{}
	}
	return Generation{Counter: uint64(name[1] - '0'), ID: UUID{name[0], name[1]}}
}

var testMirror = UUID{0xaa}

func legUUID(slot int) UUID { return UUID{0xee, byte(slot)} }

// testSuper is the superblock of the leg in slot; what follows ';' changes it.
func testSuper(t *testing.T, slot int, spec string) Superblock {
	t.Helper()
	l, err := NewLayout(8<<20, DefaultRegionSize, DefaultExtentSize)
	if err != nil {
		t.Fatal(err)
	}
	sb := NewSuper(l, testMirror, legUUID(slot), uint8(slot), 512, 4096)
	for _, w := range strings.Fields(spec) {
		_, isGen := testHistory[w]
		switch {
		case isGen:
			sb.Generation = gen(w)
			for _, h := range testHistory[w] {
				sb.History = append(sb.History, gen(h))
			}
		case w == "{0}":
			sb.InService = 1
		case w == "{1}":
			sb.InService = 2
		case w == "both":
			sb.InService = 3
		case w == "clean":
			sb.InService, sb.Clean = 3, true
		case w == "sync" || w == "new":
			sb.Syncing = true
		case w == "out":
			sb.InService = 1 << (1 - slot)
		case w == "foreign":
			sb.Mirror = UUID{0xbb}
		case w == "copy":
			sb.Leg = legUUID(1 - slot)
		case w == "other-slot":
			sb.Slot = uint8(1 - slot)
		case w == "larger":
			sb.DataBytes *= 2
		case strings.HasPrefix(w, "missed:"): // the partner's bitmap counts from
			sb.MissedLeg, sb.MissedFrom = legUUID(1-slot), gen(strings.TrimPrefix(w, "missed:"))
		case w == "damaged":
		default:
			t.Fatalf("bad word %q in %q", w, spec)
		}
	}
	return sb
}

func testImage(t *testing.T, slot int, spec string) *Image {
	t.Helper()
	if spec == "" {
		return nil
	}
	img := &Image{Super: testSuper(t, slot, spec)}
	if strings.Contains(spec, "damaged") {
		img.Damage = []string{"1 of 1 blocks of the write-intent map did not verify"}
	}
	return img
}

// testWitness: "" none, else a generation and the survivor, "foreign" for another mirror.
func testWitness(t *testing.T, spec string) *Witness {
	t.Helper()
	if spec == "" {
		return nil
	}
	w := &Witness{Mirror: testMirror, Survivor: -1, Resources: [2]string{"/dev/a", "/dev/b"}}
	for _, word := range strings.Fields(spec) {
		switch word {
		case "{0}":
			w.Survivor = 0
		case "{1}":
			w.Survivor = 1
		case "both":
		case "foreign":
			w.Mirror = UUID{0xbb}
		default:
			w.Generation = gen(word)
		}
	}
	return w
}

func TestAssemble(t *testing.T) {
	for _, c := range []struct {
		leg0, leg1, witness string
		out                 string
		want                string // "0", "1", "create" or the code of the refusal
		says                string // in the sentence or the notes
	}{
		// Nothing there.
		{"", "", "", "", "create", "to be made"},
		{"", "", "g1 both", "", CodeNoLeg, "/dev/a and /dev/b"},

		// Both, in step.
		{"g1 both", "g1 both", "g1 both", "", "0", "same generation"},
		{"g1 both", "g1 both", "", "", "0", ""},
		{"g1 clean", "g1 both", "g1 both", "", "0", ""},                                // stopped half-way through a clean stop
		{"g2 both", "g2 both", "g2 {1}", "", "1", ""},                                  // crashed in a join, before the witness
		{"g2 both", "g2 both", "g1 both", "", "0", ""},                                 // the witness could not be written then
		{"g2 both", "g2 both", "g3 {0}", "", CodeStale, "with another leg"},            // went on with one that is not here
		{"g2 both", "g2 both", "x9 {0}", "", CodeStale, "/dev/a"},                      // likewise
		{"g1 both damaged", "g1 both", "g1 both", "", "1", "did not verify"},           // the sound one
		{"g1 both", "g1 both damaged", "g1 {1}", "", "0", ""},                          // also against the witness's choice
		{"g1 both damaged", "g1 both damaged", "g1 both", "", "0", ""},                 //
		{"g1 both", "g1 both", "g1 both", "0", "1", ""},                                // an admin has taken one out
		{"g1 both", "g1 both damaged", "g1 both", "0", "1", ""},                        //
		{"g1 both", "g1 both", "g1 both", "01", CodeNoLeg, "ftctl bringup pci0/disk0"}, //
		{"g1 both", "g1 both", "foreign x9 {1}", "", "0", "not heeded"},

		// Both, one of them went on alone.
		{"g2 {0} missed:g1", "g1 both", "g2 {0}", "", "0", "went on alone"},
		{"g1 both", "g2 {1} missed:g1", "g2 {1}", "", "1", ""},
		{"g1 clean", "g2 {1}", "g2 {1}", "", "1", ""},
		{"g1 both", "g2 {1}", "g1 both", "", "1", ""}, // crashed before the witness
		{"g1 both", "g2 {1}", "", "", "1", ""},
		{"g1 both", "g3 {1}", "g2 {1}", "", "1", ""},
		{"g1 both", "g2 {1}", "g3 {1}", "", CodeStale, "never heard of"},
		{"g1 both", "g2 {1}", "g2 {0}", "", CodeStale, "went on alone in generation"},
		{"g1 both", "g2 {1}", "g2 {1}", "1", CodeStale, "ftctl bringup pci1/disk0"},
		{"g1 both", "g2 {1}", "g2 {1}", "0", "1", ""},
		{"g1 both", "g2 {1}", "g2 {1}", "01", CodeNoLeg, ""},
		{"g1 both", "g2 {1} damaged", "g2 {1}", "", "1", ""}, // damage does not make the other newer

		// Both, in the middle of a join.
		{"g2 {0} missed:g1", "g1 sync", "g2 {0}", "", "0", ""},
		{"g2 {0} missed:g1", "g2 both", "g2 {0}", "", "0", "in service alone"},
		{"g2 {0}", "g2 both", "", "", "0", ""},
		{"g2 {0}", "g2 both", "g1 both", "", "0", ""},
		{"g2 {0}", "g2 sync", "g2 {0}", "", "0", ""},
		{"g2 {0}", "g2 out", "g2 {0}", "", "0", ""},
		{"g1 {0} missed:-", "- new", "g1 {0}", "", "0", ""},
		{"g1 {0}", "- new", "", "", "0", ""},
		{"- new", "g1 {1}", "g1 {1}", "", "1", ""},
		{"g2 {0}", "g2 both", "g2 both", "", "1", "older than its time"}, // the witness was told after slot 0 was
		{"g2 {0}", "g2 both", "g2 {1}", "", CodeSplitBrain, ""},
		{"g2 {0} missed:h2", "h2 sync", "g2 {0}", "", "0", ""}, // overruled before, by its bitmap
		{"g1 {0} missed:g2", "g2 sync", "g1 {0}", "", "0", ""}, // likewise, and it was newer

		// The server was lost in the middle of a join, the joiner went on.
		{"g1 {0}", "g2 {1} missed:g1", "g2 {1}", "", "1", ""},
		{"g1 {0}", "g2 {1}", "g1 {0}", "", "0", "nothing was acknowledged"},
		{"g1 {0}", "g2 {1}", "g1 {0}", "0", CodeStale, "taken out"},
		{"g1 {0}", "g2 {1}", "", "", CodeSplitBrain, ""},
		{"", "g2 {1}", "g1 {0}", "", CodeStale, "not completed"},
		{"g1 both", "g3 {1}", "g2 {0}", "", CodeStale, "not completed"}, // the survivor of g2 is yet another leg
		{"g3 both", "g3 {1}", "g2 {0}", "", "1", ""},                    // it has joined since
		{"g1 {0}", "", "g2 {1}", "", CodeStale, "never heard of"},

		// Both were written alone.
		{"g2 {0}", "h2 {1}", "g2 {0}", "", CodeSplitBrain, "2 (6732…) ← 1 (6731…)"},
		{"g2 {0}", "h2 {1}", "", "", CodeSplitBrain, "the last that both have is 1 (6731…)"},
		{"g2 {0}", "h3 {1}", "h3 {1}", "", CodeSplitBrain, "ftctl resolve disk0 --keep pci0/disk0, or ftctl resolve disk0 --keep pci1/disk0"},
		{"g1 {0}", "g1 {1}", "g1 {0}", "", CodeSplitBrain, ""},
		{"g2 {0}", "x9 {1}", "", "", CodeSplitBrain, "no generation in common"},
		{"g2 {0}", "h2 sync", "g2 {0}", "", CodeSplitBrain, "mixture"},

		// Both, none whole.
		{"g2 sync", "g2 sync", "g2 {0}", "", CodeStale, "mixture"},
		{"g2 sync", "g1 both", "g2 {0}", "", CodeStale, "older still"},
		{"g1 sync", "- new", "", "", CodeStale, "mixture"},
		{"- new", "- new", "", "", CodeStale, "never been in service"},
		{"g2 out", "g2 out", "", "", CodeStale, "out of service when"},

		// One, whose partner was not the other.
		{"g2 both", "g1 both", "g2 both", "", CodeStale, "cannot vouch"},
		{"g2 clean", "g1 both", "g2 both", "", "0", "was not its partner"},
		{"g2 both", "g1 both", "g2 {0}", "", "0", ""},
		{"g2 both", "g2 sync", "g2 both", "", CodeStale, "cannot vouch"},

		// One alone: the witness names it.
		{"g2 {0}", "", "g2 {0}", "", "0", "witness names it"},
		{"g2 both", "", "g2 {0}", "", "0", "witness names it"},
		{"", "g2 {1}", "g2 {1}", "", "1", ""},
		{"", "g2 clean", "g2 {1}", "", "1", ""},
		// Its own word.
		{"g2 {0}", "", "", "", "0", "no witness"},
		{"g2 {0}", "", "g1 both", "", "0", "nothing newer"},
		{"g2 {0}", "", "foreign g1 {1}", "", "0", "another mirror"},
		{"g2 {0}", "", "g2 both", "", CodeStale, "after a restore"},
		// It was stopped cleanly.
		{"g2 clean", "", "g2 both", "", "0", "stopped cleanly"},
		{"", "g2 clean", "g2 both", "", "1", ""},
		{"g2 clean", "", "", "", CodeStale, "no witness"},
		{"g2 clean", "", "g1 both", "", CodeStale, "the witness is older"},
		// The rest.
		{"", "g2 both", "g2 both", "", CodeStale, "pci1/disk0 was in service together with pci0/disk0 when the box stopped without warning, and pci0/disk0 is missing: it may lack writes that pci0/disk0 has. Attach pci0/disk0, or take the risk with: ftctl resolve disk0 --keep pci1/disk0"},
		{"g2 both", "", "", "", CodeStale, "may lack writes"},
		{"g2 both", "", "g2 {1}", "", CodeStale, "pci1/disk0 went on alone"},
		{"g2 both", "", "g3 {1}", "", CodeStale, "with pci1/disk0 alone in service"},
		{"g2 clean", "", "g3 {1}", "", CodeStale, "never heard of"},
		{"g2 {0}", "", "g3 {0}", "", CodeStale, "never heard of"}, // resolved, or an old copy
		{"g2 {0}", "", "h2 {1}", "", CodeStale, "never heard of"},
		{"g2 {0}", "", "g2 {1}", "", CodeStale, "went on alone"},
		{"g2 sync", "", "g3 {1}", "", CodeStale, "mixture"},
		{"g2 sync", "", "g2 {0}", "", CodeStale, "mixture"},
		{"- new", "", "", "", CodeStale, "never been in service"},
		{"g2 {0}", "", "g2 {0}", "0", CodeNoLeg, "ftctl bringup pci0/disk0"},

		// What does not belong together.
		{"g2 {0}", "g2 {1} foreign", "", "", CodeUnfit, "disconnect the wrong one"},
		{"g2 {0}", "g2 {1} foreign", "g2 {0}", "", "0", "pci1/disk0 belongs to another mirror"},
		{"g2 {0} foreign", "g2 {1}", "g2 {1}", "", "1", ""},
		{"g2 {0} foreign", "g2 both", "g2 both", "", CodeStale, "may lack"},
		{"g2 both", "g2 both copy", "g2 both", "", CodeUnfit, "copies of each other"},
		{"g2 both other-slot", "g2 both other-slot", "g2 both", "", CodeUnfit, "exchanged"},
		{"g2 {1} other-slot", "", "g2 {1}", "", CodeUnfit, "exchange pci0 and pci1"},
		{"g2 {0}", "g1 {0} other-slot", "g2 {0}", "", "0", "an older one"},
		{"g1 both", "g2 {0} other-slot", "", "", CodeUnfit, "wrong one"},
		{"g2 {1} other-slot", "g2 {1}", "g2 {1}", "", CodeUnfit, ""},
		{"g2 {0}", "- new other-slot", "g2 {0}", "", "0", ""},
		{"g2 {0} foreign", "g2 {0} other-slot", "g2 {0}", "", CodeUnfit, "put it there"},
	} {
		name := fmt.Sprintf("%s|%s|witness %s|out %s", c.leg0, c.leg1, c.witness, c.out)
		t.Run(name, func(t *testing.T) {
			images := [2]*Image{testImage(t, 0, c.leg0), testImage(t, 1, c.leg1)}
			out := [2]bool{strings.Contains(c.out, "0"), strings.Contains(c.out, "1")}
			v := Assemble("disk0", images, testWitness(t, c.witness), out)
			got := v.Code
			switch {
			case v.Create:
				got = "create"
			case v.Code == "":
				got = fmt.Sprint(v.Serve)
			}
			if got != c.want {
				t.Fatalf("verdict %s, want %s\n%s\n%q", got, c.want, v.Sentence, v.Notes)
			}
			if (v.Serve >= 0) != (v.Code == "" && !v.Create) {
				t.Errorf("serves %d with code %q", v.Serve, v.Code)
			}
			if all := v.Sentence + "\n" + strings.Join(v.Notes, "\n"); !strings.Contains(all, c.says) {
				t.Errorf("it does not say %q:\n%s", c.says, all)
			}
			if strings.Contains(v.Sentence, "%!") || v.Sentence == "" {
				t.Errorf("bad sentence %q", v.Sentence)
			}
		})
	}
}

// Exchanging the slots exchanges the verdict, except where either would do.
func TestAssembleIsSymmetric(t *testing.T) {
	gens := []string{"", "- new", "g1 {0}", "g1 both", "g1 clean", "g1 sync", "g2 {0}", "g2 both", "g2 sync", "g2 out", "h2 {0}", "h2 both", "g3 {0}"}
	witnesses := []string{"", "g1 both", "g1 {0}", "g1 {1}", "g2 both", "g2 {0}", "g2 {1}", "h2 {0}", "g3 {1}"}
	turn := func(s string) string {
		return strings.NewReplacer("{0}", "{1}", "{1}", "{0}").Replace(s)
	}
	n := 0
	for _, a := range gens {
		for _, b := range gens {
			for _, w := range witnesses {
				b1 := turn(b) // written for slot 0
				v := Assemble("disk0", [2]*Image{testImage(t, 0, a), testImage(t, 1, b1)}, testWitness(t, w), [2]bool{})
				u := Assemble("disk0", [2]*Image{testImage(t, 0, b), testImage(t, 1, turn(a))}, testWitness(t, turn(w)), [2]bool{})
				either := v.Serve == 0 && u.Serve == 0 && strings.Contains(v.Sentence, "both legs are of the same generation")
				if v.Code != u.Code || v.Serve >= 0 && u.Serve != 1-v.Serve && !either {
					t.Errorf("%q, %q, witness %q: %d %s; exchanged: %d %s", a, b1, w, v.Serve, v.Sentence, u.Serve, u.Sentence)
				}
				if v.Serve >= 0 {
					n++
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d of the cases serve", n)
	}
}

func TestRelate(t *testing.T) {
	for _, c := range []struct {
		serving, joiner string // slots 0 and 1
		want            Relation
	}{
		{"g1 both missed:-", "g1 both", RelEqual},
		{"g1 both", "g1 clean", RelEqual},
		{"g1 both", "g1 {1}", RelAhead}, // slot 0 had joined it
		{"g1 both missed:g1", "g1 sync", RelBehindFull},
		{"g1 both missed:g1", "g1 out", RelBehindFull},
		{"g1 {0}", "g1 {1}", RelSplitBrain},

		{"g2 {0} missed:g1", "g1 both", RelBehind},
		{"g2 {0} missed:g1", "g1 sync", RelBehind},
		{"g2 {0} missed:g1", "g1 out", RelBehind},
		{"g2 {0} missed:g1", "g2 both", RelBehind}, // its join was not completed
		{"g2 {0} missed:g1", "g2 sync", RelBehind},
		{"g3 {0} missed:g1", "g2 both", RelBehindFull}, // counts from another generation
		{"g3 {0} missed:g2", "g1 both", RelBehindFull},
		{"g2 {0}", "g1 both", RelBehindFull}, // counts for another leg
		{"g2 {0}", "g1 sync", RelBehindFull},
		{"g2 {0}", "g2 both", RelBehindFull},
		{"g2 {0} missed:g1", "g1 {1}", RelBehindFull}, // it may have gone on in g1
		{"g1 {0} missed:-", "- new", RelBehind},
		{"g1 {0} missed:g1", "- new", RelBehindFull},
		{"g1 {0}", "- new", RelBehindFull},
		{"g2 {0} missed:h2", "h2 sync", RelBehind}, // overruled before
		{"g1 {0} missed:g2", "g2 sync", RelBehind}, // likewise
		{"g1 {0} missed:g2", "g2 {1}", RelAhead},   // its resync has not begun
		{"g2 {0} missed:h2", "h2 both", RelBehind}, // too old for the history, not for the bitmap
		{"g2 {0} missed:h2", "h2 {1}", RelSplitBrain},

		{"g1 both", "g2 {1}", RelAhead},
		{"g1 {0}", "g3 both", RelAhead},
		{"g1 {0}", "g2 sync", RelAhead}, // resynced from a leg that is newer still
		{"g2 {0}", "h2 {1}", RelSplitBrain},
		{"g2 {0}", "h2 sync", RelSplitBrain},
		{"g2 both", "x9 both", RelSplitBrain},
		{"- new", "g1 both", RelSplitBrain}, // no leg to serve

		{"g1 both", "g1 both foreign", RelForeign},
		{"g1 both", "g1 both larger", RelForeign},
		{"g1 both", "g1 both copy", RelSameLeg},
		{"g1 both", "g1 both other-slot", RelSameSlot},
	} {
		s, j := testSuper(t, 0, c.serving), testSuper(t, 1, c.joiner)
		if got := Relate(&s, &j); got != c.want {
			t.Errorf("%q serving, %q joining: %s, want %s", c.serving, c.joiner, got, c.want)
		}
		if text := Explain("disk0", &s, &j); text == "" || strings.Contains(text, "%!") {
			t.Errorf("bad sentence %q", text)
		}
	}
	// Both in each other's history: no program writes that.
	s, j := testSuper(t, 0, "g2 {0}"), testSuper(t, 1, "h2 {1}")
	s.History, j.History = []Generation{gen("h2")}, []Generation{gen("g2")}
	if got := Relate(&s, &j); got != RelSplitBrain {
		t.Errorf("each in the other's history: %s, want split-brain", got)
	}
}

func TestBump(t *testing.T) {
	sb := testSuper(t, 0, "g2 both")
	sb.Bump(UUID{7}, gen("h3"), gen("g1"), Generation{})
	if want := (Generation{Counter: 4, ID: UUID{7}}); sb.Generation != want {
		t.Errorf("generation %v, want %v", sb.Generation, want)
	}
	if want := []Generation{gen("g2"), gen("h3"), gen("g1")}; !slices.Equal(sb.History, want) {
		t.Errorf("history %v, want %v", sb.History, want)
	}
	before := sb.Clone()
	for i := range byte(HistoryLen + 5) {
		sb.Bump(UUID{8, i})
	}
	if len(sb.History) != HistoryLen || sb.Supersedes(gen("g2")) {
		t.Errorf("history %v has not been cut", sb.History)
	}
	if len(before.History) != 3 || !before.Supersedes(gen("g2")) {
		t.Errorf("a clone changed with its original: %v", before.History)
	}
}

// The codes are words that programs rely on, the same everywhere.
func TestCodesAreTheDriversOnes(t *testing.T) {
	for ours, theirs := range map[string]string{
		CodeStale: drivers.RuleStale, CodeSplitBrain: drivers.RuleSplitBrain, CodeUnfit: drivers.RuleUnfit,
	} {
		if ours != theirs {
			t.Errorf("code %q is %q in package drivers", ours, theirs)
		}
	}
}
