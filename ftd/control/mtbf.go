package control

import (
	"fmt"
	"time"
)

// This file judges faults (rule 3). A history belongs to a part, known by its serial
// number, UUID or MAC; a part that moves to another slot takes its history along, and a
// new part in an old slot begins with none. Where the identity is not known the slot
// stands for it.
//
// Faults that a drill injected are judged in the same way, but on a history of their
// own, so that a drill shows what the policy does without counting against the part.
// The removal of a part is no fault; an I/O error that turns out to be the first sign
// of a removal is taken back (see vanishWindow).
//
// An admin who brings a broken part up keeps its history, but starts a new judgement:
// min_faults are forgiven again. ClearMTBF forgets the history too.

// MTBFPolicy says how a fault is judged.
type MTBFPolicy string

// Policies of judgement.
const (
	MTBFThreshold MTBFPolicy = "threshold" // the first faults are forgiven, then the mean time between them decides
	MTBFNever     MTBFPolicy = "never"     // one fault and it is broken
	MTBFAlways    MTBFPolicy = "always"    // it always comes back
)

// MTBFSettings is how faults are judged. In a setting for one side, zero fields mean
// "as for the box".
type MTBFSettings struct {
	Policy    MTBFPolicy    `json:"policy,omitempty"`
	Threshold time.Duration `json:"threshold_ns,omitempty"`
	MinFaults int           `json:"min_faults,omitempty"` // fewer than these always come back; at least 2 are needed for a mean
}

// DefaultMTBF is used where the configuration says nothing.
var DefaultMTBF = MTBFSettings{Policy: MTBFThreshold, Threshold: 24 * time.Hour, MinFaults: 3}

// Bounds of a history.
const (
	historyDepth = 32  // faults kept of a part
	historyParts = 128 // parts remembered
)

// MinFaultsMax is the largest min_faults: more faults are not remembered.
const MinFaultsMax = historyDepth

// vanishWindow is how long before its removal is noticed a part may have shown I/O
// errors that were the removal's and no fault.
const vanishWindow = 5 * time.Second

// sameFault is how far apart the times of a driver's event and of its snapshot may be
// for one and the same fault.
const sameFault = time.Second

// over fills zero fields from another.
func (m MTBFSettings) over(base MTBFSettings) MTBFSettings {
	if m.Policy == "" {
		m.Policy = base.Policy
	}
	if m.Threshold == 0 {
		m.Threshold = base.Threshold
	}
	if m.MinFaults == 0 {
		m.MinFaults = base.MinFaults
	}
	return m
}

// String says how faults are judged.
func (m MTBFSettings) String() string {
	switch m.Policy {
	case MTBFNever:
		return "never: one fault and it is broken"
	case MTBFAlways:
		return "always: it always comes back"
	}
	return fmt.Sprintf("threshold: broken when the last %d faults are less than %s apart in the mean", max(m.MinFaults, 2), short(m.Threshold))
}

// check refuses settings that mean nothing.
func (m MTBFSettings) check() *refusal {
	switch m.Policy {
	case "", MTBFThreshold, MTBFNever, MTBFAlways:
	default:
		return refuse(RuleValue, "%q is no MTBF policy: say threshold, never or always", string(m.Policy))
	}
	if m.Threshold < 0 {
		return refuse(RuleValue, "an MTBF threshold of %v means nothing: give a time above 0, e.g. 24h", m.Threshold)
	}
	if m.MinFaults < 0 || m.MinFaults > MinFaultsMax {
		return refuse(RuleValue, "min_faults must be between 1 and %d, not %d", MinFaultsMax, m.MinFaults)
	}
	return nil
}

// FaultRecord is one fault.
type FaultRecord struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
	Slot string    `json:"slot"` // the side it was in
}

// FaultList is the last faults of one kind, oldest first.
type FaultList struct {
	Count int           `json:"count"` // all of them since History.Since
	Last  []FaultRecord `json:"last,omitempty"`
	// Forgiven of them are shown, but no longer count: an admin has brought the part up
	// again after it was broken.
	Forgiven int `json:"forgiven,omitempty"`
}

// History is what is remembered of one part.
type History struct {
	Since    time.Time `json:"since"` // first known, or last cleared
	Real     FaultList `json:"real"`
	Injected FaultList `json:"injected"`
	// Excused: faults up to here were the part's removal. Its driver may still show them.
	Excused time.Time `json:"excused,omitzero"`
}

func (h *History) clone() History {
	n := *h
	n.Real.Last = append([]FaultRecord(nil), h.Real.Last...)
	n.Injected.Last = append([]FaultRecord(nil), h.Injected.Last...)
	return n
}

func (h *History) list(injected bool) *FaultList {
	if injected {
		return &h.Injected
	}
	return &h.Real
}

// lastHeard is the last time that anything was noted of the part.
func (h *History) lastHeard() time.Time {
	t := h.Since
	for _, l := range [...]*FaultList{&h.Real, &h.Injected} {
		if n := len(l.Last); n > 0 && l.Last[n-1].At.After(t) {
			t = l.Last[n-1].At
		}
	}
	return t
}

// knows says whether a fault at this time has been counted already, or was forgotten.
func (h *History) knows(at time.Time) bool {
	if at.Before(h.Since) || !at.After(h.Excused) {
		return true
	}
	for _, l := range [...]*FaultList{&h.Real, &h.Injected} {
		for _, f := range l.Last {
			if f.At.Sub(at).Abs() <= sameFault {
				return true
			}
		}
	}
	return false
}

