// Package faultfile is for tests: a file that can fail, hang, slow down and vanish,
// to be put under a leg's loop device. (`losetup -d` under an open leg does nothing,
// so it is no way to lose one.)
//
// A real sparse file is served over FUSE by a process of its own, on a mount that no
// directory shows: the file is reached through the server's /proc/PID/fd, and all of
// it goes with the server. The server cannot live in the testing process. If that is
// killed with asynchronous I/O on a hung file, it waits for the I/O before it closes its
// descriptors, so it would wait for itself for ever; the server sees that it is
// dying, and ends.
//
// The server is this same test binary, started again: init turns it into the server
// when the environment says so.
package faultfile

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/legio/loop"
)

// goneWithin is how long a server, or a loop device over it, may take to go.
const goneWithin = 60 * time.Second

// File is a file that can fail.
type File struct {
	t       testing.TB
	dir     string
	backing string

	mu     sync.Mutex // guards the fields below, and makes a request and its answer one
	server *exec.Cmd  // nil while vanished or closed
	ctl    *os.File
	out    *json.Encoder
	in     *json.Decoder
}

// New serves a new sparse file of size bytes until the test ends.
func New(t testing.TB, size int64) *File {
	t.Helper()
	backing := filepath.Join(t.TempDir(), "backing")
	f, err := os.OpenFile(backing, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return Over(t, backing)
}

// Over serves an existing file until the test ends.
func Over(t testing.TB, backing string) *File {
	t.Helper()
	f := &File{t: t, dir: t.TempDir(), backing: backing}
	t.Cleanup(f.Close)
	f.Return()
	return f
}

// Path opens as a regular file. It stays the same over Vanish, when there is nothing at
// it, and Return.
func (f *File) Path() string { return filepath.Join(f.dir, "file") }

// Backing is the real file behind it, for looking at what has been stored.
func (f *File) Backing() string { return f.backing }

// FailReads makes reads that touch the range fail with e; length 0 means all reads.
func (f *File) FailReads(e syscall.Errno, off, length int64) {
	f.t.Helper()
	f.command(request{Do: doFail, Rule: rule{Read, e, off, length}})
}

// FailWrites makes writes and zeroings that touch the range fail with e; length 0 means
// all of them, and flushes.
func (f *File) FailWrites(e syscall.Errno, off, length int64) {
	f.t.Helper()
	f.command(request{Do: doFail, Rule: rule{Write, e, off, length}})
}

// FailZeroes makes every zeroing fail with e; EOPNOTSUPP is a file system that has none.
func (f *File) FailZeroes(e syscall.Errno) {
	f.t.Helper()
	f.command(request{Do: doFail, Rule: rule{Op: Zero, Errno: e}})
}

// Slow delays each operation by d.
func (f *File) Slow(d time.Duration) { f.t.Helper(); f.command(request{Do: doSlow, Delay: d}) }

// Hang holds back every operation, opening too, until Resume, Clear, Vanish or Close.
func (f *File) Hang() { f.t.Helper(); f.command(request{Do: doHang}) }

// Resume ends Hang; what was held is carried out.
func (f *File) Resume() { f.t.Helper(); f.command(request{Do: doResume}) }

// Clear ends everything but Vanish.
func (f *File) Clear() { f.t.Helper(); f.command(request{Do: doClear}) }

// Held is how many operations are held back, by Hang or Slow, at this moment.
func (f *File) Held() int { f.t.Helper(); return int(f.command(request{Do: doHeld}).N) }

// Read is how many bytes of the range have been read, length 0 meaning the whole file.
// It counts from New or Return, exactly for ranges of whole blocks of 4096 bytes.
func (f *File) Read(off, length int64) int64 {
	f.t.Helper()
	return f.command(request{Do: doCount, Rule: rule{Op: Read, Off: off, Len: length}}).N
}

// Written is how many bytes of the range have been written; see Read.
func (f *File) Written(off, length int64) int64 {
	f.t.Helper()
	return f.command(request{Do: doCount, Rule: rule{Op: Write, Off: off, Len: length}}).N
}

// Trace begins a new record of operations, of at most TraceMax.
func (f *File) Trace() { f.t.Helper(); f.command(request{Do: doTrace}) }

// Ops is what Trace has recorded, in the order of arrival.
func (f *File) Ops() []Op { f.t.Helper(); return f.command(request{Do: doOps}).Ops }

// Pid is the server's process, to be stopped or killed; 0 while there is none.
func (f *File) Pid() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil {
		return 0
	}
	return f.server.Process.Pid
}

