// Package lockstep is the chipset's mind: it runs one machine on up to two CPU modules, lets
// nothing leave that they did not agree on, finds out which of two that differ is wrong, and
// brings a fresh one in while the machine runs.
//
// The core is pure: it is told what happened (Record, Gone, Copied, Put, Go …) and tells its
// Hands what to do. It has no goroutine, reads no clock but Hands.Now, and does no I/O.
//
//	inputs ─▶ stream of commands ─▶ both modules ─▶ answers ─▶ compare ─▶ outputs
//	               │ kept for the epoch                 │ differ
//	               └────────── replay ◀── roll back ◀───┘ ─▶ judge ─▶ shoot one, go on with the other
//
// Invariants:
//   - A module in lockstep is a function of the stream. Both get the same one; it may be a
//     window of quanta ahead of what has been compared.
//   - An output is released when all modules in lockstep have sent the same one, in the order
//     of the stream, once: what was released before a roll-back is known by its place in the
//     stream and is not released again.
//   - Every page of memory has an agreed digest, as of the beginning of the oldest epoch that
//     is not agreed. Nothing is judged by a digest that one module alone has computed, while
//     there are two.
//   - A side is shot only when a process that is not its own says that it is wrong, or when it
//     does not answer. What cannot be decided stops the machine, unless the configuration says
//     whom to believe.
//   - At most one side joins at a time, and only while one other runs alone.
//
// The parts: message.go is what is said between chipset and modules; core.go the stream;
// compare.go the comparison and the epochs; trial.go and judge.go what follows a difference;
// join.go re-integration; patrol.go the memory patrol; adopt.go what a successor does.
package lockstep

import (
	"fmt"
	"slices"
	"time"

	"ft/chipset/module"
)

// place is what a side is in.
type place uint8

const (
	absent   place = iota
	loading        // the first module of a machine
	joining        // is being tested and copied to
	within         // in lockstep
	adopting       // was in lockstep under another core, which has died
	leaving        // out of it, asked for its state: it stands where it was split off, or is evidence
)

// answer is what a module made of one command of the stream.
type answer struct {
	record  Record
	outputs []Record
	sum     uint64 // of all of it
}

// member is one side as the core sees it.
type member struct {
	place       place
	got         []answer // to the commands asked, from the next one to be compared on
	outputs     []Record // of the answer that has not come yet
	outputBytes int

	requests []request // outside the stream, not answered yet; the oldest first
	evidence *Case     // leaving, and shot: what is wanted of it
}

// request is a command that is not of the stream.
type request struct {
	number uint64
	verb   Verb
}

// requestBit is set in the numbers of requests.
const requestBit = 1 << 63

// Bounds of what a module may send before it answers.
const (
	outputsMax     = 1 << 17
	outputBytesMax = 256 << 20
)

// endsMax bounds the ends of epochs under way: a module keeps the way back for four epochs,
// among them the one that was agreed last and the present one.
const endsMax = 2

// Core is one machine, from its boot to its end.
type Core struct {
	cfg   Config
	hands Hands
	sides [2]member
	phase Phase

	number   uint64    // of the last command of the stream
	log      []Command // the stream from the beginning of the oldest epoch that is not agreed
	logBytes int
	logEpoch uint64        // that epoch
	history  []uint64      // sums of the answers agreed since then
	asked    []ask         // commands whose answers are not agreed yet
	epoch    uint64        // the last one begun
	began    time.Duration // of it
	table    []uint64      // agreed digests of pages, as of the beginning of logEpoch
	start    uint64        // and of the state
	ends     int           // epochs' ends among asked
	endAt    uint64        // the number of the last one
	requests uint64
	window   int
	busy     int    // quanta in which nothing came and nothing went
	size     uint64 // steps of the last quantum
	last     Record // the last Ran that was agreed
	runs     int    // quanta among asked

	inputs []waiting
	typed  []typed // console bytes in the stream whose effect on the room is not agreed yet
	full   bool    // the epoch has to end
	held   bool    // no quantum may begin
	holds  uint64
	ending *ending

	adoption *adoption
	trial    *trial
	join     *join
	patrol   patrol
	pause    time.Duration // no quantum before
	stats    Stats
}

