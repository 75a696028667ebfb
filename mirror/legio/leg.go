package legio

// A Leg is an open block device with what it takes to never wait for it: the count
// of IOs under way, the requests in flight in the kernel and the queue of those that
// found no room, a few workers, and the fault layer.
//
// Invariants:
//   - open counts each IO from acquire until it is handed back; the descriptor is
//     closed when the leg is closed and open has fallen to zero, never earlier.
//   - inflight never exceeds depth, which leaves room in the device's queue for the
//     workers, so that io_submit finds a free request.
//   - An IO is queued only while inflight is near depth, and whoever lowers inflight
//     looks at the queue afterwards; whoever queues looks at inflight afterwards. So
//     nothing is left behind in the queue.

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/drivers"
)

const (
	// depthMax bounds the requests in flight on one leg; more than this gains nothing.
	depthMax = 256
	// piecesMax is how many requests an IO may be cut into for io_submit.
	piecesMax = 8
	// workersMax bounds the threads that one leg can hold up.
	workersMax = 4
	// closeWait is how long Close waits for the kernel to let the device go when
	// nothing is in flight.
	closeWait = time.Second

	closedBit = int64(1) << 62
)

// Leg is an open leg. Its methods may be called from any goroutine.
type Leg struct {
	Path          string // as configured
	Device        string // the block device: Path, or our loop device over the file at Path; the address of an NBD server's export
	Bytes         int64  // rounded down to a multiple of 4096
	LogicalBlock  int    // bytes
	PhysicalBlock int    // bytes
	Rdev          uint64 // device number of Device
	Note          string // what an admin should know about it ("no direct I/O"), or ""

	fd       int
	remote   *remote // in place of fd and all that the kernel has: an NBD server
	identity string
	deadline time.Duration
	faults   *Faults
	piece    int64 // bytes that one request of the device is sure to take
	depth    int32 // requests in flight at most

	open     atomic.Int64 // IOs under way, and closedBit
	inflight atomic.Int32 // requests that the kernel has
	queued   atomic.Int32 // IOs in queue
	zeroing  atomic.Int32 // how ranges are zeroed, a zeroMethod
	waits    atomic.Bool  // its driver knows no RWF_NOWAIT

	mu      sync.Mutex // guards the fields below
	queue   ioList     // no room in the device's queue yet
	todo    ioList     // for the workers
	workers int

	letGo  sync.Once
	closed chan struct{}
}

// Identity is what the device calls itself, the same in whatever slot it is: UUID,
// WWN, serial number, or for files and loop devices the file. "" where it has none.
func (l *Leg) Identity() string { return l.identity }

// Faults is its fault layer.
func (l *Leg) Faults() *Faults { return l.faults }

// Depth is how many requests the leg has in flight at most; what is more, waits.
func (l *Leg) Depth() int { return int(l.depth) }

// acquire counts an IO in, unless the leg is closed.
func (l *Leg) acquire() bool {
	if l.open.Add(1)&closedBit == 0 {
		return true
	}
	l.release()
	return false
}

// release counts an IO out; the last one of a closed leg lets the device go.
func (l *Leg) release() {
	if l.open.Add(-1) == closedBit {
		l.letDeviceGo()
	}
}

// Quiet says whether nothing given to this Leg is under way any more.
func (l *Leg) Quiet() bool { return l.open.Load()&^closedBit == 0 }

// check says what is wrong with an IO in itself.
func (l *Leg) check(io *IO) syscall.Errno {
	if io.Op == Flush {
		return 0
	}
	block := int64(l.LogicalBlock)
	if io.Len <= 0 || io.Off < 0 || io.Off > l.Bytes-io.Len || io.Off%block != 0 || io.Len%block != 0 || io.Op > Zero {
		return syscall.EINVAL
	}
	if io.Op != Zero && (int64(len(io.Buf)) != io.Len || uintptr(unsafe.Pointer(&io.Buf[0]))%align != 0) {
		return syscall.EINVAL
	}
	return 0
}

// divide finds how many requests an IO needs; false when it is one for the workers.
func (l *Leg) divide(io *IO) bool {
	switch io.Op {
	case Flush:
		io.os.pieces = 1
		return true
	case Zero:
		return false
	}
	n := (io.Len + l.piece - 1) / l.piece
	if n > piecesMax || n > int64(l.depth) {
		return false
	}
	io.os.pieces = uint8(n)
	return true
}

// admit makes an IO one of those in flight, or queues it behind them.
func (l *Leg) admit(io *IO) bool {
	if l.queued.Load() == 0 && l.room(int32(io.os.pieces)) {
		return true
	}
	l.mu.Lock()
	l.queue.push(io)
	l.queued.Add(1)
	l.mu.Unlock()
	return false
}

// room takes n requests of the device's queue, if there are.
func (l *Leg) room(n int32) bool {
	for {
		have := l.inflight.Load()
		if have+n > l.depth {
			return false
		}
		if l.inflight.CompareAndSwap(have, have+n) {
			return true
		}
	}
}

// dequeue takes from the queue what has room now, and makes it in flight.
func (l *Leg) dequeue() ioList {
	var admitted ioList
	l.mu.Lock()
	for l.queue.head != nil && l.room(int32(l.queue.head.os.pieces)) {
		admitted.push(l.queue.pop())
		l.queued.Add(-1)
	}
	l.mu.Unlock()
	return admitted
}

// settle passes an IO that has ended by the fault layer and counts it out. False: the
// layer keeps it, and will complete it later.
func (l *Leg) settle(io *IO) bool {
	io.os.ended = true
	if !io.os.passed && l.faults.armed.Load() && l.faults.onEnd(io) {
		return false
	}
	l.release()
	return true
}

