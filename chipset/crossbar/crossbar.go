// Package crossbar is the chipset at work: the core (package lockstep) with real CPU modules
// (package backplane) on one side and the machine's devices (World) on the other.
//
//	World ◀── Release ── Crossbar.Run ── lockstep.Core       one goroutine
//	      ── Deliver ──▶      ▲  │
//	                  records │  │ commands
//	               backplane.Module × 2                      processes
//
// Nothing of a module gets to a device but through Run's goroutine, and there only what the
// core releases. Whatever takes time (starting a process, copying memory, a referee, looking
// for the first differing step) is done beside it, and posts its end to the goroutine.
//
// Invariants:
//   - Records of a module that was fenced are dropped and counted, whoever had them in hand.
//   - A module's memory is unmapped when its process is gone and nobody uses it any more.
//   - Run returns when the machine is over or was stopped; Close ends what is left.
package crossbar

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/backplane"
	"ft/chipset/cpu"
	"ft/chipset/engine"
	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/chipset/narrow"
	"ft/chipset/port"
)

// World is what is around the machine. Its methods are called by Run's goroutine.
type World interface {
	// Release lets an output out. r is valid during the call.
	Release(r *lockstep.Record)
	// Deliver gives the inputs that wait, typed bytes up to room. put copies their data.
	Deliver(room int, put func(*module.Input))
	// Grant is the guest time for a quantum that begins behind so many steps that are under way.
	Grant(ahead uint64) module.Input
	// When is the moment of a guest time.
	When(ticks uint64) time.Time
	// Ran says that a quantum was agreed on.
	Ran(r *lockstep.Record)
	// Event tells of what has happened.
	Event(e *Event)
}

// Event is one of the core's, with what was found out here.
type Event struct {
	lockstep.Event
	Injected bool           // the side had a fault from a drill
	Found    *narrow.Result // of Evidence: the first differing step
	FindErr  error
	Apart    *Apart // of Split
}

// Config is what a machine is made of.
type Config struct {
	Core      lockstep.Config
	Backplane backplane.Config // Side, Inbox, CPU and Engine are the crossbar's to set
	// Build makes the same machine as the modules do, for looking into what went wrong.
	Build func(ram []byte, sink module.Sink, onFirstWrite func(page uint64)) (cpu.Machine, error)
	World World
	Pin   [2]int // cores of the modules; -1: wherever there is room
	// Engines are those of the places. A referee, and the good half of a search, interpret.
	Engines [2]engine.Kind
	Slots   *Slots
	// Keeper holds what a successor needs if this process dies; its fields may be nil.
	Keeper Keeper
	Log    *slog.Logger
	Wake   <-chan struct{} // rings when Deliver has something
}

// Fill puts a machine into memory that is all zero: it returns its state, and the pages that
// it has written.
type Fill func(ram []byte) (state []byte, pages []uint32, err error)

// Crossbar is one machine.
type Crossbar struct {
	cfg   Config
	began time.Time

	inbox *backplane.Inbox

	mu     sync.Mutex // guards what is posted
	posted []func()
	closed bool
	wake   chan struct{}

	started chan struct{} // closed when the machine runs, or never will
	begin   sync.Once
	beside  sync.WaitGroup // goroutines beside Run
	stop    atomic.Bool
	rate    atomic.Int64 // bytes a second that are copied while the machine runs; 0: no limit
	running atomic.Bool  // Run has begun
	seen    atomic.Int64 // when Run's loop was last seen, ns since began

	// What follows is Run's goroutine's.
	core     *lockstep.Core
	mods     [2]*mod
	fenced   [2]*mod // the last one
	unsent   [2][]lockstep.Command
	injected [2]*lockstep.Injection // in the present module, the last one
	struck   [2]*lockstep.Injection // the one that took effect last
	atOnce   [2]bool                // it was put in while the module was in lockstep, at no certain step
	strikes  [2]*lockstep.Injection // what is to be done to its process at a step
	outcome  *Outcome
	told     uint64 // number of the last quantum that the world was told of
	patrolAt time.Time

	statusMu sync.Mutex // guards the field below
	status   Status
	links    [2]link
	copied   copying
}

// mod is a module in its place.
type mod struct {
	*backplane.Module
	side lockstep.Side
	pid  int
	use  sync.WaitGroup // of its memory
}

