package chipset

import (
	"time"

	"ft/chipset/module"
)

// clock grants guest time. The guest's clock is to keep wall time from the moment that the
// machine was switched on, never go back, and run evenly enough in between that a guest
// which measures short times is not misled: so each quantum is granted a base, the wall
// time, and a rate, what the hart has lately managed a second.
//
// The rate is granted rather too low, and the speed believed rather too high: a guest that
// is behind is put right by the next base, one that is ahead can only be made slower until
// the wall has caught up.
type clock struct {
	began time.Time // with its monotonic part; guest time 0
	speed float64   // steps a second while running: up at once, down slowly
}

const (
	speedFirst  = 100e6 // until it has been measured
	speedMin    = 1e6
	speedMax    = 1e12
	speedWeight = 1.0 / 32 // of the newest quantum, when it was a slower one
	rateLow     = 0.98
)

func newClock() clock { return clock{began: time.Now(), speed: speedFirst} }

// ticks is the wall's time on the guest's scale.
func (c *clock) ticks(now time.Time) uint64 {
	return uint64(now.Sub(c.began).Nanoseconds()) / (1_000_000_000 / module.TimebaseHz)
}

// when is the wall time of a guest time.
func (c *clock) when(ticks uint64) time.Time {
	const most = 1 << 55 // ticks; a century, far beyond which a Duration ends
	return c.began.Add(time.Duration(min(ticks, most) * (1_000_000_000 / module.TimebaseHz)))
}

// ran takes note of steps that were run without a wait.
func (c *clock) ran(steps uint64, took time.Duration) {
	if steps < 1000 || took <= 0 {
		return // too short to say anything
	}
	now := float64(steps) / took.Seconds()
	c.speed = min(max(now, c.speed+(now-c.speed)*speedWeight, speedMin), speedMax)
}

// grant is the input that sets guest time for a quantum that begins behind so many steps that
// are under way. Where the guest will be then is not known: a module that is beyond the base
// takes its own time for it, and half the rate.
func (c *clock) grant(now time.Time, ahead uint64) module.Input {
	const num = module.TimebaseHz / 1000
	den := uint32(c.speed / 1000 / rateLow)
	base := c.ticks(now) + ahead*num/uint64(den)
	return module.Input{Kind: module.InputTime, Status: module.AtLeast, Base: base, Num: num, Den: den}
}
