package mirror

import (
	"fmt"

	"ft/drivers"
	"ft/mirror/frontend"
	"ft/mirror/metadata"
)

// Start judges the legs that are present (nil: absent) and serves from the best one;
// the other comes in by Attach. With two blank legs a new mirror is made. A refusal is
// a *drivers.Refused; the engine can then be started again, also by Attach or Resolve.
func (e *Engine) Start(legs [2]*Leg, w *metadata.Witness, out [2]bool) error {
	defer e.run()
	if err := e.witnessPending(); err != nil {
		return err
	}
	if w != nil {
		e.witness = w
	}
	for i, g := range legs {
		if g != nil {
			e.legs[i].resource = g.Resource
			if e.legs[i].state == legAbsent {
				e.legs[i].state, e.legs[i].since = legOut, e.env.Now()
			}
		}
	}
	var images [2]*metadata.Image
	draining := -1
	for i, g := range legs {
		if g == nil {
			continue
		}
		images[i] = g.Image
		if e.legs[i].inflight > 0 {
			// I/O from before it was cut off could land after newer writes: what the leg says
			// counts, but it is not served.
			draining, out[i] = i, true
		}
	}
	v := metadata.Assemble(e.name, images, e.witness, out)
	for _, n := range v.Notes {
		e.note(drivers.Whole, "%s", n)
	}
	switch {
	case v.Create && draining < 0:
		return e.createOn(legs, out, "")
	case v.Serve < 0 && draining >= 0: // also when what lands late would be half of a mirror
		err := e.refuseDraining(&e.legs[draining])
		e.downWhy = err.Error()
		return err
	case v.Serve < 0:
		e.downWhy = v.Sentence
		return drivers.Refuse(v.Code, "%s", v.Sentence)
	}
	return e.serve(v.Serve, legs[v.Serve])
}

// StartAlone serves from a leg that was in service with a partner that does not answer
// now, in the place of a process that just died. The witness vouches for it: had the
// partner been written alone, it would say so. The partner is recorded as out of date
// before anything is written.
func (e *Engine) StartAlone(s drivers.Side, g *Leg, w *metadata.Witness) error {
	defer e.run()
	sb := &g.Image.Super
	if w == nil || w.Mirror != sb.Mirror || w.Generation != sb.Generation || w.Survivor != -1 || sb.InService != 3 || sb.Syncing {
		return drivers.Refuse(drivers.RuleStale, "%s may lack writes that %s has, and that one does not answer", e.sideID(int(s)), e.sideID(int(s.Other())))
	}
	e.witness = w
	if err := e.serve(int(s), g); err != nil {
		return err
	}
	e.recordLoss(e.other(&e.legs[s]), nil)
	return nil
}

// serve begins with one leg. Its partner as recorded may come in as an equal as long
// as nothing was written without it.
func (e *Engine) serve(side int, g *Leg) error {
	sb := g.Image.Super
	layout, err := metadata.NewLayout(int64(sb.DeviceBytes), sb.RegionSize, sb.ExtentSize)
	if err != nil {
		return drivers.Refuse(drivers.RuleUnfit, "%s: %v", e.sideID(side), err)
	}
	if g.LogicalBlock > int(sb.LogicalBlock) {
		return drivers.Refuse(drivers.RuleUnfit, "%s: the device has blocks of %d bytes, the mirror was made with %d",
			e.sideID(side), g.LogicalBlock, sb.LogicalBlock)
	}
	e.adoptIdentity(sb, layout)
	l := &e.legs[side]
	l.uuid, l.super = sb.Leg, sb
	e.other(l).uuid = sb.MissedLeg
	e.want = record{version: e.want.version + 1, generation: sb.Generation, history: sb.History, service: sb.InService,
		clean: sb.Clean, sums: sb.Sums, missedFrom: sb.MissedFrom, joiner: -1}
	e.durable = e.want
	if sb.Sums && !e.sums.on {
		e.want.sums = false // before anything is written that the table does not follow
		e.changed(-1)
	}
	if e.witness != nil && e.witness.Mirror == sb.Mirror {
		e.recorder.witnessed = *e.witness
	}
	if w := &e.recorder.witnessed; w.Mirror != sb.Mirror || w.Generation != sb.Generation || w.Survivor != survivorOf(sb.InService) {
		// The leg was recorded as it is, and the witness does not know yet: until it does,
		// the other leg might be served in its place, so nothing may be acknowledged.
		e.changed(-1)
	} else if g.Image.Torn {
		e.changed(-1) // both copies of the superblock are to say the same again
	}
	// What the absent leg lacks: what was missed, and after a crash what may not have
	// reached it (or this one).
	e.stale = g.Image.Missed.Clone()
	if sb.InService == 3 {
		e.stale.Reset()
	}
	e.marked = g.Image.Intent.Clone()
	e.distrustMarked(e.marked)
	e.stale.Or(e.markedRegions(e.marked))
	if sb.MissedLeg == (metadata.UUID{}) {
		e.stale.Fill()
	}
	e.missed.image = nil
	e.attachAs(l, g, legIn)
	// What was just read may lie in no more than the leg's cache, when the process before
	// this one was killed. So the map is written anew, and flushed, before a write relies
	// on it; and what was written under its marks may be lost with the leg as well.
	l.unflushed.Or(e.markedRegions(e.marked))
	e.intent.image = nil
	e.intentKick()
	e.source = side
	e.downWhy = ""
	e.unpark()
	return nil
}

