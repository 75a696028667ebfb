package chipset

import (
	"crypto/rand"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/firmware"
	"ft/chipset/module"
	"ft/chipset/virtio"
	"ft/drivers"
)

// This file is a machine's life: from being switched on, over its guest's reboots, to being
// switched off. Each boot is a new module.Machine.

// life is the goroutine of a machine that is switched on.
type life struct {
	quit chan struct{} // closed to end it
	done chan struct{} // closed when it has ended
}

// switchOn builds a machine and lets it run. Under changeMu, with none running.
func (d *driver) switchOn() error {
	if err := d.endLife(); err != nil {
		return err
	}
	if err := d.openDevices(); err != nil {
		return err
	}
	g, err := d.build()
	if err != nil {
		d.closeDevices()
		return err
	}
	l := &life{quit: make(chan struct{}), done: make(chan struct{})}
	d.life = l
	d.running(g, "running")
	go d.live(l, g)
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
	if d.runner != nil {
		d.runner.stop()
	}
	d.mu.Unlock()
	select {
	case <-l.done:
		d.life = nil
		return nil
	case <-time.After(2*drainMax + time.Second):
		return drivers.Refuse(drivers.RuleBusy, "%s has I/O under way on %s that does not end; try again when the disk answers", d.cfg.Name, d.opt.Disk)
	}
}

// guest is a machine and its memory.
type guest struct {
	runner *runner
	ram    []byte
}

// running makes a machine the present one.
func (d *driver) running(g *guest, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.runner = g.runner
	d.boots++
	d.becomeLocked(powerRunning, why)
}

// live runs machine after machine.
func (d *driver) live(l *life, g *guest) {
	defer close(l.done)
	defer d.closeDevices() // others may have them; whoever changes them waits for done first
	for {
		out := g.runner.run()
		d.mu.Lock()
		d.runner = nil // none to be watched: a record ends with the digest of all memory, which takes its time
		d.mu.Unlock()
		if err := g.runner.closeRecord(); err != nil {
			d.note(err.Error())
		}
		drained := d.drain()
		_ = unix.Munmap(g.ram)
		select {
		case <-l.quit:
			return
		default:
		}
		why, again := d.after(out)
		if !drained {
			d.become(powerFailed, "the disk does not answer: I/O of the guest before its "+why+" is still under way")
			return
		}
		if !again {
			return
		}
		d.note("the guest asked for a " + why)
		next, err := d.build()
		if err != nil {
			d.become(powerFailed, err.Error())
			return
		}
		g = next
		d.running(g, "running since its "+why)
		select {
		case <-l.quit: // whoever closed it may not have seen this runner
			g.runner.stop()
		default:
		}
	}
}

// after says what follows from the end of a run: why in words, and whether the machine is
// started again.
func (d *driver) after(out outcome) (why string, again bool) {
	switch {
	case out.err != nil:
		d.become(powerFailed, out.err.Error())
		return "failure", false
	case out.reset == nil:
		return "end", false
	}
	why = out.reset.Kind.String()
	if out.reset.Reason != firmware.NoReason {
		why += " (" + out.reset.Reason.String() + ")"
	}
	if out.reset.Kind == firmware.Shutdown {
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

// build makes a machine with a kernel in its memory, at its first step.
func (d *driver) build() (*guest, error) {
	set := d.settings()
	set.Seed = make([]byte, 64)
	_, _ = rand.Read(set.Seed) // never fails
	d.mu.Lock()
	s := &sink{d: d, devices: d.devices, answered: d.diskAnswered}
	d.mu.Unlock()
	m, ram, err := set.build(s)
	if err != nil {
		return nil, err
	}
	var rec *record
	if d.opt.Record != "" {
		if rec, err = newRecord(d.opt.Record, m, set); err != nil {
			_ = unix.Munmap(ram)
			return nil, err
		}
	}
	r := newRunner(m, d.inbox) // watched from here on: what takes its time comes before
	r.record = rec
	return &guest{r, ram}, nil
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

// sink takes what leaves a machine.
type sink struct {
	d        *driver
	devices  devices
	answered func(*virtio.Completion, func()) // by the disk
	watch    panicWatch
}

// Console hands on what the guest writes, and looks for its last words.
func (s *sink) Console(p []byte) {
	_, _ = s.devices.console.Write(p) // never fails
	if line, found := s.watch.look(p); found {
		s.d.panicked(line)
	}
}

// Request hands a request to its back end, which answers through the inbox.
func (s *sink) Request(slot int, r *virtio.Request) {
	switch slot {
	case module.DiskSlot:
		s.devices.disk.Submit(r, s.answered)
	case module.NICSlot:
		if r.Op == virtio.Offloads {
			s.devices.nic.SetOffloads(r.Length)
		} else {
			s.devices.nic.Transmit(r.Data)
		}
	case module.EntropySlot:
		b := make([]byte, r.Length) // bounded by the device
		_, _ = rand.Read(b)         // never fails
		s.d.inbox.put(module.Input{Kind: module.InputCompletion, Slot: module.EntropySlot, ID: r.ID, Data: b}, nil)
	}
}

// diskAnswered is called by the disk's workers.
func (d *driver) diskAnswered(c *virtio.Completion, release func()) {
	d.inbox.put(module.Input{Kind: module.InputCompletion, Slot: module.DiskSlot, ID: c.ID, Status: uint8(c.Status), Data: c.Data}, release)
}

// panicked takes note of a kernel that has said that it cannot go on.
func (d *driver) panicked(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.power == powerRunning {
		d.becomeLocked(powerPanicked, "the guest's kernel has stopped: "+line)
	}
}
