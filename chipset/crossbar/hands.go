package crossbar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ft/chipset/backplane"
	"ft/chipset/cpu"
	"ft/chipset/engine"
	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/chipset/narrow"
	"ft/chipset/port"
)

// hands are the crossbar as the core sees it.
type hands Crossbar

func (h *hands) x() *Crossbar { return (*Crossbar)(h) }

// Now is the time since the machine was made.
func (h *hands) Now() time.Duration { return time.Since(h.began) }

// Grant asks the world.
func (h *hands) Grant() module.Input { return h.cfg.World.Grant(h.core.AheadSteps()) }

// Send gives a module a command, or keeps it until there is room.
func (h *hands) Send(s lockstep.Side, c *lockstep.Command) {
	m := h.mods[s]
	if m == nil {
		return
	}
	if c.Verb == lockstep.Back {
		h.x().journalJudging(true)
	}
	if len(h.unsent[s]) == 0 {
		switch err := m.Send(c); {
		case err == nil:
			return
		case !waits(err):
			h.x().post(func() {
				if h.mods[s] == m {
					h.core.Gone(s, "garbage", err.Error())
				}
			})
			return
		}
	}
	h.unsent[s] = append(h.unsent[s], *c)
}

// Applied tells a world that wants to know.
func (h *hands) Applied(step uint64, in []byte) {
	if w, ok := h.cfg.World.(interface{ Applied(uint64, []byte) }); ok {
		w.Applied(step, in)
	}
}

// Release lets an output out.
func (h *hands) Release(r *lockstep.Record) {
	h.statusMu.Lock()
	for s := range h.links {
		if h.core.Within(lockstep.Side(s)) {
			h.links[s].passed++
		}
	}
	h.statusMu.Unlock()
	h.cfg.World.Release(r)
}

// Fence cuts a module off.
func (h *hands) Fence(s lockstep.Side, why string) {
	m := h.mods[s]
	if m == nil {
		return
	}
	h.mods[s], h.unsent[s], h.fenced[s] = nil, nil, m
	h.close(s)
	m.Fence(why)
	h.x().bury(m)
}

// close turns a side's links off.
func (h *hands) close(s lockstep.Side) {
	h.x().journalWithin(s, false)
	h.statusMu.Lock()
	h.links[s].open = false
	h.statusMu.Unlock()
}

// Copy copies memory beside the loop.
func (h *hands) Copy(from, to lockstep.Side, pages []uint32) {
	x, src, dst := h.x(), h.mods[from], h.mods[to]
	src.use.Add(1)
	dst.use.Add(1)
	n, size := len(pages), len(dst.RAM())/lockstep.PageSize
	if pages == nil {
		n = size
	}
	x.copied.begin(n)
	x.beside.Go(func() {
		defer src.use.Done()
		defer dst.use.Done()
		began := time.Now()
		var err error
		if pages == nil {
			err = backplane.CopyAll(context.Background(), dst.Module, src.Module, backplane.Rate{Progress: x.copied.progress, Yield: x.pace()})
		} else {
			err = backplane.CopyPages(dst.Module, src.Module, pages, nil)
		}
		took := time.Since(began)
		x.post(func() {
			if x.mods[to] == dst {
				x.core.Copied(n, took, err)
			}
		})
	})
}

// refereeMax bounds how long a third opinion may take.
const refereeMax = 30 * time.Second

// Referee has a fresh process do what both were told.
func (h *hands) Referee(from lockstep.Side, state []byte, log []lockstep.Command) {
	x, src := h.x(), h.mods[from]
	src.use.Add(1)
	x.beside.Go(func() {
		defer src.use.Done()
		heard, err := x.hear(src, state, log)
		x.post(func() { x.core.Refereed(heard, err) })
	})
}

// hear starts a process with a module's memory, of which it gets copies where it writes, and listens to what it makes of the
// stream.
func (x *Crossbar) hear(src *mod, state []byte, log []lockstep.Command) (*lockstep.Transcript, error) {
	cfg := x.cfg.Backplane
	cfg.Side, cfg.CPU, cfg.Inbox, cfg.Of, cfg.Engine = src.side, -1, backplane.NewInbox(), src.Module, engine.Interpreter
	m, err := backplane.Start(cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		m.Fence("it has said what it had to say")
		if err := m.Release(); err != nil {
			x.cfg.Log.Warn("the referee's end", "err", err)
		}
	}()
	deadline := time.NewTimer(refereeMax)
	defer deadline.Stop()
	retry := time.NewTicker(flushEvery)
	defer retry.Stop()
	todo := append([]lockstep.Command{{Verb: lockstep.Load, A: 1, Data: state}}, log...)
	heard, want := &lockstep.Transcript{}, lockstep.Asks(log)
	for len(heard.Sums()) < want {
		for len(todo) > 0 {
			if err := m.Send(&todo[0]); errors.Is(err, port.ErrFull) {
				break
			} else if err != nil {
				return nil, err
			}
			todo = todo[1:]
		}
		select {
		case <-cfg.Inbox.Wake():
			for _, d := range cfg.Inbox.Take(nil) {
				if d.Gone != nil {
					return nil, errors.New("the referee: " + d.Gone.Text)
				}
				heard.Add(d.Record)
			}
		case <-retry.C:
		case <-deadline.C:
			return nil, fmt.Errorf("the referee has not answered within %v", refereeMax)
		}
	}
	return heard, nil
}

