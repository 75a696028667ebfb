package mirror

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"ft/drivers"
	"ft/mirror/frontend"
	"ft/mirror/legio"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// rig runs an engine over two legs in memory. I/O ends when step is called; a leg can
// be made to fail or to hang.
type rig struct {
	t         testing.TB
	e         *Engine
	now       int64
	legs      [2][]byte
	fail      [2]syscall.Errno // of writes
	hang      [2]bool
	queue     []*legio.IO
	held      []*legio.IO
	replies   []*frontend.Request
	freed     map[*frontend.Request]bool
	witness   *metadata.Witness
	pending   *metadata.Witness
	events    []drivers.Event
	integrity string
	scrub     scrub.State          // as last kept
	bad       func(*legio.IO) bool // reads that fail, until the leg is written
}

const rigBytes = 16 << 20

func newRig(t testing.TB) *rig {
	r := &rig{t: t, freed: map[*frontend.Request]bool{}, now: 1}
	for i := range r.legs {
		r.legs[i] = make([]byte, rigBytes)
	}
	return r
}

func (r *rig) Now() int64                      { return r.now }
func (r *rig) Wall() time.Time                 { return time.Unix(0, r.now) }
func (r *rig) Submit(io *legio.IO)             { r.queue = append(r.queue, io) }
func (r *rig) Reply(q *frontend.Request)       { r.replies = append(r.replies, q) }
func (r *rig) Free(q *frontend.Request)        { r.freed[q] = true }
func (r *rig) Alloc(n int) ([]byte, func())    { return make([]byte, n), func() {} }
func (r *rig) SaveScrub(s scrub.State)         { r.scrub = s }
func (r *rig) WriteWitness(w metadata.Witness) { r.pending = &w }
func (r *rig) Event(ev drivers.Event)          { r.events = append(r.events, ev) }
func (r *rig) UUID() metadata.UUID             { return metadata.NewUUID() }

// leg is what a driver finds on leg i.
func (r *rig) leg(i int) *Leg {
	g := &Leg{Resource: "leg", Bytes: rigBytes, LogicalBlock: 512, PhysicalBlock: 4096}
	im, err := metadata.Load(io.NewSectionReader(bytes.NewReader(r.legs[i]), 0, rigBytes), rigBytes)
	switch {
	case err == nil:
		g.Image = im
	case !errors.Is(err, metadata.ErrNoMetadata):
		r.t.Fatal(err)
	}
	return g
}

func (r *rig) newEngine() { r.e = NewEngine("disk0", Options{Integrity: r.integrity}, r) }

// step ends all I/O under way, once.
func (r *rig) step() bool {
	q, rep, w := r.queue, r.replies, r.pending
	r.queue, r.replies, r.pending = nil, nil, nil
	if w != nil {
		r.witness = w
		r.e.WitnessDone(nil)
	}
	for _, io := range q {
		if r.hang[io.Side] {
			r.held = append(r.held, io)
			continue
		}
		leg := r.legs[io.Side]
		switch io.Op {
		case legio.Read:
			copy(io.Buf, leg[io.Off:])
			if r.bad != nil && r.bad(io) {
				io.Err = syscall.EIO
			}
		case legio.Write:
			if io.Err = r.fail[io.Side]; io.Err == 0 {
				copy(leg[io.Off:], io.Buf)
				if r.bad != nil && r.bad(io) {
					r.bad = nil
				}
			}
		case legio.Zero:
			clear(leg[io.Off : io.Off+io.Len])
		}
		r.e.LegDone(io)
	}
	for _, x := range rep {
		r.e.Replied(x)
	}
	return len(q)+len(rep) > 0 || w != nil
}

// until steps until ok, letting time pass.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for range 20000 {
		if ok() {
			return
		}
		if !r.step() {
			r.now += int64(20 * time.Millisecond)
			r.e.Tick()
		}
	}
	s := r.e.Snapshot()
	r.t.Fatalf("%s: does not come; face %v, sides %v %q, %v %q, stale %d, unrecorded %q", what, s.Face, s.Sides[0].State, s.Sides[0].Reason, s.Sides[1].State, s.Sides[1].Reason, s.StaleBytes, s.Unrecorded)
}

func (r *rig) do(op frontend.Op, off int64, data []byte) syscall.Errno {
	r.t.Helper()
	q := &frontend.Request{Op: op, Off: off, Len: int64(len(data)), Data: data}
	if op == frontend.Zero {
		q.Data = nil
	}
	r.e.Submit(q)
	r.until(op.String(), func() bool { return r.freed[q] || (len(r.held) > 0 && q.Engine != nil && q.Engine.(*request).gone) })
	return q.Err
}

