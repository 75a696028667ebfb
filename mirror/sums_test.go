package mirror

import (
	"bytes"
	"syscall"
	"testing"

	"ft/drivers"
	"ft/mirror/frontend"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// summedRig is a mirror in duplex with a checksum for every block.
func summedRig(t *testing.T) *rig {
	r := newRig(t)
	r.integrity = IntegrityCRC32C
	r.newEngine()
	if err := r.e.Start([2]*Leg{r.leg(0), r.leg(1)}, nil, [2]bool{}); err != nil {
		t.Fatal(err)
	}
	if err := r.e.Attach(1, r.leg(1), ""); err != nil {
		t.Fatal(err)
	}
	r.until("checksums", func() bool { s := r.e.ScrubStatus(); return r.e.sums.on && !s.Build && s.Phase == scrub.Idle })
	r.until("duplex", r.face(drivers.FaceDuplex))
	return r
}

// settled lets time pass until no mark is left.
func (r *rig) settled() {
	r.t.Helper()
	r.until("no marks", func() bool { return r.e.marked.Count() == 0 && r.e.marking.Count() == 0 && !r.e.intent.busy })
}

// table checks a leg's table against its data and says how many blocks are unknown.
func (r *rig) table(side int) (unknown int) {
	r.t.Helper()
	y := r.e.layout
	for n := range y.DataBytes / metadata.BlockSize {
		at := y.ChecksumOff + n*4
		switch sum := metadata.GetSum(r.legs[side][at:], 0); sum {
		case metadata.NoSum:
			unknown++
		case metadata.BlockSum(r.legs[side][n*metadata.BlockSize:][:metadata.BlockSize], n):
		default:
			r.t.Fatalf("leg %d: the checksum of block %d is wrong", side, n)
		}
	}
	return unknown
}

func (r *rig) reads(off int64, want []byte) {
	r.t.Helper()
	got := make([]byte, len(want))
	q := &frontend.Request{Op: frontend.Read, Off: off, Len: int64(len(got)), Data: got}
	r.e.Submit(q)
	r.until("read", func() bool { return r.freed[q] })
	if q.Err != 0 || !bytes.Equal(q.Data, want) {
		r.t.Fatalf("a read at %d: %v, right: %v", off, q.Err, bytes.Equal(q.Data, want))
	}
}

func TestTablesHoldOnceTheMarksAreGone(t *testing.T) {
	r := summedRig(t)
	r.do(frontend.Write, 1<<20, fill(1, 16384))
	r.do(frontend.Write, 2<<20+512, fill(2, 1024)) // a part of a block
	r.do(frontend.Write, 3<<20+3584, fill(3, 4096))
	r.do(frontend.Zero, 1<<20+4608, make([]byte, 4096)) // parts of two
	r.settled()
	for side := range 2 {
		if n := r.table(side); n > 0 {
			t.Errorf("leg %d: %d blocks have no checksum", side, n)
		}
	}
	r.equal()
	r.stop()
}

// What is wrong on a leg is answered from the other one, healed, counted and told.
func TestReadIsVerifiedAndHealed(t *testing.T) {
	r := summedRig(t)
	want := fill(7, 64<<10)
	r.do(frontend.Write, 1<<20, want)
	// Also when each leg is wrong somewhere in the same read.
	r.legs[0][1<<20+5000] ^= 1
	r.legs[1][1<<20+60000] ^= 0x80
	for range 4 {
		r.reads(1<<20, want)
		r.reads(1<<20+4608, want[:512])
	}
	r.until("both to be healed", func() bool {
		r.reads(1<<20, want)
		return r.e.ScrubStatus().Outstanding.Repaired == 8192
	})
	if o := r.e.ScrubStatus().Outstanding; o.Wrong != [2]int64{4096, 4096} {
		t.Errorf("counted: %+v", o)
	}
	r.equal()
	told := 0
	for _, ev := range r.events {
		if ev.Fault == "mismatch" && ev.Detail["what"] == scrub.Wrong {
			told++
		}
	}
	if told != 2 {
		t.Errorf("%d events tell of it", told)
	}
}

func TestWhatIsWrongOnBothLegsIsAnError(t *testing.T) {
	r := summedRig(t)
	r.do(frontend.Write, 1<<20, fill(7, 8192))
	r.legs[0][1<<20] ^= 1
	r.legs[1][1<<20+1] ^= 3
	if errno := r.do(frontend.Read, 1<<20, make([]byte, 4096)); errno != syscall.EIO {
		t.Fatalf("a read: %v", errno)
	}
	if errno := r.do(frontend.Write, 1<<20+512, fill(1, 512)); errno != syscall.EIO {
		t.Fatalf("a write of a part of it: %v", errno)
	}
	r.reads(1<<20+4096, fill(7, 4096)) // its neighbour
	// A write of the whole ends it.
	r.do(frontend.Write, 1<<20, fill(9, 4096))
	r.reads(1<<20, fill(9, 4096))
	// So does an admin's word.
	r.legs[0][1<<20+4096] ^= 1
	r.legs[1][1<<20+4097] ^= 3
	if found := r.scrubbed(true, 1); found.Lost != 4096 || found.Repaired != 4096 {
		t.Fatalf("a scrub that repairs from a side: %+v", found)
	}
	r.equal()
	if errno := r.do(frontend.Read, 1<<20+4096, make([]byte, 4096)); errno != 0 {
		t.Fatalf("after a repair from a named side: %v", errno)
	}
}

func TestScrubKnowsWhichLegIsWrong(t *testing.T) {
	r := summedRig(t)
	r.do(frontend.Write, 1<<20, fill(7, 8192))
	r.settled()
	r.legs[0][1<<20+5] ^= 1
	r.legs[1][9<<20] ^= 1
	r.legs[1][r.e.layout.ChecksumOff+4000] ^= 1 // a checksum
	found := r.scrubbed(false, scrub.NoSide)
	if found.Wrong != [2]int64{4096, 4096} || found.Repaired < 8192 || found.Differ+found.Lost != 0 {
		t.Fatalf("found %+v", found)
	}
	r.equal()
	r.until("a clean scrub", func() bool { return r.scrubbed(false, scrub.NoSide).Clean() })
	r.settled()
	r.table(0)
	r.table(1)
}

// A leg that was away has the checksums of what it missed, before it serves alone.
func TestLegThatComesBackHasItsTable(t *testing.T) {
	r := summedRig(t)
	r.do(frontend.Write, 1<<20, fill(1, 8192))
	r.do(frontend.Flush, 0, nil)
	if err := r.e.Detach(1, drivers.Reason{Text: "test"}); err != nil {
		t.Fatal(err)
	}
	r.do(frontend.Write, 5<<20, fill(2, 8192))
	r.settled()
	before := r.e.Snapshot().Counters.ResyncedBytes
	if err := r.e.Attach(1, r.leg(1), ""); err != nil {
		t.Fatal(err)
	}
	r.until("duplex again", r.face(drivers.FaceDuplex))
	if n := r.e.Snapshot().Counters.ResyncedBytes - before; n > 2*metadata.DefaultRegionSize {
		t.Errorf("%d bytes were copied: more than was missed", n)
	}
	r.settled()
	r.table(1)
	r.stop()
	r.newEngine()
	if err := r.e.Start([2]*Leg{nil, r.leg(1)}, r.witness, [2]bool{}); err != nil {
		t.Fatal(err)
	}
	r.reads(1<<20, fill(1, 8192))
	r.reads(5<<20, fill(2, 8192))
}

// After a crash what was being written may not be refuted by an old checksum.
func TestChecksumsOfMarkedExtentsAreSoftAfterACrash(t *testing.T) {
	r := summedRig(t)
	r.do(frontend.Write, 1<<20, fill(1, 8192))
	r.do(frontend.Flush, 0, nil)
	r.settled()
	r.do(frontend.Write, 1<<20, fill(2, 8192)) // its checksum is in memory only
	r.queue, r.replies = nil, nil
	r.legs[0][1<<20+12288] ^= 1 // near it, on the leg that will be the source; its checksum confirms what the other leg has
	r.newEngine()
	if err := r.e.Start([2]*Leg{r.leg(0), r.leg(1)}, r.witness, [2]bool{}); err != nil {
		t.Fatal(err)
	}
	r.reads(1<<20, fill(2, 8192))
	if err := r.e.Attach(1, r.leg(1), ""); err != nil {
		t.Fatal(err)
	}
	r.until("duplex", r.face(drivers.FaceDuplex))
	r.reads(1<<20, append(fill(2, 8192), make([]byte, 8192)...))
	r.equal()
	r.settled()
	r.table(0)
	r.table(1)
}

// Turned off and on again, the table of before is not believed.
func TestChecksumsOffAndOn(t *testing.T) {
	r := summedRig(t)
	r.do(frontend.Write, 1<<20, fill(1, 8192))
	r.stop()
	restart := func(integrity string) {
		r.integrity = integrity
		r.newEngine()
		r.e.RestoreScrub(r.scrub)
		if err := r.e.Start([2]*Leg{r.leg(0), r.leg(1)}, r.witness, [2]bool{}); err != nil {
			t.Fatal(err)
		}
		if err := r.e.Attach(1, r.leg(1), ""); err != nil {
			t.Fatal(err)
		}
		r.until("duplex", r.face(drivers.FaceDuplex))
	}
	restart("none")
	r.do(frontend.Write, 1<<20, fill(2, 8192))
	r.settled()
	if r.leg(0).Image.Super.Sums || r.leg(1).Image.Super.Sums {
		t.Fatal("a leg still says that its checksums hold")
	}
	r.stop()
	restart(IntegrityCRC32C)
	r.reads(1<<20, fill(2, 8192))
	r.until("checksums", func() bool { s := r.e.ScrubStatus(); return r.e.sums.on && !s.Build && s.Phase == scrub.Idle })
	r.settled()
	r.until("tables", func() bool { return r.table(0)+r.table(1) == 0 })
	r.reads(1<<20, fill(2, 8192))
}
