package module

import "math"

// The goldfish real-time clock (QEMU, hw/rtc/goldfish_rtc.c; Linux, drivers/rtc/
// rtc-goldfish.c): nanoseconds since 1970 in two registers, and an alarm.
//
// Invariant: wall time is guest time plus an offset, which is state. The offset changes only
// by inputs (SetWall) and by the guest's own writes; nothing here reads a clock.

const (
	rtcTimeLow        = 0x00
	rtcTimeHigh       = 0x04
	rtcAlarmLow       = 0x08
	rtcAlarmHigh      = 0x0c
	rtcIRQEnabled     = 0x10
	rtcClearAlarm     = 0x14
	rtcAlarmStatus    = 0x18
	rtcClearInterrupt = 0x1c
	rtcEnd            = 0x1000

	low32 = 1<<32 - 1
)

// RTCState is everything that an RTC knows, guest time apart. It is comparable.
type RTCState struct {
	OffsetNS   uint64 // wall time less guest time, modulo 2^64
	AlarmNS    uint64 // wall time
	Armed      bool
	Pending    bool // the alarm went off and was not cleared
	IRQEnabled bool
	High       uint32 // the upper half of the time whose lower half was read last
}

// RTC is the clock of one machine.
type RTC struct {
	state RTCState
	now   func() uint64
	drive func(level bool)
}

// NewRTC returns a clock that begins at 1970. now is guest time in nanoseconds, at the
// present step; drive gets the level of the interrupt line at each access or input that may
// have changed it.
func NewRTC(now func() uint64, drive func(level bool)) *RTC {
	return &RTC{now: now, drive: drive}
}

// State returns a copy of everything that r knows.
func (r *RTC) State() RTCState { return r.state }

// SetState makes r what State returned, and drives the line accordingly.
func (r *RTC) SetState(s RTCState) {
	r.state = s
	r.update()
}

// SetWall is what time it is, an input: nanoseconds since 1970 at the present step.
func (r *RTC) SetWall(ns uint64) {
	r.state.OffsetNS = ns - r.now()
	r.Check()
}

// Due is the guest time, in nanoseconds, from which Check sets off the alarm. ok is false
// where none is armed.
func (r *RTC) Due() (ns uint64, ok bool) {
	wall := r.wall()
	if !r.state.Armed || r.state.AlarmNS <= wall {
		return r.now(), r.state.Armed
	}
	now, left := r.now(), r.state.AlarmNS-wall
	return now + min(left, math.MaxUint64-now), true // an alarm may be set to after the end of time
}

// Check sets off the alarm if its time has come. The machine calls it at steps that are the
// same in every run, Due's among them; each access does too.
func (r *RTC) Check() {
	if r.state.Armed && r.wall() >= r.state.AlarmNS {
		r.state.Armed, r.state.Pending = false, true
	}
	r.update()
}

func (r *RTC) wall() uint64 { return r.now() + r.state.OffsetNS }
func (r *RTC) update()      { r.drive(r.state.Pending && r.state.IRQEnabled) }

// Load reads a register. Reading the lower half of the time keeps the upper one for the next
// read, so that the two fit together.
func (r *RTC) Load(offset uint64, size int) (uint64, bool) {
	if size != 4 || offset%4 != 0 || offset >= rtcEnd {
		return 0, false
	}
	r.Check()
	s := &r.state
	switch offset {
	case rtcTimeLow:
		t := r.wall()
		s.High = uint32(t >> 32)
		return t & low32, true
	case rtcTimeHigh:
		return uint64(s.High), true
	case rtcAlarmLow:
		return s.AlarmNS & low32, true
	case rtcAlarmHigh:
		return s.AlarmNS >> 32, true
	case rtcIRQEnabled:
		return one(s.IRQEnabled), true
	case rtcAlarmStatus:
		return one(s.Armed), true
	}
	return 0, true
}

func one(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// Store writes a register. Writing the alarm's lower half arms it, so the upper one goes
// first.
func (r *RTC) Store(offset uint64, size int, v uint64) bool {
	if size != 4 || offset%4 != 0 || offset >= rtcEnd {
		return false
	}
	v &= low32
	s := &r.state
	switch offset {
	case rtcTimeLow:
		t := r.wall()
		s.OffsetNS += (t&^low32 | v) - t
	case rtcTimeHigh:
		t := r.wall()
		s.OffsetNS += (t&low32 | v<<32) - t
	case rtcAlarmLow:
		s.AlarmNS = s.AlarmNS&^low32 | v
		s.Armed = true
	case rtcAlarmHigh:
		s.AlarmNS = s.AlarmNS&low32 | v<<32
	case rtcIRQEnabled:
		s.IRQEnabled = v&1 != 0
	case rtcClearAlarm:
		s.Armed = false
	case rtcClearInterrupt:
		s.Pending = false
	}
	r.Check()
	return true
}
