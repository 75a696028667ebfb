package faultfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/legio/loop"
)

const size = 8 << 20

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t *testing.T, f *os.File, b byte, off, n int64) {
	t.Helper()
	if _, err := f.WriteAt(bytes.Repeat([]byte{b}, int(n)), off); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for: %s", what)
		}
	}
}

func TestStoresAndCounts(t *testing.T) {
	f := New(t, size)
	file := open(t, f.Path())
	f.Trace()
	write(t, file, 'a', 4096, 8192)
	got := make([]byte, 12288)
	if _, err := file.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want := append(make([]byte, 4096), bytes.Repeat([]byte{'a'}, 8192)...)
	if !bytes.Equal(got, want) {
		t.Error("read something else than was written")
	}
	if n := f.Written(0, 8192); n != 4096 {
		t.Errorf("%d bytes counted as written below 8192, want 4096", n)
	}
	if w, r := f.Written(0, 0), f.Read(0, 0); w != 8192 || r != 12288 {
		t.Errorf("%d bytes counted as written and %d as read, want 8192 and 12288", w, r)
	}
	want1, ops := fmt.Sprint([]Op{{Write, 4096, 8192}, {Read, 0, 12288}}), fmt.Sprint(f.Ops())
	if ops != want1 {
		t.Errorf("traced %s, want %s", ops, want1)
	}
	stored, err := os.ReadFile(f.Backing())
	if err != nil || stored[4096] != 'a' || stored[4095] != 0 {
		t.Errorf("the backing file does not hold what was written (%v)", err)
	}
}

func TestFailsWhereItIsTold(t *testing.T) {
	f := New(t, size)
	file := open(t, f.Path())
	f.FailWrites(syscall.ENOSPC, 8192, 4096)
	f.FailReads(syscall.EIO, 0, 4096)
	b := make([]byte, 4096)
	_, before := file.WriteAt(b, 4096)
	_, in := file.WriteAt(b, 8192)
	_, after := file.WriteAt(b, 12288)
	_, read := file.ReadAt(b, 0)
	if before != nil || !errors.Is(in, syscall.ENOSPC) || after != nil || !errors.Is(read, syscall.EIO) {
		t.Errorf("writes before, in and after the range: %v, %v, %v; read: %v", before, in, after, read)
	}
	f.Clear()
	write(t, file, 1, 0, 16384)
}

func TestHangHoldsUntilResume(t *testing.T) {
	f := New(t, size)
	file := open(t, f.Path())
	f.Hang()
	done := make(chan error, 1)
	go func() {
		_, err := file.WriteAt(make([]byte, 4096), 0)
		done <- err
	}()
	waitFor(t, "the write to be held", func() bool { return f.Held() == 1 })
	select {
	case err := <-done:
		t.Fatalf("the write ended while the file hung: %v", err)
	default:
	}
	f.Resume()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSlow(t *testing.T) {
	f := New(t, size)
	file := open(t, f.Path())
	f.Slow(60 * time.Millisecond)
	begun := time.Now()
	write(t, file, 1, 0, 4096)
	if d := time.Since(begun); d < 60*time.Millisecond {
		t.Errorf("a write took %v, want at least 60ms", d)
	}
}

func TestVanishEndsWhatIsHeldAndReturnServesAgain(t *testing.T) {
	f := New(t, size)
	dev := f.Loop(t)
	device := open(t, dev)
	write(t, device, 'x', 0, 4096)
	if err := device.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Hang()
	done := make(chan error, 1)
	go func() {
		_, err := device.WriteAt(make([]byte, 4096), 4096)
		if err == nil {
			err = device.Sync()
		}
		done <- err
	}()
	waitFor(t, "the write to be held", func() bool { return f.Held() > 0 })
	f.Vanish()
	if err := <-done; !errors.Is(err, syscall.EIO) {
		t.Errorf("a write to what has vanished: %v, want EIO", err)
	}
	if _, err := os.Stat(f.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the vanished file is still at its path: %v", err)
	}
	f.Return()
	b := make([]byte, 1)
	if _, err := open(t, f.Path()).ReadAt(b, 0); err != nil || b[0] != 'x' {
		t.Errorf("after its return the file holds %q (%v), want x", b, err)
	}
	device.Close()
}

// The hardest end: a test killed while its asynchronous I/O, which a dying process
// waits for, is held. The server must notice and let everything go.
func TestKilledTestLeavesNothing(t *testing.T) {
	const role = "FT_FAULTFILE_TEST_VICTIM"
	if os.Getenv(role) != "" {
		hangWithAIO(t)
		return
	}
	log := filepath.Join(t.TempDir(), "victim")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	victim := exec.Command("/proc/self/exe", "-test.run=^TestKilledTestLeavesNothing$", "-test.v")
	victim.Env = append(os.Environ(), role+"=1", "TMPDIR="+t.TempDir())
	victim.Stdout, victim.Stderr = out, out
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan struct{})
	t.Cleanup(func() { victim.Process.Kill(); <-reaped })
	var dev string
	var server int
	waitFor(t, "the victim to hang", func() bool {
		b, _ := os.ReadFile(log)
		_, rest, found := strings.Cut(string(b), "hangs: ")
		if !found || !strings.Contains(rest, "\n") {
			return false
		}
		_, err := fmt.Sscan(rest, &dev, &server)
		return err == nil
	})
	shown := loop.File(dev)
	if shown == "" {
		t.Fatalf("%s of the victim is not bound", dev)
	}
	victim.Process.Kill()
	go func() { victim.Wait(); close(reaped) }()
	select {
	case <-reaped:
	case <-time.After(time.Minute):
		unix.Kill(server, unix.SIGKILL)
		t.Fatal("the killed test did not end")
	}
	waitFor(t, dev+" to be detached", func() bool { return loop.File(dev) != shown })
	waitFor(t, "the server to end", func() bool { return unix.Kill(server, 0) != nil })
}
