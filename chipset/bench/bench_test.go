package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		line, name   string
		text         string
		ok, answered bool
	}{
		{"end float 7d31", "float", "7d31", true, true},
		{"end address", "address", "", true, true},
		{"end disk 01 02", "disk", "01 02", true, true},
		{"failed disk: open /dev/vda: no such device", "disk", "open /dev/vda: no such device", false, true},
		{"end floating 1", "float", "", false, false},
		{"failed float", "float", "", false, false},
		{"[    3.1] end float 1", "float", "", false, false},
		{"end disk 1", "float", "", false, false},
	} {
		if text, ok, answered := answer(c.line, c.name); text != c.text || ok != c.ok || answered != c.answered {
			t.Errorf("%q to %q: %q, %v, %v", c.line, c.name, text, ok, answered)
		}
	}
}

// console is a program's end of a conversation, which answers as the test has it.
func console(t *testing.T, answers func(command string) []string) *talk {
	t.Helper()
	commands, to := io.Pipe()
	from, says := io.Pipe()
	go func() {
		defer says.Close()
		for s := bufio.NewScanner(commands); s.Scan(); {
			lines := answers(s.Text())
			if lines == nil {
				return
			}
			for _, line := range lines {
				fmt.Fprint(says, line, "\r\n")
			}
		}
	}()
	t.Cleanup(func() { to.Close() })
	return newTalk(to, from)
}

// What a guest's kernel says in between is no answer, and is shown to whoever reads of a
// failure.
func TestConversation(t *testing.T) {
	c := console(t, func(command string) []string {
		switch command {
		case "float 2":
			return []string{"[ 4.5] random: crng init done", "end float 2a"}
		case "disk read":
			return []string{"[ 5.5] I/O error", "failed disk: input/output error"}
		}
		return nil
	})
	if result, err := c.ask("float 2"); result != "2a" || err != nil {
		t.Errorf("%q, %v", result, err)
	}
	if _, err := c.ask("disk read"); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("a failure: %v", err)
	}
	if _, err := c.ask("end"); err == nil || !strings.Contains(err.Error(), "it has ended") || !strings.Contains(err.Error(), "[ 5.5] I/O error") {
		t.Errorf("an end: %v", err)
	}
}

// The program as this computer has it, asked as guests are.
func TestProgramAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	if err := build(runtime.GOARCH, path); err != nil {
		t.Fatal(err)
	}
	c, err := startProgram(hostName, exec.Command(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
	if err := c.awaitLine(ready); err != nil {
		t.Fatal(err)
	}
	for _, p := range pieces {
		name, _, _ := strings.Cut(p.command, " ")
		first, took, err := c.do(name + " 1")
		if err != nil {
			t.Fatal(err)
		}
		if again, err := c.ask(name + " 1"); again != first || err != nil {
			t.Errorf("%s answers %s, then %s (%v)", name, first, again, err)
		}
		if more, err := c.ask(name + " 2"); more == first || err != nil {
			t.Errorf("%s answers %s to half as much work too (%v)", name, more, err)
		}
		if took.cpu() <= 0 || took.wall <= 0 || took.steps != 0 {
			t.Errorf("%s took %+v", name, took)
		}
	}
	for _, wrong := range []string{"dance", "float", "float much", "disk paint /dev/null 4096 1 1 1"} {
		if _, err := c.ask(wrong); err == nil {
			t.Errorf("%q is done", wrong)
		}
	}
	r, err := c.readClock()
	if off := time.Duration(time.Now().UnixNano()) - r.guest; err != nil || off < 0 || off > time.Minute {
		t.Errorf("this computer's clock is off by %v (%v)", off, err)
	}
}

func TestClocksAreCompared(t *testing.T) {
	now := time.Now()
	first := reading{guest: time.Hour, at: now, doubt: time.Millisecond}
	second := reading{guest: time.Hour + 9990*time.Millisecond, at: now.Add(10 * time.Second), doubt: 3 * time.Millisecond}
	if off, doubt := second.against(first); math.Abs(off+0.001) > 1e-9 || math.Abs(doubt-0.0004) > 1e-9 {
		t.Errorf("off by %v, in doubt %v", off, doubt)
	}
}

func TestRows(t *testing.T) {
	r := newRow("integers", "M/s")
	r.least, r.remark = "0.35", "1.00 G steps"
	for _, round := range [][2]float64{{800, 400}, {1000, 300}, {900, 360}} {
		r.add(0, round[0])
		r.add(1, round[1])
		r.compare(r.ratio(1, 0))
	}
	if got, want := strings.Fields(r.String()), "integers 900 M/s 360 M/s 0.400 0.30-0.50 0.35 (1.00 G steps)"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	first := newRow("no ratio", "%")
	first.add(0, 0.5)
	if got := strings.Join(strings.Fields(first.String()), " "); got != "no ratio 0.500 %" {
		t.Errorf("%q", got)
	}
	mixed := newRow("mixed", "ms")
	mixed.units = []string{"s", "", "ms"}
	mixed.add(0, 1)
	mixed.add(1, 3)
	mixed.cells = append(mixed.cells, nil)
	mixed.remark = "one failed"
	if got := strings.Join(strings.Fields(mixed.String()), " "); got != "mixed 1.00 s 3.00 - (one failed)" {
		t.Errorf("%q", got)
	}
	heading := head("what", "a", "b")
	if at := strings.Index(heading, "at least"); at != strings.Index(r.String(), "0.35  ") {
		t.Errorf("columns are not under their heads:\n%s\n%s", heading, r)
	}
	for x, want := range map[float64]string{1234: "1234", 99.4: "99.4", 3.456: "3.46", 0.1234: "0.123", -5.678: "-5.68"} {
		if got := figure(x); got != want {
			t.Errorf("%v is shown as %s, want %s", x, got, want)
		}
	}
}

// What was made is removed, the latest first, also behind a removal that fails.
func TestCleanups(t *testing.T) {
	var b bench
	var order []int
	for i := range 4 {
		b.cleanup(func() error {
			order = append(order, i)
			if i == 2 {
				return errors.New("two stays")
			}
			return nil
		})
	}
	if err := b.cleanTo(1); err == nil || fmt.Sprint(order) != "[3 2 1]" {
		t.Errorf("%v in the order %v", err, order)
	}
	if err := b.clean(); err != nil || len(order) != 4 {
		t.Errorf("%v in the order %v", err, order)
	}
}