// Outcome is why Run returned.
type Outcome struct {
	Reset *module.Reset // asked for by the guest
	Lost  string        // why the machine cannot go on
}

// New starts a machine on one side. Run has to be called next.
func New(cfg Config, s lockstep.Side, fill Fill) (*Crossbar, error) {
	x := newCrossbar(cfg)
	m, err := x.startModule(s)
	if err != nil {
		return nil, err
	}
	state, pages, err := fill(m.RAM())
	if err != nil {
		m.Fence(err.Error())
		x.bury(m)
		x.beside.Wait()
		return nil, err
	}
	const page = lockstep.PageSize
	table := make([]uint64, len(m.RAM())/page)
	zero := cpu.DigestPage(make([]byte, page))
	for i := range table {
		table[i] = zero
	}
	for _, p := range pages {
		table[p] = cpu.DigestPage(m.RAM()[int(p)*page:][:page])
	}
	x.cfg.Core.Pages = len(table)
	x.mods[s] = m
	x.links[s].open = true
	x.journalJudging(false)
	x.start(func() {
		x.core = lockstep.New(x.cfg.Core, (*hands)(x), table)
		x.faulty(s)
		x.core.Boot(s, state)
	})
	return x, nil
}

// start makes the core. What it wants done at once is done when Run begins.
func (x *Crossbar) start(f func()) { x.posted = append(x.posted, f) }

// startModule starts a process for a place.
func (x *Crossbar) startModule(s lockstep.Side) (*mod, error) {
	cfg := x.cfg.Backplane
	cfg.Side, cfg.Inbox, cfg.CPU, cfg.Engine = s, x.inbox, x.cfg.Pin[s], x.cfg.Engines[s]
	started, err := backplane.Start(cfg)
	if err != nil {
		return nil, err
	}
	m := &mod{Module: started, side: s, pid: started.Pid()}
	if err := x.keep(m); err != nil {
		m.Fence(err.Error())
		x.bury(m)
		return nil, err
	}
	return m, nil
}

func (x *Crossbar) ring() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// post has f called by Run's goroutine. It is dropped when Run has ended, which is said.
func (x *Crossbar) post(f func()) (posted bool) {
	x.mu.Lock()
	if posted = !x.closed; posted {
		x.posted = append(x.posted, f)
	}
	x.mu.Unlock()
	x.ring()
	return posted
}

// ErrOver is the answer of a machine that has ended.
var ErrOver = errors.New("the machine has ended")

// call has f called by Run's goroutine, and waits for it.
func (x *Crossbar) call(f func() error) error {
	done := make(chan error, 1)
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return ErrOver
	}
	x.posted = append(x.posted, func() {
		if x.outcome != nil {
			done <- ErrOver
			return
		}
		done <- f()
	})
	x.mu.Unlock()
	x.ring()
	return <-done
}

// Stop makes Run return soon.
func (x *Crossbar) Stop() {
	x.stop.Store(true)
	x.ring()
}

// Seen is when Run's loop was last seen to turn.
func (x *Crossbar) Seen() time.Time { return x.began.Add(time.Duration(x.seen.Load())) }

const (
	idleMax     = time.Second            // Run's loop is seen to be alive at least so often
	patrolEvery = 500 * time.Millisecond // while the guest rests
	flushEvery  = time.Millisecond       // while a module's ring is full
	freeMax     = 5 * time.Second
	freeEvery   = 5 * time.Millisecond
	quiesceMax  = 2 * time.Second // for quanta under way when the machine is stopped
)

// Run is the chipset's loop. It returns when the guest has asked for a reset, no module can go
// on, or Stop was called; the modules stand then, and Close ends them.
func (x *Crossbar) Run() Outcome {
	x.running.Store(true)
	defer x.finish()
	timer := time.NewTimer(idleMax)
	defer timer.Stop()
	var stopping time.Time
	var queue []backplane.Delivery
	var posted []func()
	due := false
	for {
		x.mu.Lock()
		posted, x.posted = x.posted, posted[:0]
		x.mu.Unlock()
		if x.core != nil {
			queue = x.inbox.Take(queue[:0])
			for i := range queue {
				x.take(&queue[i])
				queue[i] = backplane.Delivery{}
			}
		}
		for i, f := range posted {
			f()
			posted[i] = nil
		}
		if x.core != nil {
			x.ran()
		}
		x.flush()
		if x.outcome != nil {
			return *x.outcome
		}
		now := time.Now()
		x.seen.Store(int64(now.Sub(x.began)))
		if x.stop.Load() {
			// What is under way ends first, so that the modules stand where they agree.
			if stopping.IsZero() {
				stopping = now
			}
			resting := x.core.Phase() == lockstep.Running && x.core.Ahead() == 0
			if resting || now.Sub(stopping) > quiesceMax {
				x.outcome = &Outcome{}
				return *x.outcome
			}
		} else {
			if x.core.Takes() {
				x.cfg.World.Deliver(x.core.Room(), x.core.Put)
			}
			x.core.Go(due)
			x.patrol(now)
			if x.outcome != nil {
				return *x.outcome
			}
		}
		due = x.sleep(timer, now)
		x.journalJudging(x.core.Phase() == lockstep.Judging)
		x.setStatus()
	}
}

