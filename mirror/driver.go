package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/mirror/frontend/ublk"
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// Kind is the name under which the driver is registered.
const Kind = "mirror"

// FUSE mounts and loop devices; memory that stays and a place before the end of it; a loop
// device's node; legs that belong to others; and to see whose process has the face open.
func init() {
	drivers.Register(Kind, New, unix.CAP_SYS_ADMIN, unix.CAP_IPC_LOCK, unix.CAP_SYS_RESOURCE, unix.CAP_MKNOD,
		unix.CAP_DAC_OVERRIDE, unix.CAP_SYS_PTRACE)
}

const (
	loopsDefault = 1                      // a second one costs more in wake-ups than it brings, measured on two cores
	eventsMax    = 4096                   // events that nobody has read yet
	guardEvery   = 250 * time.Millisecond // looking whether the legs' devices are still there
	syncWithin   = 15 * time.Second       // the flush before a planned detach
	stopWithin   = 60 * time.Second       // the clean end of the engine
	closeWithin  = 2 * time.Second        // for the kernel to let a leg go
)

// driver is the shell around one Engine: it opens the legs, runs the event loops,
// brings the face up, and speaks drivers.Driver.
type driver struct {
	cfg     drivers.Config
	env     drivers.Env
	opt     Options
	began   time.Time
	witness *metadata.WitnessStore
	scrubs  scrubKeeper
	newLeg  newLeg
	faults  [2]*legio.Faults
	fences  [2]*legio.Fence // of legs that are NBD servers'
	// handedOver: the process before left nothing under way.
	handedOver bool
	memory     memory
	loops      []*loop

	background sync.WaitGroup // witness writes, closing legs, the guard
	ending     chan struct{}  // closed by Stop
	stopping   atomic.Bool

	// changeMu is held by what opens, attaches or detaches legs, one at a time.
	changeMu sync.Mutex
	// faceMu guards the fields below.
	faceMu   sync.Mutex
	face     blockFace
	faceKept string // the kind of face that the disk has had so far, "" before there was one
	faceWhy  string // how that came
	// faceAwaited: the kernel does not give over the face that was left yet. See awaitFace.
	faceAwaited bool
	export      export

	mu       sync.Mutex // guards the fields below, and every call into the engine
	engine   *Engine
	world    world
	legs     [2]*legio.Leg
	legGone  [2]chan struct{} // closed when the kernel has let the leg go
	out      [2]bool          // taken down by an admin
	testing  [2]bool          // in diagnostics
	barred   [2]bool          // a dying predecessor still has I/O under way there
	refusals [2]string        // why it is not in
	startWhy string           // why the face is down
	heldWhy  string           // why the face that was left is awaited
	shown    *shownFace       // the face that is up
	events   chan drivers.Event
	seq      uint64
	dropped  uint64
	last     [2]string // last reported state of each side
}

// New makes the driver of one disk.
func New(cfg drivers.Config, env drivers.Env) (drivers.Driver, error) {
	d := &driver{cfg: cfg, env: env, began: time.Now(), ending: make(chan struct{}), events: make(chan drivers.Event, eventsMax)}
	if len(cfg.Options) > 0 {
		if err := json.Unmarshal(cfg.Options, &d.opt); err != nil {
			return nil, fmt.Errorf("options of %s: %w", cfg.Name, err)
		}
	}
	if f := d.opt.Frontend; !knownFrontend(f) {
		return nil, fmt.Errorf("%s: there is no frontend %q (auto, fuseloop, ublk, nbd)", cfg.Name, f)
	}
	if err := d.loadLegs(); err != nil {
		return nil, err
	}
	d.witness = metadata.NewWitnessStore(cfg.StateDir, cfg.Name)
	for i := range d.faults {
		d.faults[i] = legio.NewFaults()
		d.fences[i] = legio.NewFence(d.opt.remoteQuiet())
		d.out[i] = cfg.Sides[i].Out
		d.last[i] = drivers.Removed.String()
	}
	d.scrubs.path = filepath.Join(cfg.StateDir, cfg.Name+scrubSuffix)
	d.world.d = d
	d.engine = NewEngine(cfg.Name, d.opt, &d.world)
	return d, nil
}