type ask struct {
	number uint64
	verb   Verb
	a, b   uint64
}

// askOf is what a command of the stream asks for, if it asks for an answer.
func askOf(c *Command) (a ask, ok bool) {
	switch c.Verb {
	case Run, Epoch, Patrol:
		return ask{c.Number, c.Verb, c.A, c.B}, true
	}
	return a, false
}

// answeredBy says whether a record is the answer.
func (a *ask) answeredBy(r *Record) bool {
	return a.number == r.Number && map[Verb]RecordKind{Run: Ran, Epoch: Ended, Patrol: Patrolled}[a.verb] == r.Kind
}

// waiting is an input for the next quantum.
type waiting struct {
	cmd   Command
	bytes int
	typed int // of them, on the console
}

type typed struct {
	number uint64
	bytes  int
}

// Stats count from the machine's boot.
type Stats struct {
	Steps     uint64
	Time      uint64 // guest time in ticks
	Quanta    uint64 // run and agreed
	Compared  uint64 // of them, by two modules
	Epochs    uint64
	Outputs   uint64
	Inputs    uint64
	Trials    uint64
	Repaired  uint64 // trials after which both went on
	Pages     uint64 // digests compared by the patrol
	Passes    uint64 // of the patrol over all memory
	Joins     uint64
	Blackout  time.Duration // of the last join
	Brownout  time.Duration
	Rounds    int
	Throttled time.Duration // by joins
}

// New makes the core of a machine whose memory has the digests in table, which it takes over.
func New(cfg Config, hands Hands, table []uint64) *Core {
	cfg = cfg.withDefaults()
	if len(table) != cfg.Pages {
		panic(fmt.Sprintf("lockstep.New: %d digests of %d pages", len(table), cfg.Pages))
	}
	return &Core{cfg: cfg, hands: hands, table: table, window: 1, epoch: 1, logEpoch: 1, began: hands.Now()}
}

// Boot starts the machine on one side, whose memory has been filled, from a state.
func (c *Core) Boot(s Side, state []byte) {
	c.sides[s] = member{place: loading}
	c.request(s, Command{Verb: Load, A: c.epoch, Data: state})
}

// Phase is what the machine is in.
func (c *Core) Phase() Phase { return c.phase }

// Within says whether a side is in lockstep.
func (c *Core) Within(s Side) bool { return c.sides[s].place == within }

// Duplex says whether both are.
func (c *Core) Duplex() bool { return c.Within(0) && c.Within(1) }

// Joining says whether a side is on its way in.
func (c *Core) Joining(s Side) bool { return c.join != nil && c.join.to == s }

// Stats are the counters so far.
func (c *Core) Stats() Stats {
	st := c.stats
	st.Steps, st.Time = c.last.Steps, c.last.Time
	return st
}

// Last is the last quantum's record that was agreed on.
func (c *Core) Last() Record { return c.last }

// Put takes an input for the next quantum. Its data are copied.
func (c *Core) Put(in *module.Input) {
	w := waiting{cmd: EncodeInput(in), bytes: len(in.Data)}
	if in.Kind == module.InputConsole {
		w.typed = w.bytes
	}
	c.inputs = append(c.inputs, w)
}

// Takes says whether more inputs are of use now: those that wait are fewer than a quantum takes.
// It is for whoever has a queue of them and can keep it short.
func (c *Core) Takes() bool {
	bytes := 0
	for i := range c.inputs {
		bytes += c.inputs[i].bytes
	}
	return bytes < quantumInputMax && len(c.inputs) < inputsMax
}

// Room is how many typed bytes the machine takes for sure.
func (c *Core) Room() int {
	room := int(c.last.Room)
	for _, t := range c.typed {
		room -= t.bytes
	}
	for i := range c.inputs {
		room -= c.inputs[i].typed
	}
	return max(room, 0)
}

// Wait says until when nothing has to be done unless something happens: a guest time in ticks
// (ok), none (not ok); idle is false while modules are at work or the core is about to go on.
func (c *Core) Wait() (due uint64, idle bool) {
	if c.phase != Running || !c.resting() || len(c.inputs) > 0 || c.closing() {
		return 0, false
	}
	return c.last.Due, true
}

