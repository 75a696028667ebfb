package ublk

// An io_uring, as far as ublk needs one: commands to a device (IORING_OP_URING_CMD) and
// their completions, from include/uapi/linux/io_uring.h with the kernel's names.

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	ioringOpPollAdd           = 6
	ioringOpUringCmd          = 46
	ioringPollAddMulti        = 1 << 0
	ioringSetupRDisabled      = 1 << 6
	ioringSetupSQE128         = 1 << 10
	ioringSetupSingleIssuer   = 1 << 12
	ioringSetupDeferTaskrun   = 1 << 13
	ioringEnterGetevents      = 1 << 0
	ioringEnterExtArg         = 1 << 3
	ioringRegisterEventfd     = 4
	ioringUnregisterEventfd   = 5
	ioringRegisterEnableRings = 12
	ioringCqeFMore            = 1 << 1
	ioringOffSQRing           = 0
	ioringOffCQRing           = 0x8000000
	ioringOffSQEs             = 0x10000000
	ioringFeatSingleMmap      = 1 << 0
	sqeBytes                  = 64
	sqeCmdOffset              = 48
	sysIoUringSetup           = 425
	sysIoUringEnter           = 426
	sysIoUringRegister        = 427
	sqeBytesLarge             = 128
	sqeCmdBytesLarge          = sqeBytesLarge - sqeCmdOffset
	sqeOffOpcode              = 0
	sqeOffFd                  = 4
	sqeOffCmdOp               = 8
	sqeOffLen                 = 24
	sqeOffPollEvents          = 28
	sqeOffUserData            = 32
)

// ioUringParams is struct io_uring_params.
type ioUringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32
	resv                                                                   [3]uint32
	sqOff                                                                  struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, resv1 uint32
		userAddr                                                        uint64
	}
	cqOff struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, resv1 uint32
		userAddr                                                        uint64
	}
}

// ioUringCQE is struct io_uring_cqe.
type ioUringCQE struct {
	userData uint64
	res      int32
	flags    uint32
}

// ring is one io_uring. One thread at a time.
type ring struct {
	fd      int
	sqeSize int
	rings   []byte
	sqes    []byte
	sqHead  *uint32
	sqTail  *uint32
	sqMask  uint32
	sqArray []uint32
	cqHead  *uint32
	cqTail  *uint32
	cqMask  uint32
	cqes    []ioUringCQE
	unsent  uint32 // entries that the kernel has not been told of
	limit   unix.Timespec
	arg     geteventsArg
}

// newRing makes a ring with flags (IORING_SETUP_…).
func newRing(entries, flags uint32) (_ *ring, err error) {
	p := ioUringParams{flags: flags}
	r := &ring{sqeSize: sqeBytes}
	if flags&ioringSetupSQE128 != 0 {
		r.sqeSize = sqeBytesLarge
	}
	fd, _, e := unix.Syscall(sysIoUringSetup, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", e)
	}
	r.fd = int(fd)
	unix.CloseOnExec(r.fd)
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if p.features&ioringFeatSingleMmap == 0 {
		return nil, fmt.Errorf("the kernel's io_uring is too old")
	}
	size := max(p.sqOff.array+p.sqEntries*4, p.cqOff.cqes+p.cqEntries*uint32(unsafe.Sizeof(ioUringCQE{})))
	if r.rings, err = unix.Mmap(r.fd, ioringOffSQRing, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("map an io_uring: %w", err)
	}
	if r.sqes, err = unix.Mmap(r.fd, ioringOffSQEs, int(p.sqEntries)*r.sqeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("map the entries of an io_uring: %w", err)
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[off])) }
	r.sqHead, r.sqTail, r.sqMask = word(p.sqOff.head), word(p.sqOff.tail), *word(p.sqOff.ringMask)
	r.cqHead, r.cqTail, r.cqMask = word(p.cqOff.head), word(p.cqOff.tail), *word(p.cqOff.ringMask)
	r.sqArray = unsafe.Slice(word(p.sqOff.array), p.sqEntries)
	r.cqes = unsafe.Slice((*ioUringCQE)(unsafe.Pointer(&r.rings[p.cqOff.cqes])), p.cqEntries)
	return r, nil
}

func (r *ring) register(op, arg, n uintptr) error {
	if _, _, e := unix.Syscall6(sysIoUringRegister, uintptr(r.fd), op, arg, n, 0, 0); e != 0 {
		return fmt.Errorf("io_uring_register: %w", e)
	}
	return nil
}

