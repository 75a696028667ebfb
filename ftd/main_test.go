package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ft/chipset/backplane"
	"ft/drivers/host"
	"ft/ftd/alarm"
)

// TestMain lets the test's own program be the CPU modules and the guards of hooks of the
// programs under test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == backplane.Role || os.Args[1] == alarm.Role) {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestCommandLineMistakesAreUsage(t *testing.T) {
	for _, args := range [][]string{
		{"nonsense"},
		{"--nonsense"},
		{"version", "now"},
		{"keeper", "--config", "x"},
		{"keeper", "extra"},
		{"driver"},
		{"driver", "mirror"},
		{"driver", "mirror", "disk0"},
		{"driver", "mirror", "--config", "x"},
		{"driver", "bond", "net0", "--netns", "x"},
		{"cpu-module"},
		{"cpu-module", "2"},
		{"--testbox", ""},
		{"--clean"},
		{"--testbox", "box", "--config", "x"},
		{"--testbox", "box", "--guest", "windows"},
		{"--testbox", "box", "--clean", "--guest", "bare"},
		{"--guest", "none"},
		{"--check-config", "extra"},
	} {
		var out, errs bytes.Buffer
		if code := run(args, &out, &errs); code != exitUsage {
			t.Errorf("ftd %q: exit code %d, want %d", args, code, exitUsage)
		}
		if !strings.Contains(errs.String(), "ftd keeper") || out.Len() > 0 {
			t.Errorf("ftd %q: want the usage on stderr alone, got %q and %q", args, errs.String(), out.String())
		}
	}
}

// A driver whose namespace is not there yet ends, so that the keeper tries again.
func TestADriverWithoutItsNamespaceEnds(t *testing.T) {
	var out, errs bytes.Buffer
	code := run([]string{"driver", "bond", "net0", "--config", "/nowhere", "--netns", "ft-no-such-namespace"}, &out, &errs)
	if code != host.ExitFailed || !strings.Contains(errs.String(), "there is no such network namespace: ft-no-such-namespace (/run/netns/ft-no-such-namespace)") {
		t.Errorf("exit code %d, %q", code, errs.String())
	}
}

func TestHelpAndVersionAreNoMistakes(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"--help"}, {"version"}, {"keeper", "-h"}} {
		var out, errs bytes.Buffer
		if code := run(args, &out, &errs); code != exitDone || out.Len() == 0 || errs.Len() > 0 {
			t.Errorf("ftd %q: exit code %d, output %q, errors %q", args, code, out.String(), errs.String())
		}
	}
}

// What is wrong with a configuration is said with file and line, and is exit code 1.
func TestCheckConfig(t *testing.T) {
	dir := t.TempDir()
	leg := [2]string{filepath.Join(dir, "a.img"), filepath.Join(dir, "b.img")}
	for i, l := range leg {
		if err := os.WriteFile(l, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(l, int64(64+64*i)<<20); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, text string
		code       int
		says       string
	}{
		{"no such file", "", exitFailed, "--testbox"},
		{"not TOML", "[system]\nname\n", exitFailed, "ft.toml:2:"},
		{"unknown key", "[system]\nname = \"box\"\ncolour = 1\n", exitFailed, "ft.toml:3:"},
		{"missing leg", "[[disk]]\nname = \"disk0\"\npci0 = \"" + leg[0] + "\"\npci1 = \"" + dir + "/none\"\n", exitFailed, "ft.toml:4:"},
		{"legs of different size", "[[disk]]\nname = \"disk0\"\npci0 = \"" + leg[0] + "\"\npci1 = \"" + leg[1] + "\"\n", exitFailed, "differ in size"},
		{"good", "[[disk]]\nname = \"disk0\"\npci0 = \"" + leg[0] + "\"\n", exitDone, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ft.toml")
			if c.text != "" {
				if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var out, errs bytes.Buffer
			if code := run([]string{"--config", path, "--check-config"}, &out, &errs); code != c.code {
				t.Errorf("exit code %d, want %d; %s", code, c.code, errs.String())
			}
			if !strings.Contains(errs.String(), c.says) {
				t.Errorf("said %q, want %q in it", errs.String(), c.says)
			}
		})
	}
}

func TestAlarmsCanBeTried(t *testing.T) {
	for _, c := range []struct {
		name, hook string // the script's body, "" for no hook
		code       int
		says       string
	}{
		{"heard", "cat", exitDone, "was told"},
		{"not heard", "echo the line is dead; exit 3", exitFailed, "the line is dead"},
		{"nobody to hear", "", exitFailed, "set hook or syslog"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path, hook := filepath.Join(dir, "ft.toml"), filepath.Join(dir, "hook")
			text := "[alarms]\n"
			if c.hook != "" {
				text += "hook = \"" + hook + "\"\n"
				if err := os.WriteFile(hook, []byte("#!/bin/sh\n"+c.hook+"\n"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			if code := run([]string{"--config", path, "--test-alarm"}, &out, &errs); code != c.code {
				t.Errorf("exit code %d, want %d; %s", code, c.code, errs.String())
			}
			if said := out.String() + errs.String(); !strings.Contains(said, c.says) {
				t.Errorf("said %q, want %q in it", said, c.says)
			}
		})
	}
}
