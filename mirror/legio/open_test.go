package legio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/faultfile"
	"ft/mirror/legio/loop"
)

func TestOpenTellsWhatIsThere(t *testing.T) {
	path := sparse(t, 5*mib+1234)
	leg := mustOpen(t, path, OpenOptions{})
	if leg.Bytes != 5*mib || leg.Path != path || !strings.HasPrefix(leg.Device, "/dev/loop") || leg.LogicalBlock < 512 || leg.PhysicalBlock < leg.LogicalBlock {
		t.Errorf("a file of %d bytes became the leg %+v", 5*mib+1234, leg)
	}
	if !strings.HasPrefix(leg.Identity(), path+"#") {
		t.Errorf("identity is %q, want the file's path and inode", leg.Identity())
	}
	if leg.Note != "" {
		t.Errorf("note: %s", leg.Note)
	}
	if leg.Depth() < 1 || leg.Depth() > depthMax {
		t.Errorf("depth is %d", leg.Depth())
	}
	if n, err := leg.Inflight(); n != 0 || err != nil {
		t.Errorf("idle, but %d in flight (%v)", n, err)
	}
	if leg.Gone() {
		t.Error("a leg that is there is gone")
	}
	if _, err := leg.WriteAt([]byte(strings.Repeat("y", 4096)), 8192); err != nil {
		t.Fatal(err)
	}
	if err := leg.Sync(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3)
	if _, err := leg.ReadAt(b, 8191); err != nil || string(b) != "\x00yy" {
		t.Errorf("read %q (%v)", b, err)
	}
	if _, err := leg.ReadAt(b, leg.Bytes-1); err == nil {
		t.Error("read beyond the end")
	}

	backing := sparse(t, 2*mib)
	dev := faultfile.Loop(t, backing)
	device := mustOpen(t, dev, OpenOptions{})
	if device.Identity() != backing || device.Device != dev {
		t.Errorf("a loop device over %s became the leg %+v", backing, device)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	fifo, readOnly, empty := filepath.Join(dir, "fifo"), filepath.Join(dir, "ro"), filepath.Join(dir, "empty")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	roDev := faultfile.Loop(t, sparse(t, mib))
	setReadOnly(t, roDev, 1)
	t.Cleanup(func() { setReadOnly(t, roDev, 0) }) // or the number stays so for its next user
	if err := os.Symlink("/proc/version", readOnly); err != nil {
		t.Fatal(err)
	}
	free := freeLoop(t)
	for _, c := range []struct {
		path string
		kind OpenKind
		want string
	}{
		{dir, KindUnfit, "it is a directory; a leg is a block device or a regular file"},
		{"/dev/null", KindUnfit, "it is a character device"},
		{fifo, KindUnfit, "it is a FIFO"},
		{filepath.Join(dir, "missing"), KindAbsent, "there is no such device or file"},
		{filepath.Join(empty, "below"), KindAbsent, "there is no such device or file"},
		{empty, KindUnfit, "it has 0 bytes; at least 1048576 are needed"},
		{sparse(t, mib-1), KindUnfit, "it has 1044480 bytes; at least 1048576 are needed"},
		{faultfile.Loop(t, sparse(t, mib/2)), KindUnfit, "it has 524288 bytes"},
		{roDev, KindUnfit, "read-only"},
		{readOnly, KindUnfit, ""},
		{free, KindAbsent, "no file under it"},
	} {
		leg, err := Open(c.path, OpenOptions{MinBytes: mib})
		if err == nil {
			leg.Close()
			t.Errorf("%s: opened", c.path)
			continue
		}
		if !isKind(err, c.kind) || !strings.Contains(err.Error(), c.path) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: kind %d: %v; want kind %d, %q", c.path, err.(*OpenError).Kind, err, c.kind, c.want)
		}
	}
}

func setReadOnly(t *testing.T, dev string, on int) {
	t.Helper()
	fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetPointerInt(fd, unix.BLKROSET, on); err != nil {
		t.Fatal(err)
	}
}

// freeLoop makes a loop device with nothing under it, of a high number, so that nobody
// who asks for a free one gets it.
func freeLoop(t *testing.T) string {
	t.Helper()
	ctl, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ctl) })
	n, err := 0, error(unix.EEXIST)
	for n = 5000; err == unix.EEXIST; n++ {
		err = unix.IoctlSetInt(ctl, unix.LOOP_CTL_ADD, n)
	}
	if err != nil {
		t.Fatal(err)
	}
	n--
	t.Cleanup(func() {
		if err := unix.IoctlSetInt(ctl, unix.LOOP_CTL_REMOVE, n); err != nil {
			t.Errorf("remove /dev/loop%d: %v", n, err)
		}
	})
	return fmt.Sprintf("/dev/loop%d", n)
}

// The loop device of a leg that was closed just now, or of a process that dies, is waited for.
func TestALoopDeviceThatIsGoingIsNotBusy(t *testing.T) {
	path := sparse(t, 16*mib)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, fd, err := loop.Attach(int(f.Fd()), path)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, func() { unix.Close(fd) })
	mustOpen(t, path, OpenOptions{})
}

func TestBusyNamesTheHolder(t *testing.T) {
	here := fmt.Sprintf("process %d (", os.Getpid())
	busy := func(path, want string) {
		t.Helper()
		leg, err := Open(path, OpenOptions{})
		if err == nil {
			leg.Close()
		}
		if !Busy(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want busy and %q", err, want)
		}
	}
	file := sparse(t, 16*mib)
	leg := mustOpen(t, file, OpenOptions{})
	busy(file, "already under "+leg.Device)
	busy(leg.Device, here)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	busy(link, "already under "+leg.Device)

	dev := faultfile.Loop(t, sparse(t, 16*mib))
	if out, err := exec.Command("mkfs.ext4", "-q", dev).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	mnt := t.TempDir()
	if err := unix.Mount(dev, mnt, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Errorf("unmount %s: %v", mnt, err)
		}
	})
	busy(dev, "a file system mounted on "+mnt)
}