func (l *FaultList) add(f FaultRecord) {
	l.Count++
	if len(l.Last) == historyDepth {
		l.Last = append(l.Last[:0], l.Last[1:]...)
	}
	l.Last = append(l.Last, f)
}

// retract takes back faults in a slot that began after a time.
func (l *FaultList) retract(slot string, after time.Time) (n int) {
	for len(l.Last) > 0 {
		f := l.Last[len(l.Last)-1]
		if f.Slot != slot || !f.At.After(after) {
			return n
		}
		l.Last, l.Count, n = l.Last[:len(l.Last)-1], l.Count-1, n+1
	}
	return n
}

// counting are the faults that a judgement rests on.
func (l *FaultList) counting() []FaultRecord {
	n := min(max(l.Count-l.Forgiven, 0), len(l.Last))
	return l.Last[len(l.Last)-n:]
}

// forgive lets a new judgement start.
func (l *FaultList) forgive() { l.Forgiven = l.Count }

// mean is the mean time between the last faults, min_faults of them at most.
func (l *FaultList) mean(minFaults int) (mean time.Duration, ok bool) {
	last := l.counting()
	if keep := max(minFaults, 2); len(last) > keep {
		last = last[len(last)-keep:]
	}
	if len(last) < 2 {
		return 0, false
	}
	return last[len(last)-1].At.Sub(last[0].At) / time.Duration(len(last)-1), true
}

// judge says whether the part is broken, and why or why not, for the log.
func (l *FaultList) judge(set MTBFSettings) (broken bool, why string) {
	n := len(l.counting())
	switch set.Policy {
	case MTBFNever:
		return true, "its MTBF policy is never: one fault is one too many"
	case MTBFAlways:
		return false, "its MTBF policy is always"
	}
	if n < set.MinFaults {
		return false, fmt.Sprintf("fault %d of %d that are forgiven", n, set.MinFaults-1)
	}
	mean, ok := l.mean(set.MinFaults)
	if !ok {
		return false, "it is the first fault that counts"
	}
	if mean < set.Threshold {
		return true, fmt.Sprintf("%d faults, %s between the last of them, threshold %s", n, short(mean), short(set.Threshold))
	}
	return false, fmt.Sprintf("%s between the last faults, threshold %s", short(mean), short(set.Threshold))
}

// settingsOf is how faults of a side are judged.
func (c *Core) settingsOf(s *side) MTBFSettings { return c.fullSettings(c.settings[s.id]) }

// fullSettings fills what was not set for one side from the box's.
func (c *Core) fullSettings(own MTBFSettings) MTBFSettings {
	set := own.over(c.cfg.MTBF).over(DefaultMTBF)
	set.MinFaults = min(set.MinFaults, historyDepth) // more are not remembered
	return set
}

// historyKey is the identity that a side's faults are kept under.
func (s *side) historyKey() string {
	if s.identity != "" {
		return s.identity
	}
	return "slot " + s.id
}

// historyOf finds or begins the history of what is in a side now.
func (c *Core) historyOf(s *side) *History {
	key := s.historyKey()
	h := c.history[key]
	if h == nil {
		h = &History{Since: c.now}
		c.history[key] = h
		c.dirty = true
		c.pruneHistory()
	}
	return h
}

// cleared is a history that an admin wanted forgotten, until that is on disk.
type cleared struct {
	was   *History
	write uint64 // that it is given out to be written with
}

// clearHistory forgets the faults of what is in a side. They come back if that cannot be
// written (uncleared).
func (c *Core) clearHistory(s *side) {
	key := s.historyKey()
	if was := c.historyOf(s); c.cleared[key] == nil {
		c.cleared[key] = &cleared{was: was}
	}
	c.history[key] = &History{Since: c.now}
	c.dirty = true
}

// uncleared takes back, for what an admin wanted forgotten and what could not be written, that
// it was forgotten. Faults since then stay.
func (c *Core) uncleared() {
	for key, cl := range c.cleared {
		was := cl.was
		if since := c.history[key]; since != nil {
			was.Real.append(since.Real)
			was.Injected.append(since.Injected)
			was.Excused = later(was.Excused, since.Excused)
		}
		c.history[key] = was
	}
	clear(c.cleared)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// append puts the faults of a later list after those of this one.
func (l *FaultList) append(next FaultList) {
	older := next.Count - len(next.Last) // that are not kept any more
	l.Count += older
	for _, f := range next.Last {
		l.add(f)
	}
}

// identify notes the identity of what is in a side. It says whether that is another
// part than before; a part whose identity was not known yet is the same one.
func (c *Core) identify(s *side, identity string) (another bool) {
	if identity == "" || identity == s.identity {
		return false
	}
	if s.identity == "" {
		slot := s.historyKey()
		if h := c.history[slot]; h != nil {
			delete(c.history, slot)
			if c.history[identity] == nil {
				c.history[identity] = h
			}
			c.dirty = true
		}
		c.holds(s, identity)
		return s.target.Broken && s.target.Identity != "" && s.target.Identity != identity
	}
	c.holds(s, identity)
	return true
}

// holds notes which part is in a side. Its history begins when it is first heard of.
func (c *Core) holds(s *side, identity string) {
	s.identity, c.parts[s.id], c.dirty = identity, identity, true
	c.historyOf(s)
}
