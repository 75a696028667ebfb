package module

import "testing"

type testRTC struct {
	*RTC
	t    *testing.T
	now  uint64
	line bool
}

func newTestRTC(t *testing.T) *testRTC {
	r := &testRTC{t: t}
	r.RTC = NewRTC(func() uint64 { return r.now }, func(level bool) { r.line = level })
	return r
}

func (r *testRTC) get(offset uint64) uint64 {
	r.t.Helper()
	v, ok := r.Load(offset, 4)
	if !ok || v>>32 != 0 {
		r.t.Fatalf("load at %#x: %#x, %v", offset, v, ok)
	}
	return v
}

func (r *testRTC) set(offset, v uint64) {
	r.t.Helper()
	if !r.Store(offset, 4, v) {
		r.t.Fatalf("store at %#x failed", offset)
	}
}

const someTime = 1_767_323_045_999_999_999 // 2026

func TestRTCIsGuestTimeAndAnOffset(t *testing.T) {
	r := newTestRTC(t)
	r.now = 500
	r.SetWall(someTime)
	for _, passed := range []uint64{0, 1, 3_000_000_000, 1 << 40} {
		r.now = 500 + passed
		low := r.get(0)
		r.now += 10_000_000_000 // the upper half fits the lower one all the same
		if got := r.get(4)<<32 | low; got != someTime+passed {
			t.Errorf("after %d ns it is %d", passed, got)
		}
	}
}

func TestRTCIsSet(t *testing.T) {
	r := newTestRTC(t)
	r.now = 12345
	r.set(4, someTime>>32)
	r.set(0, someTime&0xffff_ffff)
	r.now += 77
	if low := r.get(0); r.get(4)<<32|low != someTime+77 {
		t.Errorf("it is %d", r.get(4)<<32|low)
	}
}

func TestRTCAlarm(t *testing.T) {
	r := newTestRTC(t)
	r.now = 1000
	r.SetWall(someTime)
	if _, ok := r.Due(); ok {
		t.Error("an alarm that nobody set is due")
	}
	alarm := uint64(someTime + 5000)
	r.set(0x0c, alarm>>32)
	r.set(0x10, 1)
	r.set(0x08, alarm&0xffff_ffff)
	if at, ok := r.Due(); !ok || at != 6000 || r.get(0x18) != 1 {
		t.Errorf("due at %d, %v", at, ok)
	}
	if r.get(0x0c)<<32|r.get(0x08) != alarm {
		t.Error("the alarm does not read back")
	}
	r.now = 5999
	if r.Check(); r.line {
		t.Error("too early")
	}
	r.now = 6000
	if r.Check(); !r.line || r.get(0x18) != 0 {
		t.Error("not in time")
	}
	r.set(0x10, 0)
	if r.line {
		t.Error("the line is high while switched off")
	}
	r.set(0x10, 1)
	r.set(0x1c, 1)
	if r.line {
		t.Error("cleared, and still high")
	}
	r.set(0x08, 0) // long ago
	if !r.line {
		t.Error("an alarm of the past does not go off at once")
	}
	r.set(0x1c, 1)
	r.set(0x0c, alarm>>32+1)
	r.set(0x08, 0)
	r.set(0x14, 1)
	if _, ok := r.Due(); ok || r.get(0x18) != 0 {
		t.Error("not cleared")
	}
}

func TestRTCAlarmFollowsTheClock(t *testing.T) {
	r := newTestRTC(t)
	r.set(0x10, 1)
	r.set(0x0c, someTime>>32)
	r.set(0x08, someTime&0xffff_ffff)
	if r.line {
		t.Fatal("too early")
	}
	r.SetWall(someTime + 1)
	if !r.line {
		t.Error("the clock was set past the alarm, which did not go off")
	}
}

func TestRTCRegisters(t *testing.T) {
	r := newTestRTC(t)
	for offset := uint64(0x20); offset < 0x1000; offset += 4 {
		r.set(offset, 1)
		if r.get(offset) != 0 {
			t.Errorf("a register at %#x", offset)
		}
	}
	for _, c := range []struct {
		offset uint64
		size   int
	}{{0, 1}, {0, 8}, {2, 4}, {0x1000, 4}} {
		if _, ok := r.Load(c.offset, c.size); ok || r.Store(c.offset, c.size, 0) {
			t.Errorf("an access of %d at %#x", c.size, c.offset)
		}
	}
}

func TestRTCStateIsAllOfIt(t *testing.T) {
	random := deviceRand(t)
	a, b := newTestRTC(t), newTestRTC(t)
	for step := range 20_000 {
		if random.IntN(20) == 0 {
			b = newTestRTC(t)
			b.now = a.now
			b.SetState(a.State())
		}
		offset, v := uint64(random.IntN(9))*4, random.Uint64()>>random.IntN(64)
		passed, kind := random.Uint64()>>(20+random.IntN(40)), random.IntN(4)
		for _, r := range []*testRTC{a, b} {
			r.now += passed
			switch kind {
			case 0:
				r.Store(offset, 4, v)
			case 1:
				r.SetWall(v)
			case 2:
				r.Check()
			}
		}
		if va, vb := a.get(offset), b.get(offset); va != vb || a.line != b.line || a.State() != b.State() {
			t.Fatalf("step %d: %#x and %#x, lines %v and %v", step, va, vb, a.line, b.line)
		}
		if at, ok := a.Due(); ok && at < a.now {
			t.Fatalf("step %d: due at %d, it is %d", step, at, a.now)
		}
	}
}