// resting says whether the guest waits and nothing is under way.
func (c *Core) resting() bool {
	return len(c.asked) == 0 && (c.last.Why == Idle || c.last.Why == Held)
}

// Ahead is how many quanta are under way: sent and not agreed on.
func (c *Core) Ahead() int { return c.runs }

// AheadSteps is how many steps they have at most.
func (c *Core) AheadSteps() (steps uint64) {
	for i := range c.asked {
		if c.asked[i].verb == Run {
			steps += c.asked[i].a
		}
	}
	return steps
}

// Heritable says whether a successor may take a side over: it is in lockstep, or was in it
// under the core before and is being taken over.
func (c *Core) Heritable(s Side) bool {
	return c.sides[s].place == within || c.sides[s].place == adopting
}

// Go sends what there is to send. due says that the guest time of Wait has come.
func (c *Core) Go(due bool) {
	if c.phase != Running {
		return
	}
	for c.phase == Running && c.runs < c.ahead() && !c.closing() && c.hands.Now() >= c.pause {
		if c.epochDue() && c.ends >= endsMax {
			break
		}
		if c.last.Why == Idle || c.last.Why == Held {
			// What follows a wait is sent once the wait is over: what was sent ahead of it came
			// to nothing.
			if len(c.asked) > 0 || (len(c.inputs) == 0 && !due) {
				break
			}
			due = false
		}
		c.quantum()
	}
	c.advanceJoin()
	c.advanceEnding()
}

// quietQuanta is behind how many quanta in which nothing came and nothing went the next ones are
// twice as long.
const quietQuanta = 16

// ahead is how many quanta may be under way: fewer of long ones, so that an input need not wait
// longer, but two.
func (c *Core) ahead() int {
	return min(c.window, max(int(uint64(c.cfg.Window)*c.cfg.Quantum/max(c.size, 1)), 2))
}

// quantum sends inputs, time and one quantum.
func (c *Core) quantum() {
	if c.epochDue() {
		c.endEpoch()
	}
	taken := 0
	for bytes := 0; taken < len(c.inputs) && bytes < quantumInputMax; taken++ {
		in := &c.inputs[taken]
		if in.typed > 0 {
			c.typed = append(c.typed, typed{c.number + 1, in.typed})
		}
		c.emit(in.cmd)
		c.stats.Inputs++
		bytes += in.bytes
	}
	c.inputs = slices.Delete(c.inputs, 0, taken)
	if c.busy++; taken > 0 {
		c.busy = 0
	}
	c.size = min(c.cfg.Quantum<<min(c.busy/quietQuanta, 8), c.cfg.QuantumMax)
	if !c.cfg.Bare {
		in := c.hands.Grant()
		c.emit(EncodeInput(&in))
	}
	c.emit(Command{Verb: Run, A: c.size})
	c.runs++
	c.throttle()
	if c.patrol.quanta++; c.patrol.syncing || c.patrol.quanta >= c.cfg.PatrolEvery {
		c.patrol.quanta = 0
		c.advancePatrol(false)
	}
}

// epochDue says whether the epoch has to end.
func (c *Core) epochDue() bool {
	return c.full || c.logBytes > logBytesMax || c.hands.Now()-c.began >= c.cfg.EpochTime
}

// endEpoch sends an epoch's end.
func (c *Core) endEpoch() {
	c.full = false
	c.epoch++
	c.ends++
	c.began = c.hands.Now()
	c.emit(Command{Verb: Epoch, A: c.epoch})
	c.endAt = c.number
}

// emit puts a command into the stream.
func (c *Core) emit(cmd Command) {
	c.number++
	cmd.Number = c.number
	c.log = append(c.log, cmd)
	c.logBytes += commandHead + len(cmd.Data)
	if a, ok := askOf(&cmd); ok {
		c.asked = append(c.asked, a)
	}
	for s := range c.sides {
		if c.sides[s].place == within {
			c.hands.Send(Side(s), &cmd)
		}
	}
}

// request sends a side a command that is not of the stream.
func (c *Core) request(s Side, cmd Command) {
	c.requests++
	cmd.Number = requestBit | c.requests
	m := &c.sides[s]
	m.requests = append(m.requests, request{cmd.Number, cmd.Verb})
	c.hands.Send(s, &cmd)
}

