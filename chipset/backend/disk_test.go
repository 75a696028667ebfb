package backend

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/virtio"
)

const diskBytes = 8 << 20

// image is a file for a disk.
func image(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, diskBytes); err != nil {
		t.Fatal(err)
	}
	return path
}

// loop is a loop device over a file, for the time of a test.
func loop(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("losetup", append(args, "--show", "-f", image(t))...).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup -d: %v: %s", err, out)
		}
	})
	return dev
}

func openDisk(t testing.TB, cfg DiskConfig) *Disk {
	t.Helper()
	d, err := OpenDisk(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the loop device goes
		if err := d.Drain(patience); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// ask does one request and waits for its answer.
func ask(t testing.TB, d *Disk, r virtio.Request) ([]byte, virtio.Status) {
	t.Helper()
	type answer struct {
		c virtio.Completion
		p []byte
	}
	got := make(chan answer, 1)
	r.ID = 7
	d.Submit(&r, func(c *virtio.Completion, release func()) {
		got <- answer{*c, bytes.Clone(c.Data)}
		release()
	})
	select {
	case a := <-got:
		if a.c.ID != 7 {
			t.Fatalf("the answer is for request %d", a.c.ID)
		}
		return a.p, a.c.Status
	case <-time.After(patience):
		t.Fatalf("%v is not answered", r)
		return nil, 0
	}
}

func write(t testing.TB, d *Disk, sector uint64, p []byte) {
	t.Helper()
	if _, s := ask(t, d, virtio.Request{Op: virtio.Write, Sector: sector, Length: uint64(len(p)), Data: p}); s != virtio.OK {
		t.Fatalf("write of %d bytes at %d: %v (%s)", len(p), sector, s, d.Stats().LastError)
	}
}

func read(t testing.TB, d *Disk, sector, n uint64) []byte {
	t.Helper()
	p, s := ask(t, d, virtio.Request{Op: virtio.Read, Sector: sector, Length: n})
	if s != virtio.OK {
		t.Fatalf("read of %d bytes at %d: %v (%s)", n, sector, s, d.Stats().LastError)
	}
	return p
}

func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*31) ^ seed ^ byte(i>>8)
	}
	return p
}

// eachDisk runs a test on a block device and on a file.
func eachDisk(t *testing.T, f func(t *testing.T, path string)) {
	t.Run("block device", func(t *testing.T) { f(t, loop(t)) })
	t.Run("block device of 4 KiB", func(t *testing.T) { f(t, loop(t, "-b", "4096")) })
	t.Run("file", func(t *testing.T) { f(t, image(t)) })
}

func TestDiskKeepsWhatIsWritten(t *testing.T) {
	eachDisk(t, func(t *testing.T, path string) {
		d := openDisk(t, DiskConfig{Path: path})
		front := d.Front("serial")
		if front.Sectors != diskBytes/512 || front.Serial != "serial" || front.ReadOnly {
			t.Fatalf("the front is %+v", front)
		}
		t.Logf("direct %v, front %+v", d.Direct(), front)
		small := pattern(int(front.LogicalBlock), 1)
		large := pattern(virtio.BlockDataMax, 2)
		at := uint64(front.LogicalBlock / 512)
		write(t, d, at, small)
		write(t, d, 4096, large)
		if _, s := ask(t, d, virtio.Request{Op: virtio.Flush}); s != virtio.OK {
			t.Fatalf("flush: %v", s)
		}
		if !bytes.Equal(read(t, d, at, uint64(len(small))), small) || !bytes.Equal(read(t, d, 4096, uint64(len(large))), large) {
			t.Fatal("what is read is not what was written")
		}
		stats := d.Stats()
		if stats.Writes != 2 || stats.Reads != 2 || stats.Flushes != 1 || stats.WrittenBytes != uint64(len(small)+len(large)) {
			t.Fatalf("counted %+v", stats)
		}
		// A request is under way until its receiver has returned.
		eventually(t, "nothing is under way", func() bool { return d.Stats().Outside == 0 })
		// It is there for others too, past any cache of ours.
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got := make([]byte, len(large))
		if _, err := f.ReadAt(got, 4096*512); err != nil || !bytes.Equal(got, large) {
			t.Fatalf("the file has something else (%v)", err)
		}
	})
}

