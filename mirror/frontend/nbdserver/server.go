// Package nbdserver serves a mirror's disk on a unix socket, as NBD (mirror/nbd), for
// virtual machines and for whoever copies disks. It stands beside the block device and not
// on it: its requests go to the same engine, under the same range locks.
//
//	qemu, nbdcopy … ─▶ unix socket ─▶ Server, a frontend.Queue ─▶ engine
//
// One event loop serves it: its epoll descriptor holds the listening socket, the
// connections, a clock and a bell. Nothing here waits for a client.
//
// Invariants:
//   - Everything but the inbox, the status and what says otherwise belongs to the thread
//     that calls Receive. Reply and Free only put into the inbox and ring the bell.
//   - A command is answered once, when all of its parts have come back. A part's memory
//     is used again when the engine has freed it and the answer has been sent.
//   - What a client can make us hold is bounded: connections, commands, bytes of payload,
//     for each connection and in all. Who is at a bound is not read from.
//   - A client that does not go on, in the handshake, in a payload or with its answers, is
//     cut off, so that what it holds comes back to the others.
//   - FUA and flush reach the engine's flush, which is of all legs and all connections.
//
// # The death of the process
//
// The listening socket is also the keeper's, so that a client can connect again at once and
// waits for the successor instead of being refused. Connections end with the process: what
// was under way on them was not answered, and its client asks again or gives up. They are
// not handed over, because nobody but the dead process knew how far it had read into a
// request, and of which requests the answers were half sent.
package nbdserver

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
	"ft/mirror/frontend/payload"
	"ft/mirror/nbd"
)

// Limits.
const (
	connsMax        = 32
	commandsMax     = 256         // under way on one connection
	connBytesMax    = 32 << 20    // payload of one connection: at least nbd.PayloadDefault
	bytesMax        = 128 << 20   // payload of all
	partBytes       = payload.Max // what one request to the engine carries
	zeroParts       = 4           // of a WRITE_ZEROES with NO_HOLE, at a time
	handshakeWithin = 10 * time.Second
	stallWithin     = 30 * time.Second // without a byte of what is owed
	closeWithin     = 5 * time.Second  // for what is under way when the server is closed
	statusWithin    = 2 * time.Second  // for a look at what is allocated
	clockEvery      = 500 * time.Millisecond
)

// Options of a server. The zero value is good.
type Options struct {
	// Extents looks at what is allocated in a range: at most most extents, from off on.
	// Nil, or no extents: it is not known. It may take its time: it runs beside.
	Extents func(off, n int64, most int) []nbd.Extent
	// FastZero says whether making a range read as zeroes is faster than writing them.
	FastZero func() bool
	// Log takes what went wrong with a client. slog.Default when nil.
	Log *slog.Logger

	handshake, stall time.Duration // other than handshakeWithin and stallWithin in tests
}

// Server serves one disk on one socket. It implements frontend.Queue.
type Server struct {
	path   string
	export nbd.Export
	opt    Options

	listener           int  // -1 when closed
	deaf               bool // the listener is not looked at
	epoll, bell, clock int
	conns              map[int32]*conn
	starving           []*conn // wait for memory of all, first come, first served
	resumable          []*conn // something of theirs has ended that they may wait for
	talking            []*conn // have something to send
	used               int64   // bytes of payload under way
	emit               func(*frontend.Request)
	closeBy            time.Time // not zero: being closed

	inbox  inbox
	looker looker

	closing atomic.Bool
	ended   chan struct{} // closed when Receive has returned ErrClosed
	status  status
}

var _ frontend.Queue = (*Server)(nil)

// status is what others may ask for at any time.
type status struct {
	mu       sync.Mutex
	clients  map[*conn]string
	total    uint64
	refused  uint64
	cut      uint64
	commands atomic.Uint64
	errors   atomic.Uint64
}

// Stats count since the server began in this process.
type Stats struct {
	Connections int    `json:"connections"` // now
	Accepted    uint64 `json:"accepted"`
	Refused     uint64 `json:"refused"` // there were too many
	Cut         uint64 `json:"cut"`     // for not going on, or for what they sent
	Commands    uint64 `json:"commands"`
	Errors      uint64 `json:"errors"` // commands that were answered with one
}