// complete sends an IO that ended outside the kernel's ring back to its submitter.
func (l *Leg) complete(io *IO) {
	if io.os.ring != nil {
		io.os.ring.post(io)
		return
	}
	done := io.os.done
	if l.settle(io) {
		close(done)
	}
}

// Gone says whether the device has vanished, lost its medium or shrunk. It asks the
// kernel's memory, not the device, and never blocks.
func (l *Leg) Gone() bool {
	if l.faults.Vanished() {
		return true
	}
	if !l.acquire() {
		return l.remote != nil || !blockPresent(l.Rdev)
	}
	defer l.release()
	if l.remote != nil {
		return l.remote.gone() != ""
	}
	size, err := blockBytes(l.fd)
	return err != nil || size < l.Bytes || !blockPresent(l.Rdev)
}

// Inflight is how many requests the kernel has under way on the whole device, also
// those of a process that died; after a vanished one it is 0. Of an NBD server's device
// only our own requests are known.
func (l *Leg) Inflight() (int, error) {
	if l.remote != nil {
		return l.remote.inflight(), nil
	}
	n, err := Inflight(l.Rdev)
	if err != nil && !blockPresent(l.Rdev) {
		return 0, nil
	}
	return n, err
}

// Inject sets a fault, or ends it; see Faults.Inject.
func (l *Leg) Inject(f drivers.Fault) error { return l.faults.Inject(f) }

// Close gives the leg back. What waits for its turn ends with ENODEV, what the device
// has goes on; when that has ended the device is let go and Closed is closed. It never
// waits for I/O; with none under way it waits until the device is let go, but not longer
// than a second.
func (l *Leg) Close() error {
	for {
		v := l.open.Load()
		if v&closedBit != 0 {
			return nil
		}
		if l.open.CompareAndSwap(v, v|closedBit) {
			break
		}
	}
	l.faults.detach(l)
	l.mu.Lock()
	waiting := []ioList{l.queue.take(), l.todo.take()}
	l.queued.Store(0)
	l.mu.Unlock()
	for _, list := range waiting {
		for io := list.pop(); io != nil; io = list.pop() {
			io.Err = syscall.ENODEV
			l.complete(io)
		}
	}
	if l.open.Load() != closedBit {
		return nil
	}
	l.letDeviceGo()
	select {
	case <-l.closed:
	case <-time.After(closeWait):
	}
	return nil
}

// Closed is closed when the kernel has let the device go: only then can it be opened
// again.
func (l *Leg) Closed() <-chan struct{} { return l.closed }

// letDeviceGo closes the descriptor beside: the last close of a block device writes
// back and, for our loop devices, tears them down.
func (l *Leg) letDeviceGo() {
	l.letGo.Do(func() {
		go func() {
			if l.remote != nil {
				l.remote.close()
			} else {
				unix.Close(l.fd)
			}
			close(l.closed)
		}()
	})
}

// ReadAt reads synchronously, within the deadline of OpenOptions, with any alignment.
func (l *Leg) ReadAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	from := off &^ (align - 1)
	upto := (off + int64(len(p)) + align - 1) &^ (align - 1)
	if off < 0 || upto > l.Bytes {
		return 0, fmt.Errorf("read %s: %d bytes at %d are not within its %d bytes", l.Path, len(p), off, l.Bytes)
	}
	io := &IO{Op: Read, Off: from, Len: upto - from, Buf: alignedBytes(int(upto - from))}
	if err := l.do(io); err != nil {
		return 0, err
	}
	return copy(p, io.Buf[off-from:]), nil
}

// WriteAt writes synchronously, within the deadline of OpenOptions. off and len(p) are
// multiples of the logical block. When the deadline passes, it may still be written
// later.
func (l *Leg) WriteAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	buf := alignedBytes(len(p))
	copy(buf, p)
	if err := l.do(&IO{Op: Write, Off: off, Len: int64(len(p)), Buf: buf}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Sync makes what was written stable, within the deadline of OpenOptions.
func (l *Leg) Sync() error { return l.do(&IO{Op: Flush}) }

// do carries out an IO of our own by a worker. When the deadline passes the IO, and
// its memory, are left to the worker.
func (l *Leg) do(io *IO) error {
	if !l.acquire() {
		return fmt.Errorf("%s %s: the leg is closed: %w", io.Op, l.Path, syscall.ENODEV)
	}
	done := make(chan struct{})
	io.os = ioOS{leg: l, done: done}
	if e := l.check(io); e != 0 {
		l.release()
		return fmt.Errorf("%s %s: %d bytes at %d do not fit its %d bytes in blocks of %d: %w", io.Op, l.Path, io.Len, io.Off, l.Bytes, l.LogicalBlock, e)
	}
	if !l.faults.armed.Load() || !l.faults.onSubmit(io) {
		l.work(io)
	}
	timer := time.NewTimer(l.deadline)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		return fmt.Errorf("%s %s: %w within %v", io.Op, l.Path, errNoAnswer, l.deadline)
	}
	if io.Err != 0 {
		return fmt.Errorf("%s %s: %d bytes at %d: %w", io.Op, l.Path, io.Len, io.Off, io.Err)
	}
	return nil
}

// errNoAnswer is what a device that hangs gives; see Hung.
var errNoAnswer = errors.New("the device did not answer")

// align is the alignment in memory that every device takes.
const align = 4096

func alignedBytes(n int) []byte {
	b := make([]byte, n+align)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & (align - 1))
	return b[skip : skip+n : skip+n]
}

// GoneWhy puts into words that the leg is gone.
func (l *Leg) GoneWhy() string {
	if l.remote != nil {
		return "the connection to " + l.Device + " has ended: " + l.remote.gone()
	}
	return "the device " + l.Device + " has vanished"
}
