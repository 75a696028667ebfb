// Package unlike runs random scenarios on two harts with different engines, side by side, and
// compares all that they are: state, memory, fingerprint, written pages, what they do to
// devices. Where they differ it looks for the first step at which they do.
//
//	scenario ──▶ reference  (the interpreter)    ─┐
//	         ──▶ subject    (another engine, cut ─┴─▶ alike?  no ─▶ the first differing step
//	                         in other places)
//
// Everything follows from the seed: where runs are cut, too. So a difference is found again
// when the scenario is done again up to any step, and the first one is found by halving.
package unlike

import (
	"bytes"
	"fmt"
	"math/bits"
	"strings"

	"ft/chipset/rv64"
	"ft/chipset/rv64/scenario"
)

// Attach gives a hart another engine than the interpreter.
type Attach func(h *rv64.Hart) error

// Pair is a reference and a subject, to be used for any number of scenarios, one at a time.
// They are used again so that what an engine keeps from one is there in the next.
type Pair struct {
	name   string
	boards [2]*board
}

// shape is how harts are configured.
type shape struct {
	name    string
	compare rv64.Compare
	sv48    bool
	sbi     bool // calls of S mode are answered
	watch   bool // stores to a place in memory are told of
}

// Shapes are the names of the configurations that there are.
var shapes = []shape{
	{name: "every step"},
	{name: "every step, SBI, Sv48, doorbells", sv48: true, sbi: true, watch: true},
	{name: "stores", compare: rv64.StoreOnly},
	{name: "nothing compared", compare: rv64.Off, sbi: true},
}

// Pairs has a pair of each shape.
type Pairs struct{ all []*Pair }

// NewPairs makes them; attach is called for the subjects.
func NewPairs(attach Attach) (*Pairs, error) {
	p := &Pairs{}
	for _, s := range shapes {
		pair := &Pair{name: s.name}
		for i := range pair.boards {
			pair.boards[i] = newBoard(s)
		}
		if err := attach(pair.boards[1].Hart); err != nil {
			return nil, fmt.Errorf("give a hart its engine: %w", err)
		}
		p.all = append(p.all, pair)
	}
	return p, nil
}

// Run runs the scenario of a seed. nil: no difference.
func (p *Pairs) Run(seed uint64) *Difference {
	// Half of them as modules run, the others in their turns.
	i := int(seed / 4 % uint64(2*len(p.all)))
	if i >= len(p.all) {
		i = 0
	}
	return p.all[i].Run(scenario.Make(seed))
}

// board is a hart with a scenario's device.
type board struct {
	*rv64.Hart
	ram []byte
	s   *scenario.Scenario
	// log is what has happened outside of the hart since the last look: accesses to the
	// device, first writes to pages, stores to the doorbell, calls of the firmware.
	log []happening
	why rv64.Stop
}

type happening struct {
	what       byte
	step, a, b uint64
}

// logMax bounds a log; what is beyond it is only counted.
const logMax = 1 << 14

func newBoard(s shape) *board {
	b := &board{ram: make([]byte, scenario.RAMBytes)}
	cfg := rv64.Config{RAM: b.ram, RAMBase: scenario.RAMBase, Bus: (*bus)(b), Compare: s.compare, Sv48: s.sv48}
	cfg.OnFirstWrite = func(page uint64) { b.happened('w', page, 0) }
	if s.sbi {
		cfg.Ecall = b.call
	}
	b.Hart = rv64.New(cfg)
	if s.watch {
		b.Watch(scenario.RAMBase+0x1a000+0x40, 16, func(addr, size uint64) { b.happened('d', addr, size) })
	}
	return b
}

func (b *board) happened(what byte, x, y uint64) {
	if len(b.log) == logMax {
		return
	}
	h := happening{what: what, a: x, b: y}
	if what != 'w' && what != 'd' { // whose step nobody is told
		h.step = b.Steps()
	}
	b.log = append(b.log, h)
}

