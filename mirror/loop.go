package mirror

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/mirror/frontend"
	"ft/mirror/legio"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

const (
	tickEvery = 20 * time.Millisecond
	// loopStuck is how long an event loop may take for one round before the process
	// counts as wedged. No round waits for a leg.
	loopStuck = 4 * time.Second
)

// outbox is what the engine wants done, gathered under the driver's lock and carried
// out after it by the loop that comes first.
type outbox struct {
	ios     []*legio.IO
	replies []*frontend.Request
}

// world is the engine's Env. Its methods are called under the driver's lock.
type world struct {
	d   *driver
	now int64
	out outbox
}

func (w *world) Now() int64      { return w.now }
func (w *world) Wall() time.Time { return time.Now() }

func (w *world) Submit(io *legio.IO)          { w.out.ios = append(w.out.ios, io) }
func (w *world) Reply(r *frontend.Request)    { w.out.replies = append(w.out.replies, r) }
func (w *world) Free(r *frontend.Request)     { r.Queue.Free(r) }
func (w *world) Alloc(n int) ([]byte, func()) { return w.d.memory.get(n) }
func (w *world) Event(ev drivers.Event)       { w.d.emit(ev) }
func (w *world) UUID() metadata.UUID          { return metadata.NewUUID() }

// WriteWitness is file I/O, which may take its time: beside the loops.
func (w *world) WriteWitness(x metadata.Witness) {
	d := w.d
	d.background.Add(1)
	go func() {
		defer d.background.Done()
		err := d.witness.Save(&x)
		d.do(func(e *Engine) { e.WitnessDone(err) })
	}()
}

// SaveScrub stores what is to be known of the scrub: file I/O too.
func (w *world) SaveScrub(s scrub.State) {
	d := w.d
	if !d.scrubs.take(s) {
		return // a save under way takes it along
	}
	d.background.Add(1)
	go func() {
		defer d.background.Done()
		if err := d.scrubs.saveTaken(); err != nil {
			d.env.Log.Warn("how far the scrub is cannot be kept", "err", err)
		}
	}()
}

// do runs f on the engine, and has a loop carry out what came of it.
func (d *driver) do(f func(*Engine)) {
	d.mu.Lock()
	d.world.now = d.clock()
	f(d.engine)
	d.mu.Unlock()
	d.loops[0].kick()
}

// clock is monotonic, in nanoseconds.
func (d *driver) clock() int64 { return int64(time.Since(d.began)) }

// loop is one event loop on a thread of its own: it polls its queue of the face and its
// ring of leg I/O, runs the engine under the lock, then submits and answers.
type loop struct {
	d     *driver
	n     int
	ring  *legio.Ring
	kicks int // eventfd
	queue atomic.Pointer[queueBox]
	beat  atomic.Int64 // when the last round began, on the driver's clock
	ended chan struct{}
	stop  atomic.Bool
	// hold: take no new requests from the face.
	hold atomic.Bool

	done    []*legio.IO
	reqs    []*frontend.Request
	replied []*frontend.Request
	out     outbox
	tickAt  int64
	busy    bool // the last poll found something
	// watching is the queue that this thread waits in, where it can be waited in.
	watching *queueBox
	waiter   frontend.Waiter
}

// queueBox makes an interface fit an atomic pointer.
type queueBox struct{ frontend.Queue }

func newLoop(d *driver, n int) (*loop, error) {
	ring, err := legio.NewRing(legio.RingEntries)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		ring.Close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &loop{d: d, n: n, ring: ring, kicks: fd, ended: make(chan struct{})}, nil
}

// kick wakes the loop from any goroutine.
func (l *loop) kick() {
	one := [8]byte{1}
	unix.Write(l.kicks, one[:])
}

func (l *loop) run() {
	runtime.LockOSThread()
	defer close(l.ended)
	receive := func(r *frontend.Request) { l.reqs = append(l.reqs, r) }
	reap := func(io *legio.IO) { l.done = append(l.done, io) }
	for !l.stop.Load() {
		l.beat.Store(l.d.clock())
		// Only what has something is asked: at low depth each needless system call shows.
		completed, asked := l.poll()
		if completed {
			l.ring.Reap(reap)
		}
		if q := l.queue.Load(); q != nil && asked {
			if err := q.Receive(receive); err != nil {
				l.queue.CompareAndSwap(q, nil)
				if !errors.Is(err, frontend.ErrClosed) {
					l.d.env.Log.Error("a queue of the face is lost", "err", err)
				}
			}
		}
		for l.exchange() {
		}
	}
}

