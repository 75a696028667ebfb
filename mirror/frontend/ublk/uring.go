package ublk

// An io_uring, as far as ublk needs one: commands to a device (IORING_OP_URING_CMD) and
// their completions, from include/uapi/linux/io_uring.h with the kernel's names.

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	ioringOpUringCmd      = 46
	ioringSetupSQE128     = 1 << 10
	ioringEnterGetevents  = 1 << 0
	ioringRegisterEventfd = 4
	ioringOffSQRing       = 0
	ioringOffCQRing       = 0x8000000
	ioringOffSQEs         = 0x10000000
	ioringFeatSingleMmap  = 1 << 0
	sqeBytes              = 64
	sqeCmdOffset          = 48
	sysIoUringSetup       = 425
	sysIoUringEnter       = 426
	sysIoUringRegister    = 427
	sqeBytesLarge         = 128
	sqeCmdBytesLarge      = sqeBytesLarge - sqeCmdOffset
	sqeOffOpcode          = 0
	sqeOffFd              = 4
	sqeOffCmdOp           = 8
	sqeOffUserData        = 32
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
}

func newRing(entries uint32, large bool) (_ *ring, err error) {
	p := ioUringParams{}
	r := &ring{sqeSize: sqeBytes}
	if large {
		p.flags, r.sqeSize = ioringSetupSQE128, sqeBytesLarge
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

// notify has an eventfd signalled for completions.
func (r *ring) notify(eventfd int) error {
	fd := int32(eventfd)
	if _, _, e := unix.Syscall6(sysIoUringRegister, uintptr(r.fd), ioringRegisterEventfd, uintptr(unsafe.Pointer(&fd)), 1, 0, 0); e != 0 {
		return fmt.Errorf("io_uring_register: %w", e)
	}
	return nil
}

// command adds a command to a device; cmd is what goes into the entry's command area. The
// ring has room: who uses it has no more under way than entries.
func (r *ring) command(fd int, op uint32, cmd []byte, userData uint64) {
	tail := *r.sqTail
	i := tail & r.sqMask
	e := r.sqes[int(i)*r.sqeSize : int(i+1)*r.sqeSize]
	clear(e)
	e[sqeOffOpcode] = ioringOpUringCmd
	*(*int32)(unsafe.Pointer(&e[sqeOffFd])) = int32(fd)
	*(*uint32)(unsafe.Pointer(&e[sqeOffCmdOp])) = op
	*(*uint64)(unsafe.Pointer(&e[sqeOffUserData])) = userData
	copy(e[sqeCmdOffset:], cmd)
	r.sqArray[i] = i
	atomic.StoreUint32(r.sqTail, tail+1)
	r.unsent++
}

// submit tells the kernel of what was added, and waits for least completions.
func (r *ring) submit(least uint32) error {
	flags := uintptr(0)
	if least > 0 {
		flags = ioringEnterGetevents
	}
	for {
		n, _, e := unix.Syscall6(sysIoUringEnter, uintptr(r.fd), uintptr(r.unsent), uintptr(least), flags, 0, 0)
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
