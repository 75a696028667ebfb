package main

import (
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
)

const (
	smallest = 18 // bytes: with the headers a frame of the shortest length
	batch    = 64 // datagrams for one system call
	// room is for what arrives while the receiver waits for a CPU: a tenth of a second.
	room = 128 << 20
	// quiet: what has not arrived then was dropped. On a veth the sender's own thread
	// carries a packet all the way to the socket.
	quiet = 50 * time.Millisecond
)

// mmsghdr is struct mmsghdr of linux/socket.h: recvmmsg(2), sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   uint32
}

// bundle is a batch of datagrams, for either end.
type bundle struct {
	headers [batch]mmsghdr
	vectors [batch]unix.Iovec
	bytes   [batch][smallest]byte
}

func newBundle() *bundle {
	m := new(bundle)
	for i := range m.headers {
		m.vectors[i].Base = &m.bytes[i][0]
		m.vectors[i].SetLen(smallest)
		m.headers[i].hdr.Iov = &m.vectors[i]
		m.headers[i].hdr.SetIovlen(1)
	}
	return m
}

// call is sendmmsg(2) or recvmmsg(2) (without a timeout).
func (m *bundle) call(number uintptr, fd int, flags uintptr) (int, error) {
	n, _, errno := unix.Syscall6(number, uintptr(fd), uintptr(unsafe.Pointer(&m.headers[0])), batch, flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// datagrams is a flow of small UDP datagrams, as many as one thread can send.
type datagrams struct {
	b       *bench
	out, in int
	bundle  *bundle
	arrived atomic.Uint64
	end     atomic.Bool
	ended   sync.WaitGroup
}

func (b *bench) datagrams(way bondtest.Direction, e ends) *datagrams {
	from, to, fromIP, toIP := e.of(way)
	d := &datagrams{b: b, bundle: newBundle()}
	d.in = b.socket(to, toIP)
	d.out = b.socket(from, fromIP)
	b.p.must(unix.SetsockoptInt(d.in, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room), "give the receiver room")
	at, err := unix.Getsockname(d.in)
	b.p.must(err, "ask for the receiver's port")
	b.p.must(unix.Connect(d.out, at), "connect the sender to %s", toIP)
	d.ended.Add(1)
	go func() { defer d.ended.Done(); d.receive() }()
	return d
}

func (b *bench) socket(p bondtest.Place, ip string) (fd int) {
	var err error
	b.net.In(p, func() {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(ip).As4()})
		}
	})
	b.p.must(err, "open a socket at %s in the %s", ip, p)
	return fd
}

func (d *datagrams) push(until time.Time) uint64 {
	before, sent := d.arrived.Load(), uint64(0)
	for time.Now().Before(until) {
		n, err := d.bundle.call(unix.SYS_SENDMMSG, d.out, 0)
		if err != nil && err != unix.ENOBUFS && err != unix.EINTR {
			d.b.p.Fatalf("send: %v", err)
		}
		sent += uint64(n)
	}
	// What waits in the receiver's socket is part of the turn.
	for last, since := uint64(0), time.Now(); ; {
		now := d.arrived.Load() - before
		if now == sent {
			break
		}
		if now != last {
			last, since = now, time.Now()
		} else if time.Since(since) > quiet {
			break
		}
		_ = unix.Nanosleep(&shortly, nil)
	}
	return d.arrived.Load() - before
}

// receive counts what arrives. It does not wait in the socket: being woken by a sender that
// is as fast as this costs more than all else, and each time something else.
func (d *datagrams) receive() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m := newBundle()
	for !d.end.Load() {
		n, err := m.call(unix.SYS_RECVMMSG, d.in, unix.MSG_DONTWAIT)
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return // push sees that nothing arrives
		}
		d.arrived.Add(uint64(n))
		if n < batch {
			_ = unix.Nanosleep(&pause, nil) // or is interrupted
		}
	}
}

var (
	pause   = unix.NsecToTimespec(time.Millisecond.Nanoseconds()) // between looks at an empty socket
	shortly = unix.NsecToTimespec(time.Millisecond.Nanoseconds() / 10)
)

func (d *datagrams) close() {
	d.end.Store(true)
	d.ended.Wait()
	unix.Close(d.in)
	unix.Close(d.out)
}
