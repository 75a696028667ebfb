package sim

// box is the machine around the engine: it starts an engine from what the legs and
// the witness say, as the driver does, and takes it away again: by a power cut, by
// killing the driver, by a clean stop.

import (
	"errors"
	"fmt"
	"syscall"

	"ft/drivers"
	"ft/mirror"
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
	if b.eng != nil {
		return
	}
	for _, l := range w.legs {
		if w.chance(w.p.rot) {
			w.rot(l)
		}
	}
	legs := w.look(-1)
	b.hide = [2]bool{}
	if w.unmade(legs) {
		w.scheduleBoot()
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
		err = b.eng.Start(legs, w.wit.now, b.adminOut)
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
		if l.present && !l.hung && b.zombies[s] == 0 && !b.hide[s] && (asked < 0 || asked == s || !b.adminOut[s]) {
			legs[s] = w.inspect(l)
		}
	}
	return legs
}

// rot spoils one copy of a leg's superblock, if the other one says the same: what two
// copies are for. It turns to garbage, or the last write to it proves to have been lost.
func (w *world) rot(l *simLeg) {
	if w.box.layout == nil || w.settling {
		return
	}
	buf, same := w.superblocks(l)
	if !same {
		return
	}
	y := w.box.layout
	i := w.rng.IntN(2)
	w.stats.Rots++
	l.rotten = true
	if old := l.older[i]; old != nil && w.chance(0.5) {
		w.tracef("CHAOS  copy %d of leg %d's superblock is as it was before the last update", i, l.side)
		copy(buf[i][:], old)
	} else {
		w.tracef("CHAOS  copy %d of leg %d's superblock rots", i, l.side)
		buf[i][w.rng.IntN(256)] ^= 1 << w.rng.IntN(8)
	}
	l.disk.stable.write(y.SuperOff[i], metadata.BlockSize, buf[i][:])
	l.disk.cur.write(y.SuperOff[i], metadata.BlockSize, buf[i][:])
}

// superblocks are the two copies on a leg's medium, and whether they are whole and say
// the same.
func (w *world) superblocks(l *simLeg) (buf [2][metadata.BlockSize]byte, same bool) {
	same = true
	for i, off := range w.box.layout.SuperOff {
		l.disk.stable.read(off, buf[i][:])
		_, err := metadata.DecodeSuper(buf[i][:])
		same = same && err == nil
	}
	return buf, same && buf[0] == buf[1]
}

