package fuseloop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
)

// copies duplicates descriptors, as a keeper does.
func copies(t testing.TB, fds map[string][]int) map[string][]int {
	t.Helper()
	kept := map[string][]int{}
	for _, name := range []string{descriptorsLoop, descriptorsFuse} {
		for _, fd := range fds[name] {
			c, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			kept[name] = append(kept[name], c)
		}
	}
	return kept
}

func TestSuccessorAnswersWhatWasInFlight(t *testing.T) {
	g := geometry(t, 64<<20, 512)
	d := ramDiskFor(t, g)
	first := create(t, g, Options{})
	device := first.Device()
	var held atomic.Int64
	var lost []*frontend.Request
	var mu sync.Mutex
	l := serve(first, func(r *frontend.Request) {
		mu.Lock()
		lost = append(lost, r)
		mu.Unlock()
		held.Add(r.Len)
	})
	<-first.tuned // the kernel lets nothing new in while it waits for what is held here
	dev := openDevice(t, device, unix.O_DIRECT)
	fill(d.mem[32<<20:], 8)
	sizes := []int{512, 4096, 16 << 10, 64 << 10, 256 << 10, 1 << 20}
	var wg sync.WaitGroup
	var bytesInFlight int64
	want := bytes.Clone(d.mem)
	for i := range 24 {
		b, at := page(t, sizes[i%len(sizes)]), i<<20
		bytesInFlight += int64(len(b))
		if i%2 == 0 { // a write to the lower half
			fill(b, uint64(i))
			copy(want[at:], b)
			wg.Go(func() {
				if _, err := dev.WriteAt(b, int64(at)); err != nil {
					t.Errorf("write of %d: %v", len(b), err)
				}
			})
			continue
		}
		at += 32 << 20
		wg.Go(func() {
			if _, err := dev.ReadAt(b, int64(at)); err != nil || !bytes.Equal(b, want[at:][:len(b)]) {
				t.Errorf("read of %d: %v, or not what is on the disk", len(b), err)
			}
		})
	}
	eventually(t, "all requests are in flight", func() bool { return held.Load() == bytesInFlight })

	kept := copies(t, first.Descriptors())
	first.Abandon()
	if err := l.wait(); err != nil {
		t.Error(err)
	}
	second, err := Adopt(g, kept, Options{})
	if err != nil {
		t.Fatal(err)
	}
	startOn(t, second, d, atOnce(d))
	wg.Wait()
	_ = dev.Close()
	if n := second.Stats().Resent; n != uint64(len(lost)) {
		t.Errorf("%d requests were sent again, not %d", n, len(lost))
	}
	if second.Device() != device {
		t.Errorf("the device is %s now, was %s", second.Device(), device)
	}
	if !bytes.Equal(d.mem, want) {
		t.Error("a write in flight did not reach the disk")
	}
	for _, r := range lost { // an answer after the hand-over goes nowhere
		r.Queue.Reply(r)
		r.Queue.Free(r)
	}
	loop := second.Descriptors()[descriptorsLoop][0]
	if lowest := slices.Min(second.Descriptors()[descriptorsFuse]); loop > lowest {
		t.Errorf("the loop device is descriptor %d, /dev/fuse %d: the wrong order to die in", loop, lowest)
	}
}

func TestWhatIsNotCompleteIsNotAdopted(t *testing.T) {
	g := geometry(t, 16<<20, 512)
	d := ramDiskFor(t, g)
	f := create(t, g, Options{})
	r := startOn(t, f, d, atOnce(d))
	kept := copies(t, f.Descriptors())
	release := sync.OnceFunc(func() { closeAll(kept[descriptorsFuse]...); closeAll(kept[descriptorsLoop]...) })
	t.Cleanup(release)

	for _, missing := range []string{descriptorsLoop, descriptorsFuse} {
		part := maps.Clone(kept)
		delete(part, missing)
		if _, err := Adopt(g, part, Options{}); !errors.Is(err, ErrIncomplete) {
			t.Errorf("without %s: %v", missing, err)
		}
	}
	other := g
	other.Size *= 2
	if _, err := Adopt(other, kept, Options{}); err == nil || errors.Is(err, ErrIncomplete) {
		t.Errorf("another size: %v", err)
	}
	// None of that has done the face any harm.
	if err := os.WriteFile(f.Device(), make([]byte, 4096), 0); err != nil {
		t.Error(err)
	}

	connection, err := f.loop.connection()
	if err != nil {
		t.Fatal(err)
	}
	if err := abortConnection(connection); err != nil {
		t.Fatal(err)
	}
	r.wait(t)
	if _, err := Adopt(g, kept, Options{}); !errors.Is(err, ErrIncomplete) {
		t.Errorf("of an ended connection: %v", err)
	}
	bound := bindingOf(t, f.Device())
	f.Abandon()
	release()
	bound.expectFree(t)
}

