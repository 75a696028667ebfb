package mirror

import (
	"ft/drivers"
	"ft/mirror/metadata"
)

// Resolve serves from a side that was refused: the admin says that it is the one to
// keep. What the other side has that this one lacks is lost when it comes back.
func (e *Engine) Resolve(keep drivers.Side, legs [2]*Leg, w *metadata.Witness) error {
	defer e.run()
	if w != nil {
		e.witness = w
	}
	if e.in() != 0 {
		return drivers.Refuse(drivers.RuleState, "%s is in service: nothing is to be resolved. To replace what is on a side: ftctl bringup SIDE --accept-risk=%s",
			e.name, drivers.RiskOverwrite)
	}
	if err := e.witnessPending(); err != nil {
		return err
	}
	g := legs[keep]
	switch {
	case g == nil:
		return drivers.Refuse(drivers.RuleState, "%s is not here: it cannot be kept", e.sideID(int(keep)))
	case e.legs[keep].inflight > 0:
		return e.refuseDraining(&e.legs[keep])
	case g.Image == nil:
		return drivers.Refuse(drivers.RuleState, "%s (%s) carries no mirror: there is nothing to keep. To make a new, empty disk: ftctl bringup %s --accept-risk=%s",
			e.sideID(int(keep)), g.Resource, e.sideID(int(keep)), drivers.RiskOverwrite)
	case g.Image.Super.Syncing:
		return drivers.Refuse(drivers.RuleStale, "%s was being resynced: its data is a mixture of old and new and cannot be kept", e.sideID(int(keep)))
	}
	told := e.witness
	e.witness = nil
	if err := e.serve(int(keep), g); err != nil {
		e.witness = told
		return err
	}
	// Written alone from here on: a new generation, so that the other side is known to
	// lack it, and no longer believed where it was ahead. Its history goes with it.
	l := &e.legs[keep]
	o := e.other(l)
	e.recorder.witnessed = metadata.Witness{}
	e.want.service |= 1 << o.side
	e.recordLoss(o, nil)
	// A leg that is not here is not decided about: it may have what nobody has seen. When
	// it comes back it is a split-brain, to be decided then.
	if other := legs[1-keep]; other != nil && other.Image != nil && other.Image.Super.Mirror == e.id.Mirror {
		e.overrule(other.Image.Super)
	}
	return nil
}

// overrule makes a leg that went its own way one that is behind: its generation enters
// the history, and since what it was written alone is not known, it gets everything.
func (e *Engine) overrule(sb metadata.Superblock) {
	w := &e.want
	for _, g := range w.history {
		if g == sb.Generation {
			return
		}
	}
	w.generation.Counter = max(w.generation.Counter, sb.Generation.Counter+1)
	h := append([]metadata.Generation{sb.Generation}, w.history...)
	w.history = h[:min(len(h), metadata.HistoryLen)]
	w.missedFrom = metadata.Generation{Counter: ^uint64(0)} // no leg has that: a full resync
	e.changed(-1)
}
