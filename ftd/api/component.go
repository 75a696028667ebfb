package api

import (
	"slices"
	"strings"
)

// How many events `show` looks through and gives.
const (
	componentEventScan = 512
	componentEventsMax = 10
)

// Components lists the box, the modules, the devices and their sides.
func Components(s Status) []Component {
	out := []Component{{ID: s.System.Name, Kind: KindSystem, State: s.System.State.String(), Since: s.System.Since, Reason: s.System.Verdict}}
	for _, m := range s.Modules {
		out = append(out, Component{ID: m.ID, Kind: KindModule, State: m.State.String(), Since: m.Since, Reason: m.Reason, SafeToPull: &m.SafeToPull})
	}
	for _, d := range s.Devices {
		out = append(out, Component{ID: d.ID, Kind: KindDevice, State: d.State.String(), Since: d.Since, Reason: d.Reason})
		for _, x := range d.Sides {
			out = append(out, Component{ID: x.ID, Kind: KindSide, State: x.State.String(), Since: x.Since, Reason: x.Reason, SafeToPull: &x.SafeToPull})
		}
	}
	return out
}

// FindComponent is one of them with all that the status says about it.
func FindComponent(s Status, id string) (Component, bool) {
	all := Components(s)
	if id == SystemID {
		id = s.System.Name
	}
	i := slices.IndexFunc(all, func(c Component) bool { return c.ID == id })
	if i < 0 {
		return Component{}, false
	}
	c := all[i]
	switch c.Kind {
	case KindSystem:
		c.System = &s.System
	case KindModule:
		c.Module = moduleByID(s, id)
		for _, d := range s.Devices {
			for _, x := range d.Sides {
				if ModuleOf(x.ID) == id {
					c.Sides = append(c.Sides, x)
				}
			}
		}
	case KindDevice, KindSide:
		for _, d := range s.Devices {
			if d.ID == id {
				c.Device = &d
			}
			for _, x := range d.Sides {
				if x.ID == id {
					c.Device, c.Side = &d, &x
				}
			}
		}
	}
	return c, true
}

func moduleByID(s Status, id string) *ModuleStatus {
	for i := range s.Modules {
		if s.Modules[i].ID == id {
			return &s.Modules[i]
		}
	}
	return nil
}

// ModuleOf is the module that carries a side: pci1 of pci1/disk0.
func ModuleOf(sideID string) string {
	m, _, _ := strings.Cut(sideID, "/")
	return m
}

// eventsAbout picks the latest events about a component: of a device also those of
// its sides, of a module those of the sides that it carries, of the box all.
func eventsAbout(past []Event, c Component) []Event {
	about := func(e Event) bool {
		switch c.Kind {
		case KindSystem:
			return true
		case KindModule:
			return e.ID == c.ID || strings.HasPrefix(e.ID, c.ID+"/")
		case KindDevice:
			return e.ID == c.ID || strings.HasSuffix(e.ID, "/"+c.ID)
		}
		return e.ID == c.ID
	}
	var out []Event
	for _, e := range past {
		if about(e) {
			out = append(out, e)
		}
	}
	return out[max(0, len(out)-componentEventsMax):]
}
