package chipset

import (
	"fmt"
	"os"
	"time"

	"ft/chipset/crossbar"
	"ft/chipset/engine"
	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/drivers"
)

// side is a CPU module's place, as the driver tells of it.
type side struct {
	state  drivers.State
	reason string
	since  time.Time
	last   string // the last fault of it, in words
}

// Status is a consistent snapshot.
func (d *driver) Status() drivers.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := drivers.Status{
		Kind: Kind, Name: d.cfg.Name, Pid: os.Getpid(), Seq: d.seq, Since: d.since, Reason: d.reason,
		State: d.face(), Stats: d.stats(),
	}
	if st.State != drivers.FaceDown {
		st.Face = d.cfg.Name
	}
	for s := range d.sides {
		have := &d.sides[s]
		st.Sides[s] = drivers.SideStatus{State: have.state, Resource: d.cfg.Sides[s].Resource, Reason: have.reason, Since: have.since, Active: have.state.InService()}
		if d.power == powerOff && have.state == drivers.Offline {
			st.Sides[s].OutBy = drivers.OutByGuest
		}
	}
	for s, job := range d.dumps {
		if job != nil && d.sides[s].state == drivers.Dumping {
			st.Sides[s].Progress = job.progress()
		}
	}
	if b := d.boot; b != nil {
		m, x := b.w.measured(), b.x.Status()
		for s := range st.Sides {
			switch {
			case st.Sides[s].State.InService():
				st.Sides[s].Note = fmt.Sprintf("%.0f M steps/s", m.Speed/1e6)
			case st.Sides[s].State == drivers.Syncing && x.What != "":
				p := &drivers.Progress{What: x.What, Percent: 100 * x.Share, DoneBytes: x.Copied, TotalBytes: x.Total, RateBytes: int64(x.Rate), ETASeconds: -1}
				if x.Rate > 0 {
					p.ETASeconds = x.Left.Seconds()
				}
				st.Sides[s].Progress = p
			}
		}
	}
	return st
}

func (d *driver) face() drivers.FaceState {
	if d.power != powerRunning {
		return drivers.FaceDown
	}
	a, b := d.sides[0].state, d.sides[1].state
	switch {
	case a == drivers.Duplex && b == drivers.Duplex:
		return drivers.FaceDuplex
	case a == drivers.Syncing || b == drivers.Syncing || a == drivers.Diagnostics || b == drivers.Diagnostics:
		return drivers.FaceSyncing
	}
	return drivers.FaceSimplex
}

func (d *driver) now() power {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.power
}

// become is the one place where the machine's power changes.
func (d *driver) become(p power, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.becomeLocked(p, why)
}

func (d *driver) becomeLocked(p power, why string) {
	if d.power == p && d.reason == why {
		return
	}
	d.change(func() {
		d.env.Log.Info("the machine changes", "from", d.power, "to", p, "why", why)
		told := d.power != p || d.sides[0].reason != why && d.sides[1].reason != why
		d.power, d.reason, d.since = p, why, time.Now()
		for s := range d.sides {
			switch st := d.sides[s].state; {
			case p.serving() || st == drivers.Empty:
			case st.InService() || st == drivers.Syncing || st == drivers.Diagnostics:
				if p == powerStarting {
					continue
				}
				d.setSide(drivers.Side(s), drivers.Offline, why)
				told = false
			}
		}
		if told {
			d.emit(drivers.Event{Kind: drivers.EventNote, Side: drivers.Whole, Reason: string(p) + ": " + why})
		}
	})
	d.env.Text(string(p) + ": " + why)
}

// change does what may change the face, and tells when it has. Under mu.
func (d *driver) change(f func()) {
	was := d.face()
	f()
	if is := d.face(); is != was {
		d.emit(drivers.Event{Kind: drivers.EventFace, Side: drivers.Whole, From: was.String(), To: is.String(), Reason: d.reason})
	}
}

// setSide changes a side's state. Under mu.
func (d *driver) setSide(s drivers.Side, to drivers.State, why string) {
	d.setSideEvent(s, to, drivers.Event{Reason: why})
}

func (d *driver) setSideEvent(s drivers.Side, to drivers.State, e drivers.Event) {
	have := &d.sides[s]
	from := have.state
	have.reason = e.Reason
	if from == to || from == drivers.Empty {
		return
	}
	d.change(func() {
		have.state, have.since = to, time.Now()
		e.Kind, e.Side, e.From, e.To = drivers.EventSide, s, from.String(), to.String()
		e.Identity = d.cfg.Sides[s].Resource.Identity
		if d.power == powerOff && to == drivers.Offline {
			e.Detail = map[string]any{"out_by": drivers.OutByGuest}
		}
		d.emit(e)
	})
}

