package lockstep

// A machine that stands while somebody makes up his mind, and the proof at its end.

// Hold has no quantum begin until Resume. What is under way goes on, joins among it.
func (c *Core) Hold() { c.held, c.holds = true, c.holds+1 }

// Holds counts the reasons that there were to hold.
func (c *Core) Holds() uint64 { return c.holds }

// Resume ends Hold, unless there is a reason that came behind the first n.
func (c *Core) Resume(n uint64) { c.held = c.held && n < c.holds }

// pauseHere holds the machine where the configuration says so.
func (c *Core) pauseHere() {
	if c.cfg.Hold {
		c.Hold()
	}
}

// still says that nothing is under way, nor will be before somebody calls Resume.
func (c *Core) still() bool { return c.held && len(c.asked) == 0 }

// ending is a machine whose guest has asked for a reset, and whose modules are still to be
// proved equal: the epoch ends, and all memory is patrolled.
type ending struct {
	event Event
	epoch bool   // it was ended
	next  uint64 // page
}

// reset is called when all have agreed on the guest's reset.
func (c *Core) reset(e Event) {
	switch {
	case c.ending != nil: // told before: by a quantum that was sent ahead
	case c.cfg.Prove:
		c.ending = &ending{event: e}
	default:
		c.over(e)
	}
}

// advanceEnding goes on with the proof.
func (c *Core) advanceEnding() {
	e := c.ending
	if e == nil || c.phase != Running || c.held || len(c.asked) > 0 {
		return
	}
	if c.join != nil && c.join.stage >= joinClosing {
		return // what is sent now the module that comes in would not get
	}
	left := uint64(len(c.table)) - e.next
	switch {
	case !e.epoch:
		e.epoch = true
		c.endEpoch()
	case c.Duplex() && left > 0:
		n := min(left, uint64(min(c.cfg.PatrolPages*patrolFast, PagesMax)))
		c.emit(Command{Verb: Patrol, A: e.next, B: n})
		e.next += n
	default:
		c.over(e.event)
	}
}

// Agreed are the digests of the machine's state and of its pages, as of the last epoch's end
// that was agreed on. With Config.Prove, that is the machine's end once it is over.
func (c *Core) Agreed() (state uint64, pages []uint64) { return c.start, c.table }
