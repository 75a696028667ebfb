package ublk

// The one queue of the device. Its commands are given to the kernel by one thread from the
// first to the last (the kernel insists): the one that calls Receive.
//
// That thread waits in the queue itself (frontend.Waiter): one system call gives the kernel
// the answers, lets it hand over requests, which it does on this thread (DEFER_TASKRUN), and
// sleeps until there are some, or a watched descriptor is signalled. An answer from another
// thread goes to an inbox, and rings a bell, which is watched too. Who only polls Fd and calls
// Receive, has the bell rung by the kernel.
//
// A request comes as the completion of a command for its tag, with a descriptor in memory
// shared with the kernel. A WRITE's payload is read from the character device, a READ's is
// written there, from and to memory of our own: so a leg that hangs may keep it for as long
// as it likes, whatever becomes of the tag.

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
	"ft/mirror/frontend/payload"
)

const (
	depth       = 128
	ioBytesMax  = payload.Max
	sectorBytes = 512
	// copiesMax is how many attempts a payload's copy gets: it is short only when it was
	// interrupted.
	copiesMax = 8
	// copyQuick is what is copied without telling the Go runtime.
	copyQuick = 64 << 10
	// Completions below depth are of tags, those from watchBase on of what is watched.
	watchBase = 1 << 16
	// ringEntries has room for a command of each tag and for what is watched.
	ringEntries = 2 * depth
)

// Queue is the stream of requests. It implements frontend.Waiter.
type Queue struct {
	char  int // /dev/ublkcN
	ring  *ring
	bell  int // eventfd: Receive is to look
	descs []byte

	// Of Receive's thread.
	begun     bool
	fetching  int      // tags that the kernel may complete
	arrived   []uint16 // tags with requests
	ended     bool     // a tag came back without one
	watched   []int    // the bell first; nil: Fd is polled
	signalled uint32   // of watched
	failed    error    // the ring cannot be used any more
	released  bool

	mu     sync.Mutex // guards the fields below, and the bell's descriptor
	inbox  []*carried
	spare  []*carried
	ending bool // the device is being stopped
	leave  bool // give nothing back to the kernel: a successor is coming
	closed bool
	gone   chan struct{}
}

var _ frontend.Waiter = (*Queue)(nil)

// carried is a request with its memory.
type carried struct {
	frontend.Request
	mem   *payload.Memory
	moved []byte       // what was read lies here instead
	left  atomic.Int32 // who has it still: the engine, and the way of the answer
}

var spareCarried = sync.Pool{New: func() any { return &carried{} }}

// drop is one of the two having let go of it.
func (c *carried) drop() {
	if c.left.Add(-1) > 0 {
		return
	}
	if c.mem != nil {
		c.mem.Give()
	}
	c.mem, c.moved, c.Request = nil, nil, frontend.Request{}
	spareCarried.Put(c)
}

func newQueue(char int) (_ *Queue, err error) {
	q := &Queue{char: char, bell: -1, gone: make(chan struct{})}
	defer func() {
		if err != nil {
			q.char = -1 // the caller's
			q.release()
		}
	}()
	// Disabled until the thread comes whose it will be.
	if q.ring, err = newRing(ringEntries, ioringSetupRDisabled|ioringSetupSingleIssuer|ioringSetupDeferTaskrun); err != nil {
		return nil, err
	}
	if q.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err = q.ring.notify(q.bell); err != nil {
		return nil, err
	}
	const page = 4096
	bytes := (depth*int(unsafe.Sizeof(ioDesc{})) + page - 1) &^ (page - 1)
	if q.descs, err = unix.Mmap(char, 0, bytes, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("map the requests of a ublk device: %w", err)
	}
	q.wake()
	return q, nil
}

// wake rings the bell.
func (q *Queue) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(q.bell, one[:])
}

// Fd is readable while Receive has something to do.
func (q *Queue) Fd() int { return q.bell }

// begin makes the calling thread the queue's, and gives the kernel all tags.
func (q *Queue) begin() error {
	if q.begun {
		return nil
	}
	q.begun = true
	if err := q.ring.enable(); err != nil {
		return err
	}
	for tag := range uint16(depth) {
		q.fetch(ioFetchReq, tag, 0)
	}
	return nil
}

