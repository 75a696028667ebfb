package integration_test

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/scrub"
)

// flip flips one bit of a leg's file behind the mirror's back.
func flip(t *testing.T, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// scrubbing is how disk0's scrub stands.
func (b *box) scrubbing() (st scrub.Status) {
	b.t.Helper()
	text, err := json.Marshal(b.stats("disk0")["scrub"])
	if err == nil {
		err = json.Unmarshal(text, &st)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return st
}

// scrubbed waits for the end of the scrub and gives what it found.
func (b *box) scrubbed() scrub.Tally {
	b.t.Helper()
	await(b.t, 60*time.Second, "the scrub's end", func() bool { return b.scrubbing().Phase == scrub.Idle })
	return b.scrubbing().Last.Found
}

// What differs between the legs is found, told with its place, and repaired only from the
// side that a person names; paused, a scrub outlives its process, ftd and the keeper's.
func TestScrub(t *testing.T) {
	t.Parallel()
	dev0, file0 := legLoop(t, legBytes)
	dev1, file1 := legLoop(t, legBytes)
	b := newBox(t, dev0, dev1)
	b.configure("scrub = \"weekly\"\n")
	b.start()
	b.wait("disk0", "duplex")
	b.pattern('s')
	b.do("scrub", "disk0")
	if found := b.scrubbed(); !found.Clean() {
		t.Fatalf("equal legs: %+v", found)
	}
	if due := time.Until(b.scrubbing().Due); due < 6*24*time.Hour || due > 8*24*time.Hour {
		t.Errorf("scrub = weekly: the next one is due in %v", due)
	}

	flip(t, file1, 100<<20+12345)
	b.do("scrub", "disk0")
	if found := b.scrubbed(); found != (scrub.Tally{Differ: 4096}) {
		t.Fatalf("one byte was flipped: %+v", found)
	}
	says(t, b.do("show", "disk0"), "104869888", "differ")
	says(t, b.refuse("scrub", "disk0", "--repair"), "--from")

	// The priority is low and the face is busy enough: the scrub takes its time.
	b.do("priority", "disk0", "low")
	for try := 1; ; try++ {
		b.do("scrub", "disk0", "--repair", "--from", "pci0")
		out, code := b.ftctl("scrub", "disk0", "--pause")
		if code == done {
			break
		}
		if try == 10 { // it was quicker than ftctl each time
			t.Fatalf("ftctl scrub disk0 --pause: exit code %d\n%s", code, out)
		}
		b.scrubbed()
		flip(t, file1, 100<<20+12345)
	}
	at := b.scrubbing()
	if at.Phase != scrub.Paused || at.Progress == nil {
		t.Fatalf("paused: %+v", at)
	}
	says(t, b.do("status"), "scrub")
	if err := unix.Kill(b.driverPid(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.killFtd()
	b.start()
	b.wait("disk0", "duplex")
	if st := b.scrubbing(); st.Phase != scrub.Paused || !st.Repair || st.From != 0 || st.Priority != "low" {
		t.Fatalf("after its process was killed: %+v", st)
	}
	b.do("scrub", "disk0", "--resume")
	if found := b.scrubbed(); found != (scrub.Tally{Differ: 4096, Repaired: 4096}) {
		t.Fatalf("repaired: %+v", found)
	}
	b.equalLegs(file0, file1)
	b.stop()
}
