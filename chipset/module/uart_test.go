package module

import (
	"bytes"
	"strings"
	"testing"
)

type testUART struct {
	*UART
	t    *testing.T
	sent bytes.Buffer
	line bool
}

func newTestUART(t *testing.T) *testUART {
	u := &testUART{t: t}
	u.UART = NewUART(func(b byte) { u.sent.WriteByte(b) }, func(level bool) { u.line = level })
	return u
}

func (u *testUART) get(register uint64) uint8 {
	u.t.Helper()
	v, ok := u.Load(register, 1)
	if !ok || v>>8 != 0 {
		u.t.Fatalf("load of register %d: %#x, %v", register, v, ok)
	}
	return uint8(v)
}

func (u *testUART) set(register uint64, v uint8) {
	u.t.Helper()
	if !u.Store(register, 1, uint64(v)) {
		u.t.Fatalf("store to register %d failed", register)
	}
}

func (u *testUART) expect(what string, line bool, iir uint8) {
	u.t.Helper()
	if u.line != line {
		u.t.Errorf("%s: the line is %v", what, u.line)
	}
	if got := u.get(2); got != iir {
		u.t.Errorf("%s: IIR is %#02x, want %#02x", what, got, iir)
	}
}

func TestUARTSends(t *testing.T) {
	u := newTestUART(t)
	for _, b := range []byte("hello\n") {
		if lsr := u.get(5); lsr != 0x60 {
			t.Fatalf("LSR %#x", lsr)
		}
		u.set(0, b)
	}
	if u.sent.String() != "hello\n" || u.line {
		t.Errorf("sent %q, line %v", u.sent.String(), u.line)
	}
}

func TestUARTTransmitterInterrupts(t *testing.T) {
	u := newTestUART(t)
	u.set(2, 0x01)
	u.expect("reset", false, 0xc1)
	u.set(1, 0x02)
	u.expect("switched on while empty", true, 0xc2)
	u.expect("seen", false, 0xc1)
	u.set(1, 0x00)
	u.set(1, 0x02)
	u.expect("switched off and on (what Linux's test for UART_BUG_THRE does)", true, 0xc2)
	u.set(1, 0x02)
	u.expect("switched on again", false, 0xc1)
	u.set(0, 'x')
	u.expect("sent", true, 0xc2)
	u.set(0, 'y')
	u.set(1, 0)
	u.expect("switched off", false, 0xc1)
}

func TestUARTReceives(t *testing.T) {
	u := newTestUART(t)
	u.set(2, 0x81) // FIFOs, trigger at 8
	u.set(1, 0x01)
	if n := u.Receive([]byte("abc")); n != 3 {
		t.Errorf("took %d", n)
	}
	u.expect("fewer than the trigger", true, 0xcc)
	u.Receive([]byte("defgh"))
	u.expect("the trigger", true, 0xc4)
	for _, want := range []byte("abcdefgh") {
		if u.get(5) != 0x61 {
			t.Error("no data ready")
		}
		if got := u.get(0); got != want {
			t.Errorf("received %q, want %q", got, want)
		}
	}
	u.expect("empty", false, 0xc1)
	if u.get(5) != 0x60 || u.get(0) != 0 {
		t.Error("data out of nothing")
	}
}

func TestUARTLosesNothingThatIsTyped(t *testing.T) {
	for _, fcr := range []uint8{0x00, 0x01} {
		u := newTestUART(t)
		u.set(2, fcr)
		text := strings.Repeat("0123456789", 100)
		rest, got := []byte(text), ""
		for len(got) < len(text) {
			room := u.Room()
			n := u.Receive(rest)
			if n < min(room, len(rest)) {
				t.Fatalf("%d bytes of room, %d taken", room, n)
			}
			rest = rest[n:]
			for range 100 {
				if u.get(5)&1 == 0 {
					break
				}
				got += string(rune(u.get(0)))
			}
			if u.get(5)&2 != 0 {
				t.Fatal("overrun")
			}
		}
		if got != text {
			t.Errorf("received %q", got)
		}
	}
}

func TestUARTClearsItsFIFO(t *testing.T) {
	u := newTestUART(t)
	u.set(2, 0x01)
	u.Receive([]byte("0123456789abcdefghij"))
	u.set(2, 0x03)
	if got := u.get(0); got != 'g' {
		t.Errorf("behind 16 cleared bytes comes %q", got)
	}
	u.set(2, 0x00) // FIFOs off: cleared as well
	if u.get(5) != 0x60 || u.get(2) != 0x01 {
		t.Error("not cleared, or FIFOs still shown")
	}
}