// poll waits for input, a kick, or the time of the next tick. It says whether the ring
// and the face have something.
func (l *loop) poll() (completed, asked bool) {
	if q := l.queue.Load(); q != l.watching {
		l.watch(q)
	}
	if l.waiter != nil {
		return l.waitInQueue()
	}
	fds := [3]unix.PollFd{{Fd: int32(l.ring.Fd()), Events: unix.POLLIN}, {Fd: int32(l.kicks), Events: unix.POLLIN}, {Fd: -1}}
	if q := l.queue.Load(); q != nil && !l.hold.Load() {
		fds[2] = unix.PollFd{Fd: int32(q.Fd()), Events: unix.POLLIN}
	}
	wait := 10 * tickEvery
	if l.n == 0 {
		wait = tickEvery
	}
	if l.ring.Pending() {
		wait = 0
	}
	n := 0
	if wait > 0 && l.busy {
		// What the runtime is not told of costs no hand-over of the processor and back,
		// which at low depth is longer than the I/O. The time is short, and a signal of
		// the runtime's ends it: nobody waits for this thread.
		n = pollQuick(fds[:])
		l.busy = n > 0
	}
	if n == 0 {
		n, _ = unix.Poll(fds[:], int(wait.Milliseconds()))
		l.busy = n > 0
	}
	if n > 0 && fds[1].Revents != 0 {
		var b [8]byte
		unix.Read(l.kicks, b[:])
	}
	return fds[0].Revents != 0 || l.ring.Pending(), fds[2].Revents != 0
}

// watch prepares for waiting in q.
func (l *loop) watch(q *queueBox) {
	l.watching = q
	if q != nil && l.waiter != nil && q.Queue == frontend.Queue(l.waiter) {
		return // a queue that was served from the making of its face on
	}
	l.waiter = nil
	if q != nil {
		if w, ok := q.Queue.(frontend.Waiter); ok {
			if err := w.Watch(l.ring.Fd(), l.kicks); err != nil {
				l.d.env.Log.Error("a queue of the face is lost", "err", err)
				l.queue.CompareAndSwap(q, nil)
			} else {
				l.waiter = w
			}
		}
	}
	l.ring.Watched(l.waiter != nil)
}

// waitInQueue is poll in a queue that can be waited in.
func (l *loop) waitInQueue() (completed, asked bool) {
	wait := 10 * tickEvery
	if l.n == 0 {
		wait = tickEvery
	}
	if l.ring.Pending() {
		wait = 0
	}
	signalled := uint32(0)
	if wait == 0 || l.busy {
		signalled, asked = l.waiter.Wait(min(wait, quickPoll), true)
	}
	if l.busy = signalled != 0 || asked || wait == 0; !l.busy {
		signalled, asked = l.waiter.Wait(wait, false)
		l.busy = signalled != 0 || asked
	}
	return signalled&1 != 0 || l.ring.Pending(), asked
}

// quickPoll is how long a loop that was just busy waits without telling the runtime.
const quickPoll = 2 * time.Millisecond

func pollQuick(fds []unix.PollFd) int {
	limit := unix.NsecToTimespec(int64(quickPoll))
	n, _, e := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)), uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if e != 0 {
		return 0
	}
	return int(n)
}

// exchange gives the engine what has come in, and carries out what it wants. It says
// whether answers went out, of which the engine is to be told in another round.
func (l *loop) exchange() bool {
	d := l.d
	d.mu.Lock()
	now := d.clock()
	d.world.now = now
	e := d.engine
	for _, r := range l.replied {
		e.Replied(r)
	}
	for _, io := range l.done {
		e.LegDone(io)
	}
	for _, r := range l.reqs {
		e.Submit(r)
	}
	if l.n == 0 && now >= l.tickAt {
		l.tickAt = now + int64(tickEvery)
		e.Tick()
		d.releaseIdleLegs()
		d.closeSpare()
	}
	l.out, d.world.out = d.world.out, outbox{l.out.ios[:0], l.out.replies[:0]}
	legs := [3]*legio.Leg{d.legs[0], d.legs[1], d.newLeg.open}
	d.mu.Unlock()
	l.replied, l.done, l.reqs = l.replied[:0], l.done[:0], l.reqs[:0]
	if len(l.out.ios) > 0 {
		l.ring.Submit(l.out.ios, legs)
		clear(l.out.ios)
	}
	for _, r := range l.out.replies {
		if l.waiter != nil && r.Queue == frontend.Queue(l.waiter) {
			l.waiter.ReplyHere(r)
		} else {
			r.Queue.Reply(r)
		}
		l.replied = append(l.replied, r)
	}
	clear(l.out.replies)
	return len(l.replied) > 0
}

// end stops the loop. What its ring still has under way is left to the kernel.
func (l *loop) end() {
	l.stop.Store(true)
	l.kick()
	<-l.ended
	l.ring.Close()
	unix.Close(l.kicks)
}

// memory gives the engine room for its copies: a bounded number of pieces, mapped when
// first needed.
type memory struct {
	mu   sync.Mutex // guards the fields below
	free [][]byte
	made int
}

const (
	pieceBytes = copyChunk
	piecesMax  = 32
)

// get gives n bytes aligned to 4096, or nil when all pieces are in use.
func (m *memory) get(n int) ([]byte, func()) {
	if n > pieceBytes {
		return nil, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var b []byte
	switch k := len(m.free); {
	case k > 0:
		b, m.free = m.free[k-1], m.free[:k-1]
	case m.made == piecesMax:
		return nil, nil
	default:
		var err error
		b, err = unix.Mmap(-1, 0, pieceBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, nil
		}
		m.made++
	}
	return b[:n:n], func() {
		m.mu.Lock()
		m.free = append(m.free, b)
		m.mu.Unlock()
	}
}
