package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/ftd/api"
	"ft/ftd/control"
	"ft/ftd/testbox/guest/bare"
)

// The machine as a device of the box: on disk0, with a program of its own that counts the
// seconds and echoes what is typed. What its guest does with its disk and NIC is tested where
// the guest is (ftd/testbox/guest).

// newMachineBox makes a box whose disk0 is the disk of guest. Nothing runs yet.
func newMachineBox(t *testing.T) *box {
	t.Helper()
	b := newBox(t, legFile(t, legBytes), legFile(t, legBytes))
	b.configure(machineTable(t, b))
	return b
}

// watcher is `ftctl console`, without a terminal.
type watcher struct {
	t    *testing.T
	cmd  *exec.Cmd
	keys io.WriteCloser

	mu   sync.Mutex
	seen bytes.Buffer
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen.Write(p)
}

func (b *box) console(args ...string) *watcher {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{t: b.t, cmd: exec.CommandContext(ctx, filepath.Join(binDir, "ftctl"), append([]string{"--socket", b.sock, "console", "guest"}, args...)...)}
	w.cmd.Stdout = w
	var err error
	if w.keys, err = w.cmd.StdinPipe(); err != nil {
		b.t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { cancel(); _ = w.cmd.Wait() })
	return w
}

// count is how often the machine has said something.
func (w *watcher) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.seen.String(), text)
}

// sees waits until it has been said n times.
func (w *watcher) sees(text string, n int) {
	w.t.Helper()
	await(w.t, 30*time.Second, "the console to say "+text, func() bool { return w.count(text) >= n })
}

const greeting = "It counts the seconds and echoes what you type."

func TestAMachineIsADeviceOfTheBox(t *testing.T) {
	t.Parallel()
	b := newMachineBox(t)
	b.start()
	b.wait("disk0", "duplex")
	b.wait("guest", "duplex")
	if v := deviceOf(t, b.status(), "guest").Verdict; v != "guest runs on cpu0 and cpu1 in lockstep" {
		t.Errorf("the verdict is %q", v)
	}
	if out, code := b.ftctl("status", "--check"); code != done {
		t.Errorf("status --check exits %d: duplex is 0\n%s", code, out)
	}

	// Either CPU module may go, the one that is left may not.
	if out := b.do("bringdown", "cpu0"); !strings.Contains(out, "cpu0 is safe to pull") && !strings.Contains(out, "cpu0 is offline: safe to pull") {
		t.Errorf("ftctl says %q", out)
	}
	b.wait("guest", "simplex")
	if s := b.refuse("bringdown", "cpu1"); !strings.Contains(s, "taking it out stops guest, as ftctl machine stop guest does") || !strings.Contains(s, "--accept-risk=last-side") {
		t.Errorf("the refusal names no way out: %s", s)
	}
	b.do("bringup", "cpu0")
	b.wait("guest", "duplex")
	if s := b.refuse("bringdown", "disk0", "--accept-risk=last-side"); !strings.Contains(s, "in use") {
		t.Errorf("the machine's disk is taken away: %s", s)
	}

	// Its console: the past, then what is typed, and whoever looks on.
	first, second := b.console(), b.console("--read-only")
	first.sees(greeting, 1)
	if _, err := io.WriteString(first.keys, "hello there\r"); err != nil {
		t.Fatal(err)
	}
	first.sees("hello there", 1)
	second.sees("hello there", 1)
	if stats := b.stats("guest"); stats["state"] != "running" || stats["console"].(map[string]any)["watchers"] != 2.0 {
		t.Errorf("it says of itself %v", stats)
	}

	// From the beginning, on both modules again.
	b.do("machine", "reset", "guest")
	first.sees(greeting, 2)
	b.wait("guest", "duplex")

	// Its driver's process dies: the next one takes the CPU modules over, and the guest runs on.
	// Whoever looks on does so again.
	killed := b.processOf("guest").Pid
	if err := unix.Kill(killed, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, 20*time.Second, "another process", func() bool {
		d := deviceOf(t, b.status(), "guest")
		return d.Driver == control.LinkConnected && d.Pid != 0 && d.Pid != killed
	})
	b.wait("guest", "duplex")
	if log := b.do("events", "--since", "0"); strings.Contains(log, "starts anew") {
		t.Errorf("the guest was not taken over:\n%s", log)
	}
	before := second.count(greeting)
	b.do("machine", "reset", "guest")
	second.sees(greeting, before+1)
	b.wait("guest", "duplex")

	// ftd is in no way of it.
	b.killFtd()
	running := b.processOf("guest").Pid
	b.start()
	b.wait("guest", "duplex")
	if now := b.processOf("guest").Pid; now != running {
		t.Errorf("process %d was killed with ftd, %d is another", running, now)
	}
	b.stop() // which switches it off and needs no second word
}

