package sim

// client is the applications above the face: a bounded number of requests under way,
// on ranges that overlap on purpose, and the record of what was answered.
//
// The way of a request: sent → submitted to the engine → Reply → the answer reaches
// the client → the engine hears Replied → Free. When the driver dies, an answer that
// had not reached the client is lost, and its request is sent again to the successor
// (FUSE_NOTIFY_RESEND), in any order. A power cut ends the client too.

import (
	"fmt"
	"sort"
	"strings"
	"syscall"
	"time"

	"ft/mirror/frontend"
)

type opKind = frontend.Op

const (
	opRead  = frontend.Read
	opWrite = frontend.Write
	opFlush = frontend.Flush
	opZero  = frontend.Zero
)

// phase is how far a request has come.
type phase uint8

const (
	phSent      phase = iota // no engine has it (the driver is down)
	phSubmitted              // the engine has it
	phReplied                // the engine has answered; the answer is on its way
	phAnswered               // the client has the answer
	phDone                   // the engine has heard so
)

// call is one request of a client, over all its submissions.
type call struct {
	op     opKind
	off, n int64
	val    value
	begun  stamp // for the model
	step   int64 // for the bound
	fua    bool  // it counts as done when a flush has followed it, as the frontends have it
	doer   int   // its step in the script that is being written, from 1; 0: none
	at     int64 // when it was sent
	behind int64 // pieces of discards and write-zeroes that may be done before it, with its own
	phase  phase
	req    *frontend.Request // of the present life
	mem    []byte            // what req.Data was at first; given back by Free
	freed  bool
	tries  int
	// past: it may have been carried out before unflushed writes were lost.
	past   bool
	record *Record
	mute   bool // its answer does not go out in this life
	mutes  int  // that happens at this try
}

func (c *call) String() string {
	if c.op == opFlush {
		return fmt.Sprintf("flush#%d", c.val)
	}
	return fmt.Sprintf("%s#%d [%d+%d)", c.op, c.val, c.off, c.n)
}

type client struct {
	left   int // requests yet to be sent
	calls  []*call
	active int   // not answered yet
	number value // of the last request
	held   int   // how often in a row there was no room for another one
	moved  int64 // when one was last answered
	forced int   // flushes to be sent for forced writes that have been answered
	spots  []span
	// paused: no request is sent before.
	paused int64
	// healthySince: an engine serves from a leg that is well, and the witness can be
	// written, since then; -1: not now.
	healthySince int64
}

type span struct{ off, n int64 }

func (cl *client) finished() bool { return cl.left == 0 && cl.active == 0 }

// pending names what has not been answered, for messages.
func (cl *client) pending() string {
	var s []string
	for _, c := range cl.calls {
		if c.phase < phAnswered {
			s = append(s, c.String())
		}
	}
	return "unanswered: " + strings.Join(s, ", ")
}

// act sends a request, if there is room, and comes back for the next.
func (cl *client) act(w *world) {
	if w.settling {
		return
	}
	if cl.left > 0 && cl.active < w.p.depth && w.now >= cl.paused && w.dataBytes > 0 {
		cl.left--
		verb, arg := cl.draw(w)
		w.do(verb, arg)
		cl.held = 0
	} else {
		cl.held++
	}
	if cl.left > 0 {
		wait := 1 + int64(w.plan.ExpFloat64()*float64(w.p.think))
		if cl.held > 100 { // nothing is answered: look less often
			wait = max(wait, min(int64(cl.held)*100_000, 50*ms))
		}
		w.in(wait, event{kind: evClient})
	}
}

// request sends the request of a step, as far as it fits.
func (w *world) request(op opKind, s step) {
	c := &call{op: op, off: s.arg["off"], n: s.arg["len"], fua: s.arg["fua"] != 0, mutes: int(s.arg["mute"])}
	if op != opFlush {
		lb := int64(w.geo.block)
		c.off, c.n = c.off/lb*lb, max(lb, c.n/lb*lb)
		c.n = min(c.n, w.dataBytes-c.off)
		if c.n <= 0 || c.off < 0 || op != opZero && c.n > int64(bufferSizes[len(bufferSizes)-1]) {
			return
		}
	}
	if w.script != nil && !w.replay && !w.settling {
		c.doer = len(w.script.steps)
	}
	w.client.send(w, c)
}