// adoptIdentity sets what is common to both legs, and empty maps of the right size.
func (e *Engine) adoptIdentity(sb metadata.Superblock, layout metadata.Layout) {
	e.id = metadata.Superblock{Version: sb.Version, Mirror: sb.Mirror, DeviceBytes: sb.DeviceBytes, DataBytes: sb.DataBytes,
		LogicalBlock: sb.LogicalBlock, PhysicalBlock: sb.PhysicalBlock, RegionSize: sb.RegionSize, ExtentSize: sb.ExtentSize}
	e.layout = layout
	e.marked = metadata.NewBitmap(layout.Extents)
	e.marking = metadata.NewBitmap(layout.Extents)
	e.touched = metadata.NewBitmap(layout.Extents)
	e.stale = metadata.NewBitmap(layout.Regions)
	e.unsure = metadata.NewBitmap(layout.Regions)
	e.intent.nextClear = e.env.Now() + int64(intentClearEvery)
	e.half = nil
	e.sumsReset(sb.Sums && e.opt.Integrity == IntegrityCRC32C)
	e.made = true
}

// markedRegions are the regions of marked extents.
func (e *Engine) markedRegions(marks *metadata.Bitmap) *metadata.Bitmap {
	b := metadata.NewBitmap(e.layout.Regions)
	per := int(e.id.ExtentSize / e.id.RegionSize)
	for i := marks.NextSet(0); i >= 0; i = marks.NextSet(i + 1) {
		b.SetRange(i*per, min((i+1)*per, b.Len()))
	}
	return b
}

func (e *Engine) attachAs(l *leg, g *Leg, s legState) {
	l.attachment++
	l.state, l.reason, l.fault, l.since = s, "", "", e.env.Now()
	l.resource = g.Resource
	l.mapValid = false
	l.lastDone = e.env.Now()
	l.ops = opList{}
	e.newUnflushed(l)
}

