package fuseloop

// A server for the tests: a disk in memory that a memfd holds, so that it outlives the
// process that serves it, and event loops that answer at once.

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
)

// ramDisk is the content of a disk.
type ramDisk struct {
	memfd int
	mem   []byte

	mu    sync.Mutex
	trace func(op frontend.Op, off, n int64) // called for each request, if set
}

func newRAMDisk(size int64) (*ramDisk, error) {
	fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		return nil, err
	}
	return openRAMDisk(fd, size)
}

func openRAMDisk(fd int, size int64) (*ramDisk, error) {
	mem, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return &ramDisk{memfd: fd, mem: mem}, nil
}

func (d *ramDisk) close() {
	_ = unix.Munmap(d.mem)
	closeAll(d.memfd)
}

func (d *ramDisk) do(r *frontend.Request) {
	if d.trace != nil {
		d.mu.Lock()
		d.trace(r.Op, r.Off, r.Len)
		d.mu.Unlock()
	}
	switch r.Op {
	case frontend.Read:
		copy(r.Data, d.mem[r.Off:])
	case frontend.Write:
		copy(d.mem[r.Off:], r.Data)
	case frontend.Zero:
		clear(d.mem[r.Off:][:r.Len])
	}
}

// loops are the event loops of a face, one for each queue.
type loops struct {
	wg   sync.WaitGroup
	errs chan error
}

// serve starts the event loops of f. handle gets each request and must answer and free
// it, some time.
func serve(f *Face, handle func(*frontend.Request)) *loops {
	l := &loops{errs: make(chan error, len(f.Queues()))}
	for _, q := range f.Queues() {
		l.wg.Go(func() { l.errs <- eventLoop(q, handle) })
	}
	return l
}

func eventLoop(q frontend.Queue, handle func(*frontend.Request)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	poll := []unix.PollFd{{Fd: int32(q.Fd()), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			return err
		}
		if err := q.Receive(handle); err != nil {
			if errors.Is(err, frontend.ErrClosed) {
				return nil
			}
			return err
		}
	}
}

// wait waits until the loops have ended by themselves.
func (l *loops) wait() error {
	l.wg.Wait()
	close(l.errs)
	var errs []error
	for err := range l.errs {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// atOnce answers from d in the queue's own thread.
func atOnce(d *ramDisk) func(*frontend.Request) {
	return func(r *frontend.Request) {
		d.do(r)
		r.Queue.Reply(r)
		r.Queue.Free(r)
	}
}

func geometry(t testing.TB, size int64, block int) frontend.Geometry {
	return frontend.Geometry{Name: "test", Size: size, LogicalBlock: block, PhysicalBlock: 4096}
}

// rig is a face with a disk behind it.
type rig struct {
	*Face
	disk  *ramDisk
	loops *loops
}

// guard ends a face that a test hangs on: a process that waits for a disk which it should
// serve itself cannot even be killed.
func guard(t testing.TB, l loopDevice) {
	t.Helper()
	connection, err := l.connection()
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(2*patience, func() {
		t.Errorf("this hangs: aborting FUSE connection %d: %v", connection, abortConnection(connection))
	})
	t.Cleanup(func() { timer.Stop() })
}

// create makes a face of the disk's size, which the test must end.
func create(t testing.TB, g frontend.Geometry, opt Options) *Face {
	t.Helper()
	f, err := Create(g, opt)
	if err != nil {
		t.Fatal(err)
	}
	guard(t, f.loop)
	return f
}

// ramDiskFor makes a disk that goes at the test's end.
func ramDiskFor(t testing.TB, g frontend.Geometry) *ramDisk {
	t.Helper()
	d, err := newRAMDisk(g.Size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d
}

// start creates a face that is served from memory, and takes it down at the test's end.
func start(t testing.TB, g frontend.Geometry, opt Options, handle func(*ramDisk) func(*frontend.Request)) *rig {
	t.Helper()
	d := ramDiskFor(t, g)
	f := create(t, g, opt)
	return startOn(t, f, d, handle(d))
}

// startOn serves a face, and takes it down at the test's end.
func startOn(t testing.TB, f *Face, d *ramDisk, handle func(*frontend.Request)) *rig {
	t.Helper()
	r := &rig{Face: f, disk: d, loops: serve(f, handle)}
	t.Cleanup(func() { r.end(t) })
	return r
}

// end takes the face down, if the test has not.
func (r *rig) end(t testing.TB) {
	t.Helper()
	if r.down.Load() {
		return
	}
	if err := r.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	r.wait(t)
	if r.Stats().ReplyErrors != 0 || r.Stats().Malformed != 0 {
		t.Errorf("statistics at the end: %+v", r.Stats())
	}
}

// wait waits until the event loops have ended by themselves.
func (r *rig) wait(t testing.TB) {
	t.Helper()
	if err := r.loops.wait(); err != nil {
		t.Errorf("event loop: %v", err)
	}
}

// patience is for a machine that does much else meanwhile.
const patience = time.Minute

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		runtime.Gosched()
		_, _ = unix.Poll(nil, 1)
	}
}

// openDevice opens the block device; direct is O_DIRECT or 0.
func openDevice(t testing.TB, path string, direct int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|direct, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// page is aligned memory.
func page(t testing.TB, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return b
}

// blkRange is BLKDISCARD or BLKZEROOUT.
func blkRange(f *os.File, request uintptr, off, n int64) error {
	r := [2]uint64{uint64(off), uint64(n)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return fmt.Errorf("ioctl %#x: %w", request, errno)
	}
	return nil
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
