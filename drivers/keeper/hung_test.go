package keeper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/drivers/drivertest"
)

// hungFile is a file whose reads never return: a FUSE file system that is one file,
// and answers everything but READ. A process that reads it cannot end, like one that
// waits for a leg that hangs.
type hungFile struct {
	path    string
	dev     *os.File
	reading chan struct{} // one for each READ
	once    sync.Once
}

// The requests and structures of include/uapi/linux/fuse.h that matter here.
const (
	fuseGetattr   = 3
	fuseOpen      = 14
	fuseRead      = 15
	fuseRelease   = 18
	fuseFlush     = 25
	fuseInit      = 26
	fuseInterrupt = 36

	fuseInHeader  = 40
	fuseOutHeader = 16
	fopenDirectIO = 1
)

func newHungFile(t *testing.T) *hungFile {
	t.Helper()
	h := &hungFile{path: t.TempDir() + "/hung", reading: make(chan struct{}, 100)}
	if err := os.WriteFile(h.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	opts := fmt.Sprintf("fd=%d,rootmode=100600,user_id=0,group_id=0", fd)
	if err := unix.Mount("ft-test-hung", h.path, "fuse", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		t.Fatal(err)
	}
	h.dev = os.NewFile(uintptr(fd), "/dev/fuse") // polled only now: before the mount nothing wakes a poll
	t.Cleanup(h.release)
	go h.serve()
	return h
}

// release lets all reads fail and removes the file.
func (h *hungFile) release() {
	h.once.Do(func() {
		h.dev.Close() // aborts the connection
		_ = unix.Unmount(h.path, unix.MNT_DETACH)
	})
}

func (h *hungFile) serve() {
	buf := make([]byte, 1<<17)
	for {
		n, err := h.dev.Read(buf)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
			continue // the request was interrupted before it was read
		}
		if err != nil || n < fuseInHeader {
			return
		}
		body := make([]byte, 0, 128)
		le := binary.LittleEndian
		switch le.Uint32(buf[4:]) {
		case fuseInit: // major, minor, readahead, flags, background, congestion, max_write, …
			body = le.AppendUint32(body, 7)
			body = le.AppendUint32(body, 31)
			body = append(body, make([]byte, 8)...)
			body = append(body, 16, 0, 12, 0)
			body = le.AppendUint32(body, 1<<16)
			body = append(body, make([]byte, 64-len(body))...)
		case fuseGetattr: // validity, then struct fuse_attr: ino, size, …, mode at 76
			body = append(body, make([]byte, 16+88)...)
			le.PutUint64(body[16:], 1)
			le.PutUint64(body[24:], 4096)
			le.PutUint32(body[16+60:], unix.S_IFREG|0o600)
			le.PutUint32(body[16+64:], 1)
		case fuseOpen:
			body = append(body, make([]byte, 16)...)
			body[8] = fopenDirectIO
		case fuseRead:
			h.reading <- struct{}{}
			continue
		case fuseInterrupt:
			continue
		case fuseFlush, fuseRelease:
		default:
			h.reply(buf, -int32(unix.ENOSYS), nil)
			continue
		}
		h.reply(buf, 0, body)
	}
}

func (h *hungFile) reply(in []byte, errno int32, body []byte) {
	le := binary.LittleEndian
	out := le.AppendUint32(nil, uint32(fuseOutHeader+len(body)))
	out = le.AppendUint32(out, uint32(errno))
	out = append(out, in[8:16]...)
	_, _ = h.dev.Write(append(out, body...)) // the request may have been aborted
}

// hang makes a driver's thread wait for the file.
func (h *hungFile) hang(b *box, name string) {
	b.Helper()
	if err := b.driver(name).Command(b.Context(), "read", map[string]string{"path": h.path}, nil); err != nil {
		b.Fatal(err)
	}
	select {
	case <-h.reading:
	case <-time.After(limit):
		b.Fatal("the driver does not read the hung file")
	}
}

