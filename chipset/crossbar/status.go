package crossbar

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/cpu"
	"ft/chipset/engine"
	"ft/chipset/lockstep"
	"ft/chipset/rv64/translate"
)

// Status is a snapshot for people.
type Status struct {
	lockstep.Stats
	Phase   string
	Sides   [2]SideStatus
	Joining lockstep.Side
	What    string  // the stage of a join, "" without one
	Share   float64 // of it that is done, while known
	Rate    float64 // bytes a second
	Left    time.Duration
	Copied  int64 // bytes
	Total   int64
}

// SideStatus is one CPU module.
type SideStatus struct {
	Pid     int
	Within  bool
	Syncing bool
	Open    bool   // its links to the devices
	Passed  uint64 // outputs of it that were let through
	Refused uint64 // records that came after its links were cut
	// What it says of its engine; Engine is "" while it has said nothing.
	Engine     engine.Kind
	Translator translate.Stats
	// Repeated counts the steps that were gone back over in trials.
	Repeated uint64
}

// link is the connection of a CPU module to the devices.
type link struct {
	open    bool
	passed  uint64
	refused uint64
	tested  chan error // of a Join that waits

	// Run's goroutine's:
	at       uint64 // steps of the machine at its last answer
	repeated uint64
}

// copying measures a copy.
type copying struct {
	mu    sync.Mutex
	began time.Time
	total int64
	done  int64
}

func (c *copying) begin(pages int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began, c.total, c.done = time.Now(), int64(pages)*lockstep.PageSize, 0
}

func (c *copying) progress(bytes, _ int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = min(bytes, c.total)
}

// SetCopyRate bounds how many bytes a second are copied to a module that comes in while the
// machine runs; 0 is no limit.
func (x *Crossbar) SetCopyRate(bytes int64) { x.rate.Store(bytes) }

// paceMax bounds a pause, so that a new rate soon holds.
const paceMax = 100 * time.Millisecond

// pace is called behind each MiB that was copied, and rests so that the rate is kept.
func (x *Crossbar) pace() func() {
	last := time.Now()
	return func() {
		if rate := x.rate.Load(); rate > 0 {
			time.Sleep(min(time.Duration(float64(1<<20)/float64(rate)*float64(time.Second))-time.Since(last), paceMax))
		}
		last = time.Now()
	}
}

// setStatus takes the snapshot, now and then.
func (x *Crossbar) setStatus() {
	for s := range x.strikes {
		if err := x.strike(lockstep.Side(s)); err != nil {
			x.cfg.Log.Warn("a drill's fault", "side", s, "err", err)
		}
	}
	st := Status{Stats: x.core.Stats(), Phase: x.core.Phase().String()}
	what, joining := x.core.Progress()
	syncer, share, syncing := x.core.Syncing()
	x.statusMu.Lock()
	defer x.statusMu.Unlock()
	for s := range st.Sides {
		side := lockstep.Side(s)
		l := &x.links[s]
		st.Sides[s] = SideStatus{Within: x.core.Within(side), Syncing: syncing && syncer == side, Open: l.open, Passed: l.passed, Refused: l.refused, Repeated: l.repeated}
		if m := x.mods[s]; m != nil {
			st.Sides[s].Pid = m.Pid()
			st.Sides[s].Engine, st.Sides[s].Translator = m.Gauges()
		}
		if m := x.fenced[s]; m != nil {
			st.Sides[s].Refused += m.Refused()
		}
		if joining && x.core.Joining(side) {
			st.Joining = side
		}
	}
	switch {
	case joining:
		st.What = what
		x.copied.mu.Lock()
		st.Copied, st.Total = x.copied.done, x.copied.total
		if took := time.Since(x.copied.began); took > 0 && st.Total > 0 {
			st.Rate = float64(st.Copied) / took.Seconds()
			st.Share = float64(st.Copied) / float64(st.Total)
			if st.Rate > 0 {
				st.Left = time.Duration(float64(st.Total-st.Copied) / st.Rate * 1e9)
			}
		}
		x.copied.mu.Unlock()
	case syncing:
		st.What, st.Share, st.Joining = "memory compare", share, syncer
	}
	x.status = st
}

// Status is the last snapshot.
func (x *Crossbar) Status() Status {
	x.statusMu.Lock()
	defer x.statusMu.Unlock()
	return x.status
}

func faultCommand(f *lockstep.Injection) *lockstep.Command {
	data, err := json.Marshal(f)
	if err != nil {
		panic("crossbar: a fault that cannot be encoded: " + err.Error()) // plain values
	}
	return &lockstep.Command{Verb: lockstep.Fault, Data: data}
}

// Slots hold the faults that stick to the places of modules, over boots.
type Slots struct {
	mu     sync.Mutex
	faults [2]*lockstep.Injection
}

func (f *Slots) get(s lockstep.Side) *lockstep.Injection {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.faults[s] == nil {
		return nil
	}
	mine := *f.faults[s]
	return &mine
}

func (f *Slots) set(s lockstep.Side, fault *lockstep.Injection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[s] = fault
}

// Clear takes the fault of a place away.
func (f *Slots) Clear(s lockstep.Side) { f.set(s, nil) }

// passed refuses a step that has passed.
func (x *Crossbar) passed(f *lockstep.Injection) error {
	if at := x.core.Last().Steps; f.Step > 0 && f.Step <= at {
		return fmt.Errorf("step %d has passed: the machine is at step %d", f.Step, at)
	}
	return nil
}

// strike does to a side's process what a drill wants, once the machine has come to its step.
func (x *Crossbar) strike(s lockstep.Side) error {
	f := x.strikes[s]
	if f == nil || x.core.Last().Steps < f.Step {
		return nil
	}
	x.strikes[s] = nil
	if f.Name == "kill" {
		return x.signal(s, unix.SIGKILL)
	}
	return x.signal(s, unix.SIGSTOP)
}

// Inject puts a fault into a side; kill and stop are done to its process.
func (x *Crossbar) Inject(s lockstep.Side, f lockstep.Injection) error {
	switch f.Name {
	case "kill", "stop":
		return x.call(func() error {
			if x.mods[s] == nil {
				return fmt.Errorf("%v has no process", s)
			}
			if err := x.passed(&f); err != nil {
				return err
			}
			x.injected[s], x.strikes[s] = &f, &f
			return x.strike(s)
		})
	case "clear":
		return x.call(func() error {
			x.cfg.Slots.set(s, nil)
			x.injected[s], x.strikes[s] = nil, nil
			if x.mods[s] != nil {
				(*hands)(x).Send(s, &lockstep.Command{Verb: lockstep.Fault})
			}
			return nil
		})
	}
	if err := cpu.Validate(f, uint64(x.cfg.Backplane.MemoryBytes)); err != nil {
		return err
	}
	return x.call(func() error {
		if err := x.passed(&f); err != nil {
			return err
		}
		if !x.core.Within(s) {
			return fmt.Errorf("%v is not in lockstep", s)
		}
		if kind, _ := x.mods[s].Gauges(); f.Name == cpu.BadCode && kind != engine.Translator {
			return fmt.Errorf("%v interprets: it has no translated code that could be bad", s)
		}
		keep := f
		x.injected[s], x.atOnce[s] = &keep, f.Step == 0
		if cpu.Persistent(f.Name) {
			again := f
			again.Step = 0
			x.cfg.Slots.set(s, &again)
		}
		(*hands)(x).Send(s, faultCommand(&f))
		return nil
	})
}
