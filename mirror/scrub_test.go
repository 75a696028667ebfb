package mirror

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ft/drivers"
	"ft/mirror/frontend"
	"ft/mirror/legio"
	"ft/mirror/scrub"
)

func (r *rig) idle() bool { return r.e.ScrubStatus().Phase == scrub.Idle }

// scrubbed runs a scrub to its end and gives what it found.
func (r *rig) scrubbed(repair bool, from int) scrub.Tally {
	r.t.Helper()
	if err := r.e.Scrub(repair, from); err != nil {
		r.t.Fatal(err)
	}
	r.until("the scrub's end", r.idle)
	return r.e.ScrubStatus().Last.Found
}

func TestScrubFindsWhatDiffersAndRepairsOnlyOnAWord(t *testing.T) {
	r := duplexRig(t)
	r.do(frontend.Write, 1<<20, fill(1, 8192))
	if got := r.scrubbed(false, scrub.NoSide); !got.Clean() {
		t.Fatalf("two equal legs: %+v", got)
	}
	r.legs[1][1<<20+100] ^= 1
	r.legs[1][3<<20+5000] ^= 1
	if got := r.scrubbed(false, scrub.NoSide); got != (scrub.Tally{Differ: 8192}) {
		t.Fatalf("two blocks differ: %+v", got)
	}
	f := r.e.ScrubStatus().Findings
	if len(f) != 2 || f[0].Offset != 1<<20 || f[0].Bytes != 4096 || f[1].Offset != 3<<20+4096 || f[0].Side != scrub.NoSide || f[0].Repaired {
		t.Fatalf("findings %+v", f)
	}
	var ref *drivers.Refused
	if err := r.e.Scrub(true, scrub.NoSide); !errors.As(err, &ref) || ref.Code != RuleWhichSide {
		t.Fatalf("a repair without a side: %v", err)
	}
	if got := r.scrubbed(true, 0); got != (scrub.Tally{Differ: 8192, Repaired: 8192}) {
		t.Fatalf("repaired: %+v", got)
	}
	r.equal()
	if r.legs[1][1<<20+100] != 1 {
		t.Fatal("the wrong side was kept")
	}
	if o := r.e.ScrubStatus().Outstanding; o.Differ != 2*8192 {
		t.Fatalf("mismatches since the last clean scrub: %+v", o)
	}
	r.scrubbed(false, scrub.NoSide)
	if o := r.e.ScrubStatus().Outstanding; !o.Clean() {
		t.Fatalf("a clean scrub has not reset the counters: %+v", o)
	}
}

// A write is on one leg before it is on the other: no scrub may see that.
func TestScrubIsNotFooledByWrites(t *testing.T) {
	r := duplexRig(t)
	if err := r.e.Scrub(false, scrub.NoSide); err != nil {
		t.Fatal(err)
	}
	if err := r.e.SetPriority(PriorityHigh); err != nil {
		t.Fatal(err)
	}
	for i := 0; !r.idle(); i++ {
		if i > 5000 {
			t.Fatal("the scrub does not get to its end beside writes")
		}
		r.do(frontend.Write, int64(i*37%3000)*4096, fill(byte(i), 12288))
	}
	if got := r.e.ScrubStatus().Last.Found; !got.Clean() {
		t.Fatalf("found %+v", got)
	}
}

func TestScrubWaitsForBothLegsAndGoesOnAfterARestart(t *testing.T) {
	r := duplexRig(t)
	if err := r.e.Scrub(false, scrub.NoSide); err != nil {
		t.Fatal(err)
	}
	r.until("half of it", func() bool { return r.e.ScrubStatus().Position >= 4<<20 })
	if err := r.e.Detach(1, drivers.Reason{Text: "test"}); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		r.step()
		r.now += int64(100 * time.Millisecond)
		r.e.Tick()
	}
	st := r.e.ScrubStatus()
	if st.Phase != scrub.Running || st.Waits == "" || st.Position < 4<<20 {
		t.Fatalf("with one leg: %+v", st)
	}
	kept := r.scrub
	if kept.Position != st.Position {
		t.Fatalf("%d is kept, it is at %d", kept.Position, st.Position)
	}
	// The process dies; what it had under way is not waited for.
	r.queue, r.replies = nil, nil
	r.newEngine()
	r.e.RestoreScrub(kept)
	if err := r.e.Start([2]*Leg{r.leg(0), nil}, r.witness, [2]bool{}); err != nil {
		t.Fatal(err)
	}
	if err := r.e.Attach(1, r.leg(1), ""); err != nil {
		t.Fatal(err)
	}
	read := r.e.Snapshot().Sides[0].Counters.Reads
	r.until("its end", r.idle)
	if n := r.e.Snapshot().Sides[0].Counters.Reads - read; n > 20 {
		t.Errorf("%d reads: it has begun anew", n)
	}
	if st := r.e.ScrubStatus(); st.Last == nil || !st.Last.Found.Clean() {
		t.Fatalf("after a restart: %+v", st.Last)
	}
}

