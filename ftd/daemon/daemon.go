// Package daemon is the shell around the control core: it reads what happens (drivers,
// the keeper, the kernel's device events, admins), feeds it to the core one event at a
// time, and carries out what the core wants done.
//
// The way of data:
//
//	driver process ─events, snapshots─▶ link ─┐
//	keeper ────────deaths, give-ups──▶ keeperLink ─┤
//	kernel ────────uevents───────────▶ watch ─┼─▶ owner (control.Core) ─▶ recorder ─▶ disk
//	ftctl ─────────requests──────────▶ backend ┘        │                   └─▶ answers
//	                                                    └─▶ device queue ─▶ driver, keeper
//
// Invariants:
//   - The core belongs to one goroutine, which waits for nothing but its queue.
//   - Nothing is done, and nobody is answered, that rests on a state not yet on stable
//     storage (gate).
//   - Every action has a deadline, every queue a bound, every goroutine ends with Run.
//   - The daemon sits in no data path. When it ends, however, the faces stay up; the
//     next one finds the drivers and goes on from what they say.
//   - It ends no process that it does not know: a driver that is not configured any
//     more is reported and left alone.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/keeper"
	"ft/ftd/alarm"
	"ft/ftd/api"
	"ft/ftd/config"
	"ft/ftd/control"
	"ft/ftd/eventlog"
	"ft/ftd/statuspage"
)

// Options of a daemon.
type Options struct {
	ConfigFile string
	Socket     string // its directory is the run directory
	StateDir   string // what must survive the computer's restart
	DevDir     string // where the faces' links appear
	// StartKeeper: start a keeper when none answers. Off where systemd or the test box
	// does that.
	StartKeeper bool
	// Inherited are descriptors that this process was started with, by name: the socket,
	// where systemd listens on it (ftd.socket).
	Inherited map[string][]int
	Version   api.Version
	Log       *slog.Logger
}

// Daemon is a running ftd.
type Daemon struct {
	Options
	runDir string
	owner  *owner
	rec    *recorder
	events *eventlog.Log
	alarms *alarm.Alarms
	// booting: no driver ran when this ftd came.
	booting bool
	keeper  *keeper.Client
	power   *power
	began   time.Time // when this ftd did
	notify  *notifier
	kept    kept

	ctx context.Context // of everything that runs; ends with Run
	wg  sync.WaitGroup

	reloads chan chan reloaded // from who wants the configuration read again

	mu        sync.Mutex // guards what follows
	config    *config.Config
	devices   map[string]*device // by name
	watches   []*watch
	strangers map[string]keeper.Process // processes at the keeper that are not configured
	served    map[string]bool           // devices whose face has been up, ever
	requests  uint64                    // given out as names of requests
}

// Run is ftd from its start until ctx ends. reload carries a wish to read the
// configuration again (SIGHUP).
func Run(ctx context.Context, o Options, reload <-chan os.Signal) error {
	began := time.Now()
	d := &Daemon{Options: o, runDir: filepath.Dir(o.Socket), began: began, reloads: make(chan chan reloaded),
		devices: map[string]*device{}, strangers: map[string]keeper.Process{}, served: map[string]bool{}}
	for _, dir := range []string{d.runDir, filepath.Join(d.runDir, "drivers")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the run directory: %w", err)
		}
	}
	lock, err := api.LockRunDir(d.runDir)
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := d.prepare(ctx); err != nil {
		d.noteRefusal(err)
		return err
	}
	d.forgetRefusal()
	return d.serve(ctx, reload)
}

// prepare reads the configuration and holds it against the host.
func (d *Daemon) prepare(ctx context.Context) error {
	cfg, err := config.Load(d.ConfigFile)
	if err != nil {
		return &Misconfigured{err}
	}
	d.config = cfg
	if err := d.makeStateDir(); err != nil {
		return err
	}
	if err := d.placeLegs(cfg); err != nil {
		return err
	}
	if err := d.loadServed(); err != nil {
		return err
	}
	if err := d.checkHost(cfg); err != nil {
		return err
	}
	return d.checkRunning(ctx, cfg)
}

