package drill

import (
	"encoding/binary"
	"hash/crc32"
)

// A block that a drill writes says whose it is: which drill's, which disk's, at which place,
// and which write of that place. The rest follows from that, and a checksum is over all of
// it. So a read tells a block that is older than what was acknowledged, one that belongs
// elsewhere, and one that is damaged, from a good one; and what a drill that was killed has
// left is known again.
const (
	blockBytes = 4096
	blockMagic = "ft-drill"

	blockDrillAt      = 8
	blockDiskAt       = 16
	blockNumberAt     = 24
	blockGenerationAt = 32
	blockBodyAt       = 40
	blockSumAt        = blockBytes - 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// blockID is what a block says of itself, but for the generation.
type blockID struct{ drill, disk, number uint64 }

// fillBlock makes the block of a write.
func fillBlock(b []byte, id blockID, generation uint64) {
	copy(b, blockMagic)
	binary.LittleEndian.PutUint64(b[blockDrillAt:], id.drill)
	binary.LittleEndian.PutUint64(b[blockDiskAt:], id.disk)
	binary.LittleEndian.PutUint64(b[blockNumberAt:], id.number)
	binary.LittleEndian.PutUint64(b[blockGenerationAt:], generation)
	fillPattern(b[blockBodyAt:blockSumAt], id.number^generation<<32, 0)
	binary.LittleEndian.PutUint32(b[blockSumAt:], crc32.Checksum(b[:blockSumAt], castagnoli))
}

// readBlock is the generation of a block that was read; false: it is not the one that
// should be there.
func readBlock(b []byte, id blockID) (generation uint64, ok bool) {
	return binary.LittleEndian.Uint64(b[blockGenerationAt:]), isDrills(b) &&
		binary.LittleEndian.Uint64(b[blockDrillAt:]) == id.drill &&
		binary.LittleEndian.Uint64(b[blockDiskAt:]) == id.disk &&
		binary.LittleEndian.Uint64(b[blockNumberAt:]) == id.number
}

// isDrills says whether any drill has written a block.
func isDrills(b []byte) bool {
	return string(b[:len(blockMagic)]) == blockMagic && binary.LittleEndian.Uint32(b[blockSumAt:]) == crc32.Checksum(b[:blockSumAt], castagnoli)
}

// fillPattern fills p with what a stream has from an offset on, a multiple of 8: words of
// SplitMix64, each of its place.
func fillPattern(p []byte, seed, offset uint64) {
	var word [8]byte
	for at := 0; at < len(p); at += 8 {
		n := seed + offset + uint64(at) + 0x9E3779B97F4A7C15
		n = (n ^ n>>30) * 0xBF58476D1CE4E5B9
		n = (n ^ n>>27) * 0x94D049BB133111EB
		binary.LittleEndian.PutUint64(word[:], n^n>>31)
		copy(p[at:], word[:])
	}
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