// A successor opens what a dying process still holds, device or file, on the same
// block device.
func TestSharedOpensWhatAnotherHolds(t *testing.T) {
	file, dev := sparse(t, 4*mib), faultfile.Loop(t, sparse(t, 4*mib))
	for _, path := range []string{file, dev} {
		first := mustOpen(t, path, OpenOptions{})
		second, err := Open(path, OpenOptions{Shared: true})
		if err != nil {
			t.Fatal(err)
		}
		if second.Device != first.Device || second.Rdev != first.Rdev || second.Identity() != first.Identity() {
			t.Errorf("%s: opened as %s by the first and as %s by the second", path, first.Device, second.Device)
		}
		if at, ok := DeviceAt(path); !ok || at != first.Rdev {
			t.Errorf("%s: its device is %x (%v), want %x", path, at, ok, first.Rdev)
		}
		if _, err := first.WriteAt([]byte(strings.Repeat("z", 4096)), 0); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		if _, err := second.ReadAt(b, 0); err != nil || b[0] != 'z' {
			t.Errorf("%s: the second reads %q (%v)", path, b, err)
		}
		closeFor(t, second)
	}
	for _, path := range []string{t.TempDir(), "/dev/null", sparse(t, mib)} {
		if at, ok := DeviceAt(path); ok {
			t.Errorf("%s: its device is %x, want none", path, at)
		}
	}
}

// A device that does not open in time is given up; when it opens later, it is closed
// again and nothing stays behind.
func TestOpenOfHungDevice(t *testing.T) {
	f := faultfile.New(t, 4*mib)
	f.Hang()
	begun := time.Now()
	_, err := Open(f.Path(), OpenOptions{Deadline: 100 * time.Millisecond})
	if !Hung(err) || Absent(err) {
		t.Errorf("%v, want hung", err)
	}
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("it took %v to give up", d)
	}
	f.Resume()
	waitFor(t, "the late leg to be closed", func() bool {
		leg, err := Open(f.Path(), OpenOptions{})
		if err != nil {
			return false
		}
		closeFor(t, leg)
		return true
	})
}

func TestGoneWhenItShrinks(t *testing.T) {
	path := sparse(t, 4*mib)
	leg := mustOpen(t, path, OpenOptions{})
	if err := os.Truncate(path, mib); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(leg.Device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.LOOP_SET_CAPACITY, 0); err != nil {
		t.Fatal(err)
	}
	if !leg.Gone() {
		t.Error("a leg that shrank is not gone")
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	path := sparse(t, 4*mib)
	for range 20 {
		leg, err := Open(path, OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leg.WriteAt(make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
		closeFor(t, leg)
		waitFor(t, leg.Device+" to be detached", func() bool { return loop.Over(path) == "" })
	}
}

func TestProbe(t *testing.T) {
	check := func(path, want string) {
		t.Helper()
		if found, err := Probe(path, testPatient); err != nil || found != want {
			t.Errorf("found %q (%v), want %q", found, err, want)
		}
	}
	blank := sparse(t, 16*mib)
	check(blank, "")
	fs := sparse(t, 16*mib)
	if out, err := exec.Command("mkfs.ext4", "-q", "-L", "home", fs).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	check(fs, "ext4 file system (label home)")
	check(faultfile.Loop(t, fs), "ext4 file system (label home)")
	gpt := sparse(t, 16*mib)
	writeGPT(t, gpt)
	check(gpt, "GPT partition table")
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", gpt).CombinedOutput(); err != nil { // leaves the second GPT at the end
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	if found, err := Probe(gpt, testPatient); err != nil || found == "" {
		t.Errorf("an ext4 file system over a partition table: found %q (%v)", found, err)
	}
	if _, err := Probe(filepath.Join(t.TempDir(), "missing"), testPatient); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("probing what is not there: %v", err)
	}
	f := faultfile.New(t, 16*mib)
	f.FailReads(syscall.EIO, 65536, 4096)
	if found, err := Probe(f.Path(), testPatient); !errors.Is(err, syscall.EIO) {
		t.Errorf("probing what cannot be read found %q (%v), want EIO", found, err)
	}
	f.Clear()
	f.Hang()
	if _, err := Probe(f.Path(), 100*time.Millisecond); !Hung(err) {
		t.Errorf("probing what hangs: %v, want that it gave no answer", err)
	}
}

// writeGPT writes a protective MBR and an empty GUID partition table (UEFI
// specification, section 5).
func writeGPT(t *testing.T, path string) {
	t.Helper()
	const last, entries, entrySize = 16*1024*1024/512 - 1, 128, 128
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mbr := make([]byte, 512)
	copy(mbr[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	binary.LittleEndian.PutUint32(mbr[446+12:], last)
	mbr[510], mbr[511] = 0x55, 0xaa
	table := crc32.ChecksumIEEE(make([]byte, entries*entrySize))
	header := func(here, other, at uint64) []byte {
		h := make([]byte, 512)
		copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		le := binary.LittleEndian
		le.PutUint64(h[24:], here)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[40:], 34)
		le.PutUint64(h[48:], last-33)
		copy(h[56:], "a disk's own GUID")
		le.PutUint64(h[72:], at)
		le.PutUint32(h[80:], entries)
		le.PutUint32(h[84:], entrySize)
		le.PutUint32(h[88:], table)
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	for off, b := range map[int64][]byte{0: mbr, 512: header(1, last, 2), last * 512: header(last, 1, last-32)} {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
}
