package sim

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ft/mirror"
)

var (
	scriptFile = flag.String("sim.script", "", "a script to be run")
	shrinkTo   = flag.String("sim.shrink", "", "a directory: TestDefectsFound writes there a short script for each mistake")
	defectName = flag.String("sim.defect", "", "with sim.script: the mistake of the engine, by its name in defect_test.go")
)

// keepShrunk writes the script of a mistake that was found.
func keepShrunk(t *testing.T, cfg Config, name string, seed uint64) {
	sane := NewRunner(Config{New: sound})
	s := shrunk(cfg, seed, func(s *Script) bool { return sane.RunScript(s).Err == nil }, Budget{Tries: shrinkTries, Until: time.Now().Add(shrinkTime)})
	if s == nil {
		t.Logf("seed %d does not fail as a script", seed)
		return
	}
	s.Note = name + "\n" + s.Note
	file := filepath.Join(*shrinkTo, strings.ReplaceAll(name, " ", "-")+".script")
	if err := os.WriteFile(file, []byte(s.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d steps in %s", len(s.steps), file)
}

// Limits of the shrinking of a seed that failed.
const (
	shrinkTries = 5000
	shrinkTime  = 2 * time.Minute
)

// shrunk is a seed that fails as a short script, nil when it does not fail as one.
// also, when not nil, is what else must be true of it.
func shrunk(cfg Config, seed uint64, also func(*Script) bool, b Budget) *Script {
	res, s := NewRunner(cfg).Record(seed)
	if res.Err == nil {
		return nil
	}
	cfg.CrashAt, cfg.Calm, cfg.Trace, cfg.History = 0, false, nil, nil
	r := NewRunner(cfg)
	if again := r.RunScript(s); again.Err == nil || failureKind(again.Err) != failureKind(res.Err) {
		return nil
	}
	s = Shrink(s, func(s *Script) Result {
		res := r.RunScript(s)
		if res.Err != nil && also != nil && !also(s) {
			return Result{}
		}
		return res
	}, b)
	s.Note = fmt.Sprintf("%v", trim(r.RunScript(s).Err))
	return s
}

// TestScript runs the script that is named by -sim.script.
func TestScript(t *testing.T) {
	if *scriptFile == "" {
		t.Log("no -sim.script: those in testdata are run by TestScriptsOfDefects")
		return
	}
	text, err := os.ReadFile(*scriptFile)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseScript(string(text))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{New: sound, Trace: func(line string) { fmt.Fprintln(os.Stderr, line) }}
	if *defectName != "" {
		cfg.New = defective(defectNamed(t, *defectName).defect)
	}
	if res := NewRunner(cfg).RunScript(s); res.Err != nil {
		t.Error(res.Err)
	}
}

// Stored scripts, testdata/*.script, each the shortest way to a mistake that was found: with
// the mistake it must be found again, and without it nothing. The first line names it.
func TestScriptsOfDefects(t *testing.T) {
	files, err := filepath.Glob("testdata/*.script")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := ParseScript(string(text))
			if err != nil {
				t.Fatal(err)
			}
			name, _, _ := strings.Cut(s.Note, "\n")
			d := defectNamed(t, name)
			good, bad := NewRunner(Config{New: sound}), NewRunner(Config{New: defective(d.defect)})
			found := false
			for noise := range uint64(scriptNoises) {
				c := *s
				c.noise += noise
				if res := good.RunScript(&c); res.Err != nil {
					t.Fatalf("without the mistake, with noise %d: %v", c.noise, res.Err)
				}
				if !found {
					found = bad.RunScript(&c).Err != nil
				}
			}
			if !found {
				t.Error("the mistake is not found any more")
			}
		})
	}
}

// scriptNoises is with how many kinds of chance a stored script is tried: what it depends on
// may move a little when the engine changes.
const scriptNoises = 20

func defectNamed(t *testing.T, name string) (d struct {
	name   string
	defect mirror.Defect
	theme  Theme
}) {
	t.Helper()
	for _, d := range defects {
		if d.name == name {
			return d
		}
	}
	t.Fatalf("there is no mistake %q", name)
	return d
}

// A seed that is written down is the same run, and so is what is read of what was written.
func TestScriptsAreTheirSeeds(t *testing.T) {
	r := NewRunner(Config{New: sound})
	same := 0
	const n = 30
	for seed := uint64(1); seed <= n; seed++ {
		res, s := r.Record(seed)
		read, err := ParseScript(s.String())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if read.String() != s.String() {
			t.Errorf("seed %d: the script reads as another one", seed)
		}
		if again := r.RunScript(read); again.Err != nil {
			t.Errorf("seed %d as a script: %v", seed, again.Err)
		} else if again.Stats.Requests >= res.Stats.Requests*9/10 {
			same++
		}
	}
	if same < n*9/10 {
		t.Errorf("only %d of %d scripts are their seeds", same, n)
	}
}
