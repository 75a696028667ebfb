package bond

import (
	"fmt"
	"time"

	"ft/bond/datapath"
	"ft/bond/monitor"
	"ft/drivers"
)

// This file is the way from what is seen to what is done: on the thread that saw it,
// under mu, the data path first.

// step gives the core an event and does what it says. The error is a refusal.
func (d *driver) step(ev Event) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return drivers.Refuse(drivers.RuleState, "%s is being stopped", d.cfg.Name)
	}
	return d.stepLocked(ev)
}

func (d *driver) stepLocked(ev Event) error {
	for s := range d.ports {
		if p := d.ports[s].prober; p != nil {
			d.core.Heard(drivers.Side(s), p.Heard())
		}
	}
	out := d.core.Step(time.Now(), ev)
	d.apply(out)
	close(d.stir)
	d.stir = make(chan struct{})
	return out.Refusal
}

// apply does what the core says. Under mu.
func (d *driver) apply(out Out) {
	if out.State != nil {
		if err := d.path.SetState(*out.State, out.Planned); err != nil {
			// It cannot be known what carries now: a successor finds out.
			d.env.Fatal(fmt.Errorf("%s: switch the data path: %w", d.cfg.Name, err))
			return
		}
	}
	done := time.Now()
	if s := out.Switch; s != nil && s.To.Valid() {
		d.announce.Announce(s.To)
	}
	if out.Carrier != nil {
		if err := d.path.SetCarrier(*out.Carrier); err != nil {
			d.env.Log.Error("the face's carrier", "up", *out.Carrier, "err", err)
		}
	}
	for _, r := range out.Reports {
		d.report(r)
	}
	if out.Switch != nil {
		d.reportSwitch(*out.Switch, done)
	}
	d.arm(out.Timer)
	if out.Switch != nil || len(out.Reports) > 0 {
		d.env.Text(d.text())
	}
}

// arm has a Tick come at a time.
func (d *driver) arm(at time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), func() { _ = d.step(Tick{}) })
	}
}

// text is the line for the keeper.
func (d *driver) text() string {
	if a := d.core.active; a.Valid() {
		return d.core.ports[a].name + " carries " + d.cfg.Name
	}
	return "no port carries " + d.cfg.Name
}

// carrierSeen is called on the poller's thread.
func (d *driver) carrierSeen(s drivers.Side, c monitor.Carrier) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := &d.ports[s]
	if d.stopped || p.link.Index == 0 {
		return
	}
	d.catchTurn()
	if c.Gone {
		d.nicGoneLocked(s, c.At)
		return
	}
	if p.carrier && !c.Up {
		d.counts.carrierLosses[s]++
	}
	p.carrier = c.Up
	_ = d.stepLocked(CarrierSeen{Side: s, Up: c.Up && p.fault != datapath.FaultDark, At: c.At})
}

// nicGone acts on a NIC that has vanished, and lets go of it later.
func (d *driver) nicGone(s drivers.Side, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stopped {
		d.nicGoneLocked(s, at)
	}
}

func (d *driver) nicGoneLocked(s drivers.Side, at time.Time) {
	l := d.ports[s].link
	if l.Index == 0 {
		return // that is known already
	}
	d.catchTurn()
	_ = d.stepLocked(Gone{Side: s, Why: l.Name + " has vanished", At: at})
	d.letGoLocked(s)
}

// pathSeen is called on the thread of a prober.
func (d *driver) pathSeen(s drivers.Side, v monitor.Verdict, why string, at time.Time) {
	path := PathUnknown
	switch v {
	case monitor.Gone:
		d.nicGone(s, at)
		return
	case monitor.Good:
		path = PathGood
	case monitor.Bad:
		path = PathBad
	}
	_ = d.step(PathSeen{Side: s, Path: path, Why: why, At: at})
}

// lookForTurn finds a turn of the kernel whose cause was over before the poll looked.
func (d *driver) lookForTurn() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stopped {
		d.catchTurn()
	}
}

// catchTurn tells the core if the kernel has turned. Under mu. Where the kernel cannot
// turn, asking would be for nothing.
func (d *driver) catchTurn() {
	if !d.started || d.path.Describe().Kind == datapath.TC {
		return
	}
	st, turn, err := d.path.State()
	if err != nil || turn.Count == d.turns {
		return
	}
	d.turns = turn.Count
	d.counts.kernelTurns++
	if st.Active != d.core.active {
		_ = d.stepLocked(Turned{To: st.Active, At: turn.At})
	}
}

// report sends the change of a side's state.
func (d *driver) report(r Report) {
	ev := drivers.Event{Kind: drivers.EventSide, Side: r.Side, From: r.From.String(), To: r.To.String(), Reason: r.Reason, Fault: r.Fault,
		Injected: d.ports[r.Side].drill != "", Identity: d.identity(r.Side)}
	if r.Fault != "" {
		d.counts.damped++
	}
	d.send(ev)
}

// reportSwitch tells of another active port, with the time that it took.
func (d *driver) reportSwitch(s Switch, done time.Time) {
	by := "driver"
	gap := max(done.Sub(s.CauseAt), 0)
	if s.Kernel {
		by, gap = "kernel", 0
	}
	from, to := d.portName(s.From), d.portName(s.To)
	d.counts.last = &lastFailover{From: from, To: to, Cause: s.Cause, GapUS: gap.Microseconds(), At: done, By: by}
	switch {
	case s.Planned:
		d.counts.planned++
	case s.From.Valid() && s.To.Valid():
		d.counts.failovers++
	}
	reason := fmt.Sprintf("%s carries %s now: %s", to, d.cfg.Name, s.Cause)
	switch {
	case s.To == datapath.None:
		reason = fmt.Sprintf("no port carries %s: %s", d.cfg.Name, s.Cause)
	case s.Kernel:
		reason += "; the kernel turned at once"
	default:
		reason += fmt.Sprintf("; %s from cause to switch", gap.Round(time.Microsecond))
	}
	d.noteLocked(datapath.None, reason, map[string]any{"cause": s.Cause, "from_port": from, "to_port": to, "gap_us": gap.Microseconds(), "by": by})
}

func (d *driver) portName(s drivers.Side) string {
	if !s.Valid() {
		return ""
	}
	return d.core.ports[s].name
}

func (d *driver) identity(s drivers.Side) string {
	if d.ports[s].link.Index == 0 {
		return ""
	}
	return d.ports[s].link.Identity()
}

// note tells what changes no state.
func (d *driver) note(s drivers.Side, reason string, detail map[string]any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noteLocked(s, reason, detail)
}

func (d *driver) noteLocked(s drivers.Side, reason string, detail map[string]any) {
	d.send(drivers.Event{Kind: drivers.EventNote, Side: s, Reason: reason, Detail: detail})
}

func (d *driver) send(ev drivers.Event) {
	d.seq++
	ev.Seq, ev.Time = d.seq, time.Now()
	select {
	case d.events <- ev:
	default:
		d.dropped++
	}
}