// New makes a server of a disk on a listening socket (see Listen), which is its own from
// then on; -1 for none: it then serves only who is given to it by Join. It must be served by
// an event loop.
func New(listener int, path string, g frontend.Geometry, opt Options) (_ *Server, err error) {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	if opt.handshake == 0 {
		opt.handshake = handshakeWithin
	}
	if opt.stall == 0 {
		opt.stall = stallWithin
	}
	s := &Server{path: path, opt: opt, export: exportOf(g, opt), listener: listener, epoll: -1, bell: -1, clock: -1,
		conns: map[int32]*conn{}, ended: make(chan struct{})}
	s.status.clients = map[*conn]string{}
	s.looker.look = opt.Extents
	s.looker.found = func(c *command, x []nbd.Extent) { s.put(delivery{status: c, extents: x}) }
	defer func() {
		if err != nil {
			closeAll(s.epoll, s.bell, s.clock)
		}
	}()
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if s.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if s.clock, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	for _, fd := range []int{s.bell, s.clock, s.listener} {
		if fd < 0 {
			continue
		}
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return nil, fmt.Errorf("epoll_ctl: %w", err)
		}
	}
	return s, nil
}

func exportOf(g frontend.Geometry, opt Options) nbd.Export {
	e := nbd.Export{
		Name:        g.Name,
		Description: "disk " + g.Name + ", mirrored",
		Size:        g.Size,
		Flags: nbd.FlagSendFlush | nbd.FlagSendFUA | nbd.FlagSendTrim | nbd.FlagSendWriteZeroes |
			nbd.FlagCanMultiConn | nbd.FlagSendCache,
		BlockMin:   uint32(g.LogicalBlock),
		BlockGood:  uint32(max(4096, g.PhysicalBlock)),
		PayloadMax: nbd.PayloadDefault,
	}
	if opt.FastZero != nil {
		e.Flags |= nbd.FlagSendFastZero
	}
	return e
}

// Listener is the listening socket, for a second process to hold (see Adopt).
func (s *Server) Listener() int { return s.listener }

// Users tells how many clients there are, and who.
func (s *Server) Users() (int, []string) {
	s.status.mu.Lock()
	defer s.status.mu.Unlock()
	var who []string
	for _, name := range s.status.clients {
		who = append(who, name+" over NBD")
	}
	return len(who), who
}

// Stats are the counters.
func (s *Server) Stats() Stats {
	s.status.mu.Lock()
	defer s.status.mu.Unlock()
	return Stats{Connections: len(s.status.clients), Accepted: s.status.total, Refused: s.status.refused, Cut: s.status.cut,
		Commands: s.status.commands.Load(), Errors: s.status.errors.Load()}
}

// Close ends the server: no command is taken any more, those under way get some seconds,
// then the connections are closed. The loop must serve it until Close returns. The socket's
// name stays; see Remove.
func (s *Server) Close() error {
	if !s.closing.Swap(true) {
		s.put(delivery{}) // only to wake the loop
	}
	select {
	case <-s.ended:
		return nil
	case <-time.After(2 * closeWithin):
		return fmt.Errorf("the NBD server of %s does not end: its event loop does not turn", s.export.Name)
	}
}

// Fd is readable while Receive has something to do.
func (s *Server) Fd() int { return s.epoll }

const eventsMax = 64

// Receive takes what has come from clients, up to a bound, emits what is for the engine,
// and sends what the engine has answered.
func (s *Server) Receive(emit func(*frontend.Request)) error {
	s.emit = emit
	defer func() { s.emit = nil }()
	var events [eventsMax]unix.EpollEvent
	n, err := unix.EpollWait(s.epoll, events[:], 0)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("epoll_wait of the NBD server of %s: %w", s.export.Name, err)
	}
	s.takeInbox()
	for _, ev := range events[:max(n, 0)] {
		switch ev.Fd {
		case int32(s.bell):
			s.quiet()
		case int32(s.clock):
			drain(s.clock)
			s.lookAtClock(time.Now())
		case int32(s.listener):
			s.accept()
		default:
			if c := s.conns[ev.Fd]; c != nil {
				c.ready(ev.Events)
			}
		}
	}
	s.feed()
	s.talk()
	if s.closing.Load() && s.shut(time.Now()) {
		return frontend.ErrClosed
	}
	return nil
}

// accept lets clients in.
func (s *Server) accept() {
	for range connsMax {
		fd, _, err := unix.Accept4(s.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil { // no descriptor, no memory: not asked again before the clock's next tick
			s.hear(false)
			s.setClock(clockEvery)
			return
		}
		who := peerOf(fd)
		if len(s.conns) >= connsMax {
			s.status.mu.Lock()
			s.status.refused++
			s.status.mu.Unlock()
			unix.Close(fd)
			s.opt.Log.Warn("an NBD client was turned away: there are too many", "disk", s.export.Name, "client", who, "most", connsMax)
			continue
		}
		if c := newConn(s, fd, who); s.admit(c) {
			c.handshake, c.greeting = nbd.NewHandshake(s.export)
			c.say(c.greeting, nil, nil)
		}
	}
}

// admit makes a connection one of those that are served.
func (s *Server) admit(c *conn) bool {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)}
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, c.fd, &ev); err != nil {
		unix.Close(c.fd)
		c.fd = -1
		return false
	}
	c.events = unix.EPOLLIN
	if len(s.conns) == 0 {
		s.setClock(clockEvery)
	}
	s.conns[int32(c.fd)] = c
	s.status.mu.Lock()
	s.status.total++
	s.status.clients[c] = c.who
	s.status.mu.Unlock()
	return true
}

