package backplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
	"ft/chipset/port"
)

// The test binary is the module, and the chipset that dies, as well: what a module does is
// the Kind of its machine.
func init() {
	if len(os.Args) > 1 && os.Args[1] == Role {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case Role:
			side, err := Place(os.Args[2:])
			if err != nil {
				panic(err)
			}
			os.Exit(Run(side, os.Stderr, buildActor))
		case mortalRole:
			os.Exit(mortalChipset())
		}
	}
	before := held()
	code := m.Run()
	if after := held(); code == 0 && after != before {
		fmt.Fprintf(os.Stderr, "the tests left something behind: %s before them, %s now\n", before, after)
		code = 1
	}
	os.Exit(code)
}

// held are the processes, descriptors and mappings of modules that this process has.
func held() string {
	fds, maps, children := 0, 0, 0
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, l := range links {
		target, _ := os.Readlink(l)
		if strings.Contains(target, "ft-ram") || strings.Contains(target, "ft-port") || strings.Contains(target, "pidfd") || strings.Contains(target, "/stat") {
			fds++
		}
	}
	b, _ := os.ReadFile("/proc/self/maps")
	maps = strings.Count(string(b), "ft-ram") + strings.Count(string(b), "ft-port")
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		children += len(strings.Fields(string(b)))
	}
	return fmt.Sprintf("%d descriptors, %d mappings, %d children", fds, maps, children)
}

// actor answers Run, Load, which reads a byte of its memory, and Save, which gives its Data
// back; and it has faults.
type actor struct {
	ram   []byte
	send  func(*lockstep.Record)
	steps uint64
	burn  time.Duration // of processor time a Run takes
}

func buildActor(s *Settings, ram []byte, send func(*lockstep.Record)) (Executor, error) {
	if s.Machine.Kind == "unbuildable" {
		return nil, errors.New("no such machine")
	}
	return &actor{ram: ram, send: send}, nil
}

func (a *actor) Do(c *lockstep.Command) error {
	switch c.Verb {
	case lockstep.Run:
		for end := a.cpu() + a.burn; a.burn > 0 && a.cpu() < end; {
		}
		a.steps += c.A
		a.send(&lockstep.Record{Kind: lockstep.Ran, Number: c.Number, Steps: a.steps})
	case lockstep.Load:
		a.send(&lockstep.Record{Kind: lockstep.Loaded, Number: c.Number, State: uint64(a.ram[c.A])})
	case lockstep.Save:
		a.send(&lockstep.Record{Kind: lockstep.Saved, Number: c.Number, Data: c.Data})
	case lockstep.Fault:
		return a.fault(string(c.Data))
	}
	return nil
}

func (a *actor) cpu() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

func (a *actor) fault(name string) error {
	switch name {
	case "burn":
		for {
			a.steps++
		}
	case "slow":
		a.burn = 30 * time.Millisecond
	case "quanta":
		a.burn = 300 * time.Microsecond
	case "sleep":
		time.Sleep(time.Hour)
	case "fail":
		return errors.New("a fault was injected")
	case "nonsense":
		a.send(&lockstep.Record{Kind: 99})
	case "flood":
		for {
			a.send(&lockstep.Record{Kind: lockstep.Output})
		}
	case "scribble": // all over its port, but for the settings
		mem, err := unix.Mmap(fdPort, 0, 16<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		for x := uint64(88172645463325252); ; {
			for i := 128; i < len(mem); i += 8 {
				if i >= 4096 && i < 65536 {
					continue
				}
				x ^= x << 13
				x ^= x >> 7
				x ^= x << 17
				*(*[8]byte)(mem[i:]) = [8]byte{byte(x), byte(x >> 8), byte(x >> 16), byte(x >> 24), byte(x >> 32), byte(x >> 40), byte(x >> 48), byte(x >> 56)}
			}
		}
	case "truncate":
		for fd := fdRAM; fd <= fdPort; fd++ {
			if err := unix.Ftruncate(fd, 0); !errors.Is(err, unix.EPERM) {
				return fmt.Errorf("truncated descriptor %d: %v", fd, err)
			}
		}
		a.send(&lockstep.Record{Kind: lockstep.Tested})
	}
	return nil
}

// rig is a module in a test.
type rig struct {
	*Module
	t    testing.TB
	come []Delivery // taken from the inbox, and not looked at yet
}

// start starts a module that is released at the test's end.
func start(t testing.TB, cfg Config) *rig {
	t.Helper()
	if cfg.MemoryBytes == 0 {
		cfg.MemoryBytes = 4 << 20
	}
	if cfg.Inbox == nil {
		cfg.Inbox = NewInbox()
	}
	if cfg.Log == nil {
		cfg.Log = os.Stderr
	}
	m, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return rigOf(t, m)
}

func rigOf(t testing.TB, m *Module) *rig {
	t.Cleanup(func() {
		if err := m.Release(); err != nil {
			t.Error(err)
		}
	})
	return &rig{Module: m, t: t}
}

// patience bounds every wait: it is for loaded machines.
const patience = time.Minute

// next is the next delivery.
func (r *rig) next() Delivery {
	r.t.Helper()
	for len(r.come) == 0 {
		select {
		case <-r.inbox.Wake():
			r.come = r.inbox.Take(r.come)
		case <-time.After(patience):
			r.t.Fatalf("nothing came of %s", r.Side())
		}
	}
	d := r.come[0]
	r.come = r.come[1:]
	return d
}

// record is the next one, which answers a command.
func (r *rig) record(number uint64) *lockstep.Record {
	r.t.Helper()
	d := r.next()
	if d.Record == nil {
		r.t.Fatalf("%s is gone instead of answering %d: %s", r.Side(), number, d.Gone.Text)
	}
	if d.Record.Number != number {
		r.t.Fatalf("%s answers %d, want %d: %+v", r.Side(), d.Record.Number, number, d.Record)
	}
	return d.Record
}

// gone is that the module is, behind any number of records.
func (r *rig) gone(why Why, text string) {
	r.t.Helper()
	d := r.next()
	for d.Record != nil {
		d = r.next()
	}
	if d.Gone.Why != why || !strings.Contains(d.Gone.Text, text) {
		r.t.Fatalf("gone: %v, %q; want %v, %q", d.Gone.Why, d.Gone.Text, why, text)
	}
}

// send sends a command, when there is room.
func (r *rig) send(c lockstep.Command) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := r.Send(&c)
		if err == nil {
			return
		}
		if !errors.Is(err, port.ErrFull) || time.Now().After(deadline) {
			r.t.Fatal(err)
		}
		runtime.Gosched()
	}
}

func (r *rig) run(number uint64) {
	r.t.Helper()
	r.send(lockstep.Command{Verb: lockstep.Run, Number: number, A: 10})
}

func (r *rig) fault(name string) {
	r.t.Helper()
	r.send(lockstep.Command{Verb: lockstep.Fault, Data: []byte(name)})
}

func (r *rig) signal(s unix.Signal) {
	r.t.Helper()
	if err := unix.PidfdSendSignal(r.proc.pidfd, s, nil, 0); err != nil {
		r.t.Fatal(err)
	}
}
