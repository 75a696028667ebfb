package bare

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"ft/chipset/firmware"
	"ft/chipset/rv64"
	"ft/chipset/rv64/oracle/asm"
)

const testMemory = 1 << 20

// rig is a machine with a program that a test wrote.
type rig struct {
	*Machine
	program      *Program
	code         *asm.Code
	ram          []byte
	out, errsOut bytes.Buffer
}

// newRig assembles a program; body is its instructions, from the start of memory on. Behind
// them lie tohost, fromhost and, at the label data, a page.
func newRig(t *testing.T, body func(c *asm.Code)) *rig {
	t.Helper()
	c := asm.New(firmware.RAMBase)
	c.Label("start")
	body(c)
	c.Align(8)
	c.Label("tohost")
	c.Word(0)
	c.Label("fromhost")
	c.Word(0)
	c.Label("data")
	r := &rig{code: c}
	file := c.ELF("start", uint64(len(c.Bytes))+4096)
	var err error
	if r.program, err = Read("test", file, testMemory); err != nil {
		t.Fatal(err)
	}
	r.ram = make([]byte, testMemory)
	cfg := Config{RAM: r.ram, Console: &r.out, Errors: &r.errsOut}
	if r.Machine, err = New(cfg, r.program); err != nil {
		t.Fatal(err)
	}
	return r
}

// Behind the code of a test, whatever it is, lies its data: a test's code is this long.
const codeSpace = 2048

func pad(c *asm.Code) {
	if c.Here() > firmware.RAMBase+codeSpace {
		panic("code of a test is too long")
	}
	for c.Here() < firmware.RAMBase+codeSpace {
		c.Op("ebreak", asm.Args{})
	}
}

const (
	toHostAt   = firmware.RAMBase + codeSpace
	fromHostAt = toHostAt + 8
	dataAt     = toHostAt + 16
)

// send stores a doubleword to tohost. It uses t0 and t1.
func send(c *asm.Code, v uint64) {
	c.Li(asm.T0, v)
	c.Li(asm.T1, toHostAt)
	c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
}

// run runs the program to its end and wants a status.
func (r *rig) run(t *testing.T, status uint64) {
	t.Helper()
	got, err := r.Run(1_000_000)
	if want := (Result{Exited, status}); err != nil || got != want {
		t.Fatalf("ended with %+v, %v after %d steps; want %+v; printed %q", got, err, r.Steps(), want, r.out.String())
	}
}

func TestAProgramEndsWithTheStatusInToHost(t *testing.T) {
	for stored, status := range map[uint64]uint64{
		1: 0, 3: 1, 7: 3, 2*1337 + 1: 1337,
		math.MaxUint64: math.MaxInt64, // exit(-1)
	} {
		r := newRig(t, func(c *asm.Code) {
			send(c, stored)
			c.Op("ebreak", asm.Args{})
			pad(c)
		})
		r.run(t, status)
		if pc := r.hart.PC(); r.code.Texts[pc] != "ebreak" || r.hart.State().Trapped != 0 {
			t.Errorf("tohost %#x: ended at pc %#x (%s), want right behind the store", stored, pc, r.code.Texts[pc])
		}
	}
}

// Two stores of four bytes are one command; the lower half alone is one, too.
func TestHalvesOfACommand(t *testing.T) {
	half := func(c *asm.Code, v, offset int64) {
		c.Op("addi", asm.Args{Rd: asm.T0, Imm: v})
		c.Op("sw", asm.Args{Rs2: asm.T0, Rs1: asm.T1, Imm: offset})
	}
	for name, body := range map[string]func(c *asm.Code){
		"both": func(c *asm.Code) {
			half(c, 'A', 0)
			c.Li(asm.T0, 0x0101_0000)
			c.Op("sw", asm.Args{Rs2: asm.T0, Rs1: asm.T1, Imm: 4})
			half(c, 5, 0)
			half(c, 0, 4)
		},
		"the lower one again and again": func(c *asm.Code) {
			send(c, 1<<56|1<<48|'A')
			c.Label("again")
			half(c, 5, 0)
			c.To("jal", asm.Args{}, "again")
		},
		"the lower one and WFI": func(c *asm.Code) {
			send(c, 1<<56|1<<48|'A')
			half(c, 5, 0)
			c.Op("wfi", asm.Args{})
		},
	} {
		r := newRig(t, func(c *asm.Code) {
			c.Li(asm.T1, toHostAt)
			body(c)
			pad(c)
		})
		r.run(t, 2)
		if got := r.out.String(); got != "A" {
			t.Errorf("%s: printed %q", name, got)
		}
	}
}

