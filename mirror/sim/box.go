package sim

// box is the machine around the engine: it starts an engine from what the legs and
// the witness say, as the driver does, and takes it away again: by a power cut, by
// killing the driver, by a clean stop.

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"ft/drivers"
	"ft/mirror"
	"ft/mirror/balance"
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

var errWitness = errors.New("write disk0.witness: " + syscall.EIO.Error())

type box struct {
	eng  Engine // nil while the driver is down
	life int
	// started: the present engine serves, since startedAt.
	started   bool
	startedAt int64
	stopping  bool
	booting   bool // evBoot is scheduled

	state    [2]drivers.State // as reported
	served   [2]bool          // the engine may use the leg
	inSince  [2]int64         // in service since, -1: not
	adminOut [2]bool          // taken out by the admin
	zombies  [2]int           // operations of dead drivers that the leg still holds
	// hide: not there at the next start; taken back afterwards.
	hide [2]bool

	allocs map[*alloc]struct{}
	bound  bound
	layout *metadata.Layout

	crashed bool  // CrashAt has happened
	crashAt int64 // step at which chaos wants a crash, 0: none
	kind    CrashKind
	// crashOnAck crashes also when the next write is acknowledged.
	crashOnAck bool
	takeovers  int // kills of successors yet to come
	aim        int // the leg to be alone after it, -1: any
	// resolving: an admin chose this leg, and that may not be on stable storage yet; -1: no.
	resolving int
	// overruled: an admin chose between legs; refusals are expected from now on.
	overruled bool
	overwrite [2]bool // the admin gives up what is on the leg
	refusals  int     // in a row
}

func (b *box) serving() bool { return b.eng != nil && b.started && !b.stopping }

// out is the legs that are not in service.
func (b *box) out() [2]bool { return [2]bool{b.inSince[0] < 0, b.inSince[1] < 0} }

// inFor says whether a leg has been in service since a time.
func (b *box) inFor(w *world, side int, since int64) bool {
	return b.inSince[side] >= 0 && b.inSince[side] <= since
}

// healthy: the driver serves from a leg that is well, and can record what it must.
func (w *world) healthy() bool {
	if !w.box.serving() || w.wit.fails > w.now || w.wit.slow > w.now {
		return false
	}
	for s, l := range w.legs {
		if w.box.inSince[s] >= 0 && l.well() {
			return true
		}
	}
	return false
}

// boot starts an engine on the legs that can be read.
func (w *world) boot() {
	b := &w.box
	b.booting = false
	if b.eng != nil || w.p.control && !w.ftd.powered {
		return
	}
	for _, l := range w.legs {
		if w.p.rot > 0 && w.chance(w.p.rot) {
			w.rot(l)
		}
	}
	legs := w.look(-1)
	b.hide = [2]bool{}
	if w.unmade(legs) {
		w.scheduleBoot()
		return
	}
	if w.p.victim >= 0 && w.spoiledCrash(legs) {
		w.abandoned = true
		w.stats.Abandoned++
		return
	}
	w.newEngine()
	w.stats.Starts++
	w.tracef("start  with leg 0 %s, leg 1 %s, %s", describe(legs[0]), describe(legs[1]), w.wit.describe())
	for s := range legs {
		b.served[s] = legs[s] != nil
		if legs[s] != nil && legs[s].Image != nil && b.bound.known() {
			b.bound.found(legs[s].Image)
		}
	}
	var err error
	if s := w.hungPartner(legs); s >= 0 {
		err = b.eng.StartAlone(drivers.Side(s), legs[s], w.wit.now)
	} else {
		err = b.eng.Start(legs, w.wit.now, w.outs())
	}
	if w.err != nil {
		return
	}
	if err != nil {
		w.refused(legs, err)
		return
	}
	w.starting(legs)
}

// look is what the driver finds on the legs that it can read: all but those that an
// admin took out, unless it is the one asked for.
func (w *world) look(asked int) (legs [2]*mirror.Leg) {
	b := &w.box
	for s, l := range w.legs {
		if l.present && !l.hung && b.zombies[s] == 0 && !b.hide[s] && (asked < 0 || asked == s || !w.outs()[s]) {
			legs[s] = w.inspect(l)
		}
	}
	return legs
}

