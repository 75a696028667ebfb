package metadata

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Every metadata block is self-describing: what it is, which mirror and leg it is of,
// its place among its kind, and a CRC32C over all 4096 bytes. So a block that was torn,
// has rotted, was written to the wrong place or is left over from another mirror is
// recognised, and is taken for damaged: never for zeroes. FORMAT.md has the offsets.

// FormatVersion is the version of the format that is written, and the only one read.
const FormatVersion = 1

// BitsPerBlock is how many bits of a map one block holds. It is a multiple of 64.
const BitsPerBlock = (BlockSize - headerLen) * 8

// Errors by which callers decide. Those returned wrap one of them and say more.
var (
	ErrNoMetadata = errors.New("no mirror metadata")
	ErrDamaged    = errors.New("damaged metadata")
	ErrVersion    = errors.New("metadata of another version")
	ErrGeometry   = errors.New("unfit geometry")
)

// Kinds of blocks.
const (
	kindSuper  = 1
	kindIntent = 2
	kindMissed = 3
)

var kindNames = map[uint32]string{kindSuper: "superblock", kindIntent: "write-intent map", kindMissed: "missed-writes bitmap"}

// The header that all blocks share.
const (
	magic      = "FTMIRROR"
	offMagic   = 0
	offVersion = 8
	offKind    = 12
	offIndex   = 16
	offCRC     = 20
	offSeq     = 24 // superblock only; zero in maps
	offMirror  = 32
	offLeg     = 48
	headerLen  = 64
)