func TestAProgramPrints(t *testing.T) {
	r := newRig(t, func(c *asm.Code) {
		for _, b := range "ok\n" {
			send(c, 1<<56|1<<48|uint64(b))
		}
		c.Li(asm.T1, firmware.UARTBase)
		c.Op("addi", asm.Args{Rd: asm.T0, Imm: 'u'})
		c.Op("sb", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
		send(c, 1)
		pad(c)
	})
	r.run(t, 0)
	if got := r.out.String(); got != "ok\nu" {
		t.Errorf("printed %q", got)
	}
}

// call makes a system call, waits for its answer and leaves the result in a0.
func call(c *asm.Code, label string, number uint64, args ...uint64) {
	c.Li(asm.T1, dataAt)
	for i, v := range append([]uint64{number}, args...) {
		c.Li(asm.T0, v)
		c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1, Imm: int64(8 * i)})
	}
	send(c, dataAt)
	c.Li(asm.T1, fromHostAt)
	c.Label(label)
	c.Op("ld", asm.Args{Rd: asm.T0, Rs1: asm.T1})
	c.To("beq", asm.Args{Rs1: asm.T0}, label)
	c.Op("sd", asm.Args{Rs1: asm.T1})
	c.Li(asm.T1, dataAt)
	c.Op("ld", asm.Args{Rd: asm.A0, Rs1: asm.T1})
}

func TestSystemCalls(t *testing.T) {
	const text = dataAt + 64
	minus := func(errno uint64) uint64 { return -errno }
	for _, x := range []struct {
		name      string
		args      []uint64
		result    uint64
		out, errs string
	}{
		{name: "write to 1", args: []uint64{64, 1, text, 4}, result: 4, out: "hey\n"},
		{name: "write to 2", args: []uint64{64, 2, text, 3}, result: 3, errs: "hey"},
		{name: "write nothing", args: []uint64{64, 1, 0, 0}},
		{name: "write elsewhere", args: []uint64{64, 3, text, 3}, result: minus(9)},
		{name: "write what is no memory", args: []uint64{64, 1, 0x1000, 3}, result: minus(14)},
		{name: "write too much", args: []uint64{64, 1, firmware.RAMBase + testMemory - 4, 8}, result: minus(14)},
		{name: "write all there is", args: []uint64{64, 1, text, math.MaxUint64}, result: minus(14)},
		{name: "read", args: []uint64{63, 0, text, 3}},
		{name: "close", args: []uint64{57, 1}},
		{name: "close another", args: []uint64{57, 7}, result: minus(9)},
		{name: "seek", args: []uint64{62, 1, 0, 0}, result: minus(29)},
		{name: "stat", args: []uint64{80, 1, text}},
		{name: "stat nowhere", args: []uint64{80, 1, 8}, result: minus(14)},
		{name: "open", args: []uint64{56, 0, 0}, result: minus(38)},
	} {
		r := newRig(t, func(c *asm.Code) {
			c.Li(asm.T0, 'h'|'e'<<8|'y'<<16|'\n'<<24)
			c.Li(asm.T1, text)
			c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
			call(c, "wait", x.args[0], x.args[1:]...)
			send(c, 1)
			pad(c)
		})
		r.run(t, 0)
		if got := r.hart.Reg(int(asm.A0)); got != x.result {
			t.Errorf("%s: result %d, want %d", x.name, int64(got), int64(x.result))
		}
		if got := r.errsOut.String(); got != x.errs {
			t.Errorf("%s: wrote %q to standard error, want %q", x.name, got, x.errs)
		}
		if got := r.out.String(); x.result < 1<<63 && got != x.out {
			t.Errorf("%s: printed %q, want %q", x.name, got, x.out)
		}
	}
}

func TestExitIsASystemCall(t *testing.T) {
	for _, number := range []uint64{93, 94} {
		r := newRig(t, func(c *asm.Code) {
			call(c, "wait", number, 42)
			pad(c)
		})
		r.run(t, 42)
	}
}