// unmade: a new mirror is made only when both of its legs are there.
func (w *world) unmade(legs [2]*mirror.Leg) bool {
	for _, l := range legs {
		if l != nil && l.Image != nil {
			return false
		}
	}
	return legs[0] == nil || legs[1] == nil
}

// hungPartner is the leg to be served alone because the other one keeps the I/O of the
// driver that died, or -1.
func (w *world) hungPartner(legs [2]*mirror.Leg) int {
	for s := range legs {
		if w.box.zombies[1-s] > 0 && legs[s] != nil && legs[s].Image != nil && legs[s].Image.Super.InService == 3 {
			return s
		}
	}
	return -1
}

// unserve bars the engine from legs that it did not take.
func (b *box) unserve() {
	for s := range b.served {
		if b.state[s] != drivers.Syncing && b.state[s] != drivers.Diagnostics && !b.state[s].InService() {
			b.served[s] = false
		}
	}
}

func (w *world) newEngine() {
	b := &w.box
	b.life++
	b.allocs = map[*alloc]struct{}{}
	b.state = [2]drivers.State{drivers.Removed, drivers.Removed}
	b.inSince = [2]int64{-1, -1}
	b.started, b.stopping = false, false
	o := mirror.Options{NoLeg: "error", LegTimeout: time.Duration(w.p.timeout), ResyncRateMin: w.p.rateMin, ResyncRateMax: w.p.rateMax,
		Integrity: w.integrity(), SumCache: int(w.p.sumCache),
		Reads: [2]balance.Mark{balance.Mark(w.p.marks % 3), balance.Mark(w.p.marks / 3 % 3)}}
	if w.p.wait {
		o.NoLeg = "wait"
	}
	w.ftd.newDriver()
	b.eng = w.cfg.New("disk0", o, &env{w, b.life})
	b.eng.RestoreScrub(w.scrub.now)
	w.in(w.tickEvery(), event{kind: evTick, life: b.life})
}

// starting: the engine serves.
func (w *world) starting(legs [2]*mirror.Leg) {
	b := &w.box
	b.started, b.startedAt, b.refusals = true, w.now, 0
	b.unserve()
	g, ok := b.eng.Geometry()
	if !ok {
		w.fail("started, but there is no geometry")
		return
	}
	if w.dataBytes == 0 {
		w.firstStart(g.Size)
	}
	if g.Size != w.dataBytes {
		w.fail("the face had %d bytes and has %d now", w.dataBytes, g.Size)
		return
	}
	if b.takeovers > 0 && !w.settling {
		b.takeovers--
		b.crashAt, b.kind, b.aim = w.steps+1+w.plan.Int64N(30), KillDriver, -1
	}
	w.checkAlone()
	w.checkServedTables()
	if w.err == nil {
		w.client.resend(w)
	}
	if w.p.control {
		w.ftd.adopts(w)
		return
	}
	for s := range w.legs {
		if w.err == nil && w.drawn(0.6) {
			w.bringUp(s)
		}
	}
}

// refused: no leg may serve. The driver goes away, and tries again later.
func (w *world) refused(legs [2]*mirror.Leg, err error) {
	b := &w.box
	var r *drivers.Refused
	if !errors.As(err, &r) {
		w.fail("start: an error that is no refusal: %v", err)
		return
	}
	w.tracef("refused (%s): %s", r.Code, r.Sentence)
	w.stats.Refused++
	b.refusals++
	both := legs[0] != nil && legs[1] != nil
	if both && !b.overruled && w.outs() == [2]bool{} && !w.unwitnessed(legs) {
		w.fail("start with both legs was refused (%s): %s", r.Code, r.Sentence)
		return
	}
	if w.mayResolve(legs, r.Code) {
		return
	}
	if w.p.control {
		w.ftd.connectSoon(w) // the core knows better, or an admin
		return
	}
	b.eng = nil
	b.life++
	if w.settling || w.chance(0.5) {
		b.adminOut = [2]bool{}
	}
	b.booting = true
	w.in(w.spread(20*ms, 1*sec), event{kind: evBoot})
}

