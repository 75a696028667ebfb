package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ft/drivers"
	"ft/mirror/frontend/fuseloop"
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// Kind is the name under which the driver is registered.
const Kind = "mirror"

func init() { drivers.Register(Kind, New) }

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
	faults  [2]*legio.Faults
	memory  memory
	loops   []*loop

	background sync.WaitGroup // witness writes, closing legs, the guard
	ending     chan struct{}  // closed by Stop
	stopping   atomic.Bool

	// changeMu is held by what opens, attaches or detaches legs, one at a time.
	changeMu sync.Mutex
	// faceMu guards face.
	faceMu sync.Mutex
	face   *fuseloop.Face

	mu          sync.Mutex // guards the fields below, and every call into the engine
	engine      *Engine
	world       world
	legs        [2]*legio.Leg
	legGone     [2]chan struct{} // closed when the kernel has let the leg go
	out         [2]bool          // taken down by an admin
	testing     [2]bool          // in diagnostics
	barred      [2]bool          // a dying predecessor still has I/O under way there
	refusals    [2]string        // why it is not in
	startWhy    string           // why the face is down
	facePresent bool
	events      chan drivers.Event
	seq         uint64
	dropped     uint64
	last        [2]string // last reported state of each side
}

// New makes the driver of one disk.
func New(cfg drivers.Config, env drivers.Env) (drivers.Driver, error) {
	d := &driver{cfg: cfg, env: env, began: time.Now(), ending: make(chan struct{}), events: make(chan drivers.Event, eventsMax)}
	if len(cfg.Options) > 0 {
		if err := json.Unmarshal(cfg.Options, &d.opt); err != nil {
			return nil, fmt.Errorf("options of %s: %w", cfg.Name, err)
		}
	}
	if f := d.opt.Frontend; f != "" && f != "auto" && f != "fuseloop" {
		return nil, fmt.Errorf("%s: there is no frontend %q (auto, fuseloop)", cfg.Name, f)
	}
	d.witness = metadata.NewWitnessStore(cfg.StateDir, cfg.Name)
	for i := range d.faults {
		d.faults[i] = legio.NewFaults()
		d.out[i] = cfg.Sides[i].Out
		d.last[i] = drivers.Removed.String()
	}
	d.world.d = d
	d.engine = NewEngine(cfg.Name, d.opt, &d.world)
	return d, nil
}

