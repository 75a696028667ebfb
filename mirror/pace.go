package mirror

import (
	"time"

	"ft/drivers"
)

// Background work (resync, repair after a crash, scrub) gives way to applications. How
// far is the priority, which an admin may change while the work goes on.

const (
	copyChunk    = 1 << 20 // bytes a copy or comparison moves at most
	copiesIdle   = 8       // under way at once while applications are quiet
	copiesLow    = 2       // the same at low priority
	copiesBusy   = 1       // while applications are not quiet
	appQuiet     = 20 * time.Millisecond
	busyDutyRest = 2 // under load a piece is followed by a rest of this many times its length
)

// Priority says how much background work may take from applications.
type Priority string

// The priorities. Low: under load no more than the least rate, and otherwise a little
// at a time. High: as if there were no load.
const (
	PriorityLow    Priority = "low"
	PriorityNormal Priority = "normal"
	PriorityHigh   Priority = "high"
)

func (p Priority) String() string {
	if p == "" {
		return string(PriorityNormal)
	}
	return string(p)
}

// pacer holds background work to its rates. One is enough: a resync and a scrub never
// run at the same time.
type pacer struct {
	priority  Priority // "" is normal
	tokens    float64  // bytes that may be moved at once under a rate
	tokensAt  int64
	restUntil int64 // under load
}

// SetPriority changes the pace of what is under way and of what comes.
func (e *Engine) SetPriority(p Priority) error {
	switch p {
	case PriorityLow, PriorityNormal, PriorityHigh:
	default:
		return drivers.Refuse(drivers.RuleState, "%q is no priority of %s (low, normal, high)", string(p), e.name)
	}
	e.pace.priority = p
	e.pace.restUntil = 0
	e.scrubSave()
	e.run()
	return nil
}

// appBusy says whether applications use the face.
func (e *Engine) appBusy(now int64) bool {
	return e.pace.priority != PriorityHigh && (e.active > 0 || now-e.lastApp < int64(appQuiet))
}

// copiesAllowed is the pace: everything while applications are quiet, a copy now and
// then while they are not, and never less than the configured least rate.
func (e *Engine) copiesAllowed(now int64) int {
	p := &e.pace
	busy := e.appBusy(now)
	dt := float64(now-p.tokensAt) / 1e9
	p.tokensAt = now
	limit := float64(e.opt.ResyncRateMax)
	if busy && (limit == 0 || float64(e.opt.ResyncRateMin) < limit) {
		limit = float64(e.opt.ResyncRateMin)
	}
	if limit > 0 {
		p.tokens = min(p.tokens+dt*limit, copyChunk)
	}
	switch {
	case busy && p.tokens > 0: // behind the least rate
		return copiesBusy
	case busy && p.priority != PriorityLow && now >= p.restUntil && (e.opt.ResyncRateMax == 0 || p.tokens > 0):
		return copiesBusy
	case busy:
		return 0
	case e.opt.ResyncRateMax > 0 && p.tokens <= 0:
		return 0
	case p.priority == PriorityLow:
		return copiesLow
	}
	return copiesIdle
}

// rest lets applications have the legs for a while after a piece of work that began then.
func (e *Engine) rest(begun int64) {
	if e.active > 0 {
		now := e.env.Now()
		e.pace.restUntil = now + busyDutyRest*(now-begun)
	}
}

// rateMeter smooths how fast work goes.
type rateMeter struct {
	rate float64 // bytes a second
	at   int64
	done int64
}

// measure takes in how much is done by now. Call it with each tick.
func (m *rateMeter) measure(now, done int64) {
	dt := now - m.at
	if dt < int64(rateWindow)/4 {
		return
	}
	x := float64(done-m.done) * 1e9 / float64(dt)
	if m.rate == 0 {
		m.rate = x
	} else {
		m.rate += (x - m.rate) * min(1, float64(dt)/float64(rateWindow)/2)
	}
	m.at, m.done = now, done
}

// progressOf says how far work is, for people.
func progressOf(what string, left, total int64, rate float64) *drivers.Progress {
	p := &drivers.Progress{What: what, DoneBytes: total - left, TotalBytes: total, RateBytes: int64(rate), Percent: 100, ETASeconds: -1}
	if total > 0 {
		p.Percent = 100 * float64(total-left) / float64(total)
	}
	switch {
	case left == 0:
		p.ETASeconds = 0
	case rate > 0:
		p.ETASeconds = float64(left) / rate
	}
	return p
}
