package monitor

// A prober asks its targets for their MAC through one NIC, whether that carries the face or
// not, so that a standby path is known to be good before it is needed.
//
// Invariants:
//   - Only an answer makes a path good: a reply or advertisement, to a probe that is
//     outstanding, from a probed target, addressed to the MAC that probed, taken from the
//     NIC that probed. All other traffic, however lively, leaves a dead path dead.
//   - One thread owns all of it, of the real-time class where that is permitted. It asks at
//     fixed times and reads what has come before it judges. In a storm it lets the kernel
//     drop what is more than it may read, rather than take a processor for itself.
//   - A NIC that goes down and up again is probed again by the same sockets. One that
//     vanishes is reported as gone at once, and nothing more is tried: when it
//     returns it has another number, and gets another prober.

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ft/bond/nic"
	"ft/drivers"
)

// ProbeConfig says what is probed, from where.
type ProbeConfig struct {
	Side     drivers.Side
	Index    int    // of the NIC
	Name     string // of the NIC
	MAC      net.HardwareAddr
	Targets  []netip.Addr // any one of them suffices
	Interval time.Duration
	Misses   int // intervals without an answer that make a path bad
	Log      *slog.Logger
}

// ProbeStats counts the work of a prober.
type ProbeStats struct {
	Sent     uint64
	Answered uint64
	Foreign  uint64 // what looked like an answer and was none
	Unsent   uint64 // probes that the kernel refused
	Defended uint64 // solicitations of the probe's own address that were answered
	RTT      time.Duration
}

// Limits of a prober.
const (
	probeTargetsMax  = 16
	probeIntervalMin = time.Millisecond
	framesATurn      = 128              // of each protocol
	stormPause       = time.Millisecond // after a turn that was not enough
	turnsToJudge     = 8                // that are taken at once before a path is called bad
	defendedARound   = 32               // solicitations that are answered between two rounds
	frameBytes       = 2048
	linkFor          = time.Second // for which it is remembered what the NIC is like
)

// Prober probes through one NIC.
type Prober struct {
	cfg  ProbeConfig
	on   func(s drivers.Side, v Verdict, why string, at time.Time)
	id   identity
	path *path

	sockets  [2]*probeSocket // ARP, IPv6; nil where no target needs it
	probes   [][]byte        // a frame for each target
	buf      []byte
	next     time.Time // of the next round
	defended int       // since the last round
	storm    bool      // there was more to read than a turn takes
	troubled bool      // a refused probe has been logged
	link     nic.Link  // for ours, as it was at
	linkAt   time.Time

	sent, answered, foreign, unsent, defences atomic.Uint64
	rttNs                                     atomic.Int64
	heard                                     atomic.Pointer[time.Time] // the last answer

	stop    int // eventfd: written by Close
	done    chan struct{}
	closing sync.Once
}

// StartProber begins at once. on is called when the verdict changes, on the prober's
// goroutine.
func StartProber(cfg ProbeConfig, on func(s drivers.Side, v Verdict, why string, at time.Time)) (*Prober, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	p := &Prober{cfg: cfg, on: on, id: newIdentity(cfg.MAC), buf: make([]byte, frameBytes), done: make(chan struct{})}
	var targets []netip.Addr
	for _, t := range cfg.Targets {
		t = t.Unmap().WithZone("") // a zone would name the NIC, and that is given
		targets = append(targets, t)
		p.probes = append(p.probes, p.id.probe(t))
		i, protocol := socketOf(t)
		if p.sockets[i] != nil {
			continue
		}
		s, err := openProbeSocket(cfg.Name, cfg.Index, protocol, p.id)
		if err != nil {
			p.closeSockets()
			return nil, err
		}
		p.sockets[i] = s
	}
	var err error
	if p.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		p.closeSockets()
		return nil, fmt.Errorf("probe through %s: make an eventfd: %w", cfg.Name, err)
	}
	p.next = time.Now()
	p.path = newPath(targets, cfg.Interval, cfg.Misses, p.next)
	go p.run()
	return p, nil
}

