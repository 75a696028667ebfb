package monitor

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rounds is the poller's inner loop: sleep, look, and again, until there is something to
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

	clock unix.Timespec

	// Read, and the first also written, by others while the loop runs.
	wanted                    uint32 // generation that the owner wants
	polls, late, missed       uint64
	lateMaxNs, slowMaxNs, end int64 // the last: nowNs
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
		// A signal (EINTR) ends the sleep: go on with it.
		for systemCall(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, uintptr(unsafe.Pointer(&r.clock))) == unix.EINTR {
		}
		systemCall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&r.clock)), 0)
		woken := r.clock.Sec*1e9 + r.clock.Nsec
		if behind := woken - r.dueNs; behind > r.intervalNs/2 {
			atomic.AddUint64(&r.late, 1)
			atomic.StoreInt64(&r.lateMaxNs, max(r.lateMaxNs, behind))
		}

		news := r.askAlways
		for _, l := range r.looks {
			if l != nil && !l.over {
				l.ask(r.socket)
				news = news || l.errno != l.toldErrno || l.errno == 0 && l.data != l.toldData || l.refused != 0
			}
		}

		systemCall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&r.clock)), 0)
		r.nowNs = r.clock.Sec*1e9 + r.clock.Nsec
		atomic.StoreInt64(&r.slowMaxNs, max(r.slowMaxNs, r.nowNs-woken))
		atomic.StoreInt64(&r.end, r.nowNs)
		atomic.AddUint64(&r.polls, 1)
		r.dueNs += r.intervalNs
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

// ask looks once, as untilNews may.
//
//go:nosplit
//go:norace
func (l *look) ask(socket uintptr) {
	if l.way == ByProgram {
		l.errno = systemCall(l.direct.Call, l.direct.Args[0], l.direct.Args[1], l.direct.Args[2])
		switch l.errno {
		case 0:
			l.data = *l.direct.Answer
			return
		case unix.ENODEV:
			return
		case unix.ENOMEM, unix.EINTR: // another time: a round of its own, the other way
		default:
			l.refused = l.errno
			l.setWay(ByEthtool)
		}
	}
	l.errno = systemCall(unix.SYS_IOCTL, socket, unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&l.glink)))
	l.data = l.value.data
}