// Watch has Wait end for signals of fds as well.
func (q *Queue) Watch(fds ...int) error {
	if q.watched != nil {
		return errors.New("ublk: the queue is being watched already")
	}
	if err := q.ring.silence(); err != nil {
		return err
	}
	q.watched = append([]int{q.bell}, fds...)
	if err := q.begin(); err != nil {
		return err
	}
	for i, fd := range q.watched {
		q.ring.watch(fd, watchBase+uint64(i))
	}
	return nil
}

// Wait gives the kernel what there is for it, and waits.
func (q *Queue) Wait(limit time.Duration, quick bool) (signalled uint32, asked bool) {
	q.failed = q.ring.wait(limit, quick)
	q.reap()
	signalled = q.signalled
	q.signalled &= 1
	return signalled >> 1, q.failed != nil || q.ended || signalled&1 != 0 || len(q.arrived) > 0
}

// reap takes the completions.
func (q *Queue) reap() {
	for {
		e, ok := q.ring.next()
		if !ok {
			return
		}
		if e.userData >= watchBase {
			i := e.userData - watchBase
			q.signalled |= 1 << i
			if e.flags&ioringCqeFMore == 0 {
				q.ring.watch(q.watched[i], e.userData)
			}
			continue
		}
		if q.fetching--; e.res == 0 {
			q.arrived = append(q.arrived, uint16(e.userData))
		} else {
			q.ended = true // the device is being stopped: the tag is not ours any more
		}
	}
}

// Receive takes requests and gives answers.
func (q *Queue) Receive(emit func(*frontend.Request)) error {
	if q.failed != nil {
		return q.failed
	}
	polled := q.watched == nil
	if polled {
		var n [8]byte
		_, _ = unix.Read(q.bell, n[:])
		if err := q.begin(); err != nil {
			return err
		}
	}
	q.signalled &^= 1
	leave := q.takeInbox()
	if polled {
		if err := q.ring.submit(0); err != nil {
			return err
		}
		q.reap()
	}
	for _, tag := range q.arrived {
		q.take(tag, emit)
	}
	q.arrived = q.arrived[:0]
	if polled && q.ring.unsent > 0 {
		if err := q.ring.submit(0); err != nil {
			return err
		}
	}
	if leave || q.fetching == 0 && q.stopped() {
		q.release()
		return frontend.ErrClosed
	}
	return nil
}

// fetch gives a tag to the kernel, with the answer of its last request.
func (q *Queue) fetch(op uint32, tag uint16, result int32) {
	cmd := ioCmd{tag: tag, result: result}
	q.ring.command(q.char, op, unsafe.Slice((*byte)(unsafe.Pointer(&cmd)), unsafe.Sizeof(cmd)), uint64(tag))
	q.fetching++
}

// take deals with one request of the kernel.
func (q *Queue) take(tag uint16, emit func(*frontend.Request)) {
	d := *(*ioDesc)(unsafe.Pointer(&q.descs[int(tag)*int(unsafe.Sizeof(ioDesc{}))]))
	c := spareCarried.Get().(*carried)
	c.left.Store(2)
	c.Request = frontend.Request{Off: int64(d.startSector) * sectorBytes, Len: int64(d.nrSectors) * sectorBytes, Queue: q, Tag: uint64(tag), Mem: c}
	switch d.opFlags & 0xff {
	case ioOpRead, ioOpWrite:
		if c.Len > ioBytesMax {
			q.fetch(ioCommitAndFetchReq, tag, -int32(unix.EIO))
			return
		}
		c.mem = payload.Take(int(c.Len))
		c.Data = c.mem.Data
		if d.opFlags&0xff == ioOpWrite {
			c.Op = frontend.Write
			if err := q.copy(tag, c.Data, unix.SYS_PREAD64); err != nil {
				c.drop()
				c.drop()
				q.fetch(ioCommitAndFetchReq, tag, -int32(unix.EIO))
				return
			}
		}
	case ioOpFlush:
		c.Op, c.Off, c.Len = frontend.Flush, 0, 0
	case ioOpDiscard, ioOpWriteZeroes:
		c.Op = frontend.Zero
	default:
		q.fetch(ioCommitAndFetchReq, tag, -int32(unix.EOPNOTSUPP))
		return
	}
	emit(&c.Request)
}