// The superblock's own fields.
const (
	offSlot       = 64
	offInService  = 65
	offFlags      = 66
	offHistoryLen = 67
	offLogical    = 68
	offPhysical   = 72
	offRegion     = 76
	offExtent     = 80
	offDevice     = 88
	offData       = 96
	offGeneration = 104
	offMissedLeg  = 128
	offMissedFrom = 144
	offTime       = 168
	offHistory    = 176

	generationLen = 24

	flagSyncing = 1
	flagClean   = 2
	flagSums    = 4
	flagStaged  = 8
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// checksum is the CRC32C of a block whose checksum field counts as zeroes.
func checksum(buf []byte) uint32 {
	c := crc32.Update(0, castagnoli, buf[:offCRC])
	c = crc32.Update(c, castagnoli, []byte{0, 0, 0, 0})
	return crc32.Update(c, castagnoli, buf[offCRC+4:BlockSize])
}

func putHeader(buf []byte, kind uint32, index int, sb *Superblock) {
	clear(buf[:BlockSize])
	copy(buf[offMagic:], magic)
	le.PutUint32(buf[offVersion:], FormatVersion)
	le.PutUint32(buf[offKind:], kind)
	le.PutUint32(buf[offIndex:], uint32(index))
	copy(buf[offMirror:], sb.Mirror[:])
	copy(buf[offLeg:], sb.Leg[:])
}

func seal(buf []byte) { le.PutUint32(buf[offCRC:], checksum(buf)) }

// checkHeader verifies all that does not depend on whose block it should be.
func checkHeader(buf []byte, kind uint32, index int) error {
	if len(buf) < BlockSize {
		return fmt.Errorf("%w: %s of %d bytes", ErrDamaged, kindNames[kind], len(buf))
	}
	if string(buf[offMagic:offMagic+len(magic)]) != magic {
		return fmt.Errorf("%w where the %s should be", ErrNoMetadata, kindNames[kind])
	}
	if got, want := checksum(buf), le.Uint32(buf[offCRC:]); got != want {
		return fmt.Errorf("%w: checksum of the %s is %08x, stored is %08x", ErrDamaged, kindNames[kind], got, want)
	}
	if v := le.Uint32(buf[offVersion:]); v != FormatVersion {
		return fmt.Errorf("%w: %s has version %d, this program reads %d: use the version of ft that made it", ErrVersion, kindNames[kind], v, FormatVersion)
	}
	if k := le.Uint32(buf[offKind:]); k != kind {
		return fmt.Errorf("%w: a block of kind %d lies where the %s should be", ErrDamaged, k, kindNames[kind])
	}
	if i := le.Uint32(buf[offIndex:]); i != uint32(index) {
		return fmt.Errorf("%w: block %d of the %s lies in the place of block %d", ErrDamaged, i, kindNames[kind], index)
	}
	return nil
}

// EncodeSuper writes the superblock into buf, which holds BlockSize bytes. Both copies
// on a leg are the same bytes.
func EncodeSuper(sb *Superblock, buf []byte) {
	buf = buf[:BlockSize]
	putHeader(buf, kindSuper, 0, sb)
	le.PutUint64(buf[offSeq:], sb.Sequence)
	buf[offSlot] = sb.Slot
	buf[offInService] = sb.InService
	if sb.Syncing {
		buf[offFlags] |= flagSyncing
	}
	if sb.Clean {
		buf[offFlags] |= flagClean
	}
	if sb.Sums {
		buf[offFlags] |= flagSums
	}
	if sb.Staged {
		buf[offFlags] |= flagStaged
	}
	history := sb.History[:min(len(sb.History), HistoryLen)]
	buf[offHistoryLen] = uint8(len(history))
	le.PutUint32(buf[offLogical:], sb.LogicalBlock)
	le.PutUint32(buf[offPhysical:], sb.PhysicalBlock)
	le.PutUint32(buf[offRegion:], sb.RegionSize)
	le.PutUint32(buf[offExtent:], sb.ExtentSize)
	le.PutUint64(buf[offDevice:], sb.DeviceBytes)
	le.PutUint64(buf[offData:], sb.DataBytes)
	putGeneration(buf[offGeneration:], sb.Generation)
	copy(buf[offMissedLeg:], sb.MissedLeg[:])
	putGeneration(buf[offMissedFrom:], sb.MissedFrom)
	if !sb.Time.IsZero() {
		le.PutUint64(buf[offTime:], uint64(sb.Time.UnixNano()))
	}
	for i, g := range history {
		putGeneration(buf[offHistory+i*generationLen:], g)
	}
	seal(buf)
}

// DecodeSuper is the inverse of EncodeSuper. It returns ErrNoMetadata when there is
// nothing of ours, ErrDamaged when the block does not verify or says what no superblock
// may say, and ErrVersion when it is sound but of another version.
func DecodeSuper(buf []byte) (Superblock, error) {
	if err := checkHeader(buf, kindSuper, 0); err != nil {
		return Superblock{}, err
	}
	sb := Superblock{
		Version:       le.Uint32(buf[offVersion:]),
		Sequence:      le.Uint64(buf[offSeq:]),
		Mirror:        UUID(buf[offMirror : offMirror+16]),
		Leg:           UUID(buf[offLeg : offLeg+16]),
		Slot:          buf[offSlot],
		DeviceBytes:   le.Uint64(buf[offDevice:]),
		DataBytes:     le.Uint64(buf[offData:]),
		LogicalBlock:  le.Uint32(buf[offLogical:]),
		PhysicalBlock: le.Uint32(buf[offPhysical:]),
		RegionSize:    le.Uint32(buf[offRegion:]),
		ExtentSize:    le.Uint32(buf[offExtent:]),
		Generation:    getGeneration(buf[offGeneration:]),
		InService:     buf[offInService],
		Syncing:       buf[offFlags]&flagSyncing != 0,
		Clean:         buf[offFlags]&flagClean != 0,
		Sums:          buf[offFlags]&flagSums != 0,
		Staged:        buf[offFlags]&flagStaged != 0,
		MissedLeg:     UUID(buf[offMissedLeg : offMissedLeg+16]),
		MissedFrom:    getGeneration(buf[offMissedFrom:]),
	}
	if ns := int64(le.Uint64(buf[offTime:])); ns != 0 {
		sb.Time = time.Unix(0, ns).UTC()
	}
	n := int(buf[offHistoryLen])
	if n > HistoryLen {
		return Superblock{}, fmt.Errorf("%w: superblock with %d former generations, at most %d are possible", ErrDamaged, n, HistoryLen)
	}
	for i := range n {
		sb.History = append(sb.History, getGeneration(buf[offHistory+i*generationLen:]))
	}
	if what := sb.implausible(buf[offFlags]); what != "" {
		return Superblock{}, fmt.Errorf("%w: superblock with %s", ErrDamaged, what)
	}
	return sb, nil
}

// implausible says what no program of ours would have written, or "".
func (sb *Superblock) implausible(flags uint8) string {
	pow2 := func(v uint32, lo, hi uint32) bool { return v >= lo && v <= hi && v&(v-1) == 0 }
	switch {
	case sb.Mirror.IsZero() || sb.Leg.IsZero():
		return "no identity"
	case sb.Slot > 1:
		return fmt.Sprintf("slot %d", sb.Slot)
	case sb.InService > 3:
		return fmt.Sprintf("legs %#x in service", sb.InService)
	case flags&^(flagSyncing|flagClean|flagSums|flagStaged) != 0:
		return fmt.Sprintf("flags %#x", flags)
	case !pow2(sb.LogicalBlock, 512, BlockSize):
		return fmt.Sprintf("a logical block size of %d", sb.LogicalBlock)
	case !pow2(sb.PhysicalBlock, 512, granuleMax):
		return fmt.Sprintf("a physical block size of %d", sb.PhysicalBlock)
	}
	return ""
}

func putGeneration(buf []byte, g Generation) {
	le.PutUint64(buf, g.Counter)
	copy(buf[8:], g.ID[:])
}

func getGeneration(buf []byte) Generation {
	return Generation{Counter: le.Uint64(buf), ID: UUID(buf[8:generationLen])}
}

// Restamp makes a block of a map that was encoded for one leg one of the leg called leg.
func Restamp(buf []byte, leg UUID) {
	copy(buf[offLeg:], leg[:])
	seal(buf)
}

// EncodeIntent writes block number block of the write-intent map b into buf, which
// holds BlockSize bytes. b has l.Extents bits.
func EncodeIntent(l Layout, sb *Superblock, block int, b *Bitmap, buf []byte) {
	encodeMap(kindIntent, l.Extents, sb, block, b, buf)
}

// EncodeMissed does so for the missed-writes bitmap, which has l.Regions bits.
func EncodeMissed(l Layout, sb *Superblock, block int, b *Bitmap, buf []byte) {
	encodeMap(kindMissed, l.Regions, sb, block, b, buf)
}

// DecodeIntent verifies block number block of the write-intent map of the leg that sb
// describes and, when it is sound, replaces its bits in b. Otherwise b is as it was.
func DecodeIntent(l Layout, sb *Superblock, block int, buf []byte, b *Bitmap) error {
	return decodeMap(kindIntent, l.Extents, sb, block, buf, b)
}

// DecodeMissed does so for the missed-writes bitmap.
func DecodeMissed(l Layout, sb *Superblock, block int, buf []byte, b *Bitmap) error {
	return decodeMap(kindMissed, l.Regions, sb, block, buf, b)
}

// blockWords are the words of b that lie in one block of its map.
func blockWords(b *Bitmap, block int) []uint64 {
	lo := min(block*(BitsPerBlock/64), len(b.words))
	hi := min(lo+BitsPerBlock/64, len(b.words))
	return b.words[lo:hi]
}

func encodeMap(kind uint32, n int, sb *Superblock, block int, b *Bitmap, buf []byte) {
	if b.Len() != n {
		panic(fmt.Sprintf("metadata: %s of %d bits where the layout has %d", kindNames[kind], b.Len(), n))
	}
	buf = buf[:BlockSize]
	putHeader(buf, kind, block, sb)
	for i, w := range blockWords(b, block) {
		le.PutUint64(buf[headerLen+8*i:], w)
	}
	seal(buf)
}

func decodeMap(kind uint32, n int, sb *Superblock, block int, buf []byte, b *Bitmap) error {
	if b.Len() != n {
		panic(fmt.Sprintf("metadata: %s of %d bits where the layout has %d", kindNames[kind], b.Len(), n))
	}
	if err := checkHeader(buf, kind, block); err != nil {
		return err
	}
	if !bytes.Equal(buf[offMirror:offMirror+16], sb.Mirror[:]) || !bytes.Equal(buf[offLeg:offLeg+16], sb.Leg[:]) {
		return fmt.Errorf("%w: block %d of the %s belongs to leg %s of mirror %s", ErrDamaged, block, kindNames[kind],
			UUID(buf[offLeg:offLeg+16]), UUID(buf[offMirror:offMirror+16]))
	}
	words := blockWords(b, block)
	bits := min(max(n-block*BitsPerBlock, 0), BitsPerBlock)
	beyond := buf[headerLen+bits/8 : BlockSize] // the first byte in part
	for i, v := range beyond {
		if i == 0 {
			v >>= bits % 8
		}
		if v != 0 {
			return fmt.Errorf("%w: block %d of the %s has a bit set beyond the end", ErrDamaged, block, kindNames[kind])
		}
	}
	for i := range words {
		b.setWord(block*(BitsPerBlock/64)+i, le.Uint64(buf[headerLen+8*i:]))
	}
	return nil
}