// draw makes up a request.
func (cl *client) draw(w *world) (verb string, arg map[string]int64) {
	c := &call{}
	r := w.plan.Float64() * (w.p.reads + w.p.writes + w.p.flushes + w.p.zeroes)
	switch {
	case r < w.p.reads:
		c.op = opRead
	case r < w.p.reads+w.p.writes:
		c.op = opWrite
	case r < w.p.reads+w.p.writes+w.p.flushes:
		return "flush", nil
	default:
		c.op = opZero
	}
	lb := int64(w.geo.block)
	size := int64(8 << 10)
	switch x := w.plan.IntN(100); {
	case x < 60:
	case x < 90:
		size = 48 << 10
	case x < 99:
		size = 160 << 10
	default:
		size = 1 << 20
	}
	c.n = lb * (1 + w.plan.Int64N(max(1, size/lb)))
	s := cl.spots[w.plan.IntN(len(cl.spots))]
	if w.drawn(0.03) {
		s = span{0, w.dataBytes}
	}
	c.off = s.off + w.plan.Int64N(s.n)/lb*lb
	if w.drawn(0.3) {
		c.off = s.off
	}
	if c.op == opZero && w.drawn(0.05) { // as mkfs and fstrim ask: a sizeable part of the disk
		c.n = lb * (1 + w.plan.Int64N(w.dataBytes/lb))
	}
	arg = map[string]int64{"off": c.off, "len": min(c.n, w.dataBytes-c.off)}
	if c.op != opRead && w.drawn(w.p.fua) {
		arg["fua"] = 1
	}
	return c.op.String(), arg
}

// send begins a request.
func (cl *client) send(w *world, c *call) {
	cl.number++
	c.val, c.at = cl.number, w.now
	cl.calls = append(cl.calls, c)
	cl.active++
	w.stats.Requests++
	w.model.begin(c)
	w.history.sent(c)
	c.step = w.box.bound.step
	if c.op == opWrite || c.op == opZero {
		w.box.bound.wrote(c.off, c.n, w.box.out())
	}
	if w.box.serving() {
		cl.submit(w, c)
	}
}

// submit gives a request to the engine.
func (cl *client) submit(w *world, c *call) {
	c.phase, c.freed = phSubmitted, false
	c.tries++
	c.behind = 0
	for _, other := range cl.calls {
		if other.op == opZero && other.phase == phSubmitted {
			c.behind += other.n/zeroPiece + 1
		}
	}
	c.req = &frontend.Request{Op: c.op, Off: c.off, Len: c.n, Mem: c}
	if c.op == opFlush {
		c.req.Len = 0
	}
	c.mem = nil
	if c.op == opRead || c.op == opWrite {
		c.mem = w.run.bufs.get(int(c.n))
		c.req.Data = c.mem
		if c.op == opWrite {
			fill(c.mem, c.val, c.off/sectorSize)
		}
	}
	if w.tracing() {
		w.tracef("submit %s (try %d)", c, c.tries)
	}
	w.box.eng.Submit(c.req)
}

