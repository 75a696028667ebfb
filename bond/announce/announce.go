// Package announce tells the network behind which port the face's MACs are.
//
// After a failover the switches still send what is for the face to the old port, until they
// see a frame of it come from the new one. So a burst of frames is sent through the new
// port's NIC at once: a gratuitous ARP or an unsolicited neighbour advertisement for every
// address of the face and of the links stacked on it, RARP for the MACs whose addresses we
// cannot know, and reports of the multicast groups for switches that snoop.
//
// Invariants:
//   - Announce neither waits for the kernel's tables nor allocates: its frames were made
//     before. They are made anew by a goroutine of their own, when Refresh says that
//     something has changed, and after every Announce, since memberships change without a
//     word; what is new then is sent as soon as it is known.
//   - When Announce returns, no frame of an earlier one is sent any more: a frame that left
//     through the old port after one through the new would turn the switches back. mu is
//     held wherever frames are sent, for one chunk of them at most beside Announce itself.
//   - Every burst is bounded (framesMax), and beyond burstMax frames it is paced: neither
//     the caller nor a switch's processor is kept longer.
//
// The frames carry the face's MAC and leave by the NIC directly. The data path lets pass
// what it has not sent there itself.
package announce

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"ft/drivers"
)

// Limits of bursts: what Announce sends itself, and what follows it, a chunk at a time.
const (
	burstMax   = 256
	paceFrames = 32
	pace       = time.Millisecond
)

// Intervals of making frames: the least between two, and after a failure.
const (
	refreshSpacing = 10 * time.Millisecond
	refreshRetry   = time.Second
)

// Config is what an Announcer works with.
type Config struct {
	Face  int           // ifindex
	Count int           // bursts of an announcement, at least 1
	Delay time.Duration // from one to the next
	Log   *slog.Logger
}

// Stats are counted since New.
type Stats struct {
	Announcements uint64
	Frames        uint64 // sent
	Errors        uint64 // frames that a NIC did not take, and announcements without one
	Addresses     int    // announced now
	Stations      int    // MACs on a VLAN or on none, announced now
	Groups        int    // reported now
}

// Announcer announces one face. Methods may be called from any goroutine.
type Announcer struct {
	cfg    Config
	kernel kernel
	done   func() // with the kernel

	frames atomic.Pointer[frameSet] // ready to go
	asked  atomic.Uint64            // number of the last wish for new frames
	read   atomic.Uint64            // number of the last one that was fulfilled

	look chan struct{} // frames are to be made
	work chan struct{} // the order, or the frames, have changed
	stop chan struct{}
	once sync.Once
	wait sync.WaitGroup

	announcements, sent, failed atomic.Uint64

	// mu guards what follows, and is held while frames are sent.
	mu     sync.Mutex
	ports  [2]*port
	order  order
	tx     transmitter
	closed bool
}

// New begins to look after a face. When it returns the first frames are made.
func New(cfg Config) (*Announcer, error) {
	h, err := openHost()
	if err != nil {
		return nil, fmt.Errorf("announce interface %d: %w", cfg.Face, err)
	}
	a, err := start(cfg, h, h.close)
	if err != nil {
		h.close()
	}
	return a, err
}

