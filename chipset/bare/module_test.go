package bare

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"ft/chipset/firmware"
	"ft/chipset/module"
	"ft/chipset/rv64/oracle/asm"
	"ft/chipset/virtio"
)

// heard keeps what leaves a module.
type heard struct {
	bytes.Buffer
	then func()
}

func (h *heard) Console(p []byte) {
	h.Write(p)
	if h.then != nil {
		h.then()
	}
}

func (*heard) Request(int, *virtio.Request) { panic("a bare-metal program has no devices") }

// busy is a program with a bit of everything: words for both outputs by system call and by
// byte, the UART, halves of commands, timers waited for, a software interrupt.
func busy(c *asm.Code) {
	const handler = firmware.RAMBase + 1536
	const text = dataAt + 64
	setHandler(c, handler)
	c.Li(asm.T0, 'h'|'e'<<8|'y'<<16|'\n'<<24)
	c.Li(asm.T1, text)
	c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
	c.Op("addi", asm.Args{Rd: asm.T0, Imm: 1<<7 | 1<<3})
	c.Op("csrrs", asm.Args{Imm: 0x304, Rs1: asm.T0})
	c.Li(asm.S0, 5)
	c.Label("again")
	for i, wait := range []string{"out", "err"} {
		call(c, wait, 64, uint64(1+i), text, 4)
		send(c, 1<<56|1<<48|'>')
	}
	c.Li(asm.T1, firmware.UARTBase)
	c.Op("addi", asm.Args{Rd: asm.T0, Rs1: asm.S0, Imm: 'a'})
	c.Op("sb", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
	c.Li(asm.T1, toHostAt)
	c.Op("addi", asm.Args{Rd: asm.T0, Imm: '.'})
	c.Op("sw", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
	c.Li(asm.T0, 0x0101_0000)
	c.Op("sw", asm.Args{Rs2: asm.T0, Rs1: asm.T1, Imm: 4})
	c.Li(asm.T1, firmware.CLINTBase)
	c.Op("addi", asm.Args{Rd: asm.T0, Imm: 1})
	c.Op("sw", asm.Args{Rs2: asm.T0, Rs1: asm.T1}) // MSIP; WFI falls through
	c.Op("wfi", asm.Args{})
	c.Op("sw", asm.Args{Rs1: asm.T1})
	c.Li(asm.T1, firmware.CLINTBase+clintMTime)
	c.Op("ld", asm.Args{Rd: asm.T0, Rs1: asm.T1})
	c.Op("addi", asm.Args{Rd: asm.T0, Rs1: asm.T0, Imm: 1000})
	c.Li(asm.T1, firmware.CLINTBase+clintMTimeCmp)
	c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
	c.Op("csrrsi", asm.Args{Imm: 0x300, Rs1: 8})
	c.Op("wfi", asm.Args{}) // leaps, and the handler switches interrupts off
	c.Op("addi", asm.Args{Rd: asm.S0, Rs1: asm.S0, Imm: -1})
	c.To("bne", asm.Args{Rs1: asm.S0}, "again")
	c.Op("addi", asm.Args{Rd: asm.T0, Imm: 85})
	c.Li(asm.T1, toHostAt)
	c.Op("sw", asm.Args{Rs2: asm.T0, Rs1: asm.T1}) // a lower half alone, served later
	c.Label("rest")
	c.To("jal", asm.Args{}, "rest")
	for c.Here() < handler {
		c.Op("ebreak", asm.Args{})
	}
	c.Li(asm.T0, math.MaxUint64)
	c.Li(asm.T1, firmware.CLINTBase+clintMTimeCmp)
	c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
	c.Op("csrrs", asm.Args{Rd: asm.T0, Imm: 0x341})
	c.Li(asm.T1, 1<<7) // MPIE off: no further interrupts until the next round
	c.Op("csrrc", asm.Args{Imm: 0x300, Rs1: asm.T1})
	c.Op("mret", asm.Args{})
	pad(c)
}

// started is a module with the program of a rig, at its start.
func started(t *testing.T, r *rig, sink module.Sink) (*Module, []byte) {
	t.Helper()
	ram := make([]byte, testMemory)
	cfg, state, err := r.program.Place(ram, 0)
	if err != nil {
		t.Fatal(err)
	}
	return loaded(t, cfg, ram, sink, state), ram
}

func loaded(t *testing.T, cfg ModuleConfig, ram []byte, sink module.Sink, state []byte) *Module {
	t.Helper()
	m, err := NewModule(cfg, ram, sink, nil)
	if err == nil {
		err = m.LoadState(state)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// whole runs the busy program in one go.
func whole(t *testing.T) (r *rig, out string, state []byte) {
	t.Helper()
	r = newRig(t, busy)
	r.run(t, 42)
	var all heard
	m, ram := started(t, r, &all)
	if ran, why := m.Run(1 << 40); why != module.StopReset || ran != r.Steps() || m.Fingerprint() != r.Fingerprint() || m.Time() != r.hart.Time() {
		t.Fatalf("as a module it ran %d steps and stopped for %v with %#x at %d; by itself %d, %#x, %d",
			ran, why, m.Fingerprint(), m.Time(), r.Steps(), r.Fingerprint(), r.hart.Time())
	}
	if got, want := m.Reset(), (module.Reset{Kind: firmware.Shutdown, Reason: 42}); got != want {
		t.Errorf("ended with %+v, want %+v", got, want)
	}
	if !bytes.Equal(ram, r.ram) {
		t.Error("as a module it leaves another memory")
	}
	if want := bytes.Count(all.Bytes(), []byte("hey\n")); want != 10 || all.Len() != r.out.Len()+r.errsOut.Len() {
		t.Errorf("printed %q; by itself %q and %q", all.String(), r.out.String(), r.errsOut.String())
	}
	return r, all.String(), m.SaveState(nil)
}

func TestAModuleDoesTheSameHoweverItsRunsAreCut(t *testing.T) {
	r, out, state := whole(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, most := range []uint64{1, 3, 50, 700} {
		var got heard
		m, _ := started(t, r, &got)
		if most == 700 { // and broken off behind what is printed
			got.then = m.Break
		}
		for {
			steps := rng.Uint64N(most + 1)
			ran, why := m.Run(steps)
			if why == module.StopReset {
				break
			}
			if why == module.StopWFI || why == module.StopBudget && ran != steps || m.Steps() > r.Steps() {
				t.Fatalf("ran %d of %d steps to step %d, stopped for %v", ran, steps, m.Steps(), why)
			}
		}
		if got.String() != out || !bytes.Equal(m.SaveState(nil), state) {
			t.Errorf("in runs of up to %d steps it ends at step %d with %#x and prints %q; want %d, %#x, %q",
				most, m.Steps(), m.Fingerprint(), got.String(), r.Steps(), r.Fingerprint(), out)
		}
		if ran, why := m.Run(5); ran != 0 || why != module.StopReset {
			t.Errorf("behind its end it ran %d steps, %v", ran, why)
		}
	}
}

func TestAModuleGoesOnFromItsState(t *testing.T) {
	r, out, state := whole(t)
	rng := rand.New(rand.NewPCG(3, 4))
	var got heard
	m, ram := started(t, r, &got)
	text, err := json.Marshal(ModuleConfig{ToHost: toHostAt, FromHost: fromHostAt, Memory: testMemory})
	if err != nil {
		t.Fatal(err)
	}
	for done := false; !done; {
		_, why := m.Run(rng.Uint64N(40))
		done = why == module.StopReset
		saved, memory := m.SaveState(nil), bytes.Clone(ram)
		var cfg ModuleConfig
		if err := json.Unmarshal(text, &cfg); err != nil {
			t.Fatal(err)
		}
		m, ram = loaded(t, cfg, memory, &got, saved), memory
		if again := m.SaveState(nil); !bytes.Equal(again, saved) {
			t.Fatalf("at step %d the state is another one once it is loaded", m.Steps())
		}
	}
	if got.String() != out || !bytes.Equal(m.SaveState(nil), state) || !bytes.Equal(ram, r.ram) {
		t.Errorf("moved again and again it ends at step %d with %#x and prints %q; want %d, %#x, %q",
			m.Steps(), m.Fingerprint(), got.String(), r.Steps(), r.Fingerprint(), out)
	}
}

// A module that is set back does again what it did.
func TestAModuleCanBeSetBack(t *testing.T) {
	r, out, state := whole(t)
	var got heard
	m, ram := started(t, r, &got)
	m.Run(r.Steps() / 2)
	saved, memory := m.SaveState(nil), bytes.Clone(ram)
	before := got.Len()
	for range 2 {
		got.Truncate(before)
		m.Run(r.Steps())
		if got.String() != out || !bytes.Equal(m.SaveState(nil), state) {
			t.Errorf("it ends at step %d and prints %q, want %d, %q", m.Steps(), got.String(), r.Steps(), out)
		}
		copy(ram, memory)
		if err := m.LoadState(saved); err != nil {
			t.Fatal(err)
		}
	}
}

func TestABreakIsAtItsStep(t *testing.T) {
	r := newRig(t, func(c *asm.Code) {
		c.Li(asm.T1, dataAt+4096)
		c.Op("sd", asm.Args{Rs1: asm.T1})
		send(c, 1<<56|1<<48|'A')
		send(c, 1)
		pad(c)
	})
	ram := make([]byte, testMemory)
	cfg, state, err := r.program.Place(ram, 0)
	if err != nil {
		t.Fatal(err)
	}
	var m *Module
	var pages []uint64
	if m, err = NewModule(cfg, ram, &heard{}, func(page uint64) {
		pages = append(pages, page)
		m.Break()
	}); err != nil {
		t.Fatal(err)
	}
	if err := m.LoadState(state); err != nil {
		t.Fatal(err)
	}
	total := uint64(0)
	for _, behind := range []string{"sd", "sd"} {
		ran, why := m.Run(1000)
		total += ran
		if last := r.code.Texts[m.Hart().PC()-4]; why != module.StopBreak || last[:2] != behind {
			t.Errorf("stopped for %v behind %q", why, last)
		}
	}
	ran, why := m.Run(1000)
	if total += ran; why != module.StopReset || total != m.Steps() || len(pages) != 2 {
		t.Errorf("then ran %d steps to step %d, %v; pages %v", ran, m.Steps(), why, pages)
	}
	r.run(t, 0)
	if m.Steps() != r.Steps() || m.Fingerprint() != r.Fingerprint() {
		t.Errorf("ended at step %d, by itself at %d", m.Steps(), r.Steps())
	}
}

func TestAModuleThatWaitsForNothingSaysSo(t *testing.T) {
	r := newRig(t, func(c *asm.Code) {
		c.Op("wfi", asm.Args{})
		pad(c)
	})
	m, _ := started(t, r, &heard{})
	for range 2 {
		_, why := m.Run(1000)
		if _, due := m.Due(); why != module.StopWFI || due || m.Steps() != 1 {
			t.Errorf("stopped for %v at step %d", why, m.Steps())
		}
	}
}

func TestAModuleEndsAProgramThatAsksForTheImpossible(t *testing.T) {
	r := newRig(t, func(c *asm.Code) {
		send(c, 0x1000)
		pad(c)
	})
	m, _ := started(t, r, &heard{})
	if _, why := m.Run(1000); why != module.StopReset {
		t.Errorf("stopped for %v", why)
	}
	if err := Failure(m.Reset()); m.Reset() != (module.Reset{Kind: Failed, Reason: 0x1000}) || !errors.Is(err, errRecord) {
		t.Errorf("ended with %+v, %v", m.Reset(), err)
	}
}

func TestALargeStatusIsNoSuccess(t *testing.T) {
	r := newRig(t, func(c *asm.Code) {
		send(c, 1<<40|1)
		pad(c)
	})
	m, _ := started(t, r, &heard{})
	m.Run(1000)
	if got, want := m.Reset(), (module.Reset{Kind: firmware.Shutdown, Reason: math.MaxUint32}); got != want || Failure(got) != nil {
		t.Errorf("ended with %+v, want %+v", got, want)
	}
}

func TestAModuleTakesNothingFromOutsideButTime(t *testing.T) {
	m, _ := started(t, newRig(t, pad), &heard{})
	if err := m.Apply(&module.Input{Kind: module.InputTime, Base: 1 << 40, Num: 1, Den: 1}); err != nil || m.Time() != 0 {
		t.Errorf("time is %d, %v", m.Time(), err)
	}
	for kind := module.InputWall; kind <= module.InputLink; kind++ {
		if err := m.Apply(&module.Input{Kind: kind, Data: []byte("x")}); !errors.Is(err, module.ErrInput) {
			t.Errorf("%v: %v", kind, err)
		}
	}
}

func TestModulesThatCannotBeAreRefused(t *testing.T) {
	good := ModuleConfig{ToHost: toHostAt, FromHost: fromHostAt, Memory: testMemory}
	ram := make([]byte, testMemory)
	for name, change := range map[string]func(c *ModuleConfig){
		"other memory":       func(c *ModuleConfig) { c.Memory *= 2 },
		"tohost nowhere":     func(c *ModuleConfig) { c.ToHost = 0 },
		"tohost between":     func(c *ModuleConfig) { c.ToHost++ },
		"fromhost nowhere":   func(c *ModuleConfig) { c.FromHost = firmware.RAMBase + testMemory },
		"another comparison": func(c *ModuleConfig) { c.Compare = 9 },
	} {
		cfg := good
		change(&cfg)
		if _, err := NewModule(cfg, ram, &heard{}, nil); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	m, err := NewModule(good, ram, &heard{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	state := m.SaveState(nil)
	other := bytes.Clone(state)
	other[0]++
	for name, bad := range map[string][]byte{"nothing": nil, "a part": state[:len(state)-1], "more": append(bytes.Clone(state), 0), "another version": other} {
		if err := m.LoadState(bad); err == nil {
			t.Errorf("%s was taken for a state", name)
		}
	}
}
