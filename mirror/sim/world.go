package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"syscall"
	"time"

	"ft/drivers"
	"ft/mirror"
	"ft/mirror/frontend"
	"ft/mirror/legio"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// Engine is what the simulator drives: *mirror.Engine.
type Engine interface {
	Start(legs [2]*mirror.Leg, w *metadata.Witness, out [2]bool) error
	StartAlone(s drivers.Side, leg *mirror.Leg, w *metadata.Witness) error
	Sync(done func(syscall.Errno))
	Attach(s drivers.Side, leg *mirror.Leg, acceptRisk string) error
	Detach(s drivers.Side, why drivers.Reason) error
	Resolve(keep drivers.Side, legs [2]*mirror.Leg, w *metadata.Witness) error
	Gone(s drivers.Side, why string)
	Submit(r *frontend.Request)
	Replied(r *frontend.Request)
	LegDone(io *legio.IO)
	WitnessDone(err error)
	Tick()
	Stop(done func(error))
	Drained(s drivers.Side) bool
	Geometry() (frontend.Geometry, bool)
	Snapshot() mirror.Snapshot
	RestoreScrub(s scrub.State)
	Scrub(repair bool, from int) error
	PauseScrub() error
	ResumeScrub() error
	CancelScrub() error
	SetPriority(p mirror.Priority) error
}

// Config says how seeds are run.
type Config struct {
	// New makes an engine.
	New func(name string, o mirror.Options, env mirror.Env) Engine
	// CrashAt crashes once that many operations of the legs and of the witness have begun
	// or ended; 0: when chaos says.
	CrashAt   int64
	CrashKind CrashKind
	// Theme is what seeds are about: Any draws one.
	Theme Theme
	// Calm makes runs short, in which nothing goes wrong but CrashAt: an admin takes out a
	// leg and brings it back.
	Calm bool
	// Load reads a leg's metadata; nil: metadata.Load.
	Load func(r io.ReaderAt, bytes int64) (*metadata.Image, error)
	// History is called with that of each seed.
	History func(seed uint64, records []*Record)
	// Trace is called with each line of the trace.
	Trace func(line string)
}

// Theme makes some mishaps frequent, so that a rare mixture comes up often.
type Theme uint8

// Themes.
const (
	Any         Theme = iota
	Mixed             // a bit of everything
	LossAndKill       // legs fail, and the driver is killed before that is recorded
	SlowResync        // resyncs take long, and the power is cut meanwhile
	LostAnswers       // answers do not go out, and requests are sent again
	Rot               // superblocks go bad
	Spoiled           // one leg has silent faults, and there are checksums
	Faulty            // legs refuse much, where much is asked at once
	themes
)

// CrashKind is who dies.
type CrashKind uint8

// Kinds of crashes.
const (
	PowerCut   CrashKind = iota // everything volatile is lost
	KillDriver                  // only the driver process dies
)

// Result is how a seed ended.
type Result struct {
	Seed   uint64
	Err    error  // the violation, nil when there was none
	Hash   uint64 // of everything that happened, in order
	Events int    // of the scheduler
	Ops    int64  // operations of the legs
	Steps  int64  // operations begun or ended until everything was healed, what CrashAt counts
	Stats  Stats
}

// Stats count what a run went through, so that a change that makes the simulator
// blind to something is seen.
type Stats struct {
	Requests, Errors                    int
	PowerCuts, Kills, Stops, Starts     int
	Refused, Attaches, Resyncs, Losses  int
	Resolves, AloneChecks, Resent, Rots int
	Replaced, Zombies                   int // legs replaced by blank ones; I/O of dead drivers in legs that hang
	CopiedBytes                         int64
	Scrubs                              int // that ended
	Spoiled                             int // silent faults
	Abandoned                           int
	FUA, Controlled, Ftds, Answers      int // forced writes; seeds with the control core; its starts; its answers
}