// createOn makes a new mirror on the first leg that may be used; the other comes in by
// a full resync.
func (e *Engine) createOn(legs [2]*Leg, out [2]bool, acceptRisk string) error {
	if e.witness != nil && acceptRisk != drivers.RiskOverwrite {
		return drivers.Refuse(drivers.RuleStale, "%s existed before (generation %d, last on %q and %q), but none of its legs is here. "+
			"Bring one of them back, or make a new, empty disk with: ftctl bringup %s --accept-risk=%s",
			e.name, e.witness.Generation.Counter, e.witness.Resources[0], e.witness.Resources[1], e.sideID(0), drivers.RiskOverwrite)
	}
	side := -1
	var foreign string
	for i, g := range legs {
		switch {
		case g == nil || out[i]:
		case g.Foreign != "" && acceptRisk != drivers.RiskOverwrite:
			if foreign == "" {
				foreign = fmt.Sprintf("%s (%s) holds a %s", e.sideID(i), g.Resource, g.Foreign)
			}
		case side < 0:
			side = i
		}
	}
	if side < 0 {
		if foreign != "" {
			return drivers.Refuse(drivers.RuleOverwrite, "%s. Its content would be lost; to take that: ftctl bringup %s --accept-risk=%s",
				foreign, foreign[:len(e.sideID(0))], drivers.RiskOverwrite)
		}
		return drivers.Refuse("no-leg", "no leg of %s is here", e.name)
	}
	g := legs[side]
	if o := legs[1-side]; o != nil && o.Bytes&^4095 != g.Bytes&^4095 {
		return drivers.Refuse(drivers.RuleUnfit, "the legs of %s differ in size: %s has %d bytes, %s has %d. Use two of the same size",
			e.name, legs[0].Resource, legs[0].Bytes, legs[1].Resource, legs[1].Bytes)
	}
	bytes := g.Bytes &^ 4095
	extent := metadata.ExtentSizeFor(bytes)
	layout, err := metadata.NewLayout(bytes, metadata.DefaultRegionSize, extent)
	if err != nil {
		return drivers.Refuse(drivers.RuleUnfit, "%s: %v", e.sideID(side), err)
	}
	logical, physical := g.LogicalBlock, g.PhysicalBlock
	if o := legs[1-side]; o != nil {
		logical, physical = max(logical, o.LogicalBlock), max(physical, o.PhysicalBlock)
	}
	sb := metadata.Superblock{Version: metadata.FormatVersion, Mirror: e.env.UUID(), DeviceBytes: uint64(bytes), DataBytes: uint64(layout.DataBytes),
		LogicalBlock: uint32(logical), PhysicalBlock: uint32(physical), RegionSize: metadata.DefaultRegionSize, ExtentSize: extent}
	e.adoptIdentity(sb, layout)
	l := &e.legs[side]
	l.uuid, l.super = e.env.UUID(), metadata.Superblock{}
	e.other(l).uuid = metadata.UUID{}
	e.want = record{version: e.want.version + 1, generation: metadata.Generation{Counter: 1, ID: e.env.UUID()}, service: 1 << side, joiner: -1}
	e.durable = record{}
	e.stale.Fill() // whatever comes in gets everything
	e.recorder.witnessed = metadata.Witness{}
	e.missed.image = nil
	l.super = e.superOf(l)
	l.blank = true
	e.attachAs(l, g, legIn)
	e.source = side
	e.intent.image = nil
	e.downWhy = ""
	e.intentKick()
	e.unpark()
	return nil
}

// Attach takes a leg in. The caller has tested the device. It is refused when it would
// overwrite what is not known to be outdated, or when the leg is newer than what is
// being served.
func (e *Engine) Attach(s drivers.Side, g *Leg, acceptRisk string) error {
	defer e.run()
	l := &e.legs[s]
	switch {
	case l.state > legShot:
		return nil
	case e.stopping:
		return drivers.Refuse(drivers.RuleState, "%s is being stopped", e.name)
	case l.inflight > 0:
		return e.refuseDraining(l)
	}
	if l.state == legAbsent {
		l.state = legOut
	}
	l.resource = g.Resource
	if e.in() == 0 {
		return e.attachFirst(s, g, acceptRisk)
	}
	if b := g.Bytes &^ 4095; uint64(b) != e.id.DeviceBytes {
		return drivers.Refuse(drivers.RuleUnfit, "%s (%s) has %d bytes, the legs of %s have %d: use one of the same size",
			e.sideID(int(s)), g.Resource, b, e.name, e.id.DeviceBytes)
	}
	if g.LogicalBlock > int(e.id.LogicalBlock) {
		return drivers.Refuse(drivers.RuleUnfit, "%s (%s) has blocks of %d bytes, %s was made with %d",
			e.sideID(int(s)), g.Resource, g.LogicalBlock, e.name, e.id.LogicalBlock)
	}
	if g.Image == nil {
		if g.Foreign != "" && acceptRisk != drivers.RiskOverwrite {
			return drivers.Refuse(drivers.RuleOverwrite, "%s (%s) holds a %s. Its content would be lost; to take that: ftctl bringup %s --accept-risk=%s",
				e.sideID(int(s)), g.Resource, g.Foreign, e.sideID(int(s)), drivers.RiskOverwrite)
		}
		return e.prepare(l, g, true)
	}
	serving := e.wanted(&e.legs[e.source])
	rel := metadata.Relate(serving, &g.Image.Super)
	switch rel {
	case metadata.RelEqual:
		if e.want.service == 3 && e.durable.version == e.want.version && (g.Image.Super.Sums || !e.want.sums) {
			e.joinEqual(l, g)
			return nil
		}
		return e.prepare(l, g, false)
	case metadata.RelBehind:
		return e.prepare(l, g, false)
	case metadata.RelBehindFull:
		return e.prepare(l, g, true)
	}
	if acceptRisk == drivers.RiskOverwrite {
		return e.prepare(l, g, e.defect&OverwriteByBitmap == 0)
	}
	code := drivers.RuleOverwrite
	if rel == metadata.RelSplitBrain || rel == metadata.RelAhead {
		code = drivers.RuleSplitBrain
	}
	return drivers.Refuse(code, "%s", metadata.Explain(e.name, serving, &g.Image.Super))
}

