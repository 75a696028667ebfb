// Package cpu is the inside of a CPU module's process: it executes what the chipset commands
// (chipset/lockstep, message.go) on a machine and its memory, and answers.
//
//	commands ─▶ Executor ─▶ faults for drills ─▶ Machine
//	records  ◀──────┘                              │ first writes to pages
//	                undo: what pages held ◀────────┘
//
// Invariants:
//   - A module is a function of its commands. Nothing here reads a clock or a random source,
//     but for the fault that makes it slow. Where runs are cut changes no state and no output.
//   - What a page held at the beginning of an epoch that is kept can be had back (undo.go),
//     whoever wrote to the page: the hart, a device or an input. The one exception are flips
//     of bits in memory, which nobody is told of.
//   - In steady state a quantum allocates nothing.
//   - Everything is bounded: epochs kept by generationsMax, pages written in one by
//     Config.EpochPages and what inputs write beyond it, records by lockstep's bounds.
package cpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"ft/chipset/engine"
	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/chipset/rv64"
	"ft/chipset/virtio"
)

// Machine is what an Executor runs: a module.Machine, or a bare-metal program on its board.
type Machine interface {
	// Run runs up to steps steps, none where it stands.
	Run(steps uint64) (ran uint64, why module.Stop)
	// Break makes Run return with module.StopBreak behind the present step. It is called from
	// within Run, by the sink's methods and onFirstWrite.
	Break()
	Apply(*module.Input) error

	SaveState(dst []byte) []byte
	LoadState([]byte) error
	Steps() uint64
	Time() uint64
	Fingerprint() uint64
	Hart() *rv64.Hart

	// Due is the guest time from which on a machine that waits has something to do.
	Due() (ticks uint64, ok bool)
	// ConsoleRoom is how many typed bytes it takes for sure.
	ConsoleRoom() int
	// Reset is what the guest asked for, once Run has returned module.StopReset.
	Reset() module.Reset
	// Emit gives the sink again every request that is outside, in their order.
	Emit()
}

// Config is what an Executor is made of.
type Config struct {
	RAM []byte
	// Build makes the machine on RAM, with these hooks.
	Build func(ram []byte, sink module.Sink, onFirstWrite func(page uint64)) (Machine, error)
	// Send takes the answers, in their order. A record is valid during the call alone.
	Send func(*lockstep.Record)
	// EpochPages is how many pages may be written in an epoch until the module wants it ended
	// (lockstep.Full); 0: 7168. Inputs may go beyond it, up to lockstep.PagesMax in all.
	EpochPages int

	// Engine executes the machine's hart, and those of the self-test; "" is the interpreter.
	Engine engine.Kind

	// CPUTime and Spend are for the fault that makes a module slow: the processor time that
	// the process has used, and using up more of it. nil: the real ones.
	CPUTime func() time.Duration
	Spend   func(time.Duration)
}

// epochPages leaves room in an answer for the 32 MiB of inputs that the chipset keeps for an
// epoch, one input beyond them, and what goes with them.
const epochPages = 7168

// ErrEnd is Do's answer to the command to end.
var ErrEnd = errors.New("the chipset ended this CPU module")

// Executor executes commands. It is used by one goroutine at a time.
type Executor struct {
	cfg     Config
	machine Machine
	engine  *engine.Engine
	undo    undo
	layer   layer

	number  uint64 // of the command that is executed
	running bool   // in Run
	sent    bool   // a request left in this run

	rec   lockstep.Record // the answer that is made
	out   lockstep.Record // the output that is made
	input module.Input

	written []byte // by the guest to its console, and not sent yet
	state   []byte // of the machine, where it is not an epoch's
}

// New makes an executor whose epoch 0 begins with the machine as it is built.
func New(cfg Config) (*Executor, error) {
	if cfg.EpochPages == 0 {
		cfg.EpochPages = epochPages
	}
	if cfg.EpochPages < 0 || cfg.EpochPages > lockstep.PagesMax {
		return nil, fmt.Errorf("an epoch of up to %d written pages: want 1 to %d", cfg.EpochPages, lockstep.PagesMax)
	}
	if cfg.CPUTime == nil {
		cfg.CPUTime = processTime
	}
	if cfg.Spend == nil {
		cfg.Spend = spin
	}
	e := &Executor{cfg: cfg}
	e.undo.init(cfg.RAM)
	m, err := cfg.Build(cfg.RAM, (*sink)(e), e.firstWrite)
	if err != nil {
		return nil, fmt.Errorf("make the CPU module's machine: %w", err)
	}
	e.machine = m
	if e.engine, err = engine.Attach(cfg.Engine, m.Hart()); err != nil {
		return nil, fmt.Errorf("give the CPU module its engine: %w", err)
	}
	e.layer = layer{machine: m, ram: cfg.RAM, report: e.injected, poison: e.engine.Poison, cpuTime: cfg.CPUTime, spend: cfg.Spend}
	e.begin(0)
	return e, nil
}