// take gives the core what came from a module.
func (x *Crossbar) take(d *backplane.Delivery) {
	s := d.Module.Side()
	if x.mods[s] == nil || x.mods[s].Module != d.Module {
		return // split off, or fenced by what came before it
	}
	if d.Gone != nil {
		x.core.Gone(s, d.Gone.Why.String(), d.Gone.Text)
		return
	}
	switch l := &x.links[s]; d.Record.Kind {
	case lockstep.Ran, lockstep.Loaded:
		l.at = d.Record.Steps
	case lockstep.Restored:
		l.repeated += l.at - min(d.Record.Steps, l.at)
	}
	x.core.Record(s, d.Record)
	x.ran()
}

// ran tells the world when there is a new last quantum.
func (x *Crossbar) ran() {
	if last := x.core.Last(); last.Number != x.told {
		x.told = last.Number
		x.cfg.World.Ran(&last)
	}
}

// patrol goes on with the patrol of a guest that rests.
func (x *Crossbar) patrol(now time.Time) {
	if !x.core.Duplex() {
		return
	}
	if _, _, syncing := x.core.Syncing(); syncing || now.Sub(x.patrolAt) >= patrolEvery {
		x.patrolAt = now
		x.core.Patrol()
	}
}

// sleep waits until there is something to do, and says whether the guest's time has come.
func (x *Crossbar) sleep(timer *time.Timer, now time.Time) (due bool) {
	until := now.Add(idleMax)
	ticks, idle := x.core.Wait()
	if idle && ticks != lockstep.Never {
		if at := x.cfg.World.When(ticks); at.Before(until) {
			until, due = at, true
		}
	}
	if pause := x.began.Add(x.core.Pause()); pause.After(now) && pause.Before(until) {
		until, due = pause, false
	}
	if at := x.patrolAt.Add(patrolEvery); idle && x.core.Duplex() && at.Before(until) {
		until, due = at, false
	}
	if at := now.Add(flushEvery); len(x.unsent[0])+len(x.unsent[1]) > 0 && at.Before(until) {
		until, due = at, false
	}
	if _, joining := x.core.Progress(); joining {
		// A round may end while the guest rests, and what the core waits for is its own clock.
		if at := now.Add(5 * time.Millisecond); at.Before(until) {
			until, due = at, false
		}
	}
	if left := until.Sub(now); left > 0 {
		timer.Reset(left)
		select {
		case <-x.wake:
		case <-x.inbox.Wake():
		case <-x.cfg.Wake:
		case <-timer.C:
			return due
		}
		return false
	}
	return due
}

// flush sends what did not fit.
func (x *Crossbar) flush() {
	for s := range x.unsent {
		list := x.unsent[s]
		for len(list) > 0 && x.mods[s] != nil {
			if err := x.mods[s].Send(&list[0]); err != nil {
				if !waits(err) {
					x.core.Gone(lockstep.Side(s), "garbage", err.Error())
				}
				break
			}
			list = list[1:]
		}
		x.unsent[s] = list
		if x.mods[s] == nil {
			x.unsent[s] = nil
		}
	}
}

// waits says whether a command that could not be sent is no fault of the module: its ring is
// full, or its process is dead, which is reported behind all that it has sent.
func waits(err error) bool { return errors.Is(err, port.ErrFull) || errors.Is(err, port.ErrClosed) }

// finish ends what would wait for Run.
func (x *Crossbar) finish() {
	x.begin.Do(func() { close(x.started) })
	x.mu.Lock()
	x.closed = true
	posted := x.posted
	x.posted = nil
	x.mu.Unlock()
	for _, f := range posted {
		f() // a call finds the outcome set
	}
	x.untested()
	x.setStatus()
}

