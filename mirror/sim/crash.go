package sim

// The ways in which the driver or the power goes, and what is left then.

import (
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

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

// crash is a step that was drawn as a number of operations.
func (w *world) crash(kind CrashKind) {
	b := &w.box
	arg, verb := map[string]int64{}, "kill"
	if kind == PowerCut {
		verb = "power"
		if w.drawn(w.p.missing) {
			arg["without"] = w.plan.Int64N(2)
		}
	}
	if b.aim >= 0 {
		arg["without"] = int64(1 - b.aim)
	}
	w.do(verb, arg)
}

// doPower cuts the power; a leg may be missing at the next start.
func (w *world) doPower(s step) {
	w.box.crashAt, w.box.aim, w.box.crashOnAck = 0, -1, false
	w.powerCut()
	w.without(s)
}

// doKill kills the driver.
func (w *world) doKill(s step) {
	w.box.crashAt, w.box.aim, w.box.crashOnAck = 0, -1, false
	if w.box.eng == nil {
		return
	}
	w.killDriver()
	w.without(s)
}

func (w *world) without(s step) {
	if l, ok := s.arg["without"]; ok && w.err == nil {
		w.box.hide[l&1] = true
	}
}

// killDriver ends the driver process. Its I/O has ended before a successor starts, in
// any way; but a leg that hangs keeps what it was given, and is barred until it has
// let it go.
func (w *world) killDriver() {
	w.tracef("KILL   the driver")
	w.stats.Kills++
	w.driverEnds()
	w.scheduleBoot()
}

// driverEnds: the driver process is no more.
func (w *world) driverEnds() {
	b := &w.box
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
	w.ftd.driverDied(w)
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
}

// cacheLost: what was not flushed may be gone, as after a power cut, but the clients
// live.
func (w *world) cacheLost() {
	w.tracef("unflushed writes may be lost")
	w.history.end()
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
	w.history.end()
	w.model.powerCut()
	w.forgetResolve()
	w.powerUp(w.spread(1*ms, 50*ms))
}

// powerUp begins a start of the whole box.
func (w *world) powerUp(after int64) {
	if w.p.control {
		w.ftd.die(w)
		w.ftd.startSoon(w, after, true)
		return
	}
	w.scheduleBoot()
}

func (w *world) engineGone() {
	b := &w.box
	w.wit.crash(w)
	w.scrub.crash(w)
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

// stopped: the engine has stopped; its process ends. With the control core it is the whole
// box that was stopped.
func (w *world) stopped() {
	w.driverEnds()
	w.powerUp(w.spread(1*ms, 50*ms))
}
