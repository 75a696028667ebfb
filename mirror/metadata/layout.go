package metadata

import (
	"fmt"
	"math"
	"sort"
)

// Limits of the layout.
const (
	// DeviceBytesMin is the smallest leg: below it the metadata would be a sizeable part.
	DeviceBytesMin = 2 << 20
	// IntentBlocksMax bounds the write-intent map, which is rewritten all the time and
	// read at every start: larger legs get larger extents instead.
	IntentBlocksMax = 64

	granuleMin  = BlockSize // of regions and extents, bytes
	granuleMax  = 1 << 30
	checksumLen = 4 // bytes of the checksum of one block of data
)

// Layout says where everything lies on a leg. It follows from the leg's size and the
// two granularities alone, so that two legs of the same size have the same layout and
// nothing that was read from a leg is ever used as an offset. Offsets and lengths are
// bytes and multiples of BlockSize.
type Layout struct {
	DeviceBytes int64 // the leg, rounded down to BlockSize
	DataBytes   int64 // size of the face, a multiple of RegionSize; the data begins at 0
	RegionSize  uint32
	ExtentSize  uint32

	// Block i of the table of checksums lies at ChecksumOff + i*BlockSize and holds those
	// of the blocks of data from i*SumsPerBlock.
	ChecksumOff int64
	ChecksumLen int64
	// Block i of a map lies at IntentOff (MissedOff) + i*BlockSize and holds the bits
	// from i*BitsPerBlock.
	IntentOff    int64
	IntentBlocks int
	MissedOff    int64
	MissedBlocks int
	SuperOff     [2]int64

	Regions int // bits of the missed-writes bitmap
	Extents int // bits of the write-intent map; the last may cover less than ExtentSize
}

// ExtentSizeFor is the extent size, in bytes, for a new mirror on legs of deviceBytes:
// DefaultExtentSize, or the next power of two that keeps the write-intent map within
// IntentBlocksMax blocks.
func ExtentSizeFor(deviceBytes int64) uint32 {
	size := int64(DefaultExtentSize)
	for size < granuleMax && (deviceBytes+size-1)/size > IntentBlocksMax*BitsPerBlock {
		size <<= 1
	}
	return uint32(size)
}

// NewLayout computes the layout of a leg of deviceBytes. Region and extent sizes are
// powers of two from 4 KiB to 1 GiB; an extent is at least a region.
func NewLayout(deviceBytes int64, regionSize, extentSize uint32) (Layout, error) {
	if deviceBytes < DeviceBytesMin {
		return Layout{}, fmt.Errorf("%w: a leg needs at least %d bytes (2 MiB), this one has %d: use a larger device", ErrGeometry, DeviceBytesMin, deviceBytes)
	}
	for _, g := range []struct {
		what string
		size uint32
	}{{"region", regionSize}, {"extent", extentSize}} {
		if g.size < granuleMin || g.size > granuleMax || g.size&(g.size-1) != 0 {
			return Layout{}, fmt.Errorf("%w: %s size %d is not a power of two from %d to %d", ErrGeometry, g.what, g.size, granuleMin, granuleMax)
		}
	}
	if extentSize < regionSize {
		return Layout{}, fmt.Errorf("%w: extents of %d bytes are smaller than regions of %d", ErrGeometry, extentSize, regionSize)
	}
	device := deviceBytes &^ (BlockSize - 1)
	if device/int64(regionSize) > math.MaxInt32 {
		return Layout{}, fmt.Errorf("%w: %d bytes are too many for regions of %d: use larger regions", ErrGeometry, deviceBytes, regionSize)
	}

	// The most regions whose data and metadata fit. Their need grows with their number.
	n := sort.Search(int(device/int64(regionSize))+1, func(n int) bool {
		l := layoutOf(device, n, regionSize, extentSize)
		return l.ChecksumOff+l.ChecksumLen > l.IntentOff
	}) - 1
	if n < 1 {
		return Layout{}, fmt.Errorf("%w: a leg of %d bytes has no room for one region of %d beside its metadata: use a larger device", ErrGeometry, deviceBytes, regionSize)
	}
	l := layoutOf(device, n, regionSize, extentSize)
	if l.IntentBlocks > IntentBlocksMax {
		return Layout{}, fmt.Errorf("%w: a leg of %d bytes with extents of %d needs %d blocks of write-intent map, at most %d are allowed: use extents of %d",
			ErrGeometry, deviceBytes, extentSize, l.IntentBlocks, IntentBlocksMax, ExtentSizeFor(deviceBytes))
	}
	return l, nil
}

// layoutOf lays out n regions: the reserved checksums behind the data, the rest down
// from the end. It fits when the checksums end before the write-intent map begins.
func layoutOf(device int64, n int, regionSize, extentSize uint32) Layout {
	data := int64(n) * int64(regionSize)
	l := Layout{
		DeviceBytes: device, DataBytes: data, RegionSize: regionSize, ExtentSize: extentSize,
		ChecksumOff: data,
		ChecksumLen: (data/BlockSize*checksumLen + BlockSize - 1) &^ (BlockSize - 1),
		SuperOff:    [2]int64{device - 2*BlockSize, device - BlockSize},
		Regions:     n,
		Extents:     int((data + int64(extentSize) - 1) / int64(extentSize)),
	}
	l.MissedBlocks = (l.Regions + BitsPerBlock - 1) / BitsPerBlock
	l.IntentBlocks = (l.Extents + BitsPerBlock - 1) / BitsPerBlock
	l.MissedOff = l.SuperOff[0] - int64(l.MissedBlocks)*BlockSize
	l.IntentOff = l.MissedOff - int64(l.IntentBlocks)*BlockSize
	return l
}

// IntentBlockOff is where block i of the write-intent map lies.
func (l Layout) IntentBlockOff(i int) int64 { return l.IntentOff + int64(i)*BlockSize }

// SumBlockOff is where block i of the table of checksums lies.
func (l Layout) SumBlockOff(i int) int64 { return l.ChecksumOff + int64(i)*BlockSize }

// SumBlocks is how many blocks the table of checksums has.
func (l Layout) SumBlocks() int { return int(l.ChecksumLen / BlockSize) }

// MissedBlockOff is where block i of the missed-writes bitmap lies.
func (l Layout) MissedBlockOff(i int) int64 { return l.MissedOff + int64(i)*BlockSize }
