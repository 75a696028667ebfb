package module

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"
)

var deviceSeed = flag.Uint64("devices.seed", 0, "seed of the random accesses to devices; 0 takes the time")

func deviceRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *deviceSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("reproduced by -devices.seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// testPLIC is a controller with its lines to the hart.
type testPLIC struct {
	*PLIC
	t    *testing.T
	line [2]bool
}

func newTestPLIC(t *testing.T) *testPLIC {
	p := &testPLIC{t: t}
	p.PLIC = NewPLIC(func(context int, level bool) { p.line[context] = level })
	return p
}

func (p *testPLIC) get(offset uint64) uint32 {
	p.t.Helper()
	v, ok := p.Load(offset, 4)
	if !ok || v>>32 != 0 {
		p.t.Fatalf("load at %#x: %#x, %v", offset, v, ok)
	}
	return uint32(v)
}

func (p *testPLIC) set(offset uint64, v uint32) {
	p.t.Helper()
	if !p.Store(offset, 4, uint64(v)) {
		p.t.Fatalf("store at %#x failed", offset)
	}
}

func (p *testPLIC) want(what string, line bool, claim uint32) {
	p.t.Helper()
	if p.line[SupervisorContext] != line {
		p.t.Errorf("%s: the hart's line is %v", what, p.line[SupervisorContext])
	}
	if got := p.get(0x20_1004); got != claim {
		p.t.Errorf("%s: claimed %d, want %d", what, got, claim)
	}
}

func TestPLICServesASource(t *testing.T) {
	p := newTestPLIC(t)
	p.set(4*10, 1)
	p.set(0x2080, 1<<10)
	p.SetLine(10, true)
	if !p.line[SupervisorContext] || p.line[MachineContext] {
		t.Errorf("lines %v", p.line)
	}
	if got := p.get(0x1000); got != 1<<10 {
		t.Errorf("pending %#x", got)
	}
	p.want("first", true, 10)
	p.want("in service", false, 0)
	p.set(0x20_1004, 10)
	p.want("completed with its line high", true, 10)
	p.SetLine(10, false)
	p.set(0x20_1004, 10)
	p.want("completed with its line low", false, 0)
}

func TestPLICForwardsEachLevelOnce(t *testing.T) {
	p := newTestPLIC(t)
	p.set(4*3, 1)
	p.set(0x2080, 1<<3)
	p.SetLine(3, true)
	p.SetLine(3, false)
	p.want("a line that fell before its claim", true, 3)
	p.SetLine(3, true)
	p.SetLine(3, false)
	p.want("a pulse while in service", false, 0)
	p.set(0x20_1004, 3)
	p.want("which is not remembered", false, 0)
}

func TestPLICOrder(t *testing.T) {
	p := newTestPLIC(t)
	for source, priority := range map[int]uint32{1: 2, 40: 7, 41: 7, 95: 3, 7: 0} {
		p.set(uint64(4*source), priority)
		p.set(0x2080+uint64(source/32*4), p.get(0x2080+uint64(source/32*4))|1<<(source%32))
		p.SetLine(source, true)
	}
	p.set(0x20_1000, 6)
	p.want("above the threshold", true, 40)
	p.want("of the same priority", true, 41)
	p.want("below the threshold it can still be claimed", false, 95)
	p.set(0x20_1000, 1)
	p.want("the threshold lowered", true, 1)
	p.want("priority 0 is never", false, 0)
}

func TestPLICContextsAreApart(t *testing.T) {
	p := newTestPLIC(t)
	p.set(4*5, 1)
	p.set(0x2000, 1<<5)
	p.SetLine(5, true)
	if p.line != [2]bool{true, false} {
		t.Errorf("lines %v", p.line)
	}
	p.want("not enabled here", false, 0)
	if got := p.get(0x20_0004); got != 5 {
		t.Errorf("M mode claims %d", got)
	}
	p.set(0x20_1004, 5) // not enabled for S mode: ignored
	if p.line[MachineContext] {
		t.Error("completed by the wrong context")
	}
	p.set(0x20_0004, 5)
	if !p.line[MachineContext] {
		t.Error("not completed")
	}
}

func TestPLICRegisters(t *testing.T) {
	p := newTestPLIC(t)
	for _, c := range []struct {
		offset       uint64
		write, reads uint32
	}{
		{0, 7, 0},
		{4, 0xffff_ffff, 7},
		{4 * 95, 5, 5},
		{4 * 96, 5, 0},
		{0x1000, 0xffff_ffff, 0},
		{0x2000, 0xffff_ffff, 0xffff_fffe},
		{0x2008, 0xffff_ffff, 0xffff_ffff},
		{0x200c, 0xffff_ffff, 0},
		{0x2084, 0x1234_5678, 0x1234_5678},
		{0x2100, 0xffff_ffff, 0},
		{0x20_0000, 0xff, 7},
		{0x20_1000, 3, 3},
		{0x20_1008, 3, 0},
		{0x20_2000, 3, 0},
		{0x5f_fffc, 3, 0},
	} {
		p.set(c.offset, c.write)
		if got := p.get(c.offset); got != c.reads {
			t.Errorf("%#x reads %#x after %#x was written, want %#x", c.offset, got, c.write, c.reads)
		}
	}
	for _, c := range []struct {
		offset uint64
		size   int
	}{{0, 1}, {0, 8}, {2, 4}, {0x60_0000, 4}, {^uint64(3), 4}} {
		if _, ok := p.Load(c.offset, c.size); ok {
			t.Errorf("load of %d at %#x", c.size, c.offset)
		}
		if p.Store(c.offset, c.size, 1) {
			t.Errorf("store of %d at %#x", c.size, c.offset)
		}
	}
	p.SetLine(0, true)
	p.SetLine(-1, true)
	p.SetLine(96, true)
	p.set(0x20_1004, 0)
	p.set(0x20_1004, 96)
	p.set(0x20_1004, 0xffff_ffff)
	if s := p.State(); s.Level != [plicWords]uint32{} || s.Pending != [plicWords]uint32{} {
		t.Errorf("sources that are none: %+v", s)
	}
}

// modelPLIC is the specification in slow words: per source, and lines computed when asked.
type modelPLIC struct {
	priority, threshold       map[int]uint32
	level, pending, inService map[int]bool
	enabled                   map[[2]int]bool
}

func (m *modelPLIC) gateway(s int) {
	if m.level[s] && !m.inService[s] {
		m.pending[s] = true
	}
}

func (m *modelPLIC) best(context int) (best int) {
	for s := 95; s >= 1; s-- {
		if m.pending[s] && m.enabled[[2]int{context, s}] && m.priority[s] > 0 && m.priority[s] >= m.priority[best] {
			best = s
		}
	}
	return best
}

// TestPLICIsItsModel: random accesses and lines, and copies of the state taken in between.
func TestPLICIsItsModel(t *testing.T) {
	r := deviceRand(t)
	for range 50 {
		p := newTestPLIC(t)
		m := &modelPLIC{map[int]uint32{}, map[int]uint32{}, map[int]bool{}, map[int]bool{}, map[int]bool{}, map[[2]int]bool{}}
		claimed := []int{1}
		for step := range 2000 {
			source, context := 1+r.IntN(95), r.IntN(2)
			if r.IntN(2) == 0 {
				source = 30 + r.IntN(5)
			}
			v := r.Uint32()
			switch r.IntN(8) {
			case 0:
				p.set(uint64(4*source), v)
				m.priority[source] = v & 7
			case 1:
				p.set(0x20_0000+uint64(context)*0x1000, v&3)
				m.threshold[context] = v & 3
			case 2:
				word := source / 32
				p.set(0x2000+uint64(context)*0x80+uint64(word)*4, v)
				for b := range 32 {
					m.enabled[[2]int{context, word*32 + b}] = v>>b&1 != 0
				}
			case 3, 4:
				p.SetLine(source, v&1 != 0)
				was := m.level[source]
				if m.level[source] = v&1 != 0; !was {
					m.gateway(source)
				}
			case 5:
				want := m.best(context)
				if got := int(p.get(0x20_0004 + uint64(context)*0x1000)); got != want {
					t.Fatalf("step %d: claimed %d, the model %d", step, got, want)
				}
				if want != 0 {
					m.pending[want], m.inService[want] = false, true
					claimed = append(claimed, want)
				}
			case 6:
				done := claimed[r.IntN(len(claimed))]
				p.set(0x20_0004+uint64(context)*0x1000, uint32(done))
				if m.enabled[[2]int{context, done}] {
					m.inService[done] = false
					m.gateway(done)
				}
			case 7:
				if v%16 == 0 { // go on with a copy
					q := newTestPLIC(t)
					q.SetState(p.State())
					if q.State() != p.State() {
						t.Fatal("a copy differs")
					}
					p = q
				}
			}
			for c := range 2 {
				if want := m.priority[m.best(c)] > m.threshold[c]; p.line[c] != want {
					t.Fatalf("step %d: line %d is %v, the model's %v", step, c, p.line[c], want)
				}
			}
		}
	}
}
