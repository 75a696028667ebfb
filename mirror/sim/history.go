package sim

// The history of the face: what clients asked and were answered, with the order of both, for
// a judge that knows nothing of mirrors. It ends where something may be lost by right (the
// power, a cache, an admin's choice); what was under way then stays unanswered.

// Record is a request and its answer.
type Record struct {
	Op           opKind
	Sector, N    int64 // sectors
	Value        uint32
	Call, Return int64 // Return 0: no answer, or an error: it may have happened at any time, or not
	Seen         []uint32
}

type chronicle struct {
	on      bool
	clock   int64
	records []*Record
}

func (h *chronicle) sent(c *call) {
	if !h.on || c.op == opFlush {
		return
	}
	h.clock++
	c.record = &Record{Op: c.op, Sector: c.off / sectorSize, N: c.n / sectorSize, Value: c.val, Call: h.clock}
	if c.op == opZero {
		c.record.Value = 0
	}
	h.records = append(h.records, c.record)
}

func (h *chronicle) answered(c *call) {
	if !h.on || c.record == nil || c.req.Err != 0 {
		return
	}
	h.clock++
	c.record.Return = h.clock
	if c.op != opRead {
		return
	}
	for o := int64(0); o+sectorSize <= int64(len(c.req.Data)); o += sectorSize {
		v, err := valueOf(c.req.Data[o:o+sectorSize], (c.off+o)/sectorSize)
		if err != nil {
			v = ^uint32(0) // nobody wrote that
		}
		c.record.Seen = append(c.record.Seen, v)
	}
}

func (h *chronicle) end() { h.on = false }
