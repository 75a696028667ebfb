package mirror

import (
	"bytes"
	"maps"
	"math/bits"
	"slices"

	"ft/mirror/legio"
	"ft/mirror/metadata"
	"ft/mirror/scrub"
)

// Checksums (integrity = "crc32c") tell which leg is right where the two differ, and that
// a leg is wrong where there is nothing to compare it with. Each leg ends in a table with
// one for each block of data. What is read is compared with it before it is answered.
//
// # When a table is right
//
// Data and its checksum are two writes, and cannot reach a leg as one. The write-intent
// map, which is there anyhow, bridges that:
//
//  1. Memory is the truth. A write changes the table in memory when it has been done. A
//     block of the table that differs from the legs' is dirty, and stays in memory until
//     it was written.
//  2. An extent's mark is taken back only after the blocks of the table that are for it
//     were written to every leg in service, and that, with the data, was flushed. So the
//     tables need no write of their own for each write of the face, and none in its way:
//     a block is written once for all that happened in its 4 MiB of data between two
//     passes that clear marks, or when memory runs short (Options.SumCache; then without a
//     flush, since the mark still stands).
//  3. So in an extent that is not marked each leg in service has the right table on
//     stable storage. In one that is marked nothing is known of a table on a leg. A start
//     finds marks and *distrusts* the checksums there: they are soft.
//
// # A soft checksum
//
// It is that of what was there before the last writes, or of some of them. It may
// confirm, but not refute: data that agrees with it was not changed since (or has just
// the new contents), data that does not may be newer, or wrong. After a crash with both
// legs in service the marked regions are made equal (copy.go): a block of the source that
// agrees with its soft checksum is copied; one that does not, while the other leg's does,
// is taken from the other leg. After a crash either of the two is as good, but one of them
// is known to be what somebody wrote. Then the checksum is that of what both have, and
// hard again. What is still soft when the mark goes (with one leg, when nothing makes
// anything equal) becomes *unknown*: NoSum in the table.
//
// Unknown is also what a write that failed leaves. Unknown blocks are returned as they
// are. A scrub that finds both legs equal there fills the checksum in. Filling in needs no
// mark: before and after, the table is right.
//
// # A leg that is not in service
//
// has a table that grows old with its data. What it lacks of the table (leg.lack) is what
// it lacks of the data, what of the table was dirty or not flushed when it went, and what
// of the table was written while it was away. It is written to it before it joins. Should
// the process die before: the missed-writes bitmap names one region of each such block of
// the table (lacking), and a leg that becomes a target lacks the block of the table of
// every stale region.
//
// # On, off, and whose table it is
//
// Superblock.Sums says that the table on this leg holds. Turning checksums on fills the
// tables with NoSum on every leg in service, then records the flag; the scrub that begins
// after that fills them in. Turning them off records that first, before a write leaves
// the table behind. A leg that comes without the flag lacks all of the table. A leg whose
// data somebody changed alone, on another machine and without this software, is out of
// date by its generation if this mirror was written meanwhile; if not, its blocks do not
// agree with their checksums and are healed from the other leg.
//
// # What is not found
//
// A leg that loses a write and that of its checksum in the same pass is consistent in
// itself: a scrub sees the legs differ. A block that is corrupted on the only leg between
// a crash and the partner's return, in a marked extent, passes for newer data. So does one
// that is corrupted on a leg just before a crash, in an extent that was marked then, when the
// other leg does not have what the old checksum is of either: the leg that the others are made
// equal to is believed.

// sumWritesMax is how many blocks of the table are on their way to the legs at once for a
// pass or for room.
const sumWritesMax = 32

// sums are the checksums in memory.
type sums struct {
	on bool
	// epoch changes when what is in memory is forgotten.
	epoch  int
	blocks map[int]*sumBlock
	lru    sumBlock // head of a ring, the latest first
	// distrust has the granules in which what is on the legs is soft. A granule is an
	// extent, or a block of the table's span if that is less.
	distrust *metadata.Bitmap
	granule  int64
	evicting int
	begin    sumsBegin
	filled   bool // blocks were filled in, where there may be no mark that has them written
}

