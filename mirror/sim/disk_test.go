package sim

import (
	"math/rand/v2"
	"testing"
)

func fillSectors(d *disk, first, n int64, v value) {
	buf := make([]byte, n*sectorSize)
	fill(buf, v, first)
	d.write(first*sectorSize, n*sectorSize, buf)
}

func sectorValue(t *testing.T, d *disk, i int64) value {
	t.Helper()
	buf := make([]byte, sectorSize)
	d.read(i*sectorSize, buf)
	v, err := valueOf(buf, i)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDiskReadsItsCache(t *testing.T) {
	d := newDisk(1<<20, &pages{})
	fillSectors(d, 5, 20, 1)
	fillSectors(d, 7, 1, 2)
	for i, want := range map[int64]value{4: 0, 5: 1, 7: 2, 24: 1, 25: 0} {
		if v := sectorValue(t, d, i); v != want {
			t.Errorf("sector %d holds %d, not %d", i, v, want)
		}
	}
	d.write(6*sectorSize, 2*sectorSize, nil)
	if v := sectorValue(t, d, 7); v != 0 {
		t.Errorf("a zeroed sector holds %d", v)
	}
}

// What a flush covered survives; what it did not, survives or not, sector by sector, but
// never in the wrong order.
func TestDiskPowerCut(t *testing.T) {
	const sectors = 16
	seen := map[value]bool{}
	torn := false
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		d := newDisk(1<<20, &pages{})
		fillSectors(d, 0, sectors, 1)
		mark := d.mark()
		fillSectors(d, 0, sectors, 2) // completes while the flush is under way
		d.flush(mark)
		fillSectors(d, 0, sectors, 3)
		buf := make([]byte, sectors*sectorSize)
		fill(buf, 4, 0)
		d.powerCut([]cached{{0, sectors * sectorSize, buf}}, rng, 1<<20)
		first := sectorValue(t, d, 0)
		for i := range int64(sectors) {
			v := sectorValue(t, d, i)
			if v == 0 {
				t.Fatalf("seed %d: sector %d lost what was flushed", seed, i)
			}
			seen[v] = true
			torn = torn || v != first
		}
		fillSectors(d, 0, 1, 5)
		d.flush(d.mark())
		d.powerCut(nil, rng, 1<<20)
		if v := sectorValue(t, d, 0); v != 5 {
			t.Fatalf("seed %d: lost %d, flushed after a power cut", seed, v)
		}
	}
	for v := value(1); v <= 4; v++ {
		if !seen[v] {
			t.Errorf("no power cut left %d", v)
		}
	}
	if !torn {
		t.Error("no power cut tore a write")
	}
}

func TestDiskWithoutTearing(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 2))
		d := newDisk(1<<20, &pages{})
		fillSectors(d, 8, 8, 1)
		d.powerCut(nil, rng, 4096)
		first := sectorValue(t, d, 8)
		for i := int64(8); i < 16; i++ {
			if v := sectorValue(t, d, i); v != first {
				t.Fatalf("seed %d: sectors 8 and %d differ", seed, i)
			}
		}
	}
}

func TestImagesShareUntilWritten(t *testing.T) {
	pool := &pages{}
	a, b := newImage(1<<20, pool), newImage(1<<20, pool)
	buf := make([]byte, pageSize)
	fill(buf, 1, 0)
	a.write(0, pageSize, buf)
	a.share(&b)
	fill(buf, 2, 0)
	a.write(0, sectorSize, buf[:sectorSize])
	got := make([]byte, sectorSize)
	b.read(0, got)
	if v, err := valueOf(got, 0); err != nil || v != 1 {
		t.Errorf("a write to one image reached the other: %d %v", v, err)
	}
}
