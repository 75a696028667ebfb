package integration_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/scrub"
)

// spot is a piece of the face that the test writes and reads, in bytes.
const spot = 256 << 10

func spotAt(i int) int64 { return int64(i) * 20 << 20 }

// onSpot opens the face past the page cache, and has a spot's worth of aligned memory.
func (b *box) onSpot(flags int, do func(f *os.File, page []byte)) {
	b.t.Helper()
	f, err := os.OpenFile(b.face(), flags|unix.O_DIRECT, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	page, err := unix.Mmap(-1, 0, spot, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		b.t.Fatal(err)
	}
	defer unix.Munmap(page)
	do(f, page)
}

// fillSpot writes a spot, durably.
func (b *box) fillSpot(i int) (content []byte) {
	b.t.Helper()
	b.onSpot(os.O_RDWR, func(f *os.File, page []byte) {
		for k := range page {
			page[k] = byte(k*7 + k/4096 + i)
		}
		if _, err := f.WriteAt(page, spotAt(i)); err != nil {
			b.t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.t.Fatal(err)
		}
		content = bytes.Clone(page)
	})
	return content
}

// readSpot reads a spot; nil when that gives an I/O error.
func (b *box) readSpot(i int) (content []byte) {
	b.t.Helper()
	b.onSpot(os.O_RDONLY, func(f *os.File, page []byte) {
		if _, err := f.ReadAt(page, spotAt(i)); errors.Is(err, unix.EIO) {
			return
		} else if err != nil {
			b.t.Fatal(err)
		}
		content = bytes.Clone(page)
	})
	return content
}

// With checksums a byte that is flipped on a leg behind the mirror's back is never
// returned: it is healed when it is read, or by a scrub without anybody's word, and told
// with leg and offset; on the last leg, reading it is an error.
func TestFlippedByteIsNeverReturned(t *testing.T) {
	t.Parallel()
	dev0, file0 := legLoop(t, legBytes)
	dev1, file1 := legLoop(t, legBytes)
	b := newBox(t, dev0, dev1)
	b.start()
	b.wait("disk0", "duplex")
	old := b.fillSpot(0) // from before there were checksums
	b.stop()
	b.configure("integrity = \"crc32c\"\n")
	b.start()
	b.wait("disk0", "duplex")
	await(t, 60*time.Second, "checksums of what was there already", func() bool {
		st := b.scrubbing()
		return st.Last != nil && st.Summed && st.Phase == scrub.Idle && !st.Build
	})
	want := [][]byte{old, b.fillSpot(1), b.fillSpot(2), b.fillSpot(3)}

	// One on each leg; both are read until both have been found.
	flip(t, file0, spotAt(0)+5000)
	flip(t, file1, spotAt(1)+spot-1)
	await(t, 30*time.Second, "both flipped bytes to be read and healed", func() bool {
		for _, i := range []int{0, 1, 0} { // an odd number, since reads take turns with the legs
			if !bytes.Equal(b.readSpot(i), want[i]) {
				t.Fatalf("spot %d is not what was written", i)
			}
		}
		o := b.scrubbing().Outstanding
		return o.Wrong == [2]int64{4096, 4096} && o.Repaired == 2*4096
	})
	b.equalLegs(file0, file1)
	says(t, b.do("show", "disk0"), "4096 bytes at 4096, wrong, pci0/disk0, repaired")
	says(t, b.do("events"), "written anew from pci0/disk0", "written anew from pci1/disk0")

	// Nobody reads it: a scrub finds it, and knows which leg it is.
	flip(t, file1, spotAt(2)+12345)
	b.do("scrub", "disk0")
	if found := b.scrubbed(); found.Wrong != [2]int64{0, 4096} || found.Repaired != 4096 || found.Differ != 0 {
		t.Fatalf("a scrub found %+v", found)
	}
	b.equalLegs(file0, file1)
	b.do("scrub", "disk0")
	if found := b.scrubbed(); !found.Clean() || !b.scrubbing().Outstanding.Clean() {
		t.Fatalf("after a repair: %+v, outstanding %+v", found, b.scrubbing().Outstanding)
	}

	// The process dies; what was written is verified by its successor.
	if err := unix.Kill(b.driverPid(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, 30*time.Second, "what was marked to be made equal", func() bool {
		return strings.Contains(b.do("events"), "crash resync done")
	})
	flip(t, file0, spotAt(3)+1)
	for range 6 {
		for _, i := range []int{0, 1, 2, 3, 3} {
			if !bytes.Equal(b.readSpot(i), want[i]) {
				t.Fatalf("after a takeover spot %d is not what was written", i)
			}
		}
	}

	// The last leg: an error rather than what is wrong. The rest can be read.
	b.do("bringdown", "pci1/disk0")
	flip(t, file0, spotAt(1)+99)
	if got := b.readSpot(1); got != nil {
		t.Fatal("what is wrong on the only leg was returned")
	}
	if !bytes.Equal(b.readSpot(2), want[2]) {
		t.Fatal("spot 2 is not what was written")
	}
	// Its partner still has it.
	b.do("bringup", "pci1/disk0")
	b.wait("disk0", "duplex")
	b.do("scrub", "disk0")
	b.scrubbed()
	for i := range want {
		if !bytes.Equal(b.readSpot(i), want[i]) {
			t.Fatalf("at last spot %d is not what was written", i)
		}
	}
	b.equalLegs(file0, file1)
	b.stop()
}