// Vanish ends the connection to the kernel: everything fails from now on, also what is
// held. Faults and counts are forgotten.
func (f *File) Vanish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kill()
}

// Return serves the backing file again, at the same Path. A loop device over the
// vanished one stays dead: attach a new one.
func (f *File) Return() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server != nil {
		return
	}
	if err := f.start(); err != nil {
		f.kill()
		f.t.Fatalf("serve %s over FUSE: %v", f.backing, err)
	}
}

// Close ends it, also when it hangs. The test's end does that too.
func (f *File) Close() { f.Vanish() }

// start begins a server and waits until it serves. The caller holds mu.
func (f *File) start() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs := os.NewFile(uintptr(pair[1]), "control, the server's end")
	defer theirs.Close()
	f.ctl = os.NewFile(uintptr(pair[0]), "control")
	f.out, f.in = json.NewEncoder(f.ctl), json.NewDecoder(f.ctl)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serverEnv+"="+f.backing, fmt.Sprintf("%s=%d", parentEnv, os.Getpid()))
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	f.server = cmd
	var hello answer
	if err := f.in.Decode(&hello); err != nil {
		return fmt.Errorf("the server did not start: %w", err)
	}
	link := f.Path() + ".new"
	if err := os.Symlink(hello.Path, link); err != nil {
		return err
	}
	return os.Rename(link, f.Path())
}

// kill ends the server and waits for it. The caller holds mu.
func (f *File) kill() {
	if f.server == nil {
		return
	}
	f.server.Process.Kill()
	f.server.Wait()
	f.ctl.Close()
	f.server = nil
	os.Remove(f.Path())
}

func (f *File) command(r request) answer {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil {
		if r.Do == doResume || r.Do == doClear || r.Do == doHeld {
			return answer{} // nothing is held or failing where nothing is
		}
		f.t.Fatalf("faultfile: %s: the file has vanished", r.Do)
	}
	var a answer
	if err := f.out.Encode(r); err != nil {
		f.t.Fatalf("faultfile: %s: %v", r.Do, err)
	}
	if err := f.in.Decode(&a); err != nil {
		f.t.Fatalf("faultfile: %s: %v", r.Do, err)
	}
	return a
}

// Loop attaches a loop device with direct I/O over the file at path until the test
// ends, and returns its device. All others who use it must have closed it by then.
func Loop(t testing.TB, path string) (dev string) {
	t.Helper()
	file, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	dev, fd, err := loop.Attach(file, path)
	unix.Close(file)
	if err != nil {
		t.Fatalf("put a loop device over %s: %v", path, err)
	}
	shown := loop.File(dev)
	t.Cleanup(func() {
		go unix.Close(fd) // may have to write back, to what hangs
		deadline := time.Now().Add(goneWithin)
		for loop.File(dev) == shown { // another's file: the number has been given to somebody else
			if time.Now().After(deadline) {
				t.Errorf("%s over %s is still in use at the end of the test", dev, path)
				return
			}
			time.Sleep(time.Millisecond) // the kernel detaches it beside the last close
		}
	})
	return dev
}

// Loop attaches a loop device over the file until the test ends. What hangs in it is
// aborted then.
func (f *File) Loop(t testing.TB) (dev string) {
	t.Helper()
	dev = Loop(t, f.Path())
	t.Cleanup(f.Close)
	return dev
}
