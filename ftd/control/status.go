package control

import (
	"fmt"
	"math"
	"time"

	"ft/drivers"
)

// This file fills the status document of view.go. Nothing here changes anything.

// Status is the whole box as of a time, which is used for durations only.
func (c *Core) Status(now time.Time) StatusDocument {
	doc := StatusDocument{
		System: SystemView{
			Name: c.cfg.Name, State: c.box.state, Since: c.box.since, Seq: c.seq, Bringup: c.bringup(), Boot: c.boot.clone(),
		},
		Modules: []ModuleView{},
		Devices: []DeviceView{},
	}
	doc.System.Verdict, doc.System.Action = c.verdict(now)
	for i := range c.modules {
		m := &c.modules[i]
		if len(m.sides) == 0 {
			continue
		}
		note := c.pullNote(m.sides...)
		v := ModuleView{ID: m.id, State: m.state, SafeToPull: note == "", PullNote: note, Reason: m.reason, Since: m.since}
		for _, s := range m.sides {
			v.Sides = append(v.Sides, s.id)
		}
		doc.Modules = append(doc.Modules, v)
	}
	for _, d := range c.devices {
		doc.Devices = append(doc.Devices, c.deviceView(d, now))
	}
	return doc
}

func (c *Core) deviceView(d *device, now time.Time) DeviceView {
	v := DeviceView{
		ID: d.name, Kind: d.kind.name, State: d.face.state, Face: d.path, Pid: d.pid, Driver: d.link,
		Reason: d.face.reason, Since: d.face.since, Stats: d.stats,
	}
	if v.Stats == nil {
		v.Stats = map[string]any{}
	}
	v.Verdict, v.Action = c.deviceVerdict(d, now)
	for i := range d.sides {
		v.Sides = append(v.Sides, c.sideView(&d.sides[i], now))
	}
	return v
}

func (c *Core) sideView(s *side, now time.Time) SideView {
	note := c.pullNote(s)
	v := SideView{
		ID: s.id, State: s.state, Resource: s.resource.Path, Identity: s.identity, Reason: s.reason, Since: s.since,
		SafeToPull: note == "", PullNote: note, Active: s.active && s.state.InService(), Target: s.target.Direction, TargetBy: s.target.By,
		Draining: s.draining, Note: s.note, MTBF: c.mtbfView(s, now),
	}
	if s.hold.kind == holdRetry && !s.target.out() {
		until := s.hold.until
		v.RetryAt = &until
	}
	if s.recall != "" {
		v.Note = s.recall
	}
	if s.progress != nil {
		p := *s.progress
		v.Progress = &p
	}
	return v
}

func (c *Core) mtbfView(s *side, now time.Time) MTBFView {
	set := c.settingsOf(s)
	v := MTBFView{ThresholdHours: hours(set.Threshold), MinFaults: set.MinFaults, Policy: set.Policy}
	h := c.history[s.historyKey()]
	if h == nil {
		return v
	}
	v.Faults, v.Injected, v.Hours = h.Real.Count, h.Injected.Count, hours(now.Sub(h.Since))
	if mean, ok := h.Real.mean(set.MinFaults); ok {
		m := hours(mean)
		v.MeanHours = &m
	}
	if n := len(h.Real.Last); n > 0 {
		last := h.Real.Last[n-1]
		v.LastFault, v.LastFaultAt = last.What, &last.At
	}
	if n := len(h.Injected.Last); n > 0 {
		at := h.Injected.Last[n-1].At
		v.LastDrillAt = &at
	}
	return v
}

// pullNote says why sides that are pulled together may not be, or "": every face that
// they carry must be left with a good side. What a side is in the middle of speaks
// against it too.
func (c *Core) pullNote(sides ...*side) string {
	for _, s := range sides {
		switch d := s.dev; {
		case d.link == LinkStarting && s.state == drivers.Offline:
			return fmt.Sprintf("the driver process of %s has not connected yet: how %s is cannot be known", d.name, s.id)
		case onItsWay(s.state) || s.state == drivers.Dumping:
			return fmt.Sprintf("%s is %v", s.id, s.state)
		case !s.state.InService():
		case d.link != LinkConnected:
			return fmt.Sprintf("%s carries %s, and its driver process is not connected: how its partner is cannot be known", s.id, d.faceName())
		case !s.partner().good() || s.partner().leaving():
			return fmt.Sprintf("%s is the only good side of %s", s.id, d.faceName())
		}
	}
	return ""
}

// hours with a hundredth, as people read them.
func hours(d time.Duration) float64 { return math.Round(max(d, 0).Hours()*100) / 100 }

// short writes a duration as 12 s, 3:05, 2 h 10 min or 4 d.
func short(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d:%02d min", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		if m := int(d.Minutes()) % 60; m != 0 {
			return fmt.Sprintf("%d h %d min", int(d.Hours()), m)
		}
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours())/24)
}