// TestSuccessorDoesNotWaitForOneThatCannotEnd: somebody kills a driver while a leg
// hangs. Its process stays; the face must not.
func TestSuccessorDoesNotWaitForOneThatCannotEnd(t *testing.T) {
	h := newHungFile(t)
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	b.write("disk0", "x")
	if got := b.status("disk0").Stats["predecessor"]; got != "none" {
		t.Errorf("the first process has a predecessor: %v", got)
	}
	h.hang(b, "disk0")
	killed := time.Now()
	if err := unix.Kill(p.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	q := b.running("disk0", p.Pid)
	t.Logf("a successor %v after the kill, with a fence's grace of %v", time.Since(killed).Round(time.Millisecond), b.o.FenceGrace)
	b.wantFace("disk0", "x")
	if got := b.status("disk0").Stats["predecessor"]; got != "alive" || !alive(p.Pid) {
		t.Fatalf("the predecessor %d (alive: %v) is %v to its successor, want alive", p.Pid, alive(p.Pid), got)
	}
	b.saw("disk0", EventDying, func(e Event) bool { return e.Pid == p.Pid })
	if len(q.Predecessors) != 1 || q.Predecessors[0] != p.Pid {
		t.Errorf("predecessors %v, want [%d]", q.Predecessors, p.Pid)
	}

	// The keeper is killed, and the successor too: both old processes are still known.
	b.kill()
	b.start()
	b.eventually("the descriptors are handed over", func() bool { return b.process("disk0").Restored })
	h.hang(b, "disk0")
	if err := unix.Kill(q.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r := b.running("disk0", q.Pid)
	if len(r.Predecessors) != 2 {
		t.Errorf("predecessors %v, want %d and %d", r.Predecessors, p.Pid, q.Pid)
	}
	if got := b.status("disk0").Stats["predecessor"]; got != "alive" {
		t.Errorf("two predecessors are %v to the third process, want alive", got)
	}
	b.wantFace("disk0", "x")
	wantRefused(t, b.c.Stop(t.Context(), false), drivers.RuleBusy)
	s := b.running("disk0", r.Pid) // it had been stopped, and is back

	h.release()
	b.eventually("the predecessors are gone", func() bool {
		return b.status("disk0").Stats["predecessor"] == "gone" && len(b.process("disk0").Predecessors) == 0
	})
	b.saw("disk0", EventFenced, nil)
	if alive(p.Pid) || alive(q.Pid) {
		t.Errorf("%d or %d lives", p.Pid, q.Pid)
	}
	if b.process("disk0").Pid != s.Pid {
		t.Error("the end of a predecessor ended the successor")
	}
}

// TestADeletedProcessIsNotStartedAgain: also when it takes its time to be gone, and the
// keeper is killed meanwhile.
func TestADeletedProcessIsNotStartedAgain(t *testing.T) {
	h := newHungFile(t)
	b := newBox(t)
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	h.hang(b, "disk0")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // for the keeper to take it up
	defer cancel()
	if err := b.c.Delete(ctx, "disk0", true); err == nil || !alive(p.Pid) {
		t.Fatalf("deleted (%v) while %d cannot end (alive: %v)", err, p.Pid, alive(p.Pid))
	}
	b.kill()
	b.start()
	b.saw("disk0", EventDying, func(e Event) bool { return e.Text == "deleted" })
	h.release()
	b.saw("disk0", EventForgot, nil)
	if ps, err := b.c.Processes(t.Context()); err != nil || len(ps) != 0 {
		t.Errorf("known are %+v (%v), want none", ps, err)
	}
}

func TestExitingIsSeenWithoutTouchingTheMemory(t *testing.T) {
	if exiting(os.Getpid()) {
		t.Error("this process is not exiting")
	}
	h := newHungFile(t)
	b := newBox(t)
	b.o.FenceGrace = time.Hour
	b.start()
	p := b.put("disk0", b.spec("disk0", drivertest.Options{}))
	h.hang(b, "disk0")
	if err := unix.Kill(p.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.saw("disk0", EventDying, nil)
	if !exiting(p.Pid) || !alive(p.Pid) || b.process("disk0").State != Dying {
		t.Errorf("exiting %v, alive %v, %s; want a living process that is dying", exiting(p.Pid), alive(p.Pid), b.process("disk0").State)
	}
	h.release()
	b.running("disk0", p.Pid)
}
