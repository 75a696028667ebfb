package bond

import (
	"os"

	"ft/bond/monitor"
	"ft/drivers"
)

// Status is a consistent snapshot, but for the data path's counters: the kernel is asked
// for those before, so that a failover does not wait for its answer.
func (d *driver) Status() drivers.Status {
	var counters map[string]uint64
	d.mu.Lock()
	started := d.started
	d.mu.Unlock()
	if started {
		counters = d.path.Counters()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	st := drivers.Status{Kind: Kind, Name: d.cfg.Name, Since: d.began, Pid: os.Getpid(), Seq: d.seq, Face: d.cfg.Name}
	var inService, coming int
	for i := range d.core.ports {
		p, b := &d.core.ports[i], &d.ports[i]
		side := drivers.SideStatus{State: p.state, Reason: p.reason, Since: p.since, Active: d.core.active == p.side,
			Resource: drivers.Resource{Path: d.cfg.Sides[i].Resource.Path, Identity: d.identity(p.side)}, Note: d.sideNote(p, b)}
		st.Sides[i] = side
		switch p.state {
		case drivers.Simplex, drivers.Duplex:
			inService++
		case drivers.Diagnostics, drivers.Syncing:
			coming++
		}
		if p.since.After(st.Since) {
			st.Since = p.since
		}
	}
	switch {
	case inService == 2:
		st.State = drivers.FaceDuplex
	case inService == 1 && coming > 0:
		st.State = drivers.FaceSyncing
	case inService == 1:
		st.State = drivers.FaceSimplex
	default:
		st.State, st.Reason = drivers.FaceDown, "no port has a carrier"
	}
	if d.path == nil {
		st.Face = ""
	} else if d.started {
		st.Stats = d.stats(counters)
	}
	return st
}

// sideNote is what `ftctl status` says behind the NIC's name.
func (d *driver) sideNote(p *port, b *bound) string {
	note := ""
	switch {
	case !p.state.InService():
	case d.core.active == p.side:
		note = "active"
	default:
		note = "standby"
	}
	if note != "" && d.core.probing && p.path != PathUnknown {
		note += ", path " + p.path.String()
	}
	if b.drill != "" {
		if note != "" {
			note += ", "
		}
		note += "drill: " + b.drill
	}
	return note
}

// stats are for `ftctl show`. Under mu.
func (d *driver) stats(counters map[string]uint64) map[string]any {
	desc := d.path.Describe()
	active := "none"
	if a := d.core.active; a.Valid() {
		active = d.core.ports[a].name
	}
	m := map[string]any{
		"datapath": desc.Kind, "datapath_variant": desc.Variant, "mac": d.mac.String(), "mtu": d.faceMTU, "addresses": d.addrs,
		"active": active, "failovers": d.counts.failovers, "switches": d.counts.planned, "kernel_turns": d.counts.kernelTurns,
		"damped": d.counts.damped, "events_dropped": d.dropped,
	}
	if d.opt.Netns != "" {
		m["netns"] = d.opt.Netns
	}
	if len(d.opt.Probe) > 0 {
		m["probe"] = d.opt.Probe
	}
	if missing := append(append([]string(nil), d.notes...), desc.Missing...); len(missing) > 0 {
		m["datapath_missing"] = missing
	}
	if d.counts.last != nil {
		m["last_failover"] = d.counts.last
	}
	a := d.announce.Stats()
	m["announcements"], m["announce_frames"], m["announce_errors"] = a.Announcements, a.Frames, a.Errors
	poll := d.poller.Stats()
	m["carrier_poll"], m["carrier_poll_late"], m["carrier_poll_missed"] = pollWay(poll), poll.Late, poll.Missed
	m["carrier_poll_slowest_us"] = poll.SlowMax.Microseconds()
	for name, n := range counters {
		m[name] = n
	}
	for i := range d.ports {
		p, b := &d.core.ports[i], &d.ports[i]
		if p.state == drivers.Empty {
			continue
		}
		side := map[string]any{"nic": p.name, "carrier": p.carrier, "carrier_losses": d.counts.carrierLosses[i]}
		if b.link.Index != 0 {
			side["ifindex"], side["mac"] = b.link.Index, b.link.Identity()
		}
		if len(b.notes) > 0 {
			side["notes"] = b.notes
		}
		if d.core.probing {
			sent, answered, foreign := d.counts.probesSent[i], d.counts.probesAnswered[i], d.counts.foreign[i]
			if b.prober != nil {
				s := b.prober.Stats()
				sent, answered, foreign = sent+s.Sent, answered+s.Answered, foreign+s.Foreign
				side["probe_rtt_us"] = s.RTT.Microseconds()
			}
			side["path"], side["probes_sent"], side["probes_answered"], side["probes_foreign"] = p.path.String(), sent, answered, foreign
		}
		m[[2]string{"pci0", "pci1"}[i]] = side
	}
	return m
}

// pollWay says how the carriers are looked at: the worse of the two ways, as the poll looks at
// both from one thread.
func pollWay(st monitor.PollerStats) string {
	return max(st.Ways[0], st.Ways[1]).String()
}
