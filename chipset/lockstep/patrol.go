package lockstep

// The patrol compares pages that nobody writes, so that a flip in idle memory is found before
// it is used. A page that is written is compared at its epoch's end.

// patrol is where it is.
type patrol struct {
	next    uint64 // page
	quanta  int    // since the last pages were sent
	syncing bool   // a module has come in: the first pass proves both memories equal
	side    Side   // which one
	through bool   // that pass is; the pages that it left out are compared at the epoch's end
}

// alone ends the proof: there is nothing to be equal to any more.
func (p *patrol) alone() { p.syncing, p.through = false, false }

// patrolFast is by how much faster it goes while a module is new, and while the guest waits and
// a step of the patrol is taken now and then only.
const patrolFast = 64

// advancePatrol sends the next pages to be compared.
func (c *Core) advancePatrol(fast bool) {
	if !c.Duplex() {
		return
	}
	n := c.cfg.PatrolPages
	if fast || c.patrol.syncing {
		n *= patrolFast
	} else {
		n *= c.cfg.PatrolEvery
	}
	n = min(n, PagesMax)
	n = min(n, len(c.table)-int(c.patrol.next))
	c.emit(Command{Verb: Patrol, A: c.patrol.next, B: uint64(n)})
	if c.patrol.next += uint64(n); int(c.patrol.next) >= len(c.table) {
		c.patrol.next = 0
	}
}

// Patrol compares the next pages of a guest that waits, which runs no quanta that could bring
// them along. It is for a slow clock, or to be called until the patrol is through.
func (c *Core) Patrol() {
	if c.phase != Running || !c.resting() || c.closing() || !c.Duplex() {
		return
	}
	if c.epochDue() && len(c.log) > 0 {
		c.endEpoch() // no quantum does
	}
	c.advancePatrol(true)
}

// patrolAgreed counts what was compared.
func (c *Core) patrolAgreed(r *Record, asked ask, both bool) {
	if !both {
		return
	}
	for _, p := range r.Pages {
		// It was not written in this epoch, so that its digest is the one that was agreed.
		if int(p.Index) < len(c.table) && c.table[p.Index] != p.Digest {
			c.damaged(p)
		}
	}
	c.stats.Pages += uint64(len(r.Pages))
	if asked.a+asked.b < uint64(len(c.table)) {
		return
	}
	c.stats.Passes++
	if c.patrol.syncing {
		c.patrol.through, c.full = true, true
	}
}

// patrolEnded is called when both have agreed on an epoch's end.
func (c *Core) patrolEnded() {
	if c.patrol.through {
		c.patrol.alone()
		c.hands.Report(Event{Kind: Equal, Side: c.patrol.side})
	}
}

// Syncing says whether a module that has come in is not proved equal yet.
func (c *Core) Syncing() (s Side, share float64, ok bool) {
	return c.patrol.side, float64(c.patrol.next) / float64(len(c.table)), c.patrol.syncing && c.Duplex()
}