// copy moves a payload from or to the kernel's request (pread or pwrite).
func (q *Queue) copy(tag uint16, b []byte, move uintptr) error {
	call := unix.Syscall6
	if len(b) <= copyQuick {
		call = unix.RawSyscall6 // memory to memory: it does not wait
	}
	at := int64(ioBufOffset) + int64(tag)<<tagOffset
	for range copiesMax {
		n, _, e := call(move, uintptr(q.char), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(at), 0, 0)
		switch {
		case e == unix.EINTR:
			continue
		case e != 0:
			return e
		}
		if b, at = b[n:], at+int64(n); len(b) == 0 {
			return nil
		}
	}
	return unix.EIO
}

// takeInbox gives the kernel the answers of other threads. It says whether the queue is left.
func (q *Queue) takeInbox() (leave bool) {
	q.mu.Lock()
	list := q.inbox
	q.inbox, q.spare = q.spare[:0], list
	leave = q.leave
	q.mu.Unlock()
	for _, c := range list {
		if leave {
			c.drop()
		} else {
			q.commit(c)
		}
	}
	clear(list)
	return leave
}

// commit gives the answer of a request.
func (q *Queue) commit(c *carried) {
	tag, result := uint16(c.Tag), -int32(c.Err)
	switch {
	case c.Err >= 512, c.Err == syscall.EAGAIN:
		result = -int32(unix.EIO)
	case c.Err != 0 || c.Op == frontend.Flush || c.Op == frontend.Zero:
	case c.Op == frontend.Write:
		result = int32(c.Len)
	default:
		data := c.Data
		if c.moved != nil {
			data = c.moved
		}
		if result = int32(c.Len); q.copy(tag, data, unix.SYS_PWRITE64) != nil {
			result = -int32(unix.EIO)
		}
	}
	q.fetch(ioCommitAndFetchReq, tag, result)
	c.drop()
}

// ReplyHere is Reply on Receive's thread.
func (q *Queue) ReplyHere(r *frontend.Request) {
	c := q.carriedOf(r)
	if q.released {
		c.drop() // a successor will be asked again
		return
	}
	if r.Op == frontend.Read && r.Err == 0 && unsafe.SliceData(r.Data) != unsafe.SliceData(c.mem.Data) {
		c.moved = r.Data // only until commit has copied it
	}
	q.commit(c)
}

// Reply takes the engine's answer. Any thread.
func (q *Queue) Reply(r *frontend.Request) {
	c := q.carriedOf(r)
	if r.Op == frontend.Read && r.Err == 0 && unsafe.SliceData(r.Data) != unsafe.SliceData(c.mem.Data) {
		c.moved = append([]byte(nil), r.Data...) // the engine's memory is its own again from now on
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		c.drop()
		return
	}
	if q.inbox = append(q.inbox, c); len(q.inbox) == 1 {
		q.wake()
	}
}

// Free takes a request back. Any thread.
func (q *Queue) Free(r *frontend.Request) { q.carriedOf(r).drop() }

func (q *Queue) carriedOf(r *frontend.Request) *carried {
	c, ok := r.Mem.(*carried)
	if !ok || r.Queue != frontend.Queue(q) {
		panic("ublk: a request came back to a queue that it is not from")
	}
	return c
}

// Alloc gives no memory: the engine has its own.
func (q *Queue) Alloc(int) ([]byte, func()) { return nil, nil }

// stop has Receive end when the kernel wants nothing any more (the device is stopped), or
// at once (leave).
func (q *Queue) stop(leave bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.ending, q.leave = true, q.leave || leave
		q.wake()
	}
}

func (q *Queue) stopped() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ending
}

// release closes what the queue has: with the ring the kernel sees that it is gone.
func (q *Queue) release() {
	q.released = true
	q.mu.Lock()
	for _, c := range q.inbox {
		c.drop()
	}
	q.closed, q.inbox = true, nil
	if q.bell >= 0 {
		unix.Close(q.bell)
	}
	q.bell = -1
	q.mu.Unlock()
	if q.ring != nil {
		q.ring.close()
	}
	if q.descs != nil {
		unix.Munmap(q.descs)
	}
	if q.char >= 0 {
		unix.Close(q.char)
	}
	close(q.gone)
}