// start is New with a kernel of the caller's choice.
func start(cfg Config, k kernel, done func()) (*Announcer, error) {
	if cfg.Count < 1 || cfg.Delay < 0 {
		return nil, fmt.Errorf("announce interface %d: %d bursts at %v: at least one, and no negative delay", cfg.Face, cfg.Count, cfg.Delay)
	}
	a := &Announcer{
		cfg: cfg, kernel: k, done: done,
		look: make(chan struct{}, 1), work: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	a.frames.Store(&frameSet{})
	if err := a.makeFrames(); err != nil {
		return nil, err
	}
	a.wait.Add(2)
	go a.refreshing()
	go a.repeating()
	return a, nil
}

// Refresh says that addresses, links or memberships have changed. It returns at once.
func (a *Announcer) Refresh() {
	a.asked.Add(1)
	nudge(a.look)
}

// SetPort says through which NIC a side is announced; 0 for none, which ends what is left of an
// announcement there. It is to be called again when the NIC has come back, under whatever
// ifindex: what is left then goes through the new one.
func (a *Announcer) SetPort(s drivers.Side, ifindex int) error {
	if !s.Valid() {
		return fmt.Errorf("announce: there is no side %d", s)
	}
	var p *port
	if ifindex != 0 {
		var err error
		if p, err = openPort(ifindex); err != nil {
			return fmt.Errorf("announce through side %d: %w", s, err)
		}
	}
	a.mu.Lock()
	if a.closed && p != nil {
		a.mu.Unlock()
		p.close()
		return errors.New("announce: closed")
	}
	p, a.ports[s] = a.ports[s], p
	if ifindex == 0 && a.order.side == s {
		a.order.cancel()
	}
	a.mu.Unlock()
	if p != nil {
		p.close() // it may take the kernel some milliseconds, and nobody sends through it
	}
	return nil
}

// Announce says that the face is behind a side now. The first burst has gone out when it
// returns (of a very large one, the beginning); the rest of an earlier announcement will
// not. It does not wait for the NIC: what it does not take is counted.
func (a *Announcer) Announce(s drivers.Side) {
	if !s.Valid() {
		return
	}
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return
	}
	a.announcements.Add(1)
	set := a.frames.Load()
	first := set.frames[:min(len(set.frames), burstMax)]
	a.order = order{
		number: a.order.number + 1, side: s, asked: a.asked.Add(1),
		set: set, rest: set.frames[len(first):],
		left: a.cfg.Count - 1, due: time.Now().Add(a.cfg.Delay),
	}
	trouble := a.send(s, first)
	if a.ports[s] == nil {
		a.order.cancel()
	}
	a.mu.Unlock()
	nudge(a.look)
	nudge(a.work)
	a.report(trouble)
}

// Stats is a snapshot.
func (a *Announcer) Stats() Stats {
	set := a.frames.Load()
	return Stats{
		Announcements: a.announcements.Load(), Frames: a.sent.Load(), Errors: a.failed.Load(),
		Addresses: set.addresses, Stations: set.stations, Groups: set.groups,
	}
}

// Close ends the announcements and lets go of the NICs.
func (a *Announcer) Close() {
	a.once.Do(func() {
		close(a.stop)
		a.wait.Wait()
		a.mu.Lock()
		ports := a.ports
		a.ports, a.order, a.closed = [2]*port{}, order{}, true
		a.mu.Unlock()
		for _, p := range ports {
			if p != nil {
				p.close()
			}
		}
		a.done()
	})
}

// trouble is the first refusal of a port, to be reported when nobody is waiting.
type trouble struct {
	side  drivers.Side
	index int
	err   error
}

// errNoPort is the refusal of a side without a NIC.
var errNoPort = errors.New("no NIC there")

// send sends frames through a side, with mu held.
func (a *Announcer) send(s drivers.Side, frames [][]byte) (t trouble) {
	if len(frames) == 0 {
		return t
	}
	p := a.ports[s]
	if p == nil {
		a.failed.Add(1)
		return trouble{side: s, err: errNoPort}
	}
	sent, failed, err := a.tx.send(p, frames)
	a.sent.Add(uint64(sent))
	a.failed.Add(uint64(failed))
	if err != nil && !p.failing {
		t = trouble{side: s, index: p.index, err: err}
	}
	p.failing = err != nil
	return t
}

func (a *Announcer) report(t trouble) {
	if t.err != nil {
		a.cfg.Log.Warn(fmt.Sprintf("announcing the face through side %d (interface %d): %v; %s", t.side, t.index, t.err, wayOut(t.err)))
	}
}

// nudge wakes the reader of a channel with room for one, if it is not awake already.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
