package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ft/ftd/control"
)

// owner is the goroutine that has the control core. Everything that happens comes to it
// through one bounded queue; everything that is to be done leaves it without waiting:
// to the recorder (what must be on disk) and to the devices' own queues. So it never
// waits for a disk, a driver or a client, and the box's state is always at hand.
type owner struct {
	core *control.Core
	log  *slog.Logger
	rec  *recorder
	// dispatch hands an action to a device's queue; false when that is full.
	dispatch func(control.Action, *gate) bool

	in    chan message
	ended chan struct{}
	timer *time.Timer

	again []control.Event // consequences for the core itself, before what comes next
	gates map[uint64]*gate
}

// message is an event for the core, or a look at it.
type message struct {
	event control.Event
	look  func(*control.Core)
	done  chan struct{} // closed when look has been carried out
}

// queueLength bounds what waits for the core. When it is full the devices' links wait,
// which the drivers do not feel: they keep their events in a ring.
const queueLength = 256

// errEnded is the answer to whoever asks a daemon that is stopping.
var errEnded = errors.New("ftd is stopping")

func newOwner(core *control.Core, rec *recorder, log *slog.Logger) *owner {
	o := &owner{
		core: core, log: log, rec: rec,
		in:    make(chan message, queueLength),
		ended: make(chan struct{}),
		timer: time.NewTimer(time.Hour),
		gates: map[uint64]*gate{},
	}
	o.timer.Stop()
	return o
}

// run owns the core until ctx ends.
func (o *owner) run(ctx context.Context) {
	defer close(o.ended)
	defer o.timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.timer.C:
			o.step(control.Tick{})
		case m := <-o.in:
			if m.event != nil {
				o.step(m.event)
			}
			if m.look != nil {
				m.look(o.core)
				close(m.done)
			}
		}
	}
}

// post gives the core an event. It waits while the queue is full.
func (o *owner) post(ctx context.Context, ev control.Event) error {
	select {
	case o.in <- message{event: ev}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-o.ended:
		return errEnded
	}
}

// look calls f with the core, in the owner's goroutine, and waits for it. f must not
// wait for anything.
func (o *owner) look(f func(*control.Core)) error {
	m := message{look: f, done: make(chan struct{})}
	select {
	case o.in <- m:
	case <-o.ended:
		return errEnded
	}
	select {
	case <-m.done:
		return nil
	case <-o.ended:
		return errEnded
	}
}

// step feeds the core one event and what follows from it.
func (o *owner) step(ev control.Event) {
	o.again = append(o.again, ev)
	for len(o.again) > 0 {
		ev, o.again = o.again[0], o.again[1:]
		o.carryOut(o.core.Step(time.Now(), ev))
	}
}

// carryOut hands on what a step wants done, in the order that control.Result asks for.
func (o *owner) carryOut(r control.Result) {
	job := job{entries: r.Entries}
	for _, a := range r.Actions {
		if a.Kind == control.ActionPersist {
			o.pruneGates()
			g := newGate()
			o.gates[a.ID] = g
			job.persist = append(job.persist, persistJob{id: a.ID, state: a.State, gate: g})
		}
	}
	for _, a := range r.Answers {
		job.answers = append(job.answers, heldAnswer{a, o.gateOf(a.After)})
	}
	if !job.empty() && !o.rec.add(job) {
		o.log.Error("the state directory does not answer: events are not written", "events", len(job.entries))
		for _, p := range job.persist {
			p.gate.settle(false)
			o.again = append(o.again, control.ActionResult{ID: p.id, Outcome: control.Failed,
				Sentence: "the state directory has not answered for too long: look at the disk that it lies on"})
		}
		o.rec.answer(job.answers)
	}
	for _, a := range r.Actions {
		o.begin(a)
	}
}

func (o *owner) begin(a control.Action) {
	switch a.Kind {
	case control.ActionPersist: // on its way already
	case control.ActionTimer:
		o.setTimer(a.At)
	case control.ActionAlarm:
		o.log.Error("alarm", "id", a.Entry.ID, "from", a.Entry.From, "to", a.Entry.To, "reason", a.Entry.Reason, "seq", a.Entry.Seq)
	default:
		if !o.dispatch(a, o.gateOf(a.After)) && a.WantsResult() {
			o.again = append(o.again, control.ActionResult{ID: a.ID, Outcome: control.Failed,
				Sentence: fmt.Sprintf("%s is still busy with what it was asked before", a.Device)})
		}
	}
}

func (o *owner) setTimer(at time.Time) {
	o.timer.Stop()
	if !at.IsZero() {
		o.timer.Reset(max(0, time.Until(at)))
	}
}

// gateOf is the gate of a persist action; 0, and one that was settled long ago, is open.
func (o *owner) gateOf(id uint64) *gate {
	if id == 0 {
		return openGate
	}
	if g := o.gates[id]; g != nil {
		return g
	}
	return openGate
}

// gatesKept bounds how many settled gates are remembered. The core has one persist
// action under way at a time, and refers to no older one than the last few.
const gatesKept = 16

func (o *owner) pruneGates() {
	for len(o.gates) >= gatesKept {
		oldest := ^uint64(0)
		for id := range o.gates {
			oldest = min(oldest, id)
		}
		delete(o.gates, oldest)
	}
}

// gate holds actions and answers back until the state that they rest on is on stable
// storage (control.Action.After).
type gate struct {
	settled chan struct{}
	ok      bool // valid once settled is closed
}

var openGate = func() *gate { g := newGate(); g.settle(true); return g }()

func newGate() *gate { return &gate{settled: make(chan struct{})} }

func (g *gate) settle(ok bool) {
	g.ok = ok
	close(g.settled)
}

// wait returns whether what was held back may go on.
func (g *gate) wait(ctx context.Context) bool {
	select {
	case <-g.settled:
		return g.ok
	case <-ctx.Done():
		return false
	}
}
