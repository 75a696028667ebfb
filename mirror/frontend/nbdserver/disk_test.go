package nbdserver

// A disk in memory with an event loop, for the tests.

import (
	"errors"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
)

// testDisk serves a Server from memory, as the mirror's loop and engine do.
type testDisk struct {
	t     testing.TB
	s     *Server
	path  string
	stop  chan struct{}
	ended chan struct{}

	mu      sync.Mutex // guards the fields below
	data    []byte
	fail    func(r *frontend.Request) syscall.Errno
	hold    bool // requests are not answered
	held    []*frontend.Request
	flushes int
	ops     []frontend.Op
}

const testBytes = 64 << 20

func newTestDisk(t testing.TB, opt Options) *testDisk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk0.nbd")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	return serveDisk(t, listener, path, opt)
}

func serveDisk(t testing.TB, listener int, path string, opt Options) *testDisk {
	t.Helper()
	g := frontend.Geometry{Name: "disk0", Size: testBytes, LogicalBlock: 512, PhysicalBlock: 4096}
	s, err := New(listener, path, g, opt)
	if err != nil {
		t.Fatal(err)
	}
	d := &testDisk{t: t, s: s, path: path, data: make([]byte, testBytes), stop: make(chan struct{}), ended: make(chan struct{})}
	go d.run()
	t.Cleanup(d.close)
	return d
}

func (d *testDisk) close() {
	d.release()
	if err := d.s.Close(); err != nil {
		d.t.Error(err)
	}
	<-d.ended
	if d.s.used != 0 {
		d.t.Errorf("%d bytes of payload are still charged", d.s.used)
	}
}

func (d *testDisk) run() {
	defer close(d.ended)
	fds := []unix.PollFd{{Fd: int32(d.s.Fd()), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, 1000); err != nil && err != unix.EINTR {
			d.t.Error(err)
			return
		}
		var got []*frontend.Request
		err := d.s.Receive(func(r *frontend.Request) { got = append(got, r) })
		for _, r := range got {
			d.carryOut(r)
		}
		if errors.Is(err, frontend.ErrClosed) {
			return
		}
		if err != nil {
			d.t.Error(err)
			return
		}
	}
}

func (d *testDisk) carryOut(r *frontend.Request) {
	d.mu.Lock()
	d.ops = append(d.ops, r.Op)
	if d.hold {
		d.held = append(d.held, r)
		d.mu.Unlock()
		return
	}
	d.apply(r)
	d.mu.Unlock()
	d.s.Reply(r)
	d.s.Free(r)
}

// apply does a request. Under mu.
func (d *testDisk) apply(r *frontend.Request) {
	if d.fail != nil {
		if r.Err = d.fail(r); r.Err != 0 {
			return
		}
	}
	switch r.Op {
	case frontend.Read:
		copy(r.Data, d.data[r.Off:r.Off+r.Len])
	case frontend.Write:
		copy(d.data[r.Off:r.Off+r.Len], r.Data)
	case frontend.Zero:
		clear(d.data[r.Off : r.Off+r.Len])
	case frontend.Flush:
		d.flushes++
	}
}

// release answers what is held, and holds no more.
func (d *testDisk) release() {
	d.mu.Lock()
	d.hold = false
	held := d.held
	d.held = nil
	for _, r := range held {
		d.apply(r)
	}
	d.mu.Unlock()
	for _, r := range held {
		d.s.Reply(r)
		d.s.Free(r)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}