// Start opens the legs, serves from the best one and brings the face up. Adopting, it
// also takes back in what was in service, so that the takeover needs nobody else.
func (d *driver) Start(ctx context.Context, mode drivers.StartMode) error {
	n := max(loopsDefault, len(d.env.Inherited["fuse"]))
	var loops []*loop
	for i := range n {
		l, err := newLoop(d, i)
		if err != nil {
			return err
		}
		loops = append(loops, l)
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
	err := d.startLegs(mode, hung, held)
	d.setStartWhy(err)
	fresh := mode == drivers.Fresh
	if !fresh {
		err := d.adoptFace()
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

// startLegs inspects the legs and starts the engine on what it finds.
func (d *driver) startLegs(mode drivers.StartMode, hung [2]bool, shared bool) error {
	got := d.inspectAll([2]bool{!hung[0], !hung[1]}, shared)
	defer d.closeUntaken(&got)
	if err := d.startOn(&got, hung); err != nil {
		return err
	}
	if mode != drivers.Adopt {
		return nil
	}
	// The partner was in service when the predecessor died, if the records say so.
	for i := range got {
		g := got[i].leg
		d.mu.Lock()
		in := d.engine.in()
		d.mu.Unlock()
		if g == nil || g.Image == nil || in&(1<<i) != 0 || g.Image.Super.InService != 3 || g.Image.Super.Syncing {
			continue
		}
		f := got[i]
		got[i].open = nil
		if err := d.attachFound(drivers.Side(i), f, ""); err != nil {
			d.env.Log.Warn("a leg that was in service does not come back", "side", i, "err", err)
		}
		return nil
	}
	return nil
}

// closeUntaken closes the legs that were opened and are in nobody's hands.
func (d *driver) closeUntaken(got *[2]found) {
	for i := range got {
		if got[i].open != nil {
			got[i].open.Close()
		}
	}
}

// startOn starts the engine on what was found on the legs, and takes the leg that it
// serves from.
func (d *driver) startOn(got *[2]found, hung [2]bool) error {
	var legs [2]*Leg
	var missing error
	for i := range got {
		legs[i] = got[i].leg
		if got[i].err != nil {
			d.refuse(i, got[i].err)
			if missing == nil {
				missing = fmt.Errorf("%s: %w", sideID(i, d.cfg.Name), got[i].err)
			}
		}
	}
	d.mu.Lock()
	for i := range got {
		if got[i].open != nil || got[i].err != nil && !legio.Absent(got[i].err) {
			d.engine.Present(drivers.Side(i))
		}
	}
	d.mu.Unlock()
	w, err := d.loadWitness()
	if err == nil && missing != nil && noImages(legs) {
		err = drivers.Refuse(RuleAbsent, "%v. A new mirror is made when both of its legs are there", missing)
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.world.now = d.clock()
	if alone := hungPartner(legs, hung); alone >= 0 {
		err = d.engine.StartAlone(drivers.Side(alone), legs[alone], w)
	} else {
		err = d.engine.Start(legs, w, d.out)
	}
	in := d.engine.in()
	for i := range got {
		if in&(1<<i) != 0 && got[i].open != nil {
			d.legs[i], got[i].open = got[i].open, nil
			d.legGone[i] = make(chan struct{})
		}
	}
	d.mu.Unlock()
	d.loops[0].kick()
	return err
}

// hungPartner is the side to serve from when the other one hangs, else -1.
func hungPartner(legs [2]*Leg, hung [2]bool) int {
	for i := range legs {
		if hung[1-i] && legs[i] != nil && legs[i].Image != nil && legs[i].Image.Super.InService == 3 {
			return i
		}
	}
	return -1
}

func noImages(legs [2]*Leg) bool {
	for _, g := range legs {
		if g != nil && g.Image != nil {
			return false
		}
	}
	return true
}

func (d *driver) loadWitness() (*metadata.Witness, error) {
	w, err := d.witness.Load()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, drivers.Refuse(drivers.RuleStale, "%v", err)
	}
	return w, nil
}

func (d *driver) refuse(side int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refusals[side] = ""
	if err != nil {
		d.refusals[side] = err.Error()
	}
}

// releaseIdleLegs closes legs that are out and have no I/O under way. Under the lock.
func (d *driver) releaseIdleLegs() {
	for i, open := range d.legs {
		if open == nil || d.engine.legs[i].state > legShot || d.engine.legs[i].inflight > 0 || d.testing[i] {
			continue
		}
		d.legs[i] = nil
		gone := d.legGone[i]
		d.background.Add(1)
		go func() {
			defer d.background.Done()
			open.Close()
			<-open.Closed()
			close(gone)
		}()
	}
}

// guard looks from time to time whether the devices are still there.
func (d *driver) guard() {
	defer d.background.Done()
	t := time.NewTicker(guardEvery)
	defer t.Stop()
	for {
		select {
		case <-d.ending:
			return
		case <-t.C:
		}
		d.mu.Lock()
		legs := d.legs
		d.mu.Unlock()
		for i, open := range legs {
			if open != nil && open.Gone() {
				d.gone(i, open, "the device "+open.Device+" has vanished")
			}
		}
		s := d.Status()
		d.env.Text(fmt.Sprintf("%s %s: %s, %s", d.cfg.Name, s.State, s.Sides[0].State, s.Sides[1].State))
	}
}

// gone takes a vanished leg out, unless it was replaced meanwhile.
func (d *driver) gone(side int, open *legio.Leg, why string) {
	d.do(func(e *Engine) {
		if d.legs[side] == open {
			e.Gone(drivers.Side(side), why)
		}
	})
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

// beforeAttach makes sure that nothing of the leg's former service is left.
func (d *driver) beforeAttach(ctx context.Context, s drivers.Side) (done bool, err error) {
	id := sideID(int(s), d.cfg.Name)
	d.mu.Lock()
	l := &d.engine.legs[s]
	attached, inflight, barred, open, gone := l.state > legShot, l.inflight, d.barred[s], d.legs[s], d.legGone[s]
	d.mu.Unlock()
	switch {
	case attached:
		return true, nil
	case inflight > 0:
		return false, drivers.Refuse(drivers.RuleBusy, "%s: %d I/Os from before it was cut off have not ended yet: the device still hangs", id, inflight)
	case barred:
		return false, drivers.Refuse(drivers.RuleBusy, "%s: I/O of a process that was killed has not ended yet: the device still hangs", id)
	case open == nil && gone == nil:
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, closeWithin)
	defer cancel()
	select {
	case <-gone:
		return false, nil
	case <-ctx.Done():
		return false, drivers.Refuse(drivers.RuleBusy, "%s: the kernel has not let the device go yet", id)
	}
}

// attach opens and tests a leg and hands it to the engine. While no leg serves, the
// other one is looked at as well: together they may tell what each alone cannot.
func (d *driver) attach(s drivers.Side, acceptRisk string) error {
	d.mu.Lock()
	serving, out := d.engine.in() != 0, d.out
	d.mu.Unlock()
	look := [2]bool{!serving && !out[0], !serving && !out[1]}
	look[s] = true
	got := d.inspectAll(look, false)
	defer d.closeUntaken(&got)
	id := sideID(int(s), d.cfg.Name)
	if got[s].err != nil {
		return openRefusal(id, got[s].err)
	}
	if err := selfTest(got[s].open); err != nil {
		return drivers.Refuse(drivers.RuleUnfit, "%s failed its test: %v", id, err)
	}
	blank := noImages([2]*Leg{got[0].leg, got[1].leg})
	if !serving && (acceptRisk != drivers.RiskOverwrite || !blank) {
		if err := d.startOn(&got, [2]bool{}); err != nil {
			return err
		}
		if got[s].open == nil {
			return nil // it is the one that serves
		}
		// The face first: who waits for duplex wants to find it.
		if err := d.createFace(); err != nil {
			return fmt.Errorf("the face of %s does not come up: %w", d.cfg.Name, err)
		}
	}
	f := got[s]
	got[s].open = nil
	return d.attachFound(s, f, acceptRisk)
}

// attachFound hands an open leg to the engine, or closes it.
func (d *driver) attachFound(s drivers.Side, f found, acceptRisk string) error {
	d.mu.Lock()
	d.world.now = d.clock()
	d.legs[s] = f.open
	d.legGone[s] = make(chan struct{})
	err := d.engine.Attach(s, f.leg, acceptRisk)
	if err != nil {
		d.legs[s] = nil
		d.legGone[s] = nil
	}
	d.mu.Unlock()
	d.loops[0].kick()
	if err != nil {
		f.open.Close()
	}
	return err
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
	case reason != "":
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
	if err := d.faults[s].Inject(f); err != nil {
		return drivers.Refuse("fault", "%v", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emit(drivers.Event{Kind: drivers.EventNote, Side: s, Injected: true, Reason: "injected: " + f.Name})
	return nil
}

// Command runs what only a mirror has: resolve {"keep": SIDE} and gone {"side": SIDE}.
func (d *driver) Command(_ context.Context, name string, args map[string]string) (any, error) {
	switch name {
	case "resolve":
		s, err := sideArg(args["keep"])
		if err != nil {
			return nil, err
		}
		return nil, d.resolve(s)
	case "gone":
		s, err := sideArg(args["side"])
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		open := d.legs[s]
		d.mu.Unlock()
		if open != nil && open.Gone() {
			d.gone(int(s), open, "the device "+open.Device+" has vanished")
		}
		return nil, nil
	}
	return nil, drivers.Refuse(drivers.RuleState, "a mirror has no command %q (resolve, gone)", name)
}

func sideArg(a string) (drivers.Side, error) {
	n, err := strconv.Atoi(a)
	if s := drivers.Side(n); err == nil && s.Valid() {
		return s, nil
	}
	return 0, drivers.Refuse(drivers.RuleState, "%q is no side: 0 or 1", a)
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
	legs := d.legs
	d.legs = [2]*legio.Leg{}
	d.mu.Unlock()
	for _, open := range legs {
		if open != nil {
			open.Close()
		}
	}
	for _, l := range d.loops {
		l.end()
	}
	return nil
}

// abandonFace stops taking requests, waits a little for those under way, and leaves
// the face to a successor, to whom the rest is sent again.
func (d *driver) abandonFace(ctx context.Context) {
	d.faceMu.Lock()
	defer d.faceMu.Unlock()
	if d.face == nil {
		return
	}
	for _, l := range d.loops {
		l.hold.Store(true)
		l.kick()
	}
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
	d.face.Abandon()
	d.face = nil
}

// Status is the disk as it is.
func (d *driver) Status() drivers.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.world.now = d.clock()
	s := d.engine.Snapshot()
	now := time.Now()
	st := drivers.Status{Kind: Kind, Name: d.cfg.Name, State: s.Face, Reason: s.Reason, Since: now.Add(-s.Since), Pid: os.Getpid(), Seq: d.seq}
	if d.facePresent {
		st.Face = d.facePath()
	}
	switch {
	case st.State == drivers.FaceDown && d.startWhy != "":
		st.Reason = d.startWhy
	case s.Unrecorded != "":
		st.Reason = "writes are refused: " + s.Unrecorded
	}
	for i := range st.Sides {
		st.Sides[i] = d.sideStatus(i, s.Sides[i], now)
		if s.Unrecorded != "" && st.Sides[i].Active {
			st.Sides[i].Note = "writes are refused: " + s.Unrecorded
		}
	}
	st.Stats = d.stats(s)
	return st
}

func (d *driver) sideStatus(i int, x SideSnapshot, now time.Time) drivers.SideStatus {
	res := d.cfg.Sides[i].Resource
	side := drivers.SideStatus{State: x.State, Resource: drivers.Resource{Path: res.Path}, Reason: x.Reason, Since: now.Add(-x.Since),
		Draining: x.Draining || d.barred[i], Progress: x.Progress, Note: d.faults[i].Active()}
	if d.legs[i] != nil {
		side.Resource.Identity = d.legs[i].Identity()
	}
	switch {
	case res.Path == "":
		side.State = drivers.Empty
	case d.testing[i]:
		side.State = drivers.Diagnostics
	}
	if side.Reason == "" && !side.State.InService() && side.State != drivers.Syncing {
		side.Reason = d.refusals[i]
	}
	side.Active = x.State.InService()
	return side
}

func (d *driver) stats(s Snapshot) map[string]any {
	c := s.Counters
	m := map[string]any{
		"reads": c.Reads, "writes": c.Writes, "flushes": c.Flushes, "zeroes": c.Zeroes, "errors": c.Errors,
		"written_bytes": c.WrittenBytes, "resynced_bytes": c.ResyncedBytes, "healed": c.Healed,
		"stale_bytes": s.StaleBytes, "marked_extents": s.Marked, "extent_bytes": s.Extent, "active": s.Active,
		"generation": s.Generation.String(), "events_dropped": d.dropped,
	}
	if g, ok := d.engine.Geometry(); ok {
		m["size_bytes"], m["logical_block"], m["physical_block"] = g.Size, g.LogicalBlock, g.PhysicalBlock
		m["mirror"] = d.engine.id.Mirror.String()
	}
	for i := range s.Sides {
		l := s.Sides[i].Counters
		m[sideID(i, "")[:4]] = map[string]any{"reads": l.Reads, "writes": l.Writes, "read_errors": l.ReadErrors, "write_errors": l.WriteErrors}
	}
	if d.face != nil {
		m["device"] = d.face.Device()
		m["survives_crash"] = d.face.CanBeAdopted()
		m["frontend"] = "fuseloop"
	}
	m["run_dir"] = filepath.Clean(d.cfg.RunDir)
	return m
}

// emit numbers an event and sends it off. Under the lock. Nothing goes straight into
// service: a side that has nothing to be synced says so.
func (d *driver) emit(ev drivers.Event) {
	if ev.Kind == drivers.EventSide && ev.Side.Valid() {
		from := d.last[ev.Side]
		if from == ev.To && ev.Reason == "" {
			return
		}
		if ev.To == drivers.Duplex.String() && from != drivers.Syncing.String() && from != drivers.Simplex.String() && from != drivers.Duplex.String() {
			d.send(drivers.Event{Kind: drivers.EventSide, Side: ev.Side, From: from, To: drivers.Syncing.String(), Reason: "nothing was missed"})
			from = drivers.Syncing.String()
		}
		ev.From = from
		d.last[ev.Side] = ev.To
		if ev.Fault != "" {
			ev.Injected = ev.Injected || d.faults[ev.Side].Active() != ""
			if d.legs[ev.Side] != nil {
				ev.Identity = d.legs[ev.Side].Identity()
			}
		}
	}
	d.send(ev)
}

func (d *driver) send(ev drivers.Event) {
	d.seq++
	ev.Seq, ev.Time = d.seq, time.Now()
	select {
	case d.events <- ev:
	default:
		d.dropped++
	}
}