func TestScrubPauseResumeCancel(t *testing.T) {
	r := duplexRig(t)
	if r.e.PauseScrub() == nil || r.e.ResumeScrub() == nil || r.e.CancelScrub() == nil {
		t.Fatal("there is no scrub, and an admin is obeyed")
	}
	if err := r.e.Scrub(false, scrub.NoSide); err != nil {
		t.Fatal(err)
	}
	if r.e.Scrub(false, scrub.NoSide) == nil {
		t.Fatal("two scrubs at once")
	}
	r.step()
	if err := r.e.PauseScrub(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		r.step()
	}
	at := r.e.ScrubStatus().Position
	for range 50 {
		r.now += int64(time.Second)
		r.e.Tick()
		if r.step() && r.e.ScrubStatus().Position != at {
			t.Fatal("a paused scrub goes on")
		}
	}
	if p := r.e.Snapshot().Sides[0].Progress; p == nil || p.What != "scrub" || p.ETASeconds >= 0 && p.Percent < 100 {
		t.Fatalf("progress while paused: %+v", p)
	}
	if err := r.e.ResumeScrub(); err != nil {
		t.Fatal(err)
	}
	r.step()
	if err := r.e.CancelScrub(); err != nil {
		t.Fatal(err)
	}
	if st := r.e.ScrubStatus(); st.Last != nil || st.Phase != scrub.Idle {
		t.Fatalf("cancelled: %+v", st)
	}
	if got := r.scrubbed(false, scrub.NoSide); !got.Clean() {
		t.Fatalf("afterwards: %+v", got)
	}
}

func TestScrubIsDue(t *testing.T) {
	r := duplexRig(t)
	r.e.opt.ScrubEvery = 5 * time.Minute
	begun := r.now
	r.until("a scheduled scrub", func() bool { return !r.idle() })
	if waited := time.Duration(r.now - begun); waited < 4*time.Minute || waited > 6*time.Minute {
		t.Errorf("it began after %v", waited)
	}
	if st := r.e.ScrubStatus(); !st.Scheduled {
		t.Errorf("%+v", st)
	}
	r.until("its end", r.idle)
	if due := r.e.ScrubStatus().Due; !due.Equal(r.e.ScrubStatus().Last.Ended.Add(5 * time.Minute)) {
		t.Errorf("the next one is due at %v", due)
	}
}

// A sector that one leg cannot read is found, and written anew.
func TestScrubHealsWhatCannotBeRead(t *testing.T) {
	r := duplexRig(t)
	r.do(frontend.Write, 5<<20, fill(7, 8192))
	r.bad = func(io *legio.IO) bool {
		return io.Side == 1 && io.Off <= 5<<20 && io.Off+io.Len > 5<<20
	}
	clear(r.legs[1][5<<20 : 5<<20+4096])
	got := r.scrubbed(false, scrub.NoSide)
	if got != (scrub.Tally{Wrong: [2]int64{0, 4096}, Repaired: 4096}) {
		t.Fatalf("found %+v", got)
	}
	r.equal()
	if s := r.e.Snapshot(); s.Face != drivers.FaceDuplex {
		t.Fatalf("the face is %v", s.Face)
	}
}

// Under load a scrub keeps to the least rate at low priority, and does not care at high.
func TestScrubPriority(t *testing.T) {
	took := func(p Priority) time.Duration {
		r := duplexRig(t)
		if err := r.e.SetPriority(p); err != nil {
			t.Fatal(err)
		}
		if err := r.e.Scrub(false, scrub.NoSide); err != nil {
			t.Fatal(err)
		}
		begun := r.now
		for !r.idle() {
			r.e.Submit(&frontend.Request{Op: frontend.Read, Len: 512, Data: make([]byte, 512)})
			for range 3 {
				r.step()
			}
			r.now += int64(5 * time.Millisecond)
			r.e.Tick()
		}
		return time.Duration(r.now - begun)
	}
	low, high := took(PriorityLow), took(PriorityHigh)
	if least := time.Duration(float64(rigBytes) / DefaultResyncRateMin * float64(time.Second)); low < least*8/10 || low > 2*least {
		t.Errorf("at low priority it took %v, the least rate makes %v", low, least)
	}
	if high > low/4 {
		t.Errorf("at high priority it took %v, at low %v", high, low)
	}
	if err := duplexRig(t).e.SetPriority("urgent"); err == nil || !strings.Contains(err.Error(), "urgent") {
		t.Errorf("priority urgent: %v", err)
	}
}
