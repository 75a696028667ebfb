package bond

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/bond/announce"
	"ft/bond/datapath"
	"ft/bond/monitor"
	"ft/bond/nic"
	"ft/drivers"
)

// Kind is the name under which the driver is registered.
const Kind = "bond"

// Links, filters and sockets for probes; eBPF, and a mount for its pins; a real-time thread;
// memory that stays and a place before the end of it.
func init() {
	drivers.Register(Kind, New, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_ADMIN,
		unix.CAP_SYS_NICE, unix.CAP_IPC_LOCK, unix.CAP_SYS_RESOURCE)
}

const (
	eventsMax      = 4096                  // events that nobody has read yet
	pollEvery      = 4 * time.Millisecond  // the carrier of both ports
	turnEvery      = 50 * time.Millisecond // whether the kernel has turned on a carrier that the poll has not seen go
	lookEvery      = 2 * time.Second       // what no event tells: filters of the face, turns of the kernel
	startCarrier   = 2 * time.Second       // for the first carrier at the start, and of a port that is attached
	predecessorMax = 2 * time.Second       // for one that is dying to be gone
	jobsMax        = 256                   // changes of links that are still to be looked at
)

// driver is the shell around one Core. Three kinds of threads call it: the poller's and
// the probers', which see failures and act on them at once under mu; the maintenance
// goroutine, which does all that takes longer (preparing NICs, filters); and the host's.
//
// Lock order: changeMu, then mu. Nothing that may wait is done under mu.
type driver struct {
	cfg   drivers.Config
	env   drivers.Env
	opt   Options
	began time.Time
	mac   net.HardwareAddr // of the face

	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	wg     sync.WaitGroup
	jobs   chan func()
	token  *os.File // stored with the keeper: there is a face to adopt

	// changeMu is held by what binds, attaches or detaches ports, one at a time. It guards
	// book and prepared.
	changeMu sync.Mutex
	book     *nic.Book
	parked   [2]*parked // NICs that a drill has taken away

	path     datapath.Path
	links    *monitor.Links
	poller   *monitor.Poller
	announce *announce.Announcer

	mu      sync.Mutex // guards the fields below
	core    *Core
	ports   [2]bound
	faceMTU int
	started bool
	stopped bool
	notes   []string
	stir    chan struct{} // closed and made anew with every step
	timer   *time.Timer
	turns   uint64 // of the kernel, that the core knows of
	bound   uint64 // bindings so far
	events  chan drivers.Event
	seq     uint64
	dropped uint64
	counts  counts
	addrs   []string // of the face, for people
	flaps   [2]context.CancelFunc
}

// bound is a port that is on the data path.
type bound struct {
	link    nic.Link // Index 0: there is none
	binding uint64   // tells this NIC from one before it with the same ifindex
	prober  *monitor.Prober
	carrier bool // as the poll sees it, without injected faults
	fault   datapath.Fault
	drill   string // the injected fault, by name
	notes   []string
}

// counts are for people.
type counts struct {
	failovers, kernelTurns, planned, damped uint64
	carrierLosses                           [2]uint64
	probesSent, probesAnswered, foreign     [2]uint64 // of probers that have ended
	last                                    *lastFailover
}

// lastFailover is the last change of the active port.
type lastFailover struct {
	From  string    `json:"from"`
	To    string    `json:"to"`
	Cause string    `json:"cause"`
	GapUS int64     `json:"gap_us"` // from seeing the cause to the data path being switched
	At    time.Time `json:"at"`
	By    string    `json:"by"` // driver or kernel
}

