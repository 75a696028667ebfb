package sim

import (
	"strings"
	"testing"
)

// history drives a model of one sector by hand.
type history struct {
	t *testing.T
	m *model
	n value
}

func newHistory(t *testing.T) *history {
	m := newModel(pageSize)
	m.reset()
	return &history{t: t, m: m}
}

func (h *history) begin(op opKind) *call {
	h.n++
	c := &call{op: op, n: sectorSize, val: h.n}
	h.m.begin(c)
	return c
}

func (h *history) write() *call { c := h.begin(opWrite); h.ack(c); return c }

func (h *history) ack(c *call) {
	h.t.Helper()
	if err := h.m.wrote(c, true); err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) flush() {
	c := h.begin(opFlush)
	h.m.flushDone(c)
}

// returns ends a read: of c's value, or of zeroes for nil.
func (h *history) returns(read, c *call) error {
	buf := make([]byte, sectorSize)
	if c != nil {
		fill(buf, c.val, 0)
	}
	return h.m.read(read, buf)
}

func (h *history) sees(c *call) {
	h.t.Helper()
	if err := h.returns(h.begin(opRead), c); err != nil {
		h.t.Errorf("must be allowed: %v", err)
	}
}

func (h *history) mayNotSee(c *call, why string) {
	h.t.Helper()
	err := h.returns(h.begin(opRead), c)
	if err == nil {
		h.t.Errorf("must not be allowed (%s)", why)
	} else if !strings.Contains(err.Error(), why) {
		h.t.Errorf("refused for %q, and not for %q", err, why)
	}
}

func TestModelReadsTheLastWrite(t *testing.T) {
	h := newHistory(t)
	h.sees(nil)
	a := h.write()
	h.sees(a)
	b := h.write()
	h.sees(b)
	h.mayNotSee(a, "went back")
	h.mayNotSee(nil, "went back")
}

func TestModelOrdersWhatOverlaps(t *testing.T) {
	h := newHistory(t)
	a, b := h.begin(opWrite), h.begin(opWrite)
	h.ack(a)
	h.ack(b)
	h.sees(a) // either may be the last
	h.mayNotSee(b, "went back")
}

func TestModelDoesNotTakeBackWhatWasSeen(t *testing.T) {
	h := newHistory(t)
	a := h.begin(opWrite)
	h.sees(nil) // not there yet
	h.sees(a)   // there, though not answered
	h.mayNotSee(nil, "went back")
}

func TestModelAllowsAReadInFlightTheValueOfItsTime(t *testing.T) {
	h := newHistory(t)
	a := h.write()
	r := h.begin(opRead)
	b := h.write()
	h.sees(b)
	if err := h.returns(r, a); err != nil {
		t.Error(err)
	}
	h.mayNotSee(a, "went back")
}

func TestModelLosesOnlyWhatWasNotFlushed(t *testing.T) {
	h := newHistory(t)
	a := h.write()
	h.flush()
	b := h.write()
	c := h.begin(opWrite)
	h.m.powerCut()
	h.mayNotSee(nil, "may not hold")
	h.sees(b)
	h.mayNotSee(a, "may not hold")
	h.mayNotSee(c, "may not hold")

	h = newHistory(t)
	a = h.write()
	h.flush()
	h.write()
	h.m.powerCut()
	h.sees(a)
}

func TestModelKeepsWhatAFlushMadeStable(t *testing.T) {
	h := newHistory(t)
	a := h.write()
	b := h.write()
	h.flush()
	h.m.powerCut()
	h.mayNotSee(a, "may not hold")
	h.sees(b)
}

func TestModelForgetsAReadThatNothingFlushed(t *testing.T) {
	h := newHistory(t)
	a := h.write()
	h.m.powerCut()
	h.sees(a)
	h.m.powerCut()
	h.sees(nil)
	h.m.powerCut()
	h.sees(a)
	h.flush()
	h.m.powerCut()
	h.mayNotSee(nil, "may not hold")
}

func TestModelEndsAFailedWriteWithItsAnswer(t *testing.T) {
	h := newHistory(t)
	a := h.begin(opWrite)
	if err := h.m.wrote(a, false); err != nil {
		t.Fatal(err)
	}
	b := h.write()
	h.sees(b)
	h.mayNotSee(a, "went back")
}

func TestModelKnowsAForeignSector(t *testing.T) {
	h := newHistory(t)
	r := h.begin(opRead)
	buf := make([]byte, sectorSize)
	scribble(buf)
	if err := h.m.read(r, buf); err == nil {
		t.Error("garbage was let through")
	}
	fill(buf, 1, 7)
	if _, err := valueOf(buf, 0); err == nil {
		t.Error("a misplaced sector was let through")
	}
	fill(buf, 1, 0)
	buf[300]++
	if _, err := valueOf(buf, 0); err == nil {
		t.Error("a mixture was let through")
	}
}
