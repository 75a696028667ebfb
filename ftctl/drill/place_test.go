package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/ftd/api"
)

const diskBytes = 40 << 20

// disk is a loop device that stands in for a face.
type disk struct {
	t    *testing.T
	node string
	file string
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("loop devices and mounts need root: sudo make test")
	}
	dir, err := os.MkdirTemp("/dev/shm", "ft-drill-") // in memory: a busy disk makes these tests slow
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &disk{t: t, file: filepath.Join(dir, "disk.img")}
	if err := os.WriteFile(d.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.file, diskBytes); err != nil {
		t.Fatal(err)
	}
	d.node = strings.TrimSpace(d.run("losetup", "--find", "--show", d.file))
	t.Cleanup(func() { d.run("losetup", "-d", d.node) })
	return d
}

func (d *disk) run(name string, args ...string) string {
	d.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (d *disk) mount(options ...string) string {
	d.t.Helper()
	dir := filepath.Join(d.t.TempDir(), "a mount") // with a blank, which is escaped
	if err := os.Mkdir(dir, 0o755); err != nil {
		d.t.Fatal(err)
	}
	d.run("mount", append(options, d.node, dir)...)
	d.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func (d *disk) device() (st api.DeviceStatus) {
	d.t.Helper()
	if err := json.Unmarshal(fmt.Appendf(nil, `{"id": "disk0", "kind": "disk", "face": %q}`, d.node), &st); err != nil {
		d.t.Fatal(err)
	}
	return st
}

func (d *disk) load() (*diskLoad, string) {
	d.t.Helper()
	l, note := newDiskLoad(d.device(), 1)
	if l == nil {
		d.t.Fatalf("there is no load: %s", note)
	}
	return l, note
}

func (d *disk) digest() string { return strings.Fields(d.run("sha256sum", d.node))[0] }

// works runs a load for a while and fails the test when it finds something.
func works(t *testing.T, l Load, during func()) Window {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(ctx) }()
	var all Window
	for deadline := time.Now().Add(time.Minute); all.Ops < 50 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		all.add(l.Window(time.Now()))
	}
	if during != nil {
		during()
	}
	cancel()
	<-ended
	all.add(l.Window(time.Now()))
	if all.Ops < 50 || all.Errors != 0 {
		t.Errorf("the load has done %d I/Os with %d errors: %s", all.Ops, all.Errors, all.LastErr)
	}
	return all
}

// An empty disk is written to, and empty again after it.
func TestEmptyDiskIsLeftEmpty(t *testing.T) {
	d := newDisk(t)
	before := d.digest()
	l, note := d.load()
	if note != "" || l.blocks == 0 || !l.erase {
		t.Fatalf("it is not written to: %q", note)
	}
	if d.digest() == before {
		t.Error("nothing was written")
	}
	if w := works(t, l, nil); w.Lost != 0 || w.Ops < l.blocks {
		t.Errorf("%d lost, %d I/Os: all %d blocks are to be read back; %s", w.Lost, w.Ops, l.blocks, w.LastErr)
	}
	if d.digest() != before {
		t.Error("the disk is not as it was")
	}
}

// What somebody writes meanwhile, though the disk is claimed, is not taken for the drill's.
func TestDrillErasesNothingButItsOwn(t *testing.T) {
	d := newDisk(t)
	l, _ := d.load()
	at := l.base + 7*blockBytes
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	d.poke(at + 100)
	l.Run(stopped)
	if w := l.Window(time.Now()); w.Lost != 1 {
		t.Errorf("%d blocks count as lost", w.Lost)
	}
	got := make([]byte, blockBytes)
	f, err := os.Open(d.node)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(got, at); err != nil || got[100] != 1 {
		t.Errorf("what was written there is gone (%v)", err)
	}
}

// What a drill that was killed has left is no reason to leave the disk alone, and goes.
func TestEmptyDiskAfterADrillThatWasKilled(t *testing.T) {
	d := newDisk(t)
	before := d.digest()
	killed, _ := d.load()
	killed.file.Close()
	l, note := d.load()
	if note != "" {
		t.Fatal(note)
	}
	works(t, l, nil)
	if d.digest() != before {
		t.Error("the disk is not as it was")
	}
}

