package api

import (
	"ft/ftd/control"
)

// The words that a state metric has one series for each.
var (
	faceStates  = []string{"down", "simplex", "syncing", "duplex"}
	sideStates  = []string{"empty", "removed", "offline", "diagnostics", "syncing", "simplex", "duplex", "shot", "broken", "dumping"}
	driverLinks = []string{string(control.LinkNone), string(control.LinkStarting), string(control.LinkConnected),
		string(control.LinkLost), string(control.LinkStopping), string(control.LinkGaveUp)}
	policies = []string{string(control.MTBFThreshold), string(control.MTBFNever), string(control.MTBFAlways)}
)

func (m *exposition) build(v Version) {
	m.add("ft_build_info", gauge, "Always 1; what runs is in the labels.", 1, "version", v.Version, "goversion", v.Go)
}

func (m *exposition) box(st Status) {
	m.add("ft_events_total", counter, "Events in the box's log so far: the number of the last one.", float64(st.System.Seq))
	m.state("ft_system_state", "State of the box", faceStates, st.System.State.String())
	m.time("ft_system_state_change_timestamp_seconds", "When the box came into its state.", st.System.Since)
	for _, x := range st.Modules {
		l := []string{"module", x.ID}
		m.state("ft_module_state", "State of a module", sideStates, x.State.String(), l...)
		m.add("ft_module_safe_to_pull", gauge, "1 when the module can be pulled without loss of service.", number(x.SafeToPull), l...)
		m.time("ft_module_state_change_timestamp_seconds", "When the module came into its state.", x.Since, l...)
	}
	for _, d := range st.Devices {
		l := []string{"device", d.ID, "kind", d.Kind}
		m.state("ft_device_state", "State of a device's face", faceStates, d.State.String(), l...)
		m.time("ft_device_state_change_timestamp_seconds", "When the device's face came into its state.", d.Since, l...)
		m.state("ft_device_driver_state", "What ftd knows of the device's driver process", driverLinks, string(d.Driver), l...)
		for _, x := range d.Sides {
			m.side(d, x)
		}
		m.driver(d)
	}
}

// sideLabels name a side; module and device are there to sum over.
func sideLabels(id, device string) []string {
	return []string{"side", id, "module", ModuleOf(id), "device", device}
}

func (m *exposition) side(d DeviceStatus, x SideStatus) {
	l := sideLabels(x.ID, d.ID)
	m.state("ft_side_state", "State of a side", sideStates, x.State.String(), l...)
	m.time("ft_side_state_change_timestamp_seconds", "When the side came into its state.", x.Since, l...)
	m.add("ft_side_safe_to_pull", gauge, "1 when the side can be pulled without loss of service.", number(x.SafeToPull), l...)
	m.add("ft_side_active", gauge, "1 when the side is the active one.", number(x.Active), l...)
	m.add("ft_side_wanted", gauge, "1 when the side is wanted in service, 0 when it is wanted out.", number(x.Target != control.Out), l...)
	m.add("ft_side_draining", gauge, "1 while I/O from before it was cut off hangs on the side.", number(x.Draining), l...)
	m.sideFaults(x, l)
	if p := x.Progress; p != nil {
		m.add("ft_side_progress_ratio", gauge, "How far the side's background work is, 0 to 1. There while there is such work.", p.Percent/100, l...)
		m.add("ft_side_progress_done_bytes", gauge, "What of the side's background work is done.", float64(p.DoneBytes), l...)
		m.add("ft_side_progress_size_bytes", gauge, "How much the side's background work is in all.", float64(p.TotalBytes), l...)
		m.add("ft_side_progress_bytes_per_second", gauge, "How fast the side's background work goes.", float64(p.RateBytes), l...)
		if p.ETASeconds >= 0 {
			m.add("ft_side_progress_remaining_seconds", gauge, "How long the side's background work will take yet, where that is known.", p.ETASeconds, l...)
		}
	}
}

// sideFaults is the history of what is in the side. It goes down to 0 when it is cleared or
// another part is put in, so it is no counter.
func (m *exposition) sideFaults(x SideStatus, l []string) {
	h := x.MTBF
	m.add("ft_side_faults", gauge, "Faults in the history of the part in the side, without those of drills.", float64(h.Faults), l...)
	m.add("ft_side_drill_faults", gauge, "Faults of drills in the history of the part in the side.", float64(h.Injected), l...)
	m.add("ft_side_min_faults", gauge, "So many faults are needed before the part is judged.", float64(h.MinFaults), l...)
	m.add("ft_side_fault_threshold_seconds", gauge, "Below this mean time between faults the part is broken, by policy threshold.", h.ThresholdHours*3600, l...)
	if h.MeanHours != nil {
		m.add("ft_side_mean_time_between_faults_seconds", gauge, "Mean time between the last faults, as they are judged. There from the second fault on.", *h.MeanHours*3600, l...)
	}
	for _, p := range policies {
		m.add("ft_side_fault_policy", gauge, "How faults of the part are judged, 1 for the present policy.", number(p == string(h.Policy)), append(l[:len(l):len(l)], "policy", p)...)
	}
	if h.LastFaultAt != nil {
		m.time("ft_side_last_fault_timestamp_seconds", "When the part had its last fault.", *h.LastFaultAt, l...)
	}
	if h.LastDrillAt != nil {
		m.time("ft_side_last_drill_timestamp_seconds", "When the part last had a fault of a drill.", *h.LastDrillAt, l...)
	}
}