// makeStateDir makes the state directory, and sees to it that it does not lie on a face: the
// witness of a mirror must not be in the mirror.
func (d *Daemon) makeStateDir() error {
	if err := os.MkdirAll(d.StateDir, 0o750); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	var st, face unix.Stat_t
	if err := unix.Stat(d.StateDir, &st); err != nil {
		return fmt.Errorf("look at the state directory %s: %w", d.StateDir, err)
	}
	for _, disk := range d.config.Disks {
		link := filepath.Join(d.DevDir, disk.Name)
		if unix.Stat(link, &face) == nil && face.Rdev == st.Dev {
			return fmt.Errorf("the state directory %s lies on %s, one of the box's own faces, and says which leg of it may be trusted: put it on another disk (--state)", d.StateDir, link)
		}
	}
	return nil
}

// checkHost looks whether legs and NICs are there and fit. An absent one is a reason not
// to begin with a device, but none not to go on with it: then it has been pulled.
func (d *Daemon) checkHost(cfg *config.Config) error {
	host := config.ThisHost
	if !d.StartKeeper {
		// The drivers are not this process's children, and have rights that it has not.
		host.NetAdmin = func() error { return nil }
	}
	var fatal config.Problems
	absent := false
	for _, p := range config.Check(cfg, host) {
		switch {
		case p.Advice, p.Absent && d.hasServed(p.Device):
			d.Log.Warn("configuration", "problem", p.Error())
		default:
			fatal, absent = append(fatal, p), absent || p.Absent
		}
	}
	switch {
	case len(fatal) == 0:
		return nil
	case absent:
		return fatal // it may come yet, at the start of a computer
	}
	return &Misconfigured{fatal}
}

// hasServed says whether a device has been up before.
func (d *Daemon) hasServed(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.served[name]
}

// servedName lists the devices that have been up, in the state directory.
const servedName = "served.json"

func (d *Daemon) loadServed() error {
	path := filepath.Join(d.StateDir, servedName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read which devices have been up before: %w", err)
	}
	var names []string
	if err := json.Unmarshal(b, &names); err != nil {
		d.Log.Warn("which devices have been up before is forgotten", "file", path, "error", err)
		return nil
	}
	for _, n := range names {
		d.served[n] = true
	}
	return nil
}

// noteServed remembers that a device's face is up. Called with every snapshot.
func (d *Daemon) noteServed(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.served[name] {
		return
	}
	d.served[name] = true
	names := make([]string, 0, len(d.served))
	for n := range d.served {
		names = append(names, n)
	}
	if !d.rec.add(job{served: names}) {
		delete(d.served, name) // tried again with the next snapshot
	}
}

// serve runs everything, and ends it in order.
func (d *Daemon) serve(ctx context.Context, reload <-chan os.Signal) error {
	state, note, err := loadState(d.StateDir)
	if err != nil {
		return err
	}
	if note != "" {
		d.Log.Error("state", "note", note)
	}
	if d.events, err = eventlog.Open(d.StateDir, 0); err != nil {
		return err
	}
	for _, n := range d.events.Notes() {
		d.Log.Warn("event log", "note", n)
	}
	ln, err := api.Inherited(d.Inherited, d.Socket)
	if err == nil && ln == nil {
		ln, err = api.Listen(d.Socket)
	}
	if err != nil {
		return errors.Join(err, d.events.Close())
	}

	run, cancel := context.WithCancel(ctx)
	d.ctx, d.notify = run, newNotifier(d.Log)
	d.start(state)
	d.hear(heardPatience)
	server := api.NewServer(d, d.Version, d.Log)
	served := make(chan error, 1)
	go func() { served <- server.Serve(run, ln) }()
	if at := d.config.System.StatusPage; at != "" {
		d.goRun(func(ctx context.Context) { statuspage.Run(ctx, at, server.Public(), d.Log) })
	}
	d.notify.ready()
	d.Log.Info("ftd runs", "config", d.ConfigFile, "socket", d.Socket, "state", d.StateDir)

	for err == nil && run.Err() == nil {
		select {
		case <-reload:
			d.reload()
		case answer := <-d.reloads:
			answer <- d.reload()
		case err = <-served:
			cancel()
			served <- err
		case <-run.Done():
		}
	}
	cancel()
	d.notify.stopping()
	err = <-served
	d.wg.Wait()
	return errors.Join(err, d.events.Close())
}