// Machine is what runs, for reading.
func (e *Executor) Machine() Machine { return e.machine }

// Engine is what executes it.
func (e *Executor) Engine() *engine.Engine { return e.engine }

// Close gives back what the engine holds. Nothing is executed behind it.
func (e *Executor) Close() error { return e.engine.Close() }

// Do executes a command. After an error, which is ErrEnd for the command to end, the module
// cannot go on.
func (e *Executor) Do(c *lockstep.Command) error {
	e.number = c.Number
	err := e.do(c)
	if err != nil && !errors.Is(err, ErrEnd) {
		err = fmt.Errorf("command %d (%v): %w", c.Number, c.Verb, err)
	}
	return err
}

func (e *Executor) do(c *lockstep.Command) error {
	switch c.Verb {
	case lockstep.Apply:
		if err := e.input.Decode(c.Data); err != nil {
			return err
		}
		err := e.machine.Apply(&e.input)
		e.input = module.Input{}
		return errors.Join(err, e.undo.overflow())
	case lockstep.Run:
		return e.run(c.A)
	case lockstep.Epoch:
		return e.epoch(c.A)
	case lockstep.Commit:
		return e.undo.commit(c.A)
	case lockstep.Patrol, lockstep.Digest:
		return e.patrol(c.A, c.B, c.Verb == lockstep.Digest)
	case lockstep.Back:
		return e.back()
	case lockstep.Save:
		e.state = e.machine.SaveState(e.state[:0])
		r := e.answer(lockstep.Saved)
		r.State, r.Data = DigestState(e.state), e.state
		e.send()
		return nil
	case lockstep.Load:
		return e.load(c.A, c.Data)
	case lockstep.Test:
		r := e.answer(lockstep.Tested)
		r.Data = []byte(e.test())
		e.send()
		return nil
	case lockstep.Fault:
		return e.fault(c.Data)
	case lockstep.Emit:
		e.machine.Emit()
		e.ran(lockstep.Budget)
		return nil
	case lockstep.End:
		return ErrEnd
	}
	return errors.New("nothing that a CPU module does")
}

// answer begins the answer to the command, with where the machine is.
func (e *Executor) answer(kind lockstep.RecordKind) *lockstep.Record {
	m := e.machine
	due, ok := m.Due()
	if !ok {
		due = lockstep.Never
	}
	e.rec = lockstep.Record{
		Kind: kind, Number: e.number, Pages: e.rec.Pages[:0],
		Steps: m.Steps(), Fingerprint: m.Fingerprint(), Due: due, Time: m.Time(), PC: m.Hart().PC(),
		Room: uint32(m.ConsoleRoom()), Dirty: uint32(e.undo.written()),
	}
	return &e.rec
}

func (e *Executor) send() {
	(*sink)(e).flush()
	e.cfg.Send(&e.rec)
	e.rec.Data = nil
}

// run runs a quantum.
func (e *Executor) run(steps uint64) error {
	if e.full() {
		e.ran(lockstep.Full)
		return nil
	}
	e.running, e.sent = true, false
	stop := e.layer.run(steps)
	e.running = false
	if stop == module.StopFault {
		return e.machine.Hart().Fault()
	}
	if err := e.undo.overflow(); err != nil {
		return err
	}
	switch {
	case e.sent:
		e.ran(lockstep.Sent)
	case stop == module.StopReset:
		e.ran(lockstep.Reset)
	case stop == module.StopHeld:
		e.ran(lockstep.Held)
	case stop == module.StopWFI:
		e.ran(lockstep.Idle)
	case e.full():
		e.ran(lockstep.Full)
	default:
		e.ran(lockstep.Budget)
	}
	return nil
}

func (e *Executor) ran(why lockstep.Why) {
	r := e.answer(lockstep.Ran)
	r.Why = why
	state := e.machine.Hart().State()
	r.State = state.Digest()
	if why == lockstep.Reset {
		reset := e.machine.Reset()
		r.ResetKind, r.Reason = uint32(reset.Kind), uint32(reset.Reason)
	}
	e.send()
}

// full says that no step is run until the epoch ends.
func (e *Executor) full() bool { return e.undo.written() >= e.cfg.EpochPages }

// firstWrite is called before the first write to a page in an epoch.
func (e *Executor) firstWrite(page uint64) {
	e.undo.save(page)
	if e.running && e.full() {
		e.machine.Break()
	}
}

// begin begins an epoch with the machine as it is.
func (e *Executor) begin(number uint64) *generation {
	g := e.undo.begin(number)
	g.state = e.machine.SaveState(g.state[:0])
	e.machine.Hart().ClearDirty()
	return g
}

