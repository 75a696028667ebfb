package legio

// What the tests of this package share: event loops as the driver runs them, and legs.

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/legio/loop"
)

const (
	mib         = int64(1 << 20)
	testPatient = time.Minute
)

// eventLoop is a thread with a ring: it polls, reaps, and hands IOs over to end.
type eventLoop struct {
	t    testing.TB
	ring *Ring
	post chan func() // run on the thread
	wake int         // eventfd that makes it look at post
	stop chan struct{}
}

func newEventLoop(t testing.TB) *eventLoop {
	t.Helper()
	l := &eventLoop{t: t, post: make(chan func(), 1024), stop: make(chan struct{})}
	var err error
	if l.ring, err = NewRing(RingEntries); err != nil {
		t.Fatal(err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	ended.Go(l.run)
	t.Cleanup(func() {
		close(l.stop)
		l.do(func() {})
		ended.Wait()
		l.ring.Close()
		unix.Close(l.wake)
	})
	return l
}

func (l *eventLoop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fds := []unix.PollFd{{Fd: int32(l.wake), Events: unix.POLLIN}, {Fd: int32(l.ring.Fd()), Events: unix.POLLIN}}
	var b [8]byte
	for {
		unix.Poll(fds, -1)
		unix.Read(l.wake, b[:])
		l.ring.Reap(func(io *IO) { io.Owner.(func(*IO))(io) })
		for more := true; more; {
			select {
			case <-l.stop:
				return
			case f := <-l.post:
				f()
			default:
				more = false
			}
		}
	}
}

// do runs f on the loop's thread.
func (l *eventLoop) do(f func()) {
	l.post <- f
	unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// start submits IOs and returns a channel that gets each as it ends.
func (l *eventLoop) start(leg *Leg, ios ...*IO) chan *IO {
	l.t.Helper()
	ended := make(chan *IO, len(ios))
	for _, io := range ios {
		io.Owner = func(io *IO) { ended <- io }
	}
	submitted := make(chan struct{})
	l.do(func() { l.ring.Submit(ios, [3]*Leg{leg, leg}); close(submitted) })
	select {
	case <-submitted:
	case <-time.After(testPatient):
		l.t.Fatal("Submit blocked")
	}
	return ended
}

// run submits one IO and waits for its end.
func (l *eventLoop) one(leg *Leg, io *IO) syscall.Errno {
	l.t.Helper()
	return wait(l.t, l.start(leg, io)).Err
}

func wait(t testing.TB, ended chan *IO) *IO {
	t.Helper()
	select {
	case io := <-ended:
		return io
	case <-time.After(testPatient):
		t.Fatal("an IO did not end")
		return nil
	}
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testPatient); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for: %s", what)
		}
	}
}

func read(off, n int64) *IO { return &IO{Op: Read, Off: off, Len: n, Buf: alignedBytes(int(n))} }

func write(off, n int64, fill byte) *IO {
	io := &IO{Op: Write, Off: off, Len: n, Buf: alignedBytes(int(n))}
	for i := range io.Buf {
		io.Buf[i] = fill
	}
	return io
}

func filled(io *IO, with byte) bool { return bytes.Count(io.Buf, []byte{with}) == len(io.Buf) }

func sparse(t testing.TB, bytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "leg")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, bytes); err != nil {
		t.Fatal(err)
	}
	return path
}

// mustOpen opens a leg for the length of the test, and sees to it that it goes.
func mustOpen(t testing.TB, path string, o OpenOptions) *Leg {
	t.Helper()
	leg, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLeg(t, leg) })
	return leg
}

func closeLeg(t testing.TB, leg *Leg) {
	t.Helper()
	leg.Inject(fault("clear"))
	leg.Close()
	select {
	case <-leg.Closed():
	case <-time.After(testPatient):
		t.Errorf("leg %s was not let go: %d under way", leg.Path, leg.open.Load()&^closedBit)
		return
	}
	if leg.Device != leg.Path && loop.Over(leg.Path) != "" {
		waitFor(t, leg.Device+" to be detached", func() bool { return loop.Over(leg.Path) == "" })
	}
}
