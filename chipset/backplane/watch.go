package backplane

import (
	"fmt"
	"time"

	"ft/chipset/port"
)

// A module that owes something is looked at every tick. One that has delivered nothing
// since the look before is looked at from outside:
//
//	stopped  its thread is stopped: at once, so two ticks after it stopped at the latest
//	late     its process has used LateCPU of processor time and delivered nothing
//	hung     its thread has slept for Hung
//	starved  it has wanted a core, and got none, for Starved: counts as hung. A thread that
//	         sleeps while another of its process wants one waits for that one
//
// The time that it waits for a core is nobody's fault but the host's, so no clock on the wall
// says that a module is late. Time is added up by ticks, each at most twice its length, so
// that a chipset that was stopped itself blames nobody.
const (
	tick       = 9 * time.Millisecond
	beatEvery  = 5 * time.Second
	ticksMax   = 2 // of one look
	cpuRunning = tick / 10
)

// progress is what a module has delivered.
type progress struct {
	done, records uint64 // commands executed, records sent, by its own word
	answered      uint64 // answers received
}

// sample is a module as it is seen from outside.
type sample struct {
	state byte          // of its thread: R, S, D, T, t …; 0 unknown
	cpu   time.Duration // of its process, so far
	slow  bool          // what it does now may take long
}

// vigil is what was seen of a module since it last delivered. It is a pure value.
type vigil struct {
	limits  Limits
	begun   bool          // there was a look since then
	slow    bool          // at any of them: its answer may have come since the module was asked how far it is
	cpu     time.Duration // at the first look, and at the last one
	lastCPU time.Duration
	asleep  time.Duration // without a break, up to the last look
	starved time.Duration
}

// delivered begins anew.
func (v *vigil) delivered() { v.begun, v.slow, v.asleep, v.starved = false, false, 0, 0 }

// look judges a module that owes something and has not delivered since the look before, which
// was so long ago.
func (v *vigil) look(s sample, passed time.Duration) (why Why, text string) {
	if s.state == 'T' || s.state == 't' {
		return Stopped, fmt.Sprintf("is stopped (state %c)", s.state)
	}
	v.slow = v.slow || s.slow
	if !v.begun {
		v.begun, v.cpu, v.lastCPU = true, s.cpu, s.cpu
		return 0, ""
	}
	passed = min(passed, ticksMax*tick)
	used := s.cpu - v.lastCPU
	v.lastCPU = s.cpu
	limit := v.limits.LateCPU
	if v.slow {
		limit = v.limits.SlowCPU
	}
	if total := s.cpu - v.cpu; total > limit {
		return Late, fmt.Sprintf("has used %v of processor time and answered nothing", total.Round(time.Millisecond))
	}
	switch {
	case s.state == 'S' || s.state == 'D':
		v.starved = 0
		if v.asleep += passed; v.asleep >= v.limits.Hung {
			return Hung, fmt.Sprintf("has slept over a command for %v (state %c)", v.asleep.Round(time.Millisecond), s.state)
		}
	case used < cpuRunning:
		v.asleep = 0
		if v.starved += passed; v.starved >= v.limits.Starved {
			return Hung, fmt.Sprintf("has got no core for %v", v.starved.Round(time.Second))
		}
	default:
		v.asleep, v.starved = 0, 0
	}
	return 0, ""
}

// owes says whether the module has to deliver something.
func (m *Module) owes(p port.Progress) bool {
	return p.Done != p.Sent || int64(m.asked.Load()-m.answered.Load()) > 0
}

// watch is the watcher. It costs a wake-up every beatEvery while the module owes nothing.
func (m *Module) watch() {
	defer m.watching.Done()
	o := observer{m: m, vigil: vigil{limits: m.limits}, stat: stat{-1}}
	defer func() { o.stat.close() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	beat := time.Now()
	for {
		if m.owes(m.port.Progress()) {
			timer.Reset(tick)
		} else {
			o.vigil.delivered()
			m.idle.Store(true)
			if m.owes(m.port.Progress()) { // sent while it was not seen to be idle
				timer.Reset(tick)
			} else {
				timer.Reset(beatEvery)
			}
		}
		select {
		case <-m.quit:
			return
		case <-m.proc.ended:
			return
		case <-m.poke:
		case <-timer.C:
		}
		m.idle.Store(false)
		now := time.Now()
		if now.Sub(beat) >= beatEvery {
			m.port.Beat()
			beat = now
		}
		o.observe(now)
	}
}

// observer looks at a module's process.
type observer struct {
	m      *Module
	vigil  vigil
	last   progress
	looked time.Time
	thread int
	stat   stat
}

func (o *observer) observe(now time.Time) {
	m, passed := o.m, now.Sub(o.looked)
	o.looked = now
	p := m.port.Progress()
	is := progress{done: p.Done, records: p.Records, answered: m.answered.Load()}
	judged, behind := m.judged()
	if p.Unread && !behind { // it was in no hurry to tell, or is not in its right mind
		m.port.Nudge()
	}
	if !m.owes(p) || is != o.last || behind {
		o.last = is
		o.vigil.delivered()
		return
	}
	if !judged {
		return
	}
	if o.stat.fd < 0 || o.thread != p.Thread {
		o.stat.close()
		o.thread, o.stat = p.Thread, m.proc.openStat(p.Thread)
	}
	s := sample{state: o.stat.state(), slow: p.Done == 0 || int64(m.slowAsked.Load()-m.slowDone.Load()) > 0}
	s.cpu, _ = m.proc.cpuTime()
	if s.state == 'S' && o.vigil.asleep > m.limits.Hung/4 && m.proc.wantsCore() {
		s.state = 'R'
	}
	if why, text := o.vigil.look(s, passed); why != 0 {
		m.report(Gone{Why: why, Text: m.says(text)})
	}
}

// judged says whether there is still something to find out about the module, and whether the
// chipset is behind in taking what it has sent.
func (m *Module) judged() (judged, behind bool) {
	m.inbox.mu.Lock()
	defer m.inbox.mu.Unlock()
	return !m.fenced && !m.gone, m.blocked
}
