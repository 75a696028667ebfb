// Package chipset is the driver of machines: a riscv64 computer as a device of the box,
// whose disk is the face of a mirror and whose NIC hangs on the face of a bond.
//
//	ftd ── control socket ── driver ── crossbar.Crossbar ── processes with module.Machine
//	ftctl console ── ftd ── console socket ─┤       │ requests    ▲ inputs
//	                                        └─ backend.Disk, Network, Console
//
// The machine is a pure function of its inputs (package module), and runs in processes of its
// own. The crossbar brings inputs, grants guest time, compares and lets out what is agreed. The
// back ends do the I/O beside it. The driver switches the machine on and off, follows what the
// guest asks for (reboot, power-off), and reports.
//
// Invariants:
//   - At most one machine of a driver exists at a time.
//   - A new machine starts only when no request of the one before it is under way: an
//     answer, or a write, of an earlier life never meets a later one.
//   - What a guest writes was handed to the disk when the guest was told so; a machine that
//     is switched off loses what it had not flushed, as any computer does.
//
// It starts on one CPU module and serves. The other is attached then, and joins it in lockstep
// (packages lockstep and crossbar): from there on either may fail.
package chipset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/backend"
	"ft/chipset/crossbar"
	"ft/chipset/engine"
	"ft/chipset/lockstep"
	"ft/drivers"
)

// Kind is the name under which the driver is registered.
const Kind = "machine"

// A macvtap, its node, and sysfs of its network namespace; disks and kernels that belong to
// others; memory that stays and a place before the end of it.
func init() {
	drivers.Register(Kind, New, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_MKNOD, unix.CAP_DAC_OVERRIDE,
		unix.CAP_SYS_NICE, unix.CAP_IPC_LOCK, unix.CAP_SYS_RESOURCE)
}

// Limits.
const (
	eventsMax = 1024             // events that nobody has read yet
	drainMax  = 15 * time.Second // for requests under way when a machine is switched off, and then for a flush
	aliveMax  = 5 * time.Second  // the loop turns once a second at least
)

// power is what a machine is in.
type power string

// States of a machine.
const (
	powerStopped  power = "stopped"     // switched off by a person
	powerStarting power = "starting"    // being built
	powerRunning  power = "running"     //
	powerPanicked power = "panicked"    // its kernel has said that it cannot go on; it may reboot by itself
	powerOff      power = "powered-off" // switched itself off
	powerFailed   power = "failed"      // could not be started, or cannot go on
)

// serving says whether the machine is to be taken for in service.
func (p power) serving() bool { return p == powerRunning || p == powerPanicked }

type driver struct {
	cfg   drivers.Config
	env   drivers.Env
	opt   Options
	inbox *inbox

	// changeMu is held while the machine is switched on or off, one at a time. It guards
	// life, and changes of devices.
	changeMu sync.Mutex
	life     *life

	engines [2]engine.Kind // of the places; changed with no machine on, or by its goroutine

	writing sync.WaitGroup // dumps
	journal *crossbar.Journal
	slots   *crossbar.Slots // what drills have put into the places of CPU modules

	mu       sync.Mutex // guards the fields below
	devices  devices
	power    power
	reason   string
	since    time.Time
	sides    [2]side
	boot     *boot // of the machine that is on
	dumps    [2]*dumping
	copyRate int64     // bytes a second, to a CPU module that comes in; 0: no limit
	dumpTo   [2]string // where the next one goes that was asked for
	boots    uint64    // machines so far
	stopped  bool
	seq      uint64
	events   chan drivers.Event
	dropped  uint64
}

// devices are the back ends; nil what there is not. The machine's world uses them without a
// lock: they change only while there is no machine.
type devices struct {
	disk    *backend.Disk
	nic     *backend.Network
	console *backend.Console
}

// New makes the driver of one machine.
func New(cfg drivers.Config, env drivers.Env) (drivers.Driver, error) {
	d := &driver{cfg: cfg, env: env, inbox: newInbox(), power: powerStopped, reason: "not started yet",
		since: time.Now(), events: make(chan drivers.Event, eventsMax), slots: &crossbar.Slots{}, copyRate: copyRates["normal"]}
	for s := range d.sides {
		d.sides[s] = side{state: drivers.Offline, since: d.since}
		if cfg.Sides[s].Resource.Path == "" {
			d.sides[s].state = drivers.Empty
		}
	}
	if err := json.Unmarshal(cfg.Options, &d.opt); err != nil {
		return nil, fmt.Errorf("options of %s: %w", cfg.Name, err)
	}
	d.opt = d.opt.withDefaults()
	if err := d.opt.check(); err != nil {
		return nil, fmt.Errorf("options of %s: %w", cfg.Name, err)
	}
	return d, nil
}

