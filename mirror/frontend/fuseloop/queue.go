package fuseloop

// A queue is one open file description of /dev/fuse: the first, or a clone of it. All
// of them take requests from one list in the kernel, but the kernel keeps what a
// description has read under that description: it is answered there, and lost if that
// description is closed by its last holder.
//
// The way of a request: Receive reads it into the queue's frame. A small WRITE is copied
// into small memory; a large one takes the frame along, and the queue takes another; a
// READ gets memory to be filled. Then it is the engine's, until Reply writes the answer
// and Free takes the memory back, from whichever thread.
//
// What is polled is an epoll descriptor around the fuse one, so that it is readable
// exactly while Receive has something to do: not while the queue is starved of memory,
// but also when requests that came in during Create wait, or when the face has ended.

import (
	"encoding/binary"
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
)

// receiveMax bounds the messages that one Receive takes, so that completions get their
// turn.
const receiveMax = 32

// Queue is a stream of requests of the face. It implements frontend.Queue.
type Queue struct {
	face  *Face
	pollF int // epoll descriptor
	kickF int // eventfd in it: readable when Receive is needed though no message came

	frame   *buffer // what the next message is read into; nil: starved or handed over
	backlog []*carried

	// mu guards fd, so that its number is not used by anyone once it is closed: held
	// for reading around each use.
	mu sync.RWMutex
	fd int // /dev/fuse; -1 when closed

	stats counters

	ended  bool // Receive has returned ErrClosed; its thread only
	free   carriedList
	answer struct { // of Receive's thread, for what the face answers itself
		outHeader
		body [104]byte // the largest: attrOut
		iov  [1]unix.Iovec
	}
}

// newQueue makes a queue of a /dev/fuse descriptor, which it then owns. On an error the
// descriptor is still the caller's.
func newQueue(f *Face, fd int) (_ *Queue, err error) {
	q := &Queue{face: f, fd: fd, pollF: -1, kickF: -1}
	defer func() {
		if err != nil {
			closeAll(q.pollF, q.kickF)
		}
	}()
	if q.pollF, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if q.kickF, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	for _, fd := range []int{q.kickF, q.fd} {
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err = unix.EpollCtl(q.pollF, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return nil, fmt.Errorf("epoll_ctl: %w", err)
		}
	}
	if q.frame = f.pool.get(classFrame, &f.pool.requests); q.frame == nil {
		err = fmt.Errorf("no memory for a frame of %d bytes: %w", f.pool.frameBytes, unix.ENOMEM)
		return nil, err
	}
	return q, nil
}

// Fd is readable exactly while Receive has something to do. It stays the same, and is
// closed when Receive returns ErrClosed: it must not be polled after that.
func (q *Queue) Fd() int { return q.pollF }

// Receive takes up to receiveMax messages, answers what the face can answer and emits
// the rest. One thread at a time.
func (q *Queue) Receive(emit func(*frontend.Request)) error {
	if q.ended || q.face.down.Load() {
		return q.end()
	}
	if q.backlog != nil {
		q.unkick()
		for _, c := range q.backlog {
			emit(&c.Request)
		}
		q.backlog = nil
	}
	for range receiveMax {
		if q.frame == nil {
			if q.frame = q.face.pool.frameOrStarve(q); q.frame == nil {
				return nil
			}
		}
		frame := q.frame.frame()
		n, errno := q.read(frame)
		switch errno {
		case 0:
			q.take(frame[:n], emit)
		case unix.EAGAIN:
			return nil
		case unix.EINTR, unix.ENOENT: // ENOENT: the request was called off while it was read
		case unix.ENODEV, unix.ECONNABORTED, unix.EBADF:
			return q.end()
		default:
			return fmt.Errorf("read a request of disk %s from /dev/fuse: %w", q.face.geometry.Name, errno)
		}
	}
	return nil
}

