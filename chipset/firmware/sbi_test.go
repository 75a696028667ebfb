package firmware

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// fakeMachine writes down what the firmware does to it.
type fakeMachine struct {
	regs  [32]uint64
	ram   []byte
	typed []byte
	log   []string
}

func newFakeMachine() *fakeMachine { return &fakeMachine{ram: make([]byte, 64<<10)} }

func (m *fakeMachine) note(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func (m *fakeMachine) span(addr uint64, n int) []byte {
	if (RAM{RAMBase, uint64(len(m.ram))}).Contains(addr, uint64(n)) {
		return m.ram[addr-RAMBase:][:n]
	}
	return nil
}

func (m *fakeMachine) Reg(i int) uint64       { return m.regs[i] }
func (m *fakeMachine) SetReg(i int, v uint64) { m.regs[i] = v }
func (m *fakeMachine) ReadRAM(addr uint64, p []byte) bool {
	s := m.span(addr, len(p))
	copy(p, s)
	return s != nil
}
func (m *fakeMachine) WriteRAM(addr uint64, p []byte) bool {
	s := m.span(addr, len(p))
	copy(s, p)
	return s != nil
}
func (m *fakeMachine) SetTimer(at uint64)             { m.note("timer %d", at) }
func (m *fakeMachine) SetSoftwareInterrupt(high bool) { m.note("ssip %v", high) }
func (m *fakeMachine) ConsoleWrite(p []byte)          { m.note("console %q", p) }
func (m *fakeMachine) ConsoleRead(p []byte) int {
	n := copy(p, m.typed)
	m.typed = m.typed[n:]
	return n
}
func (m *fakeMachine) Reset(kind ResetType, reason ResetReason) { m.note("%v, %v", kind, reason) }

// call makes an ECALL and returns a0 and a1, as they were before where it leaves them.
func (m *fakeMachine) call(eid, fid uint64, args ...uint64) (a0 int64, a1 uint64) {
	for i := range 6 {
		m.regs[10+i] = 0xdead_0000 + uint64(i)
	}
	copy(m.regs[10:], args)
	m.regs[16], m.regs[17] = fid, eid
	before := m.regs
	m.log = nil
	NewSBI(m).Call()
	for i := range m.regs {
		if i != 10 && i != 11 && m.regs[i] != before[i] {
			m.note("x%d changed", i)
		}
	}
	return int64(m.regs[10]), m.regs[11]
}

const all = ^uint64(0)

func TestCalls(t *testing.T) {
	const (
		ok, notSupported, invalid, already = 0, -2, -3, -6
		untouched                          = 0xdead_0001
	)
	for _, c := range []struct {
		what     string
		eid, fid uint64
		args     []uint64
		err      int64
		value    uint64
		log      string
	}{
		{"spec version", 0x10, 0, nil, ok, 0x0200_0000, ""},
		{"implementation", 0x10, 1, nil, ok, 0x6674, ""},
		{"implementation version", 0x10, 2, nil, ok, 1, ""},
		{"mvendorid", 0x10, 4, nil, ok, 0, ""},
		{"marchid", 0x10, 5, nil, ok, 0, ""},
		{"mimpid", 0x10, 6, nil, ok, 0, ""},
		{"base, unknown function", 0x10, 7, nil, notSupported, 0, ""},
		{"probe TIME", 0x10, 3, []uint64{0x54494d45}, ok, 1, ""},
		{"probe DBCN", 0x10, 3, []uint64{0x4442434e}, ok, 1, ""},
		{"probe SRST", 0x10, 3, []uint64{0x53525354}, ok, 1, ""},
		{"probe HSM", 0x10, 3, []uint64{0x48534d}, ok, 1, ""},
		{"probe legacy putchar", 0x10, 3, []uint64{1}, ok, 1, ""},
		{"probe legacy send_ipi", 0x10, 3, []uint64{4}, ok, 0, ""},
		{"probe PMU", 0x10, 3, []uint64{0x504d55}, ok, 0, ""},

		{"set_timer", 0x54494d45, 0, []uint64{12345}, ok, 0, "timer 12345"},
		{"set_timer never", 0x54494d45, 0, []uint64{all}, ok, 0, "timer 18446744073709551615"},
		{"TIME, unknown function", 0x54494d45, 1, nil, notSupported, 0, ""},

		{"send_ipi to hart 0", 0x735049, 0, []uint64{1, 0}, ok, 0, "ssip true"},
		{"send_ipi to all", 0x735049, 0, []uint64{0, all}, ok, 0, "ssip true"},
		{"send_ipi to nobody", 0x735049, 0, []uint64{0, 0}, ok, 0, ""},
		{"send_ipi to hart 1", 0x735049, 0, []uint64{2, 0}, invalid, 0, ""},
		{"send_ipi to harts 0 and 1", 0x735049, 0, []uint64{3, 0}, invalid, 0, ""},
		{"send_ipi to hart 5", 0x735049, 0, []uint64{1, 5}, invalid, 0, ""},
		{"send_ipi to a number that wraps to 0", 0x735049, 0, []uint64{4, all - 1}, invalid, 0, ""},

		{"remote_fence_i", 0x52464e43, 0, []uint64{1, 0}, ok, 0, ""},
		{"remote_sfence_vma", 0x52464e43, 1, []uint64{1, 0, 0, all}, ok, 0, ""},
		{"remote_sfence_vma_asid", 0x52464e43, 2, []uint64{0, all, 0x1000, 0x1000, 7}, ok, 0, ""},
		{"remote_sfence_vma of hart 1", 0x52464e43, 1, []uint64{2, 0, 0, all}, invalid, 0, ""},
		{"remote_hfence_gvma", 0x52464e43, 4, []uint64{1, 0}, notSupported, 0, ""},

		{"hart_start 0", 0x48534d, 0, []uint64{0, 0x80000000, 1}, already, 0, ""},
		{"hart_start 1", 0x48534d, 0, []uint64{1, 0x80000000, 1}, invalid, 0, ""},
		{"hart_stop", 0x48534d, 1, nil, ok, 0, "shutdown, no reason"},
		{"hart_get_status 0", 0x48534d, 2, []uint64{0}, ok, 0, ""},
		{"hart_get_status 1", 0x48534d, 2, []uint64{1}, invalid, 0, ""},
		{"hart_suspend", 0x48534d, 3, []uint64{0}, notSupported, 0, ""},

		{"shutdown", 0x53525354, 0, []uint64{0, 0}, ok, 0, "shutdown, no reason"},
		{"cold reboot", 0x53525354, 0, []uint64{1, 0}, ok, 0, "cold reboot, no reason"},
		{"warm reboot after a panic", 0x53525354, 0, []uint64{2, 1}, ok, 0, "warm reboot, system failure"},
		{"reserved type", 0x53525354, 0, []uint64{3, 0}, invalid, 0, ""},
		{"reserved reason", 0x53525354, 0, []uint64{0, 2}, invalid, 0, ""},
		{"vendor's type", 0x53525354, 0, []uint64{0xf000_0000, 0}, invalid, 0, ""},
		{"type of more than 32 bits", 0x53525354, 0, []uint64{1 << 32, 0}, invalid, 0, ""},
		{"SRST, unknown function", 0x53525354, 1, nil, notSupported, 0, ""},

		{"legacy set_timer", 0, 99, []uint64{5}, ok, untouched, "timer 5"},
		{"legacy putchar", 1, 99, []uint64{'x'}, ok, untouched, `console "x"`},
		{"legacy getchar, nothing typed", 2, 0, nil, -1, untouched, ""},
		{"legacy clear_ipi", 3, 0, nil, ok, untouched, "ssip false"},
		{"legacy send_ipi", 4, 0, []uint64{0x80000000}, notSupported, untouched, ""},
		{"legacy remote_fence_i", 5, 0, []uint64{0x80000000}, notSupported, untouched, ""},
		{"legacy shutdown", 8, 0, nil, ok, untouched, "shutdown, no reason"},

		{"PMU", 0x504d55, 0, nil, notSupported, 0, ""},
		{"SUSP", 0x53555350, 0, nil, notSupported, 0, ""},
		{"CPPC", 0x43505043, 0, nil, notSupported, 0, ""},
		{"NACL", 0x4e41434c, 0, nil, notSupported, 0, ""},
		{"STA", 0x535441, 0, nil, notSupported, 0, ""},
		{"reserved", 0x09, 0, nil, notSupported, 0, ""},
		{"experimental", 0x0800_0000, 0, nil, notSupported, 0, ""},
		{"negative", all, all, nil, notSupported, 0, ""},
	} {
		m := newFakeMachine()
		err, value := m.call(c.eid, c.fid, c.args...)
		if err != c.err || value != c.value || strings.Join(m.log, "; ") != c.log {
			t.Errorf("%s: error %d, value %#x, effects %q; want %d, %#x, %q", c.what, err, value, m.log, c.err, c.value, c.log)
		}
	}
}

func TestDebugConsoleWrites(t *testing.T) {
	m := newFakeMachine()
	end := RAMBase + uint64(len(m.ram))
	copy(m.ram[len(m.ram)-5:], "hello")
	for _, c := range []struct {
		n, lo, hi uint64
		err       int64
		value     uint64
		log       []string
	}{
		{5, end - 5, 0, 0, 5, []string{`console "hello"`}},
		{0, end - 5, 0, 0, 0, nil},
		{0, 0, 0, 0, 0, nil},
		{6, end - 5, 0, -3, 0, nil},             // one byte too far
		{5, end - 5, 1, -3, 0, nil},             // above 64 bits
		{1, end, 0, -3, 0, nil},                 // behind
		{5, RAMBase - 1, 0, -3, 0, nil},         // in front
		{5, UARTBase, 0, -3, 0, nil},            // a device
		{16, all - 7, 0, -3, 0, nil},            // wraps
		{all, RAMBase, 0, -3, 0, nil},           // wraps
		{1 << 40, RAMBase, 0, -3, 0, nil},       // begins well
		{8192, RAMBase - 4096, 0, -3, 0, nil},   // ends well
		{all - RAMBase, RAMBase, 0, -3, 0, nil}, // to the end of all addresses
	} {
		err, value := m.call(0x4442434e, 0, c.n, c.lo, c.hi)
		if err != c.err || value != c.value || !reflect.DeepEqual(m.log, c.log) {
			t.Errorf("write %d at %#x:%x: %d, %d, %q; want %+v", c.n, c.hi, c.lo, err, value, m.log, c)
		}
	}
	if err, value := m.call(0x4442434e, 0, uint64(len(m.ram)), RAMBase, 0); err != 0 || value == 0 || value > uint64(len(m.ram)) {
		t.Errorf("a long write: %d, %d", err, value)
	}
	m.call(0x4442434e, 2, 0x141)
	if want := []string{`console "A"`}; !reflect.DeepEqual(m.log, want) {
		t.Errorf("write_byte: %q", m.log)
	}
	if err, _ := m.call(0x4442434e, 3); err != -2 {
		t.Errorf("unknown function: %d", err)
	}
}

func TestDebugConsoleReads(t *testing.T) {
	m := newFakeMachine()
	m.typed = []byte("ls\n")
	if err, n := m.call(0x4442434e, 1, 16, RAMBase+100, 0); err != 0 || n != 3 || string(m.ram[100:104]) != "ls\n\x00" {
		t.Errorf("read: %d, %d, %q", err, n, m.ram[100:104])
	}
	if err, n := m.call(0x4442434e, 1, 16, RAMBase+100, 0); err != 0 || n != 0 {
		t.Errorf("read of nothing: %d, %d", err, n)
	}
	m.typed = []byte("abcdef")
	if err, _ := m.call(0x4442434e, 1, 4, RAMBase-2, 0); err != -3 || len(m.typed) != 6 {
		t.Errorf("read outside memory: %d, and %q is left", err, m.typed)
	}
	if err, n := m.call(0x4442434e, 1, 4, RAMBase, 0); err != 0 || n != 4 || string(m.typed) != "ef" {
		t.Errorf("read of less than there is: %d, %d, and %q is left", err, n, m.typed)
	}
	if a0, a1 := m.call(2, 0); a0 != 'e' || a1 != 0xdead_0001 {
		t.Errorf("legacy getchar: %d, %#x", a0, a1)
	}
}

func TestCallsAllocateNothing(t *testing.T) {
	m := &silentMachine{}
	s := NewSBI(m)
	m.regs[10], m.regs[11], m.regs[17] = 5, RAMBase, 0x4442434e
	if n := testing.AllocsPerRun(100, func() { m.regs[10] = 5; s.Call() }); n != 0 {
		t.Errorf("%v allocations a call", n)
	}
}

type silentMachine struct{ regs [32]uint64 }

func (m *silentMachine) Reg(i int) uint64             { return m.regs[i] }
func (m *silentMachine) SetReg(i int, v uint64)       { m.regs[i] = v }
func (m *silentMachine) ReadRAM(uint64, []byte) bool  { return true }
func (m *silentMachine) WriteRAM(uint64, []byte) bool { return true }
func (m *silentMachine) SetTimer(uint64)              {}
func (m *silentMachine) SetSoftwareInterrupt(bool)    {}
func (m *silentMachine) ConsoleWrite([]byte)          {}
func (m *silentMachine) ConsoleRead([]byte) int       { return 0 }
func (m *silentMachine) Reset(ResetType, ResetReason) {}

// FuzzCalls: whatever is in the registers, only a0 and a1 change, and never by a panic.
func FuzzCalls(f *testing.F) {
	f.Add(uint64(0x4442434e), uint64(0), uint64(5), uint64(RAMBase), uint64(0))
	f.Fuzz(func(t *testing.T, eid, fid, a0, a1, a2 uint64) {
		m := newFakeMachine()
		m.typed = []byte("typed")
		m.call(eid, fid, a0, a1, a2)
		for _, l := range m.log {
			if strings.Contains(l, "changed") {
				t.Error(l)
			}
		}
	})
}
