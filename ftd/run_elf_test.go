package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ft/chipset/firmware"
	"ft/chipset/rv64/oracle/asm"
)

// writeProgram makes a program that prints "x", fills its signature and ends with a status,
// or never.
func writeProgram(t *testing.T, status int64, ends bool) string {
	t.Helper()
	c := asm.New(firmware.RAMBase)
	c.Label("start")
	send := func(v uint64) {
		c.Li(asm.T0, v)
		c.Li(asm.T1, firmware.RAMBase+512)
		c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
	}
	send(1<<56 | 1<<48 | 'x')
	c.Li(asm.T0, 0x1122_3344_5566_7788)
	c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1, Imm: 16})
	if ends {
		send(uint64(status)<<1 | 1)
	}
	c.Label("loop")
	c.To("jal", asm.Args{}, "loop")
	c.Align(512)
	for _, label := range []string{"tohost", "fromhost", "begin_signature"} {
		c.Label(label)
		c.Word(0)
	}
	c.Label("end_signature")
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, c.ELF("start", 0), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// runRole is a command line's exit code and what it wrote.
func runRole(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(args, &o, &e)
	return code, o.String(), e.String()
}

func TestRunELFEndsAsTheProgramDoes(t *testing.T) {
	for status, want := range map[int64]int{0: 0, 1: 1, 3: 3, 255: 255, 256: 255, 1337: 255, -1: 255} {
		code, out, errs := runRole("run-elf", writeProgram(t, status, true))
		if code != want || out != "x" || (want == 0) != (errs == "") {
			t.Errorf("status %d: exit code %d, printed %q, said %q", status, code, out, errs)
		}
	}
	endless := writeProgram(t, 0, false)
	code, out, errs := runRole("run-elf", endless, "--max-steps", "1000")
	if code != exitUnfinished || out != "x" || !strings.Contains(errs, "has not ended after 1000 steps") {
		t.Errorf("an endless program: exit code %d, printed %q, said %q", code, out, errs)
	}
}

func TestRunELFWritesTheSignature(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signature")
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "55667788\n11223344\n"},
		{[]string{"--signature-granularity", "8"}, "1122334455667788\n"},
		{[]string{"--signature-granularity=16"}, "00000000000000001122334455667788\n"},
	} {
		// A test that fails has a signature too.
		code, _, errs := runRole(append([]string{"run-elf", "--signature", path, writeProgram(t, 5, true)}, c.args...)...)
		got, err := os.ReadFile(path)
		if code != 5 || err != nil || string(got) != c.want {
			t.Errorf("%q: exit code %d, %q, %v, said %q", c.args, code, got, err, errs)
		}
	}
}

func TestRunELFReports(t *testing.T) {
	path := writeProgram(t, 0, true)
	code, out, errs := runRole("run-elf", path, "--stats", "--fingerprint", "--memory", "1MiB")
	if want := regexp.MustCompile(`^steps \d+\nseconds \d+\.\d+\nsteps/s \d+\nfingerprint [0-9a-f]{16}\n$`); code != 0 || out != "x" || !want.MatchString(errs) {
		t.Errorf("exit code %d, printed %q, said %q", code, out, errs)
	}
	_, _, again := runRole("run-elf", path, "--fingerprint")
	if !strings.HasSuffix(errs, again) {
		t.Errorf("the fingerprint is %q with other memory, and was %q", again, errs)
	}
}

func TestRunELFRefusals(t *testing.T) {
	path := writeProgram(t, 0, true)
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{exitUsage, "needs a FILE", nil},
		{exitUsage, `unexpected argument "more"`, []string{path, "more"}},
		{exitUsage, "not defined", []string{path, "--nonsense"}},
		{exitUsage, `no engine "magic"`, []string{path, "--engine", "magic"}},
		{exitUsage, "want a side and a fault", []string{path, "--lockstep", "--inject", "x"}},
		{exitUsage, "want a side and a fault", []string{path, "--lockstep", "--inject", "cpu2 kill"}},
		{exitUsage, `no fault "rust"`, []string{path, "--lockstep", "--inject", "cpu1 rust"}},
		{exitUsage, "no CSR", []string{path, "--lockstep", "--inject", "cpu1 flip-csr magic"}},
		{exitUsage, "no bit 9", []string{path, "--lockstep", "--inject", "cpu1 flip-memory 0x80000000 9"}},
		{exitUsage, "no memory at 0x90000000", []string{path, "--lockstep", "--inject", "cpu1 flip-memory 0x90000000"}},
		{exitUsage, "wants a number", []string{path, "--lockstep", "--inject", "cpu1 kill --at-step soon"}},
		{exitUsage, "clear is no fault", []string{path, "--lockstep", "--inject", "cpu1 clear"}},
		{exitUsage, "--lockstep runs it so", []string{path, "--inject", "cpu1 kill"}},
		{exitUsage, "--lockstep runs it so", []string{path, "--rejoin=no"}},
		{exitUsage, "stop, cpu0 or cpu1", []string{path, "--lockstep", "--undecided", "both"}},
		{exitUsage, "yes or no", []string{path, "--lockstep", "--rejoin=maybe"}},
		{exitUsage, "multiple of 4KiB", []string{path, "--memory", "5000"}},
		{exitUsage, "multiple of 4KiB", []string{path, "--memory", "128GiB"}},
		{exitUsage, "max-steps", []string{path, "--max-steps", "-1"}},
		{exitUsage, "1 to 1024 bytes", []string{path, "--signature-granularity", "0"}},
		{exitFailed, "no such file", []string{filepath.Join(t.TempDir(), "none")}},
		{exitFailed, "no regular file", []string{t.TempDir()}},
		{exitFailed, "is no ELF", []string{"/etc/passwd"}},
		{exitFailed, "write the signature", []string{path, "--signature", "/nowhere/at/all"}},
	} {
		code, out, errs := runRole(append([]string{"run-elf"}, c.args...)...)
		if code != c.code || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%q: exit code %d, printed %q, said %q; want %d and %q", c.args, code, out, errs, c.code, c.want)
		}
	}
	code, out, errs := runRole("run-elf", "--help")
	if code != 0 || errs != "" || !strings.Contains(out, "Exit status") || !strings.Contains(out, "interpret") {
		t.Errorf("--help: exit code %d, %q, %q", code, out, errs)
	}
}