// Start opens the console and switches the machine on, unless a person has switched it off, or
// takes over the CPU modules of a process that has died.
func (d *driver) Start(ctx context.Context, mode drivers.StartMode) error {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	if err := d.openConsole(); err != nil {
		return fmt.Errorf("console of %s: %w", d.cfg.Name, err)
	}
	first := drivers.Side(0)
	if !d.mayStart(first) {
		first = 1
	}
	on := d.mayStart(first)
	switch {
	case !on:
		crossbar.End(d.inheritedModules())
	case mode == drivers.Adopt:
		err := d.adopt(ctx)
		if err == nil {
			return nil
		}
		d.note("the process that ran it has died, and the guest starts anew: " + err.Error())
	}
	if err := d.newJournal(); err != nil { // also of one that is off: it may be started
		return err
	}
	if !on {
		d.become(powerStopped, "it is to stay off until it is started")
		return nil
	}
	_ = d.startOn(first) // its failure is a state, and no reason for the driver to end
	return nil
}

// mayStart says whether the machine may be started on a side when the driver starts.
func (d *driver) mayStart(s drivers.Side) bool {
	return d.sides[s].state != drivers.Empty && !d.cfg.Sides[s].Out
}

// Attach brings a CPU module in beside the one that runs the machine, or starts a machine on
// it that is off.
func (d *driver) Attach(_ context.Context, s drivers.Side, _ drivers.Resource) error {
	if !s.Valid() || d.sides[s].state == drivers.Empty {
		return drivers.Refuse(drivers.RuleUnfit, "%s has no %s: it is not configured", d.cfg.Name, lockstep.Side(s))
	}
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	if d.isStopped() {
		return drivers.Refuse(drivers.RuleState, "%s is being stopped", d.cfg.Name)
	}
	d.mu.Lock()
	state, other, p := d.sides[s].state, d.sides[s.Other()].state, d.power
	d.mu.Unlock()
	switch {
	case state.InService(), state == drivers.Syncing, state == drivers.Diagnostics:
		return drivers.Refuse(drivers.RuleState, "%s is %s already", d.sideName(s), state)
	case p.serving() && other.InService():
		return d.join(s)
	}
	return d.startOn(s)
}