func TestAMachineThatWasStoppedStaysOff(t *testing.T) {
	t.Parallel()
	b := newMachineBox(t)
	b.start()
	b.wait("guest", "duplex")
	if out := b.do("machine", "stop", "guest"); out != "guest is off: cpu0 and cpu1 are safe to pull\n" {
		t.Errorf("ftctl says %q", out)
	}
	b.wait("cpu0/guest", "offline")
	b.wait("cpu1/guest", "offline")
	off := func(when string) {
		t.Helper()
		if s := b.refuse("machine", "reset", "guest"); !strings.Contains(s, "guest is not on (off: stopped by an admin (root))") {
			t.Errorf("%s: %s", when, s)
		}
		if v := deviceOf(t, b.status(), "guest").Verdict; v != "guest is off: stopped by an admin (root)" {
			t.Errorf("%s the verdict is %q", when, v)
		}
	}
	off("at once")
	b.killFtd()
	b.start()
	off("after a restart of ftd")
	b.stop()
	b.start()
	b.wait("disk0", "duplex")
	off("after a restart of everything")
	if s := b.refuse("console", "guest"); !strings.Contains(s, "guest has no console now, for its driver process does not run") {
		t.Errorf("its console: %s", s)
	}
	if out := b.do("machine", "start", "guest"); !strings.Contains(out, "guest is starting") {
		t.Errorf("ftctl says %q", out)
	}
	b.wait("guest", "duplex")

	// A kernel that is none: whoever starts it is told, and so is who asks later.
	b.do("machine", "stop", "guest")
	kernel := filepath.Join(b.dir, "kernel")
	if err := os.WriteFile(kernel, bytes.Repeat([]byte("#!/bin/sh\n"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := b.refuse("machine", "start", "guest"); !strings.Contains(s, "kernel "+kernel) {
		t.Errorf("ftctl says %q", s)
	}
	if d := deviceOf(t, b.status(), "guest"); !strings.HasPrefix(d.Verdict, "guest is not started: kernel "+kernel) || d.Action != "mend that, then: ftctl machine start guest" {
		t.Errorf("the verdict is %q, %q", d.Verdict, d.Action)
	}
	if err := os.WriteFile(kernel, bare.Program(), 0o600); err != nil {
		t.Fatal(err)
	}
	b.do("machine", "start", "guest")
	b.wait("guest", "duplex")
	b.stop()
}

// Faults of one CPU module: the guest notices nothing, and the module comes back.
func TestAMachineOutlivesItsCPUModules(t *testing.T) {
	t.Parallel()
	b := newMachineBox(t)
	b.start()
	b.wait("guest", "duplex")
	look := b.console()
	look.sees(greeting, 1)

	for _, module := range []string{"cpu1", "cpu0"} {
		b.do("inject", module+"/guest", "kill")
		b.sees(module+"/guest", "shot")
		b.wait("guest", "duplex")
	}
	e := b.lastEvent("cpu1/guest", "shot")
	if e.Extra["injected"] != true || e.Extra["fault"] == nil || e.Extra["cause"] == nil {
		t.Errorf("the log has of it %v", e.Extra)
	}

	// Its power is cut: it stays out until it has it back, and that is no fault.
	faults := sideOf(t, b.status(), "cpu1/guest").MTBF
	b.do("inject", "cpu1", "power-off")
	b.wait("cpu1", "removed")
	if s := sideOf(t, b.status(), "cpu1/guest"); s.Reason != "cpu1 has lost its power" || s.MTBF.Injected != faults.Injected || !s.SafeToPull {
		t.Errorf("it is %+v", s)
	}
	b.do("inject", "cpu1", "power-on")
	b.wait("guest", "duplex")

	// A bit that is stuck is found, and found again by the self-test of the next module in that
	// place. That one is not taken in until the fault is gone.
	b.do("inject", "cpu1/guest", "stuck", "x2", "40")
	b.sees("cpu1/guest", "shot")
	await(t, time.Minute, "the self-test to fail", func() bool {
		s := sideOf(t, b.status(), "cpu1/guest")
		return s.State.String() == "offline" && strings.Contains(s.Reason, "ftctl inject cpu1/guest clear")
	})
	b.do("inject", "cpu1/guest", "clear")
	b.wait("guest", "duplex")

	// What is not understood changes nothing.
	for _, bad := range [][]string{{"flip-register", "x99"}, {"explode"}, {"flip-pc", "3", "4"}, {"kill", "now"}} {
		if out, code := b.ftctl(append([]string{"inject", "cpu1/guest"}, bad...)...); code != refused || !strings.Contains(out, "cpu1/guest: ") {
			t.Errorf("inject %v exits %d: %s", bad, code, out)
		}
	}
	if st := deviceOf(t, b.status(), "guest").State.String(); st != "duplex" {
		t.Errorf("it is %s", st)
	}
	if look.count(greeting) != 1 {
		t.Errorf("the guest was started %d times", look.count(greeting))
	}
	b.stop()
}

// sees waits until the log has a side go into a state.
func (b *box) sees(id, state string) {
	b.t.Helper()
	await(b.t, time.Minute, id+" to be "+state, func() bool { return b.lastEvent(id, state).To == state })
}

// lastEvent is the last change of a component to a state, a zero event when there was none.
func (b *box) lastEvent(id, state string) (last api.Event) {
	b.t.Helper()
	for _, line := range strings.Split(b.do("events", "--json", "--since", "0"), "\n") {
		var e api.Event
		if json.Unmarshal([]byte(line), &e) == nil && e.ID == id && e.From != state && e.To == state {
			last = e
		}
	}
	return last
}

func sideOf(t *testing.T, st api.Status, id string) api.SideStatus {
	t.Helper()
	for _, d := range st.Devices {
		for _, s := range d.Sides {
			if s.ID == id {
				return s
			}
		}
	}
	t.Fatalf("there is no %s", id)
	return api.SideStatus{}
}

func deviceOf(t *testing.T, st api.Status, id string) api.DeviceStatus {
	t.Helper()
	for _, d := range st.Devices {
		if d.ID == id {
			return d
		}
	}
	t.Fatalf("there is no %s", id)
	return api.DeviceStatus{}
}
