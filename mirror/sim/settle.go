package sim

// The end of a run. Everything is healed and comes back, and what must then be true is
// checked: all is answered, both legs are in service, what clients read is right, the
// legs are equal, nothing is marked or missed, and each leg may serve alone.

import (
	"bytes"

	"ft/drivers"
	"ft/mirror/metadata"
)

const (
	settleTime = 600 * sec // in which both legs must be in service, all requests answered
	quietTime  = 12 * sec  // without I/O: what is done lazily is done
)

func (w *world) settle() {
	w.settling, w.unsettled, w.settleAt = true, w.steps, w.now
	w.tracef("SETTLE")
	w.healAll()
	if w.p.control {
		w.ftd.keepHelping(w)
	}
	limit := w.now + settleTime
	w.loop(func() bool {
		if w.now > limit {
			w.fail("not in duplex, or not all answered, %d s after everything was healed (legs %v and %v): %s",
				settleTime/sec, w.box.state[0], w.box.state[1], w.client.pending())
		}
		return w.box.serving() && w.client.active == 0 && w.duplex()
	})
	w.probe(&call{op: opFlush})
	if w.p.victim >= 0 {
		w.settleScrub() // also before anything is read again
	}
	for _, s := range w.written() {
		w.probe(&call{op: opRead, off: s.off, n: s.n})
	}
	w.settleScrub()
	limit = w.quiet(limit)
	if w.p.integrity {
		// What was soft when the marks went has no checksum now; what is read back is as hard
		// as it was, but with a small cache not everything.
		w.settleScrub()
		w.quiet(limit)
	}
	if w.err != nil {
		return
	}
	w.checkEqual()
	w.checkMetadata(false)
	w.checkTables()
	w.checkLeaks()
	if w.err == nil {
		w.finalStop()
	}
}

// quiet lets time pass until nothing is done any more, and gives a new limit.
func (w *world) quiet(limit int64) int64 {
	last, since := w.ops, w.now
	w.loop(func() bool {
		if w.ops != last {
			last, since = w.ops, w.now
		}
		if w.now > limit+settleTime {
			w.fail("the mirror does not come to rest")
		}
		return w.now-since > quietTime
	})
	return w.now + settleTime
}

func (w *world) duplex() bool {
	return w.box.state[0] == drivers.Duplex && w.box.state[1] == drivers.Duplex
}

func (w *world) healAll() {
	w.wit.fails, w.wit.slow = 0, 0
	w.box.hide = [2]bool{}
	w.box.crashAt = 0
	for _, l := range w.legs {
		l.bad = nil
		l.until = 0
		w.heal(l, w.now)
		if !l.present {
			w.gone(l)
			w.comeBack(l)
		}
	}
	if w.box.eng == nil && !w.p.control {
		w.scheduleBoot()
	}
}

// probe sends a request of the simulator's own and waits for its answer.
func (w *world) probe(c *call) {
	if w.err != nil {
		return
	}
	w.client.send(w, c)
	w.loop(func() bool { return w.client.active == 0 })
	if w.err == nil && c.req.Err != 0 {
		w.fail("%s fails although nothing ails anything: %v", c, c.req.Err)
	}
}

// checkEqual compares the data of the legs byte for byte.
func (w *world) checkEqual() {
	var zero page
	a, b := &w.legs[0].disk.cur, &w.legs[1].disk.cur
	for i := range int(w.dataBytes / pageSize) {
		x, y := a.pages[i], b.pages[i]
		if x == y {
			continue
		}
		if x == nil {
			x = &zero
		}
		if y == nil {
			y = &zero
		}
		if bytes.Equal(x[:], y[:]) {
			continue
		}
		for o := 0; o < pageSize; o += sectorSize {
			if !bytes.Equal(x[o:o+sectorSize], y[o:o+sectorSize]) {
				n := int64(i)*pageSize/sectorSize + int64(o/sectorSize)
				v, _ := valueOf(x[o:o+sectorSize], n)
				u, _ := valueOf(y[o:o+sectorSize], n)
				w.fail("in duplex and at rest the legs differ: sector %d is %s on leg 0 and %s on leg 1", n, name(v), name(u))
				return
			}
		}
	}
}

// checkMetadata reads both legs' metadata in duplex and at rest, or after a clean stop.
func (w *world) checkMetadata(clean bool) {
	var sb [2]metadata.Superblock
	for s, l := range w.legs {
		img, err := metadata.Load(reader{l.disk}, l.bytes)
		if err != nil {
			w.fail("in duplex and at rest the metadata of leg %d cannot be read: %v", s, err)
			return
		}
		sb[s] = img.Super
		switch {
		case len(img.Damage) > 0:
			w.fail("in duplex and at rest leg %d has damaged metadata: %v", s, img.Damage)
		case img.Intent.Count() > 0:
			w.fail("in duplex and at rest leg %d has %d marked extents", s, img.Intent.Count())
		case img.Super.InService != 3 || img.Super.Syncing:
			w.fail("in duplex and at rest the superblock of leg %d says: in service %02b, syncing %v", s, img.Super.InService, img.Super.Syncing)
		case clean && !img.Super.Clean:
			w.fail("after a clean stop leg %d is not clean", s)
		}
	}
	if sb[0].Generation != sb[1].Generation {
		w.fail("in duplex and at rest the legs are of generations %v and %v", sb[0].Generation, sb[1].Generation)
	}
	if x := w.wit.now; x == nil || x.Generation != sb[0].Generation || x.Survivor != -1 {
		w.fail("in duplex and at rest the witness says %+v, the legs are of generation %v", x, sb[0].Generation)
	}
}

// checkLeaks: at rest nothing is held that was given.
func (w *world) checkLeaks() {
	for _, c := range w.client.calls {
		if !c.freed {
			w.fail("%s was answered and never given back", c)
			return
		}
	}
	if n := len(w.box.allocs); n > 0 {
		w.fail("at rest the engine holds %d pieces of memory", n)
	}
}

// finalStop stops cleanly, after which either leg may serve alone.
func (w *world) finalStop() {
	life := w.box.life
	w.stop()
	limit := w.now + settleTime
	w.loop(func() bool {
		if w.now > limit {
			w.fail("a clean stop does not end")
		}
		return w.box.life != life
	})
	if w.err != nil {
		return
	}
	w.checkMetadata(true)
	w.checkTables()
	w.box.hide[w.rng.IntN(2)] = true
	starts := w.stats.Starts
	w.loop(func() bool { return w.stats.Starts > starts })
	if w.err == nil && !w.box.serving() {
		w.fail("after a clean stop in duplex one leg alone may not serve")
	}
}
