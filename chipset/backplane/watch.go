package backplane

import (
	"fmt"
	"time"

	"ft/chipset/port"
)

// A module that owes something and does not deliver is looked at every tick:
//
//	stopped  its thread is stopped: at once
//	late     its process has used LateCPU of processor time since it last delivered
//	hung     its thread has slept for Hung since then
//	starved  it has wanted a core, and got none, for Starved: counts as hung
//
// The time that it waits for a core is nobody's fault but the host's, so no clock on the wall
// says that a module is late. Time is added up by ticks, each at most twice its length, so
// that a chipset that was stopped itself blames nobody.
const (
	tick       = 10 * time.Millisecond
	beatEvery  = 5 * time.Second
	ticksMax   = 2 // of one look
	cpuRunning = tick / 10
)

// sample is a module as it was seen at one look.
type sample struct {
	done, records uint64        // commands executed, records sent, by its own word
	answered      uint64        // answers received
	unread        bool          // the chipset is behind: there are records to be taken
	slow          bool          // what it does now may take long
	cpu           time.Duration // of its process, so far
	state         byte          // of its thread: R, S, D, T, t …; 0 unknown
}

// vigil is what is known of a module since it last delivered. It is a pure value.
type vigil struct {
	limits  Limits
	begun   bool
	last    sample
	cpu     time.Duration // at its last sign of work
	asleep  time.Duration
	starved time.Duration
}

// look judges a module that owes something, passed after the look before.
func (v *vigil) look(s sample, passed time.Duration) (why Why, text string) {
	last := v.last
	v.last = s
	if s.state == 'T' || s.state == 't' {
		return Stopped, fmt.Sprintf("is stopped (state %c)", s.state)
	}
	if !v.begun || s.done != last.done || s.records != last.records || s.answered != last.answered || s.unread {
		v.begun, v.cpu, v.asleep, v.starved = true, s.cpu, 0, 0
		return 0, ""
	}
	passed = min(passed, ticksMax*tick)
	limit := v.limits.LateCPU
	if s.slow {
		limit = v.limits.SlowCPU
	}
	switch {
	case s.cpu-v.cpu > limit:
		return Late, fmt.Sprintf("has used %v of processor time since it last answered", (s.cpu - v.cpu).Round(time.Millisecond))
	case s.state == 'S' || s.state == 'D':
		v.starved = 0
		if v.asleep += passed; v.asleep >= v.limits.Hung {
			return Hung, fmt.Sprintf("has slept over a command for %v (state %c)", v.asleep, s.state)
		}
	case s.cpu-last.cpu < cpuRunning:
		v.asleep = 0
		if v.starved += passed; v.starved >= v.limits.Starved {
			return Hung, fmt.Sprintf("has got no core for %v", v.starved)
		}
	default:
		v.asleep, v.starved = 0, 0
	}
	return 0, ""
}

// rest ends a vigil: the module owes nothing.
func (v *vigil) rest() { v.begun = false }

// owes says whether the module has to deliver something.
func (m *Module) owes(p port.Progress) bool {
	return p.Done != p.Sent || int64(m.asked.Load()-m.answered.Load()) > 0
}

// watch is the watcher. It costs a wake-up every beatEvery while the module owes nothing.
func (m *Module) watch() {
	defer m.watching.Done()
	v := vigil{limits: m.limits}
	thread, st := 0, stat{-1}
	defer func() { st.close() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	beat, looked := time.Now(), time.Now()
	for {
		p := m.port.Progress()
		if m.owes(p) {
			timer.Reset(tick)
		} else {
			v.rest()
			m.idle.Store(true)
			if p = m.port.Progress(); m.owes(p) { // sent while it was not seen to be idle
				m.idle.Store(false)
				continue
			}
			timer.Reset(beatEvery)
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
		passed := now.Sub(looked)
		looked = now
		if p = m.port.Progress(); !m.owes(p) || !m.judged() {
			continue
		}
		if st.fd < 0 || thread != p.Thread {
			st.close()
			thread = p.Thread
			st = m.proc.openStat(thread)
		}
		s := sample{done: p.Done, records: p.Records, answered: m.answered.Load(), unread: p.Unread,
			slow: p.Done == 0 || int64(m.slowAsked.Load()-m.slowDone.Load()) > 0, state: st.state()}
		s.cpu, _ = m.proc.cpuTime()
		if why, text := v.look(s, passed); why != 0 {
			m.report(Gone{Why: why, Text: fmt.Sprintf("%s: process %d %s", m.side, m.proc.pid, text)})
		}
	}
}

// judged says whether there is still something to find out about the module.
func (m *Module) judged() bool {
	m.inbox.mu.Lock()
	defer m.inbox.mu.Unlock()
	return !m.fenced && !m.gone
}
