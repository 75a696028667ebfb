package keeper

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/drivertest"
	"ft/drivers/host"
)

func TestSuccessorAdoptsAfterKill(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	b.write("disk0", "what was written before")
	var gaps, outages []time.Duration
	const kills = 5
	for i := range kills {
		healthy := p.Since.Add(b.o.HealthyTime) // since the keeper had its READY
		b.eventually("it has served healthily", func() bool { return time.Now().After(healthy) })
		old := p.Pid
		killed := time.Now()
		if err := unix.Kill(old, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p = b.running("disk0", old)
		b.wantFace("disk0", "what was written before")
		if !strings.Contains(p.LastEnd, "signal 9") {
			t.Errorf("its end is given as %q, not as signal 9", p.LastEnd)
		}
		e := b.saw("disk0", EventStarted, func(e Event) bool { return e.Pid == p.Pid })
		r := b.saw("disk0", EventReady, func(e Event) bool { return e.Pid == p.Pid })
		gaps = append(gaps, time.Duration(e.GapUS)*time.Microsecond)
		outages = append(outages, r.Time.Sub(killed))
		if want := i + 2; p.Starts != want || b.status("disk0").Stats["starts"] != float64(want) {
			t.Errorf("%d starts, the driver counts %v, want %d", p.Starts, b.status("disk0").Stats["starts"], want)
		}
	}
	t.Logf("death noticed to successor executed: %v; kill to READY: %v", gaps, outages)
	if p.Early != 0 {
		t.Errorf("%d early deaths counted, want none: each had served for %v", p.Early, b.o.HealthyTime)
	}
}

func TestWatchdogReplacesStoppedAndWedged(t *testing.T) {
	b := newBox(t)
	b.start()
	spec := b.spec("disk0", drivertest.Options{})
	spec.WatchdogMS = 1000
	p := b.put("disk0", spec)
	b.write("disk0", "x")

	if err := unix.Kill(p.Pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	q := b.running("disk0", p.Pid)
	b.wantFace("disk0", "x")
	if !strings.Contains(q.LastEnd, "watchdog") {
		t.Errorf("its end is given as %q, want the watchdog named", q.LastEnd)
	}

	// One that is wedged writes its stacks first: all of them, where it is given the time.
	b = newBox(t)
	b.o.AbortGrace, b.o.FenceGrace = time.Minute, time.Minute
	b.start()
	spec = b.spec("disk0", drivertest.Options{})
	spec.WatchdogMS = 1000
	p = b.put("disk0", spec)
	b.write("disk0", "x")
	if err := b.driver("disk0").Command(t.Context(), "wedge", nil, nil); err != nil {
		t.Fatal(err)
	}
	b.running("disk0", p.Pid)
	b.wantFace("disk0", "x")
	crash, err := os.ReadFile(host.CrashPath(b.dir, "disk0"))
	if err != nil || !strings.Contains(string(crash), "SIGABRT") || !strings.Contains(string(crash), "drivertest") {
		t.Errorf("the stacks of the wedged driver are not in its crash file (%v):\n%s", err, crash)
	}
}

// TestKeeperThatWasLateGrantsAPeriod stops keeper and driver, as a paused machine does.
// The keeper wakes first, and the driver's silence looks long to it.
func TestKeeperThatWasLateGrantsAPeriod(t *testing.T) {
	b := newBox(t)
	b.start()
	spec := b.spec("disk0", drivertest.Options{})
	spec.WatchdogMS = 1000
	p := b.put("disk0", spec)
	passes := func(d time.Duration) {
		at := time.Now().Add(d)
		b.eventually("time passes", func() bool { return time.Now().After(at) })
	}
	signal := func(pid int, sig unix.Signal) {
		t.Helper()
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	signal(b.cmd.Process.Pid, unix.SIGSTOP)
	signal(p.Pid, unix.SIGSTOP)
	passes(1300 * time.Millisecond)
	signal(b.cmd.Process.Pid, unix.SIGCONT)
	passes(6 * tickEvery)
	signal(p.Pid, unix.SIGCONT)
	passes(1300 * time.Millisecond)
	if q := b.process("disk0"); q.Pid != p.Pid || q.Starts != 1 {
		t.Errorf("the driver was replaced (pid %d, now %d, last end %q) because its keeper was late", p.Pid, q.Pid, q.LastEnd)
	}
}

func TestEarlyDeathsBackOffAndFail(t *testing.T) {
	b := newBox(t)
	b.o.EarlyMax = 4
	b.start()
	if _, err := b.c.Put(t.Context(), "disk0", b.spec("disk0", drivertest.Options{DieAtStart: true})); err != nil {
		t.Fatal(err)
	}
	b.saw("disk0", EventFailed, nil)
	p := b.process("disk0")
	if p.State != Failed || p.Starts != 4 || p.Pid != 0 {
		t.Errorf("%s after %d starts (pid %d), want failed after 4", p.State, p.Starts, p.Pid)
	}
	var delays []int64
	b.mu.Lock()
	for _, e := range b.events {
		if e.Kind == EventDelayed {
			delays = append(delays, e.DelayMS)
		}
	}
	b.mu.Unlock()
	if len(delays) != 3 || delays[0] != 10 || delays[1] != 20 || delays[2] != 20 {
		t.Errorf("delays of %v ms, want [10 20 20]", delays)
	}
	if !strings.Contains(p.Reason, "4 times in a row") {
		t.Errorf("the reason %q does not say how often it died", p.Reason)
	}
	// A person mends it.
	if _, err := b.c.Put(t.Context(), "disk0", b.spec("disk0", drivertest.Options{})); err != nil {
		t.Fatal(err)
	}
	if p := b.process("disk0"); p.State != Failed {
		t.Errorf("a new specification alone took it out of failed: %s", p.State)
	}
	if err := b.c.Reset(t.Context(), "disk0"); err != nil {
		t.Fatal(err)
	}
	if p := b.running("disk0", 0); p.Early != 0 {
		t.Errorf("%d early deaths after a reset", p.Early)
	}
}

func TestWrongConfigurationFailsAtOnce(t *testing.T) {
	b := newBox(t)
	b.start()
	spec := b.spec("disk0", drivertest.Options{})
	spec.Argv[2] = "no-such-kind"
	if _, err := b.c.Put(t.Context(), "disk0", spec); err != nil {
		t.Fatal(err)
	}
	// What the process said last may come in after its end; its log has it in any case.
	b.saw("disk0", EventFailed, func(e Event) bool { return strings.Contains(e.Text, "its configuration makes no sense") })
	if p := b.process("disk0"); p.Starts != 1 {
		t.Errorf("%d starts; a wrong configuration does not get better", p.Starts)
	}
}

func TestCrashLeavesItsStackAndIsSucceeded(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	b.write("disk0", "x")
	for _, c := range []struct{ command, stack, end string }{
		{"panic", "a panic in the driver", "exit status 2"},
		{"panic-here", "a panic in a call", "crashed"},
		{"fatal", "a fatal error", "crashed"},
	} {
		// The answer never comes: the process dies of the request.
		if err := b.driver("disk0").Command(t.Context(), c.command, nil, nil); err == nil && c.command != "panic" {
			t.Errorf("%s was answered", c.command)
		}
		p = b.running("disk0", p.Pid)
		b.wantFace("disk0", "x")
		if !strings.Contains(p.LastEnd, c.end) {
			t.Errorf("%s: ended with %q, want %q", c.command, p.LastEnd, c.end)
		}
		crash, err := os.ReadFile(host.CrashPath(b.dir, "disk0"))
		if err != nil || !strings.Contains(string(crash), c.stack) || !strings.Contains(string(crash), "drivertest.go:") {
			t.Errorf("%s: no stack in the crash file (%v):\n%s", c.command, err, crash)
		}
	}
}

func TestRestartIsNoDeath(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	b.write("disk0", "x")
	for range 3 { // at once, one after the other: none is an early death
		if err := b.c.Restart(t.Context(), "disk0"); err != nil {
			t.Fatal(err)
		}
		p = b.running("disk0", p.Pid)
		b.wantFace("disk0", "x")
	}
	if p.Early != 0 {
		t.Errorf("%d early deaths after requested restarts", p.Early)
	}
	// One that does not answer is killed instead.
	if err := unix.Kill(p.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.running("disk0", p.Pid)
}

func TestPutIsIdempotentAndKeepsTheNewSpec(t *testing.T) {
	b := newBox(t)
	b.start()
	spec := b.spec("disk0", drivertest.Options{})
	p := b.put("disk0", spec)
	if q := b.put("disk0", spec); q.Pid != p.Pid || q.Starts != 1 {
		t.Errorf("the same specification again: pid %d, then %d, %d starts", p.Pid, q.Pid, q.Starts)
	}
	spec.Env = map[string]string{"FT_TEST_MARK": "new"}
	if q := b.put("disk0", spec); q.Pid != p.Pid {
		t.Error("a new specification restarted the process")
	}
	if err := b.c.Restart(t.Context(), "disk0"); err != nil {
		t.Fatal(err)
	}
	q := b.running("disk0", p.Pid)
	env, err := os.ReadFile("/proc/" + itoa(q.Pid) + "/environ")
	if err != nil || !strings.Contains(string(env), "FT_TEST_MARK=new") {
		t.Errorf("the successor has not got the new specification's environment (%v)", err)
	}
	for _, bad := range []Spec{{}, {Argv: []string{"relative"}}, {Argv: []string{"/x"}, WatchdogMS: -1}, {Argv: []string{"/x"}, Control: "rel"}} {
		_, err := b.c.Put(t.Context(), "disk1", bad)
		wantRefused(t, err, RuleSpec)
	}
	for _, bad := range []string{"..", "-x", ".x", "a/b", "a:b", "a b", strings.Repeat("x", 65)} {
		wantRefused(t, checkSpec(bad, spec), RuleSpec)
	}
	if err := checkSpec("A-disk_0.a@b", spec); err != nil {
		t.Error(err)
	}
}

func TestDeleteForgetsWhatHasStopped(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	wantRefused(t, b.c.Delete(t.Context(), "disk0", false), RuleRunning)
	if err := b.driver("disk0").Stop(t.Context(), drivers.Remove); err != nil {
		t.Fatal(err)
	}
	b.saw("disk0", EventStopped, nil)
	if q := b.process("disk0"); q.State != Stopped || len(q.Descriptors) != 0 {
		t.Errorf("after a stop: %s with descriptors %v", q.State, q.Descriptors)
	}
	if err := b.c.Delete(t.Context(), "disk0", false); err != nil {
		t.Fatal(err)
	}
	if _, err := b.c.Process(t.Context(), "disk0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it is still known: %v", err)
	}
	p = b.put("disk0", b.spec("disk0", drivertest.Options{}))
	if err := b.c.Delete(t.Context(), "disk0", true); err != nil {
		t.Fatal(err)
	}
	if alive(p.Pid) {
		t.Errorf("process %d lives after it was deleted with kill", p.Pid)
	}
}

func TestProcessesDoNotDependOnTheKeeper(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	if sid, err := unix.Getsid(p.Pid); err != nil || sid != p.Pid {
		t.Errorf("session %d (%v), want one of its own: a Ctrl-C would hit it", sid, err)
	}
	for fd, want := range map[string]string{"0": os.DevNull, "1": LogPath(b.dir, "disk0"), "2": LogPath(b.dir, "disk0")} {
		if got, err := os.Readlink("/proc/" + itoa(p.Pid) + "/fd/" + fd); err != nil || got != want {
			t.Errorf("descriptor %s is %s (%v), want %s", fd, got, err, want)
		}
	}
	if cwd, err := os.Readlink("/proc/" + itoa(p.Pid) + "/cwd"); err != nil || cwd != "/" {
		t.Errorf("it works in %s (%v) and would keep that from being unmounted", cwd, err)
	}
}

func TestSecondKeeperIsRefused(t *testing.T) {
	b := newBox(t)
	b.start()
	second := exec.Command(os.Args[0], "keeper")
	second.Env = append(os.Environ(), optionsEnv+`={"RunDir":"`+b.dir+`"}`)
	out, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(out), ErrSecond.Error()) {
		t.Errorf("a second keeper ended with %v: %s", err, out)
	}
	if _, err := b.c.Processes(t.Context()); err != nil {
		t.Errorf("the first keeper no longer answers: %v", err)
	}
}

func TestStrangersAreNotListenedTo(t *testing.T) {
	b := newBox(t)
	b.start()
	b.put("disk0", b.spec("disk0", drivertest.Options{}))
	sender := newTestSender(b)
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = sender.storeAs(t.Context(), "face", int(f.Fd()))
	if err == nil || !strings.Contains(err.Error(), "does not know the sender") {
		t.Errorf("a store with a wrong token was answered with %v", err)
	}
	if n := b.process("disk0").Descriptors["face"]; n != 1 {
		t.Errorf("%d descriptors are held as face, want the driver's one", n)
	}
}

func TestFilesOfTheRunDirectoryArePrivate(t *testing.T) {
	b := newBox(t)
	b.start()
	b.put("disk0", b.spec("disk0", drivertest.Options{}))
	for path, want := range map[string]os.FileMode{
		SocketPath(b.dir):                     0o600,
		filepath.Join(b.dir, "keeper.notify"): 0o600,
		filepath.Join(b.dir, "keeper.json"):   0o600,
		host.SocketPath(b.dir, "disk0"):       0o600,
		filepath.Join(b.dir, "drivers"):       0o700,
		filepath.Join(b.dir, "log"):           0o700,
		filepath.Join(b.dir, "log/disk0.log"): 0o600,
		filepath.Join(b.dir, "keeper.lock"):   0o600,
	} {
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: mode %v (%v), want %v", path, st.Mode().Perm(), err, want)
		}
	}
}
