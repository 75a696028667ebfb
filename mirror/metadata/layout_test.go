package metadata

import (
	"errors"
	"math/bits"
	"testing"

	"pgregory.net/rapid"
)

func TestLayoutLiesInOrderAndFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		device := rapid.Int64Range(DeviceBytesMin, 1<<46).Draw(t, "device bytes")
		if rapid.Bool().Draw(t, "small") {
			device = rapid.Int64Range(DeviceBytesMin, 64<<20).Draw(t, "small device bytes")
		}
		region := uint32(1) << rapid.IntRange(12, 24).Draw(t, "region bits")
		extent := max(region, ExtentSizeFor(device))
		l, err := NewLayout(device, region, extent)
		if err != nil {
			if device/int64(region) > 1<<30 || int64(region)*2 > device {
				return // too many regions, or too large ones
			}
			t.Fatalf("refused: %v", err)
		}
		checkLayout(t, l)
		if l.DeviceBytes != device/BlockSize*BlockSize {
			t.Fatalf("device of %d bytes counts as %d", device, l.DeviceBytes)
		}
		if more := layoutOf(l.DeviceBytes, l.Regions+1, region, extent); more.ChecksumOff+more.ChecksumLen <= more.IntentOff {
			t.Fatalf("%d regions would have fitted, %d are used", more.Regions, l.Regions)
		}
		again, err := NewLayout(l.DeviceBytes, region, extent)
		if err != nil || again != l {
			t.Fatalf("the layout of the rounded size is %+v (%v), not %+v", again, err, l)
		}
	})
}

func checkLayout(t *rapid.T, l Layout) {
	for _, p := range []struct {
		what    string
		at, end int64
	}{
		{"data", 0, l.ChecksumOff},
		{"checksums", l.ChecksumOff, l.ChecksumOff + l.ChecksumLen},
		{"intent", l.IntentOff, l.IntentBlockOff(l.IntentBlocks)},
		{"missed", l.MissedOff, l.MissedBlockOff(l.MissedBlocks)},
		{"superblock 0", l.SuperOff[0], l.SuperOff[0] + BlockSize},
		{"superblock 1", l.SuperOff[1], l.SuperOff[1] + BlockSize},
	} {
		if p.at%BlockSize != 0 || p.end <= p.at || p.end > l.DeviceBytes {
			t.Fatalf("%s from %d to %d in %+v", p.what, p.at, p.end, l)
		}
	}
	if l.DataBytes != l.ChecksumOff || l.ChecksumOff+l.ChecksumLen > l.IntentOff ||
		l.IntentBlockOff(l.IntentBlocks) > l.MissedOff || l.MissedBlockOff(l.MissedBlocks) != l.SuperOff[0] ||
		l.SuperOff[0]+BlockSize != l.SuperOff[1] || l.SuperOff[1]+BlockSize != l.DeviceBytes {
		t.Fatalf("parts overlap: %+v", l)
	}
	if l.DataBytes != int64(l.Regions)*int64(l.RegionSize) || int64(l.Extents)*int64(l.ExtentSize) < l.DataBytes ||
		int64(l.Extents-1)*int64(l.ExtentSize) >= l.DataBytes {
		t.Fatalf("maps do not cover the data: %+v", l)
	}
	if l.ChecksumLen < l.DataBytes/BlockSize*4 || l.MissedBlocks*BitsPerBlock < l.Regions || l.IntentBlocks*BitsPerBlock < l.Extents {
		t.Fatalf("too little room: %+v", l)
	}
	if l.IntentBlocks > IntentBlocksMax {
		t.Fatalf("%d blocks of write-intent map", l.IntentBlocks)
	}
}

func TestLayoutOfAGibibyte(t *testing.T) {
	l, err := NewLayout(1<<30, DefaultRegionSize, ExtentSizeFor(1<<30))
	if err != nil {
		t.Fatal(err)
	}
	// One block each of both maps, 1 MiB of checksums: 17 regions are given up.
	want := Layout{
		DeviceBytes: 1 << 30, DataBytes: 1<<30 - 17<<16, RegionSize: 64 << 10, ExtentSize: 4 << 20,
		ChecksumOff: 1<<30 - 17<<16, ChecksumLen: 1 << 20,
		IntentOff: 1<<30 - 16384, IntentBlocks: 1, MissedOff: 1<<30 - 12288, MissedBlocks: 1,
		SuperOff: [2]int64{1<<30 - 8192, 1<<30 - 4096}, Regions: 16384 - 17, Extents: 256,
	}
	if l != want {
		t.Errorf("layout\n%+v, want\n%+v", l, want)
	}
}

func TestLayoutRefuses(t *testing.T) {
	for _, c := range []struct {
		device         int64
		region, extent uint32
	}{
		{DeviceBytesMin - 1, DefaultRegionSize, DefaultExtentSize},
		{0, DefaultRegionSize, DefaultExtentSize},
		{-1, DefaultRegionSize, DefaultExtentSize},
		{1 << 30, 0, DefaultExtentSize},
		{1 << 30, 2048, DefaultExtentSize},
		{1 << 30, 65537, DefaultExtentSize},
		{1 << 30, 2 << 30, 2 << 30},
		{1 << 30, DefaultRegionSize, 0},
		{1 << 30, DefaultRegionSize, 4096},
		{1 << 21, 2 << 20, 4 << 20}, // no room for one region
		{1 << 46, DefaultRegionSize, DefaultExtentSize},
		{1 << 62, 4096, 1 << 30},
	} {
		if l, err := NewLayout(c.device, c.region, c.extent); !errors.Is(err, ErrGeometry) {
			t.Errorf("%+v: %+v, %v", c, l, err)
		}
	}
}

func TestExtentSizeFor(t *testing.T) {
	for _, c := range []struct {
		device int64
		want   uint32
	}{{1 << 30, 4 << 20}, {7 << 40, 4 << 20}, {8 << 40, 8 << 20}, {64 << 40, 64 << 20}} {
		if got := ExtentSizeFor(c.device); got != c.want {
			t.Errorf("%d TiB: extents of %d, want %d", c.device>>40, got, c.want)
		}
		if l, err := NewLayout(c.device, DefaultRegionSize, c.want); err != nil || bits.OnesCount32(l.ExtentSize) != 1 {
			t.Errorf("%d TiB: %v", c.device>>40, err)
		}
	}
}
