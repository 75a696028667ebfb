// Package duplex runs a bare-metal program on two CPU modules in lockstep, and puts faults
// into them.
//
//	Run ── conductor ── Join, Inject, Resume ──▶ crossbar.Crossbar ──▶ two processes
//	            ▲                                       │
//	            └──────────── what has happened ◀───────┘ World
//
// Invariants:
//   - The machine stands at its start, and whenever a module was shot or has come in, until
//     everything is done that is to be done there: the partner brought in, faults put in, the
//     first differing step found. So what happens at which step does not depend on how fast
//     anything goes.
//   - A run is over when both modules were proved equal (lockstep.Config.Prove).
//   - Each fault is put in once. Of those of one side the next is given to the module when
//     the one before has happened, or when a new module has come in.
package duplex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"ft/chipset/backplane"
	"ft/chipset/bare"
	"ft/chipset/cpu"
	"ft/chipset/crossbar"
	"ft/chipset/engine"
	"ft/chipset/inside"
	"ft/chipset/lockstep"
	"ft/chipset/rv64"
)

// Config is what is run, and how.
type Config struct {
	Program   *bare.Program
	Memory    int64 // bytes
	Engines   [2]engine.Kind
	Compare   rv64.Compare
	MaxSteps  uint64 // 0: no limit; the quantum is ended in which they are reached
	Undecided lockstep.Policy
	Rejoin    bool // a module that was shot is replaced
	Faults    []Fault
	Console   io.Writer // what the program prints, once both agree on it
	Log       *os.File  // the modules' last words; nil: nowhere

	// Event is told what has happened, and when; Missed of faults that could not be put in. Run
	// calls them. They may be nil.
	Event  func(time.Time, *crossbar.Event)
	Missed func(Fault, error)
}

// How the machine is run.
const (
	quantum   = 20_000
	epochTime = 10 * time.Millisecond
	hung      = 10 * time.Second // nobody waits for what a program does, and the computer may be loaded
)

// Fault is a fault for one side.
type Fault struct {
	Side lockstep.Side
	lockstep.Injection
}

// Result is how a run ended.
type Result struct {
	Ending             bare.Ending
	Status             uint64
	Failed             error  // the program asked of the host what it cannot do
	Lost               string // why the machine could not go on, "" if it could
	Steps, Fingerprint uint64
	Took               time.Duration // from the first step to the end

	Stands   [2]bool
	Repeated [2]uint64 // steps that were gone back over
}

// Machine is a program on two CPU modules.
type Machine struct {
	cfg Config
	x   *crossbar.Crossbar
	w   *world
}

// Validate says what is wrong with a fault.
func (f Fault) Validate(memory int64) error {
	if instant(f.Name) {
		return nil
	}
	return cpu.Validate(f.Injection, uint64(memory))
}

// instant says whether a fault is done to the module's process.
func instant(name string) bool { return name == "kill" || name == "stop" }

// Start starts the first module with the program in its memory. Run has to be called next.
func Start(cfg Config) (*Machine, error) {
	for _, f := range cfg.Faults {
		if err := f.Validate(cfg.Memory); err != nil {
			return nil, fmt.Errorf("%v: %w", f.Side, err)
		}
	}
	m := &Machine{cfg: cfg, w: newWorld(cfg)}
	layout := cfg.Program.Layout(uint64(cfg.Memory), cfg.Compare)
	machine := backplane.MachineConfig{Kind: backplane.KindBare, Compare: cfg.Compare, Bare: &layout}
	fill := func(ram []byte) (state []byte, pages []uint32, err error) {
		_, state, err = cfg.Program.Place(ram, cfg.Compare)
		return state, cfg.Program.Pages(), err
	}
	x, err := crossbar.New(crossbar.Config{
		Core: lockstep.Config{
			Quantum: quantum, EpochTime: epochTime, Bare: true, Undecided: cfg.Undecided, Hold: true, Prove: true, BlackoutMax: time.Hour,
		},
		Backplane: backplane.Config{Machine: machine, MemoryBytes: cfg.Memory, CPU: -1, Log: cfg.Log, Limits: backplane.Limits{Hung: hung}},
		Pin:       [2]int{-1, -1},
		Engines:   cfg.Engines,
		Build:     inside.Machine(machine),
		World:     m.w, Log: slog.New(slog.DiscardHandler),
	}, 0, fill)
	if err != nil {
		return nil, err
	}
	m.x, m.w.x = x, x
	return m, nil
}

// Close ends the modules.
func (m *Machine) Close() { m.x.Close() }

// Memory is the memory of a side that stands at the end, between Run and Close; nil without.
func (m *Machine) Memory(s lockstep.Side) []byte { return m.x.MemoryOf(s) }

// Agreed are the digests of the machine's end.
func (m *Machine) Agreed() (state uint64, pages []uint64) { return m.x.Agreed() }

// Test has a module that stands at the end test itself, and says what is wrong with it.
func (m *Machine) Test(s lockstep.Side) (wrong string, err error) { return m.x.Test(s) }

// Run runs the program to its end, or until ctx is done.
func (m *Machine) Run(ctx context.Context) (Result, error) {
	over := make(chan crossbar.Outcome, 1)
	go func() { over <- m.x.Run() }()
	c := &conductor{m: m}
	for s := range c.faults {
		for _, f := range m.cfg.Faults {
			if int(f.Side) == s && !instant(f.Name) {
				c.faults[s] = append(c.faults[s], f)
			}
		}
		slices.SortStableFunc(c.faults[s], func(a, b Fault) int { return cmp.Compare(a.Step, b.Step) })
	}
	out, err := c.conduct(ctx, over)
	if err != nil {
		return Result{}, err
	}
	return m.result(out)
}

// result is what a run has come to.
func (m *Machine) result(out crossbar.Outcome) (r Result, err error) {
	last := m.x.Last()
	r = Result{Steps: last.Steps, Fingerprint: last.Fingerprint, Lost: out.Lost, Took: m.w.took()}
	for s, side := range m.x.Status().Sides {
		r.Stands[s], r.Repeated[s] = m.x.Stands(lockstep.Side(s)), side.Repeated
	}
	most := m.cfg.MaxSteps
	if most == 0 {
		most = math.MaxUint64
	}
	switch {
	case out.Lost != "":
	case out.Reset != nil && last.Steps <= most:
		r.Ending, r.Status, r.Failed = bare.Exited, uint64(out.Reset.Reason), bare.Failure(*out.Reset)
	case last.Steps >= most:
		r.Ending = bare.OutOfSteps
	case last.Why == lockstep.Idle:
		r.Ending = bare.Stuck
	default:
		return r, errors.New("the run was ended")
	}
	return r, m.w.failed()
}

// String is the fault as it is asked for on a command line.
func (f Fault) String() string {
	words := []string{f.Side.String(), f.Name}
	switch {
	case f.Register != nil && *f.Register < 32:
		words = append(words, fmt.Sprintf("x%d", *f.Register))
	case f.Register != nil:
		words = append(words, fmt.Sprintf("f%d", *f.Register-32))
	case f.CSR != "":
		words = append(words, f.CSR)
	case f.Address != nil:
		words = append(words, fmt.Sprintf("%#x", *f.Address))
	case f.Class != "":
		words = append(words, f.Class)
	}
	if f.Bit != nil {
		words = append(words, fmt.Sprint(*f.Bit))
	}
	if f.Step > 0 {
		words = append(words, fmt.Sprintf("--at-step %d", f.Step))
	}
	if f.Seed > 0 {
		words = append(words, fmt.Sprintf("--seed %d", f.Seed))
	}
	return strings.Join(words, " ")
}