func TestDiscardEndsAFaceThatNobodyServes(t *testing.T) {
	g := geometry(t, 64<<20, 512)
	d := ramDiskFor(t, g)
	s := startServer(t, g, d.memfd, nil)
	if err := os.WriteFile(s.device, make([]byte, 32<<20), 0); err != nil {
		t.Fatal(err)
	}
	s.kill()
	left := map[string][]int{}
	for i, name := range s.names {
		left[name] = append(left[name], s.fds[i])
	}
	other := copies(t, left)
	s.fds = nil
	if err := Discard(left); err != nil {
		t.Error(err)
	}
	// Now not even this order waits for anybody.
	closeAll(other[descriptorsLoop]...)
	closeAll(other[descriptorsFuse]...)
	s.bound.expectFree(t)
}

func TestKilledWithDirtyPagesLeavesNothing(t *testing.T) {
	g := geometry(t, 64<<20, 512)
	d := ramDiskFor(t, g)
	for _, kept := range []bool{false, true} {
		s := startServer(t, g, d.memfd, nil)
		if !kept {
			s.forget()
		}
		if err := os.WriteFile(s.device, make([]byte, 32<<20), 0); err != nil {
			t.Fatal(err)
		}
		s.kill()
		s.forget()
		s.bound.expectFree(t)
	}
}

// stamped is a block that says where and when it was written.
func stamp(b []byte, block, version uint64) {
	for i := 0; i < len(b); i += 16 {
		binary.LittleEndian.PutUint64(b[i:], block)
		binary.LittleEndian.PutUint64(b[i+8:], version)
	}
}

func TestKilledUnderLoadGivesNoError(t *testing.T) {
	const kills, workers, blocks, opsBetween = 12, 8, 256, 400
	g := geometry(t, 64<<20, 512)
	d := ramDiskFor(t, g)
	s := startServer(t, g, d.memfd, nil)
	dev := openDevice(t, s.device, unix.O_DIRECT)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)

	var stop atomic.Bool
	var ops, stall atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			// Each has blocks of its own, and knows what it wrote there last.
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			b, want := page(t, 16<<10), page(t, 16<<10)
			var written [blocks]uint64
			for version := uint64(1); !stop.Load(); version++ {
				i := rng.IntN(blocks)
				block := uint64(w*blocks + i)
				began := time.Now()
				if rng.IntN(2) == 0 {
					stamp(b, block, version)
					if _, err := dev.WriteAt(b, int64(block)*int64(len(b))); err != nil {
						t.Errorf("write block %d: %v", block, err)
						return
					}
					written[i] = version
				} else {
					if _, err := dev.ReadAt(b, int64(block)*int64(len(b))); err != nil {
						t.Errorf("read block %d: %v", block, err)
						return
					}
					clear(want)
					if written[i] > 0 {
						stamp(want, block, written[i])
					}
					if !bytes.Equal(b, want) {
						t.Errorf("block %d has not version %d", block, written[i])
						return
					}
				}
				stall.Store(max(stall.Load(), int64(time.Since(began))))
				ops.Add(1)
			}
		})
	}
	for range kills {
		from := ops.Load()
		eventually(t, "the load goes on", func() bool { return ops.Load() > from+opsBetween || t.Failed() })
		s.kill()
		s = startServer(t, g, d.memfd, s)
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d operations, the longest took %v", ops.Load(), time.Duration(stall.Load()))
	_ = dev.Close()
	s.close(t)
	s.bound.expectFree(t)
}