func TestUARTLoopsBack(t *testing.T) {
	u := newTestUART(t)
	if got := u.get(6); got != 0xb0 {
		t.Errorf("MSR %#x", got)
	}
	u.set(4, 0x1a) // what Linux's probe writes
	if got := u.get(6); got != 0x90 {
		t.Errorf("looped MSR %#x", got)
	}
	u.Receive([]byte("typed"))
	u.set(1, 0x05)
	u.set(0, 'x')
	u.expect("looped", true, 0x04)
	u.set(0, 'y')
	u.expect("a second byte into a receiver of one", true, 0x06)
	if lsr := u.get(5); lsr != 0x63 {
		t.Errorf("LSR %#x", lsr)
	}
	u.expect("the overrun was read", true, 0x04)
	if got := u.get(0); got != 'x' || u.sent.Len() != 0 {
		t.Errorf("received %q, sent %q", got, u.sent.String())
	}
	u.set(4, 0)
	if got := u.get(0); got != 't' {
		t.Errorf("after the loop comes %q", got)
	}
}

func TestUARTRegisters(t *testing.T) {
	u := newTestUART(t)
	u.set(3, 0x80)
	u.set(0, 0x34)
	u.set(1, 0x12)
	if u.get(0) != 0x34 || u.get(1) != 0x12 || u.sent.Len() != 0 {
		t.Error("the divisor does not stay")
	}
	u.set(3, 0x03)
	if u.get(1) != 0 || u.get(3) != 0x03 {
		t.Error("the divisor shows without DLAB")
	}
	u.set(1, 0xff)
	if got := u.get(1); got != 0x0f {
		t.Errorf("IER %#x", got) // Linux tells an XScale by a bit more
	}
	u.set(7, 0x5a)
	u.set(4, 0xff)
	if u.get(7) != 0x5a || u.get(4) != 0x1f {
		t.Error("SCR or MCR")
	}
	u.set(5, 0xff)
	u.set(6, 0xff)
	if _, ok := u.Load(8, 1); ok || u.Store(8, 1, 0) {
		t.Error("a ninth register")
	}
	if v, ok := u.Load(7, 4); !ok || v != 0x5a {
		t.Errorf("a word of SCR: %#x, %v", v, ok)
	}
}

func TestUARTReadsForTheFirmware(t *testing.T) {
	u := newTestUART(t)
	u.Receive([]byte("typed"))
	p := make([]byte, 3)
	if n := u.Read(p); n != 3 || string(p) != "typ" {
		t.Errorf("%d, %q", n, p)
	}
	if n := u.Read(p); n != 2 || string(p[:2]) != "ed" {
		t.Errorf("%d, %q", n, p)
	}
}

// TestUARTStateIsAllOfIt: a copy goes on as the original does, whatever happens, and states
// are equal exactly when what is visible is.
func TestUARTStateIsAllOfIt(t *testing.T) {
	r := deviceRand(t)
	for range 100 {
		a, b := newTestUART(t), newTestUART(t)
		for step := range 500 {
			if r.IntN(20) == 0 {
				sent := a.sent.String()
				b = newTestUART(t)
				b.SetState(a.State())
				b.sent.WriteString(sent)
			}
			register, v := uint64(r.IntN(9)), uint64(r.Uint32())
			typed := []byte(strings.Repeat("typed", r.IntN(200)))
			kind := r.IntN(5)
			for _, u := range []*testUART{a, b} {
				switch kind {
				case 0, 1:
					u.Store(register, 1, v)
				case 2:
					u.Receive(typed)
				}
			}
			va, oka := a.Load(register, 1)
			vb, okb := b.Load(register, 1)
			if va != vb || oka != okb || a.line != b.line || a.State() != b.State() || a.sent.String() != b.sent.String() {
				t.Fatalf("step %d: %#x and %#x, lines %v and %v\n%+v\n%+v", step, va, vb, a.line, b.line, a.State(), b.State())
			}
			if s := a.State(); a.line != (a.interrupt() != iirNone) || s.FIFOCount > a.depth() ||
				s.WaitingCount > 0 && s.FIFOCount < a.depth() && !a.looped() {
				t.Fatalf("step %d: invariants of %+v", step, s)
			}
		}
	}
}
