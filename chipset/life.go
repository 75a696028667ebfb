package chipset

import (
	"crypto/rand"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/firmware"
	"ft/chipset/module"
	"ft/chipset/rv64"
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
	d.become(powerStarting, "reading "+d.opt.Kernel)
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
	case <-time.After(drainMax + time.Second):
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
	for {
		out := g.runner.run()
		d.mu.Lock()
		d.runner = nil
		d.mu.Unlock()
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

// drain waits until no request of a machine that has ended is under way, and forgets what
// was on its way to it.
func (d *driver) drain() bool {
	d.mu.Lock()
	disk := d.devices.disk
	d.mu.Unlock()
	ok := disk == nil || disk.Drain(drainMax) == nil
	d.inbox.clear()
	return ok
}

// build makes a machine with a kernel in its memory, at its first step.
func (d *driver) build() (*guest, error) {
	boot, err := d.boot()
	if err != nil {
		return nil, drivers.Refuse(drivers.RuleUnfit, "%v", err)
	}
	ram, err := unix.Mmap(-1, 0, int(d.opt.MemoryBytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("%d MiB of memory for %s: %w", d.opt.MemoryBytes>>20, d.cfg.Name, err)
	}
	_ = unix.Madvise(ram, unix.MADV_HUGEPAGE) // faster where it is to be had
	d.mu.Lock()
	s := &sink{d: d, devices: d.devices, answered: d.diskAnswered}
	d.mu.Unlock()
	m, err := module.New(d.moduleConfig(ram), s)
	if err == nil {
		err = m.Load(boot)
	}
	if err != nil {
		_ = unix.Munmap(ram)
		return nil, err
	}
	return &guest{newRunner(m, d.inbox, nil), ram}, nil
}

func (d *driver) moduleConfig(ram []byte) module.Config {
	cfg := module.Config{RAM: ram, Entropy: true}
	switch d.opt.Compare {
	case CompareStore:
		cfg.Compare = rv64.StoreOnly
	case CompareOff:
		cfg.Compare = rv64.Off
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if disk := d.devices.disk; disk != nil {
		cfg.Disk = disk.Front(d.opt.DiskSerial)
	}
	if nic := d.devices.nic; nic != nil {
		cfg.NIC = nic.Front()
	}
	return cfg
}

// fileMax bounds a kernel or an initrd.
const fileMax = 1 << 30

// boot reads kernel and initrd, and lays out the memory. It is done for each boot: a kernel
// that was replaced is the next one to run.
func (d *driver) boot() (*firmware.Boot, error) {
	ram := firmware.RAM{Base: firmware.RAMBase, Size: uint64(d.opt.MemoryBytes)}
	file, err := readFile("kernel", d.opt.Kernel)
	if err != nil {
		return nil, err
	}
	kernel, err := firmware.ReadKernel(d.opt.Kernel, file, ram)
	if err != nil {
		return nil, err
	}
	var initrd []byte
	if d.opt.Initrd != "" {
		if initrd, err = readFile("initrd", d.opt.Initrd); err != nil {
			return nil, err
		}
	}
	seed := make([]byte, 64)
	_, _ = rand.Read(seed) // never fails
	board := firmware.Board{
		Memory: ram, TimebaseHz: module.TimebaseHz, Extensions: module.Extensions, MMU: "riscv,sv39", Virtio: module.Virtio,
		Bootargs: d.opt.Cmdline, RNGSeed: seed,
	}
	boot, err := firmware.Place(board, kernel, initrd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.cfg.Name, err)
	}
	return boot, nil
}

func readFile(what, path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the %s is not to be had: %w", what, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("the %s %s is no regular file", what, path)
	case info.Size() > fileMax:
		return nil, fmt.Errorf("the %s %s has %d MiB, at most %d are taken", what, path, info.Size()>>20, fileMax>>20)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the %s: %w", what, err)
	}
	return b, nil
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
