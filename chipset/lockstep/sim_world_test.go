package lockstep

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"ft/chipset/module"
)

// The world around a simulated core: a virtual clock, links to the modules that deliver when
// they like, an outside that answers requests, and a golden machine that no fault ever reaches.
//
// The golden machine does every command of the stream when a module does it for the first time. What
// the core releases has to be what the golden machine has sent, in that order, to the end.

// simPlan is what a run is to be like.
type simPlan struct {
	seed    uint64
	cfg     Config
	pages   int
	hot     int
	full    int
	resetAt uint64
	perPage time.Duration // to copy
	strict  bool          // at most one fault: nothing but the truth is accepted
	faults  []plannedFault
	leaves  []time.Duration // an admin takes a side out
	splits  []time.Duration
	deaths  []time.Duration // of the chipset
}

type plannedFault struct {
	at    time.Duration // from when on
	side  Side
	join  bool // it is in the next module that comes in on that side
	third bool // it is in the next referee
	heir  bool // it is in a module that is being adopted
	late  bool // it strikes when the chipset dies no more
	simFault
}

// hangs is how long the hands wait for an answer.
const hangs = 20 * time.Millisecond

// simEnd bounds a run in virtual time, and simEventsMax in events.
const (
	simEnd       = 3 * time.Second
	simEventsMax = 400_000
)

type simEvent struct {
	at  time.Duration
	seq int
	do  func()
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	x := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return x
}

// simSlot is a module in its place, with its links.
type simSlot struct {
	*simModule
	commands []Command
	busy     bool
	sendAt   time.Duration // of the newest record
	asked    int           // answers that are outstanding
	sent     []Command     // of the stream
	kept     []Record      // sent while there was no chipset
	heard    time.Duration // the last record
	joinedAt time.Duration
}

type simWorld struct {
	plan   *simPlan
	rng    *rand.Rand
	now    time.Duration
	queue  simQueue
	seq    int
	core   *Core
	hands  *simHands
	slots  [2]*simSlot
	golden *simModule
	todo   []Command // what the golden machine has not done yet
	stream uint64    // commands of it seen
	expect []Record
	passed int // outputs released
	wakeAt time.Duration
	lines  []string
	events int
	err    error

	ended      bool // the guest has asked for a reset
	lost       bool
	tainted    bool // a damaged module runs alone: what leaves is not checked
	shots      [2]int
	struck     [2]int // faults of modules on that side
	third      int    // struck in referees
	referees   int
	joins      int
	equalSeen  int
	lastStrike time.Duration
	kinds      map[EventKind]int

	simDeaths
}

func newSimWorld(p *simPlan) *simWorld {
	w := &simWorld{plan: p, rng: rand.New(rand.NewPCG(p.seed, 77)), wakeAt: -1, kinds: map[EventKind]int{}}
	p.cfg.Pages = p.pages
	m := newSimMachine(p.pages, p.hot, p.resetAt)
	table := make([]uint64, p.pages)
	for i := range table {
		table[i] = digestPage(m.ram[i])
	}
	w.golden = newSimModule("golden", m, p.full)
	w.golden.send = func(r Record) {
		if r.Kind == Output {
			w.expect = append(w.expect, r)
		}
	}
	w.hands = &simHands{simWorld: w}
	w.core = New(p.cfg, w.hands, table)
	return w
}

func (w *simWorld) logf(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf("%9.3fms  ", float64(w.now)/1e6)+fmt.Sprintf(format, args...))
}

// transcript is the end of what happened.
func (w *simWorld) transcript() string {
	return strings.Join(w.lines[max(0, len(w.lines)-80):], "\n")
}

func (w *simWorld) failf(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
		w.logf("FAILED: %v", w.err)
	}
}

func (w *simWorld) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, simEvent{w.now + d, w.seq, do})
}

// some is a time that is mostly short, and sometimes long.
func (w *simWorld) some(most time.Duration) time.Duration {
	if w.rng.IntN(8) > 0 {
		most /= 10
	}
	return time.Duration(w.rng.Int64N(int64(most) + 1))
}

// Hands.

func (w *simWorld) Now() time.Duration { return w.now }

func (w *simWorld) Grant() module.Input {
	return module.Input{Kind: module.InputTime, Status: module.AtLeast, Base: uint64(w.now / time.Microsecond), Num: 1, Den: 1}
}

func (w *simWorld) Send(s Side, c *Command) {
	slot := w.slots[s]
	if slot == nil {
		w.failf("%v gets a command, and has no module", s)
		return
	}
	if ofStream(c) {
		slot.sent = append(slot.sent, *c)
		switch {
		case c.Number == w.stream+1:
			w.stream++
			w.todo = append(w.todo, *c)
		case c.Number > w.stream:
			w.failf("command %d follows %d", c.Number, w.stream)
		}
	}
	switch {
	case c.Verb == Commit:
		w.golden.do(c)
	case c.Verb == Load && w.core != nil && w.core.adoption != nil: // an epoch begins
		w.golden.do(&Command{Verb: Load, A: c.A, Data: w.golden.encode()})
	}
	w.give(s, slot, c)
}