// Join has the server serve a connection that is in transmission already, with simple
// replies: one that its other end was told about by other means. ended is called when it is
// not served any more, or not at all; it must not block. Any thread.
func (s *Server) Join(fd int, who string, ended func()) {
	s.put(delivery{join: &conn{fd: fd, who: who, ended: ended}})
}

func (s *Server) joined(given *conn) {
	c := newConn(s, given.fd, given.who)
	c.phase, c.ended = nbd.Transmission, given.ended
	if s.closing.Load() || unix.SetNonblock(c.fd, true) != nil {
		unix.Close(c.fd)
		c.ended()
		return
	}
	if !s.admit(c) {
		c.ended()
	}
}

// Export is what is served, with the flags of transmission.
func (s *Server) Export() nbd.Export {
	e := s.export
	e.Flags |= nbd.FlagHasFlags
	return e
}

// lookAtClock cuts off who does not go on.
func (s *Server) lookAtClock(now time.Time) {
	for _, c := range s.conns {
		if why := c.overdue(now); why != "" {
			c.cut(errors.New(why))
		}
	}
	s.looker.check(now)
	s.hear(true)
	if len(s.conns) == 0 {
		s.setClock(0)
	}
}

// hear sets whether the listening socket is looked at.
func (s *Server) hear(on bool) {
	if s.deaf == !on || s.listener < 0 {
		return
	}
	s.deaf = !on
	ev := unix.EpollEvent{Fd: int32(s.listener)}
	if on {
		ev.Events = unix.EPOLLIN
	}
	_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_MOD, s.listener, &ev) // fails only for a descriptor that is not there
}

// feed has connections go on that waited: for what is their own, then for memory of all.
func (s *Server) feed() {
	for len(s.resumable) > 0 {
		c := s.resumable[0]
		s.resumable = s.resumable[1:]
		c.resumable = false
		c.goOn()
	}
	s.resumable = nil
	for len(s.starving) > 0 {
		c := s.starving[0]
		if c.fd >= 0 && !s.roomFor(c.waiting) {
			return
		}
		s.starving = s.starving[1:]
		c.queued, c.turn = false, true
		c.goOn()
		c.turn = false
	}
	s.starving = nil
}

// talk sends what is to be sent.
func (s *Server) talk() {
	for i := 0; i < len(s.talking); i++ {
		c := s.talking[i]
		c.talking = false
		c.send()
	}
	clear(s.talking)
	s.talking = s.talking[:0]
	if len(s.resumable) > 0 && s.bell >= 0 {
		ring(s.bell) // what was sent made room: soon again
	}
}

func (s *Server) roomFor(n int64) bool { return s.used+n <= bytesMax }

// shut ends what can be ended, and says whether all has.
func (s *Server) shut(now time.Time) bool {
	if s.closeBy.IsZero() {
		s.closeBy = now.Add(closeWithin)
		if s.listener >= 0 {
			_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, s.listener, nil)
		}
		closeAll(s.listener)
		s.listener = -1
	}
	for _, c := range s.conns {
		if c.leave(); c.fd >= 0 && !now.Before(s.closeBy) {
			c.close()
		}
	}
	if len(s.conns) > 0 {
		return false
	}
	select {
	case <-s.ended:
	default:
		closeAll(s.epoll, s.clock)
		s.inbox.close(&s.bell)
		close(s.ended)
	}
	return true
}

func (s *Server) setClock(every time.Duration) {
	t := unix.NsecToTimespec(int64(every))
	_ = unix.TimerfdSettime(s.clock, 0, &unix.ItimerSpec{Interval: t, Value: t}, nil) // its arguments are in order
}

// peerOf names a client's process, as it was when it connected.
func peerOf(fd int) string {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Pid <= 0 {
		return "a process that cannot be seen from here"
	}
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cred.Pid))
	return fmt.Sprintf("pid %d (%s)", cred.Pid, strings.TrimSpace(string(comm)))
}

func ring(fd int) {
	one := [8]byte{1} // any value above 0 will do, in either byte order
	_, _ = unix.Write(fd, one[:])
}

func drain(fd int) {
	var n [8]byte
	_, _ = unix.Read(fd, n[:])
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