func (r *rig) face(f drivers.FaceState) func() bool {
	return func() bool { return r.e.Snapshot().Face == f }
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func (r *rig) equal() {
	r.t.Helper()
	n := r.e.id.DataBytes
	if !bytes.Equal(r.legs[0][:n], r.legs[1][:n]) {
		r.t.Fatal("the legs differ")
	}
}

func duplexRig(t *testing.T) *rig {
	r := newRig(t)
	r.newEngine()
	if err := r.e.Start([2]*Leg{r.leg(0), r.leg(1)}, nil, [2]bool{}); err != nil {
		t.Fatal(err)
	}
	if err := r.e.Attach(1, r.leg(1), ""); err != nil {
		t.Fatal(err)
	}
	r.until("duplex", r.face(drivers.FaceDuplex))
	return r
}

func (r *rig) stop() {
	done := false
	r.e.Stop(func(err error) {
		done = true
		if err != nil {
			r.t.Fatalf("stop: %v", err)
		}
	})
	r.until("stop", func() bool { return done })
}

func TestLegLostAndResyncedFast(t *testing.T) {
	r := duplexRig(t)
	if e := r.do(frontend.Write, 1<<20, fill(1, 8192)); e != 0 {
		t.Fatal(e)
	}
	r.do(frontend.Flush, 0, nil)
	r.fail[1] = syscall.EIO
	if e := r.do(frontend.Write, 2<<20, fill(2, 4096)); e != 0 {
		t.Fatalf("a write error of one leg reached the application: %v", e)
	}
	s := r.e.Snapshot()
	if s.Face != drivers.FaceSimplex || s.Sides[1].State != drivers.Shot {
		t.Fatalf("after a write error: %v %v", s.Face, s.Sides[1].State)
	}
	if r.witness.Survivor != 0 {
		t.Fatalf("the witness names %d", r.witness.Survivor)
	}
	r.do(frontend.Write, 3<<20, fill(3, 4096))
	r.fail[1] = 0
	before := r.e.Snapshot().Counters.ResyncedBytes
	if err := r.e.Attach(1, r.leg(1), ""); err != nil {
		t.Fatal(err)
	}
	r.until("duplex again", r.face(drivers.FaceDuplex))
	if n := r.e.Snapshot().Counters.ResyncedBytes - before; n != 2*metadata.DefaultRegionSize {
		t.Errorf("the fast resync copied %d bytes, two regions were missed", n)
	}
	r.equal()
	r.stop()
	r.newEngine()
	if err := r.e.Start([2]*Leg{r.leg(0), r.leg(1)}, r.witness, [2]bool{}); err != nil {
		t.Fatal(err)
	}
	if err := r.e.Attach(1, r.leg(1), ""); err != nil {
		t.Fatal(err)
	}
	if s := r.e.Snapshot(); s.Face != drivers.FaceDuplex {
		t.Errorf("after a clean stop: %v, %d stale", s.Face, s.StaleBytes)
	}
}

func TestCrashResyncsTheMarkedExtents(t *testing.T) {
	r := duplexRig(t)
	r.do(frontend.Write, 5<<20, fill(7, 4096))
	w := &frontend.Request{Op: frontend.Write, Off: 9 << 20, Len: 4096, Data: fill(9, 4096)}
	r.hang[1] = true
	r.e.Submit(w)
	for range 50 {
		r.step()
	}
	// A crash: what was under way on leg 1 is gone.
	r.queue, r.held, r.hang[1] = nil, nil, false
	r.newEngine()
	if err := r.e.Start([2]*Leg{r.leg(0), r.leg(1)}, r.witness, [2]bool{}); err != nil {
		t.Fatal(err)
	}
	if err := r.e.Attach(1, r.leg(1), ""); err != nil {
		t.Fatal(err)
	}
	if s := r.e.Snapshot(); s.Face != drivers.FaceSyncing || s.StaleBytes == 0 || s.StaleBytes > 8<<20 {
		t.Fatalf("after a crash: %v, %d stale", s.Face, s.StaleBytes)
	}
	got := make([]byte, 4096)
	r.do(frontend.Read, 9<<20, got)
	if !bytes.Equal(got, r.legs[1][9<<20:9<<20+4096]) {
		t.Error("a suspect region was read before it was made equal")
	}
	r.until("duplex", r.face(drivers.FaceDuplex))
	r.equal()
}

func TestHungLegIsCutOff(t *testing.T) {
	r := duplexRig(t)
	r.do(frontend.Write, 0, fill(1, 4096))
	r.hang[0] = true
	if e := r.do(frontend.Write, 0, fill(2, 4096)); e != 0 {
		t.Fatal(e)
	}
	got := make([]byte, 4096)
	if e := r.do(frontend.Read, 0, got); e != 0 || got[0] != 2 {
		t.Fatalf("read %v %v", e, got[0])
	}
	s := r.e.Snapshot()
	if s.Sides[0].State != drivers.Shot || !s.Sides[0].Draining {
		t.Fatalf("leg 0 is %v, draining %v", s.Sides[0].State, s.Sides[0].Draining)
	}
	var ref *drivers.Refused
	if err := r.e.Attach(0, r.leg(0), ""); !errors.As(err, &ref) || ref.Code != drivers.RuleBusy {
		t.Fatalf("a leg that still hangs was attached: %v", err)
	}
	r.hang[0] = false
	r.queue, r.held = append(r.queue, r.held...), nil
	r.until("drained", func() bool { return r.e.Drained(0) })
	if err := r.e.Attach(0, r.leg(0), ""); err != nil {
		t.Fatal(err)
	}
	r.until("duplex", r.face(drivers.FaceDuplex))
	r.equal()
}

func TestHungLegUnderReads(t *testing.T) {
	r := duplexRig(t)
	r.hang[1] = true
	got := make([]byte, 4096)
	for range 3 {
		if e := r.do(frontend.Read, 0, got); e != 0 {
			t.Fatal(e)
		}
	}
	r.until("cut off", func() bool { return r.e.Snapshot().Sides[1].State == drivers.Shot })
}

func TestLastLegIsKept(t *testing.T) {
	r := duplexRig(t)
	if err := r.e.Detach(1, drivers.Reason{Text: "test"}); err != nil {
		t.Fatal(err)
	}
	err := r.e.Detach(0, drivers.Reason{Text: "test"})
	if err == nil || !strings.Contains(err.Error(), "pci0/disk0 is the only good side of disk0") {
		t.Fatalf("detach of the last leg: %v", err)
	}
	r.fail[0] = syscall.EIO
	if e := r.do(frontend.Write, 0, fill(1, 4096)); e != syscall.EIO {
		t.Fatalf("write error of the last leg: %v", e)
	}
	if s := r.e.Snapshot(); s.Face != drivers.FaceSimplex {
		t.Fatalf("the last leg was cut off: %v", s.Face)
	}
}

func TestStaleLegIsRefused(t *testing.T) {
	r := duplexRig(t)
	r.fail[1] = syscall.EIO
	r.do(frontend.Write, 0, fill(1, 4096))
	r.newEngine()
	err := r.e.Start([2]*Leg{nil, r.leg(1)}, r.witness, [2]bool{})
	var ref *drivers.Refused
	if !errors.As(err, &ref) {
		t.Fatalf("a leg that is behind was served: %v", err)
	}
	t.Log(err)
	if err := r.e.Resolve(1, [2]*Leg{nil, r.leg(1)}, r.witness); err != nil {
		t.Fatal(err)
	}
	r.fail[1] = 0
	if e := r.do(frontend.Write, 4096, fill(5, 4096)); e != 0 {
		t.Fatal(e)
	}
	// The other one comes back: it was written alone as well.
	if err := r.e.Attach(0, r.leg(0), ""); err == nil {
		t.Fatal("split-brain was not noticed")
	} else {
		t.Log(err)
	}
	if err := r.e.Attach(0, r.leg(0), drivers.RiskOverwrite); err != nil {
		t.Fatal(err)
	}
	r.until("duplex", r.face(drivers.FaceDuplex))
	r.equal()
}

func TestZeroReadsAsZeroes(t *testing.T) {
	r := duplexRig(t)
	r.do(frontend.Write, 0, fill(1, 65536))
	if e := r.do(frontend.Zero, 4096, make([]byte, 8192)); e != 0 {
		t.Fatal(e)
	}
	got := make([]byte, 16384)
	r.do(frontend.Read, 0, got)
	if got[4095] != 1 || got[4096] != 0 || got[12287] != 0 || got[12288] != 1 {
		t.Error("the zeroed range is wrong")
	}
	r.equal()
}

// TestWritesDuringResync: every write under way while a leg comes in is on both legs.
func TestWritesDuringResync(t *testing.T) {
	r := newRig(t)
	r.newEngine()
	if err := r.e.Start([2]*Leg{r.leg(0), r.leg(1)}, nil, [2]bool{}); err != nil {
		t.Fatal(err)
	}
	r.do(frontend.Write, 0, fill(1, 4096))
	if err := r.e.Attach(1, r.leg(1), ""); err != nil {
		t.Fatal(err)
	}
	for i := range 400 {
		q := &frontend.Request{Op: frontend.Write, Off: int64(i*37%200) << 16, Len: 4096, Data: fill(byte(i), 4096)}
		r.e.Submit(q)
		r.step()
	}
	r.until("duplex", r.face(drivers.FaceDuplex))
	r.until("quiet", func() bool { return r.e.Snapshot().Active == 0 })
	r.equal()
}
