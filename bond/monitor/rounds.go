package monitor

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rounds is the poller's inner loop: wait, look, and again, until there is something to
// tell. Two hundred times a second nothing has happened, and then the Go runtime should
// have no part in it: entering and leaving it for every system call costs four times what
// the looking does (its own monitor thread wakes with each), and a thread that has slept
// would have to wait for a processor of the runtime before it may look.
//
// So the whole loop is one long system call to the runtime: between entersyscall and
// exitsyscall the goroutine has no processor, and code there must not grow the stack,
// allocate, write a pointer, or load one that nothing else holds (the garbage collector
// sees the frame as it was at entersyscall). Hence nosplit, plain functions of sync/atomic
// instead of methods, and raw system calls alone.
type rounds struct {
	socket     uintptr
	intervalNs int64
	dueNs      int64 // CLOCK_MONOTONIC: of the next round
	nowNs      int64 // of the last round's end
	looks      [2]*look
	generation uint32 // of looks
	askAlways  bool   // a NIC must be asked in a way that only the caller knows
	atOnce     bool   // looks are new: the first round does not wait

	clock unix.Timespec

	// Read, and the first also written, by others while the loop runs. It waits for a change
	// of that as a futex (see ask).
	wanted                    uint32 // generation that the owner wants
	polls, late, missed       uint64
	lateMaxNs, slowMaxNs, end int64 // the last: nowNs
}

// Operations of futex(2), linux/futex.h.
const (
	futexWake           = 1         // FUTEX_WAKE
	futexWaitBitset     = 9         // FUTEX_WAIT_BITSET: until an absolute time of CLOCK_MONOTONIC
	futexPrivate        = 128       // FUTEX_PRIVATE_FLAG
	futexBitsetMatchAny = 1<<32 - 1 // FUTEX_BITSET_MATCH_ANY
)

// ask has the loop look now, and then return. It may be called from any goroutine.
func (r *rounds) ask() {
	atomic.AddUint32(&r.wanted, 1)
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&r.wanted)), futexWake|futexPrivate, 1, 0, 0, 0)
}

// untilNews returns when a look found something else than the last one reported, when the
// generation is not the wanted one any more, and after each round when askAlways is set.
//
//go:nosplit
//go:norace
func (r *rounds) untilNews() {
	entersyscall()
	for {
		r.clock.Sec, r.clock.Nsec = r.dueNs/1e9, r.dueNs%1e9
		// A signal (EINTR) ends the wait: go on with it.
		for !r.atOnce && systemCall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&r.wanted)), futexWaitBitset|futexPrivate, uintptr(r.generation),
			uintptr(unsafe.Pointer(&r.clock)), 0, futexBitsetMatchAny) == unix.EINTR {
		}
		r.atOnce = false
		systemCall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&r.clock)), 0, 0, 0, 0)
		woken := r.clock.Sec*1e9 + r.clock.Nsec
		if behind := woken - r.dueNs; behind > r.intervalNs/2 {
			atomic.AddUint64(&r.late, 1)
			atomic.StoreInt64(&r.lateMaxNs, max(r.lateMaxNs, behind))
		}

		news := r.askAlways
		for _, l := range r.looks {
			if l != nil && !l.over {
				l.look(r.socket)
				news = news || l.errno != l.toldErrno || l.errno == 0 && l.data != l.toldData || l.refused != 0
			}
		}

		systemCall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&r.clock)), 0, 0, 0, 0)
		r.nowNs = r.clock.Sec*1e9 + r.clock.Nsec
		atomic.StoreInt64(&r.slowMaxNs, max(r.slowMaxNs, r.nowNs-woken))
		atomic.StoreInt64(&r.end, r.nowNs)
		atomic.AddUint64(&r.polls, 1)
		if woken >= r.dueNs { // not by ask, ahead of time
			r.dueNs += r.intervalNs
		}
		if behind := r.nowNs - r.dueNs; behind >= r.intervalNs {
			missed := behind / r.intervalNs
			atomic.AddUint64(&r.missed, uint64(missed))
			r.dueNs += missed * r.intervalNs
		}
		if news || atomic.LoadUint32(&r.wanted) != r.generation {
			break
		}
	}
	exitsyscall()
}

// look is done as untilNews may.
//
//go:nosplit
//go:norace
func (l *look) look(socket uintptr) {
	if l.way == ByProgram {
		l.errno = systemCall(l.direct.Call, l.direct.Args[0], l.direct.Args[1], l.direct.Args[2], 0, 0, 0)
		switch l.errno {
		case 0:
			l.data = *l.direct.Answer
			return
		case unix.ENODEV:
			return
		case unix.ENOMEM, unix.EINTR: // the other way, this once
		default:
			l.refused = l.errno
			l.setWay(ByEthtool)
		}
	}
	l.errno = systemCall(unix.SYS_IOCTL, socket, unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&l.glink)), 0, 0, 0)
	l.data = l.value.data
}
