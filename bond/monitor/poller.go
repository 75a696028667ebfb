package monitor

// The kernel tells of a lost carrier when it likes: linkwatch lets through one burst of
// reports a second, so that a pulled cable can be 700 ms old when netlink speaks of it.
// The poller asks instead: ETHTOOL_GLINK, which is what `ethtool` shows as "Link detected".
//
// Invariants:
//   - One thread, of the real-time class where that is permitted, wakes at fixed times
//     (absolute, so that it does not drift), looks at each NIC and sleeps again. Between
//     two changes it allocates nothing and takes no lock of ours.
//   - It sleeps, and waits for the kernel's RTNL lock in the ioctl, in ordinary system
//     calls: the Go runtime takes its processor away meanwhile and gives it to others.
//   - The owner's function is called on the first look at a NIC and when what is seen
//     changes, on this thread.
//
// What it costs, measured on an idle 2-core virtual machine over two veth NICs, the
// runtime's own monitor thread (which stays awake for it) included: see BenchmarkIdle.

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ft/drivers"
)

// Carrier is what a look at a NIC found.
type Carrier struct {
	Up   bool
	Gone bool // no interface of that name is there, or its device has been taken from it
	At   time.Time
}

// PollerStats counts the work of a poller.
type PollerStats struct {
	Polls    uint64        // rounds of looking at both NICs
	Late     uint64        // rounds that began later than half an interval after their time
	Missed   uint64        // rounds that did not take place, a look or a wake-up having taken so long
	LateMax  time.Duration // the latest of them
	SlowMax  time.Duration // the longest look, waiting for the kernel's lock included
	Unknown  uint64        // looks that told nothing
	RealTime bool          // the thread is SCHED_FIFO
	Interval time.Duration // between two rounds
}

const (
	// A poller that has not looked for so long is not alive. A NIC's reset may hold the
	// kernel's RTNL lock for seconds.
	pollPatience = 10 * time.Second
	pollPriority = 1 // of SCHED_FIFO: above all that is not real-time, below all that is
	// The least interval: a look costs some microseconds.
	pollIntervalMin = 500 * time.Microsecond
)

// Poller looks at the carriers of up to two NICs.
type Poller struct {
	interval time.Duration
	log      *slog.Logger
	on       func(drivers.Side, Carrier)
	socket   int
	broken   error // why there is no thread; set before done is closed
	watched  [2]atomic.Pointer[look]
	began    time.Time

	stop                              atomic.Bool
	done                              chan struct{}
	closing                           sync.Once
	realTime                          atomic.Bool
	polls, late, missed, unknown      atomic.Uint64
	lateMaxNs, slowMaxNs, lastRoundNs atomic.Int64 // the last: since began
}

// look is one watched NIC. All but the name is the thread's own.
type look struct {
	glink  ethtoolRequest
	flags  flagsRequest
	known  bool
	failed bool // and has been logged
	last   Carrier
	value  ethtoolValue
}

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

// NewPoller starts the thread. An error shows in Alive.
func NewPoller(interval time.Duration, log *slog.Logger, on func(s drivers.Side, c Carrier)) *Poller {
	p := &Poller{interval: max(interval, pollIntervalMin), log: log, on: on, done: make(chan struct{}), began: time.Now()}
	// The socket is the way to the interfaces of the network namespace that it is made in.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		p.broken = fmt.Errorf("the carrier poll cannot run: open a socket: %w", err)
		close(p.done)
		return p
	}
	p.socket = fd
	go p.run()
	return p
}

// Watch looks at the interface of a name from the next round on, which is reported
// whatever it finds; "" stops. A look that is under way may still be reported.
func (p *Poller) Watch(s drivers.Side, name string) {
	if name == "" {
		p.watched[s].Store(nil)
		return
	}
	l := &look{value: ethtoolValue{cmd: unix.ETHTOOL_GLINK}}
	copy(l.glink.name[:unix.IFNAMSIZ-1], name)
	l.flags.name = l.glink.name
	l.glink.data = unsafe.Pointer(&l.value)
	p.watched[s].Store(l)
}