// heardPatience is how long the first answer waits for drivers that run already: without
// them a box that nothing has happened to would be shown as down for a moment.
const heardPatience = 2 * time.Second

// hear waits, within limits, until all drivers have been heard, unless the box boots: then
// they take as long as they take.
func (d *Daemon) hear(patience time.Duration) {
	if d.booting {
		return
	}
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) && d.ctx.Err() == nil {
		var unheard []string
		if d.owner.look(func(c *control.Core) { unheard = c.Unheard() }) != nil || len(unheard) == 0 {
			return
		}
		time.Sleep(drainPoll)
	}
}

// start begins all goroutines and gives the core what it begins with.
func (d *Daemon) start(state control.Persistent) {
	core := control.New(control.Config{Name: d.config.System.Name, Bringup: d.config.System.Bringup,
		MTBF: control.MTBFSettings{Policy: d.config.MTBF.Policy, Threshold: d.config.MTBF.Threshold, MinFaults: d.config.MTBF.MinFaults}})
	var err error
	if d.power, err = loadPower(d.runDir, d.config.System.Drills); err != nil {
		d.Log.Warn("drills", "error", err)
	}
	d.rec = newRecorder(d.StateDir, d.events, d.Log)
	d.owner = newOwner(core, d.rec, d.Log)
	d.rec.post, d.owner.dispatch = d.owner.post, d.dispatch
	d.keeper = keeper.Dial(keeper.SocketPath(d.runDir))
	link := &keeperLink{runDir: d.runDir, client: d.keeper, start: d.StartKeeper, log: d.Log,
		device: d.device, post: d.owner.post, stranger: d.stranger, found: make(chan struct{})}

	d.goRun(d.owner.run)
	d.goRun(d.rec.run)
	d.goRun(link.run)
	d.goRun(func(ctx context.Context) { watchUevents(ctx, d.Log, d.lookAll) })

	// With the keeper there the drivers can be started at the first try.
	select {
	case <-link.found:
	case <-time.After(keeperPatience):
	case <-d.ctx.Done():
	}
	loaded := control.StateLoaded{State: state, LastSeq: d.events.LastSeq()}
	if d.booting = d.boots(d.ctx); d.booting {
		loaded.Booted = d.began
	}
	_ = d.owner.post(d.ctx, loaded)
	for _, module := range d.power.without() {
		d.Log.Warn("a drill has left a module without power", "module", module, "way out", "ftctl inject "+module+" power-on")
		_ = d.owner.post(d.ctx, control.ModulePower{Module: module, Reason: module + " has lost its power"})
	}
	for _, c := range allConfigured(d.config) {
		d.addDevice(d.config, c)
	}
	d.goRun(func(ctx context.Context) { d.notify.watchdog(ctx, d.owner) })
	d.alarms = &alarm.Alarms{Box: d.config.System.Name, StateDir: d.StateDir, Events: d.events, Log: d.Log}
	d.alarms.Set(d.config.Alarms.Settings)
	d.goRun(d.alarms.Run)
}

// goRun starts a goroutine that ends with Run.
func (d *Daemon) goRun(f func(context.Context)) {
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		f(d.ctx)
	}()
}

func (d *Daemon) device(name string) *device {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.devices[name]
}

func (d *Daemon) dispatch(a control.Action, g *gate) bool {
	dev := d.device(a.Device)
	return dev != nil && dev.enqueue(a, g)
}

// stranger reports a process that the keeper runs and the configuration does not know.
// It is left alone: its face may be in use.
func (d *Daemon) stranger(p keeper.Process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if named(allConfigured(d.config), p.Name) != nil {
		return // about to be made known
	}
	if _, known := d.strangers[p.Name]; !known && p.State != keeper.Stopped {
		d.Log.Warn("a driver process runs for a device that is not configured any more; it is left alone, its face stays up",
			"device", p.Name, "pid", p.Pid, "way out", "put it back into the configuration and reload, or end its use and stop the keeper")
	}
	d.strangers[p.Name] = p
}

func (d *Daemon) lookAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.watches {
		w.lookNow()
	}
}