// frail says from where on writes to a leg are not torn: while one copy of the superblock
// is bad, tearing the other would be a second fault at once.
func (w *world) frail(l *simLeg) int64 {
	if l.rotten {
		_, same := w.superblocks(l)
		l.rotten = !same
	}
	if l.rotten {
		return w.box.layout.SuperOff[0]
	}
	return l.bytes
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
	b.eng = w.cfg.New("disk0", mirror.Options{NoLeg: w.p.noLeg, LegTimeout: w.p.legTimeout,
		ResyncRateMin: w.p.rateMin, ResyncRateMax: w.p.rateMax, Integrity: "none"}, &env{w, b.life})
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
		w.firstStart(g.Size, legs)
	}
	if g.Size != w.dataBytes {
		w.fail("the face had %d bytes and has %d now", w.dataBytes, g.Size)
		return
	}
	w.checkAlone()
	if w.err == nil {
		w.client.resend(w)
	}
	for s := range w.legs {
		if w.err == nil && w.chance(0.6) {
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
	if both && !b.overruled && !b.adminOut[0] && !b.adminOut[1] && !w.unwitnessed(legs) {
		w.fail("start with both legs was refused (%s): %s", r.Code, r.Sentence)
		return
	}
	if w.mayResolve(legs, r.Code) {
		return
	}
	b.eng = nil
	b.life++
	if w.settling || w.chance(0.5) {
		b.adminOut = [2]bool{}
	}
	b.booting = true
	w.in(w.between(20*ms, 1*sec), event{kind: evBoot})
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

// mayResolve lets the admin choose a leg that is refused, now and then. What is on it
// is the truth from then on.
func (w *world) mayResolve(legs [2]*mirror.Leg, code string) bool {
	b := &w.box
	switch {
	case w.dataBytes == 0 || legs[0] == nil && legs[1] == nil:
		return false
	case code == drivers.RuleSplitBrain && b.refusals >= 2, w.settling && b.refusals >= 20:
	case code == drivers.RuleStale && b.refusals >= 2 && w.chance(w.p.resolve):
	default:
		return false
	}
	keep := w.rng.IntN(2)
	if legs[keep] == nil {
		keep = 1 - keep
	}
	if legs[keep] == nil || legs[keep].Image == nil {
		return false
	}
	w.tracef("resolve --keep leg %d", keep)
	b.overruled = true
	for s := range b.bound.allowed {
		b.bound.all(s)
	}
	for s := range legs {
		b.served[s] = legs[s] != nil
	}
	err := b.eng.Resolve(drivers.Side(keep), legs, w.wit.now)
	if w.err != nil {
		return true
	}
	if err != nil {
		w.tracef("resolve refused: %v", err)
		b.unserve()
		return false
	}
	w.stats.Resolves++
	b.resolving = keep
	if err := w.model.became(func(i int64) (value, error) { return w.sectorOf(w.legs[keep], i) }); err != nil {
		w.fail("resolve: %v", err)
		return true
	}
	w.beginAnew()
	w.starting(legs)
	return true
}

func (w *world) sectorOf(l *simLeg, i int64) (value, error) {
	var s [sectorSize]byte
	l.disk.read(i*sectorSize, s[:])
	return valueOf(s[:], i)
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
	if alone < 0 {
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
		w.in(w.between(1*ms, 50*ms), event{kind: evBoot})
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

// crashPoint crashes when it is time.
func (w *world) crashPoint() {
	b := &w.box
	if w.err != nil || w.settling {
		return
	}
	if w.cfg.CrashAt > 0 && !b.crashed && w.steps >= w.cfg.CrashAt {
		b.crashed = true
		w.crash(w.cfg.CrashKind)
		return
	}
	if b.crashAt > 0 && w.steps >= b.crashAt && b.eng != nil {
		w.crash(b.kind)
	}
}

func (w *world) crash(kind CrashKind) {
	b := &w.box
	aim := b.aim
	b.crashAt, b.aim, b.crashOnAck = 0, -1, false
	if kind == PowerCut {
		w.powerCut()
	} else {
		w.killDriver()
	}
	if aim >= 0 && w.err == nil {
		// The other leg is not there at the next start.
		b.hide[1-aim] = true
	}
}

// killDriver ends the driver process. Its I/O has ended before a successor starts, in
// any way; but a leg that hangs keeps what it was given, and is barred until it has
// let it go.
func (w *world) killDriver() {
	b := &w.box
	w.tracef("KILL   the driver")
	w.stats.Kills++
	for s, l := range w.legs {
		ops := l.ops
		l.ops = nil
		w.rng.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
		for _, o := range ops {
			switch {
			case o.zombie:
				l.ops = append(l.ops, o)
			case l.hung && l.present:
				o.zombie = true
				b.zombies[s]++
				w.stats.Zombies++
				l.ops = append(l.ops, o)
			default:
				o.dead = true
				if l.present && !o.vanish && (o.io.Op == legio.Write || o.io.Op == legio.Zero) {
					l.disk.land(cachedOf(o.io), w.rng, w.frail(l))
				}
			}
		}
	}
	w.engineGone()
	w.client.driverDied(w)
	w.forgetResolve()
	// A leg lost its cache, and nobody lives who knew. If its partner is not known as the
	// survivor, nothing tells which of the two is right: unflushed writes may be gone.
	for s, l := range w.legs {
		if l.lost && (w.wit.now == nil || int(w.wit.now.Survivor) != 1-s) {
			w.cacheLost()
		}
		l.lost = false
	}
	w.scheduleBoot()
}

// cacheLost: what was not flushed may be gone, as after a power cut, but the clients
// live.
func (w *world) cacheLost() {
	w.tracef("unflushed writes may be lost")
	w.model.powerCut()
	w.beginAnew()
}

// beginAnew: what no engine has is sent again, as if for the first time. What an engine
// has may have been carried out before the loss, and answered by an engine that does not
// know of it: its answer says nothing about what is there now.
func (w *world) beginAnew() {
	for _, c := range w.client.calls {
		if c.phase < phAnswered {
			w.model.begin(c)
			c.past = c.phase != phSent
		}
	}
}

// powerCut ends everything volatile.
func (w *world) powerCut() {
	b := &w.box
	w.tracef("POWER  is cut")
	w.stats.PowerCuts++
	for s, l := range w.legs {
		l.disk.powerCut(l.inFlight(), w.rng, w.frail(l))
		for _, o := range l.ops {
			o.dead = true
		}
		l.ops = nil
		b.zombies[s] = 0
		l.hung, l.slow, l.fail, l.until, l.lost = false, 0, nil, 0, false
	}
	w.engineGone()
	for _, c := range w.client.calls {
		if c.phase < phAnswered && (c.op == opWrite || c.op == opZero) {
			b.bound.ended(c.off, c.n, [2]bool{true, true})
		}
	}
	w.client.powerLost()
	w.model.powerCut()
	w.forgetResolve()
	w.bootSubset()
	w.scheduleBoot()
}

// forgetResolve: the driver or the power went before the admin's word was on stable
// storage. Either leg may be the one that is served next.
func (w *world) forgetResolve() {
	b := &w.box
	if b.resolving < 0 {
		return
	}
	b.resolving = -1
	w.tracef("the admin's choice may be lost")
	w.model.either(func(i int64) (vals []value) {
		for _, l := range w.legs {
			if v, err := w.sectorOf(l, i); err == nil {
				vals = append(vals, v)
			}
		}
		return vals
	})
	w.beginAnew()
}

// bootSubset lets a leg be missing at the start.
func (w *world) bootSubset() {
	if x := w.rng.Float64(); x < w.p.missing {
		w.box.hide[w.rng.IntN(2)] = true
	}
}

func (w *world) engineGone() {
	b := &w.box
	w.wit.crash(w)
	b.eng, b.started, b.stopping = nil, false, false
	b.life++
	b.inSince = [2]int64{-1, -1}
	b.served = [2]bool{}
	b.crashAt = 0
	w.client.healthySince = -1
	for s := range b.inSince {
		if b.bound.known() {
			b.bound.lost(s)
		}
	}
}

// stop stops cleanly: what is under way ends first, and all is stable afterwards.
func (w *world) stop() {
	b := &w.box
	b.stopping = true
	w.tracef("stop")
	asked, serves := w.model.tick(), b.inSince[0] >= 0 || b.inSince[1] >= 0
	life := b.life
	w.box.eng.Stop(func(err error) {
		if life != b.life {
			w.fail("a stop ended after its engine's life")
			return
		}
		w.tracef("stopped: %v", err)
		w.stats.Stops++
		if err == nil {
			w.checkStopped()
		}
		w.in(1, event{kind: evStopped, life: life})
		if err == nil && serves {
			w.model.flushed = max(w.model.flushed, asked)
		}
	})
}

// checkStopped: after a clean end nothing is being written to a leg in service.
func (w *world) checkStopped() {
	for s, l := range w.legs {
		for _, o := range l.ops {
			if w.box.inSince[s] >= 0 && !o.zombie && (o.io.Op == legio.Write || o.io.Op == legio.Zero) {
				w.fail("stopped, with op %d, a %s on leg %d, under way", o.number, o.io.Op, s)
				return
			}
		}
	}
}

// stopped: the engine has stopped; its process ends.
func (w *world) stopped() {
	w.killDriver()
	w.stats.Kills--
}

// sideChanged follows what the engine reports.
func (b *box) sideChanged(w *world, side int, ev drivers.Event) {
	to, err := drivers.ParseState(ev.To)
	if err != nil {
		w.fail("event with an unknown state: %+v", ev)
		return
	}
	was := b.state[side]
	b.state[side] = to
	in := to.InService()
	switch {
	case !in && b.inSince[1-side] < 0 && (w.legs[0].lost || w.legs[1].lost):
		// Both are out, one of them without its cache, and it may be served again before its
		// partner.
		w.legs[0].lost, w.legs[1].lost = false, false
		w.cacheLost()
	}
	if to == drivers.Duplex {
		w.model.equal = true
	} else if was == drivers.Syncing && to == drivers.Simplex {
		w.model.undecide(0, w.dataBytes)
	}
	switch {
	case in && b.inSince[side] < 0:
		b.inSince[side] = w.now
		if was == drivers.Syncing {
			w.stats.Resyncs++
			b.bound.joined(side)
		}
	case !in && b.inSince[side] >= 0:
		b.inSince[side] = -1
		w.stats.Losses++
		if b.resolving == side {
			w.forgetResolve()
		}
		if b.bound.known() {
			b.bound.lost(side)
		}
		w.afterLoss(side)
	}
	if in || to == drivers.Syncing || to == drivers.Diagnostics {
		return
	}
	b.served[side] = false
	if to == drivers.Shot {
		l := w.legs[side]
		if !w.recentlyIll(l) {
			w.fail("leg %d was cut off although nothing ailed it: %s", side, ev.Reason)
		}
	}
}

// recentlyIll says whether a leg gave cause to be cut off.
func (w *world) recentlyIll(l *simLeg) bool {
	return !l.well() || l.illAt >= 0 && w.now-l.illAt <= 12*int64(w.p.legTimeout)
}

// afterLoss likes to crash soon after a leg was lost, and to start with that leg: the
// moment when a mirror is most easily wrong.
func (w *world) afterLoss(side int) {
	b := &w.box
	if w.settling || w.cfg.Calm || b.crashAt > 0 || !w.chance(w.p.crashAfterLoss) {
		return
	}
	b.crashAt = w.steps + 1 + w.rng.Int64N(16)
	b.kind, b.aim = PowerCut, -1
	if w.chance(0.65) {
		b.kind = KillDriver
	}
	// At best the moment that a write has been acknowledged.
	b.crashOnAck = w.chance(0.7)
	if w.chance(0.25) {
		b.aim = side
	}
}

// checkCopy: what is written to a leg's data is a client's, or a copy to where the leg
// may differ.
func (b *box) checkCopy(w *world, io *legio.IO) {
	if io.Op == legio.Write {
		for _, c := range w.client.calls {
			if overlap(c.mem, io.Buf) {
				return
			}
		}
	} else {
		for _, c := range w.client.calls {
			if c.op == opZero && c.off <= io.Off && io.Off+io.Len <= c.off+c.n {
				return
			}
		}
	}
	w.stats.CopiedBytes += io.Len
	if b.state[io.Side] == drivers.Simplex && b.state[1-io.Side] == drivers.Syncing {
		w.model.undecide(io.Off, io.Len) // a crash resync that turned round: the source is unreadable there
	}
	lo, hi := b.bound.span(io.Off, io.Len)
	for r := lo; r < hi; r++ {
		b.bound.copied[io.Side][r] = b.bound.step
		if !b.bound.allowed[io.Side][r] {
			w.fail("region %d is copied to leg %d, which did not miss it", r, io.Side)
			return
		}
	}
}

// opEnded follows what the legs have done.
func (b *box) opEnded(w *world, o *legOp) {
	b.bound.opEnded(o)
	if y := b.layout; y != nil && o.io.Op == legio.Write && o.io.Off >= y.IntentOff && o.io.Off < y.MissedOff &&
		b.inSince[1-o.side] < 0 && b.crashAt == 0 && !w.settling && w.chance(w.p.crashAfterMap) {
		b.crashAt, b.kind, b.aim = w.steps+1+w.rng.Int64N(24), PowerCut, -1
	}
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