func (q *Queue) read(b []byte) (int, syscall.Errno) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.fd < 0 {
		return 0, unix.EBADF
	}
	// The description is non-blocking: this only copies.
	n, _, errno := unix.Syscall(unix.SYS_READ, uintptr(q.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}

// take deals with one message.
func (q *Queue) take(buf []byte, emit func(*frontend.Request)) {
	f := q.face
	q.stats.received.Add(1)
	m := f.disk.parse(buf)
	if m.bad {
		q.stats.malformed.Add(1)
	}
	switch m.course {
	case courseRefuse:
		q.respond(m.unique, m.errno, nil)
	case courseAnswer:
		q.answerItself(&m)
	case courseCarry:
		emit(&q.carry(&m).Request)
	}
}

// carry makes a request for the engine.
func (q *Queue) carry(m *message) *carried {
	if m.unique&uniqueResend != 0 {
		q.stats.resent.Add(1)
	}
	c := q.free.take()
	c.Request = frontend.Request{Op: m.op, Off: m.off, Len: m.n, Queue: q, Tag: m.unique, Mem: c}
	if m.op == frontend.Read || m.op == frontend.Write {
		c.buf = q.memory(m)
		c.Data = c.buf.data[:m.n:m.n]
	}
	c.state.Store(stateOut)
	return c
}

// memory is where the payload of m is to lie: small memory if it is small and there is
// some, else, for a WRITE, the frame that it came in. A READ that finds no memory takes
// the frame, too, so that there is always an answer to this.
func (q *Queue) memory(m *message) *buffer {
	p := q.face.pool
	if m.op == frontend.Read || m.n <= smallMax {
		if buf := p.get(p.classFor(int(m.n)), &p.requests); buf != nil {
			copy(buf.data, m.payload)
			return buf
		}
	}
	buf := q.frame
	q.frame = nil
	return buf
}

// answerItself answers what the engine need not know of.
func (q *Queue) answerItself(m *message) {
	f := q.face
	switch m.opcode {
	case opInit:
		out := f.disk.initAnswer(m.init, backgroundMax)
		f.resend.Store(m.init.Flags2&init2Resend != 0)
		q.respond(m.unique, 0, bytesOf(&out))
	case opGetattr, opSetattr:
		out := f.disk.attributes()
		q.respond(m.unique, 0, bytesOf(&out))
	case opStatfs:
		out := f.disk.statfs()
		q.respond(m.unique, 0, bytesOf(&out))
	case opOpen:
		out := openOut{OpenFlags: fopenDirectIO | fopenParallelDirectWrites}
		q.respond(m.unique, 0, bytesOf(&out))
	default:
		q.respond(m.unique, 0, nil)
	}
}

// respond writes a short answer. For Receive's thread.
func (q *Queue) respond(unique uint64, errno syscall.Errno, body []byte) {
	a := &q.answer
	a.outHeader = outHeader{Len: uint32(outHeaderSize + len(body)), Error: -int32(errno), Unique: unique}
	copy(a.body[:], body)
	a.iov[0] = unix.Iovec{Base: (*byte)(unsafe.Pointer(a)), Len: uint64(a.Len)}
	q.write(a.iov[:], true)
}

// Reply sends the answer of a request. Any thread.
func (q *Queue) Reply(r *frontend.Request) {
	c := q.carriedOf(r)
	if !c.state.CompareAndSwap(stateOut, stateAnswered) {
		panic(fmt.Sprintf("fuseloop: %v at %d of disk %s answered twice", r.Op, r.Off, q.face.geometry.Name))
	}
	out := &c.out
	out.outHeader = outHeader{Len: uint32(outHeaderSize), Error: answerError(r.Err), Unique: r.Tag}
	iovs := 1
	if r.Err == 0 {
		switch r.Op {
		case frontend.Write:
			out.writeOut.Size = uint32(r.Len)
			out.Len += uint32(unsafe.Sizeof(out.writeOut))
		case frontend.Read:
			iovs = 2
		}
	}
	c.iov[0] = unix.Iovec{Base: (*byte)(unsafe.Pointer(out)), Len: uint64(out.Len)}
	if iovs == 2 {
		c.iov[1] = unix.Iovec{Base: unsafe.SliceData(c.Data), Len: uint64(r.Len)}
		out.Len += uint32(r.Len)
	}
	q.write(c.iov[:iovs], r.Op != frontend.Read)
}

// answerError is err as the protocol has it. The kernel takes -511 to 0; and ENOSYS
// would make it never send such a request again.
func answerError(err syscall.Errno) int32 {
	if err >= 512 || err == unix.ENOSYS {
		err = unix.EIO
	}
	return -int32(err)
}

// write hands an answer to the kernel. It cannot block; a short one does not even give
// up its processor to the Go scheduler. iov and what it points to lie on the heap: they
// do not move.
func (q *Queue) write(iov []unix.Iovec, short bool) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.fd < 0 {
		return // ended or abandoned: a successor will be asked again
	}
	for {
		var errno syscall.Errno
		if short {
			_, _, errno = unix.RawSyscall(unix.SYS_WRITEV, uintptr(q.fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
		} else {
			_, _, errno = unix.Syscall(unix.SYS_WRITEV, uintptr(q.fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
		}
		switch errno {
		case unix.EINTR:
			continue
		case 0:
			q.stats.answered.Add(1)
		case unix.ENOENT: // called off meanwhile, or the connection is gone
		default:
			q.stats.replyErrors.Add(1)
		}
		return
	}
}

// Free takes a request back. Any thread.
func (q *Queue) Free(r *frontend.Request) {
	c := q.carriedOf(r)
	if c.state.Swap(stateFree) == stateFree {
		panic(fmt.Sprintf("fuseloop: %v at %d of disk %s freed twice", r.Op, r.Off, q.face.geometry.Name))
	}
	buf := c.buf
	c.buf, c.Request = nil, frontend.Request{}
	q.free.give(c)
	if buf != nil {
		q.face.pool.put(buf, &q.face.pool.requests)
	}
}

func (q *Queue) carriedOf(r *frontend.Request) *carried {
	c, ok := r.Mem.(*carried)
	if !ok || r.Queue != frontend.Queue(q) {
		panic("fuseloop: a request came back to a queue that it is not from, or after it was freed")
	}
	return c
}

// Alloc gives memory for an internal copy, at most maxWrite bytes. Any thread.
func (q *Queue) Alloc(n int) ([]byte, func()) {
	p := q.face.pool
	if n <= 0 || n > p.frameBytes {
		return nil, nil
	}
	buf := p.get(p.classFor(n), &p.copies)
	if buf == nil {
		return nil, nil
	}
	return buf.data[:n:n], sync.OnceFunc(func() { p.put(buf, &p.copies) })
}

// listen sets whether messages make the queue readable. Any thread, the pool's lock held.
func (q *Queue) listen(on bool) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.fd < 0 {
		return
	}
	ev := unix.EpollEvent{Fd: int32(q.fd)}
	if on {
		ev.Events = unix.EPOLLIN
	} else {
		q.stats.starved.Add(1)
	}
	// Fails only for a descriptor that is not there, and both are.
	_ = unix.EpollCtl(q.pollF, unix.EPOLL_CTL_MOD, q.fd, &ev)
}

// kick makes the queue readable until the next Receive.
func (q *Queue) kick() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(q.kickF, one[:]) // EAGAIN: it is readable already
}

func (q *Queue) unkick() {
	var n [8]byte
	_, _ = unix.Read(q.kickF, n[:])
}

// end gives back what the queue holds, when its face has ended. Receive's thread.
func (q *Queue) end() error {
	if q.ended {
		return frontend.ErrClosed
	}
	q.ended = true
	q.closeFuse()
	for _, c := range q.backlog {
		q.Free(&c.Request)
	}
	q.backlog = nil
	if q.frame != nil {
		q.face.pool.put(q.frame, &q.face.pool.requests)
		q.frame = nil
	}
	closeAll(q.pollF, q.kickF)
	return frontend.ErrClosed
}

// fuse is the /dev/fuse descriptor; -1 when closed.
func (q *Queue) fuse() int {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.fd
}

// closeFuse closes the /dev/fuse descriptor. Any thread.
func (q *Queue) closeFuse() {
	q.mu.Lock()
	defer q.mu.Unlock()
	closeAll(q.fd)
	q.fd = -1
}

// closeAll closes descriptors, -1 for none. What close(2) reports on these is of no
// use to anybody: the descriptor is gone in any case.
func closeAll(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
