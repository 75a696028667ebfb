package alarm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ft/ftd/control"
	"ft/ftd/eventlog"
)

const patience = 20 * time.Second

// asFtd is the role of a process of the test that runs a hook as ftd does, and is killed.
const asFtd = "as-ftd"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case Role:
			os.Exit(Guard(os.Args[2:], os.Stderr))
		case asFtd:
			fmt.Println(runHook(context.Background(), os.Args[2], nil, os.Environ()))
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// bench is an event log with alarms that hang on it, and a hook that writes down what it reads.
type bench struct {
	*Alarms
	t    *testing.T
	heap *bytes.Buffer // what the alarms log; to be read once they have ended
	said string        // the hook's file
	end  func()
}

// newBench makes one; hook is the body of a shell script, $1 being the hook's file.
func newBench(t *testing.T, s Settings, hook string) *bench {
	t.Helper()
	dir := t.TempDir()
	events, err := eventlog.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, heap: &bytes.Buffer{}, said: filepath.Join(dir, "said")}
	if hook != "" {
		s.Hook = filepath.Join(dir, "hook")
		script := "#!/bin/sh\nset -- " + b.said + "\n" + hook + "\n"
		if err := os.WriteFile(s.Hook, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.Alarms = &Alarms{Box: "box", StateDir: dir, Events: events, Log: slog.New(slog.NewTextHandler(b.heap, nil)),
		pause: func(ctx context.Context, _ time.Duration) bool { return ctx.Err() == nil }}
	b.Set(s)
	b.start()
	t.Cleanup(func() { b.end(); events.Close() })
	return b
}

func (b *bench) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	next := *b.Alarms.clone()
	b.Alarms = &next
	go func() { defer close(done); next.Run(ctx) }()
	b.end = func() { cancel(); <-done }
}

// clone is another one on the same log, as the next ftd has it.
func (a *Alarms) clone() *Alarms {
	return &Alarms{Box: a.Box, StateDir: a.StateDir, Events: a.Events, Log: a.Log, DevLog: a.DevLog, now: a.now, pause: a.pause, settings: a.get()}
}

func (b *bench) happens(entries ...eventlog.Entry) {
	b.t.Helper()
	if _, err := b.Events.Append(entries...); err != nil {
		b.t.Fatal(err)
	}
}

// told waits until the hook has been told of so many events, and returns them.
func (b *bench) told(n int) (list []map[string]any) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		text, _ := os.ReadFile(b.said)
		if lines := strings.Count(string(text), "\n"); lines >= n || time.Now().After(deadline) {
			if lines != n {
				b.t.Fatalf("the hook was told of %d events, want %d:\n%s", lines, n, text)
			}
			for line := range strings.Lines(string(text)) {
				var e map[string]any
				if err := json.Unmarshal([]byte(line), &e); err != nil {
					b.t.Fatalf("%q: %v", line, err)
				}
				list = append(list, e)
			}
			return list
		}
	}
}

func entry(id, from, to string, s control.Severity) eventlog.Entry {
	return eventlog.Entry{ID: id, From: from, To: to, Severity: s, Reason: "why " + id}
}

const record = `cat >> $1`

func TestWhatIsGraveIsToldAndTheAllClear(t *testing.T) {
	b := newBench(t, Settings{Severity: control.Error}, record)
	b.happens(
		entry("pci1/disk0", "duplex", "shot", control.Error),
		entry("pci0/disk0", "duplex", "simplex", control.Warning),
		entry("disk0", "duplex", "simplex", control.Warning),
		entry("pci1", "duplex", "shot", control.Warning),
		entry("box", "duplex", "simplex", control.Warning),
		entry("disk0", "simplex", "syncing", control.Info),
		entry("disk0", "syncing", "duplex", control.Info),
		entry("box", "syncing", "duplex", control.Info),
		entry("box", "duplex", "duplex", control.Warning), // a note changes nothing
	)
	var got []string
	for _, e := range b.told(3) {
		got = append(got, fmt.Sprint(e["alarm"], " ", e["id"], " ", e["to"], " ", e["box"]))
	}
	if want := "raise pci1/disk0 shot box, raise disk0 simplex box, clear box duplex box"; strings.Join(got, ", ") != want {
		t.Errorf("told %v", got)
	}
}

func TestSeverityIsTheThreshold(t *testing.T) {
	b := newBench(t, Settings{Severity: control.Critical}, record)
	b.happens(entry("disk0", "duplex", "simplex", control.Warning), entry("pci0/disk0", "shot", "broken", control.Critical))
	if e := b.told(1)[0]; e["id"] != "pci0/disk0" || e["severity"] != "critical" {
		t.Errorf("%v", e)
	}
}

func TestTheHookHasTheEventInItsEnvironment(t *testing.T) {
	b := newBench(t, Settings{Severity: control.Error}, `printf '{"said": "%s %s %s %s", "secret": "%s"}\n' "$FT_ALARM" "$FT_ID" "$FT_TO" "$FT_REASON" "$HOME" >> $1`)
	b.happens(entry("pci1/disk0", "duplex", "shot", control.Error))
	if e := b.told(1)[0]; e["said"] != "raise pci1/disk0 shot why pci1/disk0" || e["secret"] != "" {
		t.Errorf("%v", e)
	}
}