func (e *Executor) epoch(number uint64) error {
	if err := e.undo.roomFor(number); err != nil {
		return err
	}
	r := e.answer(lockstep.Ended)
	for page := range bitsOf(e.machine.Hart().Dirty()) {
		r.Pages = append(r.Pages, e.digest(page))
	}
	r.State = DigestState(e.begin(number).state)
	e.send()
	return nil
}

func (e *Executor) digest(page uint64) lockstep.Page {
	return lockstep.Page{Index: uint32(page), Digest: DigestPage(e.cfg.RAM[page*pageSize:][:pageSize])}
}

// patrol answers with digests of count pages from one on: of all of them, or of those alone
// that were not written in this epoch.
func (e *Executor) patrol(from, count uint64, all bool) error {
	pages := uint64(len(e.cfg.RAM) / pageSize)
	if from > pages || count > lockstep.PagesMax {
		return fmt.Errorf("digests of %d pages from page %d on: there are %d, and %d go into an answer", count, from, pages, lockstep.PagesMax)
	}
	r := e.answer(lockstep.Patrolled)
	dirty := e.machine.Hart().Dirty()
	for page := from; page < min(from+count, pages); page++ {
		if all || dirty[page/64]>>(page%64)&1 == 0 {
			r.Pages = append(r.Pages, e.digest(page))
		}
	}
	e.send()
	return nil
}

// back goes back to the beginning of the oldest epoch that is kept.
func (e *Executor) back() error {
	restored := e.undo.restore()
	first := e.undo.now()
	if err := e.machine.LoadState(first.state); err != nil {
		return fmt.Errorf("go back to the beginning of epoch %d: %w", first.number, err)
	}
	e.machine.Hart().ClearDirty()
	r := e.answer(lockstep.Restored)
	for page := range bitsOf(restored) {
		if len(r.Pages) == lockstep.PagesMax {
			break // of several full epochs; the chipset has the others by Digest, if it wants them
		}
		r.Pages = append(r.Pages, e.digest(page))
	}
	e.state = e.machine.SaveState(e.state[:0])
	r.State = DigestState(e.state)
	e.send()
	return nil
}

// load takes over a state whose memory is in place, and begins an epoch with it.
func (e *Executor) load(epoch uint64, state []byte) error {
	if err := e.machine.LoadState(state); err != nil {
		return err
	}
	e.undo.reset()
	g := e.begin(epoch)
	e.answer(lockstep.Loaded).State = DigestState(g.state)
	e.send()
	return nil
}

// fault is what the command Fault says.
func (e *Executor) fault(injection []byte) error {
	if len(injection) == 0 {
		e.layer.arm(nil)
		return nil
	}
	var inj lockstep.Injection
	if err := json.Unmarshal(injection, &inj); err != nil {
		return fmt.Errorf("a fault that makes no sense: %w", err)
	}
	return e.Arm(inj)
}

// Arm puts a fault in, in place of the one that there is. One that has happened happens again
// by it: so a machine can be run with the same fault again.
func (e *Executor) Arm(inj lockstep.Injection) error {
	f, err := settle(inj, uint64(len(e.cfg.RAM)))
	if err == nil {
		e.layer.arm(f)
	}
	return err
}

// injected tells the chipset what the fault did.
func (e *Executor) injected(text string) {
	m := e.machine
	e.cfg.Send(&lockstep.Record{
		Kind: lockstep.Injected, Number: e.number, Steps: m.Steps(), Time: m.Time(), PC: m.Hart().PC(), Data: []byte(text),
	})
}

// sink takes what leaves the machine.
type sink Executor

// Console keeps what the guest has written for the end of the command, or the next request: how
// it is cut must not depend on where the machine's runs are. The quantum goes on.
func (s *sink) Console(p []byte) {
	s.written = append(s.written, p...)
	for len(s.written) >= lockstep.DataMax {
		s.write(s.written[:lockstep.DataMax])
		s.written = s.written[:copy(s.written, s.written[lockstep.DataMax:])]
	}
}

// write sends what the guest has written.
func (s *sink) write(p []byte) {
	s.out = lockstep.Record{Kind: lockstep.Output, Number: s.number, Slot: lockstep.ConsoleSlot, Data: p}
	s.cfg.Send(&s.out)
	s.out.Data = nil
}

// flush sends what is kept.
func (s *sink) flush() {
	if len(s.written) > 0 {
		s.write(s.written)
		s.written = s.written[:0]
	}
}

// Request sends a device's request, and ends the quantum.
func (s *sink) Request(slot int, r *virtio.Request) {
	s.flush()
	s.out = lockstep.Record{
		Kind: lockstep.Output, Number: s.number, Slot: uint8(slot), Op: r.Op, Unmap: r.Unmap, Stable: r.Stable,
		ID: r.ID, Sector: r.Sector, Length: r.Length, Data: r.Data,
	}
	s.cfg.Send(&s.out)
	s.out.Data = nil
	if s.running {
		s.sent = true
		s.machine.Break()
	}
}