// sumBlock is one block of the table.
type sumBlock struct {
	n       int
	table   []byte // as on the legs; nil while it is being read
	soft    [metadata.SumsPerBlock / 64]uint64
	dirty   bool
	version int // grows with each change
	pins    int
	loading bool
	write   *sumWrite // under way
	after   []func(ok bool)
	waiters []lockOwner
	next    *sumBlock
	prev    *sumBlock
}

// sumsReset forgets what is in memory: the mirror is being served anew.
func (e *Engine) sumsReset(on bool) {
	s := &e.sums
	var waiters []lockOwner
	for _, n := range slices.Sorted(maps.Keys(s.blocks)) {
		waiters = append(waiters, s.blocks[n].waiters...)
	}
	*s = sums{on: on, epoch: s.epoch + 1, blocks: map[int]*sumBlock{}}
	s.lru.next, s.lru.prev = &s.lru, &s.lru
	s.granule = min(int64(e.id.ExtentSize), metadata.SumSpan)
	s.distrust = metadata.NewBitmap(int((int64(e.id.DataBytes) + s.granule - 1) / s.granule))
	e.ready = append(e.ready, waiters...)
	for i := range e.legs {
		l := &e.legs[i]
		l.lack = metadata.NewBitmap(e.layout.SumBlocks())
		l.tabled, l.tabling = metadata.NewBitmap(e.layout.SumBlocks()), metadata.NewBitmap(e.layout.SumBlocks())
	}
}

// distrustMarked makes soft what the legs' tables say in marked extents. A block that is
// in memory already is right, but not everywhere on the legs.
func (e *Engine) distrustMarked(marks *metadata.Bitmap) {
	if !e.sums.on {
		return
	}
	for i := marks.NextSet(0); i >= 0; i = marks.NextSet(i + 1) {
		e.distrustRange(e.extentSpan(i))
	}
}

func (e *Engine) distrustRange(r span) {
	s := &e.sums
	for lo := r.lo / s.granule * s.granule; lo < r.hi; lo += s.granule {
		if b := s.blocks[int(lo/metadata.SumSpan)]; b != nil && b.table != nil {
			b.change()
		} else {
			s.distrust.Set(int(lo / s.granule))
		}
	}
}

func (e *Engine) extentSpan(i int) span {
	es := int64(e.id.ExtentSize)
	return span{int64(i) * es, min(int64(i+1)*es, int64(e.id.DataBytes))}
}

// sumBlocksOf are the numbers of the blocks of the table for a range of data.
func sumBlocksOf(off, n int64) (lo, hi int) {
	return int(off / metadata.SumSpan), int((off + n + metadata.SumSpan - 1) / metadata.SumSpan)
}

// rounded is a range widened to whole blocks.
func rounded(off, n int64) (lo, hi int64) {
	return off &^ (metadata.BlockSize - 1), (off + n + metadata.BlockSize - 1) &^ (metadata.BlockSize - 1)
}

// sumHold keeps the blocks of the table of a range in memory.
type sumHold struct {
	epoch  int
	lo, hi int
	held   bool
}

// holdSums keeps the table of a range in memory until dropSums, and says whether it is there
// already. Else it is being read, and w is run when it is, and is to ask again.
func (e *Engine) holdSums(h *sumHold, off, n int64, w lockOwner) bool {
	s := &e.sums
	if e.in() == 0 {
		return true // with no leg there is nothing to be verified either
	}
	if !e.holdsSums(h) {
		h.lo, h.hi = sumBlocksOf(off, n)
		h.epoch, h.held = s.epoch, true
		for i := h.lo; i < h.hi; i++ {
			b := s.blocks[i]
			if b == nil {
				b = &sumBlock{n: i}
				s.blocks[i] = b
			}
			b.pins++
			if b.table != nil {
				s.used(b)
			} else if !b.loading {
				e.loadSums(&sumLoad{e: e, b: b, epoch: s.epoch})
			}
		}
	}
	for i := h.lo; i < h.hi; i++ {
		if b := s.blocks[i]; b.table == nil {
			b.waiters = append(b.waiters, w)
			return false
		}
	}
	return true
}

func (e *Engine) holdsSums(h *sumHold) bool { return h.held && h.epoch == e.sums.epoch }

// hasSums says whether they are in memory, and stay there.
func (e *Engine) hasSums(h *sumHold) bool {
	if !e.holdsSums(h) {
		return false
	}
	for i := h.lo; i < h.hi; i++ {
		if e.sums.blocks[i].table == nil {
			return false
		}
	}
	return true
}

