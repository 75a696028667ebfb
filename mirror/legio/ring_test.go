package legio

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/faultfile"
)

// Two event loops with many writes in flight on the same two legs, each in blocks of its
// own; then everything is read back by the other loop.
func TestManyInFlightFromTwoLoops(t *testing.T) {
	const size, deep, rounds = 32 * mib, 100, 25 // more than the device has room for
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	legs := [3]*Leg{mustOpen(t, sparse(t, size), OpenOptions{}), mustOpen(t, sparse(t, size), OpenOptions{})}
	loops := [2]*eventLoop{newEventLoop(t), newEventLoop(t)}
	last := make([]uint64, size/4096) // what each block holds
	var all sync.WaitGroup
	for i, l := range loops {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for range rounds {
				ios, used := []*IO{}, map[int64]bool{}
				for len(ios) < 2*deep {
					block := rnd.Int64N(size/8192)*2 + int64(i)
					if used[block] {
						continue
					}
					used[block] = true
					last[block] = rnd.Uint64()
					for side := range int8(2) {
						io := write(block*4096, 4096, 0)
						io.Side = side
						stamp(io.Buf, last[block])
						ios = append(ios, io)
					}
				}
				ended := make(chan *IO, len(ios))
				for _, io := range ios {
					io.Owner = func(io *IO) { ended <- io }
				}
				l.do(func() { l.ring.Submit(ios, legs) })
				for range ios {
					if io := wait(t, ended); io.Err != 0 {
						t.Errorf("write at %d on leg %d: %v", io.Off, io.Side, io.Err)
					}
				}
			}
		})
	}
	all.Wait()
	for side, leg := range legs[:len(loops)] {
		var ios []*IO
		for off := int64(0); off < size; off += mib / 4 {
			ios = append(ios, read(off, mib/4))
		}
		ended := loops[side].start(leg, ios...)
		for range ios {
			io := wait(t, ended)
			if io.Err != 0 {
				t.Fatalf("read at %d on leg %d: %v", io.Off, side, io.Err)
			}
			want := make([]byte, 4096)
			for at := int64(0); at < io.Len; at += 4096 {
				block := (io.Off + at) / 4096
				if stamp(want, last[block]); !bytes.Equal(io.Buf[at:at+4096], want) {
					t.Fatalf("leg %d block %d: not what was written last", side, block)
				}
			}
		}
		if !leg.Quiet() {
			t.Errorf("leg %d is not quiet when everything has ended", side)
		}
	}
}

// stamp fills a block with a value; 0 is a block never written.
func stamp(b []byte, v uint64) {
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], v)
	}
}

// Sizes around those where an IO is cut into pieces, and those left to workers.
func TestSizes(t *testing.T) {
	leg, l := mustOpen(t, sparse(t, 64*mib), OpenOptions{}), newEventLoop(t)
	t.Run("nowait", func(t *testing.T) { testSizes(t, leg, l) })
	leg.waits.Store(true)
	t.Run("driver without nowait", func(t *testing.T) { testSizes(t, leg, l) })
}

func testSizes(t *testing.T, leg *Leg, l *eventLoop) {
	for i, n := range []int64{512, 4096, leg.piece - 4096, leg.piece, leg.piece + 512, mib, piecesMax * leg.piece, piecesMax*leg.piece + 4096, 20 * mib} {
		fill := byte(i + 1)
		off := int64(i) * 512 // not aligned to pages on the device
		if e := l.one(leg, write(off, n, fill)); e != 0 {
			t.Fatalf("write of %d bytes: %v", n, e)
		}
		io := read(off, n)
		if e := l.one(leg, io); e != 0 || !filled(io, fill) {
			t.Fatalf("read of %d bytes: error %v, or not what was written", n, e)
		}
	}
}

