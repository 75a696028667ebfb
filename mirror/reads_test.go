package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/mirror/balance"
	"ft/mirror/faultfile"
)

// readBox is a duplex disk whose leg 1 can be ill, filled with something. Its legs may take
// a long time before they are cut off.
type readBox struct {
	*box
	leg1 *faultfile.File
	f    *os.File
	want []byte
	page []byte
}

const readBoxBytes = 32 << 20 // of which the first half is filled

func newReadBox(t *testing.T, o Options) *readBox {
	b := &readBox{box: newBox(t, readBoxBytes)}
	o.LegTimeout = 2 * time.Minute
	b.cfg.Options, _ = json.Marshal(o)
	b.leg1 = faultfile.New(t, readBoxBytes)
	t.Cleanup(func() { b.leg1.Clear(); b.stop() })
	b.cfg.Sides[1].Resource.Path = b.leg1.Path()
	b.start()
	b.attach(1)
	b.duplex()
	var err error
	if b.f, err = os.OpenFile(filepath.Join(b.cfg.DevDir, "disk0"), os.O_RDWR|unix.O_DIRECT, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.f.Close() })
	b.want = alignedBytes(readBoxBytes / 2)
	rand.NewChaCha8([32]byte{9}).Read(b.want)
	b.page = alignedBytes(256 << 10)
	if _, err := b.f.WriteAt(b.want, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// read reads n bytes and says whether they are what was written.
func (b *readBox) read(off, n int64) {
	b.t.Helper()
	if _, err := b.f.ReadAt(b.page[:n], off); err != nil {
		b.t.Fatalf("read %d bytes at %d: %v", n, off, err)
	}
	if !bytes.Equal(b.page[:n], b.want[off:off+n]) {
		b.t.Fatalf("%d bytes at %d are not what was written", n, off)
	}
}

// random reads so many pages here and there, and says how many each leg was asked for.
func (b *readBox) random(count int) (legs [2]int64) {
	b.t.Helper()
	before := b.counters()
	for range count {
		b.read(rand.Int64N(readBoxBytes/2/4096)*4096, 4096)
	}
	after := b.counters()
	for i := range legs {
		legs[i] = after[i].Reads - before[i].Reads
	}
	return legs
}

func (b *readBox) counters() (c [2]LegCounters) {
	d := b.d.(*driver)
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, s := range d.engine.Snapshot().Sides {
		c[i] = s.Counters
	}
	return c
}

func (b *readBox) marks() (m [2]balance.Mark) {
	d := b.d.(*driver)
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range m {
		m[i] = d.engine.balance.Mark(i)
	}
	return m
}

func (b *readBox) command(name string, args map[string]string) {
	b.t.Helper()
	if _, err := b.d.(*driver).Command(context.Background(), name, args); err != nil {
		b.t.Fatal(err)
	}
}

// Reads are answered while a leg hangs, long before it is cut off, and a slow one gets few.
func TestReadsDoNotWaitForALegThatHangsOrIsSlow(t *testing.T) {
	b := newReadBox(t, Options{})
	b.random(20) // until it is known how quick both are
	b.leg1.Hang()
	b.random(50)
	if st := b.d.Status(); st.State != drivers.FaceDuplex {
		t.Errorf("the reads ended with the disk %s: they have waited for leg 1 to be cut off", st.State)
	}
	// One finds it out, or none where the leg was found to be the slower one before.
	if late := b.counters()[1].LateReads; late > 10 {
		t.Errorf("%d reads were late on the leg that hung: one finds it out", late)
	}
	b.leg1.Resume()
	b.leg1.Slow(500 * time.Millisecond)
	if legs := b.random(100); legs[1] > 25 {
		t.Errorf("the slow leg got %d of %d reads", legs[1], legs[0]+legs[1])
	}
	b.leg1.Clear()
	b.wait("leg 1 to have its share again", func(drivers.Status) bool { return b.random(20)[1] > 5 })
}

// A leg to be avoided gets no read until the other one is gone, and the newest word holds:
// an admin's, over a restart, until the configuration is changed.
func TestALegToBeAvoidedIsReadWhenThereIsNoOther(t *testing.T) {
	b := newReadBox(t, Options{Reads: [2]balance.Mark{balance.Balance, balance.Avoid}})
	if legs := b.random(50); legs[1] != 0 {
		t.Errorf("it got %d reads", legs[1])
	}
	b.command("reads", map[string]string{"side": "1", "mark": "balance"})
	if legs := b.random(50); legs[1] == 0 {
		t.Error("it is to have its share, and gets no read")
	}
	b.f.Close()
	b.stop()
	b.start()
	b.attach(1)
	b.duplex()
	if b.marks() != [2]balance.Mark{} {
		t.Errorf("what an admin said is forgotten over a restart: %v", b.marks())
	}
	b.command("configured", map[string]string{"pci0_reads": "prefer", "pci1_reads": "avoid"})
	if b.marks() != [2]balance.Mark{balance.Prefer, balance.Balance} {
		t.Errorf("of leg 1 the file says what it said before, of leg 0 something new: %v", b.marks())
	}
	b.command("reads", map[string]string{"side": "1", "mark": balance.WriteMostly})
	if note := b.d.Status().Sides[1].Note; note != "reads avoided" {
		t.Errorf("its status says %q", note)
	}
	b.f = b.face()
	before := b.counters()[1].Reads
	if err := b.d.Inject(t.Context(), 0, drivers.Fault{Name: "vanish"}); err != nil {
		t.Fatal(err)
	}
	b.random(20)
	if b.counters()[1].Reads == before {
		t.Error("nothing was read from the only leg")
	}
}

// A sequential stream stays on a leg, and a second one is on the other.
func TestASequentialStreamStaysOnALeg(t *testing.T) {
	b := newReadBox(t, Options{})
	const pieces, n = 48, 64 << 10
	legOf := func(off int64) int {
		before := b.counters()
		b.read(off, n)
		after := b.counters()
		return map[bool]int{true: 1}[after[1].Reads > before[1].Reads]
	}
	var on [2][2]int // of each stream, reads on each leg
	var last [2]int
	changes := 0
	for i := range int64(pieces) {
		for s := range on {
			leg := legOf(int64(s)*readBoxBytes/4 + i*n)
			on[s][leg]++
			if i > 2 && leg != last[s] {
				changes++
			}
			last[s] = leg
		}
	}
	// On a busy machine a leg may look so slow for once that a stream leaves it.
	if changes > pieces/4 {
		t.Errorf("two streams of %d reads changed legs %d times", pieces, changes)
	}
	if c := b.counters(); c[0].SequentialReads+c[1].SequentialReads < 2*pieces-4 {
		t.Errorf("%d and %d reads were known as sequential", c[0].SequentialReads, c[1].SequentialReads)
	}
}
