package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ft/chipset/campaign"
	"ft/chipset/duplex/workload"
	"ft/chipset/engine"
)

// writeWorkload makes a program that takes some 30,000 steps a round.
func writeWorkload(t *testing.T, rounds uint64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "workload")
	if err := os.WriteFile(path, workload.ELF(rounds), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// report takes steps and fingerprint out of what was said.
func report(said string) []string {
	return regexp.MustCompile(`(?m)^(steps|fingerprint) \S+$`).FindAllString(said, -1)
}

// On two modules a program does what it does on one, whatever happens to one of them, and what
// happened is said exactly.
func TestRunELFInLockstep(t *testing.T) {
	path, dir := writeWorkload(t, 10), t.TempDir()
	common := []string{"run-elf", path, "--memory", "128KiB", "--stats", "--fingerprint", "--signature"}
	code, out, errs := runRole(append(common, filepath.Join(dir, "alone"))...)
	if code != 0 {
		t.Fatalf("alone: exit code %d, said %q", code, errs)
	}
	alone, want := out, report(errs)
	signature, err := os.ReadFile(filepath.Join(dir, "alone"))
	if err != nil || len(want) != 2 {
		t.Fatal(err, errs)
	}
	for _, c := range []struct {
		faults []string
		says   []string
	}{
		{},
		{[]string{"cpu1 flip-register x9 3 --at-step 100000"}, []string{"cpu1 was shot (compare)", "cpu1 differed first at step 100000 (pc 0x", "register x9 0x", "cpu1 is in lockstep again"}},
		{[]string{"cpu0 flip-csr mtvec 9 --at-step 70007"}, []string{"cpu0 differed first at step 70007", "CSR Mtvec 0x80000204, not 0x80000004"}},
		{[]string{"cpu0 flip-memory 0x8001f008 2 --at-step 90000"}, []string{"cpu0 was shot (patrol)", "memory at 0x8001f008 0x4, not 0x0; nothing has used it"}},
		{[]string{"cpu1 stuck x8 4 --at-step 120000"}, []string{"cpu1 differed first at step", "cpu1 is not taken in (self-test)"}},
		{[]string{"cpu1 wrong-result divide --at-step 50000"}, []string{"cpu1 differed first at step", "operation class divide"}},
		{[]string{"cpu1 kill --at-step 60000"}, []string{"cpu1: the fault is in at step 60000: its process was killed", "cpu1 was shot (died)", "cpu1 is in lockstep again"}},
		{
			// So far apart that none comes before the one before it was noticed.
			[]string{"cpu0 flip-register x8 1 --at-step 30000", "cpu1 lose-store --at-step 130000", "cpu0 flip-pc 12 --at-step 250000"},
			[]string{"cpu0 differed first at step 30000", "cpu1 differed first at step 13", "cpu0 differed first at step 250000"},
		},
	} {
		t.Run(strings.Join(c.faults, ", "), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "signature")
			args := append(common, file, "--lockstep")
			for _, f := range c.faults {
				args = append(args, "--inject", f)
			}
			code, out, errs := runRole(args...)
			if got := report(errs); code != 0 || out != alone || strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("exit code %d, printed %q, said %q; want %q and %q", code, out, errs, alone, want)
			}
			for _, says := range c.says {
				if !strings.Contains(errs, says) {
					t.Errorf("said %q; want %q", errs, says)
				}
			}
			if len(c.faults) == 0 && strings.Contains(errs, "ftd:") {
				t.Errorf("without a fault: %q", errs)
			}
			if got, err := os.ReadFile(file); err != nil || string(got) != string(signature) {
				t.Errorf("%v; the signature is another one", err)
			}
		})
	}
}