// An alarm that ftd did not come to is passed on by the next one; what was passed on is not.
func TestNothingIsForgottenOrToldTwiceOverARestart(t *testing.T) {
	b := newBench(t, Settings{Severity: control.Error}, record)
	b.happens(entry("pci1/disk0", "duplex", "shot", control.Error))
	b.told(1)
	for deadline := time.Now().Add(patience); b.load().Seq != 1; time.Sleep(time.Millisecond) { // the hook has told, and ended
		if time.Now().After(deadline) {
			t.Fatal("the alarm is not remembered")
		}
	}
	b.end()
	b.happens(entry("pci1/net0", "duplex", "shot", control.Error), entry("box", "simplex", "duplex", control.Info))
	b.start()
	if list := b.told(3); list[1]["id"] != "pci1/net0" || list[2]["alarm"] != "clear" {
		t.Errorf("%v", list)
	}
}

// The very first alarm of a box is told again by the next ftd, where the hook had not ended.
func TestTheFirstAlarmIsNotLostWithTheHook(t *testing.T) {
	b := newBench(t, Settings{Severity: control.Error}, `cat >> $1; [ -e $1.again ] || { touch $1.again; sleep 100; }`)
	b.happens(entry("disk0", "simplex", "down", control.Critical))
	b.told(1)
	b.end()
	b.start()
	b.told(2)
}

func TestWhatIsOldIsNotShouted(t *testing.T) {
	b := newBench(t, Settings{Severity: control.Error}, record)
	b.end()
	old := entry("pci1/disk0", "duplex", "shot", control.Error)
	old.Time = time.Now().Add(-2 * lateMax)
	b.save(cursor{Seq: 0})
	b.happens(old, entry("pci1/net0", "duplex", "shot", control.Error))
	b.start()
	if list := b.told(1); list[0]["id"] != "pci1/net0" {
		t.Errorf("%v", list)
	}
	b.end()
	if !strings.Contains(b.heap.String(), "older than an hour") {
		t.Errorf("it is not said that some were passed over: %s", b.heap)
	}
}

func TestAHookThatFailsIsTriedAgainAndThenGivenUp(t *testing.T) {
	b := newBench(t, Settings{Severity: control.Error}, `echo no mail today; cat >> $1; test $(grep -c net0 $1) -ge 2`)
	b.happens(entry("pci1/disk0", "duplex", "shot", control.Error), entry("pci1/net0", "duplex", "shot", control.Error))
	b.told(len(tries) + 2) // the second one succeeds at its second try
	b.end()
	log := b.heap.String()
	if !strings.Contains(log, "was not passed on") || !strings.Contains(log, "no mail today") || strings.Count(log, "hook failed") != len(tries)+1 {
		t.Errorf("%s", log)
	}
}

// What a hook starts goes with it, also what holds its output open.
func TestAHookLeavesNothingBehind(t *testing.T) {
	b := newBench(t, Settings{Severity: control.Error}, `sleep 1000 & echo "{\"pid\": $!}" >> $1`)
	b.happens(entry("pci1/disk0", "duplex", "shot", control.Error))
	awaitGone(t, int(b.told(1)[0]["pid"].(float64)))
	b.end()

	// Nor does an ftd that is killed while one runs.
	if err := os.WriteFile(b.get().Hook, []byte("#!/bin/sh\nsleep 1000 & echo \"{\\\"pid\\\": $!}\" >>"+b.said+"; wait\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ftd := exec.Command(os.Args[0], asFtd, b.get().Hook)
	if err := ftd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := int(b.told(2)[1]["pid"].(float64))
	if err := ftd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = ftd.Wait()
	awaitGone(t, pid)
}

// awaitGone waits until a hook's process runs no more.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil || !strings.HasPrefix(string(comm), "sleep") {
			return
		}
		if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); strings.Contains(string(stat), ") Z ") {
			return // killed; whoever is its parent now has not reaped it
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d of the hook runs on", pid)
		}
	}
}

func TestSyslogGetsALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := newBench(t, Settings{Severity: control.Error}, "")
	b.end()
	b.DevLog = path
	b.Set(Settings{Severity: control.Error, Syslog: true})
	b.start()
	b.happens(entry("pci1/disk0", "duplex", "shot", control.Error))
	_ = c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if line := string(buf[:n]); !strings.HasPrefix(line, "<27>") || !strings.Contains(line, "box: pci1/disk0 duplex -> shot: why pci1/disk0 (event 1, raise)") {
		t.Errorf("%q", line)
	}
}

func TestATestOfTheHookSaysWhatIsWrong(t *testing.T) {
	b := newBench(t, Settings{Severity: control.Error}, `echo no such address >&2; exit 7`)
	err := b.Test(context.Background())
	if err == nil || !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), "no such address") {
		t.Errorf("%v", err)
	}
}
