package legio

// A Ring is one event loop's way to the legs: a libaio context and an eventfd.
//
// An IO takes this way. Submit: the fault layer may keep or answer it; Zero, and what
// is larger than the device takes in a few requests, goes to the leg's workers; the
// rest is cut into pieces of one device request each and goes to the kernel in one
// io_submit, or, when the leg has as many requests in flight as it can take, into the
// leg's queue. Reap: pieces that have ended make room for what is queued on that
// leg; an IO whose last piece has ended passes the fault layer and is handed back.
//
// Invariants:
//   - Submit and Reap never wait for a leg. A piece is submitted with RWF_NOWAIT and
//     only while the leg has fewer requests in flight than its queue has; if it would
//     block all the same (the queue is frozen, its tags are shared with another
//     device, its page cache is filled), the kernel says EAGAIN and a worker of that
//     leg does the IO. A device whose driver knows no NOWAIT has only the count.
//   - Every IO is handed back exactly once, by Reap of some ring: the one that it
//     was submitted to, or the one that made room for it.
//   - While the kernel has an IO, table refers to it, and so keeps its buffer alive.
//   - Everything but post, Fd and Pending belongs to the thread of the event loop.

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// RingEntries is enough for two legs with the most that they take.
	RingEntries = 2 * depthMax
	// batchMax is how many pieces one io_submit carries.
	batchMax = 64
	// pieceBits are the low bits of iocb.data, the piece's number; the slot is above.
	pieceBits = 8
)

// Ring submits and reaps the I/O of one event loop.
type Ring struct {
	ctx    aioContext
	events events

	table []*IO // by slot: what the kernel has
	free  []uint32

	iocbs     [batchMax]iocb // the batch that is being built
	list      [batchMax]*iocb
	batch     int
	ready     ioList // ended, to be handed back by the next Reap
	isWatched bool   // Fd's signals are counted elsewhere
	freed     []*Leg // refused pieces made room on these; Submit and Reap look at their queues
	limit     int    // events taken by one Reap

	mu       sync.Mutex // guards the fields below
	efd      int
	closed   bool
	posted   ioList // ended outside the kernel's ring: by workers, by the fault layer
	isPosted atomic.Bool
}

// NewRing makes a ring. entries is how many requests it can have in flight with all
// legs together; RingEntries always suffices, with fewer some are left to workers.
func NewRing(entries int) (*Ring, error) {
	efd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make an eventfd for leg I/O: %w", err)
	}
	ctx, err := ioSetup(entries)
	if err != nil {
		unix.Close(efd)
		if errors.Is(err, unix.EAGAIN) {
			return nil, fmt.Errorf("set up asynchronous I/O for %d requests: %w (the system's limit is used up: raise fs.aio-max-nr)", entries, err)
		}
		return nil, fmt.Errorf("set up asynchronous I/O for %d requests: %w", entries, err)
	}
	r := &Ring{ctx: ctx, efd: efd, events: newEvents(ctx), limit: 4 * entries}
	for i := range r.list {
		r.list[i] = &r.iocbs[i]
	}
	return r, nil
}

// Fd is readable (POLLIN) when Reap has something to do.
func (r *Ring) Fd() int { return r.efd }

// Watched says whether each signal of Fd is noticed by whoever watches it: then Reap need not
// make it unreadable, which costs a system call.
func (r *Ring) Watched(is bool) { r.isWatched = is }

// Pending says, without a system call, whether Reap would hand something back now.
func (r *Ring) Pending() bool {
	if r.isPosted.Load() || r.ready.head != nil || len(r.events.batch) > 0 {
		return true
	}
	ring := r.events.ring
	return ring != nil && ring.head != atomic.LoadUint32(&ring.tail)
}

// Submit begins each IO on legs[io.Side]. Every outcome, also that the leg is nil or
// closed (ENODEV) or the IO ill-formed (EINVAL), comes by Reap.
func (r *Ring) Submit(ios []*IO, legs [3]*Leg) {
	for _, io := range ios {
		r.begin(io, legs[io.Side])
	}
	r.flush()
	if r.ready.head != nil {
		r.mu.Lock()
		r.wake()
		r.mu.Unlock()
	}
}

func (r *Ring) begin(io *IO, leg *Leg) {
	io.Err = 0
	io.os = ioOS{ring: r}
	if leg == nil || !leg.acquire() {
		io.Err = syscall.ENODEV
		r.ready.push(io)
		return
	}
	io.os.leg = leg
	if io.Err = leg.check(io); io.Err != 0 {
		r.ready.push(io)
		return
	}
	if leg.faults.armed.Load() && leg.faults.onSubmit(io) {
		return
	}
	if leg.remote != nil || !leg.divide(io) {
		leg.work(io)
		return
	}
	if leg.admit(io) {
		r.prepare(io)
		return
	}
	// It is in the leg's queue now. If the last request in flight ended in between,
	// nobody else would come to fetch it.
	r.pump(leg)
}

// pump submits what is queued on the leg and has room now.
func (r *Ring) pump(leg *Leg) {
	admitted := leg.dequeue()
	for io := admitted.pop(); io != nil; io = admitted.pop() {
		io.os.ring = r
		r.prepare(io)
	}
}