func TestDiskWritesZeroesAndForgets(t *testing.T) {
	eachDisk(t, func(t *testing.T, path string) {
		d := openDisk(t, DiskConfig{Path: path})
		const n = 1 << 20
		for _, unmap := range []bool{true, false} {
			write(t, d, 0, pattern(n, 3))
			if _, s := ask(t, d, virtio.Request{Op: virtio.WriteZeroes, Sector: 8, Length: n / 2, Unmap: unmap}); s != virtio.OK {
				t.Fatalf("write zeroes, unmap %v: %v (%s)", unmap, s, d.Stats().LastError)
			}
			got := read(t, d, 0, n)
			want := pattern(n, 3)
			clear(want[8*512 : 8*512+n/2])
			if !bytes.Equal(got, want) {
				t.Fatalf("unmap %v: the range does not read as zeroes, or more than it does", unmap)
			}
		}
		// What is left to do where the kernel has no way.
		write(t, d, 0, pattern(2*n, 4))
		if err := d.media.writeZeroes(4096, n+4096); err != nil {
			t.Fatal(err)
		}
		want := pattern(2*n, 4)
		clear(want[4096 : n+8192])
		if !bytes.Equal(read(t, d, 0, 2*n), want) {
			t.Fatal("by hand: the range does not read as zeroes, or more than it does")
		}
		if !d.Front("").Discard {
			t.Fatal("it cannot discard")
		}
		if _, s := ask(t, d, virtio.Request{Op: virtio.Discard, Sector: 0, Length: n}); s != virtio.OK {
			t.Fatalf("discard: %v (%s)", s, d.Stats().LastError)
		}
	})
}

func TestDiskGivesSpaceBack(t *testing.T) {
	path := image(t)
	d := openDisk(t, DiskConfig{Path: path})
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks
	}
	const n = 1 << 20
	write(t, d, 0, pattern(n, 1))
	write(t, d, n/512, pattern(n, 1))
	full := blocks()
	if _, s := ask(t, d, virtio.Request{Op: virtio.Discard, Sector: 0, Length: n}); s != virtio.OK || blocks() > full-n/512 {
		t.Fatalf("discard: %v, %d blocks of %d are left", s, blocks(), full)
	}
	if _, s := ask(t, d, virtio.Request{Op: virtio.WriteZeroes, Sector: n / 512, Length: n, Unmap: true}); s != virtio.OK || blocks() > full-2*n/512 {
		t.Fatalf("write zeroes with unmap: %v, %d blocks of %d are left", s, blocks(), full)
	}
}

func TestDiskWithoutDirectIO(t *testing.T) {
	var m media
	m.path = image(t)
	fd, err := unix.Open(m.path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("this file system has no O_DIRECT itself: %v", err)
	}
	m.fd, m.direct = fd, true
	defer m.close()
	if err := m.buffered(diskBytes); err != nil {
		t.Fatal(err)
	}
	p := []byte("not aligned to anything") // what O_DIRECT would refuse
	if err := m.write(p, 3); err != nil {
		t.Fatal(err)
	}
}

func TestDiskReadOnly(t *testing.T) {
	eachDisk(t, func(t *testing.T, path string) {
		d := openDisk(t, DiskConfig{Path: path, ReadOnly: true})
		if !d.Front("").ReadOnly {
			t.Fatal("the guest may write")
		}
		read(t, d, 0, 4096)
		// The front refuses writes; what came here all the same fails.
		if _, s := ask(t, d, virtio.Request{Op: virtio.Write, Length: 4096, Data: make([]byte, 4096)}); s != virtio.IOError {
			t.Fatalf("a write: %v", s)
		}
	})
}

func TestDiskErrorsAreIOErrors(t *testing.T) {
	path := image(t)
	d := openDisk(t, DiskConfig{Path: path})
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if _, s := ask(t, d, virtio.Request{Op: virtio.Read, Sector: 64, Length: 4096}); s != virtio.IOError {
		t.Fatalf("a read behind the end of a file that shrank: %v", s)
	}
	if s := d.Stats(); s.Errors != 1 || !strings.Contains(s.LastError, "read of 4096 bytes at 32768: the device ends before that") {
		t.Fatalf("the error reads %q", s.LastError)
	}
	for err, want := range map[error]virtio.Status{
		nil: virtio.OK, unix.EIO: virtio.IOError, unix.ENOSPC: virtio.IOError, errEnd: virtio.IOError, errNotSupported: virtio.Unsupported,
	} {
		if got := status(err); got != want {
			t.Errorf("%v is answered with %v, want %v", err, got, want)
		}
	}
}

// A full device below is an error of the write, not of the machine.
func TestDiskOnAFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, diskBytes); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDisk(DiskConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p := make([]byte, virtio.BlockDataMax)
	if _, s := ask(t, d, virtio.Request{Op: virtio.Write, Length: uint64(len(p)), Data: p}); s != virtio.IOError {
		t.Fatalf("a write to a full file system: %v", s)
	}
	if s := d.Stats().LastError; !strings.Contains(s, "no space left") {
		t.Fatalf("the error reads %q", s)
	}
}

