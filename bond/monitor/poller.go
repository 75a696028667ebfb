package monitor

// The kernel tells of a lost carrier when it likes: linkwatch lets through one burst of
// reports a second, so that a pulled cable can be 700 ms old when netlink speaks of it.
// The poller asks instead, in the best of the ways that there are (Way).
//
// Invariants:
//   - One thread, of the real-time class where that is permitted, wakes at fixed times
//     (absolute, so that it does not drift), or when it is asked to, looks at each NIC and
//     sleeps again. Between two changes it allocates nothing, takes no lock of ours, and
//     needs no processor of the Go runtime (rounds.go).
//   - Nothing but ETHTOOL_GLINK makes it wait: that takes the kernel's RTNL lock, which
//     whoever deletes a NIC, or makes one, holds for tens of milliseconds. So it is asked
//     only where the data path knows of no other way, or the kernel refuses that one.
//   - A NIC that the data path's way finds gone stays gone until the next Watch: it is known
//     there by its ifindex, which may be somebody else's by then.
//   - The owner's function is called on the first look at a NIC and when what is seen
//     changes, on this thread.
//
// What it costs with nothing happening, two veth NICs, on a shared virtual machine
// (BenchmarkIdle, the whole process): 1.0 % of a processor at 5 ms and 1.9 % at 2 ms, of
// which waking up is the most. The same loop in C takes 0.9 % and 2.0 %, and one that enters
// the Go runtime for each system call 2.8 % and 5.4 %.

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/bond/datapath"
	"ft/drivers"
)

// Carrier is what a look at a NIC found.
type Carrier struct {
	Up   bool
	Gone bool // no such interface is there, or its device has been taken from it
	At   time.Time
}

// Way is how a NIC is asked for its carrier.
type Way uint32

// Ways, from none to the worst.
const (
	ByNothing Way = iota // it is not watched
	ByProgram            // the data path's, without a lock
	ByEthtool            // ETHTOOL_GLINK: what `ethtool` shows as "Link detected"
	ByFlags              // IFF_RUNNING, as late as netlink, for a driver that knows no ethtool
)

func (w Way) String() string { return [...]string{"none", "bpf", "ethtool", "flags"}[w] }

// PollerStats counts the work of a poller.
type PollerStats struct {
	Polls    uint64        // rounds of looking at both NICs
	Late     uint64        // rounds that began later than half an interval after their time
	Missed   uint64        // rounds that did not take place, a look or a wake-up having taken so long
	LateMax  time.Duration // the latest of them
	SlowMax  time.Duration // the longest look at both, waiting for the kernel's lock included
	Unknown  uint64        // looks that told nothing
	RealTime bool          // the thread is SCHED_FIFO
	Interval time.Duration // between two rounds
	Ways     [2]Way
}

const (
	// A poller that has not looked for so long is not alive. A NIC's reset may hold the
	// kernel's RTNL lock for seconds.
	pollPatience = 10 * time.Second
	// The least interval: a look costs some microseconds.
	pollIntervalMin = 500 * time.Microsecond
)

// Poller looks at the carriers of up to two NICs.
type Poller struct {
	log      *slog.Logger
	on       func(drivers.Side, Carrier)
	broken   error // why there is no thread; set before done is closed
	origin   time.Time
	originNs int64 // the same on CLOCK_MONOTONIC
	watched  [2]atomic.Pointer[look]
	rounds   rounds

	stop     atomic.Bool
	done     chan struct{}
	realTime atomic.Bool
	unknown  atomic.Uint64
}

// look is one watched NIC. All of it is the thread's own after Watch, but way, which others
// read.
type look struct {
	way    Way
	direct datapath.CarrierLook
	glink  ethtoolRequest
	flags  flagsRequest
	value  ethtoolValue // what glink points to

	errno   unix.Errno // of the last look
	data    uint32     // that it found
	refused unix.Errno // why it is not looked at directly any more

	toldErrno unix.Errno // of the last one that was news
	toldData  uint32
	told      bool
	last      Carrier
	failed    bool // and has been logged
	over      bool // gone, and not to be looked at again
}

