package testbox

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestRoleOfACommandLine(t *testing.T) {
	for _, c := range []struct {
		line string
		want role // "" is none
	}{
		{"ftd keeper --run /run/ft", roleKeeper},
		{"/usr/sbin/ftd keeper --run /run/ft", roleKeeper},
		{"ftd driver mirror disk0 --config /run/ft/drivers/disk0.json", roleDriver},
		{"ftd --config /box/ft.toml --socket /run/ft/ftd.sock --no-keeper", roleControl},

		{"ftd --testbox /box --socket /run/ft/ftd.sock", ""},
		{"ftctl --socket /run/ft/ftd.sock status", ""},
		{"vi keeper --run /run/ft", ""},
		{"ftd version", ""},
		{"ftd", ""},
	} {
		got, ok := roleOf(strings.Fields(c.line))
		if !ok {
			got = ""
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.line, got, c.want)
		}
	}
}

// Two boxes on the same machine do not take each other's processes for their own.
func TestOnlyProcessesOfTheBoxAreItsOwn(t *testing.T) {
	mine, others := t.TempDir(), t.TempDir()
	pids := map[string]int{}
	for _, dir := range []string{mine, others} {
		cmd := exec.Command("/bin/sh")
		cmd.Args = []string{"ftd", "-c", "read line"} // looks like a control daemon
		cmd.Env = append(os.Environ(), mark(dir))
		in, err := cmd.StdinPipe() // it ends when this is closed
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pids[dir] = cmd.Process.Pid
		reaped := make(chan struct{})
		go func() { defer close(reaped); _ = cmd.Wait() }()
		t.Cleanup(func() { in.Close(); <-reaped })
	}
	for _, dir := range []string{mine, others} {
		got, err := processesOf(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0].pid != pids[dir] {
			t.Fatalf("processes of %s: %v, want only %d", dir, got, pids[dir])
		}
	}
	if left, err := killAll(mine, 10*time.Second, roleControl); err != nil || len(left) > 0 {
		t.Fatalf("left %v, %v", left, err)
	}
	if got, err := processesOf(others); err != nil || len(got) != 1 {
		t.Errorf("the other box's processes: %v, %v", got, err)
	}
}