// Record takes what a module sent.
func (c *Core) Record(s Side, r *Record) {
	m := &c.sides[s]
	switch {
	case m.place == absent:
	case r.Kind == Injected:
		c.hands.Report(Event{Kind: InjectedFault, Side: s, Step: r.Steps, Text: string(r.Data)})
	case m.place == adopting:
		c.adoptRecord(s, r)
	case r.Kind == Output, r.Number&requestBit == 0 && (r.Kind == Ran || r.Kind == Ended || r.Kind == Patrolled):
		switch m.place {
		case within:
			c.answered(s, r)
		case loading, joining:
			c.condemn(s, notAsked(r))
		}
	case len(m.requests) == 0 || m.requests[0].number != r.Number || answers[m.requests[0].verb] != r.Kind:
		if m.place == leaving {
			c.leaveGone(s, notAsked(r).Text)
		} else {
			c.condemn(s, notAsked(r))
		}
	default:
		m.requests = m.requests[1:]
		c.replied(s, r)
	}
}

// answers are the kinds of answers to requests.
var answers = map[Verb]RecordKind{Back: Restored, Save: Saved, Load: Loaded, Digest: Patrolled, Test: Tested, Emit: Ran}

// notAsked is what is wrong with a side that sends a record that nobody asked for.
func notAsked(r *Record) Finding {
	return Finding{Cause: "protocol", Text: fmt.Sprintf("it answers command %d with %q, which it was not asked for", r.Number&^requestBit, r.Kind)}
}

// replied takes the answer to a request.
func (c *Core) replied(s Side, r *Record) {
	switch place := c.sides[s].place; {
	case place == loading:
		c.sides[s].place, c.phase, c.start = within, Running, r.State
		c.pauseHere()
		c.hands.Report(Event{Kind: Started, Side: s})
	case place == joining:
		c.joinRecord(s, r)
	case place == leaving && r.Kind == Saved:
		c.leaveSaved(s, r)
	case place != within:
	case r.Kind == Restored && c.trial != nil:
		c.trialRestored(s, r)
	case r.Kind == Patrolled && c.trial != nil:
		c.trialDigest(s, r)
	case r.Kind == Saved && c.trial != nil:
		c.trialSaved(r)
	case r.Kind == Saved:
		c.joinSaved(s, r)
	}
}

// over ends the machine.
func (c *Core) over(e Event) {
	c.phase = Over
	c.hands.Report(e)
}

// Gone says that a module does not answer: it died, was stopped, or is late.
func (c *Core) Gone(s Side, cause, text string) {
	switch c.sides[s].place {
	case absent:
		return
	case leaving:
		c.leaveGone(s, text)
		return
	}
	c.remove(s, Finding{Cause: cause, Text: text})
}

// remove takes a side out that will not answer.
func (c *Core) remove(s Side, f Finding) {
	was := c.sides[s].place
	c.sides[s] = member{}
	c.hands.Fence(s, f.Text)
	f.Side = s
	switch {
	case was == adopting:
		c.hands.Report(Event{Kind: Shot, Side: s, Fault: f})
		c.adoptGone(s)
		return
	case was == joining:
		c.joinFailed(f)
		return
	case c.trial != nil:
		c.pauseHere()
		c.hands.Report(Event{Kind: Shot, Side: s, Fault: f})
		c.trialGone(s)
		return
	}
	c.pauseHere()
	c.hands.Report(Event{Kind: Shot, Side: s, Fault: f})
	c.left(s)
}

// condemn shoots a side at once for what no module in order does.
func (c *Core) condemn(s Side, f Finding) { c.remove(s, f) }

// left is called when a side has gone from lockstep: the other goes on, or none does.
func (c *Core) left(s Side) {
	c.patrol.alone()
	if c.join != nil && c.join.from == s {
		to := c.join.to
		c.join = nil
		c.sides[to] = member{}
		c.hands.Fence(to, "the module that it was being copied from is gone")
	}
	if c.sides[s.Other()].place != within {
		if c.phase != Over {
			c.over(Event{Kind: Lost, Side: s, Text: "no CPU module is left"})
		}
		return
	}
	c.compare()
}