func (s *Stats) add(o Stats) {
	s.Requests += o.Requests
	s.Errors += o.Errors
	s.PowerCuts += o.PowerCuts
	s.Kills += o.Kills
	s.Stops += o.Stops
	s.Starts += o.Starts
	s.Refused += o.Refused
	s.Attaches += o.Attaches
	s.Resyncs += o.Resyncs
	s.Losses += o.Losses
	s.Resolves += o.Resolves
	s.AloneChecks += o.AloneChecks
	s.Resent += o.Resent
	s.Rots += o.Rots
	s.Replaced += o.Replaced
	s.Zombies += o.Zombies
	s.CopiedBytes += o.CopiedBytes
	s.Scrubs += o.Scrubs
	s.Spoiled += o.Spoiled
	s.Abandoned += o.Abandoned
	s.FUA += o.FUA
	s.Controlled += o.Controlled
	s.Ftds += o.Ftds
	s.Answers += o.Answers
}

// Limits of a run, so that a livelock is a violation and not a hang.
const (
	maxEvents = 200_000
	maxTime   = int64(30 * time.Minute)
)

const (
	ms  = int64(time.Millisecond)
	sec = int64(time.Second)
)

// eventKind is what the scheduler can do next.
type eventKind uint8

const (
	evOpEnd   eventKind = iota // an operation of a leg ends
	evAnswer                   // an answer reaches its client
	evReplied                  // the engine hears that it did
	evWitness                  // the witness is stored, or not
	evTick                     // time passes for the engine
	evClient                   // a client sends a request
	evChaos                    // something goes wrong, or the admin acts
	evHeal                     // what ails a leg ends
	evGone                     // the engine hears that a device vanished
	evReturn                   // a vanished device is back
	evBoot                     // the machine or the driver starts
	evStopped                  // a clean stop has ended
	evKill                     // the driver dies
	evStep                     // the next step of a script
	evDo                       // whatever do says
)

// event is something that will happen. life is the number of the engine it is for, or
// 0 when it is for the world.
type event struct {
	at   int64
	seq  int64
	kind eventKind
	life int
	side int
	op   *legOp
	call *call
	step int
	do   func()
}

// afterAll is the place of a script's steps among events of one time: the last.
const afterAll = int64(1) << 62

// queue is a binary heap of events, the next one first.
type queue []event

func (q queue) less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}