// wanted is the superblock of a leg in service as it will be when who is in service is
// recorded: a joiner is judged by that, not by what happens to be on the leg already.
func (e *Engine) wanted(l *leg) *metadata.Superblock {
	sb := l.super
	sb.Generation, sb.History, sb.InService, sb.MissedFrom = e.want.generation, e.want.history, e.want.service, e.want.missedFrom
	return &sb
}

func (e *Engine) refuseDraining(l *leg) error {
	return drivers.Refuse(drivers.RuleBusy, "%s: %d I/Os from before it was cut off have not ended yet: the device still hangs", e.sideID(l.side), l.inflight)
}

// witnessPending refuses to start again while a word of the service before is on its
// way to the witness: it could replace a newer one, or name a leg that is not served.
func (e *Engine) witnessPending() error {
	if e.in() != 0 || !e.recorder.witness {
		return nil
	}
	return drivers.Refuse(drivers.RuleBusy, "%s: the witness is still being written with what was last known: try again", e.name)
}

// attachFirst serves from a leg that comes while none is in service.
func (e *Engine) attachFirst(s drivers.Side, g *Leg, acceptRisk string) error {
	var legs [2]*Leg
	legs[s] = g
	if g.Image == nil {
		if acceptRisk != drivers.RiskOverwrite {
			return drivers.Refuse(drivers.RuleStale, "%s (%s) is blank, and no leg of %s with data is in service. "+
				"Bring the other side up first, or make a new, empty disk with: ftctl bringup %s --accept-risk=%s",
				e.sideID(int(s)), g.Resource, e.name, e.sideID(int(s)), drivers.RiskOverwrite)
		}
		return e.createOn(legs, [2]bool{}, acceptRisk)
	}
	return e.Start(legs, nil, [2]bool{})
}

// joinEqual takes a leg into service that was in service as recorded, with nothing
// written since: only the extents marked on either may differ.
func (e *Engine) joinEqual(l *leg, g *Leg) {
	e.half = nil
	e.attachAs(l, g, legIn)
	l.uuid, l.super = g.Image.Super.Leg, g.Image.Super
	if g.Image.Torn {
		e.changed(-1)
	}
	e.stale.Or(e.markedRegions(g.Image.Intent))
	l.unflushed.Or(e.stale)
	e.marking.Or(g.Image.Intent)
	e.distrustMarked(g.Image.Intent)
	if l.super.Sums != e.want.sums {
		e.changed(-1)
	}
	if e.want.clean && !l.super.Clean {
		// One of them was recorded as written to, and the other not any more.
		e.want.clean = false
		e.changed(-1)
	}
	if e.stale.Count() > 0 {
		e.resyncBegin("crash resync", false)
	}
	e.intent.image = nil
	e.intentKick()
	e.unpark()
}

// Geometry is what the face presents; false while the mirror is not known.
func (e *Engine) Geometry() (frontend.Geometry, bool) {
	return frontend.Geometry{Name: e.name, Size: int64(e.id.DataBytes), LogicalBlock: int(e.id.LogicalBlock),
		PhysicalBlock: int(e.id.PhysicalBlock)}, e.made
}
