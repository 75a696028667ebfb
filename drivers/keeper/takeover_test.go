package keeper

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/drivertest"
	"ft/drivers/notify"
)

func itoa(n int) string { return strconv.Itoa(n) }

func wantRefused(t *testing.T, err error, code string) *drivers.Refused {
	t.Helper()
	r, ok := err.(*drivers.Refused)
	if !ok || r.Code != code {
		t.Fatalf("got %v, want a refusal with code %s", err, code)
	}
	return r
}

// testSender speaks to a keeper as somebody that it does not know.
type testSender struct{ s *notify.Sender }

func newTestSender(b *box) testSender {
	return testSender{notify.NewSender(b.dir+"/keeper.notify", "no token of anybody's")}
}

func (s testSender) storeAs(ctx context.Context, name string, fd int) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return s.s.Confirm(ctx, notify.Message{Store: name, Replace: true}, fd)
}

func TestRestartedKeeperFindsEverythingAgain(t *testing.T) {
	b := newBox(t)
	b.start()
	spec := b.spec("disk0", drivertest.Options{})
	spec.WatchdogMS = 1000
	p := b.put("disk0", spec)
	b.write("disk0", "x")
	b.kill()
	if !alive(p.Pid) {
		t.Fatal("the driver died with the keeper")
	}
	b.wantFace("disk0", "x") // it serves without a keeper

	b.start()
	b.eventually("the descriptors are handed over", func() bool { return b.process("disk0").Restored })
	q := b.process("disk0")
	if q.Pid != p.Pid || !q.Adopted || q.State != Running || q.Descriptors["face"] != 1 {
		t.Fatalf("a restarted keeper has pid %d, adopted %v, %s, descriptors %v; want pid %d running with its face", q.Pid, q.Adopted, q.State, q.Descriptors, p.Pid)
	}
	// Twice: the descriptors must not add up.
	b.kill()
	b.start()
	b.eventually("the descriptors are handed over again", func() bool { return b.process("disk0").Restored })

	if err := unix.Kill(p.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	q = b.running("disk0", p.Pid)
	b.wantFace("disk0", "x")
	if q.Starts != 2 || q.Descriptors["face"] != 1 {
		t.Errorf("%d starts and descriptors %v, want 2 and one face", q.Starts, q.Descriptors)
	}
	if !strings.Contains(q.LastEnd, "signal 9") && !strings.Contains(q.LastEnd, "cause unknown") {
		t.Errorf("its end is given as %q", q.LastEnd)
	}
	t.Logf("the end of another keeper's child: %s", q.LastEnd)
	// The watchdog goes on for a process that was adopted, too.
	b.kill()
	b.start()
	b.eventually("restored", func() bool { return b.process("disk0").Restored })
	if err := unix.Kill(q.Pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.running("disk0", q.Pid)
	b.wantFace("disk0", "x")
}

// TestKeeperMakesRoomForAnother is `systemctl restart ft-keeper`.
func TestKeeperMakesRoomForAnother(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	b.write("disk0", "x")
	if err := b.cmd.Process.Signal(unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Wait(); err != nil {
		t.Fatalf("the keeper that was to leave: %v", err)
	}
	if !alive(p.Pid) {
		t.Fatal("the driver went with the keeper")
	}
	b.wantFace("disk0", "x")
	b.start()
	b.eventually("the descriptors are handed over", func() bool { return b.process("disk0").Restored })
	if q := b.process("disk0"); q.Pid != p.Pid || q.State != Running || q.Descriptors["face"] != 1 {
		t.Errorf("the next keeper has pid %d, %s, descriptors %v; want pid %d running with its face", q.Pid, q.State, q.Descriptors, p.Pid)
	}
}

func TestWhatEndedWithoutAKeeperIsStartedAgain(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	b.put("disk1", b.spec("disk1", drivertest.Options{}))
	b.kill()
	if err := unix.Kill(p.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := b.driver("disk1").Stop(t.Context(), drivers.Remove); err != nil {
		t.Fatal(err)
	}
	b.eventually("both are gone", func() bool { return !alive(p.Pid) })
	b.start()
	b.running("disk0", p.Pid)
	if st := b.status("disk0"); st.Stats["adopted"] != false {
		t.Error("it adopted, but nobody held its descriptors")
	}
	// The other one ended as it should, and waited to tell somebody.
	b.saw("disk1", EventStopped, nil)
}

// TestSystemdHoldsTheDescriptorsToo kills keeper and driver at once; the third copy is
// at systemd, which this test plays.
func TestSystemdHoldsTheDescriptorsToo(t *testing.T) {
	b := newBox(t)
	systemd, err := notify.Listen(b.dir + "/systemd.notify")
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	held := map[string]int{}
	changed := make(chan struct{}, 100)
	go func() {
		for {
			p, err := systemd.Receive()
			if err != nil {
				return
			}
			if p.Store != "" && len(p.Fds) == 1 {
				if !p.NoPoll {
					t.Error("a descriptor is handed to systemd without FDPOLL=0: a FUSE device would be dropped")
				}
				held[p.Store], p.Fds = p.Fds[0], nil
				changed <- struct{}{}
			}
			p.Close()
		}
	}()
	b.env = []string{"NOTIFY_SOCKET=" + b.dir + "/systemd.notify"}
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	b.write("disk0", "x")
	select {
	case <-changed:
	case <-time.After(limit):
		t.Fatal("systemd got no descriptor")
	}
	face := held["disk0/face"]
	if face == 0 {
		t.Fatalf("systemd holds %v, not disk0/face", held)
	}
	b.kill()
	if err := unix.Kill(p.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.eventually("the driver is gone", func() bool { return !alive(p.Pid) })

	f := os.NewFile(uintptr(face), "face")
	defer f.Close()
	b.env = append(b.env, "LISTEN_FDS=1", "LISTEN_FDNAMES=disk0/face")
	b.files = []*os.File{f}
	b.start()
	p = b.running("disk0", p.Pid)
	b.wantFace("disk0", "x")

	// Next the driver lives: what it hands over takes the place of systemd's copy.
	b.kill()
	b.start()
	b.eventually("the descriptors are handed over", func() bool { return b.process("disk0").Restored })
	if q := b.process("disk0"); q.Pid != p.Pid || q.Descriptors["face"] != 1 {
		t.Errorf("pid %d with descriptors %v, want pid %d and one face", q.Pid, q.Descriptors, p.Pid)
	}
}

func TestARecycledPidIsNotTaken(t *testing.T) {
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	b.kill()
	path := b.dir + "/keeper.json"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s saved
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(p.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// This test's own pid stands for one that was used again.
	s.Processes[0].Child.Pid = os.Getpid()
	if text, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	q := b.running("disk0", p.Pid)
	if q.Pid == os.Getpid() || q.Adopted {
		t.Errorf("pid %d was taken for the driver", q.Pid)
	}
}

func TestAnUnreadableStateIsNotIgnored(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/keeper.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "keeper")
	cmd.Env = append(os.Environ(), optionsEnv+`={"RunDir":"`+dir+`"}`)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "keeper.json") {
		t.Errorf("the keeper ended with %v: %s; starting drivers twice is what it must not risk", err, out)
	}
}

func TestStartTime(t *testing.T) {
	for stat, want := range map[string]string{
		"12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20": "start 777",
		"12 (x) S 1 2 3": "",
		"":               "",
	} {
		got, err := startTime(stat)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("startTime(%q) = %q, %v; want %q", stat, got, err, want)
		}
	}
	// The two ways of identify agree that this process is itself.
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := startTime(string(b)); err != nil || s == "start 0" {
		t.Errorf("our own start time is %q, %v", s, err)
	}
}