func (w *simWorld) Release(r *Record) {
	switch {
	case w.tainted:
	case w.passed >= len(w.expect):
		w.failf("an output leaves that the machine never sent: command %d, slot %d, request %d", r.Number, r.Slot, r.ID)
	default:
		if want := &w.expect[w.passed]; !sameOutput(want, r) || want.Number != r.Number && r.Number == 0 {
			w.failf("output %d: slot %d, request %d, %q leaves, and should be slot %d, request %d, %q", w.passed, r.Slot, r.ID, r.Data, want.Slot, want.ID, want.Data)
		}
	}
	w.passed++
	if r.Slot == ConsoleSlot {
		return
	}
	in := module.Input{Kind: module.InputCompletion, Slot: r.Slot, ID: r.ID, Data: binary.LittleEndian.AppendUint64(nil, mix(r.ID^77))}
	core := w.core
	w.after(w.some(2*time.Millisecond), func() { core.Put(&in) })
}

func (w *simWorld) Copy(from, to Side, pages []uint32) {
	src, dst, core := w.slots[from], w.slots[to], w.core
	n := len(pages)
	if pages == nil {
		n = w.plan.pages
		for p := range uint32(n) {
			pages = append(pages, p)
		}
	}
	pages = slices.Clone(pages)
	w.rng.Shuffle(len(pages), func(i, j int) { pages[i], pages[j] = pages[j], pages[i] })
	took := time.Duration(n)*w.plan.perPage + w.some(300*time.Microsecond)
	w.logf("copy %d pages from %v to %v", n, from, to)
	copyNow := func(list []uint32) {
		if w.slots[to] != dst || w.slots[from] != src || w.core != core || w.hands.dead {
			return
		}
		for _, p := range list {
			dst.ram[p] = src.ram[p]
		}
	}
	cut := w.rng.IntN(n + 1)
	w.after(took/3, func() { copyNow(pages[:cut]) })
	w.after(took, func() {
		copyNow(pages[cut:])
		if w.slots[to] == dst && w.slots[from] == src {
			var err error
			if w.rng.IntN(50) == 0 {
				err = errors.New("a page cannot be read")
			}
			core.Copied(n, took, err)
		}
	})
}

func (w *simWorld) Fence(s Side, why string) {
	w.logf("%v is fenced: %s", s, why)
	w.slots[s], w.journal[s] = nil, nil
}

func (w *simWorld) Referee(from Side, state []byte, log []Command) {
	w.logf("a referee is asked, from %v", from)
	w.referees++
	src, core := w.slots[from], w.core
	var fault *simFault
	for i := range w.plan.faults {
		if f := &w.plan.faults[i]; f.third && !f.fired {
			fault = &f.simFault
			fault.tell = func(f *simFault) {
				w.third++
				w.logf("  ⚡ %v strikes the referee", f)
			}
		}
	}
	w.after(w.some(3*time.Millisecond), func() {
		m := newSimMachine(w.plan.pages, w.plan.hot, w.plan.resetAt)
		copy(m.ram, src.ram)
		v := newSimModule("referee", m, w.plan.full)
		if fault != nil {
			v.faults = append(v.faults, fault)
		}
		heard := &Transcript{}
		v.send = func(r Record) { heard.Add(&r) }
		v.do(&Command{Verb: Load, A: 1, Data: state})
		for i := range log {
			v.do(&log[i])
		}
		var err error
		switch {
		case v.gone != "":
			err = errors.New("the referee: " + v.gone)
		case len(heard.Sums()) < Asks(log):
			err = errors.New("the referee did not answer in time")
		}
		w.after(w.some(3*time.Millisecond), func() { core.Refereed(heard, err) })
	})
}

func (w *simWorld) Page(s Side, index uint32) []byte {
	return binary.LittleEndian.AppendUint64(nil, w.slots[s].ram[index])
}

// alone says that a module runs on unchecked because its partner has gone: if it has been hit
// by a fault by then, nobody can tell.
func (w *simWorld) alone(s Side) {
	if w.struck[s] > 0 && !w.plan.strict {
		w.tainted = true
	}
}

func (w *simWorld) Report(e Event) {
	w.kinds[e.Kind]++
	text := e.Text
	if e.Fault.Text != "" {
		text = fmt.Sprintf("%s: %s %s", e.Fault.Cause, e.Fault.Text, text)
	}
	w.logf("● %v %v %s", eventNames[e.Kind], e.Side, text)
	switch e.Kind {
	case Started:
		w.journal[e.Side] = w.slots[e.Side]
	case Shot:
		w.journal[e.Side] = nil
		w.shots[e.Side]++
		if w.struck[e.Side] == 0 && w.plan.strict {
			w.failf("%v is shot, and nothing is wrong with it: %s", e.Side, e.Fault.Text)
		}
		if w.struck[e.Side] == 0 && w.kinds[Undecided] == 0 {
			w.wronged++
		}
		if w.core.trial == nil {
			w.alone(e.Side.Other())
		}
		w.struck[e.Side] = 0
		w.bring(e.Side)
	case JoinFailed:
		w.struck[e.Side] = 0
		w.bring(e.Side)
	case JoinedIn:
		w.journal[e.Side] = w.slots[e.Side]
		if most := w.plan.cfg.BlackoutMax + time.Millisecond; e.Blackout > most {
			w.failf("the machine stood for %v, %v were allowed", e.Blackout, most)
		}
	case Equal:
		w.owesEqual = false
		w.equal()
	case Adopted:
		w.adopted()
	case Transient, Repaired, DamagedAlone, Undecided:
		if w.plan.strict {
			w.failf("%v: with one fault, nobody but the module that had it is to blame", eventNames[e.Kind])
		}
		if e.Kind == Undecided && w.plan.cfg.Undecided != UndecidedStop {
			w.tainted = true
		}
	case WentOn:
		w.alone(e.Side)
	case Split:
		w.slots[e.Side], w.journal[e.Side] = nil, nil
		w.struck[e.Side] = 0
		w.bring(e.Side)
	case GuestReset:
		w.ended = true
	case Lost:
		w.lost = true
		if w.plan.strict {
			w.failf("the machine is lost: %s", e.Text)
		}
	}
}