func TestIllFormedIsRefused(t *testing.T) {
	leg, l := mustOpen(t, sparse(t, mib), OpenOptions{}), newEventLoop(t)
	unaligned := read(0, 8192)
	unaligned.Buf, unaligned.Len = unaligned.Buf[512:512+4096], 4096
	for name, io := range map[string]*IO{
		"beyond the end":  read(mib-4096, 8192),
		"before 0":        read(-4096, 4096),
		"offset":          read(100, 4096),
		"empty":           {Op: Write},
		"length not Buf":  {Op: Write, Len: 8192, Buf: alignedBytes(4096)},
		"buffer":          unaligned,
		"zero beyond end": {Op: Zero, Off: 0, Len: 2 * mib},
		"overflow":        {Op: Zero, Off: 1 << 62, Len: 1 << 62},
	} {
		if e := l.one(leg, io); e != syscall.EINVAL {
			t.Errorf("%s: %v, want EINVAL", name, e)
		}
	}
	if e := l.one(nil, read(0, 4096)); e != syscall.ENODEV {
		t.Errorf("no leg: %v, want ENODEV", e)
	}
	other, err := Open(sparse(t, mib), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	if e := l.one(other, read(0, 4096)); e != syscall.ENODEV {
		t.Errorf("closed leg: %v, want ENODEV", e)
	}
}

func TestFlushReachesTheFile(t *testing.T) {
	f := faultfile.New(t, 4*mib)
	leg, l := mustOpen(t, f.Loop(t), OpenOptions{}), newEventLoop(t)
	f.Trace()
	if e := l.one(leg, write(0, 4096, 1)); e != 0 {
		t.Fatal(e)
	}
	if e := l.one(leg, &IO{Op: Flush}); e != 0 {
		t.Fatal(e)
	}
	ops := f.Ops()
	if len(ops) != 2 || ops[0].Kind != faultfile.Write || ops[1].Kind != faultfile.Flush {
		t.Errorf("the file saw %v, want a write and a flush", ops)
	}
}

func TestZeroFreesSpaceAndReadsAsZeroes(t *testing.T) {
	for _, method := range []zeroMethod{zeroPunch, zeroRange, zeroWrite} {
		path := sparse(t, 16*mib)
		leg, l := mustOpen(t, path, OpenOptions{}), newEventLoop(t)
		leg.zeroing.Store(int32(method))
		if e := l.one(leg, write(0, 8*mib, 7)); e != 0 {
			t.Fatal(e)
		}
		full := blocks(t, path)
		off, n := mib+512, 4*mib+1024
		if e := l.one(leg, &IO{Op: Zero, Off: off, Len: n}); e != 0 {
			t.Fatalf("method %d: %v", method, e)
		}
		io := read(0, 8*mib)
		if e := l.one(leg, io); e != 0 {
			t.Fatal(e)
		}
		want := bytes.Repeat([]byte{7}, int(8*mib))
		clear(want[off : off+n])
		if !bytes.Equal(io.Buf, want) {
			t.Errorf("method %d: not exactly the range reads as zeroes", method)
		}
		if left := blocks(t, path); method == zeroPunch && left > full-(n-8192)/512 {
			t.Errorf("punching %d bytes left %d blocks of %d", n, left, full)
		}
	}
}

// A device that cannot punch: the refusal leads to the next method, for good.
func TestZeroFallsBack(t *testing.T) {
	f := faultfile.New(t, 4*mib)
	leg, l := mustOpen(t, f.Loop(t), OpenOptions{}), newEventLoop(t)
	f.FailZeroes(syscall.EOPNOTSUPP)
	if e := l.one(leg, write(0, mib, 7)); e != 0 {
		t.Fatal(e)
	}
	for range 2 {
		if e := l.one(leg, &IO{Op: Zero, Off: 4096, Len: mib - 8192}); e != 0 {
			t.Fatal(e)
		}
	}
	if m := zeroMethod(leg.zeroing.Load()); m == zeroPunch {
		t.Error("it still punches")
	}
	if n := f.Written(4096, mib-8192); n != 3*(mib-8192) {
		t.Errorf("%d bytes were written for one write and two zeroings of %d", n, mib-8192)
	}
	io := read(0, mib)
	if e := l.one(leg, io); e != 0 || io.Buf[4095] != 7 || !bytes.Equal(io.Buf[4096:mib-4096], make([]byte, mib-8192)) || io.Buf[mib-4096] != 7 {
		t.Errorf("not exactly the range reads as zeroes (%v)", e)
	}
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Sync() // allocation may be delayed
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

// A leg that hangs with many more requests than its queue has: neither Submit nor the
// other leg waits for it, and when it comes back everything ends.
func TestHungLegHoldsUpNothing(t *testing.T) {
	f := faultfile.New(t, 16*mib)
	hung := mustOpen(t, f.Loop(t), OpenOptions{})
	hung.deadline = 100 * time.Millisecond // of the read below; opening may take its time
	well := mustOpen(t, sparse(t, 16*mib), OpenOptions{})
	loops := [2]*eventLoop{newEventLoop(t), newEventLoop(t)}
	f.Hang()
	var waiting []chan *IO
	const each = 400
	for _, l := range loops {
		var ios []*IO
		for i := range int64(each) {
			switch i % 20 {
			case 17:
				ios = append(ios, &IO{Op: Flush})
			case 18:
				ios = append(ios, &IO{Op: Zero, Off: 8 * mib, Len: mib})
			case 19:
				ios = append(ios, write(0, 6*mib, 1)) // for the workers
			case 16:
				ios = append(ios, write(i*4096, mib, 1))
			default:
				ios = append(ios, write(i*4096, 4096, 1))
			}
		}
		waiting = append(waiting, l.start(hung, ios...)) // fails when Submit blocks
	}
	waitFor(t, "the hung leg to be full", func() bool { return hung.inflight.Load() > hung.depth-piecesMax })
	for i := range int64(200) {
		for _, l := range loops {
			if e := l.one(well, write(i*4096, 4096, 2)); e != 0 {
				t.Fatal(e)
			}
		}
	}
	if hung.Quiet() || len(waiting[0])+len(waiting[1]) != 0 {
		t.Error("something on the hung leg ended")
	}
	if n, err := hung.Inflight(); err != nil || n == 0 || n > int(hung.depth)+workersMax {
		t.Errorf("%d requests are in flight in the kernel (%v), want up to %d", n, err, hung.depth+workersMax)
	}
	if _, err := hung.ReadAt(make([]byte, 10), 0); !Hung(err) {
		t.Errorf("a synchronous read of the hung leg: %v, want that it gave no answer", err)
	}
	f.Resume()
	for _, ended := range waiting {
		for range each {
			if io := wait(t, ended); io.Err != 0 {
				t.Errorf("%v at %d after the leg came back: %v", io.Op, io.Off, io.Err)
			}
		}
	}
	waitFor(t, "the leg to be quiet", hung.Quiet)
}

// A hung leg that is closed: what waits ends at once, what the device has ends when it
// does, and only then is the device let go.
func TestCloseOfHungLeg(t *testing.T) {
	f := faultfile.New(t, 16*mib)
	dev := f.Loop(t)
	leg := mustOpen(t, dev, OpenOptions{})
	l := newEventLoop(t)
	f.Hang()
	var ios []*IO
	for i := range int64(300) {
		ios = append(ios, write(i*4096, 4096, 1))
	}
	ended := l.start(leg, ios...)
	waitFor(t, "writes to be held", func() bool { return f.Held() > 0 })
	leg.Close()
	for range len(ios) - int(leg.depth) {
		if io := wait(t, ended); io.Err != syscall.ENODEV {
			t.Fatalf("what was queued ended with %v, want ENODEV", io.Err)
		}
	}
	select {
	case <-leg.Closed():
		t.Fatal("the device was let go with I/O in flight")
	default:
	}
	if _, err := Open(dev, OpenOptions{}); !Busy(err) {
		t.Errorf("opened again while I/O is in flight: %v, want busy", err)
	}
	f.Vanish()
	for range leg.depth {
		if io := wait(t, ended); io.Err != syscall.EIO {
			t.Errorf("what was in flight ended with %v, want EIO", io.Err)
		}
	}
	<-leg.Closed()
}

// Pages of the device in the page cache (somebody has read it) make the kernel refuse to
// write without waiting; workers do it then.
func TestWouldBlockGoesToWorkers(t *testing.T) {
	leg, l := mustOpen(t, sparse(t, 4*mib), OpenOptions{}), newEventLoop(t)
	cached, err := os.ReadFile(leg.Device)
	if err != nil || int64(len(cached)) != leg.Bytes {
		t.Fatal(err)
	}
	var ios []*IO
	for off := int64(0); off < leg.Bytes; off += 16384 {
		ios = append(ios, write(off, 16384, 3))
	}
	ended := l.start(leg, ios...)
	for range ios {
		if io := wait(t, ended); io.Err != 0 {
			t.Fatalf("write at %d: %v", io.Off, io.Err)
		}
	}
	if after, err := os.ReadFile(leg.Device); err != nil || bytes.Count(after, []byte{3}) != len(after) {
		t.Errorf("not everything was written (%v)", err)
	}
}

// Without the mapped ring, completions come by io_getevents.
func TestCompletionsBySystemCall(t *testing.T) {
	leg := mustOpen(t, sparse(t, 4*mib), OpenOptions{})
	l := newEventLoop(t)
	l.do(func() { l.ring.events.ring, l.ring.events.space = nil, make([]ioEvent, 3) })
	var ios []*IO
	for i := range int64(100) {
		ios = append(ios, write(i*4096, 4096, 4))
	}
	ended := l.start(leg, ios...)
	for range ios {
		if io := wait(t, ended); io.Err != 0 {
			t.Fatal(io.Err)
		}
	}
}

// A ring that is too small for what is in flight leaves the rest to workers.
func TestSmallRing(t *testing.T) {
	leg := mustOpen(t, sparse(t, 16*mib), OpenOptions{})
	ring, err := NewRing(1)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	var ios []*IO
	for i := range int64(1000) {
		ios = append(ios, write(i*4096, 4096, 5))
	}
	ring.Submit(ios, [3]*Leg{leg})
	poll := []unix.PollFd{{Fd: int32(ring.Fd()), Events: unix.POLLIN}}
	for left := len(ios); left > 0; {
		if n, err := unix.Poll(poll, int(testPatient.Milliseconds())); n == 0 && err == nil {
			t.Fatalf("%d IOs did not end", left)
		}
		left -= ring.Reap(func(io *IO) {
			if io.Err != 0 {
				t.Errorf("write at %d: %v", io.Off, io.Err)
			}
		})
	}
}

func TestRingCloseWithHungLeg(t *testing.T) {
	f := faultfile.New(t, 4*mib)
	leg := mustOpen(t, f.Loop(t), OpenOptions{})
	ring, err := NewRing(8)
	if err != nil {
		t.Fatal(err)
	}
	f.Hang()
	ring.Submit([]*IO{write(0, 4096, 1), {Op: Zero, Len: 4096}}, [3]*Leg{leg})
	waitFor(t, "both to be held", func() bool { return f.Held() == 2 })
	begun := time.Now()
	ring.Close()
	if d := time.Since(begun); d > testPatient/2 {
		t.Errorf("closing the ring of a hung leg took %v", d)
	}
	f.Resume()
	waitFor(t, "the leg to be quiet", leg.Quiet)
}

func TestNothingIsAllocatedPerIO(t *testing.T) {
	leg := mustOpen(t, sparse(t, 4*mib), OpenOptions{})
	ring, err := NewRing(64)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	ios := []*IO{write(0, 4096, 1), write(8192, 4096, 1), read(mib, 4096)}
	done := func(*IO) {}
	poll := []unix.PollFd{{Fd: int32(ring.Fd()), Events: unix.POLLIN}}
	n := testing.AllocsPerRun(200, func() {
		ring.Submit(ios, [3]*Leg{leg})
		for left := len(ios); left > 0; left -= ring.Reap(done) {
			unix.Poll(poll, -1)
		}
	})
	if n > 0 {
		t.Errorf("%.1f allocations for %d IOs", n, len(ios))
	}
}
