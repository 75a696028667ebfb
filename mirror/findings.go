package mirror

import (
	"fmt"

	"ft/drivers"
	"ft/mirror/scrub"
)

// What was found wrong: counted, remembered, told.

// found counts and tells of what an exam found.
func (e *Engine) found(f scrub.Finding, j *exam) {
	s := &e.scrub
	scrubs := j != nil && j.scrub
	from := scrub.NoSide
	if j != nil {
		from = j.from
	}
	if scrubs {
		s.Found.Add(f)
	}
	s.Outstanding.Add(f)
	s.Findings = append(s.Findings, f)
	if k := len(s.Findings) - scrub.FindingsMax; k > 0 {
		s.Findings = append(s.Findings[:0], s.Findings[k:]...)
	}
	if scrubs {
		if s.told++; s.told > findingsTold {
			return
		}
	}
	side := drivers.Whole
	if f.Side >= 0 {
		side = drivers.Side(f.Side)
	}
	what := "mismatch"
	if f.What == scrub.Unreadable {
		what = "read error"
	}
	e.event(drivers.Event{Kind: drivers.EventNote, Side: side, Fault: what, Reason: e.describe(f, from),
		Detail: map[string]any{"what": f.What, "offset": f.Offset, "bytes": f.Bytes, "repaired": f.Repaired}})
}

// describe is a finding in words.
func (e *Engine) describe(f scrub.Finding, from int) string {
	where := fmt.Sprintf("%d bytes at %d", f.Bytes, f.Offset)
	switch f.What {
	case scrub.Wrong:
		if f.Repaired {
			return fmt.Sprintf("%s were wrong or unreadable, and were written anew from %s", where, e.sideID(1-f.Side))
		}
		return fmt.Sprintf("%s are wrong or unreadable, and could not be written anew", where)
	case scrub.Differ:
		if f.Repaired {
			return fmt.Sprintf("%s differed between the sides, and are as on %s now", where, e.sideID(from))
		}
		return fmt.Sprintf("%s differ between the sides; nothing says which one is right", where)
	case scrub.Table:
		side := "a side"
		if f.Side >= 0 {
			side = e.sideID(f.Side)
		}
		return fmt.Sprintf("%d bytes of checksums, of the data from %d on, were wrong on %s, and are written anew", f.Bytes, f.Offset, side)
	case scrub.Lost:
		return where + " are not what was written on either side: reading them gives an error"
	}
	return where + " can be read on neither side"
}