func (q *queue) push(e event) {
	*q = append(*q, e)
	h := *q
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.less(i, up) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (q *queue) pop() event {
	h := *q
	e, n := h[0], len(h)-1
	h[0] = h[n]
	h[n] = event{}
	h = h[:n]
	*q = h
	for i := 0; ; {
		down := 2*i + 1
		if down >= n {
			return e
		}
		if down+1 < n && h.less(down+1, down) {
			down++
		}
		if !h.less(down, i) {
			return e
		}
		h[i], h[down] = h[down], h[i]
		i = down
	}
}

// Runner runs seeds, one after the other, and keeps their memory.
type Runner struct {
	cfg      Config
	pool     pages
	bufs     buffers
	models   map[int64]*model
	prepared map[preparation]*prepared
	disks    map[int64][2]*disk // by size
}

// NewRunner makes a runner; it is for one goroutine.
func NewRunner(cfg Config) *Runner {
	if cfg.Load == nil {
		cfg.Load = metadata.Load
	}
	return &Runner{cfg: cfg, models: map[int64]*model{}, prepared: map[preparation]*prepared{},
		disks: map[int64][2]*disk{}}
}

// world is one run.
type world struct {
	cfg  *Config
	run  *Runner
	seed uint64
	rng  *rand.Rand // what is left to chance in a script too
	plan *rand.Rand // what a seed is made of: the steps of its script
	p    profile
	// script is what is being written down, or played.
	script *Script
	replay bool
	played int // steps

	now    int64
	seq    int64
	events queue
	steps  int64
	ops    int64
	// unsettled is steps when everything was healed.
	unsettled int64
	done      int // events handled
	hash      uint64
	err       error
	stats     Stats

	geo       geometry
	dataBytes int64 // of the face; 0 until it is known
	legs      [2]*simLeg
	wit       witnessStore
	scrub     scrubStore
	box       box
	ftd       daemon
	client    client
	model     *model
	history   chronicle
	settling  bool
	settleAt  int64
	// abandoned: two faults met that together may lose something; nothing is judged any more.
	abandoned bool
}

// Run runs one seed.
func (r *Runner) Run(seed uint64) Result {
	return r.finish(r.newWorld(seed))
}

// finish runs a world.
func (r *Runner) finish(w *world) Result {
	w.history.on = r.cfg.History != nil
	w.main()
	if r.cfg.History != nil {
		r.cfg.History(w.seed, w.history.records)
	}
	return Result{Seed: w.seed, Err: w.err, Hash: w.hash, Events: w.done, Ops: w.ops, Steps: w.unsettled, Stats: w.stats}
}

func (r *Runner) newWorld(seed uint64) *world {
	w := &world{cfg: &r.cfg, run: r, seed: seed, hash: 14695981039346656037}
	w.rng = rand.New(rand.NewPCG(seed, 0x6d6972726f72))
	w.plan = rand.New(rand.NewPCG(seed, 0x706c616e))
	return w
}

// main runs the seed to its end, and makes a panic of the engine a violation.
func (w *world) main() {
	defer func() {
		if p := recover(); p != nil {
			w.fail("panic: %v\n%s", p, debug.Stack())
		}
	}()
	w.setUp()
	w.loop(w.finished)
	if w.err == nil && !w.abandoned {
		w.settle()
	}
}

// loop handles events until over says so, or nothing is left to happen.
func (w *world) loop(over func() bool) {
	for w.err == nil && !w.abandoned && !over() {
		if len(w.events) == 0 {
			w.fail("nothing is left to happen, and the run is not over")
			return
		}
		e := w.events.pop()
		w.now = max(w.now, e.at)
		w.handle(&e)
		if w.done++; w.done > maxEvents || w.now > maxTime {
			w.fail("no end after %d events and %s: %s", w.done, time.Duration(w.now), w.client.pending())
		}
	}
}

func (w *world) handle(e *event) {
	if e.life != 0 && e.life != w.box.life {
		return // for an engine that is no more
	}
	w.fold(uint64(e.kind)<<56 ^ uint64(e.at) ^ uint64(e.side)<<48)
	switch e.kind {
	case evOpEnd:
		w.opEnds(e.op)
	case evAnswer:
		w.client.answered(w, e.call)
		w.client.force(w)
	case evReplied:
		w.client.replied(w, e.call)
	case evWitness:
		w.wit.end(w)
	case evTick:
		w.tick()
	case evClient:
		w.client.act(w)
	case evChaos:
		w.chaos()
	case evHeal:
		w.heal(w.legs[e.side], e.at)
	case evGone:
		w.gone(w.legs[e.side])
	case evReturn:
		w.comeBack(w.legs[e.side])
	case evBoot:
		w.boot()
	case evKill:
		w.do("kill", nil)
	case evStopped:
		w.stopped()
	case evStep:
		w.playStep(e.step)
	case evDo:
		e.do()
	}
	w.crashPoint()
}

func (w *world) fold(x uint64) { w.hash = (w.hash ^ x) * 1099511628211 }

// in schedules an event.
func (w *world) in(d int64, e event) {
	w.seq++
	e.at, e.seq = w.now+d, w.seq
	w.events.push(e)
}

// fail notes a violation. The first one counts.
func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("at %s: "+format, append([]any{time.Duration(w.now)}, args...)...)
		w.tracef("VIOLATION %v", w.err)
	}
}

// tracing says whether anyone reads the trace; guard costly tracef calls with it.
func (w *world) tracing() bool { return w.cfg.Trace != nil }

func (w *world) tracef(format string, args ...any) {
	if w.cfg.Trace != nil {
		w.cfg.Trace(fmt.Sprintf("%14.6fms  ", float64(w.now)/1e6) + fmt.Sprintf(format, args...))
	}
}

// between is a random duration, from lo up to hi.
func (w *world) between(lo, hi int64) int64 { return lo + w.rng.Int64N(hi-lo) }

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

// spread is a duration up to hi, or hi in a run in which all takes the same time.
func (w *world) spread(lo, hi int64) int64 {
	if w.p.even {
		return hi
	}
	return w.between(lo, hi)
}
