// Package metadata is what a mirror writes at the end of each leg, and the witness
// outside the legs: formats, sizes, checksums, and the decision which leg may serve.
//
// Layout of a leg of S bytes (S rounded down to 4096), everything in blocks of
// 4096 bytes, all numbers little-endian, each block with a CRC32C of its own:
//
//	0                 data, Data bytes, readable without this software
//	Data              checksum of each 4 KiB block (4 bytes each), when Superblock.Sums
//	.. intent         write-intent map, one bit an extent
//	.. missed         missed-writes bitmap, one bit a region
//	S-8192            superblock, copy 0
//	S-4096            superblock, copy 1
//
// FORMAT.md has the byte offsets. The files here:
//
//	layout.go    where everything lies, from a leg's size
//	block.go     blocks to bytes and back
//	sum.go       the checksum of a block of data
//	load.go      a leg's metadata, with what did not verify
//	super.go     what a superblock says; how a generation begins
//	witness.go   the file outside the legs
//	assemble.go  which leg may serve first: the reasoning stands there
//	judge.go     what is known of one leg, and the verdict
//	relate.go    what a joiner lacks
//
// A superblock update writes copy 0, flushes, writes copy 1, flushes; the reader
// takes the valid copy with the higher Sequence. So a torn update leaves the former
// state, and a copy that rots later never brings a stale state back.
package metadata

import "time"

// BlockSize is the size of every metadata block, in bytes.
const BlockSize = 4096

// Defaults of a new mirror.
const (
	DefaultRegionSize = 64 << 10 // bytes a bit of the missed-writes bitmap
	DefaultExtentSize = 4 << 20  // bytes a bit of the write-intent map
)

// UUID names a mirror, a leg or a generation.
type UUID [16]byte

// Generation changes whenever a mirror goes on with fewer legs than before. Two legs
// with the same Generation saw the same writes, but for the marked extents.
type Generation struct {
	Counter uint64
	ID      UUID
}

// HistoryLen is how many former generations a leg remembers.
const HistoryLen = 16

// Superblock is the state of a leg. The fields are what is stored.
type Superblock struct {
	Version  uint32
	Sequence uint64 // grows by one with each update on this leg
	Mirror   UUID
	Leg      UUID
	Slot     uint8 // 0 or 1
	// Geometry, fixed when the mirror is made.
	DeviceBytes   uint64 // whole leg, multiple of 4096
	DataBytes     uint64 // size of the face, multiple of LogicalBlock
	LogicalBlock  uint32
	PhysicalBlock uint32
	RegionSize    uint32
	ExtentSize    uint32
	// Generation of the data on this leg. While Syncing is set, the generation it had
	// when it was lost (zero for a leg that never was in service).
	Generation Generation
	History    []Generation // newest first, at most HistoryLen
	// InService is the set of legs in service as this leg last knew, bit 0 is slot 0.
	InService uint8
	// Syncing: this leg is being resynced; its data is a mixture and must never serve.
	Syncing bool
	// Clean: the mirror was stopped cleanly and not written since; no extent is marked.
	Clean bool
	// Sums: the table of checksums on this leg holds for its data, but where extents are
	// marked. Without it the table's place is to be taken for garbage.
	Sums bool
	// Staged: this leg is a complete copy of the one in its slot, and is to take its place.
	// It has when the state directory says so (package legpath); until then what it says is
	// no leg's word.
	Staged bool
	// The missed-writes bitmap of this leg tells what MissedLeg lacks, counted from
	// MissedFrom, the generation that leg had. A zero MissedLeg: everything. While both
	// legs are in service MissedLeg names the partner, and the bitmap means nothing.
	MissedLeg  UUID
	MissedFrom Generation
	Time       time.Time // of the update, nanoseconds
}

// Witness is the word outside the legs: written at each loss of a leg, each
// return, and at creation. Stored as JSON with a checksum, replaced by rename, fsynced
// with its directory.
type Witness struct {
	Mirror     UUID
	Generation Generation
	Survivor   int8      // slot that is in service alone, -1 when both are
	Resources  [2]string // where the legs, and so the metadata, lie
	Time       time.Time
}