// Hold has the machine stand until Resume. It is for the World's methods.
func (x *Crossbar) Hold() { x.core.Hold() }

// Holds counts the reasons that there were to stand. It is for the World's methods.
func (x *Crossbar) Holds() uint64 { return x.core.Holds() }

// Resume has a machine go on that stands, unless there is a reason to that came behind the
// first n.
func (x *Crossbar) Resume(n uint64) error {
	return x.call(func() error {
		x.core.Resume(n)
		return nil
	})
}

// Memory is the memory that a module of a machine that has ended stands with, nil without one.
func (x *Crossbar) Memory() []byte {
	for _, m := range x.mods {
		if m != nil {
			return m.RAM()
		}
	}
	return nil
}

// Last is the last quantum agreed on, once Run has returned.
func (x *Crossbar) Last() lockstep.Record { return x.core.Last() }

// Close ends the modules, once Run has returned, and waits until all of them are gone.
func (x *Crossbar) Close() {
	for s, m := range x.mods {
		if m != nil {
			x.mods[s] = nil
			m.Fence("the machine has ended")
			x.bury(m)
		}
	}
	x.beside.Wait()
}

// bury releases a fenced module when nobody uses its memory any more. What the core reports of
// it next may want it: that is waited for while Run goes on.
func (x *Crossbar) bury(m *mod) {
	m.use.Add(1)
	if !x.running.Load() || !x.post(m.use.Done) {
		m.use.Done()
	}
	x.beside.Go(func() {
		m.use.Wait()
		x.release(m)
	})
}

// release gives a module back that is fenced and used by nobody.
func (x *Crossbar) release(m *mod) {
	if err := m.Release(); err != nil {
		x.cfg.Log.Warn("a CPU module's end", "side", m.side, "err", err)
	}
	x.drop(m, m.pid)
}

// Join starts a process for a side and brings it in. It returns when the module has been
// tested, or refused; the rest is told by events.
func (x *Crossbar) Join(s lockstep.Side) error {
	<-x.started
	if err := x.free(s); err != nil {
		return err
	}
	m, err := x.startModule(s)
	if err != nil {
		return err
	}
	tested := make(chan error, 1)
	err = x.call(func() error {
		if err := x.core.MayJoin(s); err != nil {
			return err
		}
		x.mods[s], x.unsent[s] = m, nil
		x.injected[s], x.struck[s], x.atOnce[s] = nil, nil, false
		x.faulty(s)
		x.statusMu.Lock()
		x.links[s].tested = tested
		x.statusMu.Unlock()
		return x.core.Join(s)
	})
	if err != nil {
		m.Fence(err.Error())
		x.bury(m)
		return err
	}
	return <-tested
}

// free waits until a side may be brought in: what is being learnt of the module that was there
// before takes some milliseconds.
func (x *Crossbar) free(s lockstep.Side) error {
	deadline := time.Now().Add(freeMax)
	for {
		err := x.call(func() error { return x.core.MayJoin(s) })
		if !errors.Is(err, lockstep.ErrLeaving) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(freeEvery)
	}
}

// faulty puts what sticks to a place into its new module.
func (x *Crossbar) faulty(s lockstep.Side) {
	if f := x.cfg.Slots.get(s); f != nil {
		x.injected[s] = f
		(*hands)(x).Send(s, faultCommand(f))
	}
}

// Leave takes a side out of lockstep for good.
func (x *Crossbar) Leave(s lockstep.Side, why string) error {
	return x.call(func() error {
		if x.mods[s] == nil {
			return fmt.Errorf("%v is not in", s)
		}
		x.core.Leave(s, why)
		return nil
	})
}

// SplitOff takes a side out of lockstep as it is; the event Split has it.
func (x *Crossbar) SplitOff(s lockstep.Side, last bool) error {
	return x.call(func() error { return x.core.SplitOff(s, last) })
}

// signal sends a signal to a side's process.
func (x *Crossbar) signal(s lockstep.Side, sig unix.Signal) error {
	m := x.mods[s]
	if m == nil {
		return fmt.Errorf("%v has no process", s)
	}
	return unix.PidfdSendSignal(m.Descriptors()[3], sig, nil, 0)
}