// Start opens the legs, serves from the best one and brings the face up. Adopting, it
// also takes back in what was in service, so that the takeover needs nobody else.
func (d *driver) Start(ctx context.Context, mode drivers.StartMode) error {
	d.handedOver = os.Remove(d.quietPath()) == nil
	if mode == drivers.Fresh && d.faceLeft() {
		mode = drivers.Adopt
	}
	n := max(loopsDefault, len(d.env.Inherited["fuse"]))
	var loops []*loop
	for i := range n {
		l, err := newLoop(d, i)
		if err != nil {
			return err
		}
		loops = append(loops, l)
	}
	if d.opt.NBD != "" {
		l, err := newLoop(d, n)
		if err != nil {
			return err
		}
		loops, d.export.loop = append(loops, l), l
	}
	// Each loop may hold a processor of the runtime's for a while: the rest needs some too.
	if need := len(loops) + 2; runtime.GOMAXPROCS(0) < need {
		runtime.GOMAXPROCS(need)
	}
	d.mu.Lock() // Alive looks at them already
	d.loops = loops
	d.mu.Unlock()
	for _, l := range loops {
		go l.run()
	}
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	var hung [2]bool
	var held bool
	if mode == drivers.Adopt || d.env.Predecessor >= 0 {
		hung, held = d.fence(ctx)
	}
	d.restoreScrub()
	err := d.startLegs(mode, hung, held)
	if err != nil && d.awaitRemote(ctx, &hung) {
		err = d.startLegs(mode, hung, held)
	}
	d.setStartWhy(err)
	d.resumeReplace(true)
	fresh := mode == drivers.Fresh
	if !fresh {
		err := d.adoptFace()
		if errors.Is(err, ublk.ErrHeld) {
			d.awaitFace(err)
			err = nil
		}
		if fresh = errors.Is(err, errDiscarded); err != nil && !fresh {
			return fmt.Errorf("take over the face of %s: %w", d.cfg.Name, err)
		}
	}
	if fresh && err == nil {
		if err := d.createFace(); err != nil {
			return fmt.Errorf("bring up the face of %s: %w", d.cfg.Name, err)
		}
	}
	if hung[0] || hung[1] {
		d.background.Add(1)
		go d.unbar(hung)
	}
	d.background.Add(1)
	go d.guard()
	return nil
}

// setStartWhy keeps why no leg serves, for Status.
func (d *driver) setStartWhy(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.startWhy = ""
	if err != nil {
		d.startWhy = err.Error()
		d.env.Log.Warn("the disk is down", "why", err)
	}
}

// Attach takes a leg in: the device is opened and tested, then resynced.
func (d *driver) Attach(ctx context.Context, s drivers.Side, res drivers.Resource) error {
	if !s.Valid() {
		return drivers.Refuse(drivers.RuleState, "%s has the sides 0 and 1", d.cfg.Name)
	}
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	id := sideID(int(s), d.cfg.Name)
	if res.Path == "" {
		res.Path = d.cfg.Sides[s].Resource.Path
	}
	d.mu.Lock()
	res.Path = d.newLeg.legs.Sides[s].Of(res.Path) // whoever asks may not have heard that it was replaced
	d.mu.Unlock()
	if res.Path == "" {
		return drivers.Refuse(drivers.RuleState, "%s: no device is configured there", id)
	}
	if done, err := d.beforeAttach(ctx, s); done || err != nil {
		return err
	}
	d.mu.Lock()
	d.cfg.Sides[s].Resource.Path = res.Path
	d.out[s] = false
	d.mu.Unlock()
	d.setTesting(s, true, "")
	err := d.attach(s, res.AcceptRisk)
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	d.setTesting(s, false, reason)
	if err != nil {
		return err
	}
	d.setStartWhy(nil)
	if err := d.createFace(); err != nil {
		return fmt.Errorf("%s is in service, but its face does not come up: %w", id, err)
	}
	return nil
}

// setTesting reports that a side is in diagnostics, or why it did not get further.
func (d *driver) setTesting(s drivers.Side, testing bool, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.testing[s] = testing
	d.refusals[s] = reason
	switch {
	case testing:
		d.emit(drivers.Event{Kind: drivers.EventSide, Side: s, To: drivers.Diagnostics.String()})
	case reason != "" || d.last[s] == drivers.Diagnostics.String():
		d.emit(drivers.Event{Kind: drivers.EventSide, Side: s, To: d.engine.sideState(&d.engine.legs[s]).String(), Reason: reason})
	}
}

// Detach takes a leg out. Planned, so it is flushed first: what it lacks is then just
// what is written while it is away.
func (d *driver) Detach(ctx context.Context, s drivers.Side, why drivers.Reason) (drivers.Drain, error) {
	if !s.Valid() {
		return nil, drivers.Refuse(drivers.RuleState, "%s has the sides 0 and 1", d.cfg.Name)
	}
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	flushed := make(chan struct{})
	d.do(func(e *Engine) {
		if e.in() == 3 && e.legs[s].state == legIn {
			e.Sync(func(syscall.Errno) { close(flushed) })
		} else {
			close(flushed)
		}
	})
	ctx, cancel := context.WithTimeout(ctx, syncWithin)
	defer cancel()
	select {
	case <-flushed:
	case <-ctx.Done(): // then it lacks what it did not flush
	}
	var err error
	gone := make(chan struct{})
	close(gone)
	d.do(func(e *Engine) {
		if err = e.Detach(s, why); err == nil {
			d.out[s] = true
			d.refusals[s] = ""
			if d.legs[s] != nil || d.legGone[s] != nil {
				gone = d.legGone[s]
			}
		}
	})
	return gone, err
}

// Switch is for devices with one active side; a mirror uses both.
func (d *driver) Switch(context.Context) error {
	return drivers.Refuse(drivers.RuleState, "%s is a mirror: both sides are active at once, there is nothing to switch", d.cfg.Name)
}