// call is a firmware that answers with something of the step, and goes elsewhere now and then.
func (b *board) call(h *rv64.Hart) {
	b.happened('e', h.Reg(10), h.PC())
	h.SetReg(10, h.Reg(10)*3+h.Steps())
	h.SetReg(11, h.Reg(17))
	switch h.Steps() % 7 {
	case 0:
		h.SetPC(h.PC() + 12)
	case 1:
		h.WriteRAM(scenario.RAMBase+h.Reg(16)%(scenario.RAMBytes-8), []byte{byte(h.Steps())})
	case 2:
		h.RequestStop()
	}
}

// SetMode, Advance: see scenario.Hart.
func (b *board) SetMode(priv int) { b.SetPriv(rv64.Priv(priv)) }

func (b *board) Advance(steps uint64) {
	_, b.why = b.Run(steps)
	if b.why == rv64.StopWFI {
		b.Wake()
	}
}

// bus is a board as the hart sees it.
type bus board

func (u *bus) Load(addr uint64, size int) (v uint64, ok bool) {
	b := (*board)(u)
	if addr-scenario.DeviceBase >= scenario.DeviceSize {
		return 0, false
	}
	b.happened('l', addr, uint64(size))
	return b.s.Load(b, addr, size), true
}

func (u *bus) Store(addr uint64, size int, v uint64) bool {
	b := (*board)(u)
	if addr-scenario.DeviceBase >= scenario.DeviceSize {
		return false
	}
	b.happened('s', addr<<4|uint64(size), v)
	b.s.Store(b, addr, size, v)
	return true
}

func (b *board) reset(s *scenario.Scenario) {
	b.s, b.log = s, b.log[:0]
	copy(b.ram, s.RAM)
	b.ClearDirty()
	b.SetState(rv64.State{Priv: uint64(rv64.Machine), PC: scenario.RAMBase, Stimecmp: ^uint64(0), Mtimecmp: ^uint64(0), TimeDen: 1})
}

// Difference is where the two are not alike.
type Difference struct {
	Seed    uint64
	Flavour scenario.Flavour
	Pair    string

	// Step is the first one behind which they differ, From the last cut at which they did not.
	// Exact says that they were alike just before Step when they were cut there.
	Step, From uint64
	Exact      bool
	PC         uint64 // of the instruction
	Insn       uint32 // it, in its 32-bit form; 0 where none could be fetched
	Priv       rv64.Priv
	Differs    []string
}

func (d *Difference) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "seed %d (%v; %s): ", d.Seed, d.Flavour, d.Pair)
	if d.Exact {
		fmt.Fprintf(&s, "they differ behind step %d, of the instruction %08x at %#x in mode %d:", d.Step, d.Insn, d.PC, d.Priv)
	} else {
		fmt.Fprintf(&s, "they differ between step %d and step %d:", d.From, d.Step)
	}
	for _, line := range d.Differs {
		fmt.Fprintf(&s, "\n\t%s", line)
	}
	return s.String()
}

// cutting is where runs are cut, by seed and step alone.
type cutting struct{ seed, longest, inner uint64 }

func cuttingOf(seed uint64) cutting {
	h := hash(seed, 0)
	return cutting{seed, []uint64{1, 7, 60, 300, 300, 5000, 5000, 5000}[h%8], []uint64{0, 0, 5, 40, 400}[h>>8%5]}
}

// next is the length of the run of both from a step on; inside one, the subject is cut where
// within says so.
func (c cutting) next(step uint64) uint64 { return 1 + hash(c.seed, step)%c.longest }

func (c cutting) within(step, n uint64) uint64 {
	if c.inner == 0 {
		return n
	}
	return min(n, 1+hash(c.seed+1, step)%c.inner)
}

func hash(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^0x9e37_79b9_7f4a_7c15, b*0xbf58_476d_1ce4_e5b9|1)
	z := hi ^ lo ^ b
	z = (z ^ z>>30) * 0xbf58_476d_1ce4_e5b9
	z = (z ^ z>>27) * 0x94d0_49bb_1331_11eb
	return z ^ z>>31
}

// memoryEvery is behind how many cuts all of memory is compared.
const memoryEvery = 16

