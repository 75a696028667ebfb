package chipset

import (
	"crypto/rand"
	"sync"
	"time"

	"ft/chipset/crossbar"
	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/chipset/virtio"
	"ft/drivers"
)

// How a guest is run. While it computes, modules are up to window quanta ahead of the
// comparison, so that they need not wait for the chipset to be woken; the patrol goes on every
// patrolEvery quanta.
const (
	quantum     = 100_000     // steps
	quantumMax  = 4 * quantum // while nothing comes or goes
	window      = 8
	patrolEvery = 16
)

// world is what is around one boot of the machine: its devices, its clock and the inbox. The
// chipset's goroutine calls it; measured alone may be called by others.
type world struct {
	d       *driver
	devices devices
	watch   panicWatch
	clock   clock
	record  *record // nil: nothing is recorded
	spare   []letter
	begun   bool // the guest has been told what time it is

	prior  time.Time // the last quantum was agreed on
	rested bool      // and ended with the guest waiting
	issued time.Time // a quantum was sent while none was under way
	window idleWindow

	mu    sync.Mutex // guards the field below
	meter meter
}

// meter is what has been measured, for people.
type meter struct {
	Steps      uint64
	Speed      float64 // steps a second of the last second, waits apart
	IdleShare  float64 // of the last second
	WallLag    time.Duration
	Uptime     time.Duration
	GuestTicks uint64
}

// idleWindow is a second of a machine's life.
type idleWindow struct {
	began time.Time
	steps uint64 // at its beginning
	idle  time.Duration
}

func newWorld(d *driver) *world {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	return &world{d: d, devices: d.devices, clock: newClock(), prior: now, issued: now, rested: true, window: idleWindow{began: now}}
}

// Release hands a request to its back end, which answers through the inbox, and the console's
// text on.
func (w *world) Release(r *lockstep.Record) {
	switch r.Slot {
	case lockstep.ConsoleSlot:
		_, _ = w.devices.console.Write(r.Data) // never fails
		if line, found := w.watch.look(r.Data); found {
			w.d.panicked(line)
		}
	case module.DiskSlot:
		req := r.Request()
		w.devices.disk.Submit(&req, w.d.diskAnswered)
	case module.NICSlot:
		if r.Op == virtio.Offloads {
			w.devices.nic.SetOffloads(r.Length)
		} else {
			w.devices.nic.Transmit(r.Data)
		}
	case module.EntropySlot:
		b := make([]byte, r.Length) // bounded by the device
		_, _ = rand.Read(b)         // never fails
		w.d.inbox.put(module.Input{Kind: module.InputCompletion, Slot: module.EntropySlot, ID: r.ID, Data: b}, nil)
	}
}

// Deliver empties the inbox.
func (w *world) Deliver(room int, put func(*module.Input)) {
	if !w.begun {
		w.begun = true
		put(&module.Input{Kind: module.InputWall, Base: uint64(w.clock.began.UnixNano())})
	}
	w.spare = w.d.inbox.deliver(w.spare, room, put)
}

// Grant is the wall's time at which a quantum will begin that has others before it.
func (w *world) Grant(ahead uint64) module.Input {
	now := time.Now()
	if ahead == 0 {
		w.issued = now
		if w.rested {
			w.window.idle += now.Sub(w.prior)
		}
	}
	return w.clock.grant(now, ahead)
}

// When is the moment of a guest time.
func (w *world) When(ticks uint64) time.Time { return w.clock.when(ticks) }

// Ran measures.
func (w *world) Ran(r *lockstep.Record) {
	now := time.Now()
	since := w.prior
	if w.issued.After(since) {
		since = w.issued
	}
	w.mu.Lock()
	steps := r.Steps - w.meter.Steps
	w.meter.Steps, w.meter.GuestTicks = r.Steps, r.Time
	w.mu.Unlock()
	w.clock.ran(steps, now.Sub(since))
	w.prior, w.rested = now, r.Why == lockstep.Idle || r.Why == lockstep.Held
	if now.Sub(w.window.began) >= time.Second {
		w.measure(now)
	}
}

func (w *world) measure(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := &w.meter
	m.Uptime, m.WallLag = now.Sub(w.clock.began), now.Sub(w.clock.when(m.GuestTicks))
	span := now.Sub(w.window.began)
	m.IdleShare = min(float64(w.window.idle)/float64(span), 1)
	if busy := span - w.window.idle; busy > time.Millisecond {
		m.Speed = float64(m.Steps-w.window.steps) / busy.Seconds()
	}
	w.window = idleWindow{began: now, steps: m.Steps}
}

func (w *world) measured() meter {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.meter
	m.Uptime = time.Since(w.clock.began)
	return m
}

// Event turns what happened to a module into states and events of its side.
func (w *world) Event(e *crossbar.Event) { w.d.moduleEvent(w, e) }

// Applied records an input.
func (w *world) Applied(step uint64, data []byte) {
	var in module.Input
	if w.record == nil || in.Decode(data) != nil { // the core has encoded it
		return
	}
	w.record.Input(step, &in)
}

// closeRecord ends the record, if there is one, when the machine runs no more.
func (w *world) closeRecord(last lockstep.Record, memory []byte) error {
	if w.record == nil {
		return nil
	}
	return w.record.close(module.End{Steps: last.Steps, Fingerprint: last.Fingerprint, Memory: module.DigestMemory(memory)})
}

// within says whether a side is in lockstep, proved equal or not.
func (w *world) within(s drivers.Side) bool {
	b := w.d.boot
	return b != nil && b.x.Status().Sides[s].Within
}
