package sim

// model is the oracle: what each sector of the face may hold, told from nothing but
// the history of requests and answers that a client sees.
//
// Without power cuts a sector is a linearizable register. Every write stores a
// value of its own (its number), so the reads of a value say which write they saw,
// and the test of Gibbons and Korach ("Testing Shared Memories", 1997) applies: the
// cluster of a value is its write and the reads that returned it; f is the first
// time that one of them ended, s the last time that one began. Cluster a must come
// before b when f(a) < s(b). The history is linearizable exactly when no two
// clusters must each come before the other. That is checked as answers arrive.
//
// Zeroes are the one value that many writes store. A read of zeroes that can have
// seen more than one of them is allowed, and says nothing about later ones.
//
// A power cut loses what no flush made durable. After it a sector holds one of the
// values that could have been the last one at some time since the last flush that
// succeeded was asked for. A read decides which, and until the next power cut it stays
// that; for longer only when a flush came after the read. (A single disk promises more:
// what was read after a power cut is on the medium. Two that may differ would have to
// flush before each such read is answered.)
//
// A request that failed may have had its effect, until the time it was answered. A
// request that was in flight at a power cut likewise. One that was in flight when
// only the driver died is sent again and is still the same request.

import (
	"fmt"
	"math"
	"slices"
)

// stamp orders what a client sees: it grows with every request and answer.
type stamp = int64

const never stamp = math.MaxInt64

// value is what a write stored: its number, or 0 for zeroes.
type value = uint32

type cluster struct {
	val   value
	first bool  // stands for what was there when the era began
	f, s  stamp // first end, last begin
	ack   stamp // the write's good answer, or never
	fail  stamp // the write's bad answer, or never
	begun stamp
}

// end is when the effect of the write, if it had one, had happened.
func (c *cluster) end() stamp { return min(c.f, c.fail) }

type sector struct {
	cl []cluster
	// init are the values that the first cluster may stand for; nil when just its val.
	init []value
	// was is what init was before a read, ended at sawAt, decided. The next power cut may
	// take that back, unless a flush was asked for since.
	was   []value
	sawAt stamp
}

type model struct {
	sec     []sector
	touched []int32
	clock   stamp
	flushed stamp // when the last good flush was asked for
	equal   bool  // the legs have been equal since the last power cut
	reads   map[*call]struct{}
	horizon stamp // no read in flight began before it
}

func newModel(bytes int64) *model {
	return &model{sec: make([]sector, bytes/sectorSize), reads: map[*call]struct{}{}}
}

func (m *model) reset() {
	for _, i := range m.touched {
		m.sec[i] = sector{cl: m.sec[i].cl[:0]}
	}
	m.touched = m.touched[:0]
	m.clock, m.flushed, m.horizon = 1, 0, 0
	m.equal = true
	clear(m.reads)
}

func (m *model) tick() stamp { m.clock++; return m.clock }

func (m *model) at(i int64) *sector {
	s := &m.sec[i]
	if len(s.cl) == 0 {
		s.cl = append(s.cl, cluster{first: true, fail: never})
		m.touched = append(m.touched, int32(i))
	}
	return s
}

// begin notes that a client sent a request.
func (m *model) begin(c *call) {
	c.begun = m.tick()
	switch c.op {
	case opRead:
		m.reads[c] = struct{}{}
	case opWrite, opZero:
		v := c.val
		if c.op == opZero {
			v = 0
		}
		for i := c.off / sectorSize; i < (c.off+c.n)/sectorSize; i++ {
			s := m.at(i)
			s.cl = append(s.cl, cluster{val: v, f: never, s: c.begun, ack: never, fail: never, begun: c.begun})
		}
	}
}

// wrote notes the answer to a write.
func (m *model) wrote(c *call, ok bool) error {
	t := m.tick()
	for i := c.off / sectorSize; i < (c.off+c.n)/sectorSize; i++ {
		s := m.at(i)
		k := slices.IndexFunc(s.cl, func(x cluster) bool { return x.begun == c.begun })
		if k < 0 {
			continue // already overwritten beyond recall
		}
		cl := &s.cl[k]
		if !ok {
			cl.fail = t
			if cl.f != never {
				cl.f = min(cl.f, t)
			}
			continue
		}
		cl.ack, cl.f = t, min(cl.f, t)
		if j := s.conflict(k); j >= 0 {
			return s.wentBack(k, j, i)
		}
		m.prune(s)
	}
	return nil
}