// Run runs a scenario on both.
func (p *Pair) Run(s *scenario.Scenario) *Difference {
	good, bad, _ := p.upTo(s, scenario.Steps)
	if bad == 0 {
		return nil
	}
	d := &Difference{Seed: s.Seed, Flavour: s.Flavour, Pair: p.name, From: good, Step: bad, Differs: p.differs()}
	// The first n at which they differ; they did not at good.
	low, high := good, bad
	for high-low > 1 {
		mid := low + (high-low)/2
		if _, at, alike := p.upTo(s, mid); at != 0 || !alike {
			high = mid
		} else {
			low = mid
		}
	}
	if _, at, alike := p.upTo(s, low); low > good && (at != 0 || !alike) {
		return d
	}
	h := p.boards[0]
	s.Do(h)
	pc, priv := h.PC(), h.Priv()
	insn, _, _ := h.Fetch(pc)
	if _, at, alike := p.upTo(s, high); at == 0 && alike {
		return d // cutting it there makes it right
	}
	d.Exact, d.Step, d.PC, d.Insn, d.Priv, d.Differs = true, high, pc, insn, priv, p.differs()
	return d
}

// upTo runs both from the start up to a step. bad is the first cut at which they differed, 0 if
// there was none, good the one before it. At the last step memory is compared, too.
func (p *Pair) upTo(s *scenario.Scenario, end uint64) (good, bad uint64, alike bool) {
	c := cuttingOf(s.Seed)
	a, b := p.boards[0], p.boards[1]
	a.reset(s)
	b.reset(s)
	for cut := 0; a.Steps() < end; cut++ {
		step := a.Steps()
		s.Do(a)
		s.Do(b)
		n := min(s.Until(step, c.next(step)), end-step)
		for to := step + n; a.Steps() < to; {
			a.Advance(to - a.Steps())
			for b.Steps() < a.Steps() {
				b.Advance(c.within(b.Steps(), to-b.Steps()))
			}
			if a.why != b.why && b.Steps() < to { // cut where the other one waits
				b.Advance(to - b.Steps())
			}
			if a.why != b.why || !p.alike(cut%memoryEvery == 0 || a.Steps() >= end) {
				return good, max(a.Steps(), b.Steps()), false
			}
			a.log, b.log = a.log[:0], b.log[:0]
			good = a.Steps()
		}
	}
	return good, 0, true
}

// alike compares.
func (p *Pair) alike(memory bool) bool {
	a, b := p.boards[0], p.boards[1]
	if a.State() != b.State() || a.Dirty()[0] != b.Dirty()[0] || len(a.log) != len(b.log) {
		return false
	}
	for i := range a.log {
		if a.log[i] != b.log[i] {
			return false
		}
	}
	return !memory || bytes.Equal(a.ram, b.ram)
}

// linesMax bounds what is told of a difference.
const linesMax = 12

// differs says in what.
func (p *Pair) differs() (lines []string) {
	a, b := p.boards[0], p.boards[1]
	say := func(format string, args ...any) {
		if len(lines) < linesMax {
			lines = append(lines, fmt.Sprintf(format, args...))
		}
	}
	sa, sb := a.State(), b.State()
	wa, wb := sa.Words(), sb.Words()
	for i := range wa {
		if wa[i] != wb[i] {
			say("%s is %#x, want %#x", rv64.WordName(i), wb[i], wa[i])
		}
	}
	if a.why != b.why {
		say("it stopped for %v, want %v", b.why, a.why)
	}
	for i := 0; i < len(a.ram); i += 8 {
		if !bytes.Equal(a.ram[i:i+8], b.ram[i:i+8]) {
			say("memory at %#x is % x, want % x", scenario.RAMBase+i, b.ram[i:i+8], a.ram[i:i+8])
		}
	}
	if x, y := a.Dirty()[0], b.Dirty()[0]; x != y {
		say("written pages are %#x, want %#x", y, x)
	}
	for i := range max(len(a.log), len(b.log)) {
		of := func(l []happening) string {
			if i >= len(l) {
				return "nothing"
			}
			return fmt.Sprintf("%c %#x %#x at step %d", l[i].what, l[i].a, l[i].b, l[i].step)
		}
		if x, y := of(a.log), of(b.log); x != y {
			say("outside, it did: %s, want: %s", y, x)
			break
		}
	}
	return lines
}
