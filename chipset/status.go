package chipset

import (
	"fmt"
	"os"
	"time"

	"ft/chipset/module"
	"ft/drivers"
)

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
	st.Sides[0] = drivers.SideStatus{State: d.side(), Resource: d.cfg.Sides[0].Resource, Reason: d.reason, Since: d.since, Active: d.power.serving()}
	if d.power == powerOff {
		st.Sides[0].OutBy = drivers.OutByGuest
	}
	st.Sides[1] = drivers.SideStatus{State: drivers.Empty, Resource: d.cfg.Sides[1].Resource, Since: d.since}
	if r := d.runner; r != nil {
		m := r.measured()
		st.Sides[0].Note = fmt.Sprintf("%.0f M steps/s", m.Speed/1e6)
	}
	return st
}

func (d *driver) face() drivers.FaceState {
	if d.power == powerRunning {
		return drivers.FaceSimplex
	}
	return drivers.FaceDown
}

func (d *driver) side() drivers.State {
	switch d.power {
	case powerRunning, powerPanicked:
		return drivers.Simplex
	case powerStarting:
		return drivers.Diagnostics
	}
	return drivers.Offline
}

func (d *driver) now() power {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.power
}

// become is the one place where the machine's state changes.
func (d *driver) become(p power, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.becomeLocked(p, why)
}

func (d *driver) becomeLocked(p power, why string) {
	if d.power == p && d.reason == why {
		return
	}
	face, side := d.face(), d.side()
	d.env.Log.Info("the machine changes", "from", d.power, "to", p, "why", why)
	d.power, d.reason, d.since = p, why, time.Now()
	if s := d.side(); s != side {
		e := drivers.Event{Kind: drivers.EventSide, Side: 0, From: side.String(), To: s.String(), Reason: why}
		if p == powerOff {
			e.Detail = map[string]any{"out_by": drivers.OutByGuest}
		}
		d.emit(e)
	} else {
		d.emit(drivers.Event{Kind: drivers.EventNote, Side: 0, Reason: string(p) + ": " + why})
	}
	if f := d.face(); f != face {
		d.emit(drivers.Event{Kind: drivers.EventFace, Side: drivers.Whole, From: face.String(), To: f.String(), Reason: why})
	}
	d.env.Text(string(p) + ": " + why)
}

// note is an event that changes no state.
func (d *driver) note(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emit(drivers.Event{Kind: drivers.EventNote, Side: 0, Reason: text})
}

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
		"state": d.power, "kernel": d.opt.Kernel, "memory_bytes": d.opt.MemoryBytes, "engine": "interpret", "compare": d.opt.Compare,
		"boots": d.boots, "events_dropped": d.dropped,
	}
	if r := d.runner; r != nil {
		m := r.measured()
		s["steps"], s["steps_per_second"], s["idle_share"] = m.Steps, m.Speed, m.IdleShare
		s["uptime_seconds"] = m.Uptime.Seconds()
		s["guest_time"] = float64(m.GuestTicks) / module.TimebaseHz
		s["wall_lag_ms"] = float64(m.WallLag.Microseconds()) / 1000
	}
	d.deviceStats(s)
	return s
}
