package integration_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/faultfile"
)

// command runs a program that must succeed, within minutes.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), busy*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// legFile makes a sparse file for a leg.
func legFile(t *testing.T, bytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "leg.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(bytes); err != nil {
		t.Fatal(err)
	}
	return path
}

// legLoop is a leg on a loop device over a plain file.
func legLoop(t *testing.T, bytes int64) (dev, file string) {
	t.Helper()
	file = legFile(t, bytes)
	return faultfile.Loop(t, file), file
}

func (b *box) mkfs() {
	unclaimed(b.t, b.face())
	command(b.t, "mkfs.ext4", "-q", "-F", b.face())
}

// unclaimed waits until nobody claims the device: the number of its loop device may have
// been that of another test's leg, which is looked for there once more.
func unclaimed(t *testing.T, dev string) {
	t.Helper()
	await(t, busy*10*time.Second, dev+" to be claimed by nobody", func() bool {
		fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err != unix.EBUSY
	})
}

// mount mounts the file system on the face until the test ends.
func (b *box) mount() (dir string) {
	b.t.Helper()
	dir = b.t.TempDir()
	unclaimed(b.t, b.face())
	command(b.t, "mount", b.face(), dir)
	b.t.Cleanup(func() { unmount(b.t, dir) })
	return dir
}

// mountOpen mounts it where other users than root can go too.
func (b *box) mountOpen() (dir string) {
	b.t.Helper()
	dir = filepath.Join(b.dir, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	command(b.t, "mount", b.face(), dir)
	b.t.Cleanup(func() { unmount(b.t, dir) })
	return dir
}

// unmount takes a file system away, also one whose device is dead.
func unmount(t *testing.T, dir string) {
	deadline := time.Now().Add(busy * 20 * time.Second)
	for {
		err := unix.Unmount(dir, 0)
		switch {
		case err == nil || err == unix.EINVAL: // EINVAL: not mounted any more
			return
		case err != unix.EBUSY || time.Now().After(deadline):
			t.Errorf("unmount %s: %v", dir, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// load is a fio run in the background.
type load struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan error
}

// fio starts a mixed load in a directory of the box's file system that verifies what it
// reads, until stop, and returns when it is under way. Its rate is limited, so that
// tests that run side by side do not measure each other.
func (b *box) fio(dir string) *load {
	t := b.t
	t.Helper()
	l := &load{t: t, done: make(chan error, 1)}
	l.cmd = exec.Command("fio", "--name=mixed", "--directory="+dir, "--size=24m", "--numjobs=2",
		"--rw=randrw", "--rwmixread=40", "--bsrange=4k-64k", "--ioengine=libaio", "--iodepth=8", "--direct=1",
		"--fsync=32", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64", "--serialize_overlap=1",
		"--thread", "--rate_iops=400,400", "--time_based", "--runtime=600", "--allrandrepeat=1", "--randrepeat=1", "--output-format=normal")
	l.cmd.Dir = t.TempDir() // where fio leaves what it verified so far
	l.cmd.Stdout, l.cmd.Stderr = &l.out, &l.out
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { l.done <- l.cmd.Wait() }()
	t.Cleanup(func() { // before the unmount, which was registered earlier
		_ = l.cmd.Process.Kill()
		select {
		case <-l.done:
		case <-time.After(busy * 20 * time.Second):
			t.Error("fio does not die: its I/O hangs")
		}
	})
	b.progress(50)
	return l
}

// progress waits until the face has taken more writes since it was called. A successor
// of a driver that was killed counts from 0.
func (b *box) progress(writes int64) {
	b.t.Helper()
	before := b.stat("writes")
	b.awaitStat("writes", func(n int64) bool { return n < before || n > before+writes })
}

// running fails the test when fio has ended, which it does at the first error.
func (l *load) running() {
	l.t.Helper()
	select {
	case err := <-l.done:
		l.done <- err
		l.t.Fatalf("fio ended early: %v\n%s", err, l.out.String())
	default:
	}
}

// stop ends fio, which verifies the rest, and fails the test if it saw any error.
func (l *load) stop() {
	l.t.Helper()
	l.running()
	_ = unix.Kill(l.cmd.Process.Pid, unix.SIGINT)
	select {
	case err := <-l.done:
		l.done <- err
		// fio that was interrupted says 128 after a good run on some versions, 0 on others.
		if code := l.cmd.ProcessState.ExitCode(); code != 0 && code != 128 || strings.Contains(l.out.String(), "err=") && !strings.Contains(l.out.String(), "err= 0") {
			l.t.Fatalf("fio: %v\n%s", err, l.out.String())
		}
	case <-time.After(busy * 60 * time.Second):
		l.t.Fatalf("fio does not end\n%s", l.out.String())
	}
}

// writeSome writes n bytes of new data to a file and makes them durable.
func writeSome(t *testing.T, path string, n int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	src, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := io.CopyN(f, src, n); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func digestOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// equalLegs compares the data areas of two legs, by the files that they lie in, byte
// for byte. Nothing may write meanwhile: the face is frozen or unused.
func (b *box) equalLegs(file0, file1 string) {
	b.t.Helper()
	b.equalLegsOf("disk0", file0, file1)
}

func (b *box) equalLegsOf(disk, file0, file1 string) {
	b.t.Helper()
	var size int64
	await(b.t, 30*time.Second, "the size of "+disk, func() bool {
		n, _ := b.stats(disk)["size_bytes"].(float64)
		size = int64(n)
		return size > 0
	})
	a, err := os.Open(file0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer a.Close()
	c, err := os.Open(file1)
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	const piece = 1 << 20
	x, y := make([]byte, piece), make([]byte, piece)
	for off := int64(0); off < size; off += piece {
		n := min(piece, size-off)
		if _, err := a.ReadAt(x[:n], off); err != nil {
			b.t.Fatalf("read %s at %d: %v", file0, off, err)
		}
		if _, err := c.ReadAt(y[:n], off); err != nil {
			b.t.Fatalf("read %s at %d: %v", file1, off, err)
		}
		if !bytes.Equal(x[:n], y[:n]) {
			for i := range n {
				if x[i] != y[i] {
					b.t.Fatalf("the legs differ at byte %d of %d", off+i, size)
				}
			}
		}
	}
}

// frozen runs f while the file system is frozen: all that was written is on the face
// and nothing is being written.
func frozen(t *testing.T, dir string, f func()) {
	t.Helper()
	command(t, "fsfreeze", "-f", dir)
	defer command(t, "fsfreeze", "-u", dir)
	f()
}