// unwitnessed says whether a leg had begun to go on alone, which the witness never
// learned: then nothing tells the two legs' stories apart for certain.
func (w *world) unwitnessed(legs [2]*mirror.Leg) bool {
	for _, l := range legs {
		if l.Image != nil && l.Image.Super.Alone() && !w.wit.seen[l.Image.Super.Generation] {
			return true
		}
	}
	return false
}

func (w *world) sectorOf(l *simLeg, i int64) (value, error) {
	return valueOf(l.disk.cur.sector(i*sectorSize), i)
}

// checkAlone: a leg that is served alone holds what it may, in every sector.
func (w *world) checkAlone() {
	b := &w.box
	alone := -1
	for s := range b.inSince {
		if b.inSince[s] >= 0 {
			if alone >= 0 {
				return
			}
			alone = s
		}
	}
	if alone < 0 || int64(alone) == w.p.victim {
		return
	}
	w.stats.AloneChecks++
	for _, i := range w.model.touched {
		v, err := w.sectorOf(w.legs[alone], int64(i))
		if err == nil {
			err = w.model.admits(int64(i), v)
		}
		if err != nil {
			w.fail("leg %d is served alone and is stale: %v", alone, err)
			return
		}
	}
}

func (w *world) scheduleBoot() {
	if !w.box.booting {
		w.box.booting = true
		w.in(w.spread(1*ms, 50*ms), event{kind: evBoot})
	}
}

// inspect is what the driver finds on a leg.
func (w *world) inspect(l *simLeg) *mirror.Leg {
	x := &mirror.Leg{Resource: fmt.Sprintf("/dev/leg%d", l.side), Bytes: l.bytes,
		LogicalBlock: w.geo.block, PhysicalBlock: pageSize}
	img, err := w.cfg.Load(reader{l.disk}, l.bytes)
	switch {
	case err == nil:
		x.Image = img
	case !errors.Is(err, metadata.ErrNoMetadata):
		x.Foreign = err.Error()
	}
	return x
}

type reader struct{ d *disk }

func (r reader) ReadAt(p []byte, off int64) (int, error) { r.d.read(off, p); return len(p), nil }

func describe(l *mirror.Leg) string {
	switch {
	case l == nil:
		return "absent"
	case l.Image == nil:
		return "blank " + l.Foreign
	}
	sb := &l.Image.Super
	s := fmt.Sprintf("(sequence %d, generation %d, in service %02b", sb.Sequence, sb.Generation.Counter, sb.InService)
	if sb.Syncing {
		s += ", syncing"
	}
	if sb.Clean {
		s += ", clean"
	}
	return s + fmt.Sprintf(", %d marked, %d missed %v)", l.Image.Intent.Count(), l.Image.Missed.Count(), l.Image.Damage)
}

func (s *witnessStore) describe() string {
	if s.now == nil {
		return "no witness"
	}
	return fmt.Sprintf("witness: survivor %d, generation %d", s.now.Survivor, s.now.Generation.Counter)
}

// place says where an operation goes.
func (b *box) place(io *legio.IO) string {
	if io.Op == legio.Flush {
		return ""
	}
	if y := b.layout; y != nil && io.Off >= y.DataBytes {
		switch {
		case io.Off >= y.SuperOff[1]:
			return "superblock copy 1"
		case io.Off >= y.SuperOff[0]:
			return "superblock copy 0"
		case io.Off >= y.MissedOff:
			return fmt.Sprintf("missed block %d", (io.Off-y.MissedOff)/metadata.BlockSize)
		case io.Off >= y.IntentOff:
			return fmt.Sprintf("intent block %d", (io.Off-y.IntentOff)/metadata.BlockSize)
		}
	}
	return fmt.Sprintf("[%d+%d)", io.Off, io.Len)
}
