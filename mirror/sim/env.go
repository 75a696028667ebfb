package sim

// The engine's Env. Every way out of the engine leads through here, and is checked.

import (
	"encoding/binary"
	"time"

	"ft/drivers"
	"ft/mirror/frontend"
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// env is the world for one engine. What an engine of an earlier life still says is a
// fault of the simulator's own.
type env struct {
	w    *world
	life int
}

// alloc is memory that the engine asked for.
type alloc struct{ mem []byte }

func (e *env) alive() *world {
	if e.life != e.w.box.life {
		panic("sim: an engine that is no more was called")
	}
	return e.w
}

func (e *env) Now() int64 { return e.w.now }

// Wall begins at a fixed date, so that a run is a function of its seed.
func (e *env) Wall() time.Time { return time.Unix(1_700_000_000, e.w.now).UTC() }

func (e *env) UUID() metadata.UUID { return e.w.uuid() }

func (w *world) uuid() (u metadata.UUID) {
	binary.LittleEndian.PutUint64(u[:], w.rng.Uint64())
	binary.LittleEndian.PutUint64(u[8:], w.rng.Uint64())
	return u
}

// Submit begins an operation on a leg.
func (e *env) Submit(io *legio.IO) {
	w := e.alive()
	w.checkIO(io)
	if w.err != nil {
		return
	}
	l := w.legs[io.Side]
	w.ops++
	w.steps++
	o := &legOp{io: io, number: w.ops, side: int(io.Side)}
	if io.Op == legio.Flush {
		o.mark = l.disk.mark()
	}
	if io.Op == legio.Read && l.present && !w.p.even && w.chance(0.3) {
		o.early = true
		l.disk.read(io.Off, io.Buf)
	}
	l.ops = append(l.ops, o)
	if w.tracing() {
		w.tracef("leg %d  begin op %d %s %s", o.side, o.number, io.Op, w.place(io))
	}
	w.fold(uint64(io.Off)<<8 ^ uint64(io.Len)<<2 ^ uint64(io.Op))
	w.in(w.latency(l, io), event{kind: evOpEnd, side: o.side, op: o})
}

// latency is how long an operation takes.
func (w *world) latency(l *simLeg, io *legio.IO) int64 {
	d := w.spread(w.p.latency/8, w.p.latency)
	switch {
	case w.p.even:
	case w.chance(0.03):
		d += w.between(0, 10*w.p.latency)
	case io.Op == legio.Flush:
		d += w.between(0, 2*w.p.latency)
	}
	if l.slow > 0 {
		d += w.spread(0, l.slow)
	}
	return d
}

// place says where an operation goes, in words.
func (w *world) place(io *legio.IO) string {
	return w.box.place(io)
}

// checkIO is what the contract of legio.IO demands, and that the leg may be written to.
func (w *world) checkIO(io *legio.IO) {
	if io.Side < 0 || io.Side > 1 {
		w.fail("an operation for side %d", io.Side)
		return
	}
	l := w.legs[io.Side]
	block := int64(w.geo.block)
	if !w.box.served[io.Side] {
		w.fail("leg %d is out of service and gets a %s of %s", io.Side, io.Op, w.place(io))
	}
	if io.Op == legio.Flush {
		return
	}
	if io.Off < 0 || io.Len <= 0 || io.Off+io.Len > l.bytes || io.Off%block != 0 || io.Len%block != 0 {
		w.fail("leg %d gets a %s of [%d+%d) with blocks of %d on %d bytes", io.Side, io.Op, io.Off, io.Len, block, l.bytes)
	}
	if io.Op != legio.Zero && (int64(len(io.Buf)) != io.Len || address(io.Buf)%pageSize != 0) {
		w.fail("leg %d gets a %s of %d bytes with %d bytes of memory at %#x", io.Side, io.Op, io.Len, len(io.Buf), address(io.Buf))
	}
	if w.dataBytes > 0 && io.Op != legio.Read && io.Off < w.dataBytes {
		if io.Off+io.Len > w.dataBytes {
			w.fail("leg %d gets a %s across the end of its data", io.Side, io.Op)
			return
		}
		w.box.checkCopy(w, io)
	}
}

// opEnds lets an operation end, unless its leg hangs.
func (w *world) opEnds(o *legOp) {
	if o.dead {
		return
	}
	l := w.legs[o.side]
	if l.hung {
		o.held = true
		return
	}
	l.remove(o)
	errno := l.end(w, o)
	if o.zombie {
		w.box.zombies[o.side]--
		w.ftd.quiet(w, o.side)
		w.tracef("leg %d  a dead driver's op %d ends", o.side, o.number)
		return
	}
	o.io.Err = errno
	w.steps++
	if w.tracing() {
		w.tracef("leg %d  end   op %d %s %s: %s", o.side, o.number, o.io.Op, w.place(o.io), errnoName(errno))
	}
	w.box.opEnded(w, o)
	w.box.eng.LegDone(o.io)
}

// Reply takes the answer to a request.
func (e *env) Reply(r *frontend.Request) {
	w := e.alive()
	w.client.answer(w, r)
}

// Free takes a request back.
func (e *env) Free(r *frontend.Request) {
	w := e.alive()
	w.client.free(w, r)
}

// Alloc gives the engine memory, or, when the seed wants it, does not.
func (e *env) Alloc(n int) ([]byte, func()) {
	w := e.alive()
	if n > bufferSizes[len(bufferSizes)-1] || w.p.starved > 0 && !w.settling && w.chance(w.p.starved) {
		w.tracef("no memory for %d bytes", n)
		return nil, func() {}
	}
	mem := w.run.bufs.get(n)
	a := &alloc{mem}
	w.box.allocs[a] = struct{}{}
	return mem, func() {
		if _, ok := w.box.allocs[a]; !ok {
			w.fail("memory of the engine's is released twice, or after its life")
			return
		}
		delete(w.box.allocs, a)
		w.checkUnused(a.mem, "memory of the engine's")
		w.run.bufs.put(a.mem)
	}
}

// checkUnused: no operation under way may refer to memory that is given back.
func (w *world) checkUnused(mem []byte, what string) {
	for _, l := range w.legs {
		for _, o := range l.ops {
			if !o.zombie && overlap(o.io.Buf, mem) {
				w.fail("%s is given back while op %d, a %s on leg %d, still uses its memory", what, o.number, o.io.Op, l.side)
			}
		}
	}
}

// Event hears what the engine reports.
func (e *env) Event(ev drivers.Event) {
	w := e.alive()
	if w.tracing() {
		w.tracef("event  %s %d %s→%s %s", ev.Kind, ev.Side, ev.From, ev.To, ev.Reason)
	}
	if ev.Kind == drivers.EventNote {
		w.scrubSaid(ev)
	}
	if ev.Kind == drivers.EventSide {
		w.box.sideChanged(w, int(ev.Side), ev)
	}
	w.ftd.emit(w, ev)
}

// WriteWitness stores the witness, in time.
func (e *env) WriteWitness(x metadata.Witness) {
	w := e.alive()
	if w.wit.busy {
		w.fail("two witnesses are written at once")
		return
	}
	if w.tracing() {
		w.tracef("witness begin: survivor %d, generation %d", x.Survivor, x.Generation.Counter)
	}
	w.wit.busy, w.wit.next = true, x
	w.steps++
	d := w.spread(w.p.latency/4, 4*w.p.latency)
	if w.wit.slow > w.now {
		d += w.spread(0, 2*sec)
	}
	w.in(d, event{kind: evWitness, life: w.box.life})
}

// witnessStore is the store outside the legs: atomic and durable, but it can fail, and
// a crash finds the new word stored or not.
type witnessStore struct {
	now   *metadata.Witness
	busy  bool
	next  metadata.Witness
	fails int64 // until then it fails
	slow  int64
	illAt int64
	seen  map[metadata.Generation]bool // that it ever said
}

func (s *witnessStore) well(since int64) bool { return s.illAt < since }

func (s *witnessStore) end(w *world) {
	s.busy = false
	w.steps++
	if s.fails > w.now {
		s.illAt = w.now
		if w.chance(0.3) { // it may be there all the same
			s.store()
		}
		w.tracef("witness end: error")
		w.box.eng.WitnessDone(errWitness)
		return
	}
	s.store()
	if v := s.now.Survivor; v >= 0 {
		w.legs[1-v].lost = false
		w.box.resolving = -1
	}
	w.tracef("witness end: ok")
	w.box.eng.WitnessDone(nil)
}

func (s *witnessStore) store() {
	x := s.next
	s.now = &x
	s.seen[x.Generation] = true
}

// crash ends what is under way.
func (s *witnessStore) crash(w *world) {
	if s.busy && w.chance(0.5) {
		s.store()
	}
	s.busy = false
}