// notLookedAt is an errno that no look gives.
const notLookedAt = unix.Errno(1<<16 - 1)

// struct ifreq of linux/if.h, with ifr_data, and with ifr_flags. The union is 24 bytes
// long where a pointer has 8, and shorter elsewhere.
type (
	ethtoolRequest struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	flagsRequest struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	// struct ethtool_value, linux/ethtool.h.
	ethtoolValue struct{ cmd, data uint32 }
)

// NewPoller starts the thread. That it could not shows in Alive.
func NewPoller(interval time.Duration, log *slog.Logger, on func(s drivers.Side, c Carrier)) *Poller {
	p := &Poller{log: log, on: on, done: make(chan struct{})}
	if err := p.prepare(max(interval, pollIntervalMin)); err != nil {
		p.broken = fmt.Errorf("the carrier poll cannot run: %w", err)
		close(p.done)
		return p
	}
	go p.run()
	return p
}

func (p *Poller) prepare(interval time.Duration) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	p.origin, p.originNs = time.Now(), now.Nano()
	// The socket is the way to the interfaces of the network namespace that it is made in.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	p.rounds = rounds{socket: uintptr(fd), intervalNs: int64(interval), dueNs: p.originNs, end: p.originNs}
	return nil
}

// Watch looks at the interface of a name from now on, which is reported whatever it finds;
// "" stops. A look that is under way may still be reported.
func (p *Poller) Watch(s drivers.Side, name string) {
	var l *look
	if name != "" {
		l = newLook(name)
	}
	p.watch(s, l)
}

// WatchDirect is Watch by the data path's way, and by name where the kernel refuses that.
// The owner must have stopped it, or closed the poller, before the way holds no more.
func (p *Poller) WatchDirect(s drivers.Side, name string, direct datapath.CarrierLook) {
	l := newLook(name)
	l.way, l.direct = ByProgram, direct
	p.watch(s, l)
}

func (p *Poller) watch(s drivers.Side, l *look) {
	p.watched[s].Store(l)
	p.rounds.ask()
}

// LookNow does not wait for the time of the next round, which stays what it is. It is for
// who has heard that something has happened, and returns at once.
func (p *Poller) LookNow() { p.rounds.ask() }

func newLook(name string) *look {
	l := &look{way: ByEthtool, value: ethtoolValue{cmd: unix.ETHTOOL_GLINK}, toldErrno: notLookedAt}
	copy(l.glink.name[:unix.IFNAMSIZ-1], name)
	l.flags.name = l.glink.name
	l.glink.data = unsafe.Pointer(&l.value)
	return l
}

// Stats may be called from any goroutine.
func (p *Poller) Stats() PollerStats {
	r := &p.rounds
	st := PollerStats{
		Polls: atomic.LoadUint64(&r.polls), Late: atomic.LoadUint64(&r.late), Missed: atomic.LoadUint64(&r.missed),
		LateMax: time.Duration(atomic.LoadInt64(&r.lateMaxNs)), SlowMax: time.Duration(atomic.LoadInt64(&r.slowMaxNs)),
		Unknown: p.unknown.Load(), RealTime: p.realTime.Load(), Interval: time.Duration(r.intervalNs),
	}
	for s := range p.watched {
		if l := p.watched[s].Load(); l != nil {
			st.Ways[s] = Way(atomic.LoadUint32((*uint32)(&l.way)))
		}
	}
	return st
}

