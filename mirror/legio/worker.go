package legio

// Workers do what can block: zeroing, I/O that is too large for the ring or that the
// kernel would not take without waiting, and the leg's synchronous I/O. They are few,
// start on demand, end when there is nothing to do, and belong to one leg, so that a
// hung one holds up no other. What waits for them is bounded by those who submit: the
// engine by its number of requests.

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// transferMax is the most that one pread or pwrite of a worker carries.
	transferMax = 1 << 20
	// punchMax is the most that one fallocate covers: between two of them a closed leg
	// is noticed.
	punchMax = 1 << 30
)

// zeroMethod is how a leg's ranges are made to read as zeroes, best first. Never by a
// discard: what a discarded range reads as is not defined.
type zeroMethod int32

const (
	zeroPunch zeroMethod = iota // free the space; the kernel promises zeroes
	zeroRange                   // the device's or the kernel's own way of writing zeroes
	zeroWrite                   // ours
)

var zeroes = alignedBytes(transferMax)

// work leaves an IO to the workers, or to the connection of an NBD server. Any thread.
func (l *Leg) work(io *IO) {
	if l.remote != nil {
		l.remote.submit(io)
		return
	}
	l.mu.Lock()
	l.todo.push(io)
	more := l.workers < workersMax
	if more {
		l.workers++
	}
	l.mu.Unlock()
	if more {
		go l.worker()
	}
}

func (l *Leg) worker() {
	for {
		l.mu.Lock()
		io := l.todo.pop()
		if io == nil {
			l.workers--
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		io.Err = l.carryOut(io)
		l.complete(io)
	}
}

// carryOut does an IO with blocking system calls.
func (l *Leg) carryOut(io *IO) syscall.Errno {
	if l.open.Load()&closedBit != 0 {
		return syscall.ENODEV
	}
	switch io.Op {
	case Read:
		return transfer(io.payload(), func(p []byte, at int64) (int, error) { return unix.Pread(l.fd, p, io.Off+at) })
	case Write:
		return transfer(io.payload(), func(p []byte, at int64) (int, error) { return unix.Pwrite(l.fd, p, io.Off+at) })
	case Flush:
		return errno(retry(func() error { return unix.Fdatasync(l.fd) }))
	default:
		return l.zero(io.Off, io.Len)
	}
}

// transfer moves all of buf in bounded steps; less than asked for is EIO.
func transfer(buf []byte, move func(p []byte, at int64) (int, error)) syscall.Errno {
	for at := 0; at < len(buf); {
		var n int
		err := retry(func() (err error) {
			n, err = move(buf[at:min(len(buf), at+transferMax)], int64(at))
			return err
		})
		if err != nil {
			return errno(err)
		}
		if n <= 0 {
			return syscall.EIO
		}
		at += n
	}
	return 0
}

// zero makes the range read as zeroes by the best method that the device has, and
// remembers which that is.
func (l *Leg) zero(off, length int64) syscall.Errno {
	for length > 0 {
		if l.open.Load()&closedBit != 0 {
			return syscall.ENODEV
		}
		n := min(length, punchMax)
		method := zeroMethod(l.zeroing.Load())
		e := l.zeroBy(method, off, n)
		if e == syscall.EOPNOTSUPP && method < zeroWrite {
			l.zeroing.CompareAndSwap(int32(method), int32(method)+1)
			continue
		}
		if e != 0 {
			return e
		}
		off, length = off+n, length-n
	}
	return 0
}

func (l *Leg) zeroBy(method zeroMethod, off, length int64) syscall.Errno {
	switch method {
	case zeroPunch:
		return errno(retry(func() error {
			return unix.Fallocate(l.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		}))
	case zeroRange:
		return errno(retry(func() error {
			return unix.Fallocate(l.fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		}))
	}
	for length > 0 {
		n := min(length, transferMax)
		if e := transfer(zeroes[:n], func(p []byte, at int64) (int, error) { return unix.Pwrite(l.fd, p, off+at) }); e != 0 {
			return e
		}
		off, length = off+n, length-n
		if l.open.Load()&closedBit != 0 {
			return syscall.ENODEV
		}
	}
	return 0
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if e := syscall.Errno(0); errors.As(err, &e) {
		return e
	}
	return syscall.EIO
}