func TestDiskRefusals(t *testing.T) {
	other := loop(t)
	mounted := loop(t)
	if out, err := exec.Command("mkfs.ext4", "-q", mounted).CombinedOutput(); err != nil {
		t.Fatalf("mkfs: %v: %s", err, out)
	}
	dir := t.TempDir()
	if err := unix.Mount(mounted, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	openDisk(t, DiskConfig{Path: other})
	file := image(t)
	openDisk(t, DiskConfig{Path: file})
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	backing, err := os.ReadFile("/sys/block/" + filepath.Base(other) + "/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	readOnly := loop(t, "-r")
	for _, c := range []struct {
		name, path string
		is         error
		says       string
	}{
		{"nothing there", "/nonexistent", os.ErrNotExist, "no such file"},
		{"a directory", t.TempDir(), ErrUnfit, "neither a block device nor a regular file"},
		{"a character device", "/dev/null", ErrUnfit, "neither a block device nor a regular file"},
		{"an empty file", empty, ErrUnfit, "empty"},
		{"a device that is mounted", mounted, ErrInUse, "mounted on " + dir},
		{"a device that another has", other, ErrInUse, "another process has claimed it"},
		{"a file that another has", file, ErrInUse, "locked"},
		{"a file under a loop device", strings.TrimSpace(string(backing)), ErrInUse, other},
		{"a device that can only be read", readOnly, nil, "can only be read"},
	} {
		_, err := OpenDisk(DiskConfig{Path: c.path})
		switch {
		case err == nil:
			t.Errorf("%s: it was opened", c.name)
		case c.is != nil && !errors.Is(err, c.is):
			t.Errorf("%s: %v is not %v", c.name, err, c.is)
		case !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.path):
			t.Errorf("%s: %q does not say %q", c.name, err, c.says)
		default:
			t.Log(err)
		}
	}
	if d, err := OpenDisk(DiskConfig{Path: readOnly, ReadOnly: true}); err != nil {
		t.Errorf("a read-only device for reading: %v", err)
	} else {
		d.Close()
	}
}

func TestDiskGivesItsClaimBack(t *testing.T) {
	eachDisk(t, func(t *testing.T, path string) {
		for range 3 {
			d, err := OpenDisk(DiskConfig{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Many at once, of all kinds: each is answered once, and what was written last is read.
func TestDiskManyAtOnce(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	d := openDisk(t, DiskConfig{Path: loop(t)})
	const regions, size = 64, 64 << 10
	want := make([][]byte, regions)
	for round := range 20 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		answered := map[uint64]int{}
		for i := range regions {
			r := virtio.Request{ID: uint64(i + 1), Op: virtio.Write, Sector: uint64(i) * size / 512, Length: size}
			if want[i] != nil && rng.IntN(2) == 0 {
				r.Op = virtio.Read
			} else {
				want[i] = pattern(size, byte(rng.Uint32()))
				r.Data = want[i]
			}
			expect := want[i]
			wg.Add(1)
			d.Submit(&r, func(c *virtio.Completion, release func()) {
				defer wg.Done()
				mu.Lock()
				defer mu.Unlock()
				answered[c.ID]++
				if c.Status != virtio.OK || r.Op == virtio.Read && !bytes.Equal(c.Data, expect) {
					t.Errorf("round %d: request %d: %v", round, c.ID, c.Status)
				}
				release()
			})
		}
		wg.Wait()
		for id := range uint64(regions) {
			if answered[id+1] != 1 {
				t.Fatalf("request %d was answered %d times", id+1, answered[id+1])
			}
		}
	}
}

func TestDiskAnswersAfterClose(t *testing.T) {
	d, err := OpenDisk(DiskConfig{Path: image(t)})
	if err != nil {
		t.Fatal(err)
	}
	hold, entered := make(chan struct{}), make(chan struct{})
	d.Submit(&virtio.Request{ID: 1, Op: virtio.Flush}, func(_ *virtio.Completion, release func()) {
		close(entered)
		<-hold
		release()
	})
	<-entered
	if err := d.Drain(time.Millisecond); err == nil || !strings.Contains(err.Error(), "1 requests under way") {
		t.Fatalf("drained with one under way: %v", err)
	}
	if err := d.Close(); err == nil {
		t.Fatal("closed with one under way, without a word")
	}
	if _, err := OpenDisk(DiskConfig{Path: d.cfg.Path}); !errors.Is(err, ErrInUse) {
		t.Fatalf("the claim went before the last request ended: %v", err)
	}
	if _, s := ask(t, d, virtio.Request{Op: virtio.Read, Length: 512}); s != virtio.IOError {
		t.Fatalf("a request after Close: %v", s)
	}
	close(hold)
	if err := d.Drain(patience); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the claim has gone with the last request", func() bool {
		next, err := OpenDisk(DiskConfig{Path: d.cfg.Path})
		if err != nil {
			return false
		}
		return next.Close() == nil
	})
}

// The size of a bond between processes: flock keeps two machines off one image, also when
// the second is another process.
func TestDiskClaimIsSeenByOtherProcesses(t *testing.T) {
	path := image(t)
	openDisk(t, DiskConfig{Path: path})
	err := exec.Command("flock", "-n", path, "true").Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).ExitStatus() != 1 {
		t.Fatalf("flock(1) got the lock: %v", err)
	}
}