func (c *ProbeConfig) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("probe through %s: %s", c.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case !c.Side.Valid():
		return bad("there is no side %d", c.Side)
	case c.Index <= 0:
		return bad("there is no interface with the number %d", c.Index)
	case len(c.MAC) != macLen || newIdentity(c.MAC).mac == [macLen]byte{} || c.MAC[0]&multicastMACBit != 0:
		return bad("%q cannot be the MAC of a NIC", c.MAC)
	case c.Interval < probeIntervalMin:
		return bad("an interval of %v is less than %v", c.Interval, probeIntervalMin)
	case c.Misses < 1:
		return bad("a path is bad after one miss at least, not after %d", c.Misses)
	case len(c.Targets) == 0 || len(c.Targets) > probeTargetsMax:
		return bad("there can be 1 to %d targets, not %d", probeTargetsMax, len(c.Targets))
	}
	for _, t := range c.Targets {
		if !t.IsValid() || t.IsUnspecified() || t.IsMulticast() || t.IsLoopback() || t == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return bad("%v is no address of a host", t)
		}
	}
	return nil
}

func socketOf(t netip.Addr) (i int, protocol uint16) {
	if t.Is4() {
		return 0, unix.ETH_P_ARP
	}
	return 1, unix.ETH_P_IPV6
}

// Stats may be called from any goroutine.
func (p *Prober) Stats() ProbeStats {
	return ProbeStats{
		Sent: p.sent.Load(), Answered: p.answered.Load(), Foreign: p.foreign.Load(),
		Unsent: p.unsent.Load(), Defended: p.defences.Load(), RTT: time.Duration(p.rttNs.Load()),
	}
}

// Heard is when a probe was last answered; zero when none was. It waits for nothing.
func (p *Prober) Heard() time.Time {
	if at := p.heard.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// Close ends the probing. on is not called after it.
func (p *Prober) Close() {
	p.closing.Do(func() {
		if _, err := unix.Write(p.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			panic(fmt.Sprintf("monitor: an eventfd of our own takes no write: %v", err))
		}
		<-p.done
		p.closeSockets()
		unix.Close(p.stop)
	})
	<-p.done
}

func (p *Prober) closeSockets() {
	for _, s := range p.sockets {
		if s != nil {
			s.close()
		}
	}
}

func (p *Prober) run() {
	// Never unlocked: the thread ends with the goroutine, and its scheduling class with it.
	runtime.LockOSThread()
	defer close(p.done)
	if err := becomeRealTime(); err != nil {
		p.cfg.Log.Warn("probes may be late on a busy machine", "nic", p.cfg.Name, "error", err)
	}
	for {
		stopped, err := p.wait()
		if stopped {
			return
		}
		if err == nil {
			err = p.turn()
		}
		if err != nil {
			p.path.verdict = Gone
			p.on(p.cfg.Side, Gone, err.Error(), time.Now())
			p.rest()
			return
		}
	}
}

// turn reads, judges and asks, in this order. An error is the end of the NIC.
func (p *Prober) turn() error {
	turns := 1
	if at, ok := p.path.deadline(); ok && !time.Now().Before(at) {
		turns = turnsToJudge
	}
	for p.storm = true; p.storm && turns > 0; turns-- {
		var err error
		if p.storm, err = p.read(); err != nil {
			return err
		}
	}
	now := time.Now()
	if why, turned := p.path.expire(now); turned {
		p.on(p.cfg.Side, Bad, why, now)
	}
	if now.Before(p.next) {
		return nil
	}
	p.next = p.next.Add(p.cfg.Interval)
	if behind := now.Sub(p.next); behind >= 0 { // rounds that did not take place
		p.next = p.next.Add(behind - behind%p.cfg.Interval + p.cfg.Interval)
	}
	return p.ask()
}

// ask sends a probe to each target.
func (p *Prober) ask() error {
	p.defended = 0
	p.path.round(time.Now())
	for i, t := range p.path.targets {
		which, _ := socketOf(t.addr)
		now := time.Now()
		err := p.sockets[which].send(p.probes[i])
		switch {
		case err == nil:
			p.sent.Add(1)
			p.path.sent(i, now)
			p.troubled = false
		case errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV):
			return p.gone()
		default:
			p.unsent.Add(1)
			p.path.unsent(err)
			if !p.troubled {
				p.troubled = true
				p.cfg.Log.Info("a probe could not be sent", "nic", p.cfg.Name, "target", t.addr, "error", err)
			}
		}
	}
	return nil
}

