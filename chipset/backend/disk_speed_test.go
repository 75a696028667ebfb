package backend

import (
	"fmt"
	"testing"

	"ft/chipset/virtio"
)

func TestDiskAllocatesNothing(t *testing.T) {
	d := openDisk(t, DiskConfig{Path: image(t)})
	r := virtio.Request{ID: 1, Op: virtio.Write, Length: 4096, Data: make([]byte, 4096)}
	answered := make(chan struct{}, 1)
	done := func(_ *virtio.Completion, release func()) {
		release()
		answered <- struct{}{}
	}
	if n := testing.AllocsPerRun(500, func() {
		d.Submit(&r, done)
		<-answered
	}); n != 0 {
		t.Fatalf("%v allocations a request", n)
	}
}

func TestPoolSizes(t *testing.T) {
	var p pool
	for _, n := range []int{1, 512, 4096, 4097, 8192, 1 << 20, 1<<20 + 1, virtio.BlockDataMax} {
		b := p.take(n)
		if len(b) != n || cap(b) >= 2*max(n, 4096) {
			t.Errorf("%d bytes: %d of %d", n, len(b), cap(b))
		}
		b[0], b[n-1] = 1, 1
		p.give(b)
		again := p.take(n)
		if &again[0] != &b[0] {
			t.Errorf("%d bytes: what was given back is not taken again", n)
		}
		p.give(again)
	}
}

func BenchmarkDiskRead4K(b *testing.B) {
	for _, depth := range []int{1, 16} {
		b.Run(fmt.Sprintf("QD%d", depth), func(b *testing.B) {
			d := openDisk(b, DiskConfig{Path: loop(b)})
			slots := make(chan struct{}, depth)
			done := func(_ *virtio.Completion, release func()) { release(); <-slots }
			r := virtio.Request{Op: virtio.Read, Length: 4096}
			for i := 0; b.Loop(); i++ {
				slots <- struct{}{}
				r.Sector = uint64(i*8) % (diskBytes / 512)
				d.Submit(&r, done)
			}
		})
	}
}
