package chipset

import (
	"sync"
	"sync/atomic"
	"time"

	"ft/chipset/module"
)

// quantum is how many steps are run between two looks at what came from outside.
const quantum = 100_000

// runner runs one machine, from its power-on until it stands for good. Its goroutine is the
// only one that touches the machine; it waits for nothing but the machine's own next event
// and what the inbox brings.
//
// A quantum is: what came from outside is applied, guest time is granted, and steps are
// run. A hart that waits gives the processor back until its timer is due or an input comes.
type runner struct {
	machine *module.Machine
	inbox   *inbox
	clock   clock
	record  *record // nil: nothing is recorded
	failed  error   // an input that the machine did not take

	quit     atomic.Bool
	made     time.Time
	watchdog atomic.Int64  // when the loop was last seen, nanoseconds since made
	retired  atomic.Uint64 // steps, as of the last quantum

	mu    sync.Mutex // guards the field below
	meter meter
}

// meter is what a runner has measured, for people.
type meter struct {
	Steps      uint64
	Speed      float64 // steps a second of the last second, waits apart
	IdleShare  float64 // of the last second
	WallLag    time.Duration
	Uptime     time.Duration
	GuestTicks uint64
}

// outcome is why a runner ended.
type outcome struct {
	reset *module.Reset // asked for by the guest
	err   error         // the machine cannot go on
}

func newRunner(m *module.Machine, in *inbox) *runner {
	return &runner{machine: m, inbox: in, clock: newClock(), made: time.Now()}
}

// run runs the machine until the guest resets it, stop is called, or it cannot go on.
func (r *runner) run() outcome {
	r.clock = newClock()
	r.apply(&module.Input{Kind: module.InputWall, Base: uint64(r.clock.began.UnixNano())})
	var spare []letter
	window := idleWindow{began: r.clock.began}
	for !r.quit.Load() {
		spare = r.inbox.deliver(spare, r.machine.ConsoleRoom(), r.apply)
		now := time.Now()
		grant := r.clock.grant(now, r.machine.Time())
		r.apply(&grant)
		if r.failed != nil {
			return outcome{err: r.failed}
		}
		steps, why := r.machine.Run(quantum)
		r.retired.Store(r.machine.Steps())
		after := time.Now()
		r.clock.ran(steps, after.Sub(now))
		switch why {
		case module.StopReset:
			reset := r.machine.Reset()
			r.measure(after, &window)
			return outcome{reset: &reset}
		case module.StopWFI, module.StopHeld:
			window.idle += r.wait(after)
		}
		if after.Sub(window.began) >= time.Second {
			r.measure(after, &window)
		}
		r.watchdog.Store(int64(after.Sub(r.made)))
	}
	r.measure(time.Now(), &window)
	return outcome{}
}

// apply gives the machine an input, and the record too.
func (r *runner) apply(in *module.Input) {
	if r.failed != nil {
		return
	}
	if r.record != nil {
		r.record.Input(r.machine.Steps(), in)
	}
	r.failed = r.machine.Apply(in)
}

// closeRecord ends the record, if there is one, when the machine runs no more.
func (r *runner) closeRecord() error {
	if r.record == nil {
		return nil
	}
	return r.record.close(r.machine)
}

// idleMax bounds a wait, so that the loop is seen to be alive.
const idleMax = time.Second

// wait returns when the machine has something to do again: an input, or its own time.
func (r *runner) wait(now time.Time) (waited time.Duration) {
	until := now.Add(idleMax)
	if due, ok := r.machine.Due(); ok {
		if at := r.clock.when(due); at.Before(until) {
			until = at
		}
	}
	if left := until.Sub(now); left > 0 && r.inbox.empty(r.machine.ConsoleRoom()) {
		t := time.NewTimer(left)
		select {
		case <-r.inbox.wake:
		case <-t.C:
		}
		t.Stop()
	}
	return time.Since(now)
}

// stop makes run return soon, from any goroutine.
func (r *runner) stop() {
	r.quit.Store(true)
	r.inbox.ring()
}

// seen is when the loop was last seen to turn.
func (r *runner) seen() time.Time { return r.made.Add(time.Duration(r.watchdog.Load())) }

// idleWindow is a second of a runner's life.
type idleWindow struct {
	began time.Time
	steps uint64 // at its beginning
	idle  time.Duration
}

func (r *runner) measure(now time.Time, w *idleWindow) {
	r.mu.Lock()
	steps := r.machine.Steps()
	r.meter = meter{
		Speed: r.meter.Speed, GuestTicks: r.machine.Time(),
		Uptime:  now.Sub(r.clock.began),
		WallLag: now.Sub(r.clock.when(r.machine.Time())),
	}
	if span := now.Sub(w.began); span > 0 {
		r.meter.IdleShare = min(float64(w.idle)/float64(span), 1)
	}
	if busy := now.Sub(w.began) - w.idle; busy > time.Millisecond {
		r.meter.Speed = float64(steps-w.steps) / busy.Seconds()
	}
	r.mu.Unlock()
	*w = idleWindow{began: now, steps: steps}
}

func (r *runner) measured() meter {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.meter
	m.Steps = r.retired.Load() // whoever measures a guest wants them as of now
	return m
}