// othersWait puts the partner of the side that a machine has started on out of service, for
// whoever brings it in.
func (d *driver) othersWait(s drivers.Side, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o := s.Other(); d.sides[o].state.InService() || d.sides[o].state == drivers.Syncing || d.sides[o].state == drivers.Diagnostics {
		d.setSide(o, drivers.Offline, why)
	}
}

// note is an event that changes no state.
func (d *driver) note(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emit(drivers.Event{Kind: drivers.EventNote, Side: drivers.Whole, Reason: text})
}

// moduleEvent follows what happened to a CPU module.
func (d *driver) moduleEvent(w *world, e *crossbar.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := drivers.Side(e.Side)
	name := e.Side.String()
	note := func(text string, detail map[string]any) {
		d.emit(drivers.Event{Kind: drivers.EventNote, Side: s, Reason: text, Detail: detail, Injected: e.Injected})
	}
	switch e.Kind {
	case lockstep.Shot:
		d.sides[s].last = e.Fault.Text
		detail := map[string]any{"cause": e.Fault.Cause, "from_step": e.Fault.From, "to_step": e.Fault.To}
		if len(e.Fault.Differs) > 0 {
			detail["differs"] = fmt.Sprint(e.Fault.Differs)
		}
		if e.Fault.HasPage {
			detail["page"] = e.Fault.Page
		}
		d.change(func() {
			d.setSideEvent(s, drivers.Shot, drivers.Event{Reason: name + " was shot: " + e.Fault.Text, Fault: e.Fault.Cause, Injected: e.Injected, Detail: detail})
			if o := s.Other(); d.sides[o].state == drivers.Duplex || d.sides[o].state == drivers.Syncing && w.within(o) {
				d.setSide(o, drivers.Simplex, "alone: "+name+" was shot")
			}
		})
	case lockstep.WentOn:
		note(fmt.Sprintf("%s went on alone %.1f ms after the difference was noticed", name, ms(e.Latency)), map[string]any{"latency_us": e.Latency.Microseconds()})
	case lockstep.Transient:
		d.emit(drivers.Event{Kind: drivers.EventNote, Side: s, Reason: name + " had a passing fault: " + e.Fault.Text, Fault: e.Fault.Cause, Injected: e.Injected})
	case lockstep.Repaired:
		note("the modules differed, and agree now", nil)
	case lockstep.Undecided:
		note("nothing could be decided: "+e.Text, nil)
	case lockstep.InjectedFault:
		note(fmt.Sprintf("the drill's fault is in at step %d: %s", e.Step, e.Text), map[string]any{"step": e.Step})
	case lockstep.JoinStage:
		switch e.Text {
		case "diagnostics":
			d.setSide(s, drivers.Diagnostics, "its self-test runs")
		case "memory copy":
			d.setSide(s, drivers.Syncing, "memory is being copied to it")
		default:
			note(e.Text, nil)
		}
	case lockstep.JoinedIn:
		note(fmt.Sprintf("%s is in lockstep: the guest stood for %.1f ms; both memories are compared", name, ms(e.Blackout)),
			map[string]any{"blackout_us": e.Blackout.Microseconds()})
		d.sides[s].reason = "in lockstep; both memories are compared"
	case lockstep.Equal:
		d.change(func() {
			d.setSide(s, drivers.Duplex, "both memories are equal")
			d.setSide(s.Other(), drivers.Duplex, "with its partner "+name)
		})
	case lockstep.JoinFailed:
		to, ev := drivers.Shot, drivers.Event{Reason: name + " did not come in: " + e.Fault.Text, Fault: e.Fault.Cause, Injected: e.Injected}
		switch e.Fault.Cause {
		case "converge", "leave":
			to, ev.Fault = drivers.Offline, ""
		case "self-test":
			to = drivers.Offline
		}
		d.setSideEvent(s, to, ev)
	case lockstep.Evidence:
		d.evidence(s, e)
	case lockstep.Split:
		if e.Apart == nil {
			d.setSide(s, drivers.Offline, "its memory could not be written: "+e.Text)
			return
		}
		d.beginDump(s, e.Apart, d.dumpTo[s], "asked for by an admin", true)
	case lockstep.DamagedAlone:
		note("memory is damaged, and it is not known whose: "+e.Text, nil)
	}
}