// flushDone notes a good answer to a flush.
func (m *model) flushDone(c *call) {
	m.tick()
	m.flushed = max(m.flushed, c.begun)
}

// readEnded forgets a read that was answered with an error or is gone.
func (m *model) readEnded(c *call) {
	delete(m.reads, c)
	m.horizon = m.clock
	for r := range m.reads {
		m.horizon = min(m.horizon, r.begun)
	}
}

// read checks the answer to a read; data is what it returned.
func (m *model) read(c *call, data []byte) error {
	t := m.tick()
	defer m.readEnded(c)
	for o := int64(0); o < c.n; o += sectorSize {
		i := (c.off + o) / sectorSize
		v, err := valueOf(data[o:o+sectorSize], i)
		if err != nil {
			return fmt.Errorf("read of sector %d: %w", i, err)
		}
		if err := m.saw(i, v, c.begun, t); err != nil {
			return err
		}
	}
	return nil
}

// saw counts a read of v, from begun to ended, for its cluster. Zeroes may be those of
// several: then the read binds nothing.
func (m *model) saw(i int64, v value, begun, ended stamp) error {
	s := m.at(i)
	first, against := -1, -1
	found := -1
	for k := range s.cl {
		cl := &s.cl[k]
		if cl.begun >= ended || !m.holds(s, cl, v) {
			continue
		}
		old := *cl
		cl.f, cl.s = min(cl.end(), ended), max(cl.s, begun)
		j := s.conflict(k)
		*cl = old
		switch {
		case j < 0 && found >= 0:
			return nil
		case j < 0:
			found = k
		case first < 0:
			first, against = k, j
		}
	}
	if found >= 0 {
		cl := &s.cl[found]
		cl.f, cl.s = min(cl.end(), ended), max(cl.s, begun)
		if cl.first && s.init != nil {
			cl.val, s.was, s.sawAt, s.init = v, s.init, ended, nil
		}
		m.prune(s)
		return nil
	}
	if first >= 0 {
		return s.wentBack(first, against, i)
	}
	return fmt.Errorf("sector %d returned %s, which it may not hold (any more): %s", i, name(v), s.describe())
}

func (m *model) holds(s *sector, cl *cluster, v value) bool {
	if cl.first && s.init != nil {
		return slices.Contains(s.init, v)
	}
	return cl.val == v
}

// conflict is a cluster that must come both before and after cluster k, or -1.
func (s *sector) conflict(k int) int {
	a := &s.cl[k]
	for j := range s.cl {
		if b := &s.cl[j]; j != k && a.f < b.s && b.f < a.s {
			return j
		}
	}
	return -1
}

func (s *sector) wentBack(k, j int, i int64) error {
	return fmt.Errorf("sector %d went back: %s and %s were each seen after the other: %s",
		i, name(s.cl[k].val), name(s.cl[j].val), s.describe())
}

// prune forgets clusters that no read may return and no power cut may bring back.
func (m *model) prune(s *sector) {
	if len(s.cl) < 3 {
		return
	}
	lim := min(m.horizon, m.flushed)
	dead := func(b *cluster) bool {
		for j := range s.cl {
			if a := &s.cl[j]; a != b && b.end() < a.s && a.f < lim && a.ack < lim {
				return true
			}
		}
		return false
	}
	for k := 0; k < len(s.cl); {
		if !dead(&s.cl[k]) {
			k++
			continue
		}
		if s.cl[k].first {
			s.init, s.was = nil, nil
		}
		s.cl = slices.Delete(s.cl, k, k+1)
	}
}

