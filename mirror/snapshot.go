package mirror

import (
	"fmt"
	"time"

	"ft/drivers"
	"ft/mirror/balance"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// LegCounters count what a leg did since the engine began.
type LegCounters struct {
	Reads, Writes, ReadErrors, WriteErrors int64
	ReadBytes                              int64
	SequentialReads                        int64 // of Reads: they went on where one before had ended
	LateReads                              int64 // that the other leg was asked for as well
}

// Counters count what the face was asked for, and what was done beside it.
type Counters struct {
	Reads, Writes, Flushes, Zeroes int64
	Errors                         int64 // requests answered with an error
	WrittenBytes                   int64
	ResyncedBytes                  int64 // copied from leg to leg
	Healed                         int64 // ranges rewritten after a read error
}

// SideSnapshot is a leg as people see it.
type SideSnapshot struct {
	State    drivers.State
	Reason   string
	Since    time.Duration // how long it has been so
	Draining bool
	Progress *drivers.Progress
	Counters LegCounters
	Super    metadata.Superblock
	Reads    balance.Mark  // its part in reads
	ReadTime time.Duration // that a read of up to 64 KiB takes, lately; 0: not known
}

// Snapshot is the mirror at one moment.
type Snapshot struct {
	Face       drivers.FaceState
	Reason     string // why it is down
	Since      time.Duration
	Sides      [2]SideSnapshot
	Generation metadata.Generation
	StaleBytes int64  // in which the legs differ or may differ
	Marked     int    // extents in the write-intent map
	Extent     int64  // bytes
	Unrecorded string // why who is in service could not be recorded
	Active     int    // requests under way
	Counters   Counters
	Scrub      scrub.Status
	Priority   Priority
	Checksums  bool // they are kept
}

// Snapshot is a copy of what is; it refers to nothing of the engine's.
func (e *Engine) Snapshot() Snapshot {
	now := e.env.Now()
	s := Snapshot{Face: e.faceState(), Since: time.Duration(now - e.faceSince), Generation: e.want.generation,
		Active: e.active, Counters: e.counters, Extent: int64(e.id.ExtentSize)}
	if s.Face == drivers.FaceDown {
		s.Reason = e.downWhy
	}
	if e.recorder.err != nil && e.durable.version != e.want.version {
		s.Unrecorded = e.recorder.err.Error()
	}
	s.Scrub, s.Priority, s.Checksums = e.ScrubStatus(), e.pace.priority, e.sums.on
	if e.made {
		s.StaleBytes = int64(e.stale.Count()) * int64(e.id.RegionSize)
		s.Marked = e.marked.Count()
	}
	for i := range e.legs {
		l := &e.legs[i]
		d := &s.Sides[i]
		d.State, d.Reason, d.Counters, d.Super = e.sideState(l), l.reason, l.counters, l.super
		d.Reads, d.ReadTime = e.balance.Mark(i), e.balance.Mean(i)
		d.Since = time.Duration(now - l.since)
		d.Draining = l.state <= legShot && l.inflight > 0
		if d.State == drivers.Syncing {
			d.Progress = e.progress()
		} else if d.State == drivers.Duplex {
			d.Progress = s.Scrub.Progress
		}
		if e.repl.phase != replNone && e.repl.side == i {
			d.Progress = e.replaceProgress()
		}
	}
	return s
}

// progress of the resync under way.
func (e *Engine) progress() *drivers.Progress {
	r := &e.resync
	left := int64(e.stale.Count()) * int64(e.id.RegionSize)
	total := max(r.total, r.done+left)
	return progressOf(r.what, left, total, r.meter.rate)
}

// sideState is a leg's state in the product's words.
func (e *Engine) sideState(l *leg) drivers.State {
	switch l.state {
	case legAbsent:
		return drivers.Removed
	case legOut:
		return drivers.Offline
	case legShot:
		return drivers.Shot
	case legIn:
		switch {
		case e.in() != 3:
			return drivers.Simplex
		case e.suspect() || e.resync.joinPhase == joinRecord:
			if l.side == e.source {
				return drivers.Simplex
			}
			return drivers.Syncing
		}
		return drivers.Duplex
	}
	return drivers.Syncing
}

func (e *Engine) faceState() drivers.FaceState {
	if e.in() == 0 {
		return drivers.FaceDown
	}
	f := drivers.FaceSimplex
	for i := range e.legs {
		switch e.sideState(&e.legs[i]) {
		case drivers.Syncing:
			return drivers.FaceSyncing
		case drivers.Duplex:
			f = drivers.FaceDuplex
		}
	}
	return f
}

// report says what has changed since it was last called.
func (e *Engine) report() {
	for i := range e.legs {
		l := &e.legs[i]
		if s := e.sideState(l); s != l.reported {
			ev := drivers.Event{Kind: drivers.EventSide, Side: drivers.Side(i), From: l.reported.String(), To: s.String(), Reason: l.reason}
			if s == drivers.Shot || s == drivers.Removed {
				ev.Fault = l.fault
			}
			if l.reported.InService() && !s.InService() && e.made {
				ev.Detail = map[string]any{"stale_bytes": int64(e.stale.Count()) * int64(e.id.RegionSize)}
			}
			l.reported = s
			e.event(ev)
		}
	}
	if f := e.faceState(); f != e.reported {
		ev := drivers.Event{Kind: drivers.EventFace, Side: drivers.Whole, From: e.reported.String(), To: f.String()}
		if f == drivers.FaceDown {
			ev.Reason = e.downWhy
		}
		e.reported, e.faceSince = f, e.env.Now()
		e.event(ev)
	}
}

func (e *Engine) event(ev drivers.Event) { e.env.Event(ev) }

func (e *Engine) note(s drivers.Side, format string, args ...any) {
	e.event(drivers.Event{Kind: drivers.EventNote, Side: s, Reason: fmt.Sprintf(format, args...)})
}
