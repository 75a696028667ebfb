package lockstep

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutants are cores that are broken in one place. The simulation has to find each of them, or it
// does not test what it is there for.
var mutants = []struct{ name, file, old, new string }{
	{"outputs leave before both have sent them", "compare.go", "if n == 2 && front[0].sum != front[1].sum {", "if n == 2 && front[0].sum != front[1].sum && false {"},
	{"what was released is released again after a trial", "judge.go", "for i := t.agreed; i < len(right)", "for i := 0; i < len(right)"},
	{"outputs sent so far are forgotten when a trial begins", "trial.go", "m.got = nil // but", "m.got, m.outputs = nil, nil // but"},
	{"the first answer decides", "judge.go", "return result, most > 1 && !draw", "return c.trial.votes[0].sums, most > 0 || draw"},
	{"both are told wrong that were right", "judge.go", "return t.damage[s] == nil && slices.Equal(t.first[s], result)", "return false"},
	{"the referee's memory is not looked at", "trial.go", "case heard.state != c.start || !c.agreedMemory(heard.pages):", "case false:"},
	{"a partner's death settles it", "trial.go", "case !t.stands[s.Other()]:", "case t.stage == replaying && t.stands[s.Other()] && len(t.runs[s.Other()]) == len(t.asked):\n\t\tc.goOn(t.standing())\n\tcase !t.stands[s.Other()]:"},
	{"pages written during the last round are not copied", "join.go", "j.stage, j.ended = joinMoving, *r\n\t\tc.request(j.from, Command{Verb: Save})\n\t\tc.copyWritten()", "j.stage, j.ended = joinMoving, *r\n\t\tc.request(j.from, Command{Verb: Save})\n\t\tc.copyRound([]uint32{}, 0)"},
	{"pages written while memory is copied are not noted", "compare.go", "\tc.joinDirty(r.Pages)\n", ""},
	{"the machine runs on while the rest is moved", "join.go", "c.join.stage >= joinClosing\n", "c.join.stage == joinClosing\n"},
	{"equal before the pages written are compared", "patrol.go", "c.patrol.through, c.full = true, true", "c.patrol.alone()\n\t\tc.hands.Report(Event{Kind: Equal, Side: c.patrol.side})"},
	{"pages are agreed on by the patrol alone", "compare.go", "c.table[p.Index] = p.Digest", "_ = p"},
	{"typed bytes in the stream are forgotten", "core.go", "room -= t.bytes", "room -= 0 * t.bytes"},
	{"a module may keep more epochs than it can", "core.go", "if c.epochDue() && c.ends >= endsMax {", "if c.epochDue() && c.ends >= 99 {"},
	{"the way back is never given up", "compare.go", "commit := Command{Verb: Commit, A: c.logEpoch}", "commit := Command{Verb: Commit, A: 1}"},
	{"the epoch of a guest that rests never ends", "patrol.go", "if c.epochDue() && len(c.log) > 0 {", "if false {"},
	{"every successor counts its requests from 1", "adopt.go", "	c.requests = c.number << 20", "	c.requests = 0"},
	{"what was not answered is not let out again", "adopt.go", "c.hands.Release(&a.emitted.outputs[i])", "_ = i"},
	{"two that differ after the chipset's death are both believed", "adopt.go", "if x.table[i] != y.table[i] {", "if false {"},
	{"a successor's epochs follow the predecessor's", "adopt.go", "		a.loading = true\n		for _, s := range c.adopting() {\n			c.request(s, Command{Verb: Load, A: c.epoch, Data: a.of[s].saved.Data})\n		}\n", "		c.adopted(c.adopting())\n"},
	{"pages written before the death are compared", "adopt.go", "ans.record.Number, ans.record.Dirty = c.number, 0", "ans.record.Number = c.number"},
	{"the mark is not of the stream", "adopt.go", "	c.number = number + 1\n", "	c.number = number\n"},
	{"a module that goes while it is adopted is waited for", "adopt.go", "		return\n	}\n	c.adoptStep()\n}\n", "		return\n	}\n}\n"},
	{"a witness that has died is waited for", "trial.go", "case t.stage == saving && t.witness == s:", "case false:"},
}

// TestMutants builds and simulates every mutant with MUTANTS=all, one with MUTANTS=its name, and
// the first, which is found fast, otherwise.
func TestMutants(t *testing.T) {
	which := os.Getenv("MUTANTS")
	for i, m := range mutants {
		if which == "" && i >= 1 || which != "" && which != "all" && which != m.name {
			continue
		}
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			source, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(string(source), m.old) != 1 {
				t.Fatalf("%s has %q %d times: mend the table of mutants", m.file, m.old, strings.Count(string(source), m.old))
			}
			dir := t.TempDir()
			broken, overlay := filepath.Join(dir, m.file), filepath.Join(dir, "overlay.json")
			if err := os.WriteFile(broken, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o644); err != nil {
				t.Fatal(err)
			}
			original, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			list, err := json.Marshal(map[string]any{"Replace": map[string]string{original: broken}})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(overlay, list, 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("go", "test", "-vet=off", "-failfast", "-timeout=120s", "-overlay", overlay, "-run", "^TestOne|^TestA|^TestBoth|^TestFaults|^TestMachines", ".")
			out, err := cmd.CombinedOutput()
			switch {
			case err == nil:
				t.Errorf("it was not found:\n%s", out)
			case !strings.Contains(string(out), "--- FAIL") && !strings.Contains(string(out), "panic:"):
				t.Errorf("it could not be tried:\n%s", out)
			default:
				for line := range strings.Lines(string(out)) {
					if strings.Contains(line, "seed ") || strings.HasPrefix(line, "panic:") {
						t.Log(strings.TrimSpace(line))
						break
					}
				}
			}
		})
	}
}