// evidence tells of the first step at which a module was wrong.
func (d *driver) evidence(s drivers.Side, e *crossbar.Event) {
	ev := drivers.Event{Kind: drivers.EventNote, Side: s, Injected: e.Injected, Detail: map[string]any{}}
	name := e.Side.String()
	switch r := e.Found; {
	case e.FindErr != nil:
		ev.Reason = name + ": the first differing step was not found: " + e.FindErr.Error()
	case r == nil:
		return
	case r.Found:
		ev.Detail["first_step"], ev.Detail["pc"] = r.Step, fmt.Sprintf("%x", r.PC)
		ev.Reason = fmt.Sprintf("%s differed first at step %d (pc %x)%s", name, r.Step, r.PC, r.What())
		if len(r.Differs) > 0 {
			first := r.Differs[0]
			ev.Detail["what"], ev.Detail["bad"], ev.Detail["good"] = first.What, fmt.Sprintf("%#x", first.Bad), fmt.Sprintf("%#x", first.Good)
		}
	case r.HasWord:
		ev.Reason = fmt.Sprintf("%s: %s; nothing has used it", name, r.Word)
	default:
		ev.Reason = fmt.Sprintf("%s does not differ when the epoch is done again: the fault has passed; it lay between step %d and step %d", name, e.Case.Fault.From, e.Case.Fault.To)
	}
	if r := e.Found; r != nil && r.HasWord {
		ev.Detail["word"] = r.Word.String()
	}
	d.sides[s].last = ev.Reason
	if d.sides[s].state == drivers.Shot {
		d.sides[s].reason = ev.Reason
	}
	d.emit(ev)
}

// engineStats are what a module says of what executes its hart.
func engineStats(c crossbar.SideStatus) map[string]any {
	s := map[string]any{"engine": c.Engine}
	if t := c.Translator; c.Engine == engine.Translator {
		s["translator"] = map[string]any{
			"blocks": t.Blocks, "code_bytes": t.CodeBytes, "translations": t.Translations, "instructions": t.Ops,
			"flushes": t.Flushes, "translate_ms": float64(t.TranslateNS) / 1e6, "native_steps": t.NativeSteps, "entries": t.Entries,
		}
	}
	return s
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// emit reports. Under mu.
func (d *driver) emit(e drivers.Event) {
	d.seq++
	e.Seq, e.Time = d.seq, time.Now()
	select {
	case d.events <- e:
	default:
		d.dropped++ // the host reads Status when numbers are missing
	}
}

// Events are the driver's reports.
func (d *driver) Events() <-chan drivers.Event { return d.events }

// stats are for `ftctl show`. Under mu.
func (d *driver) stats() map[string]any {
	s := map[string]any{
		"state": d.power, "kernel": d.opt.Kernel, "memory_bytes": d.opt.MemoryBytes, "engine": d.opt.Engine, "compare": d.opt.Compare,
		"boots": d.boots, "events_dropped": d.dropped,
	}
	if b := d.boot; b != nil {
		m := b.w.measured()
		s["steps"], s["steps_per_second"], s["idle_share"] = m.Steps, m.Speed, m.IdleShare
		s["uptime_seconds"] = m.Uptime.Seconds()
		s["guest_time"] = float64(m.GuestTicks) / module.TimebaseHz
		s["wall_lag_ms"] = ms(m.WallLag)
		d.lockstepStats(s, b.x.Status())
	}
	d.deviceStats(s)
	return s
}

// lockstepStats are what `ftctl show` tells of the two modules and their links.
func (d *driver) lockstepStats(s map[string]any, x crossbar.Status) {
	s["lockstep"] = map[string]any{
		"phase": x.Phase, "quanta": x.Quanta, "compared": x.Compared, "epochs": x.Epochs, "outputs": x.Outputs, "inputs": x.Inputs,
		"differences": x.Trials, "repaired": x.Repaired, "patrol_pages": x.Pages, "patrol_passes": x.Passes,
		"joins": x.Joins, "blackout_ms": ms(x.Blackout), "brownout_ms": ms(x.Brownout), "copy_rounds": x.Rounds, "throttled_ms": ms(x.Throttled),
	}
	links := map[string]any{}
	for i, c := range x.Sides {
		for p := range 2 {
			state := "off"
			if c.Open {
				state = "on"
			}
			links[fmt.Sprintf("cpu%d-pci%d", i, p)] = map[string]any{"state": state, "passed": c.Passed, "refused": c.Refused}
		}
	}
	s["links"] = links
	pids := map[string]any{}
	for i, c := range x.Sides {
		if c.Pid > 0 {
			pids[fmt.Sprintf("cpu%d", i)] = c.Pid
		}
	}
	s["modules"] = pids
	for i, c := range x.Sides {
		if c.Engine != "" {
			s[fmt.Sprintf("cpu%d", i)] = engineStats(c)
		}
	}
	for i := range d.sides {
		if d.sides[i].last != "" {
			s[fmt.Sprintf("cpu%d_last_fault", i)] = d.sides[i].last
		}
	}
}
