package backplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"ft/chipset/engine"
	"ft/chipset/lockstep"
	"ft/chipset/port"
)

// Exit codes of a module's process.
const (
	ExitEnded     = 0 // it was told to
	ExitFailed    = 1
	ExitAbandoned = 3 // its chipset has gone, and no successor came
)

// Descriptors that a module's process is started with.
const (
	fdRAM  = 3
	fdPort = 4
	fdBell = 5
)

// Executor executes commands.
type Executor interface {
	Do(*lockstep.Command) error
}

// shows is an executor that has something to say of its engine.
type shows interface{ Engine() *engine.Engine }

// Build makes a module's executor on its memory. send sends a record, which is valid during
// the call alone; where it fails, the process ends behind the command.
type Build func(s *Settings, ram []byte, send func(*lockstep.Record)) (Executor, error)

// Place reads the arguments behind the role.
func Place(args []string) (lockstep.Side, error) {
	if len(args) != 1 || args[0] != "0" && args[0] != "1" {
		return 0, fmt.Errorf("%s needs a place, 0 or 1", Role)
	}
	return lockstep.Side(args[0][0] - '0'), nil
}

// Run is the life of a module's process. It returns the exit code. It is called on the
// thread that is to execute commands, which must be locked.
func Run(side lockstep.Side, errs io.Writer, build Build) int {
	err := serve(side, build)
	switch {
	case errors.Is(err, port.ErrAbandoned):
		fmt.Fprintf(errs, "%s ends: %v\n", side, err)
		return ExitAbandoned
	case err != nil:
		fmt.Fprintf(errs, "%s cannot go on: %v\n", side, err)
		return ExitFailed
	}
	return ExitEnded
}

func serve(side lockstep.Side, build Build) error {
	signal.Ignore(syscall.SIGPIPE) // whoever takes its last words may be gone before it
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(400)
	settings, p, ram, err := open(side)
	if err != nil {
		return err
	}
	var buf []byte
	var unsent error
	send := func(r *lockstep.Record) {
		if unsent == nil {
			buf = r.Append(buf[:0])
			unsent = p.Send(buf, r.Kind != lockstep.Patrolled && (r.Kind != lockstep.Ran || r.Why != lockstep.Budget))
		}
	}
	executor, err := build(settings, ram, send)
	if err != nil {
		return fmt.Errorf("build the machine: %w", err)
	}
	var c lockstep.Command
	shown, _ := executor.(shows)
	for {
		if shown != nil {
			g := gauges(shown.Engine())
			p.Show(&g)
		}
		message, err := p.Receive()
		if err != nil {
			return err
		}
		if err := c.Decode(message); err != nil {
			return err
		}
		if c.Verb == lockstep.End {
			return nil
		}
		if err := executor.Do(&c); err != nil {
			p.SayLast(err.Error())
			return err
		}
		if unsent != nil {
			return fmt.Errorf("answer the chipset: %w", unsent)
		}
	}
}

// open maps what the chipset has handed over.
func open(side lockstep.Side) (*Settings, *port.Module, []byte, error) {
	for fd := fdRAM; fd <= fdBell; fd++ {
		unix.CloseOnExec(fd)
	}
	p, err := port.Open(fdPort, fdBell)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w (a chipset hands it over as descriptor %d)", err, fdPort)
	}
	config, err := p.Config()
	if err != nil {
		return nil, nil, nil, err
	}
	s := new(Settings)
	if err := json.Unmarshal(config, s); err != nil {
		return nil, nil, nil, fmt.Errorf("the settings: %w", err)
	}
	if s.Side != side {
		return nil, nil, nil, fmt.Errorf("the settings are those of %s", s.Side)
	}
	p.SetPatience(s.Patience)
	if s.CPU >= 0 {
		if err := pin(s.CPU); err != nil { // it runs as well elsewhere
			fmt.Fprintf(os.Stderr, "%s: %v\n", side, err)
		}
	}
	kind := unix.MAP_SHARED
	if s.Private {
		kind = unix.MAP_PRIVATE
	}
	ram, err := unix.Mmap(fdRAM, 0, int(s.MemoryBytes), unix.PROT_READ|unix.PROT_WRITE, kind|unix.MAP_NORESERVE)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("map %d MiB of memory: %w", s.MemoryBytes>>20, err)
	}
	_ = unix.Madvise(ram, unix.MADV_HUGEPAGE) // faster, where shmem_enabled of the kernel's huge pages allows it
	return s, p, ram, nil
}

// pin binds all threads of the process to a core; later ones inherit that.
func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("pin to core %d: %w", cpu, err)
	}
	for _, t := range threads {
		tid, _ := strconv.Atoi(t.Name())
		if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
			return fmt.Errorf("pin to core %d: %w", cpu, err)
		}
	}
	return nil
}