// A disk that somebody's data may be on is only read.
func TestDiskThatIsNotEmptyIsOnlyRead(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*disk)
		want    string
	}{
		"a file system":         {func(d *disk) { d.run("mkfs.ext4", "-q", "-F", d.node) }, "it is not empty"},
		"a byte at the start":   {func(d *disk) { d.poke(1 << 20) }, "it is not empty"},
		"a byte at the end":     {func(d *disk) { d.poke(diskBytes - 1) }, "it is not empty"},
		"a byte in the middle":  {func(d *disk) { d.poke(diskBytes/2 + 12345) }, "it is not empty"},
		"a program has it open": {func(d *disk) { d.hold(os.O_RDWR) }, "has it open"},
		"a program claims it":   {func(d *disk) { d.hold(os.O_RDWR | unix.O_EXCL) }, "it is in use"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t)
			c.prepare(d)
			before := d.digest()
			l, note := d.load()
			if l.blocks != 0 || !strings.Contains(note, "it is only read") || !strings.Contains(note, c.want) {
				t.Errorf("it is written to, or says %q", note)
			}
			works(t, l, nil)
			if d.digest() != before {
				t.Error("the disk has changed")
			}
		})
	}
}

func (d *disk) poke(at int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.node, os.O_WRONLY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1}, at); err != nil {
		d.t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		d.t.Fatal(err)
	}
}

// hold has another process keep the disk open.
func (d *disk) hold(flags int) {
	d.t.Helper()
	f, err := os.OpenFile(d.node, flags, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	f.Close()
	d.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

// On a file system a drill has a file of its own, of which nothing is to be seen.
func TestMountedDiskHasAFileWithoutAName(t *testing.T) {
	d := newDisk(t)
	d.run("mkfs.ext4", "-q", "-F", d.node)
	dir := d.mount()
	if err := os.WriteFile(filepath.Join(dir, "mine"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	free := func() int64 {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Bfree) * st.Bsize
	}
	before := free()
	l, note := d.load()
	if note != "" || l.blocks == 0 || l.erase || !strings.Contains(l.What(), dir) {
		t.Fatalf("it is not written to: %q, %q", note, l.What())
	}
	works(t, l, func() {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 2 { // with lost+found
			t.Errorf("in the mount are %v (%v)", entries, err)
		}
		if used := before - free(); used > diskBytes/freeShare*2 {
			t.Errorf("the drill takes %d bytes", used)
		}
	})
	if now := free(); now != before {
		t.Errorf("%d bytes were free, now there are %d", before, now)
	}
}

func TestMountThatTakesNoFileIsOnlyRead(t *testing.T) {
	t.Run("full", func(t *testing.T) {
		d := newDisk(t)
		d.run("mkfs.ext4", "-q", "-F", d.node)
		dir := d.mount()
		f, err := os.Create(filepath.Join(dir, "big"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		piece := make([]byte, 1<<20)
		for err == nil {
			_, err = f.Write(piece)
		}
		l, note := d.load()
		if l.blocks != 0 || !strings.Contains(note, "the file system is full") {
			t.Errorf("it says %q", note)
		}
		works(t, l, nil)
	})
	t.Run("read-only", func(t *testing.T) {
		d := newDisk(t)
		d.run("mkfs.ext4", "-q", "-F", d.node)
		d.mount("-o", "ro")
		l, note := d.load()
		if l.blocks != 0 || !strings.Contains(note, "it is only read") {
			t.Errorf("it says %q", note)
		}
		works(t, l, nil)
	})
}

// What a disk gives back that is older than what it acknowledged, or damaged, or an error,
// is counted, once.
func TestDiskLoadFindsWhatIsLost(t *testing.T) {
	d := newDisk(t)
	l, _ := d.load()
	buf, release, err := alignedBlock()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	old := make([]byte, blockBytes)
	fillBlock(old, l.at(5), 1)
	if err := l.write(1, 5, buf); err != nil { // write 2
		t.Fatal(err)
	}
	for block, content := range map[int64][]byte{
		5: old,                                                                                   // older than acknowledged
		6: make([]byte, blockBytes),                                                              // never written, as far as the disk is concerned
		7: func() []byte { b := make([]byte, blockBytes); fillBlock(b, l.at(8), 1); return b }(), // of another place
	} {
		copy(buf, content)
		if _, err := l.file.WriteAt(buf, l.base+block*blockBytes); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := l.read(int(block%diskWorkers), block, buf); err != nil {
				t.Fatal(err)
			}
		}
	}
	if w := l.Window(time.Now()); w.Lost != 3 || w.Errors != 0 {
		t.Errorf("3 blocks are wrong; %d lost, %d errors: %s", w.Lost, w.Errors, w.LastErr)
	}
	// A write that failed may have been done or not.
	l.tried[9]++
	if err := l.read(1, 9, buf); err != nil || l.Window(time.Now()).Lost != 0 {
		t.Errorf("a block whose write failed counts as lost (%v)", err)
	}
	l.file.Close()
	works := l.read(1, 9, buf)
	if works == nil {
		t.Error("an error goes unnoticed")
	}
}

func TestMountPointsAreUnescaped(t *testing.T) {
	if got := unescape(`/mnt/a\040b\134c`); got != `/mnt/a b\c` {
		t.Errorf("it is %q", got)
	}
}
