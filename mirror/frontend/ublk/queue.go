package ublk

// The one queue of the device. Its commands are given to the kernel by one thread from the
// first to the last (the kernel insists): the one that calls Receive. Reply and Free put
// into an inbox and ring a bell.
//
// A request comes as the completion of a command for its tag, with a descriptor in memory
// shared with the kernel. A WRITE's payload is read from the character device, a READ's is
// written there, from and to memory of our own: so a leg that hangs may keep it for as long
// as it likes, whatever becomes of the tag.

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
	"ft/mirror/frontend/payload"
)

const (
	depth       = 128
	ioBytesMax  = payload.Max
	sectorBytes = 512
	// copies is how many attempts a payload's copy gets: it is short only when it was
	// interrupted.
	copiesMax = 8
)

// Queue is the stream of requests. It implements frontend.Queue.
type Queue struct {
	char        int // /dev/ublkcN
	ring        *ring
	epoll, bell int
	descs       []byte
	begun       bool
	fetching    int // tags that the kernel may complete

	mu     sync.Mutex // guards the fields below, and the bell's descriptor
	inbox  []delivery
	spare  []delivery
	ending bool // the device is being stopped
	leave  bool // give nothing back to the kernel: a successor is coming
	closed bool
	ended  chan struct{}
}

var _ frontend.Queue = (*Queue)(nil)

// carried is a request with its memory.
type carried struct {
	frontend.Request
	mem   *payload.Memory
	moved []byte // what was read lies here instead
}

type delivery struct {
	c     *carried
	freed bool
}

func newQueue(char int) (_ *Queue, err error) {
	q := &Queue{char: char, epoll: -1, bell: -1, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			q.char = -1 // the caller's
			q.release()
		}
	}()
	if q.ring, err = newRing(depth, false); err != nil {
		return nil, err
	}
	if q.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err = q.ring.notify(q.bell); err != nil {
		return nil, err
	}
	if q.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(q.bell)}
	if err = unix.EpollCtl(q.epoll, unix.EPOLL_CTL_ADD, q.bell, &ev); err != nil {
		return nil, fmt.Errorf("epoll_ctl: %w", err)
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
func (q *Queue) Fd() int { return q.epoll }

// Receive takes requests and gives answers.
func (q *Queue) Receive(emit func(*frontend.Request)) error {
	var n [8]byte
	_, _ = unix.Read(q.bell, n[:])
	if !q.begun {
		q.begun = true
		for tag := range uint16(depth) {
			q.fetch(ioFetchReq, tag, 0)
		}
	}
	leave := q.takeInbox()
	for {
		e, ok := q.ring.next()
		if !ok {
			break
		}
		if q.fetching--; e.res == 0 {
			q.take(uint16(e.userData), emit)
		}
		// Else the device is being stopped, or the queue left: the tag is not ours any more.
	}
	if q.ring.unsent > 0 {
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
	c := &carried{}
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
			if err := q.copy(tag, c.Data, unix.Pread); err != nil {
				c.mem.Give()
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

// copy moves a payload from or to the kernel's request.
func (q *Queue) copy(tag uint16, b []byte, move func(int, []byte, int64) (int, error)) error {
	at := int64(ioBufOffset) + int64(tag)<<tagOffset
	for range copiesMax {
		n, err := move(q.char, b, at)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if b, at = b[max(n, 0):], at+int64(max(n, 0)); len(b) == 0 {
			return nil
		}
	}
	return unix.EIO
}

// takeInbox gives answers to the kernel and memory back. It says whether the queue is left.
func (q *Queue) takeInbox() (leave bool) {
	q.mu.Lock()
	list := q.inbox
	q.inbox, q.spare = q.spare[:0], list
	leave = q.leave
	q.mu.Unlock()
	for _, d := range list {
		switch {
		case d.freed:
			if d.c.mem != nil {
				d.c.mem.Give()
				d.c.mem = nil
			}
		case !leave:
			q.commit(d.c)
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
		if result = int32(c.Len); q.copy(tag, data, unix.Pwrite) != nil {
			result = -int32(unix.EIO)
		}
	}
	q.fetch(ioCommitAndFetchReq, tag, result)
}

// Reply takes the engine's answer. Any thread.
func (q *Queue) Reply(r *frontend.Request) {
	c := q.carriedOf(r)
	if r.Op == frontend.Read && r.Err == 0 && unsafe.SliceData(r.Data) != unsafe.SliceData(c.mem.Data) {
		c.moved = append([]byte(nil), r.Data...) // the engine's memory is its own again from now on
	}
	q.put(delivery{c: c})
}

// Free takes a request back. Any thread.
func (q *Queue) Free(r *frontend.Request) { q.put(delivery{c: q.carriedOf(r), freed: true}) }

func (q *Queue) put(d delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if q.inbox = append(q.inbox, d); len(q.inbox) == 1 {
		q.wake()
	}
}

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
	q.mu.Lock()
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
	for _, fd := range []int{q.char, q.epoll} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	close(q.ended)
}
