package announce

import (
	"fmt"
	"time"

	"ft/drivers"
)

// order is the announcement under way: what is still to be sent of it.
type order struct {
	number uint64 // 0 for none so far
	side   drivers.Side
	set    *frameSet // that was sent, or is being sent
	rest   [][]byte  // of the burst that is being sent
	left   int       // bursts after that
	due    time.Time // of the next
	asked  uint64    // number of the look at the kernel that this announcement has asked for
	news   bool      // its news have been sent
}

// cancel takes away what is left to do.
func (o *order) cancel() { o.rest, o.left, o.news = nil, 0, true }

// idle stands for no time at which there is something to do.
const idle = time.Duration(-1)

// repeating sends what Announce has left to do. It ends with Close.
func (a *Announcer) repeating() {
	defer a.wait.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-a.stop:
			return
		case <-a.work:
		case <-timer.C:
		}
		timer.Stop()
		if next := a.step(time.Now()); next != idle {
			timer.Reset(next)
		}
	}
}

// step sends at most one chunk and says when the next is due.
func (a *Announcer) step(now time.Time) time.Duration {
	a.mu.Lock()
	o := &a.order
	switch {
	case len(o.rest) > 0 || o.number == 0:
	case !o.news && a.read.Load() >= o.asked:
		o.news = true
		o.rest = a.frames.Load().without(o.set)
	case o.left > 0 && !now.Before(o.due):
		o.left--
		o.due = now.Add(a.cfg.Delay)
		o.set = a.frames.Load()
		o.rest = o.set.frames
	}
	chunk := o.rest[:min(len(o.rest), paceFrames)]
	o.rest = o.rest[len(chunk):]
	t := a.send(o.side, chunk)
	next := idle
	switch {
	case o.number == 0:
	case len(o.rest) > 0:
		next = pace
	case !o.news && a.read.Load() >= o.asked:
		next = 0
	case o.left > 0:
		next = max(0, o.due.Sub(now))
	}
	a.mu.Unlock()
	a.report(t)
	return next
}

// without lists the frames that were not in an earlier set.
func (s *frameSet) without(earlier *frameSet) [][]byte {
	if s == earlier {
		return nil
	}
	had := make(map[string]bool, len(earlier.frames))
	for _, f := range earlier.frames {
		had[string(f)] = true
	}
	var out [][]byte
	for _, f := range s.frames {
		if !had[string(f)] {
			out = append(out, f)
		}
	}
	return out
}

// equal says whether two sets have the same frames in the same order.
func (s *frameSet) equal(t *frameSet) bool {
	if len(s.frames) != len(t.frames) || s.omitted != t.omitted {
		return false
	}
	for i, f := range s.frames {
		if string(f) != string(t.frames[i]) {
			return false
		}
	}
	return true
}

// refreshing makes frames when somebody wishes it. Wishes that come while it is at work are
// one. When the kernel refuses, the old frames stay in use and it tries again. It ends with
// Close.
func (a *Announcer) refreshing() {
	defer a.wait.Done()
	failing := false
	var retry <-chan time.Time
	for {
		select {
		case <-a.stop:
			return
		case <-a.look:
		case <-retry:
		}
		retry = nil
		err := a.makeFrames()
		if err != nil {
			if !failing {
				a.cfg.Log.Warn(err.Error() + "; it is announced as last seen, and looked at again every second")
			}
			retry = time.After(refreshRetry)
		}
		failing = err != nil
		nudge(a.work)
		select {
		case <-a.stop:
			return
		case <-time.After(refreshSpacing):
		}
	}
}

// makeFrames looks at the kernel and makes the frames of what it sees.
func (a *Announcer) makeFrames() error {
	wish := a.asked.Load()
	stack, err := look(a.kernel, a.cfg.Face)
	if err != nil {
		return fmt.Errorf("announce interface %d: %w", a.cfg.Face, err)
	}
	set, old := compose(stack), a.frames.Load()
	if !set.equal(old) {
		a.frames.Store(set)
		if set.omitted > 0 && old.omitted == 0 {
			a.cfg.Log.Warn(fmt.Sprintf("announce interface %d: %d frames are left out beyond the first %d: some addresses behind it are found late after a failover", a.cfg.Face, set.omitted, framesMax))
		}
	}
	a.read.Store(wish)
	return nil
}
