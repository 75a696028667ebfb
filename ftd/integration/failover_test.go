package integration_test

import (
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/faultfile"
)

// faultyBox is a box in duplex whose pci1 leg is a loop device over a file that can
// fail, with ext4 mounted and a verifying load on it.
func faultyBox(t *testing.T) (b *box, file0 string, bad *faultfile.File, dir string, l *load) {
	t.Helper()
	dev0, file0 := legLoop(t, legBytes)
	bad = faultfile.New(t, legBytes)
	b = newBox(t, dev0, bad.Path())
	b.configure("leg_timeout = \"3s\"\n")
	b.start()
	b.wait("disk0", "duplex")
	b.mkfs()
	dir = b.mount()
	l = b.fio(dir)
	return b, file0, bad, dir, l
}

// backAgain waits for duplex, ends the load, and compares the legs.
func backAgain(b *box, l *load, dir, file0, file1 string) {
	b.t.Helper()
	b.wait("disk0", "duplex")
	l.stop()
	frozen(b.t, dir, func() { b.equalLegs(file0, file1) })
}

func TestLegFailsUnderLoad(t *testing.T) {
	t.Parallel()
	b, file0, bad, dir, l := faultyBox(t)
	bad.FailWrites(syscall.EIO, 0, 0)
	b.wait("disk0", "simplex")
	l.running()
	bad.Clear()
	backAgain(b, l, dir, file0, bad.Backing())
}

func TestLegHangsUnderLoad(t *testing.T) {
	t.Parallel()
	b, file0, bad, dir, l := faultyBox(t)
	bad.Hang()
	b.wait("disk0", "simplex")
	b.progress(50) // the face goes on
	l.running()
	bad.Resume()
	backAgain(b, l, dir, file0, bad.Backing())
}

func TestLegVanishesAndReturnsUnderLoad(t *testing.T) {
	t.Parallel()
	b, file0, bad, dir, l := faultyBox(t)
	bad.Vanish()
	b.wait("disk0", "simplex")
	l.running()
	bad.Return()
	backAgain(b, l, dir, file0, bad.Backing())
}

// Faults that the driver itself puts in, by the command that a drill uses.
func TestDrillsUnderLoad(t *testing.T) {
	t.Parallel()
	dev0, file0 := legLoop(t, legBytes)
	dev1, file1 := legLoop(t, legBytes)
	b := newBox(t, dev0, dev1)
	b.configure("leg_timeout = \"2s\"\n")
	b.start()
	b.wait("disk0", "duplex")
	b.mkfs()
	dir := b.mount()
	l := b.fio(dir)
	for _, drill := range []struct{ side, fault, end string }{
		{"pci1", "write-error", "clear"},
		{"pci0", "hang", "clear"},
		{"pci1", "vanish", "return"},
		{"pci0", "vanish", "return"},
	} {
		id := drill.side + "/disk0"
		b.do("inject", id, drill.fault)
		b.wait("disk0", "simplex")
		l.running()
		b.do("inject", id, drill.end)
		b.wait("disk0", "duplex")
		l.running()
	}
	b.do("inject", "pci1", "power-off")
	b.wait("pci1", "removed")
	b.do("inject", "pci1", "power-on")
	backAgain(b, l, dir, file0, file1)
}

func TestBringdownAndBringupUnderLoad(t *testing.T) {
	t.Parallel()
	dev0, file0 := legLoop(t, legBytes)
	dev1, file1 := legLoop(t, legBytes)
	b := newBox(t, dev0, dev1)
	b.start()
	b.wait("disk0", "duplex")
	b.mkfs()
	dir := b.mount()
	l := b.fio(dir)
	for _, side := range []string{"pci1/disk0", "pci0/disk0", "pci1"} {
		b.do("bringdown", side)
		b.wait("disk0", "simplex")
		other := "pci0/disk0"
		if side == other {
			other = "pci1/disk0"
		}
		b.refuse("bringdown", other) // the last side
		b.do("bringup", side)
		b.wait("disk0", "duplex")
		l.running()
	}
	backAgain(b, l, dir, file0, file1)
}

// What an admin took out stays out, over the restart of everything.
func TestBringdownOutlivesEverything(t *testing.T) {
	t.Parallel()
	dev0, _ := legLoop(t, legBytes)
	dev1, _ := legLoop(t, legBytes)
	b := newBox(t, dev0, dev1)
	b.start()
	b.wait("disk0", "duplex")
	b.do("bringdown", "pci1/disk0")
	b.stop()
	b.start()
	b.wait("disk0", "simplex")
	b.wait("pci1/disk0", "offline")
	b.do("bringup", "pci1/disk0")
	b.wait("disk0", "duplex")
}

// A leg that was absent while 8 MiB were written comes back by copying those.
func TestFastResyncCopiesWhatWasMissed(t *testing.T) {
	t.Parallel()
	const missed = 8 << 20
	dev0, file0 := legLoop(t, 1<<30)
	dev1, file1 := legLoop(t, 1<<30)
	b := newBox(t, dev0, dev1)
	b.start()
	b.wait("disk0", "duplex")
	face, err := unix.Open(b.face(), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(face)
	block, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(block)
	for i := range block {
		block[i] = byte(i*7 + i>>8)
	}
	b.do("bringdown", "pci1/disk0")
	before := b.stat("resynced_bytes")
	for off := int64(0); off < missed; off += int64(len(block)) {
		if _, err := unix.Pwrite(face, block, 100<<20+off); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Fsync(face); err != nil {
		t.Fatal(err)
	}
	b.do("bringup", "pci1/disk0")
	b.wait("disk0", "duplex")
	if copied := b.stat("resynced_bytes") - before; copied < missed || copied > 9<<20 {
		t.Errorf("the resync copied %d bytes of a disk of 1 GiB, want %d to %d", copied, missed, 9<<20)
	}
	b.equalLegs(file0, file1)
}

// A leg alone, without this software, shows the file system.
func TestLegAloneIsReadable(t *testing.T) {
	t.Parallel()
	file0, file1 := legFile(t, legBytes), legFile(t, legBytes)
	b := newBox(t, file0, file1)
	b.start()
	b.wait("disk0", "duplex")
	b.mkfs()
	dir := b.mount()
	writeSome(t, dir+"/hello", 1<<20)
	want := digestOf(t, dir+"/hello")
	unmount(t, dir)
	b.stop()
	for _, leg := range []string{file0, file1} {
		at := t.TempDir()
		command(t, "mount", "-o", "loop,ro", leg, at)
		t.Cleanup(func() { unmount(t, at) })
		if got := digestOf(t, at+"/hello"); got != want {
			t.Errorf("%s: the file on it differs from what was written", leg)
		}
	}
}

// The face is quick again after a fault: a hung leg costs at most its time limit.
func TestHungLegStopsTheFaceNoLongerThanItsLimit(t *testing.T) {
	t.Parallel()
	b, _, bad, dir, l := faultyBox(t)
	l.stop()
	bad.Hang()
	began := time.Now()
	writeSome(t, dir+"/after", 1<<20)
	if took := time.Since(began); took > busy*30*time.Second {
		t.Errorf("a durable write took %s with a leg that hangs and leg_timeout = 3s", took)
	}
	bad.Resume()
	b.wait("disk0", "duplex")
}
