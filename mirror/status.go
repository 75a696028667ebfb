package mirror

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"ft/drivers"
	"ft/mirror/balance"
)

// Status is the disk as it is.
func (d *driver) Status() drivers.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.world.now = d.clock()
	s := d.engine.Snapshot()
	now := time.Now()
	st := drivers.Status{Kind: Kind, Name: d.cfg.Name, State: s.Face, Reason: s.Reason, Since: now.Add(-s.Since), Pid: os.Getpid(), Seq: d.seq}
	if d.shown != nil {
		st.Face = d.facePath()
	}
	switch {
	case d.heldWhy != "":
		st.Reason = d.heldWhy
	case st.State == drivers.FaceDown && d.startWhy != "":
		st.Reason = d.startWhy
	case s.Unrecorded != "":
		st.Reason = "writes are refused: " + s.Unrecorded
	}
	for i := range st.Sides {
		st.Sides[i] = d.sideStatus(i, s.Sides[i], now)
		if s.Unrecorded != "" && st.Sides[i].Active {
			st.Sides[i].Note = "writes are refused: " + s.Unrecorded
		}
	}
	st.Stats = d.stats(s)
	return st
}

func (d *driver) sideStatus(i int, x SideSnapshot, now time.Time) drivers.SideStatus {
	res := d.cfg.Sides[i].Resource
	side := drivers.SideStatus{State: x.State, Resource: drivers.Resource{Path: res.Path}, Reason: x.Reason, Since: now.Add(-x.Since),
		Draining: x.Draining || d.barred[i], Progress: x.Progress, Note: d.faults[i].Active()}
	if d.legs[i] != nil {
		side.Resource.Identity = d.legs[i].Identity()
	}
	switch {
	case res.Path == "":
		side.State = drivers.Empty
	case d.testing[i]:
		side.State = drivers.Diagnostics
	}
	if side.Reason == "" && !side.State.InService() && side.State != drivers.Syncing {
		side.Reason = d.refusals[i]
	}
	side.Active = x.State.InService()
	if x.Reads != balance.Balance {
		note := "reads " + map[balance.Mark]string{balance.Prefer: "preferred", balance.Avoid: "avoided"}[x.Reads]
		side.Note = strings.TrimPrefix(side.Note+", "+note, ", ")
	}
	return side
}

func (d *driver) stats(s Snapshot) map[string]any {
	c := s.Counters
	m := map[string]any{
		"reads": c.Reads, "writes": c.Writes, "flushes": c.Flushes, "zeroes": c.Zeroes, "errors": c.Errors,
		"written_bytes": c.WrittenBytes, "resynced_bytes": c.ResyncedBytes, "healed": c.Healed,
		"stale_bytes": s.StaleBytes, "marked_extents": s.Marked, "extent_bytes": s.Extent, "active": s.Active,
		"generation": s.Generation.String(), "events_dropped": d.dropped,
	}
	m["scrub"] = s.Scrub
	m["priority"], m["checksums"] = s.Priority.String(), s.Checksums
	m["mismatch_bytes"], m["lost_bytes"] = s.Scrub.Outstanding.Differ, s.Scrub.Outstanding.Lost
	if g, ok := d.engine.Geometry(); ok {
		m["size_bytes"], m["logical_block"], m["physical_block"] = g.Size, g.LogicalBlock, g.PhysicalBlock
		m["mirror"] = d.engine.id.Mirror.String()
	}
	for i := range s.Sides {
		l := s.Sides[i].Counters
		m[sideID(i, "")[:4]] = map[string]any{"reads": l.Reads, "writes": l.Writes, "read_errors": l.ReadErrors, "write_errors": l.WriteErrors,
			"wrong_bytes": s.Scrub.Outstanding.Wrong[i],
			"read_bytes":  l.ReadBytes, "sequential_reads": l.SequentialReads, "late_reads": l.LateReads,
			"read_time_us": float64(s.Sides[i].ReadTime.Nanoseconds()) / 1000, "read_balancing": s.Sides[i].Reads.String()}
	}
	if f := d.shown; f != nil {
		m["device"], m["survives_crash"] = f.device, f.survives
		m["frontend"], m["frontend_why"] = f.kind, f.why
	}
	if side, phase := d.engine.Replacing(); side >= 0 {
		m["replacing"] = map[string]any{"side": sideID(side, d.cfg.Name), "by": d.newLeg.path, "phase": phase, "waits": d.engine.replaceWaits()}
	} else if n := &d.newLeg; n.pending && n.open == nil {
		m["replacing"] = map[string]any{"phase": "waits for the device"}
	}
	if x := d.exportStats(); x != nil {
		m["nbd"] = x
	}
	m["run_dir"] = filepath.Clean(d.cfg.RunDir)
	return m
}

// emit numbers an event and sends it off. Under the lock. Nothing goes straight into
// service: a side that has nothing to be synced says so.
func (d *driver) emit(ev drivers.Event) {
	if ev.Kind == drivers.EventSide && ev.Side.Valid() {
		from := d.last[ev.Side]
		if from == ev.To && ev.Reason == "" {
			return
		}
		if d.testing[ev.Side] && from == drivers.Diagnostics.String() && ev.To == drivers.Offline.String() {
			return // the engine has met it: that it is being tested says more, and why it was out is over
		}
		if ev.To == drivers.Duplex.String() && from != drivers.Syncing.String() && from != drivers.Simplex.String() && from != drivers.Duplex.String() {
			d.send(drivers.Event{Kind: drivers.EventSide, Side: ev.Side, From: from, To: drivers.Syncing.String(), Reason: "nothing was missed"})
			from = drivers.Syncing.String()
		}
		ev.From = from
		d.last[ev.Side] = ev.To
		if ev.Fault != "" {
			ev.Injected = ev.Injected || d.faults[ev.Side].Active() != ""
			if d.legs[ev.Side] != nil {
				ev.Identity = d.legs[ev.Side].Identity()
			}
		}
	}
	d.send(ev)
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