// prepare adds the pieces of an admitted IO to the batch.
func (r *Ring) prepare(io *IO) {
	if n := len(r.free); n > 0 {
		io.os.slot, r.free = r.free[n-1], r.free[:n-1]
		r.table[io.os.slot] = io
	} else {
		io.os.slot = uint32(len(r.table))
		r.table = append(r.table, io)
	}
	io.os.left, io.os.again = io.os.pieces, false
	leg, mem := io.os.leg, io.payload()
	for i := range int64(io.os.pieces) {
		if r.batch == batchMax {
			r.submitBatch()
		}
		cb := &r.iocbs[r.batch]
		r.batch++
		*cb = iocb{
			data:   uint64(io.os.slot)<<pieceBits | uint64(i),
			fildes: uint32(leg.fd),
			flags:  iocbFlagResfd,
			resfd:  uint32(r.efd),
		}
		if io.Op == Flush {
			cb.lioOpcode = iocbCmdFdsync
			continue
		}
		cb.lioOpcode = iocbCmdPread
		if io.Op == Write {
			cb.lioOpcode = iocbCmdPwrite
		}
		at := i * leg.piece
		if !leg.waits.Load() {
			cb.rwFlags = unix.RWF_NOWAIT
		}
		cb.buf = uint64(uintptr(unsafe.Pointer(&mem[at])))
		cb.nbytes = uint64(min(leg.piece, io.Len-at))
		cb.offset = io.Off + at
	}
}

// flush gives everything prepared to the kernel, and what that makes room for.
func (r *Ring) flush() {
	for r.batch > 0 {
		r.submitBatch()
		for len(r.freed) > 0 {
			leg := r.freed[len(r.freed)-1]
			r.freed = r.freed[:len(r.freed)-1]
			r.pump(leg)
		}
	}
}

// submitBatch gives the batch to the kernel. What the kernel does not take ends here.
func (r *Ring) submitBatch() {
	for from := 0; from < r.batch; {
		n, e := ioSubmit(r.ctx, r.list[from:r.batch])
		if from += n; n == 0 {
			if e == 0 {
				e = syscall.EAGAIN
			}
			if e != syscall.EINTR {
				leg := r.pieceEnded(r.iocbs[from].data, -int64(e))
				if e == syscall.EOPNOTSUPP {
					leg.waits.Store(true) // this driver has no NOWAIT; only the count helps
				}
				if leg.queued.Load() > 0 {
					r.freed = append(r.freed, leg)
				}
				from++
			}
		}
	}
	r.batch = 0
}

// pieceEnded accounts for one piece; with the last one its IO has ended, or goes to
// a worker. It returns the leg, which may have room now.
func (r *Ring) pieceEnded(data uint64, res int64) *Leg {
	io := r.table[data>>pieceBits]
	leg := io.os.leg
	want := int64(0)
	if io.Op != Flush {
		want = min(leg.piece, io.Len-int64(data&(1<<pieceBits-1))*leg.piece)
	}
	switch {
	case res == want:
	case res == -int64(syscall.EAGAIN), res == -int64(syscall.EOPNOTSUPP):
		io.os.again = true // would block, or the device cannot promise not to
	case res < 0:
		io.Err = syscall.Errno(-res)
	default:
		io.Err = syscall.EIO // short
	}
	if io.os.left--; io.os.left > 0 {
		return leg
	}
	r.table[io.os.slot] = nil
	r.free = append(r.free, io.os.slot)
	leg.inflight.Add(-int32(io.os.pieces))
	if io.os.again && io.Err == 0 {
		leg.work(io)
	} else {
		r.ready.push(io)
	}
	return leg
}

// Reap hands back what has ended, through done, and returns how many. It submits what
// was waiting for room on a leg. done may call Submit.
func (r *Ring) Reap(done func(*IO)) int {
	if !r.isWatched {
		var count uint64
		// Never blocks: EAGAIN when it was not signalled.
		unix.RawSyscall(unix.SYS_READ, uintptr(r.efd), uintptr(unsafe.Pointer(&count)), unsafe.Sizeof(count))
	}
	for range r.limit {
		ev, ok := r.events.next()
		if !ok {
			break
		}
		if leg := r.pieceEnded(ev.data, ev.res); leg.queued.Load() > 0 {
			r.pump(leg)
		}
	}
	r.flush()
	if r.isPosted.Load() {
		r.mu.Lock()
		posted := r.posted.take()
		r.isPosted.Store(false)
		r.mu.Unlock()
		for io := posted.pop(); io != nil; io = posted.pop() {
			r.ready.push(io)
		}
	}
	n := 0
	ready := r.ready.take()
	for io := ready.pop(); io != nil; io = ready.pop() {
		if io.os.leg != nil && !io.os.leg.settle(io) {
			continue
		}
		io.os = ioOS{}
		n++
		done(io)
	}
	if r.ready.head != nil {
		r.mu.Lock()
		r.wake()
		r.mu.Unlock()
	}
	return n
}

// post has an IO that ended elsewhere handed back by this ring. Any thread.
func (r *Ring) post(io *IO) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		io.os.leg.release()
		return
	}
	r.posted.push(io)
	if !r.isPosted.Swap(true) {
		r.wake()
	}
}

// wake makes Fd readable. The caller holds mu, so that the descriptor is still ours.
func (r *Ring) wake() {
	if !r.closed {
		one := [8]byte{1} // any value above 0 will do, in either byte order
		unix.Write(r.efd, one[:])
	}
}

// Close ends the ring after its event loop has ended. What is under way is not handed
// back any more. io_destroy waits for all that the kernel has, which on a hung leg may
// last for ever: with I/O in flight it runs beside, and this returns at once.
func (r *Ring) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	unix.Close(r.efd)
	lost := []ioList{r.posted.take(), r.ready.take()}
	r.mu.Unlock()
	for _, l := range lost {
		for io := l.pop(); io != nil; io = l.pop() {
			if io.os.leg != nil {
				io.os.leg.release()
			}
		}
	}
	destroy := func() {
		ioDestroy(r.ctx)
		for _, io := range r.table {
			if io != nil {
				io.os.leg.inflight.Add(-int32(io.os.pieces))
				io.os.leg.release()
			}
		}
	}
	if len(r.free) == len(r.table) {
		destroy()
	} else {
		go destroy()
	}
	return nil
}