// Detach takes a CPU module out. With the last one the machine goes off.
func (d *driver) Detach(_ context.Context, s drivers.Side, why drivers.Reason) (drivers.Drain, error) {
	drained := make(chan struct{})
	close(drained)
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	d.mu.Lock()
	state, other, b := d.sides[s].state, d.sides[s.Other()].state, d.boot
	d.mu.Unlock()
	switch {
	case b != nil && (state == drivers.Duplex || state == drivers.Syncing || state == drivers.Diagnostics):
		if err := b.x.Leave(lockstep.Side(s), why.Text); err != nil && !errors.Is(err, crossbar.ErrOver) {
			return nil, err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.change(func() {
			d.setSide(s, drivers.Offline, why.Text)
			if d.sides[s.Other()].state == drivers.Duplex {
				d.setSide(s.Other(), drivers.Simplex, "alone: "+lockstep.Side(s).String()+" was taken out")
			}
		})
		return drained, nil
	case state == drivers.Dumping:
		return nil, drivers.Refuse(drivers.RuleBusy, "%s is being written out: wait until that is done (ftctl wait %s --for offline)", d.sideName(s), d.sideName(s))
	case !state.InService():
		d.mu.Lock()
		defer d.mu.Unlock()
		if state != drivers.Empty {
			d.setSide(s, drivers.Offline, why.Text)
		}
		return drained, nil
	case d.now().serving() && why.AcceptRisk != drivers.RiskLastSide:
		way := "bring " + d.sideName(s.Other()) + " up first"
		if other == drivers.Empty {
			way = "switch it off first"
		}
		return nil, drivers.Refuse(drivers.RuleLastSide, "%s is the only good side of %s: taking it out stops the guest; %s, or say --accept-risk=last-side", d.sideName(s), d.cfg.Name, way)
	}
	if err := d.stopLocked(why.Text); err != nil {
		return nil, err
	}
	return drained, nil
}

// Switch has nothing to switch: both CPU modules of a machine do the same.
func (d *driver) Switch(context.Context) error {
	return drivers.Refuse(drivers.RuleState, "%s is a machine: none of its CPU modules stands by", d.cfg.Name)
}

// Command is `ftctl machine start|stop|reset`, `ftctl dump` and `ftctl priority`.
func (d *driver) Command(_ context.Context, name string, args map[string]string) (any, error) {
	if name == "priority" {
		return d.priorityCommand(args)
	}
	if name == "dump" {
		return d.dumpCommand(args)
	}
	if name != "machine" {
		return nil, drivers.Refuse(drivers.RuleState, "%s is a machine and knows no %q", d.cfg.Name, name)
	}
	var err error
	switch args["action"] {
	case "start":
		err = d.start()
	case "stop":
		err = d.stop("switched off by `ftctl machine stop`")
	case "reset":
		err = d.restart()
	default:
		err = drivers.Refuse(drivers.RuleState, "a machine can be started, stopped and reset: %q is none of these", args["action"])
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"name": d.cfg.Name, "state": d.now()}, nil
}

func (d *driver) start() error {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	if d.isStopped() {
		return drivers.Refuse(drivers.RuleState, "%s is being stopped", d.cfg.Name)
	}
	if p := d.now(); p.serving() {
		return drivers.Refuse(drivers.RuleState, "%s is %s: `ftctl machine reset %s` starts it anew", d.cfg.Name, p, d.cfg.Name)
	}
	first := drivers.Side(0)
	if d.sides[first].state == drivers.Empty {
		first = 1
	}
	return d.startOn(first)
}

// startOn starts the machine on one CPU module; where that cannot be done it has failed.
func (d *driver) startOn(s drivers.Side) error {
	d.become(powerStarting, "reading "+d.opt.Kernel)
	return d.orFailed(d.switchOn(s))
}

// orFailed is the machine's failure, if there is one.
func (d *driver) orFailed(err error) error {
	if err != nil {
		d.become(powerFailed, err.Error())
	}
	return err
}

func (d *driver) stop(why string) error {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	return d.stopLocked(why)
}

func (d *driver) stopLocked(why string) error {
	if p := d.now(); !p.serving() && d.life == nil {
		d.become(powerStopped, why)
		return nil
	}
	if err := d.switchOff(); err != nil {
		return err
	}
	d.become(powerStopped, why)
	return nil
}

// restart is a reset: the machine is on before and after it, and in between for all who look.
func (d *driver) restart() error {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	if !d.now().serving() {
		return drivers.Refuse(drivers.RuleState, "%s is %s: `ftctl machine start %s` starts it", d.cfg.Name, d.now(), d.cfg.Name)
	}
	d.mu.Lock()
	first := drivers.Side(0)
	if b := d.boot; b != nil {
		first = b.side
	}
	d.mu.Unlock()
	first = d.bootSide(first)
	if err := d.switchOff(); err != nil {
		return err
	}
	d.note("reset by a person")
	d.othersWait(first, "the guest was reset: it is brought in again")
	return d.orFailed(d.switchOn(first))
}

// Stop ends the driver. Handed over, the CPU modules wait for the successor.
func (d *driver) Stop(_ context.Context, mode drivers.StopMode) error {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	d.mu.Lock()
	d.stopped = true
	d.mu.Unlock()
	if d.life != nil {
		d.life.handOver.Store(mode == drivers.HandOver)
	}
	if err := d.switchOff(); err != nil && mode != drivers.RemoveForce {
		d.mu.Lock()
		d.stopped = false
		d.mu.Unlock()
		return err
	}
	d.mu.Lock()
	for _, job := range d.dumps {
		if job != nil {
			job.cancel()
		}
	}
	d.mu.Unlock()
	d.writing.Wait()
	d.closeDevices()
	if c := d.devices.console; c != nil {
		if err := c.Close(); err != nil {
			d.env.Log.Warn("the console's log", "err", err)
		}
	}
	return nil
}

func (d *driver) isStopped() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stopped
}

// Alive says whether the chipset's loop still turns.
func (d *driver) Alive() error {
	d.mu.Lock()
	b := d.boot
	d.mu.Unlock()
	if b == nil {
		return nil
	}
	if seen := b.x.Seen(); time.Since(seen) > aliveMax {
		return errors.New("the machine has not been run for " + time.Since(seen).Round(time.Millisecond).String())
	}
	return nil
}
