package keeper

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/drivertest"
	"ft/drivers/host"
)

// wantNothingLeft checks that a clean stop left no process, socket or state.
func wantNothingLeft(b *box, pids ...int) {
	b.Helper()
	for _, pid := range pids {
		if alive(pid) {
			b.Errorf("process %d is left", pid)
		}
	}
	for _, path := range []string{"keeper.sock", "keeper.notify", "keeper.json", "keeper.lock", "drivers/disk0.sock", "drivers/disk0.crash"} {
		if _, err := os.Lstat(b.dir + "/" + path); err == nil {
			b.Errorf("%s is left", path)
		}
	}
}

func (b *box) use(name, by string) {
	b.Helper()
	verb := "busy"
	if by == "" {
		verb = "free"
	}
	if err := b.driver(name).Command(b.Context(), verb, map[string]string{"by": by}, nil); err != nil {
		b.Fatal(err)
	}
}

func TestCleanStopLeavesNothing(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	q := b.put("disk1", b.spec("disk1", drivertest.Options{}))
	if err := b.c.Stop(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := b.ended(); err != nil {
		t.Errorf("the keeper ended with %v", err)
	}
	wantNothingLeft(b, p.Pid, q.Pid)
}

func TestCleanStopIsRefusedWhileAFaceIsInUse(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	q := b.put("disk1", b.spec("disk1", drivertest.Options{}))
	b.use("disk0", "postgres")
	r := wantRefused(t, b.c.Stop(t.Context(), false), drivers.RuleBusy)
	if !strings.Contains(r.Sentence, "disk0") || !strings.Contains(r.Sentence, "postgres") {
		t.Errorf("the refusal %q names neither face nor user", r.Sentence)
	}
	if b.process("disk0").Pid != p.Pid {
		t.Error("the busy driver was replaced")
	}
	b.running("disk1", q.Pid) // the free one had been stopped, and is back
	if err := b.c.Stop(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := b.ended(); err != nil {
		t.Errorf("the keeper ended with %v", err)
	}
	wantNothingLeft(b, p.Pid)
}

func TestSigtermWaitsForTheUsers(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	b.use("disk0", "postgres")
	if err := b.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	b.eventually("the keeper says whom it waits for", func() bool {
		text, err := os.ReadFile(b.dir + "/keeper.out")
		return err == nil && strings.Contains(string(text), "in use by postgres")
	})
	_, err := b.c.Put(t.Context(), "disk9", b.spec("disk9", drivertest.Options{}))
	wantRefused(t, err, RuleStopping)
	// A driver that dies while its users are waited for is restarted all the same.
	b.write("disk0", "x")
	if err := unix.Kill(p.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	q := b.running("disk0", p.Pid)
	_ = b.ended() // the successor does not know the user: the stop goes on
	wantNothingLeft(b, p.Pid, q.Pid)
}

func TestSecondSigtermForces(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{Busy: "postgres"}))
	for range 2 {
		if err := b.cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		b.eventually("the keeper has taken the signal", func() bool {
			text, err := os.ReadFile(b.dir + "/keeper.out")
			return err == nil && strings.Contains(string(text), "stop")
		})
	}
	if err := b.ended(); err != nil {
		t.Errorf("the keeper ended with %v", err)
	}
	wantNothingLeft(b, p.Pid)
}

func TestForcedStopKillsWhatDoesNotAnswer(t *testing.T) {
	b := newBox(t)
	b.o.StopTimeout = b.o.FenceGrace
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	if err := unix.Kill(p.Pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := b.c.Stop(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	_ = b.ended()
	if alive(p.Pid) {
		t.Errorf("process %d is left", p.Pid)
	}
	if _, err := os.Stat(host.CrashPath(b.dir, "disk0")); err == nil {
		if st, _ := os.Stat(host.CrashPath(b.dir, "disk0")); st.Size() > 0 {
			t.Error("a process that was killed left a crash report")
		}
	}
}