func (e *Engine) dropSums(h *sumHold) {
	if e.holdsSums(h) {
		for i := h.lo; i < h.hi; i++ {
			e.sums.blocks[i].pins--
		}
		e.evictSums()
	}
	h.held = false
}

// used makes b the latest.
func (s *sums) used(b *sumBlock) {
	if b.next != nil {
		b.prev.next, b.next.prev = b.next, b.prev
	}
	b.prev, b.next = &s.lru, s.lru.next
	b.prev.next, b.next.prev = b, b
}

// sumLoad reads a block of the table from every leg in service. A checksum in which they
// differ though no mark says that they may is known of neither: one bad sector of a table
// must not turn good data into bad.
type sumLoad struct {
	e      *Engine
	b      *sumBlock
	epoch  int
	left   int
	tried  [2]uint32 // attachments of the legs that were asked
	tables [2][]byte
}

func (e *Engine) loadSums(ld *sumLoad) {
	ld.b.loading = true
	ld.left = 1
	for i := range e.legs {
		if l := &e.legs[i]; l.state == legIn && ld.tried[i] != l.attachment {
			ld.left++
			ld.tried[i] = l.attachment
			l.counters.Reads++
			e.begin(l, legio.Read, e.layout.SumBlockOff(ld.b.n), metadata.BlockSize, metadata.AlignedBlock(), ld)
		}
	}
	ld.end()
}

func (ld *sumLoad) ioDone(e *Engine, o *op) {
	l := &e.legs[o.io.Side]
	if o.io.Err == 0 {
		ld.tables[l.side] = o.io.Buf
	} else {
		l.counters.ReadErrors++
		if deviceGone(o.io.Err) {
			e.lost(l, "the device is gone: "+o.io.Err.Error())
		}
	}
	ld.end()
}

func (ld *sumLoad) ioLost(*Engine, *op)  { ld.end() }
func (ld *sumLoad) ioFreed(*Engine, *op) {}

func (ld *sumLoad) end() {
	e, b := ld.e, ld.b
	if ld.left--; ld.left > 0 || ld.epoch != e.sums.epoch {
		return
	}
	if e.in() == 0 {
		b.loading = false
		e.ready = append(e.ready, b.waiters...)
		b.waiters = nil
		return
	}
	var mine, other []byte
	again := false
	for i := range e.legs {
		l := &e.legs[(i+e.source)&1]
		switch t := ld.tables[l.side]; {
		case l.state != legIn:
		case t == nil:
			again = again || ld.tried[l.side] != l.attachment // it came into service meanwhile
			b.dirty = true                                    // its sector is written anew
		case mine == nil:
			mine = t
		default:
			other = t
		}
	}
	if mine == nil && again {
		e.loadSums(ld)
		return
	}
	if mine == nil {
		mine = metadata.AlignedBlock() // no leg can say: unknown, all of it
	}
	e.loadedSums(b, mine)
	if other == nil || bytes.Equal(mine, other) {
		return
	}
	for i := range metadata.SumsPerBlock {
		if !b.isSoft(i) && metadata.GetSum(mine, i) != metadata.GetSum(other, i) {
			b.set(i, metadata.NoSum)
			e.sums.filled = true
		}
	}
}

// loadedSums takes in a block of the table.
func (e *Engine) loadedSums(b *sumBlock, table []byte) {
	s := &e.sums
	b.table, b.loading = table, false
	first := int64(b.n) * metadata.SumSpan
	for lo := first; lo < min(first+metadata.SumSpan, int64(e.id.DataBytes)); lo += s.granule {
		if s.distrust.Get(int(lo/s.granule)) && e.defect&TrustMarkedSums == 0 {
			for i := (lo - first) / metadata.BlockSize; i < (lo-first+s.granule)/metadata.BlockSize; i++ {
				b.soft[i/64] |= 1 << (i % 64)
			}
			b.change()
		}
	}
	s.used(b)
	e.ready = append(e.ready, b.waiters...)
	b.waiters = nil
	e.evictSums()
}