var eventNames = map[EventKind]string{
	Started: "started", Shot: "shot", Transient: "transient", Repaired: "repaired", DamagedAlone: "damaged alone", JoinedIn: "in lockstep", Equal: "equal", JoinFailed: "join failed",
	JoinStage: "join", GuestReset: "reset", Undecided: "undecided", Lost: "lost", InjectedFault: "fault", Split: "split", WentOn: "went on", Evidence: "evidence", Adopted: "adopted",
}

// equal checks that both memories were at the end of the last epoch what the golden one was.
func (w *simWorld) equal() {
	w.equalSeen++
	epoch := w.core.logEpoch
	for s, slot := range w.slots {
		if slot == nil || w.lastStrike >= slot.joinedAt {
			return
		}
		if got, want := slot.ends[epoch], w.golden.ends[epoch]; !w.tainted && !slices.Equal(got, want) {
			w.failf("cpu%d is said to be equal, and its memory was not at the end of epoch %d", s, epoch)
		}
	}
}

// turn is what the chipset's loop does after whatever has happened.
func (w *simWorld) turn(due bool) {
	if w.owesEqual {
		w.failf("both modules have been adopted, and are not said to be equal")
	}
	w.core.Go(due)
	wake := w.now + 10*time.Millisecond
	ticks, idle := w.core.Wait()
	if idle && ticks != Never {
		wake = min(wake, max(w.now, time.Duration(ticks)*time.Microsecond))
	}
	if at := w.core.Pause(); at > w.now {
		wake = min(wake, at)
	}
	if w.wakeAt > w.now && w.wakeAt <= wake {
		return
	}
	w.wakeAt = wake
	w.after(wake-w.now, func() { w.wakeAt = -1 })
}

// due says whether the guest time has come that the machine waits for.
func (w *simWorld) due() bool {
	ticks, idle := w.core.Wait()
	return idle && ticks != Never && time.Duration(ticks)*time.Microsecond <= w.now
}

// run runs it to its end.
func (w *simWorld) run() error {
	first := Side(w.rng.IntN(2))
	slot := w.start(first)
	copy(slot.ram, w.golden.ram)
	w.core.Boot(first, w.golden.encode())
	w.bring(first.Other())
	w.admin()
	for w.err == nil && (w.core.Phase() != Over || w.hands.dead) {
		if w.tainted && w.now > simEnd/10 {
			w.lost = true // a guest that was damaged may wait for ever
			break
		}
		if w.now > simEnd || w.events > simEventsMax {
			w.failf("it does not come to an end: %v, %d of %d steps", w.core.Phase(), w.core.Stats().Steps, w.plan.resetAt)
			break
		}
		e := heap.Pop(&w.queue).(simEvent)
		w.now = e.at
		w.events++
		e.do()
		w.bounded()
		if w.err == nil && !w.hands.dead {
			w.turn(w.due())
		}
		w.succeed()
	}
	if w.err == nil && w.ended && !w.tainted {
		w.complete()
	}
	return w.err
}

// complete checks what left of a machine that has ended.
func (w *simWorld) complete() {
	for i := range w.expect {
		if w.expect[i].Number <= w.core.Last().Number && i >= w.passed {
			w.failf("output %d was sent by the machine and has not left", i)
			return
		}
	}
	if !w.plan.cfg.Prove {
		return
	}
	state, table := w.core.Agreed()
	if state != w.golden.digestState() {
		w.failf("the state that was agreed on at the end is not the machine's")
	}
	for p, digest := range table {
		if digest != digestPage(w.golden.ram[p]) {
			w.failf("page %d that was agreed on at the end is not the machine's", p)
			return
		}
	}
}

// bounded checks that nothing grows without an end.
func (w *simWorld) bounded() {
	c := w.core
	if n := len(c.log); n > 3000 {
		w.failf("%d commands are kept for a replay", n)
	}
	for s := range c.sides {
		if n := len(c.sides[s].got); n > len(c.asked) && c.trial == nil {
			w.failf("%d answers of cpu%d are kept, and %d were asked for", n, s, len(c.asked))
		}
	}
}
