package keeper

import "time"

// restarts decides what follows a death: MINIX's reincarnation server, with a limit.
// It is pure: it reads no clock and does nothing.
//
// A process that had been ready for HealthyTime is restarted at once and its past is
// forgotten. A death before that is early: the next start waits, longer each time, and
// EarlyMax early deaths in a row end the attempts until a person resets them. So a
// driver that is killed once an hour is always back at once, and one that cannot work
// neither spins nor is tried for ever.
type restarts struct {
	healthyTime time.Duration
	delays      []time.Duration // after the first, second … early death; the last one stays
	earlyMax    int

	early   int       // early deaths in a row
	readyAt time.Time // when the present start said READY; zero before
}

// verdict is what follows a death.
type verdict struct {
	delay  time.Duration
	failed bool
}

// started begins a new start.
func (r *restarts) started() { r.readyAt = time.Time{} }

// ready says that the process serves.
func (r *restarts) ready(now time.Time) {
	if r.readyAt.IsZero() {
		r.readyAt = now
	}
}

// died judges a death.
func (r *restarts) died(now time.Time) verdict {
	healthy := !r.readyAt.IsZero() && now.Sub(r.readyAt) >= r.healthyTime
	r.readyAt = time.Time{}
	if healthy {
		r.early = 0
		return verdict{}
	}
	r.early++
	if r.early >= r.earlyMax {
		return verdict{failed: true}
	}
	return verdict{delay: r.delays[min(r.early, len(r.delays))-1]}
}

// reset forgets the past.
func (r *restarts) reset() { r.early = 0 }