// enable lets a ring begin that was made disabled, and makes the calling thread the one whose
// it is.
func (r *ring) enable() error { return r.register(ioringRegisterEnableRings, 0, 0) }

// silence ends what notify began.
func (r *ring) silence() error { return r.register(ioringUnregisterEventfd, 0, 0) }

// notify has an eventfd signalled for completions.
func (r *ring) notify(eventfd int) error {
	fd := int32(eventfd)
	return r.register(ioringRegisterEventfd, uintptr(unsafe.Pointer(&fd)), 1)
}

// command adds a command to a device; cmd is what goes into the entry's command area. The
// ring has room: who uses it has no more under way than entries.
func (r *ring) command(fd int, op uint32, cmd []byte, userData uint64) {
	e := r.entry(ioringOpUringCmd, fd, userData)
	*(*uint32)(unsafe.Pointer(&e[sqeOffCmdOp])) = op
	copy(e[sqeCmdOffset:], cmd)
}

// watch adds a completion for each time that a descriptor becomes readable.
func (r *ring) watch(fd int, userData uint64) {
	e := r.entry(ioringOpPollAdd, fd, userData)
	*(*uint32)(unsafe.Pointer(&e[sqeOffLen])) = ioringPollAddMulti
	*(*uint32)(unsafe.Pointer(&e[sqeOffPollEvents])) = unix.POLLIN
}

// entry adds an entry. What is in it counts when the kernel is told of it.
func (r *ring) entry(opcode byte, fd int, userData uint64) []byte {
	tail := *r.sqTail
	i := tail & r.sqMask
	e := r.sqes[int(i)*r.sqeSize : int(i+1)*r.sqeSize]
	clear(e)
	e[sqeOffOpcode] = opcode
	*(*int32)(unsafe.Pointer(&e[sqeOffFd])) = int32(fd)
	*(*uint64)(unsafe.Pointer(&e[sqeOffUserData])) = userData
	r.sqArray[i] = i
	atomic.StoreUint32(r.sqTail, tail+1)
	r.unsent++
	return e
}

// geteventsArg is struct io_uring_getevents_arg.
type geteventsArg struct {
	sigmask   uint64
	sigmaskSz uint32
	pad       uint32
	ts        uint64
}

// wait tells the kernel of what was added and waits for a completion, a signal, or limit.
// quick is without telling the Go runtime.
func (r *ring) wait(limit time.Duration, quick bool) error {
	least := uintptr(1)
	if limit <= 0 || r.ready() {
		least = 0
	}
	r.limit = unix.NsecToTimespec(int64(limit))
	r.arg.ts = uint64(uintptr(unsafe.Pointer(&r.limit)))
	const flags = ioringEnterGetevents | ioringEnterExtArg
	var n uintptr
	var e syscall.Errno
	if quick {
		n, _, e = unix.RawSyscall6(sysIoUringEnter, uintptr(r.fd), uintptr(r.unsent), least, flags, uintptr(unsafe.Pointer(&r.arg)), unsafe.Sizeof(r.arg))
	} else {
		n, _, e = unix.Syscall6(sysIoUringEnter, uintptr(r.fd), uintptr(r.unsent), least, flags, uintptr(unsafe.Pointer(&r.arg)), unsafe.Sizeof(r.arg))
	}
	switch e {
	case 0:
		r.unsent -= uint32(n)
	case unix.ETIME, unix.EINTR, unix.EAGAIN, unix.EBUSY:
	default:
		return fmt.Errorf("io_uring_enter: %w", e)
	}
	return nil
}

// ready says whether there is a completion.
func (r *ring) ready() bool { return *r.cqHead != atomic.LoadUint32(r.cqTail) }

// submit tells the kernel of what was added, and waits for least completions. What has been
// completed is in the ring then.
func (r *ring) submit(least uint32) error {
	for {
		n, _, e := unix.Syscall6(sysIoUringEnter, uintptr(r.fd), uintptr(r.unsent), uintptr(least), ioringEnterGetevents, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return fmt.Errorf("io_uring_enter: %w", e)
		}
		if r.unsent -= uint32(n); r.unsent == 0 {
			return nil
		}
	}
}

// next takes a completion.
func (r *ring) next() (ioUringCQE, bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return ioUringCQE{}, false
	}
	c := r.cqes[head&r.cqMask]
	atomic.StoreUint32(r.cqHead, head+1)
	return c, true
}

func (r *ring) close() {
	if r.rings != nil {
		unix.Munmap(r.rings)
	}
	if r.sqes != nil {
		unix.Munmap(r.sqes)
	}
	unix.Close(r.fd)
}
