package duplex

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ft/chipset/crossbar"
	"ft/chipset/lockstep"
)

// conductor decides what is done while the machine stands, and has it go on.
type conductor struct {
	m      *Machine
	faults [2][]Fault // to be put in, the next one first
	armed  [2]bool    // the first of them is in the module

	evidence [2]bool // is waited for
	wanted   [2]bool // is to be brought in
	joining  bool
	since    time.Time // something was last waited for
	holds    uint64    // reasons to stand that are known here
}

const (
	waitMax   = 20 * time.Second // for the first differing step to be found, or a place to be free
	lookEvery = 2 * time.Millisecond
)

// errPartner is why a run does not begin.
var errPartner = errors.New("the second CPU module could not be brought in")

// conduct goes on until the machine is over.
func (c *conductor) conduct(ctx context.Context, over <-chan crossbar.Outcome) (crossbar.Outcome, error) {
	var failed error
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	cancelled := ctx.Done()
	for {
		for _, h := range c.m.w.take() {
			if err := c.happened(h); err != nil && failed == nil {
				failed = err
				c.m.x.Stop()
			}
		}
		c.bringIn()
		var look <-chan time.Time
		if c.waiting() {
			timer.Reset(lookEvery)
			look = timer.C
		}
		select {
		case out := <-over:
			c.rest()
			return out, failed
		case <-c.m.w.ring:
		case <-look:
			if time.Since(c.since) > waitMax {
				c.evidence, c.wanted = [2]bool{}, [2]bool{}
				c.goOn()
			}
		case <-cancelled:
			cancelled = nil
			c.m.x.Stop()
		}
	}
}

// done is what was done to a module's process.
var done = map[string]string{"kill": "its process was killed", "stop": "its process was stopped"}

// happened takes note.
func (c *conductor) happened(h happening) error {
	c.holds = h.holds
	if h.due != nil {
		at, now := time.Now(), h.due.Injection
		now.Step = 0
		if err := c.m.x.Inject(h.due.Side, now); err != nil {
			c.miss(*h.due, err)
		} else if c.m.cfg.Event != nil {
			c.m.cfg.Event(at, &crossbar.Event{Injected: true, Event: lockstep.Event{Kind: lockstep.InjectedFault, Side: h.due.Side, Step: h.step, Text: done[h.due.Name]}})
		}
		c.goOn()
		return nil
	}
	e := h.event
	if c.m.cfg.Event != nil {
		c.m.cfg.Event(h.at, e)
	}
	switch e.Kind {
	case lockstep.Started:
		c.joining = true
		if err := c.m.x.Join(e.Side.Other()); err != nil {
			return fmt.Errorf("%w: %w", errPartner, err)
		}
	case lockstep.JoinedIn:
		c.joining = false
		c.arm(0)
		c.arm(1)
		c.goOn()
	case lockstep.JoinFailed:
		c.joining = false
		c.goOn()
	case lockstep.Shot:
		c.armed[e.Side] = false
		c.wanted[e.Side] = c.m.cfg.Rejoin && !c.m.w.isEnded()
		switch e.Fault.Cause {
		case "compare", "epoch", "patrol", "memory":
			c.evidence[e.Side] = true
		}
		c.since = time.Now()
		c.goOn()
	case lockstep.Evidence:
		c.evidence[e.Side] = false
		c.goOn()
	case lockstep.InjectedFault:
		if c.armed[e.Side] && len(c.faults[e.Side]) > 0 {
			c.faults[e.Side], c.armed[e.Side] = c.faults[e.Side][1:], false
			c.arm(e.Side)
		}
	}
	return nil
}

// bringIn brings a side in again, once all is known of what was there and the trial is over.
func (c *conductor) bringIn() {
	for s := range c.wanted {
		if !c.wanted[s] || c.evidence[0] || c.evidence[1] || c.joining {
			continue
		}
		err := c.m.x.Join(lockstep.Side(s))
		if errors.Is(err, lockstep.ErrJoin) {
			continue // not yet
		}
		// What fails is an event, or the end of the machine.
		c.wanted[s], c.joining = false, err == nil
		c.goOn()
	}
}

// arm gives a side's module its next fault.
func (c *conductor) arm(s lockstep.Side) {
	for len(c.faults[s]) > 0 && !c.armed[s] {
		f := c.faults[s][0]
		err := c.m.x.Inject(s, f.Injection)
		if err == nil {
			c.armed[s] = true
			return
		}
		c.faults[s] = c.faults[s][1:]
		c.miss(f, err)
	}
}

// waiting says whether the machine stands for something that comes without an event.
func (c *conductor) waiting() bool {
	return c.evidence[0] || c.evidence[1] || c.wanted[0] || c.wanted[1]
}

// goOn has the machine go on unless there is something to wait for.
func (c *conductor) goOn() {
	if !c.joining && !c.waiting() {
		_ = c.m.x.Resume(c.holds) // of a machine that has ended: nothing
	}
}

func (c *conductor) miss(f Fault, err error) {
	if c.m.cfg.Missed != nil {
		c.m.cfg.Missed(f, err)
	}
}

// rest tells of what has happened last, and of the faults that are left.
func (c *conductor) rest() {
	left := errors.New("the run was over before")
	for _, h := range c.m.w.take() {
		if h.due != nil {
			c.miss(*h.due, left)
		} else if c.m.cfg.Event != nil {
			c.m.cfg.Event(h.at, h.event)
		}
	}
	for s := range c.faults {
		for _, f := range c.faults[s] {
			c.miss(f, left)
		}
	}
	for _, f := range c.m.w.instant {
		c.miss(f, left)
	}
}