// possible are the values that a sector may hold after a power cut now.
func (m *model) possible(s *sector, out []value) []value {
	for k := range s.cl {
		b := &s.cl[k]
		over := false
		for j := range s.cl {
			if a := &s.cl[j]; a != b && b.end() < a.s && a.ack < m.flushed {
				over = true
				break
			}
		}
		if over {
			continue
		}
		switch {
		case b.first && s.init != nil:
			out = append(out, s.init...)
		case b.first && s.was != nil && m.flushed < s.sawAt:
			out = append(out, s.was...)
		default:
			out = append(out, b.val)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// powerCut begins a new era: each sector holds one of the values that are possible.
// Requests in flight are gone, or begin anew.
func (m *model) powerCut() {
	t := m.tick()
	var buf []value
	for _, i := range m.touched {
		s := &m.sec[i]
		buf = m.possible(s, buf[:0])
		s.restart(t, buf)
	}
	clear(m.reads)
	m.flushed, m.horizon, m.equal = t, t, false
}

// became begins a new era in which a sector's contents are known: an admin chose a
// leg, and its contents are the truth now.
func (m *model) became(contents func(i int64) (value, error)) error {
	t := m.tick()
	for _, i := range m.touched {
		v, err := contents(int64(i))
		if err != nil {
			return fmt.Errorf("sector %d of the leg that was kept: %w", i, err)
		}
		m.sec[i].restart(t, []value{v})
	}
	clear(m.reads)
	m.flushed, m.horizon = t, t
	return nil
}

// either adds values that each sector may hold, and begins a new era.
func (m *model) either(more func(i int64) []value) {
	t := m.tick()
	var buf []value
	for _, i := range m.touched {
		s := &m.sec[i]
		buf = append(m.possible(s, buf[:0]), more(int64(i))...)
		slices.Sort(buf)
		s.restart(t, slices.Compact(buf))
	}
	clear(m.reads)
	m.flushed, m.horizon = t, t
}

// undecide takes back what reads of a range decided since the last power cut: the leg that
// was read is lost, or cannot be read there any more, and the other one was not yet equal
// to it. Once the legs were equal, that cannot be.
func (m *model) undecide(off, n int64) {
	if m.equal {
		return
	}
	for _, i := range m.touched {
		s := &m.sec[i]
		if at := int64(i) * sectorSize; s.was == nil || at < off || at >= off+n {
			continue
		}
		for k := range s.cl {
			if c := &s.cl[k]; c.first {
				c.f, c.s = c.begun, c.begun
				s.init, s.was = s.was, nil
				break
			}
		}
	}
}

func (s *sector) restart(t stamp, vals []value) {
	s.cl = append(s.cl[:0], cluster{val: vals[0], first: true, f: t, s: t, ack: t, fail: never, begun: t})
	s.init, s.was = nil, nil
	if len(vals) > 1 {
		s.init = slices.Clone(vals)
	}
}

// admits says whether a sector that is read now, with nothing else going on, may
// return v. It decides nothing.
func (m *model) admits(i int64, v value) error {
	s := &m.sec[i]
	if len(s.cl) == 0 {
		if v != 0 {
			return fmt.Errorf("sector %d holds %s but was never written", i, name(v))
		}
		return nil
	}
	now := m.clock + 1
	for k := range s.cl {
		b := &s.cl[k]
		if !m.holds(s, b, v) {
			continue
		}
		ok := true
		for j := range s.cl {
			// The read would come after everything that has ended.
			if a := &s.cl[j]; a != b && b.end() < a.s && a.f < now {
				ok = false
				break
			}
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("sector %d holds %s, which it may not: %s", i, name(v), s.describe())
}

func name(v value) string {
	if v == 0 {
		return "zeroes"
	}
	return fmt.Sprintf("w%d", v)
}

func (s *sector) describe() string {
	out := ""
	for k := range s.cl {
		c := &s.cl[k]
		if out != "" {
			out += ", "
		}
		if c.first && s.init != nil {
			out += "one of ("
			for j, v := range s.init {
				if j > 0 {
					out += " "
				}
				out += name(v)
			}
			out += ")"
		} else {
			out += name(c.val)
		}
		switch {
		case c.first:
			out += " from the start"
		case c.ack != never:
			out += fmt.Sprintf(" acknowledged at %d", c.ack)
		case c.fail != never:
			out += fmt.Sprintf(" failed at %d", c.fail)
		default:
			out += " unanswered"
		}
		if !c.first {
			out += fmt.Sprintf(" (begun %d", c.begun)
			if c.s > c.begun {
				out += fmt.Sprintf(", last read begun %d", c.s)
			}
			out += ")"
		}
	}
	return out
}