// read takes in what has come on both sockets, a bounded number of frames of each.
func (p *Prober) read() (more bool, err error) {
	for i, s := range p.sockets {
		if s == nil {
			continue
		}
		frames := 0
		for ; frames < framesATurn; frames++ {
			n, by, err := s.receive(p.buf)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				// The kernel reports once that the NIC went down, or was taken away.
				if !s.attached() {
					return false, p.gone()
				}
				continue
			}
			if err == nil {
				p.take(i, p.buf[:n], by)
			}
		}
		more = more || frames == framesATurn
	}
	return more, nil
}

func (p *Prober) take(socket int, frame []byte, by arrival) {
	var from netip.Addr
	var at [macLen]byte
	var what sight
	if socket == 0 {
		from, what = p.id.readARP(frame)
	} else {
		from, at, what = p.id.readND(frame)
	}
	if what == answer && !p.ours(by) {
		what = looksForeign
	}
	switch what {
	case answer:
		now := time.Now()
		rtt, counts, turned := p.path.answered(from, now)
		if !counts {
			p.foreign.Add(1)
			return
		}
		p.heard.Store(&now)
		p.answered.Add(1)
		why := fmt.Sprintf("%v answers", from)
		if rtt > 0 {
			p.rttNs.Store(int64(rtt))
			why = fmt.Sprintf("%v answers in %v", from, rtt.Round(time.Microsecond))
		}
		if turned {
			p.on(p.cfg.Side, Good, why, now)
		}
	case looksForeign:
		p.foreign.Add(1)
	case solicitation:
		// A target that was asked by us keeps our address in its cache, and asks now and
		// then whether it still holds.
		if p.defended < defendedARound && p.ours(by) && p.sockets[1].send(p.id.advertise(from, at)) == nil {
			p.defended++
			p.defences.Add(1)
		}
	}
}

// ours says whether a frame that is addressed to our MAC came in by the NIC itself, and
// not by a link on top of it: a VLAN's frames are shown to the NIC's sockets too, without
// their tags, under the VLAN link's number, or as strays when there is no such link. But
// under the kernel's bonding driver all frames of a NIC go by the bond's number, and those
// to our MAC are strays because the NIC wears the bond's.
func (p *Prober) ours(by arrival) bool {
	if by.index == p.cfg.Index && !by.strays {
		return true
	}
	if now := time.Now(); now.Sub(p.linkAt) > linkFor {
		var err error
		if p.link, err = nic.ByIndex(p.cfg.Index); err != nil {
			p.cfg.Log.Debug("a frame cannot be judged", "nic", p.cfg.Name, "error", err)
		}
		p.linkAt = now
	}
	within := by.index == p.cfg.Index || by.index == p.link.Master
	wears := len(p.link.MAC) > 0 && !bytes.Equal(p.link.MAC, p.cfg.MAC)
	return within && (wears || !by.strays)
}

func (p *Prober) gone() error {
	return fmt.Errorf("%s (index %d) is gone", p.cfg.Name, p.cfg.Index)
}

// wait sleeps until a frame, the next round, the deadline or Close.
func (p *Prober) wait() (stopped bool, err error) {
	until := p.next
	if at, ok := p.path.deadline(); ok && at.Before(until) {
		until = at
	}
	if p.storm {
		until = time.Now().Add(stormPause)
	}
	timeout := unix.NsecToTimespec(max(0, int64(time.Until(until))))
	fds := [3]unix.PollFd{{Fd: int32(p.stop), Events: unix.POLLIN}, {Fd: -1}, {Fd: -1}}
	for i, s := range p.sockets {
		if s != nil && !p.storm {
			fds[i+1] = unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}
		}
	}
	if _, err := unix.Ppoll(fds[:], &timeout, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("probe through %s: wait: %w", p.cfg.Name, err)
	}
	return fds[0].Revents != 0, nil
}

// rest waits for Close.
func (p *Prober) rest() {
	p.cfg.Log.Info("no more probes", "nic", p.cfg.Name, "index", p.cfg.Index)
	for {
		fds := []unix.PollFd{{Fd: int32(p.stop), Events: unix.POLLIN}}
		if _, err := unix.Ppoll(fds, nil, nil); err == nil || !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