// Page copies a page.
func (h *hands) Page(s lockstep.Side, index uint32) []byte {
	at := int(index) * lockstep.PageSize
	return bytes.Clone(h.mods[s].RAM()[at : at+lockstep.PageSize])
}

// Report passes events on, with what is known here.
func (h *hands) Report(e lockstep.Event) {
	x := h.x()
	ev := &Event{Event: e, Injected: h.injected[e.Side] != nil}
	switch e.Kind {
	case lockstep.Started, lockstep.Adopted:
		x.journalWithin(e.Side, true)
		x.begin.Do(func() { close(x.started) })
	case lockstep.InjectedFault:
		// Where it took effect is where it is put in again, to look for the first wrong step.
		// Stores and results are told of behind them; what came with its module is there from
		// the beginning.
		switch f := h.injected[e.Side]; {
		case f == nil || cpu.Persistent(f.Name) && (f.Step > 0 || !h.atOnce[e.Side]):
		case strings.HasSuffix(f.Name, "-store"), f.Name == "wrong-result":
			f.Step = e.Step - 1
		default:
			f.Step = e.Step
		}
		h.struck[e.Side] = h.injected[e.Side]
	case lockstep.Shot:
		h.close(e.Side)
	case lockstep.JoinedIn:
		h.statusMu.Lock()
		h.links[e.Side].open = true
		h.statusMu.Unlock()
		x.journalWithin(e.Side, true)
	case lockstep.WentOn, lockstep.Repaired:
		x.journalJudging(false)
	case lockstep.JoinStage, lockstep.JoinFailed:
		x.tested(e)
	case lockstep.Split:
		m := h.mods[e.Side]
		h.mods[e.Side] = nil
		h.close(e.Side)
		if m != nil {
			ev.Apart = &Apart{State: e.State, x: x, m: m}
		}
	case lockstep.GuestReset:
		reset := e.Reset
		h.outcome = &Outcome{Reset: &reset}
	case lockstep.Lost:
		h.outcome = &Outcome{Lost: e.Text}
	case lockstep.Evidence:
		x.find(ev, h.fenced[e.Side])
		return
	}
	h.cfg.World.Event(ev)
}

// tested answers a Join that waits.
func (x *Crossbar) tested(e lockstep.Event) {
	x.statusMu.Lock()
	defer x.statusMu.Unlock()
	l := &x.links[e.Side]
	if l.tested == nil || e.Kind == lockstep.JoinStage && e.Text == "diagnostics" {
		return
	}
	var err error
	if e.Kind == lockstep.JoinFailed {
		err = &Failed{e.Fault}
	}
	l.tested <- err
	l.tested = nil
}

// untested ends the Joins that wait.
func (x *Crossbar) untested() {
	x.statusMu.Lock()
	defer x.statusMu.Unlock()
	for s := range x.links {
		if l := &x.links[s]; l.tested != nil {
			l.tested <- ErrOver
			l.tested = nil
		}
	}
}

// Failed is why a module was not taken in.
type Failed struct{ lockstep.Finding }

func (f *Failed) Error() string { return f.Text }

// find looks for the first differing step beside the loop, and reports then.
func (x *Crossbar) find(ev *Event, m *mod) {
	if m == nil {
		x.cfg.World.Event(ev)
		return
	}
	injection := x.struck[ev.Side]
	if injection == nil {
		injection = x.injected[ev.Side]
	}
	m.use.Add(1)
	x.beside.Go(func() {
		defer m.use.Done()
		<-m.Done() // nobody writes to its memory any more
		res, err := narrow.Find(&narrow.Case{
			Memory: m.Descriptors()[0], Bytes: int64(len(m.RAM())), Build: x.cfg.Build, Engine: x.cfg.Engines[m.side], Case: *ev.Case, Injection: injection,
		})
		ev.Found, ev.FindErr = &res, err
		x.post(func() { x.cfg.World.Event(ev) })
	})
}
