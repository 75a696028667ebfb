package legio

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's asynchronous I/O interface, from include/uapi/linux/aio_abi.h, with
// the kernel's names. The layout of iocb is the little-endian one.

// Commands of an iocb.
const (
	iocbCmdPread   = 0
	iocbCmdPwrite  = 1
	iocbCmdFdsync  = 3
	iocbFlagResfd  = 1 << 0
	aioRingMagic   = 0xa10a10a1
	aioEventsBatch = 64 // events taken by one io_getevents, where the ring cannot be read
)

// iocb is struct iocb. The kernel copies it during io_submit, so its memory is free
// for the next batch afterwards; only the buffer must stay.
type iocb struct {
	data uint64
	//lint:ignore U1000 the kernel's layout
	key       uint32
	rwFlags   uint32
	lioOpcode uint16
	//lint:ignore U1000 the kernel's layout
	reqPrio int16
	fildes  uint32
	buf     uint64
	nbytes  uint64
	offset  int64
	//lint:ignore U1000 the kernel's layout
	reserved2 uint64
	flags     uint32
	resfd     uint32
}

// ioEvent is struct io_event.
type ioEvent struct {
	data uint64
	obj  uint64
	res  int64
	res2 int64
}

// aioRing is struct aio_ring of fs/aio.c: the completion ring that io_setup maps
// into the process. It is not in the uapi headers, but fixed by its users (fio,
// QEMU, libaio); the magic says whether it is what we know.
type aioRing struct {
	id               uint32
	nr               uint32
	head             uint32 // ours: the next event to take
	tail             uint32 // the kernel's: one past the last event
	magic            uint32
	compatFeatures   uint32
	incompatFeatures uint32
	headerLength     uint32
}

// aioContext is an aio_context_t, which is also the address of its ring.
type aioContext uintptr

func ioSetup(entries int) (aioContext, error) {
	var ctx aioContext
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&ctx)), 0); e != 0 {
		return 0, e
	}
	return ctx, nil
}

// ioDestroy waits for everything that is in flight.
func ioDestroy(ctx aioContext) { unix.Syscall(unix.SYS_IO_DESTROY, uintptr(ctx), 0, 0) }

// ioSubmit returns how many were taken; an errno only when the first was not.
func ioSubmit(ctx aioContext, list []*iocb) (int, syscall.Errno) {
	n, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, uintptr(ctx), uintptr(len(list)), uintptr(unsafe.Pointer(&list[0])))
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

func ioGetevents(ctx aioContext, events []ioEvent) int {
	var now unix.Timespec
	n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, uintptr(ctx), 0, uintptr(len(events)),
		uintptr(unsafe.Pointer(&events[0])), uintptr(unsafe.Pointer(&now)), 0)
	if e != 0 {
		return 0
	}
	return int(n)
}

// events is the reading end of a context's completions: the mapped ring where it
// can be read in user space, else io_getevents.
type events struct {
	ctx   aioContext
	ring  *aioRing // nil: not readable
	slots []ioEvent
	batch []ioEvent // fallback: taken but not yet returned
	space []ioEvent
}

func newEvents(ctx aioContext) events {
	e := events{ctx: ctx}
	// The address comes from the kernel as an integer; the mapping is no Go memory.
	ring := *(**aioRing)(unsafe.Pointer(&ctx))
	if ring.magic == aioRingMagic && ring.incompatFeatures == 0 && ring.headerLength == uint32(unsafe.Sizeof(*ring)) {
		e.ring = ring
		e.slots = unsafe.Slice((*ioEvent)(unsafe.Add(unsafe.Pointer(ring), ring.headerLength)), int(ring.nr))
	} else {
		e.space = make([]ioEvent, aioEventsBatch)
	}
	return e
}

// next takes one event.
func (e *events) next() (ioEvent, bool) {
	if e.ring != nil {
		head := e.ring.head
		if head == atomic.LoadUint32(&e.ring.tail) {
			return ioEvent{}, false
		}
		ev := e.slots[head]
		if head++; head == uint32(len(e.slots)) {
			head = 0
		}
		atomic.StoreUint32(&e.ring.head, head)
		return ev, true
	}
	if len(e.batch) == 0 {
		e.batch = e.space[:ioGetevents(e.ctx, e.space)]
		if len(e.batch) == 0 {
			return ioEvent{}, false
		}
	}
	ev := e.batch[0]
	e.batch = e.batch[1:]
	return ev, true
}