// The next command waits until the program has taken the answer to the last.
func TestAnswersAreNotLost(t *testing.T) {
	r := newRig(t, func(c *asm.Code) {
		c.Li(asm.T1, dataAt)
		c.Li(asm.T0, 57)
		c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
		c.Op("addi", asm.Args{Rd: asm.T0, Imm: 5})
		c.Li(asm.T1, fromHostAt)
		c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1}) // an answer that is not taken
		send(c, dataAt)
		send(c, 1)
		c.Li(asm.T1, fromHostAt)
		c.Op("ld", asm.Args{Rd: asm.S0, Rs1: asm.T1})
		c.Op("sd", asm.Args{Rs1: asm.T1}) // taken
		c.Op("ld", asm.Args{Rd: asm.S1, Rs1: asm.T1})
		pad(c)
	})
	r.run(t, 0)
	if got := r.hart.Reg(int(asm.S0)); got != 5 {
		t.Errorf("fromhost was overwritten with %d", got)
	}
	var answer [8]byte
	r.hart.ReadRAM(fromHostAt, answer[:])
	if v := binary.LittleEndian.Uint64(answer[:]); v != 1 {
		t.Errorf("fromhost holds %d, want the answer", v)
	}
}

func TestWhatTheHostCannotDoIsSaid(t *testing.T) {
	for _, stored := range []uint64{2, 0x1000, firmware.RAMBase + testMemory - 8} {
		r := newRig(t, func(c *asm.Code) {
			send(c, stored)
			pad(c)
		})
		if _, err := r.Run(1000); !errors.Is(err, errRecord) || !strings.Contains(err.Error(), fmt.Sprintf("tohost was %#x", stored)) {
			t.Errorf("tohost %#x: %v", stored, err)
		}
	}
}

func TestTheStepsAreExact(t *testing.T) {
	body := func(c *asm.Code) {
		c.Label("loop")
		c.Op("addi", asm.Args{Rd: asm.A0, Rs1: asm.A0, Imm: 1})
		c.To("jal", asm.Args{}, "loop")
		pad(c)
	}
	r := newRig(t, body)
	for _, steps := range []uint64{1, 2, 999, 1000, 54321} {
		got, err := r.Run(steps)
		if err != nil || got.Ending != OutOfSteps || r.Steps() != steps {
			t.Errorf("to %d steps: %+v, %v at step %d", steps, got, err, r.Steps())
		}
		if n := r.hart.Reg(int(asm.A0)); n != (steps+1)/2 {
			t.Errorf("after %d steps a0 is %d", steps, n)
		}
	}
}

// setHandler makes the label handler that of M mode's traps.
func setHandler(c *asm.Code, at uint64) {
	c.Li(asm.T0, at)
	c.Op("csrrw", asm.Args{Imm: 0x305, Rs1: asm.T0})
}

func TestTheTimerInterruptsAtItsStep(t *testing.T) {
	const handler = firmware.RAMBase + 1024
	r := newRig(t, func(c *asm.Code) {
		setHandler(c, handler)
		c.Li(asm.T1, firmware.CLINTBase+clintMTimeCmp)
		c.Op("addi", asm.Args{Rd: asm.T0, Imm: 5})
		c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
		c.Op("addi", asm.Args{Rd: asm.T0, Imm: 1 << 7})
		c.Op("csrrs", asm.Args{Imm: 0x304, Rs1: asm.T0})
		c.Op("csrrsi", asm.Args{Imm: 0x300, Rs1: 8})
		c.Label("loop")
		c.To("jal", asm.Args{}, "loop")
		for c.Here() < handler {
			c.Op("ebreak", asm.Args{})
		}
		c.Op("csrrs", asm.Args{Rd: asm.S0, Imm: 0xb00}) // mcycle
		c.Op("csrrs", asm.Args{Rd: asm.S1, Imm: 0x342}) // mcause
		send(c, 1)
		pad(c)
	})
	r.run(t, 0)
	if cycle, cause := r.hart.Reg(int(asm.S0)), r.hart.Reg(int(asm.S1)); cycle != 5*stepsPerTick || cause != 1<<63|7 {
		t.Errorf("interrupted with cause %#x at step %d, want mtime 5 to be at step %d", cause, cycle, 5*stepsPerTick)
	}
}

func TestWaitingLeapsToTheTimer(t *testing.T) {
	r := newRig(t, func(c *asm.Code) {
		c.Li(asm.T1, firmware.CLINTBase+clintMTimeCmp)
		c.Li(asm.T0, 123_456_789)
		c.Op("sd", asm.Args{Rs2: asm.T0, Rs1: asm.T1})
		c.Op("addi", asm.Args{Rd: asm.T0, Imm: 1 << 7})
		c.Op("csrrs", asm.Args{Imm: 0x304, Rs1: asm.T0})
		c.Op("wfi", asm.Args{})
		c.Li(asm.T1, firmware.CLINTBase+clintMTime)
		c.Op("ld", asm.Args{Rd: asm.S0, Rs1: asm.T1})
		send(c, 1)
		pad(c)
	})
	r.run(t, 0)
	if now := r.hart.Reg(int(asm.S0)); now != 123_456_789 || r.Steps() > 100 {
		t.Errorf("mtime is %d after %d steps", now, r.Steps())
	}
}

