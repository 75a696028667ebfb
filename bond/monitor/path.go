package monitor

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Verdict is what is known of the path behind a NIC.
type Verdict uint8

// Verdicts.
const (
	Unknown Verdict = iota
	Good            // a target answers
	Bad             // none does
	Gone            // the NIC itself has vanished: its prober's last word
)

func (v Verdict) String() string {
	if v > Gone {
		return fmt.Sprintf("verdict(%d)", uint8(v))
	}
	return [...]string{"unknown", "good", "bad", "gone"}[v]
}

// An answer that comes later than this, and than the time after which a path is bad, is no
// answer to that probe any more.
const answerPatience = time.Second

// path judges from probes and answers. It has no clock and no socket.
//
// A path is bad when no target has answered for interval × misses, and when there was
// reason to expect an answer: a prober that was itself held up has asked nothing, and
// has missed nothing.
type path struct {
	interval time.Duration
	misses   int
	targets  []target

	verdict Verdict
	since   time.Time // the last answer, or the beginning
	rounds  int       // asked since then, with or without success
	asked   time.Time // the first of those rounds
	trouble error     // why the last probe was not sent
}

// target remembers one probe, the newest: an answer settles all that came before it.
type target struct {
	addr        netip.Addr
	outstanding int // probes since the last answer
	sent        time.Time
}

func newPath(targets []netip.Addr, interval time.Duration, misses int, now time.Time) *path {
	p := &path{interval: interval, misses: misses, since: now}
	for _, t := range targets {
		p.targets = append(p.targets, target{addr: t})
	}
	return p
}

// round begins a new round of probes.
func (p *path) round(now time.Time) {
	if p.rounds == 0 {
		p.asked = now
	}
	p.rounds++
	p.trouble = nil
}

// sent notes a probe to the target of that number.
func (p *path) sent(i int, now time.Time) {
	p.targets[i].outstanding++
	p.targets[i].sent = now
}

// unsent notes that a probe could not be sent.
func (p *path) unsent(err error) { p.trouble = err }

// answered takes an answer in. counts is false for one that nobody has asked for, turned
// says that the path is good by it and was not before. rtt is 0 when it cannot be said
// which of several probes was answered.
func (p *path) answered(from netip.Addr, now time.Time) (rtt time.Duration, counts, turned bool) {
	for i := range p.targets {
		t := &p.targets[i]
		if t.addr != from || t.outstanding == 0 || now.Sub(t.sent) > max(answerPatience, p.patience()) {
			continue
		}
		if t.outstanding == 1 {
			rtt = now.Sub(t.sent)
		}
		t.outstanding = 0
		p.since, p.rounds = now, 0
		turned, p.verdict = p.verdict != Good, Good
		return rtt, true, turned
	}
	return 0, false, false
}

func (p *path) patience() time.Duration { return p.interval * time.Duration(p.misses) }

// deadline is when the path turns bad unless there is an answer. ok is false when that
// waits for something else first.
func (p *path) deadline() (at time.Time, ok bool) {
	// The last of the probes is asked just before the time is over, so that it is the one
	// before it that must have had an interval; or half of one, where there is none before.
	if p.verdict == Bad || p.rounds < max(1, p.misses-1) {
		return at, false
	}
	at = p.since.Add(p.patience())
	least := p.asked.Add(max(p.patience()-p.interval, p.interval/2))
	if least.After(at) {
		at = least
	}
	return at, true
}

// expire turns the path bad when its time has come.
func (p *path) expire(now time.Time) (why string, turned bool) {
	at, ok := p.deadline()
	if !ok || now.Before(at) {
		return "", false
	}
	p.verdict = Bad
	var names []string
	for _, t := range p.targets {
		names = append(names, t.addr.String())
	}
	why = fmt.Sprintf("no answer from %s for %v", strings.Join(names, " or "), now.Sub(p.since).Round(time.Millisecond))
	if p.trouble != nil {
		why += fmt.Sprintf(" (a probe could not be sent: %v)", p.trouble)
	}
	return why, true
}