// answer is Env.Reply: the engine has answered.
func (cl *client) answer(w *world, r *frontend.Request) {
	c, ok := r.Mem.(*call)
	if !ok || c.req != r || c.phase != phSubmitted || c.freed {
		w.fail("%v is answered twice, or after it was given back", r.Mem)
		return
	}
	c.phase = phReplied
	if w.tracing() {
		w.tracef("reply  %s: %s", c, errnoName(r.Err))
	}
	if !w.settling && !w.cfg.Calm && w.p.mute > 0 && w.drawn(w.p.mute) {
		c.mutes = c.tries
		if c.doer > 0 {
			s := &w.script.steps[c.doer-1]
			if s.arg == nil {
				s.arg = map[string]int64{}
			}
			s.arg["mute"] = int64(c.mutes)
		}
		w.in(w.drawnIn(w.p.transit, 20*w.p.transit), event{kind: evKill, life: w.box.life, call: c})
	}
	if c.mutes == c.tries {
		// The driver stands still in the middle of this answer, in one of its threads, until
		// it is killed for it.
		w.tracef("mute   %s", c)
		c.mute = true
		if w.replay { // should the script not do so
			w.in(40*w.p.transit+sec, event{kind: evKill, life: w.box.life, call: c})
		}
		return
	}
	w.in(w.spread(1, w.p.transit), event{kind: evAnswer, life: w.box.life, call: c})
}

// answered: the answer reaches the client.
func (cl *client) answered(w *world, c *call) {
	if c.phase != phReplied {
		return
	}
	c.phase = phAnswered
	cl.active--
	cl.moved = w.now
	r := c.req
	w.history.answered(c)
	if c.op == opWrite || c.op == opZero {
		w.box.bound.ended(c.off, c.n, w.box.out())
	}
	var err error
	switch {
	case r.Err != 0:
		w.stats.Errors++
		cl.errorWarranted(w, c)
		if c.op == opRead {
			w.model.readEnded(c)
		} else if c.op != opFlush && !c.past {
			err = w.model.wrote(c, false)
		}
	case c.past:
		if c.op == opRead {
			w.model.readEnded(c)
		}
	case c.op == opRead:
		if int64(len(r.Data)) != c.n {
			w.fail("%s returned %d bytes", c, len(r.Data))
			return
		}
		err = w.model.read(c, r.Data)
	case c.op == opFlush:
		w.model.flushDone(c)
		b := &w.box
		b.bound.flushDone(c.step, [2]bool{b.inFor(w, 0, c.at), b.inFor(w, 1, c.at)})
	default:
		err = w.model.wrote(c, true)
		if b := &w.box; b.crashOnAck && b.crashAt > 0 {
			b.crashAt = w.steps // now
		}
	}
	if err != nil {
		w.fail("%s: %v", c, err)
		return
	}
	if w.box.eng != nil { // else it died before it could hear
		w.in(w.spread(1, w.p.transit), event{kind: evReplied, life: w.box.life, call: c})
	}
	if c.fua && r.Err == 0 && !c.past {
		// Whoever asked has the answer when this has been flushed; what is flushed then is
		// what a power cut may not take (model.go).
		w.stats.FUA++
		cl.forced++
	}
}

// force sends the flushes that follow forced writes.
func (cl *client) force(w *world) {
	for ; cl.forced > 0 && w.err == nil; cl.forced-- {
		cl.send(w, &call{op: opFlush})
	}
	cl.forced = 0
}

// replied: the engine hears that its answer has gone out.
func (cl *client) replied(w *world, c *call) {
	c.phase = phDone
	w.box.eng.Replied(c.req)
}

// free is Env.Free: the engine gives the request back.
func (cl *client) free(w *world, r *frontend.Request) {
	c, ok := r.Mem.(*call)
	if !ok || c.req != r || c.freed {
		w.fail("%v is given back twice", r.Mem)
		return
	}
	if c.phase != phDone {
		w.fail("%s is given back before its answer has gone out", c)
		return
	}
	c.freed = true
	cl.release(w, c)
	for i, x := range cl.calls {
		if x == c {
			cl.calls = append(cl.calls[:i], cl.calls[i+1:]...)
			break
		}
	}
}

// release takes a request's memory back; from now on it is garbage.
func (cl *client) release(w *world, c *call) {
	if c.mem == nil {
		return
	}
	w.checkUnused(c.mem, c.String())
	w.run.bufs.put(c.mem)
	c.mem = nil
}