func TestWaitingForNothingIsTheEnd(t *testing.T) {
	r := newRig(t, func(c *asm.Code) {
		c.Op("wfi", asm.Args{})
		pad(c)
	})
	if got, err := r.Run(1000); err != nil || got.Ending != Stuck {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestRegistersOfTheCLINT(t *testing.T) {
	r := newRig(t, pad)
	b := (*bus)(r.Machine)
	const base = firmware.CLINTBase
	store := func(offset uint64, size int, v uint64) {
		t.Helper()
		if !b.Store(base+offset, size, v) {
			t.Errorf("%d bytes at %#x refused", size, offset)
		}
	}
	want := func(offset uint64, size int, want uint64) {
		t.Helper()
		if v, ok := b.Load(base+offset, size); !ok || v != want {
			t.Errorf("%d bytes at %#x are %#x, %v; want %#x", size, offset, v, ok, want)
		}
	}
	want(clintMTimeCmp, 8, math.MaxUint64)
	store(clintMTimeCmp, 4, 0x1234_5678)
	want(clintMTimeCmp, 8, 0xffff_ffff_1234_5678)
	store(clintMTimeCmp+4, 4, 9)
	want(clintMTimeCmp, 8, 0x9_1234_5678)
	want(clintMTimeCmp+2, 2, 0x1234)
	store(clintMTime, 8, 7<<32|8)
	want(clintMTime, 4, 8)
	want(clintMTime+4, 4, 7)
	store(clintMSIP, 4, math.MaxUint64)
	want(clintMSIP, 4, 1)
	want(clintMSIP+4, 4, 0) // another hart's
	if lines := r.hart.State().MipLines; lines != 1<<machineSoftware {
		t.Errorf("the hart sees %#x", lines)
	}
	store(clintMSIP, 1, 2)
	want(clintMSIP, 4, 0)
	store(0x100, 8, 5)
	want(0x100, 8, 0)
	if b.Store(base+firmware.CLINTSize, 4, 0) {
		t.Error("a store behind the CLINT was taken")
	}
}

func TestTheProgramFindsTheDeviceTree(t *testing.T) {
	r := newRig(t, func(c *asm.Code) {
		c.Op("addi", asm.Args{Rd: asm.S0, Rs1: asm.A0})
		c.Op("lwu", asm.Args{Rd: asm.S1, Rs1: asm.A1})
		send(c, 1)
		pad(c)
	})
	r.run(t, 0)
	if id, magic := r.hart.Reg(int(asm.S0)), r.hart.Reg(int(asm.S1)); id != 0 || magic != 0xedfe_0dd0 {
		t.Errorf("a0 was %d, and at a1 there was %#x", id, magic)
	}
	end := romBase + uint64(len(r.rom))
	if _, ok := (*bus)(r.Machine).Load(end, 1); ok {
		t.Error("there is something behind the tree")
	}
	if (*bus)(r.Machine).Store(romBase, 4, 0) {
		t.Error("the tree can be written")
	}
}

func TestRunsAreTheSame(t *testing.T) {
	var prints []uint64
	for range 2 {
		r := newRig(t, func(c *asm.Code) {
			call(c, "wait", 64, 1, dataAt, 8)
			send(c, 1)
			pad(c)
		})
		r.run(t, 0)
		prints = append(prints, r.Fingerprint())
	}
	if prints[0] != prints[1] || prints[0] == 0 {
		t.Errorf("fingerprints %x", prints)
	}
}

// failing takes no byte.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestAConsoleThatFailsEndsTheRun(t *testing.T) {
	r := newRig(t, func(c *asm.Code) {
		c.Label("loop")
		send(c, 1<<56|1<<48|'\n')
		c.To("jal", asm.Args{}, "loop")
		pad(c)
	})
	m, err := New(Config{RAM: make([]byte, testMemory), Console: failing{}, Errors: failing{}, Compare: rv64.Off}, r.program)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Run(1 << 40); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("%v", err)
	}
}