// Alive returns an error when nobody looks any more, or the kernel does not answer.
func (p *Poller) Alive() error {
	select {
	case <-p.done:
		if p.broken != nil {
			return p.broken
		}
		return errors.New("the carrier poll has ended")
	default:
	}
	last := time.Duration(atomic.LoadInt64(&p.rounds.end) - p.originNs)
	if since := time.Since(p.origin) - last; since > max(pollPatience, 10*time.Duration(p.rounds.intervalNs)) {
		return fmt.Errorf("the carrier poll has not come round for %v: its thread is starved, or waits for the kernel", since.Round(time.Second))
	}
	return nil
}

// Close ends the thread. The owner's function is not called after it.
func (p *Poller) Close() {
	p.stop.Store(true)
	p.rounds.ask()
	<-p.done
}

func (p *Poller) run() {
	// Never unlocked: the thread ends with the goroutine, and its scheduling class with it.
	runtime.LockOSThread()
	defer close(p.done)
	defer unix.Close(int(p.rounds.socket))
	if err := becomeRealTime(); err != nil {
		p.log.Warn("the carrier poll may see a lost carrier late on a busy machine", "error", err)
	} else {
		p.realTime.Store(true)
	}
	for !p.stop.Load() {
		p.adopt()
		p.rounds.untilNews()
		p.tell()
	}
}

// adopt takes over what Watch has set: the number first, so that a Watch in between is
// seen the next time.
func (p *Poller) adopt() {
	wanted := atomic.LoadUint32(&p.rounds.wanted)
	p.rounds.atOnce = wanted != p.rounds.generation
	p.rounds.generation = wanted
	for s := range p.watched {
		p.rounds.looks[s] = p.watched[s].Load()
	}
}

// tell reports what the last round has found.
func (p *Poller) tell() {
	at := p.origin.Add(time.Duration(p.rounds.nowNs - p.originNs))
	p.rounds.askAlways = false
	for s, l := range p.rounds.looks {
		if l == nil {
			continue
		}
		l.toldErrno, l.toldData = l.errno, l.data
		up, gone, err := l.data != 0, l.errno == unix.ENODEV, l.errno
		if l.refused != 0 {
			p.log.Warn("the kernel refuses to say without its RTNL lock whether a NIC has a carrier: a loss may be seen late while links are deleted or made",
				"nic", l.name(), "error", l.refused)
			l.refused = 0
		}
		if l.way == ByFlags {
			l.setWay(ByEthtool)
		}
		if err != 0 && !gone {
			if l.way == ByEthtool {
				l.setWay(ByFlags)
			}
			up, gone, err = l.askFlags(p.rounds.socket)
			p.rounds.askAlways = true
		}
		if err != 0 && !gone {
			p.failed(l, err)
			continue
		}
		l.over = gone && l.way == ByProgram
		now := Carrier{Up: up && !gone, Gone: gone, At: at}
		if l.told && l.last.Up == now.Up && l.last.Gone == now.Gone {
			continue
		}
		l.told, l.last = true, now
		p.on(drivers.Side(s), now)
	}
}

// failed leaves the last look standing: a NIC that gives no answer has not lost its carrier.
func (p *Poller) failed(l *look, err unix.Errno) {
	p.unknown.Add(1)
	if !l.failed {
		l.failed = true
		p.log.Warn("the carrier poll cannot look at a NIC; its carrier is known from netlink alone", "nic", l.name(), "error", err)
	}
}

func (l *look) name() string { return unix.ByteSliceToString(l.glink.name[:]) }

//go:nosplit
func (l *look) setWay(w Way) { atomic.StoreUint32((*uint32)(&l.way), uint32(w)) }

// askFlags is for a driver without ETHTOOL_GLINK: IFF_RUNNING is as late as netlink.
func (l *look) askFlags(socket uintptr) (up, gone bool, err unix.Errno) {
	_, _, err = unix.Syscall(unix.SYS_IOCTL, socket, unix.SIOCGIFFLAGS, uintptr(unsafe.Pointer(&l.flags)))
	const both = unix.IFF_UP | unix.IFF_RUNNING
	return err == 0 && l.flags.flags&both == both, err == unix.ENODEV, err
}