// driverDied: what the client knows stays; what it does not know is sent again.
func (cl *client) driverDied(w *world) {
	keep := cl.calls[:0]
	for _, c := range cl.calls {
		if c.phase == phReplied && !c.mute && w.chance(0.5) {
			// The answer had gone out, and the driver died before it knew.
			cl.answered(w, c)
			if w.err != nil {
				return
			}
		}
		c.req, c.mem = nil, nil // the dead process's memory goes with it
		if c.phase < phAnswered {
			c.phase, c.mute = phSent, false
			if c.past { // it will be carried out after that after all
				c.past = false
				w.model.begin(c)
			}
			keep = append(keep, c)
		}
	}
	cl.calls = keep
	cl.force(w)
}

// powerLost: the client is gone, and its requests with it.
func (cl *client) powerLost() {
	for _, c := range cl.calls {
		c.req, c.mem = nil, nil
	}
	cl.calls, cl.active, cl.forced = cl.calls[:0], 0, 0
}

// resend gives a new engine all that was not answered, in the order in which it was sent
// first. That order matters where requests under way overlap: a write that was carried
// out in an earlier life, and seen, would otherwise come back after a later one.
func (cl *client) resend(w *world) {
	var todo []*call
	for _, c := range cl.calls {
		if c.phase == phSent {
			todo = append(todo, c)
		}
	}
	sort.Slice(todo, func(i, j int) bool { return todo[i].val < todo[j].val })
	for _, c := range todo {
		if w.err != nil || !w.box.serving() {
			return
		}
		if c.tries > 0 {
			w.stats.Resent++
		}
		cl.submit(w, c)
	}
}

// errorWarranted: an error may reach a client only when no leg could have served it.
// A leg that was in service and well since some time before the request was sent could;
// what failed before that may have taken others with it that came after.
func (cl *client) errorWarranted(w *world, c *call) {
	since := c.at - 2*w.p.timeout
	for side, l := range w.legs {
		b := &w.box
		if b.inSince[side] >= 0 && b.inSince[side] <= c.at && l.well() && l.illAt < since &&
			b.startedAt <= c.at && w.wit.well(since) && !b.stopping {
			w.fail("%s was answered with %s although leg %d was in service and well all the time", c, errnoName(c.req.Err), side)
		}
	}
}

// zeroPiece, that engines under test are given, is so small that requests of a simulated disk
// have several.
const zeroPiece = 64 << 10

// patience is how long a request may take while a healthy leg is in service.
func (cl *client) patience(w *world, c *call) int64 {
	d := 4*w.p.timeout + 2*sec + 4*c.behind*w.p.latency
	if c.op == opZero {
		d += 6 * w.p.timeout
	}
	return d
}

// watch checks that nothing waits for ever while it could be served.
func (cl *client) watch(w *world) {
	if !w.healthy() {
		cl.healthySince = -1
		return
	}
	if cl.healthySince < 0 {
		cl.healthySince = w.now
	}
	for _, c := range cl.calls {
		if c.phase != phSubmitted {
			continue
		}
		if waited := w.now - max(c.at, cl.healthySince); waited > cl.patience(w, c) {
			w.fail("the face is frozen: %s has not been answered for %s although a healthy leg is in service", c, time.Duration(waited))
			return
		}
	}
}

// written lists the ranges that may hold something, in order, merged to pages.
func (w *world) written() []span {
	pages := map[int64]struct{}{}
	for _, i := range w.model.touched {
		pages[int64(i)*sectorSize/pageSize] = struct{}{}
	}
	list := make([]int64, 0, len(pages))
	for p := range pages {
		list = append(list, p)
	}
	sort.Slice(list, func(i, j int) bool { return list[i] < list[j] })
	var out []span
	for _, p := range list {
		if k := len(out) - 1; k >= 0 && out[k].off+out[k].n == p*pageSize && out[k].n < 512<<10 {
			out[k].n += pageSize
		} else {
			out = append(out, span{p * pageSize, pageSize})
		}
	}
	return out
}

func errnoName(e syscall.Errno) string {
	if e == 0 {
		return "ok"
	}
	return e.Error()
}
