package chipset

import (
	"crypto/rand"
	"errors"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/backplane"
	"ft/chipset/crossbar"
	"ft/chipset/firmware"
	"ft/chipset/inside"
	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/chipset/virtio"
	"ft/drivers"
)

// This file is a machine's life: from being switched on, over its guest's reboots, to being
// switched off. Each boot is a new crossbar with a fresh CPU module, which others may join.

// life is the goroutine of a machine that is switched on.
type life struct {
	quit chan struct{} // closed to end it
	done chan struct{} // closed when it has ended

	handOver atomic.Bool // the CPU modules are left running, for a successor
}

// switchOn starts the machine on one CPU module. Under changeMu, with none running.
func (d *driver) switchOn(s drivers.Side) error {
	if err := d.endLife(); err != nil {
		return err
	}
	if err := d.openDevices(); err != nil {
		return err
	}
	b, err := d.build(s)
	if err != nil {
		d.closeDevices()
		return err
	}
	l := &life{quit: make(chan struct{}), done: make(chan struct{})}
	d.life = l
	d.running(b, "running")
	go d.live(l, b)
	return nil
}

// switchOff ends the machine, if there is one, and waits for the requests that it has under
// way. Under changeMu.
func (d *driver) switchOff() error {
	if err := d.endLife(); err != nil {
		return err
	}
	d.closeDevices()
	return nil
}

// endLife ends the goroutine of a machine that was switched on, if there is one.
func (d *driver) endLife() error {
	l := d.life
	if l == nil {
		return nil
	}
	select {
	case <-l.quit:
	default:
		close(l.quit)
	}
	d.mu.Lock()
	if d.boot != nil {
		d.boot.x.Stop()
	}
	d.mu.Unlock()
	select {
	case <-l.done:
		d.life = nil
		return nil
	case <-time.After(2*drainMax + 2*time.Second):
		return drivers.Refuse(drivers.RuleBusy, "%s has I/O under way on %s that does not end; try again when the disk answers", d.cfg.Name, d.opt.Disk)
	}
}

// boot is the machine between a power-on or a reset and the next.
type boot struct {
	x    *crossbar.Crossbar
	w    *world
	side drivers.Side // that it began on

	patience *time.Timer // of a guest that has panicked; under the driver's mu
}

// running makes a boot the present one.
func (d *driver) running(b *boot, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.boot = b
	d.boots++
	b.x.SetCopyRate(d.copyRate)
	d.setSide(b.side, drivers.Simplex, why)
	d.becomeLocked(powerRunning, why)
}

// live runs boot after boot.
func (d *driver) live(l *life, b *boot) {
	defer close(l.done)
	defer d.closeDevices() // others may have them; whoever changes them waits for done first
	for {
		out := b.x.Run()
		d.mu.Lock()
		d.boot = nil // none to be watched: a record ends with the digest of all memory, which takes its time
		panicked := d.power == powerPanicked && out.Lost == ""
		if b.patience != nil {
			b.patience.Stop()
		}
		d.mu.Unlock()
		if err := b.w.closeRecord(b.x.Last(), b.x.Memory()); err != nil {
			d.note(err.Error())
		}
		quitting := false
		select {
		case <-l.quit:
			quitting = true
		default:
		}
		start := d.bootSide(b.side)
		if panicked && !quitting {
			d.setAside(b, start)
		}
		if quitting && l.handOver.Load() {
			b.x.HandOver()
		}
		b.x.Close()
		drained := d.drain()
		if quitting {
			return
		}
		why, again := "panic", true
		if !panicked || out.Reset != nil && out.Reset.Kind == firmware.Shutdown {
			why, again = d.after(out)
		}
		if !drained {
			d.become(powerFailed, "the disk does not answer: I/O of the guest before its "+why+" is still under way")
			return
		}
		if !again {
			return
		}
		if panicked {
			d.note("the guest starts anew behind its panic")
		} else {
			d.note("the guest asked for a " + why)
		}
		next, err := d.build(start)
		if err != nil {
			d.become(powerFailed, err.Error())
			return
		}
		b = next
		d.running(b, "running since its "+why)
		d.othersWait(b.side, "the guest has started anew: it is brought in again")
		select {
		case <-l.quit: // whoever closed it may not have seen this boot
			b.x.Stop()
		default:
		}
	}
}

// bootSide is the side to start on again: the same one, unless it is out of service.
func (d *driver) bootSide(s drivers.Side) drivers.Side {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.sides[s].state.InService() && d.sides[s.Other()].state.InService() {
		return s.Other()
	}
	return s
}

// after says what follows from the end of a run: why in words, and whether the machine is
// started again.
func (d *driver) after(out crossbar.Outcome) (why string, again bool) {
	switch {
	case out.Lost != "":
		d.become(powerFailed, out.Lost)
		return "failure", false
	case out.Reset == nil:
		return "end", false
	}
	why = out.Reset.Kind.String()
	if out.Reset.Reason != firmware.NoReason {
		why += " (" + out.Reset.Reason.String() + ")"
	}
	if out.Reset.Kind == firmware.Shutdown {
		d.become(powerOff, "the guest switched itself off: "+why)
		return why, false
	}
	return why, true
}