// Stats may be called from any goroutine.
func (p *Poller) Stats() PollerStats {
	return PollerStats{
		Polls: p.polls.Load(), Late: p.late.Load(), Missed: p.missed.Load(), Unknown: p.unknown.Load(),
		LateMax: time.Duration(p.lateMaxNs.Load()), SlowMax: time.Duration(p.slowMaxNs.Load()),
		RealTime: p.realTime.Load(), Interval: p.interval,
	}
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
	if since := time.Since(p.began) - time.Duration(p.lastRoundNs.Load()); since > max(pollPatience, 10*p.interval) {
		return fmt.Errorf("the carrier poll has not come round for %v: its thread is starved, or waits for the kernel", since.Round(time.Second))
	}
	return nil
}

// Close ends the thread. The owner's function is not called after it.
func (p *Poller) Close() {
	p.closing.Do(func() { p.stop.Store(true) })
	<-p.done
}

func (p *Poller) run() {
	// Never unlocked: the thread ends with the goroutine, and its scheduling class with it.
	runtime.LockOSThread()
	defer close(p.done)
	defer unix.Close(p.socket)
	p.becomeRealTime()

	var start, next unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &start); err != nil {
		p.broken = fmt.Errorf("the carrier poll cannot run: read the clock: %w", err)
		return
	}
	// time.Since reads the same clock without a system call.
	origin, due := time.Now(), time.Duration(0)
	for !p.stop.Load() {
		p.round()
		p.polls.Add(1)
		p.lastRoundNs.Store(int64(time.Since(p.began)))

		due += p.interval
		if behind := time.Since(origin) - due; behind >= p.interval {
			missed := behind / p.interval
			p.missed.Add(uint64(missed))
			due += missed * p.interval
		}
		next = unix.NsecToTimespec(start.Nano() + int64(due))
		for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &next, nil) == unix.EINTR {
		}
		if late := time.Since(origin) - due; late > p.interval/2 {
			p.late.Add(1)
			p.lateMaxNs.Store(max(p.lateMaxNs.Load(), int64(late)))
		}
	}
}

// becomeRealTime takes CAP_SYS_NICE, and a cgroup that grants real-time runtime.
func (p *Poller) becomeRealTime() {
	err := unix.SchedSetAttr(0, &unix.SchedAttr{
		Policy:   unix.SCHED_FIFO,
		Priority: pollPriority,
		Flags:    unix.SCHED_FLAG_RESET_ON_FORK, // no other thread of ours becomes one
	}, 0)
	if err != nil {
		p.log.Warn("the carrier poll runs without real-time priority, so that it may see a lost carrier late on a busy machine", "error", err)
		return
	}
	p.realTime.Store(true)
}

// round looks at both NICs.
func (p *Poller) round() {
	for s := range p.watched {
		l := p.watched[s].Load()
		if l == nil {
			continue
		}
		before := time.Now()
		up, gone, err := l.ask(p.socket)
		at := time.Now()
		if took := int64(at.Sub(before)); took > p.slowMaxNs.Load() {
			p.slowMaxNs.Store(took)
		}
		if err != 0 {
			p.failed(l, err)
			continue
		}
		if l.known && l.last.Up == up && l.last.Gone == gone {
			continue
		}
		l.known, l.failed = true, false
		l.last = Carrier{Up: up, Gone: gone, At: at}
		p.on(drivers.Side(s), l.last)
	}
}

// failed leaves the last look standing: a NIC that gives no answer has not lost its carrier.
func (p *Poller) failed(l *look, err unix.Errno) {
	p.unknown.Add(1)
	if !l.failed {
		l.failed = true
		p.log.Warn("the carrier poll cannot look at a NIC; its carrier is known from netlink alone", "nic", unix.ByteSliceToString(l.glink.name[:]), "error", err)
	}
}

// ask is ETHTOOL_GLINK: does the driver see a link, and is the interface up. A driver
// that does not know is asked by SIOCGIFFLAGS (IFF_RUNNING), which is as late as netlink.
func (l *look) ask(socket int) (up, gone bool, err unix.Errno) {
	_, _, err = unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&l.glink)))
	switch err {
	case 0:
		return l.value.data != 0, false, 0
	case unix.ENODEV:
		return false, true, 0
	}
	_, _, err = unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCGIFFLAGS, uintptr(unsafe.Pointer(&l.flags)))
	switch err {
	case 0:
		const both = unix.IFF_UP | unix.IFF_RUNNING
		return l.flags.flags&both == both, false, 0
	case unix.ENODEV:
		return false, true, 0
	}
	return false, false, err
}