// Inject puts a fault into a leg.
func (d *driver) Inject(_ context.Context, s drivers.Side, f drivers.Fault) error {
	if !d.cfg.Drills {
		return drivers.Refuse(drivers.RuleNoDrills, "faults are not allowed on this box: set drills = true under [system] to allow them")
	}
	if !s.Valid() {
		return drivers.Refuse(drivers.RuleState, "name a side: ftctl inject pci0/%s %s", d.cfg.Name, f.Name)
	}
	d.mu.Lock()
	faults := d.faults[s]
	d.mu.Unlock()
	if err := faults.Inject(f); err != nil {
		return drivers.Refuse("fault", "%v", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emit(drivers.Event{Kind: drivers.EventNote, Side: s, Injected: true, Reason: "injected: " + f.Name})
	return nil
}

// resolve serves from the side that the admin says is the one to keep.
func (d *driver) resolve(keep drivers.Side) error {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	d.mu.Lock()
	serving := d.engine.in() != 0
	d.mu.Unlock()
	if serving {
		return drivers.Refuse(drivers.RuleState, "%s is in service: nothing is to be resolved. To replace what is on a side: ftctl bringup SIDE --accept-risk=%s",
			d.cfg.Name, drivers.RiskOverwrite)
	}
	got := d.inspectAll([2]bool{true, true}, false)
	defer d.closeUntaken(&got)
	if got[keep].err != nil {
		return openRefusal(sideID(int(keep), d.cfg.Name), got[keep].err)
	}
	d.mu.Lock()
	d.world.now = d.clock()
	err := d.engine.Resolve(keep, [2]*Leg{got[0].leg, got[1].leg}, nil)
	if err == nil {
		d.legs[keep], got[keep].open = got[keep].open, nil
		d.legGone[keep] = make(chan struct{})
		d.out[keep] = false
		d.refusals[keep] = ""
	}
	d.mu.Unlock()
	d.loops[0].kick()
	if err != nil {
		return err
	}
	d.setStartWhy(nil)
	return d.createFace()
}

// Events are the driver's reports.
func (d *driver) Events() <-chan drivers.Event { return d.events }

// Alive says whether every event loop still turns.
func (d *driver) Alive() error {
	now := d.clock()
	d.mu.Lock()
	loops := d.loops
	d.mu.Unlock()
	for _, l := range loops {
		if b := l.beat.Load(); b != 0 && now-b > int64(loopStuck) {
			return fmt.Errorf("event loop %d of %s has not turned for %v", l.n, d.cfg.Name, time.Duration(now-b).Round(time.Millisecond))
		}
	}
	return nil
}

// Stop ends the driver.
func (d *driver) Stop(ctx context.Context, mode drivers.StopMode) error {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	if d.stopping.Load() {
		return nil
	}
	if mode != drivers.HandOver {
		if err := d.removeFace(mode == drivers.RemoveForce); err != nil {
			return err
		}
	} else {
		d.abandonFace(ctx)
	}
	d.stopping.Store(true)
	done := make(chan error, 1)
	d.do(func(e *Engine) { e.Stop(func(err error) { done <- err }) })
	select {
	case err := <-done:
		if err != nil {
			d.env.Log.Warn("stopped", "note", err)
		}
	case <-time.After(stopWithin):
		d.env.Log.Warn("a leg does not answer: stopped without recording that the disk was left clean")
	}
	close(d.ending)
	d.mu.Lock()
	kept := d.engine.ScrubState()
	d.mu.Unlock()
	if err := d.scrubs.save(kept); err != nil {
		d.env.Log.Warn("how far the scrub is cannot be kept", "err", err)
	}
	d.mu.Lock()
	legs := d.legs
	d.legs = [2]*legio.Leg{}
	spare := d.newLeg.open
	d.mu.Unlock()
	quiet := mode == drivers.HandOver
	if spare != nil {
		spare.Close()
		quiet = quiet && spare.Quiet()
	}
	for i, open := range legs {
		if open != nil {
			open.Close()
			quiet = quiet && open.Quiet()
		}
		quiet = quiet && d.fences[i].Open()
	}
	for _, l := range d.loops {
		l.end()
	}
	if quiet {
		if err := writeFile(d.quietPath(), nil); err != nil {
			d.env.Log.Warn("the successor is not told that nothing is under way", "err", err)
		}
	}
	return nil
}

// abandonFace stops taking requests, waits a little for those under way, and leaves
// the face to a successor, to whom the rest is sent again.
func (d *driver) abandonFace(ctx context.Context) {
	d.faceMu.Lock()
	defer d.faceMu.Unlock()
	d.faceAwaited = false // a successor will
	if d.face == nil {
		return
	}
	fuse := kindOf(d.face) == frontendFUSE
	if fuse {
		for _, l := range d.loops[:d.faceLoops()] {
			l.hold.Store(true)
			l.kick()
		}
	} else {
		d.face.Abandon() // for which it must be served
	}
	d.stopExport(true)
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for {
		d.mu.Lock()
		active := d.engine.active
		d.mu.Unlock()
		if active == 0 {
			break
		}
		select {
		case <-t.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	if fuse {
		d.face.Abandon()
	}
	d.face = nil
}
