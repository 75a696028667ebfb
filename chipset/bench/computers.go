package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset"
	"ft/chipset/engine"
	"ft/drivers"
)

// computer has the program running: a guest, or this computer itself.
type computer struct {
	*talk
	name string
	stop func() error
	// look finds the processes that it is made of, and the steps of our machine so far; 0 of
	// others, which do not tell.
	look    func() (steps uint64, processes []process, err error)
	machine *driven // ours; nil of others
}

// process is one of those that a computer is made of.
type process struct {
	name string
	pid  int
}

// maker starts a computer and returns before the program runs.
type maker struct {
	name  string
	start func(dir string) (*computer, error)
}

// Names of computers, as the table has them.
const (
	oursName       = "machine"
	translatedName = "translator" // our machine, with the other engine
	icountName     = "qemu icount"
	qemuName       = "qemu"
	hostName       = "the host"
)

// attached are the devices of our machine that not every guest needs.
type attached struct {
	disk         string
	link, mac    string
	networkSpace string

	engine    engine.Choice   // "": auto
	compare   chipset.Compare // "": as the bench is told
	memoryMiB int             // 0: as the test box's guest has
}

// ours is our machine.
func (b *bench) ours(a attached) maker {
	called := oursName
	if a.engine == engine.Translate {
		called = translatedName
	}
	return maker{called, func(dir string) (*computer, error) {
		const name = "guest"
		cfg := drivers.Config{Kind: chipset.Kind, Name: name, Drills: true}
		cfg.Sides[0].Resource.Path, cfg.Sides[1].Resource.Path = "cpu0", "cpu1"
		d, err := startDriver(dir, cfg, chipset.Options{
			Kernel: b.files.kernel, Initrd: b.files.initrd, Cmdline: b.files.cmdline, MemoryBytes: int64(cmp.Or(a.memoryMiB, b.files.memoryMiB)) << 20,
			Disk: a.disk, Link: a.link, MAC: a.mac, Netns: a.networkSpace, Compare: cmp.Or(a.compare, b.compare), Engine: a.engine,
		}, a.networkSpace)
		if err != nil {
			return nil, err
		}
		conn, err := dial(chipset.ConsolePath(filepath.Join(dir, "run"), name))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("the console: %w; the driver's log ends with:\n%s", err, tail(d.log)), d.stop())
		}
		return &computer{
			talk: newTalk(conn, conn), name: called, look: d.look, machine: d,
			stop: func() error { return errors.Join(d.stop(), conn.Close()) },
		}, nil
	}}
}

// dial connects to a unix socket that is about to be there.
func dial(path string) (net.Conn, error) {
	for deadline := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", path)
		if err == nil || time.Now().After(deadline) {
			return conn, err
		}
	}
}

// chipsetName is the process of our machine beside its CPU modules: devices and comparison.
const chipsetName = "chipset"

// look reads the machine's steps and finds its processes.
func (d *driven) look() (steps uint64, processes []process, err error) {
	st, err := d.client.Status(context.Background())
	if err != nil {
		return 0, nil, fmt.Errorf("ask the machine for its steps: %w", err)
	}
	n, ok := st.Stats["steps"].(float64) // as JSON has it; exact up to 2^53
	if !ok {
		return 0, nil, fmt.Errorf("the machine does not tell its steps but is %s (%s)", st.State, st.Reason)
	}
	processes = []process{{chipsetName, d.cmd.Process.Pid}}
	modules, _ := st.Stats["modules"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		pid, ok := modules[name].(float64)
		if !ok {
			return 0, nil, fmt.Errorf("the machine tells of a CPU module %s without its process", name)
		}
		processes = append(processes, process{name, int(pid)})
	}
	return uint64(n), processes, nil
}

const emulator = "qemu-system-riscv64"

// qemu is the same guest under QEMU, on one thread.
func (b *bench) qemu(name string, more ...string) maker {
	return maker{name, func(string) (*computer, error) {
		if _, err := exec.LookPath(emulator); err != nil {
			return nil, fmt.Errorf("%s is missing, beside which the machine is measured: apt-get install qemu-system-misc", emulator)
		}
		args := append([]string{"-M", "virt", "-m", strconv.Itoa(b.files.memoryMiB), "-nodefaults", "-no-user-config", "-display", "none",
			"-monitor", "none", "-no-reboot", "-serial", "stdio", "-kernel", b.files.kernel, "-initrd", b.files.initrd, "-append", b.files.cmdline}, more...)
		return startProgram(name, exec.Command(emulator, args...))
	}}
}

// startProgram starts a process with the program in it, or behind it.
func startProgram(name string, cmd *exec.Cmd) (*computer, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := start(cmd); err != nil {
		return nil, err
	}
	itself := []process{{name, cmd.Process.Pid}}
	return &computer{talk: newTalk(in, out), name: name, look: func() (uint64, []process, error) { return 0, itself, nil }, stop: func() error {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) {
			return err
		}
		return nil
	}}, nil
}

// spent is what a piece of work took.
type spent struct {
	wall  time.Duration
	of    map[string]time.Duration // CPU time of each process, all of its threads
	steps uint64                   // of our machine
}

// cpu is that of all processes.
func (s spent) cpu() (sum time.Duration) {
	for _, t := range s.of {
		sum += t
	}
	return sum
}

func (s spent) since(t spent) spent {
	d := spent{s.wall - t.wall, maps.Clone(s.of), s.steps - t.steps}
	for name := range d.of {
		d.of[name] -= t.of[name]
	}
	return d
}

// clocks reads all clocks of a computer, from a beginning of their own.
func (c *computer) clocks() (now spent, err error) {
	steps, processes, err := c.look()
	if err != nil {
		return now, err
	}
	now = spent{of: map[string]time.Duration{}, steps: steps}
	var t unix.Timespec
	for _, p := range processes {
		const cpuclockSched = 2 // CPUCLOCK_SCHED, linux/posix-timers.h
		if err := unix.ClockGettime(int32(^p.pid<<3|cpuclockSched), &t); err != nil {
			return now, fmt.Errorf("the CPU clock of %s: %w", p.name, err)
		}
		now.of[p.name] = time.Duration(t.Nano())
	}
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return now, fmt.Errorf("read the time: %w", err)
	}
	now.wall = time.Duration(t.Nano())
	return now, nil
}

// do has the computer do a piece of work. It is idle before and after.
func (c *computer) do(command string) (result string, took spent, err error) {
	before, err := c.clocks()
	if err != nil {
		return "", took, err
	}
	began := time.Now()
	if result, err = c.ask(command); err != nil {
		return "", took, fmt.Errorf("%s: %w", c.name, err)
	}
	wall := time.Since(began)
	after, err := c.clocks()
	took = after.since(before)
	took.wall = wall
	return result, took, err
}

// boot starts a computer and says what it took to its first process.
func (m maker) boot(dir string) (c *computer, took spent, err error) {
	began := time.Now()
	if c, err = m.start(dir); err != nil {
		return nil, took, fmt.Errorf("%s: %w", m.name, err)
	}
	err = c.awaitLine(userSpace)
	wall := time.Since(began)
	if err == nil {
		took, err = c.clocks()
		took.wall = wall
	}
	if err == nil {
		err = c.awaitLine(ready)
	}
	if err != nil {
		return nil, took, errors.Join(fmt.Errorf("%s: %w", m.name, err), c.stop())
	}
	return c, took, nil
}
