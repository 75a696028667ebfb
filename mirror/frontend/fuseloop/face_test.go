package fuseloop

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
)

// fill fills b with what only seed gives.
func fill(b []byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

func TestDeviceHoldsWhatIsWritten(t *testing.T) {
	const size = 32 << 20
	r := start(t, geometry(t, size, 512), Options{}, atOnce)
	dev := openDevice(t, r.Device(), unix.O_DIRECT)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	want, b := make([]byte, size), page(t, 4<<20)
	for range 100 {
		n := 512 << rng.IntN(14) // to 4 MiB: several requests
		off := rng.Int64N(int64(size-n)/512+1) * 512
		fill(b[:n], rng.Uint64())
		if _, err := dev.WriteAt(b[:n], off); err != nil {
			t.Fatalf("write %d at %d: %v", n, off, err)
		}
		copy(want[off:], b[:n])
	}
	got := page(t, size)
	if _, err := dev.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || !bytes.Equal(r.disk.mem, want) {
		t.Error("what is read is not what was written")
	}
}

func TestDeviceHasTheGeometry(t *testing.T) {
	for _, block := range []int{512, 4096} {
		g := geometry(t, 24<<20+int64(block), block)
		r := start(t, g, Options{}, atOnce)
		if err := r.loop.verify(g); err != nil {
			t.Error(err)
		}
		<-r.tuned
		for name, want := range map[string]int{"logical_block_size": block, "discard_granularity": 4096, "discard_max_bytes": discardBytesMax, "rotational": 0} {
			text, err := os.ReadFile(r.loop.sysfs() + "/queue/" + name)
			if err != nil || strings.TrimSpace(string(text)) != fmt.Sprint(want) {
				t.Errorf("blocks of %d: %s is %q (%v), want %d", block, name, text, err, want)
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(r.Device(), &st); err != nil || st.Rdev != r.DeviceNumber() {
			t.Errorf("%s is device %#x (%v), not %#x", r.Device(), st.Rdev, err, r.DeviceNumber())
		}
		if !r.CanBeAdopted() {
			t.Error("this kernel has FUSE_NOTIFY_RESEND, and it was not seen")
		}
	}
}

func TestDiscardedAndZeroedRangesReadAsZeroes(t *testing.T) {
	var zeroed int64
	r := start(t, geometry(t, 160<<20, 512), Options{}, func(d *ramDisk) func(*frontend.Request) {
		d.trace = func(op frontend.Op, _, n int64) {
			if op == frontend.Zero {
				zeroed += n
				if n > discardBytesMax {
					t.Errorf("one request for %d bytes", n)
				}
			}
		}
		return atOnce(d)
	})
	<-r.tuned
	dev := openDevice(t, r.Device(), unix.O_DIRECT)
	fill(r.disk.mem[:1<<20], 1)
	fill(r.disk.mem[159<<20:], 2)
	kept := bytes.Clone(r.disk.mem[:1<<20])
	if err := blkRange(dev, unix.BLKDISCARD, 4096, 160<<20-4096); err != nil {
		t.Error(err)
	}
	if r.disk.mu.Lock(); zeroed != 160<<20-4096 {
		t.Errorf("%d bytes zeroed by a discard of %d", zeroed, 160<<20-4096)
	}
	r.disk.mu.Unlock()
	clear(kept[4096:])
	if !bytes.Equal(r.disk.mem[:1<<20], kept) {
		t.Error("the discard zeroed what it should not, or not what it should")
	}
	fill(r.disk.mem[:1<<20], 1)
	if err := blkRange(dev, unix.BLKZEROOUT, 512, 1<<20-512); err != nil {
		t.Error(err)
	}
	clear(kept[512:])
	if got := page(t, 1<<20); true {
		if _, err := dev.ReadAt(got, 0); err != nil || !bytes.Equal(got, kept) {
			t.Errorf("zeroed range does not read as zeroes, or more does (%v)", err)
		}
	}
}

func TestFsyncArrivesAfterTheWritesBeforeIt(t *testing.T) {
	var ops []frontend.Op
	r := start(t, geometry(t, 16<<20, 512), Options{}, func(d *ramDisk) func(*frontend.Request) {
		d.trace = func(op frontend.Op, _, _ int64) { ops = append(ops, op) }
		return atOnce(d)
	})
	dev := openDevice(t, r.Device(), 0)
	want := make([]byte, 4<<20)
	fill(want, 3)
	if _, err := dev.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if err := dev.Sync(); err != nil {
		t.Fatal(err)
	}
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	flush := slices.Index(ops, frontend.Flush)
	lastWrite := -1
	for i, op := range ops {
		if op == frontend.Write {
			lastWrite = i
		}
	}
	if lastWrite < 0 || flush < lastWrite {
		t.Errorf("the last write is number %d, the flush %d", lastWrite, flush)
	}
	if !bytes.Equal(r.disk.mem[:len(want)], want) {
		t.Error("after fsync the disk has not what was written")
	}
}

func TestEngineErrorsReachTheApplication(t *testing.T) {
	var answer unix.Errno
	r := start(t, geometry(t, 16<<20, 512), Options{}, func(d *ramDisk) func(*frontend.Request) {
		return func(r *frontend.Request) {
			d.mu.Lock()
			r.Err = answer
			d.mu.Unlock()
			r.Queue.Reply(r)
			r.Queue.Free(r)
		}
	})
	dev := openDevice(t, r.Device(), unix.O_DIRECT)
	b := page(t, 4096)
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC, unix.ENOSYS, 4096, 0} {
		r.disk.mu.Lock()
		answer = errno
		r.disk.mu.Unlock()
		want := errno
		if errno == unix.ENOSYS || errno == 4096 {
			want = unix.EIO
		}
		_, writeErr := dev.WriteAt(b, 0)
		_, readErr := dev.ReadAt(b, 0)
		syncErr := dev.Sync()
		zeroErr := blkRange(dev, unix.BLKZEROOUT, 0, 4096)
		for op, err := range map[string]error{"write": writeErr, "read": readErr, "flush": syncErr, "zero": zeroErr} {
			if (err != nil) != (errno != 0) {
				t.Errorf("%s answered with %v: %v", op, errno, err)
			}
		}
		if errno != 0 && !errors.Is(writeErr, want) {
			t.Errorf("write answered with %v: %v, want %v", errno, writeErr, want)
		}
	}
}

func TestRequestsBeyondTheMemoryWaitAndAreServed(t *testing.T) {
	var mu sync.Mutex
	var held []*frontend.Request
	holding := true
	var disk *ramDisk
	r := start(t, geometry(t, 64<<20, 512), Options{Memory: 4 << 20}, func(d *ramDisk) func(*frontend.Request) {
		disk = d
		return func(r *frontend.Request) {
			mu.Lock()
			defer mu.Unlock()
			if holding {
				held = append(held, r)
				return
			}
			atOnce(d)(r)
		}
	})
	// The kernel drains the queue for that: with requests held here no others would come in.
	<-r.tuned
	dev := openDevice(t, r.Device(), unix.O_DIRECT)
	var wg sync.WaitGroup
	defer wg.Wait()
	release := sync.OnceFunc(func() {
		mu.Lock()
		holding = false
		late := held
		mu.Unlock()
		for _, h := range late {
			atOnce(disk)(h) // not the queue's thread
		}
	})
	defer release()
	for i := range 24 {
		b, got := page(t, 1<<20), page(t, 1<<20)
		fill(b, uint64(i))
		wg.Go(func() {
			if _, err := dev.WriteAt(b, int64(i)<<20); err != nil {
				t.Errorf("write: %v", err)
			}
			if _, err := dev.ReadAt(got, int64(i)<<20); err != nil || !bytes.Equal(got, b) {
				t.Errorf("read: %v, or not what was written", err)
			}
		})
	}
	idle := func() bool {
		poll := []unix.PollFd{}
		for _, q := range r.Queues() {
			poll = append(poll, unix.PollFd{Fd: int32(q.Fd()), Events: unix.POLLIN})
		}
		n, _ := unix.Poll(poll, 0)
		return n == 0
	}
	eventually(t, "both queues are starved and not readable", func() bool { return r.Stats().Starved >= 2 && idle() })
	mu.Lock()
	sum := int64(0)
	for _, h := range held { // the kernel may have cut the writes in two
		sum += h.Len
	}
	if len(held) < 2 || sum > 4<<20 {
		t.Errorf("%d requests of %d bytes together in 4 MiB", len(held), sum)
	}
	mu.Unlock()
	release()
}

func TestSmallRequestsBeyondTheMemoryWaitAndAreServed(t *testing.T) {
	r := start(t, geometry(t, 64<<20, 512), Options{Queues: 1, Memory: 2 << 20}, late)
	dev := openDevice(t, r.Device(), unix.O_DIRECT)
	var wg sync.WaitGroup
	for i := range 64 {
		b := page(t, 64<<10)
		wg.Go(func() {
			for n := range 20 {
				if _, err := dev.WriteAt(b, int64(i*20+n)<<15); err != nil {
					t.Errorf("write: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if r.Stats().Starved == 0 {
		t.Error("the memory was never used up: this shows nothing")
	}
}

func TestInternalCopiesAreBounded(t *testing.T) {
	r := start(t, geometry(t, 16<<20, 512), Options{CopyMemory: 2 << 20}, atOnce)
	q := r.Queues()[0]
	a, freeA := q.Alloc(1 << 20)
	b, freeB := q.Alloc(600 << 10)
	if len(a) != 1<<20 || len(b) != 600<<10 || address(a)%4096 != 0 || address(b)%4096 != 0 {
		t.Fatalf("memory of %d and %d bytes at %p and %p", len(a), len(b), a, b)
	}
	if c, _ := q.Alloc(4096); c != nil {
		t.Error("more than CopyMemory was given out")
	}
	freeA()
	c, freeC := q.Alloc(4096)
	if c == nil {
		t.Error("nothing to be had after it was released")
	}
	freeA() // releasing twice releases once
	if d, _ := q.Alloc(1 << 20); d != nil {
		t.Error("more than CopyMemory was given out after a second release")
	}
	freeB()
	freeC()
	if d, _ := q.Alloc(1<<20 + 1); d != nil {
		t.Error("more than the largest request was given out")
	}
}

func TestRequestsThatComeDuringCreationWaitForTheEngine(t *testing.T) {
	g := geometry(t, 16<<20, 512)
	d := ramDiskFor(t, g)
	fill(d.mem, 7)
	f := create(t, g, Options{})
	connection, err := f.loop.connection()
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.startService(connection)
	if err != nil {
		t.Fatal(err)
	}
	b := page(t, 4096)
	done := make(chan error, 1)
	go func() {
		dev, err := os.OpenFile(f.Device(), os.O_RDWR|unix.O_DIRECT, 0)
		if err == nil {
			_, err = dev.ReadAt(b, 8<<20)
			err = errors.Join(err, dev.Close())
		}
		done <- err
	}()
	eventually(t, "the read has come in", func() bool { return f.Stats().Received > f.Stats().Answered })
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		t.Fatalf("the read ended before there was an engine: %v", err)
	default:
	}
	startOn(t, f, d, atOnce(d))
	if err := <-done; err != nil || !bytes.Equal(b, d.mem[8<<20:][:4096]) {
		t.Errorf("the read: %v, or not what is on the disk", err)
	}
}

func TestNodeIsMadeWhereTheSystemHasNone(t *testing.T) {
	g, dir := geometry(t, 16<<20, 512), t.TempDir()
	before := descriptors(t)
	if _, err := Create(g, Options{loopDir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "devtmpfs") {
		t.Errorf("without a place for a node: %v", err)
	}
	if after := descriptors(t); !slices.Equal(before, after) {
		t.Errorf("a failed creation leaves descriptors: before %q\nafter %q", before, after)
	}
	r := start(t, g, Options{loopDir: t.TempDir(), NodeDir: dir}, atOnce)
	if filepath.Dir(r.Device()) != dir {
		t.Errorf("the device is %s, not in %s", r.Device(), dir)
	}
	dev := openDevice(t, r.Device(), 0)
	if _, err := dev.ReadAt(make([]byte, 4096), 0); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() { // before the face is closed
		_ = dev.Close()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s is left", left[0].Name())
		}
	})
}

func TestBadOptionsAreRefused(t *testing.T) {
	good := frontend.Geometry{Name: "disk0", Size: 1 << 20, LogicalBlock: 512, PhysicalBlock: 4096}
	for _, c := range []struct {
		change func(*frontend.Geometry, *Options)
		says   string
	}{
		{func(g *frontend.Geometry, _ *Options) { g.LogicalBlock = 8192 }, "logical block"},
		{func(g *frontend.Geometry, _ *Options) { g.LogicalBlock = 0 }, "logical block"},
		{func(g *frontend.Geometry, _ *Options) { g.PhysicalBlock = 3 * 512 }, "physical block"},
		{func(g *frontend.Geometry, _ *Options) { g.PhysicalBlock = 256 }, "physical block"},
		{func(g *frontend.Geometry, _ *Options) { g.Size = 1000 }, "size"},
		{func(g *frontend.Geometry, _ *Options) { g.Size = 0 }, "size"},
		{func(_ *frontend.Geometry, o *Options) { o.Queues = queuesMax + 1 }, "queues"},
		{func(_ *frontend.Geometry, o *Options) { o.Memory = 1 << 20 }, "memory"},
	} {
		g, o := good, Options{}
		c.change(&g, &o)
		if _, err := Create(g, o); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "disk0") {
			t.Errorf("%+v %+v: %v, want something about %s of disk0", g, o, err, c.says)
		}
	}
}