// New makes the driver of one bond.
func New(cfg drivers.Config, env drivers.Env) (drivers.Driver, error) {
	d := &driver{cfg: cfg, env: env, began: time.Now(), jobs: make(chan func(), jobsMax),
		events: make(chan drivers.Event, eventsMax), stir: make(chan struct{})}
	if len(cfg.Options) > 0 {
		if err := json.Unmarshal(cfg.Options, &d.opt); err != nil {
			return nil, fmt.Errorf("options of %s: %w", cfg.Name, err)
		}
	}
	d.opt = d.opt.withDefaults()
	if err := d.opt.check(); err != nil {
		return nil, fmt.Errorf("options of %s: %w", cfg.Name, err)
	}
	d.core = NewCore(d.opt, cfg.Sides)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

// stateDir is where the bond keeps what a successor must know of the NICs: it is void
// after a boot, as the NICs' settings are.
func (d *driver) stateDir() string { return filepath.Join(d.cfg.RunDir, "bond") }

// Start opens the data path of an earlier process or makes one, puts it onto the NICs
// that are there, and serves from the best of them. An earlier face is found by its
// marks in the kernel, not by mode: it outlives keeper and driver both.
func (d *driver) Start(ctx context.Context, _ drivers.StartMode) error {
	d.awaitPredecessor(ctx)
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	if err := d.openFace(); err != nil {
		return err
	}
	var err error
	if d.announce, err = announce.New(announce.Config{Face: d.path.Face(), Count: d.opt.AnnounceCount, Delay: d.opt.AnnounceDelay, Log: d.env.Log}); err != nil {
		return fmt.Errorf("announcements of %s: %w", d.cfg.Name, err)
	}
	d.poller = monitor.NewPoller(pollEvery, d.env.Log, d.carrierSeen)
	before, turn, err := d.path.State()
	if err != nil {
		return fmt.Errorf("read what the data path of %s does: %w", d.cfg.Name, err)
	}
	d.turns = turn.Count
	d.unpark()
	for s := range d.cfg.Sides {
		if err := d.path.Fault(drivers.Side(s), datapath.FaultNone); err != nil { // of a drill of an earlier process
			d.env.Log.Warn("a fault could not be cleared", "side", s, "err", err)
		}
		if d.cfg.Sides[s].Resource.Path != "" && !d.cfg.Sides[s].Out {
			d.tryBind(drivers.Side(s))
		} else if d.cfg.Sides[s].Out {
			d.seeOut(drivers.Side(s))
		}
	}
	d.awaitCarrier(ctx, startCarrier, 0, 1)
	d.step(Adopted{before})
	d.step(Begin{})
	d.mu.Lock()
	up := d.core.active != datapath.None
	d.started = true
	d.mu.Unlock()
	if err := d.path.SetCarrier(up); err != nil {
		return fmt.Errorf("show carrier on %s: %w", d.cfg.Name, err)
	}
	if err := d.keepToken(); err != nil {
		return err
	}
	d.goRun(d.maintain)
	if d.links, err = monitor.WatchLinks(d.ctx, d.env.Log, monitor.Events{Link: d.linkSeen, Addr: d.addrSeen}); err != nil {
		return fmt.Errorf("follow the links of %s: %w", d.cfg.Name, err)
	}
	d.announce.Refresh()
	return nil
}

// awaitPredecessor waits for a process that is dying: two must not drive one face. It
// has nothing under way that could hold it long.
func (d *driver) awaitPredecessor(ctx context.Context) {
	if d.env.Predecessor < 0 {
		return
	}
	fds := []unix.PollFd{{Fd: int32(d.env.Predecessor), Events: unix.POLLIN}}
	deadline := time.Now().Add(predecessorMax)
	for ctx.Err() == nil {
		left := time.Until(deadline)
		if left <= 0 {
			d.env.Log.Warn("the process before this one is not gone yet: going on beside it")
			return
		}
		if n, err := unix.Poll(fds, int(left.Milliseconds())+1); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// keepToken stores a descriptor with the keeper, so that a successor is told to adopt.
// The face itself is the kernel's: what matters is that the token is there.
func (d *driver) keepToken() error {
	if len(d.env.Inherited[tokenName]) > 0 {
		return nil
	}
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	d.token = f
	if err := d.env.Store(tokenName, int(f.Fd())); err != nil {
		return fmt.Errorf("store the network namespace of %s with the keeper: %w", d.cfg.Name, err)
	}
	return nil
}

const tokenName = "netns"

// goRun runs a goroutine that ends with the driver.
func (d *driver) goRun(f func()) {
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		f()
	}()
}

// Events are the driver's reports.
func (d *driver) Events() <-chan drivers.Event { return d.events }

// Alive says whether the thread that looks at the carriers still turns.
func (d *driver) Alive() error {
	d.mu.Lock()
	poller, started := d.poller, d.started
	d.mu.Unlock()
	if !started || poller == nil {
		return nil
	}
	return poller.Alive()
}

// Stop ends the driver. Handing over leaves everything in the kernel as it is.
func (d *driver) Stop(_ context.Context, mode drivers.StopMode) error {
	d.changeMu.Lock()
	if d.isStopped() {
		d.changeMu.Unlock()
		return nil
	}
	if mode == drivers.Remove {
		if users := d.users(); users != "" {
			d.changeMu.Unlock()
			return drivers.Refuse(drivers.RuleBusy, "%s is in use: %s", d.cfg.Name, users)
		}
	}
	d.mu.Lock()
	d.stopped = true
	if d.timer != nil {
		d.timer.Stop()
	}
	d.mu.Unlock()
	d.changeMu.Unlock()
	d.cancel()
	d.poller.Close()
	d.links.Close()
	d.wg.Wait()
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	for s := range d.ports {
		d.unwatch(drivers.Side(s))
	}
	d.announce.Close()
	if mode == drivers.HandOver {
		return d.path.Close()
	}
	return d.remove()
}

func (d *driver) isStopped() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stopped
}

// remove takes the face down and puts the NICs back as they were.
func (d *driver) remove() error {
	d.unpark()
	errs := []error{d.path.Remove()}
	for s := range d.cfg.Sides {
		errs = append(errs, d.book.Restore(drivers.Side(s)))
	}
	if err := errors.Join(errs...); err != nil {
		d.env.Log.Error("not everything was put back", "err", err)
	}
	_ = os.Remove(d.bookPath())
	_ = os.Remove(d.addressesPath())
	_ = os.Remove(d.stateDir()) // only when it is empty
	d.env.Unstore(tokenName)
	if d.token != nil {
		d.token.Close()
	}
	return nil
}

func (d *driver) bookPath() string { return filepath.Join(d.stateDir(), d.cfg.Name+".nics.json") }
func (d *driver) addressesPath() string {
	return filepath.Join(d.stateDir(), d.cfg.Name+".addresses.json")
}

// users are the interfaces that stand on the face: they would go with it.
func (d *driver) users() string {
	children, err := nic.Children(d.path.Face())
	if err != nil || len(children) == 0 {
		return ""
	}
	text := ""
	for i, l := range children {
		if i > 0 {
			text += ", "
		}
		text += l.Name
	}
	return text + " stands on it: remove it first (ip link del), or force"
}

// configureAddresses puts the configured addresses on the face, and takes off those
// that were configured before. Others are somebody else's.
func (d *driver) configureAddresses() error {
	var before []netip.Prefix
	if b, err := os.ReadFile(d.addressesPath()); err == nil {
		if err := json.Unmarshal(b, &before); err != nil {
			d.env.Log.Warn("the list of earlier addresses makes no sense: none is taken off", "file", d.addressesPath(), "err", err)
			before = nil
		}
	}
	if err := nic.EnsureAddresses(d.path.Face(), d.opt.Addresses, before); err != nil {
		return fmt.Errorf("addresses of %s: %w", d.cfg.Name, err)
	}
	b, err := json.Marshal(d.opt.Addresses)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", d.cfg.Name, err)
	}
	if err := os.WriteFile(d.addressesPath(), b, 0o644); err != nil {
		return fmt.Errorf("addresses of %s: %w", d.cfg.Name, err)
	}
	return nil
}
