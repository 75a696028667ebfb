package legio

// The fence of a leg that is another's NBD server.
//
// When a connection breaks, nobody can tell what became of the writes that were sent on it
// and not answered: a server that lives may still carry them out, a moment or minutes later,
// over something that was written since by way of a new connection. The protocol has no
// means to ask. (A flush on the new connection is about writes that were answered.) So a
// slot whose connection broke with writes under way is fenced, and no new connection of the
// slot is used, until one of these holds:
//
//   - the server's process is gone: what a dead process had begun has ended or never will
//     (known for unix sockets, by a pidfd of the process that listened), or
//   - the server has been answering on new connections for Quiet. It runs, so it has had
//     that long to read what was sent to it and to carry it out. Quiet comes from the
//     leg's time limit, which is what the admin says that a request may take at most.
//     Nothing more comes to it from our side: a connection over a network is reset when it
//     breaks, and what was not delivered by then is thrown away.
//
// The first is certain. The second assumes that a server which answers does not sit on an
// old request for longer than Quiet; one that may (its own storage hangs for minutes) needs
// a larger leg_timeout.

import (
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/nbd"
)

// Fence is what a slot knows of writes that may still land. It outlives the Leg.
type Fence struct {
	// Quiet is how long a server must have answered.
	Quiet time.Duration

	mu      sync.Mutex // guards the fields below
	raised  bool
	writes  int       // how many, 0 when that is not known
	process int       // pidfd of the server, -1 when it cannot be known
	seen    time.Time // when it first answered afterwards
	tried   time.Time // when Passed last asked it
}

// NewFence makes a fence that is open.
func NewFence(quiet time.Duration) *Fence { return &Fence{Quiet: quiet, process: -1} }

// Raise fences the slot for what a process before this one may have under way.
func (f *Fence) Raise() { f.set(0, -1) }

// raise fences the slot if writes are under way. The pidfd is its own from then on.
func (f *Fence) raise(writes, process int) {
	if f == nil || writes == 0 {
		closePidfd(process)
		return
	}
	f.set(writes, process)
}

func (f *Fence) set(writes, process int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.raised && f.process >= 0 {
		// An older doubt that was not settled: only time settles both.
		closePidfd(f.process)
		closePidfd(process)
		process = -1
	}
	f.raised, f.writes, f.process, f.seen = true, f.writes+writes, process, time.Time{}
}

// pass is asked when the server has answered on a new connection: "" lets it be used, else
// it says for what it must wait.
func (f *Fence) pass() string {
	if f == nil {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.raised && f.seen.IsZero() {
		f.seen = time.Now()
	}
	if f.openLocked() {
		return ""
	}
	left := (f.Quiet - time.Since(f.seen)).Round(100 * time.Millisecond)
	what := "writes"
	if f.writes > 0 {
		what = fmt.Sprintf("%d writes", f.writes)
	}
	return fmt.Sprintf("%s were under way when the connection broke, and the server may still carry them out: it is let in when it has answered for %v, in %v", what, f.Quiet, left)
}

// openLocked says whether nothing can land any more.
func (f *Fence) openLocked() bool {
	dead := false
	if f.raised && f.process >= 0 {
		fds := []unix.PollFd{{Fd: int32(f.process), Events: unix.POLLIN}}
		n, _ := unix.Poll(fds, 0)
		dead = n > 0
	}
	if f.raised && (dead || !f.seen.IsZero() && time.Since(f.seen) >= f.Quiet) {
		closePidfd(f.process)
		f.raised, f.writes, f.process = false, 0, -1
	}
	return !f.raised
}

// fenceAsk is how long and how often Passed asks a server.
const fenceAsk = time.Second

// Open says whether the slot is not fenced. It asks nobody.
func (f *Fence) Open() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.openLocked()
}

// Passed says whether the slot is not fenced, and asks the server at address if it has not
// answered yet. It takes at most a second.
func (f *Fence) Passed(address string) bool {
	f.mu.Lock()
	open, ask := f.openLocked(), f.seen.IsZero() && time.Since(f.tried) >= fenceAsk
	if ask {
		f.tried = time.Now()
	}
	f.mu.Unlock()
	if open || !ask {
		return open
	}
	if _, err := AskRemote(address, fenceAsk); err != nil {
		return false
	}
	return f.pass() == ""
}

// AskRemote asks the NBD server at an address for its export, and hangs up.
func AskRemote(address string, deadline time.Duration) (nbd.Export, error) {
	a, err := nbd.ParseAddress(address)
	if err != nil {
		return nbd.Export{}, err
	}
	conn, export, err := dialRemote(a, deadline)
	if err != nil {
		return nbd.Export{}, err
	}
	endRemote(conn)
	return export, nil
}

// soPeerPidfd is SO_PEERPIDFD of include/uapi/asm-generic/socket.h, since Linux 6.5.
const soPeerPidfd = 77

// serverOf is a pidfd of the process that listens where a connection to a unix socket goes;
// -1 for others. It is what the process's end is known by, whoever has its number then. A
// server that was handed its socket by another process (systemd) is not known by it: then
// the fence is open only by time.
func serverOf(conn net.Conn) int {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return -1
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return -1
	}
	fd := -1
	if raw.Control(func(s uintptr) {
		if n, err := unix.GetsockoptInt(int(s), unix.SOL_SOCKET, soPeerPidfd); err == nil {
			unix.CloseOnExec(n)
			fd = n
		}
		// One that has ended already is not who answers: it listened, and left the socket to
		// a child.
		if fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}; fd >= 0 {
			if n, err := unix.Poll(fds, 0); n != 0 || err != nil {
				unix.Close(fd)
				fd = -1
			}
		}
	}) != nil {
		return -1
	}
	return fd
}

func closePidfd(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}