// evictSums makes room: what has not been used for longest goes, dirty blocks after
// they were written.
func (e *Engine) evictSums() {
	s := &e.sums
	if e.in() == 0 {
		return
	}
	look := 2 * sumWritesMax
	for b := s.lru.prev; b != &s.lru && len(s.blocks) > e.opt.SumCache && look > 0; look-- {
		prev := b.prev
		switch {
		case b.pins > 0 || b.write != nil:
		case !b.dirty:
			b.prev.next, b.next.prev = b.next, b.prev
			b.next, b.prev = nil, nil
			delete(s.blocks, b.n)
		case s.evicting < sumWritesMax:
			s.evicting++
			epoch := s.epoch
			e.writeSums(b, func(ok bool) {
				if e.sums.epoch != epoch {
					return
				}
				if e.sums.evicting--; ok { // else there is no room until something else is dropped
					e.evictSums()
				}
			})
		}
		b = prev
	}
}

// change notes that b differs from what is on the legs.
func (b *sumBlock) change() {
	b.dirty = true
	b.version++
}

func (b *sumBlock) isSoft(i int) bool { return b.soft[i/64]>>(i%64)&1 != 0 }

// get is checksum number i, and whether it can refute.
func (b *sumBlock) get(i int) (sum uint32, hard bool) {
	sum = metadata.GetSum(b.table, i)
	return sum, sum != metadata.NoSum && !b.isSoft(i)
}

func (b *sumBlock) set(i int, sum uint32) {
	b.soft[i/64] &^= 1 << (i % 64)
	metadata.PutSum(b.table, i, sum)
	b.change()
}

// sumAt finds the block of the table for block number n of the data, and its place there;
// nil when it is not in memory.
func (e *Engine) sumAt(n int64) (*sumBlock, int) {
	b := e.sums.blocks[int(n/metadata.SumsPerBlock)]
	if b == nil || b.table == nil {
		return nil, 0
	}
	return b, int(n % metadata.SumsPerBlock)
}

// setSum notes what block number n of the data has now. Not in memory, what the legs say
// of it is not to be relied upon any more.
func (e *Engine) setSum(n int64, sum uint32) {
	if b, i := e.sumAt(n); b != nil {
		b.set(i, sum)
	} else {
		e.distrustRange(span{n * metadata.BlockSize, (n + 1) * metadata.BlockSize})
	}
}

// fillSum notes that of a block of which it was not known. No mark may stand for it.
func (e *Engine) fillSum(n int64, sum uint32) {
	if b, i := e.sumAt(n); b != nil {
		b.set(i, sum)
		e.sums.filled = true
	}
}

// checkSums compares data at off, whole blocks, with the table, and gives the range from
// the first to the last block that is refuted.
func (e *Engine) checkSums(off int64, data []byte) (bad span) {
	for o := int64(0); o < int64(len(data)); o += metadata.BlockSize {
		if e.refuted((off+o)/metadata.BlockSize, data[o:o+metadata.BlockSize]) {
			if bad.hi == 0 {
				bad.lo = off + o
			}
			bad.hi = off + o + metadata.BlockSize
		}
	}
	return bad
}

// refuted says whether a block of data is known to be wrong.
func (e *Engine) refuted(n int64, data []byte) bool {
	b, i := e.sumAt(n)
	if b == nil {
		return false
	}
	_, hard := b.get(i)
	return hard && !e.confirms(b, i, n, metadata.BlockSum(data, n))
}

// confirms says whether a checksum in memory is that of the data whose sum is given.
//
// One that differs from it in a single bit has itself lost that bit, on the leg that it was
// read from: it is corrected. No error of one or two bits in a block of data makes such a
// difference (CRC32C has no codeword of weight 2 or 3 at that length), and of other errors
// one in 2^27 does.
func (e *Engine) confirms(b *sumBlock, i int, n int64, sum uint32) bool {
	want, hard := b.get(i)
	switch {
	case want == metadata.NoSum:
		return false
	case want == sum:
		return true
	case !hard || bits.OnesCount32(want^sum) != 1:
		return false
	}
	e.fillSum(n, sum)
	e.found(scrub.Finding{What: scrub.Table, Side: scrub.NoSide, Offset: n * metadata.BlockSize, Bytes: 4, Repaired: true, Time: e.env.Wall()}, nil)
	return true
}

// summed says whether checksums tell which leg is right.
func (e *Engine) summed() bool { return e.sums.on }