// drain waits until no request of a machine that has ended is under way, has the disk put
// what it holds on stable storage, and forgets what was on its way to the machine.
func (d *driver) drain() bool {
	d.mu.Lock()
	disk := d.devices.disk
	d.mu.Unlock()
	defer d.inbox.clear()
	if disk == nil {
		return true
	}
	if err := disk.Drain(drainMax); err != nil {
		return false
	}
	disk.Submit(&virtio.Request{Op: virtio.Flush}, func(c *virtio.Completion, release func()) {
		if c.Status != virtio.OK {
			d.note("the disk could not be flushed: " + disk.Stats().LastError)
		}
		release()
	})
	return disk.Drain(drainMax) == nil
}

// build starts a CPU module with a kernel in its memory, at its first step.
func (d *driver) build(s drivers.Side) (*boot, error) {
	var err error
	if d.engines, err = d.opt.Engine.Of(); err != nil {
		return nil, drivers.Refuse(drivers.RuleUnfit, "%v", err)
	}
	set := d.settings()
	set.Seed = make([]byte, 64)
	_, _ = rand.Read(set.Seed) // never fails
	w := newWorld(d)
	fill := func(ram []byte) ([]byte, []uint32, error) {
		m, pages, err := set.load(ram, listener{})
		if err != nil {
			return nil, nil, err
		}
		if d.opt.Record != "" {
			if w.record, err = newRecord(d.opt.Record, m, set); err != nil {
				return nil, nil, err
			}
		}
		return m.SaveState(nil), pages, nil
	}
	d.journal.Begin(w.clock.began, d.nextBoot())
	x, err := crossbar.New(d.crossbar(set, w), lockstep.Side(s), fill)
	if err != nil {
		if w.record != nil {
			w.record.file.Close()
		}
		return nil, err
	}
	return &boot{x: x, w: w, side: s}, nil
}

func (d *driver) nextBoot() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.boots + 1
}

// crossbar is how the chipset of a machine is made.
func (d *driver) crossbar(set settings, w *world) crossbar.Config {
	return crossbar.Config{
		Core: lockstep.Config{
			Quantum: quantum, QuantumMax: quantumMax, Window: window, PatrolEvery: patrolEvery,
			BlackoutMax: d.opt.BlackoutMax, Undecided: lockstep.Policy(d.opt.Undecided), Throttle: d.opt.Throttle,
		},
		Backplane: backplane.Config{Machine: set.inside(), MemoryBytes: set.MemoryBytes, CPU: -1, Log: os.Stderr},
		Pin:       pins(),
		Engines:   d.engines,
		Build:     inside.Machine(set.inside()),
		World:     w, Log: d.env.Log, Wake: d.inbox.wake, Slots: d.slots,
		Keeper: crossbar.Keeper{Journal: d.journal, Store: d.env.Store, Drop: d.env.Unstore},
	}
}

// pinnedFrom is how many cores there have to be for two modules to get one each: everything
// else needs some, too.
const pinnedFrom = 4

// pins are cores for the two modules, the last two that this process may use.
func pins() [2]int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil || set.Count() < pinnedFrom {
		return [2]int{-1, -1}
	}
	var last [2]int
	for i, n := 0, set.Count(); n > 0; i++ {
		if set.IsSet(i) {
			last[0], last[1] = last[1], i
			n--
		}
	}
	return last
}

// settings are what a machine is built from, apart from chance.
func (d *driver) settings() settings {
	set := settings{Kernel: d.opt.Kernel, Initrd: d.opt.Initrd, Cmdline: d.opt.Cmdline, MemoryBytes: d.opt.MemoryBytes, Compare: d.opt.Compare}
	d.mu.Lock()
	defer d.mu.Unlock()
	if disk := d.devices.disk; disk != nil {
		set.Disk = disk.Front(d.opt.DiskSerial)
	}
	if nic := d.devices.nic; nic != nil {
		set.NIC = nic.Front()
	}
	return set
}

// diskAnswered is called by the disk's workers.
func (d *driver) diskAnswered(c *virtio.Completion, release func()) {
	d.inbox.put(module.Input{Kind: module.InputCompletion, Slot: module.DiskSlot, ID: c.ID, Status: uint8(c.Status), Data: c.Data}, release)
}

// join brings a CPU module in beside the one that runs the machine.
func (d *driver) join(s drivers.Side) error {
	d.mu.Lock()
	b := d.boot
	d.mu.Unlock()
	if b == nil {
		return drivers.Refuse(drivers.RuleWaits, "%s is being started: %s comes in when it runs", d.cfg.Name, d.sideName(s))
	}
	err := b.x.Join(lockstep.Side(s))
	var failed *crossbar.Failed
	switch {
	case errors.As(err, &failed) && failed.Cause == "self-test":
		return drivers.Refuse(drivers.RuleUnfit, "%s: %s; replace it, or clear what a drill has put there: ftctl inject %s clear", d.sideName(s), failed.Text, d.sideName(s))
	case errors.Is(err, lockstep.ErrJoin):
		return drivers.Refuse(drivers.RuleState, "%v", err)
	}
	return err
}

func (d *driver) sideName(s drivers.Side) string { return lockstep.Side(s).String() + "/" + d.cfg.Name }