// Where both are wrong, nothing is guessed, unless the user says whom to believe.
func TestRunELFInLockstepUndecided(t *testing.T) {
	args := []string{"run-elf", writeWorkload(t, 8), "--memory", "16MiB", "--lockstep",
		"--inject", "cpu0 flip-memory 0x80f00000 1 --at-step 150000", "--inject", "cpu1 flip-memory 0x80f00008 1 --at-step 150000"}
	code, _, errs := runRole(args...)
	if code != exitUndecided || !strings.Contains(errs, "nothing could be decided") || !strings.Contains(errs, "cannot go on after") {
		t.Errorf("exit code %d, said %q", code, errs)
	}
	code, _, errs = runRole(append(args, "--undecided", "cpu1")...)
	if code != 0 || !strings.Contains(errs, "cpu0 was shot (undecided)") {
		t.Errorf("--undecided cpu1: exit code %d, said %q", code, errs)
	}
}

// A program's end and its status are the same on two modules.
func TestRunELFInLockstepEndsAsTheProgramDoes(t *testing.T) {
	for status, want := range map[int64]int{3: 3, 1337: 255} {
		code, out, errs := runRole("run-elf", writeProgram(t, status, true), "--lockstep", "--memory", "64KiB")
		if code != want || out != "x" || !strings.Contains(errs, "ended with status") {
			t.Errorf("status %d: exit code %d, printed %q, said %q", status, code, out, errs)
		}
	}
	code, out, errs := runRole("run-elf", writeProgram(t, 0, false), "--lockstep", "--memory", "64KiB", "--max-steps", "1000")
	if code != exitUnfinished || out != "x" || !strings.Contains(errs, "has not ended") {
		t.Errorf("an endless program: exit code %d, printed %q, said %q", code, out, errs)
	}
}

// Every kind of fault is found and named rightly, or is proved to be gone.
func TestCampaign(t *testing.T) {
	path := writeWorkload(t, 4)
	code, out, errs := runRole("campaign", path, "--faults", "33", "--seed", "7", "--json")
	var r campaign.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v; %s", err, errs)
	}
	if code != 0 || r.Total.Injected+r.Total.NotIn != 33 || len(r.Rows) != len(campaign.Kinds) || r.Total.Named != r.Total.Detected || r.Total.Healthy != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
	for _, row := range r.Rows {
		if row.Injected+row.NotIn != 3 || row.Outcomes[campaign.Pending]+row.Outcomes[campaign.Escaped] != 0 {
			t.Errorf("%s: %+v", row.Kind, row)
		}
	}
	code, out, _ = runRole("campaign", path, "--faults", "1", "--kinds", "kill")
	if code != 0 || !strings.Contains(out, "found and named rightly") || !strings.Contains(out, "healthy shot") {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func TestCampaignRefusals(t *testing.T) {
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{exitUsage, "needs a FILE", nil},
		{exitUsage, `no fault "rust"`, []string{"x", "--kinds", "rust"}},
		{exitUsage, "0 faults are none", []string{"x", "--faults", "0"}},
		{exitFailed, "no such file", []string{filepath.Join(t.TempDir(), "none")}},
		{exitFailed, "does not end within 5000 steps", []string{writeProgram(t, 0, false), "--max-steps", "5000"}},
	} {
		code, out, errs := runRole(append([]string{"campaign"}, c.args...)...)
		if code != c.code || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%q: exit code %d, printed %q, said %q; want %d and %q", c.args, code, out, errs, c.code, c.want)
		}
	}
}

// With an engine of its own in each module, they are alike; and code that crashes is a fault of
// the module that runs it, told with the guest's pc.
func TestRunELFUnlike(t *testing.T) {
	if _, err := engine.Unlike.Of(); err != nil {
		t.Skip(err)
	}
	code, _, errs := runRole("run-elf", writeWorkload(t, 10), "--memory", "128KiB", "--lockstep", "--engine", "unlike", "--inject", "cpu1 bad-code --at-step 60000")
	for _, say := range []string{"cpu1 was shot (died)", "translated code crashed", "pc 0x8000", "cpu1 is in lockstep again"} {
		if !strings.Contains(errs, say) {
			t.Errorf("exit code %d, no %q in %q", code, say, errs)
		}
	}
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
}
