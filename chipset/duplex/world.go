package duplex

import (
	"sync"
	"time"

	"ft/chipset/crossbar"
	"ft/chipset/lockstep"
	"ft/chipset/module"
)

// world is what is around the machine: a console. The machine's goroutine calls it.
type world struct {
	cfg     Config
	x       *crossbar.Crossbar
	instant []Fault // not due yet
	began   time.Time

	ring chan struct{}

	mu    sync.Mutex // guards the fields below
	queue []happening
	ended time.Time
	err   error // of the console
}

// happening is something for the conductor: event or due is set.
type happening struct {
	event *crossbar.Event
	at    time.Time
	due   *Fault // the machine stands behind its step:
	step  uint64
	holds uint64 // reasons that there were to stand
}

func newWorld(cfg Config) *world {
	w := &world{cfg: cfg, ring: make(chan struct{}, 1), began: time.Now()}
	for _, f := range cfg.Faults {
		if instant(f.Name) {
			w.instant = append(w.instant, f)
		}
	}
	return w
}

func (w *world) happened(h happening) {
	w.mu.Lock()
	w.queue = append(w.queue, h)
	w.mu.Unlock()
	select {
	case w.ring <- struct{}{}:
	default:
	}
}

// take gives what has happened since.
func (w *world) take() []happening {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.queue
	w.queue = nil
	return list
}

// Release prints.
func (w *world) Release(r *lockstep.Record) {
	if r.Slot != lockstep.ConsoleSlot || w.cfg.Console == nil {
		return
	}
	if _, err := w.cfg.Console.Write(r.Data); err != nil {
		w.mu.Lock()
		w.err = err
		w.mu.Unlock()
		w.x.Stop()
	}
}

// Deliver has nothing: a program takes nothing from outside.
func (w *world) Deliver(int, func(*module.Input)) {}

// Grant is not asked for: a program's time is its own.
func (w *world) Grant(uint64) module.Input { return module.Input{Kind: module.InputTime} }

// When is not asked for either.
func (w *world) When(uint64) time.Time { return time.Now() }

// Ran looks at where the machine is.
func (w *world) Ran(r *lockstep.Record) {
	rest := w.instant[:0]
	for _, f := range w.instant {
		if r.Steps < f.Step {
			rest = append(rest, f)
			continue
		}
		w.x.Hold()
		w.happened(happening{due: &f, step: r.Steps, holds: w.x.Holds()})
	}
	w.instant = rest
	switch {
	case r.Why == lockstep.Reset:
		w.mu.Lock()
		if w.ended.IsZero() {
			w.ended = time.Now()
		}
		w.mu.Unlock()
	case r.Why == lockstep.Idle: // for ever: nothing comes from outside
		w.x.Stop()
	case w.cfg.MaxSteps > 0 && r.Steps >= w.cfg.MaxSteps:
		w.x.Stop()
	}
}

// Event is for the conductor.
func (w *world) Event(e *crossbar.Event) {
	w.happened(happening{event: e, at: time.Now(), holds: w.x.Holds()})
}

// isEnded says whether the guest has ended.
func (w *world) isEnded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.ended.IsZero()
}

func (w *world) took() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended.IsZero() {
		return time.Since(w.began)
	}
	return w.ended.Sub(w.began)
}

func (w *world) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
