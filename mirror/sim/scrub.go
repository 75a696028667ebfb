package sim

// Scrubs: begun, paused and given up at random, kept over crashes, and held to what they
// promise: that they end, and find nothing where nothing was spoiled.

import (
	"time"

	"ft/drivers"
	"ft/mirror"
	"ft/mirror/scrub"
)

// scrubStore is what the driver keeps of the scrub: durable, but perhaps not the last word.
type scrubStore struct {
	now, before scrub.State
}

// SaveScrub stores the state of the scrub.
func (e *env) SaveScrub(s scrub.State) {
	w := e.alive()
	w.scrub.before, w.scrub.now = w.scrub.now, s
	w.fold(uint64(s.Position))
}

// crash may lose the last word.
func (s *scrubStore) crash(w *world) {
	if w.chance(0.3) {
		s.now = s.before
	}
}

// Words about a scrub.
const (
	scrubStart = iota
	scrubResume
	scrubPause
	scrubCancel
)

// chaosScrub is an admin's word about the scrub.
func (w *world) chaosScrub() {
	if !w.box.serving() {
		return
	}
	word := int64(scrubCancel)
	switch st := w.box.eng.Snapshot().Scrub; {
	case st.Phase == scrub.Idle:
		word = scrubStart
	case st.Phase == scrub.Paused:
		word = scrubResume
	case w.drawn(0.7):
		word = scrubPause
	}
	w.do("scrub", map[string]int64{"word": word})
}

func (w *world) doScrub(s step) {
	if !w.box.serving() {
		return
	}
	var err error
	switch s.arg["word"] {
	case scrubStart:
		err = w.box.eng.Scrub(false, -1)
	case scrubResume:
		err = w.box.eng.ResumeScrub()
	case scrubPause:
		err = w.box.eng.PauseScrub()
	default:
		err = w.box.eng.CancelScrub()
	}
	w.tracef("scrub: %v", err)
	if err != nil {
		w.expectRefusal("scrub", err)
	}
}

var priorities = [...]mirror.Priority{mirror.PriorityLow, mirror.PriorityNormal, mirror.PriorityHigh}

func (w *world) chaosPriority() {
	if w.box.serving() {
		w.do("priority", map[string]int64{"to": w.plan.Int64N(int64(len(priorities)))})
	}
}

func (w *world) doPriority(s step) {
	if !w.box.serving() {
		return
	}
	p := priorities[uint64(s.arg["to"])%uint64(len(priorities))]
	if err := w.box.eng.SetPriority(p); err != nil {
		w.fail("priority %s: %v", p, err)
	}
}

// scrubSaid hears what is said of a scrub.
func (w *world) scrubSaid(ev drivers.Event) {
	if _, ok := ev.Detail["found"].(scrub.Tally); ok {
		w.stats.Scrubs++
	}
	switch ev.Detail["what"] {
	case scrub.Differ:
		w.fail("the legs are told to differ where nothing was spoiled, or checksums tell which is right: %s", ev.Reason)
	case scrub.Lost:
		if w.box.inSince[0] >= 0 && w.box.inSince[1] >= 0 {
			w.fail("in duplex data is told to be lost, and it is not: %s", ev.Reason)
		}
	}
}

// rateMaxAllowsScrub: with less it would take hours.
func (w *world) rateMaxAllowsScrub() bool { return w.p.rateMax == 0 || w.p.rateMax >= 1<<17 }

// settleScrub compares everything once more, at rest: it must come to its end, find
// nothing, and say so.
func (w *world) settleScrub() {
	// What ailed a leg last may cut it off even now.
	late := w.now + settleTime
	w.loop(func() bool { return w.now > late || w.box.serving() && w.duplex() })
	if w.err != nil || w.abandoned {
		return
	}
	eng := w.box.eng
	if eng.Snapshot().Scrub.Phase != scrub.Idle {
		if err := eng.CancelScrub(); err != nil {
			w.fail("a scrub cannot be cancelled: %v", err)
			return
		}
	}
	if !w.rateMaxAllowsScrub() {
		return
	}
	if w.p.victim >= 0 {
		l := w.legs[w.p.victim]
		l.spoils = nil
		// These may well find something: a table is looked at when nothing is being written to it.
		w.quiet(w.now + settleTime)
		for range 3 {
			w.scrubOnce()
			if w.err != nil || eng.Snapshot().Scrub.Last.Found.Clean() {
				break
			}
			w.quiet(w.now + settleTime)
		}
		l.spoiled = false
	}
	w.scrubOnce()
	if w.err != nil {
		return
	}
	st := eng.Snapshot().Scrub
	switch {
	case st.Last == nil || st.Last.Bytes != w.dataBytes:
		w.fail("a scrub has ended, and is not remembered as whole: %+v", st.Last)
	case st.Last.Found != scrub.Tally{}:
		w.fail("in duplex and at rest a scrub finds %+v", st.Last.Found)
	case st.Outstanding != scrub.Tally{}:
		w.fail("after a scrub that found nothing there is %+v", st.Outstanding)
	}
}

// scrubOnce runs a scrub to its end.
func (w *world) scrubOnce() {
	eng := w.box.eng
	if w.err != nil {
		return
	}
	if err := eng.Scrub(false, -1); err != nil {
		w.fail("in duplex and at rest a scrub is refused: %v", err)
		return
	}
	limit := w.now + settleTime
	w.loop(func() bool {
		if w.now > limit {
			w.fail("a scrub of %d bytes has not ended in %v", w.dataBytes, time.Duration(settleTime))
		}
		return eng.Snapshot().Scrub.Phase == scrub.Idle
	})
}
