package rv64

import "unsafe"

// Decoded code.
//
// A block is a run of instructions in one page, decoded from physical memory, up to the
// first that ends it, the page's end, or maxBlock. It is found by its physical address,
// so that processes share the blocks of a library; what in it depends on the pc is kept
// relative to the block's start. An instruction that lies across two pages is a block of
// its own, checked against the second page's translation whenever it is looked up.
//
// Three ways lead to a block, from fast to slow, all of them invisible to the guest:
//   - links between blocks of one page: taken and fall. They are valid as long as
//     execution stays in the page with the page's translation unchanged; whatever
//     changes it leaves the block by another way (status stLeave).
//   - the jump cache, by pc and regime. A regime is a number that is never used again;
//     it ends when a fetch translation of its bank goes or any block is dropped.
//   - find: the fetch TLB or a walk, the table by physical address, or decoding.
//
// A page with decoded code is marked; decoded says which 64-byte chunks of it the code
// came from. A write into such a chunk drops all blocks of the page. Dropped blocks keep
// their storage until everything is dropped because the arena is full: a block that is
// being executed when it goes is safe to leave.

const (
	maxBlocks = 1 << 17
	maxOps    = 1 << 20 // places for decoded instructions; 16 + 16 bytes each
	jumpSize  = 4096
	hashSize  = 1 << 16
	none      = ^uint32(0)
)

type block struct {
	ops         *op
	n           uint64 // steps
	size        uint64 // bytes, which is where the block falls through to
	sum         prefix // over all steps
	taken, fall *block
	linkable    bool  // ends at a place relative to its start, in cacheable storage
	cross       bool  // one instruction, across two pages
	prefixes    int   // index into codeCache.prefixes: n+1 of them
	target      int64 // relative to the start, where taken leads
	pa, pa2     uint64
	nextHash    uint32 // of the blocks in one bucket
	nextPage    uint32 // of the blocks of one page
	nextCross   uint32 // of the blocks across pages
}

type jumpEntry struct {
	pc     uint64
	regime uint32
	block  uint32
}

func jumpIndex(pc uint64) uint64 { return (pc>>1 ^ pc>>13) % jumpSize }

type codeCache struct {
	blocks   []block
	ops      []op
	prefixes []prefix
	nBlocks  uint32
	nOps     int
	hash     []uint32 // by physical address: index of the bucket's first block
	pages    []uint32 // by page of RAM: index of the page's first block
	decoded  []uint64 // by page of RAM: its chunks with decoded code
	cross    uint32   // index of the first block across pages

	// The storage of a block that was cut to fit the steps that are left.
	short    block
	shortOps [maxBlock + 1]op
}

func (c *codeCache) init(ram uint64) {
	c.blocks = make([]block, maxBlocks)
	c.ops = make([]op, maxOps)
	c.prefixes = make([]prefix, maxOps)
	c.hash = make([]uint32, hashSize)
	c.pages = make([]uint32, ram/pageSize)
	c.decoded = make([]uint64, ram/pageSize)
	fill(c.hash, none)
	fill(c.pages, none)
	c.cross = none
}

func fill(s []uint32, v uint32) {
	for i := range s {
		s[i] = v
	}
}

func hashIndex(pa uint64) uint64 { return (pa>>1 ^ pa>>17) % hashSize }

// find returns the block at pc, or nil when fetching traps; the trap is then taken, as a
// step of its own. It may disturb: fetching sets A bits, and those may lie in code.
func (h *Hart) find(pc uint64) *block {
	pa, split, ok := h.fetch(pc)
	if !ok {
		h.fetchTrap(pc)
		return nil
	}
	i := h.blockAt(pa)
	if split || h.code.blocks[i].cross {
		if h.ram16(pa-h.cfg.RAMBase)&3 == 3 {
			pa2, split2, ok := h.fetch(pc + 2)
			if !ok {
				h.fetchTrap(pc)
				return nil
			}
			split = split || split2
			// All of an instruction is read behind all of its translation, which may have
			// written to it.
			i = h.blockAt(pa)
			if b := &h.code.blocks[i]; b.cross && (b.pa2 != pa2 || b.n == 0) {
				h.decodeCross(b, pa2)
			}
		}
		if split {
			return h.alone(&h.code.blocks[i])
		}
	}
	h.jumps[jumpIndex(pc)] = jumpEntry{pc, h.regime, i}
	return &h.code.blocks[i]
}

// alone returns the first instruction of b, from which no way leads on but find: the
// page's next instruction may not be fetched.
func (h *Hart) alone(b *block) *block {
	if b.n > 1 {
		return h.cut(b, 1)
	}
	h.code.short = *b
	h.code.short.taken, h.code.short.fall, h.code.short.linkable = nil, nil, false
	return &h.code.short
}

// blockAt returns the index of the block at a physical address in RAM, decoding it if it
// is not there.
func (h *Hart) blockAt(pa uint64) uint32 {
	i := h.code.hash[hashIndex(pa)]
	for i != none && h.code.blocks[i].pa != pa {
		i = h.code.blocks[i].nextHash
	}
	if i == none {
		i = h.decodeBlock(pa)
	}
	return i
}

// fetchTrap takes the trap that fetching at pc raised.
func (h *Hart) fetchTrap(pc uint64) {
	h.foldOne(pc, dstTrap, h.trapData())
	h.steps++
	h.csr.trapped++
	h.takeTrap(pc)
}

// link returns the block at pc, in the page of b, which began at start and led there,
// if the jump cache has it, and remembers it in b.
func (h *Hart) link(b *block, start, pc uint64) *block {
	e := &h.jumps[jumpIndex(pc)]
	if e.pc != pc || e.regime != h.regime {
		return nil
	}
	to := &h.code.blocks[e.block]
	if to.cross {
		return nil
	}
	if pc == start+b.size {
		b.fall = to
	}
	if pc == start+uint64(b.target) {
		b.taken = to
	}
	return to
}

// decodeBlock decodes the block at the physical address pa, which lies in RAM, and
// returns its index.
func (h *Hart) decodeBlock(pa uint64) uint32 {
	c := &h.code
	if c.nBlocks == maxBlocks || c.nOps+maxBlock+1 > maxOps {
		h.dropAllCode()
	}
	i := c.nBlocks
	c.nBlocks++
	b := &c.blocks[i]
	*b = block{pa: pa, ops: &c.ops[c.nOps], prefixes: c.nOps}
	at := pa - h.cfg.RAMBase
	page := at / pageSize
	end := (page + 1) * pageSize
	b.cross = end-at == 2 && h.ram16(at)&3 == 3
	if !b.cross {
		for from := at; ; {
			w := uint32(h.ram16(from))
			if w&3 == 3 {
				if end-from == 2 { // across the pages
					break
				}
				w |= uint32(h.ram16(from+2)) << 16
			}
			o := decodeParcel(w)
			size := o.size()
			h.append(b, o)
			from += size
			if o.code.ends() || b.n == maxBlock || from == end {
				break
			}
		}
		h.finish(b)
	} else {
		c.nOps += 2 // for the instruction and opEnd, by decodeCross
		b.nextCross, c.cross = c.cross, i
	}
	h.markCode(page, at, max(b.size, 2))
	bucket := &c.hash[hashIndex(pa)]
	b.nextHash, *bucket = *bucket, i
	b.nextPage, c.pages[page] = c.pages[page], i
	return i
}

// decodeCross decodes the one instruction of a block across two pages, whose second half
// is at pa2 (now), in the storage that the block has.
func (h *Hart) decodeCross(b *block, pa2 uint64) {
	c := &h.code
	at, at2 := b.pa-h.cfg.RAMBase, pa2-h.cfg.RAMBase
	b.pa2 = pa2
	b.n, b.size, b.sum = 0, 0, prefix{}
	used := c.nOps
	c.nOps = b.prefixes
	h.append(b, decode(uint32(h.ram16(at))|uint32(h.ram16(at2))<<16))
	h.finish(b)
	c.nOps = used
	b.linkable = false
	h.markCode(at2/pageSize, at2, 2)
	h.pages.flags[at2/pageSize] |= pageTail
}

// append adds an instruction to a block at the arena's end.
func (h *Hart) append(b *block, o op) {
	c := &h.code
	o.pos = uint8(b.n)
	o.off = uint16(b.size)
	if o.code >= opBEQ && o.code <= opJAL || o.code == opAUIPC {
		o.imm += int32(b.size)
	}
	c.ops[c.nOps] = o
	c.prefixes[c.nOps] = b.sum
	c.nOps++
	b.sum = b.sum.then(o.counts(h.cfg.Compare), (b.pa+b.size)&0xfff, o.dst())
	b.n++
	b.size += o.size()
}

// finish ends a block: with its last instruction's jump, or with opEnd.
func (h *Hart) finish(b *block) {
	c := &h.code
	last := &c.ops[c.nOps-1]
	b.target = int64(last.imm)
	if !last.code.ends() {
		last = &c.ops[c.nOps]
		*last = op{code: opEnd}
		c.nOps++
		b.target = int64(b.size)
	}
	b.linkable = last.code.direct()
}

// cut returns the first n steps of b, in storage that the next cut uses again.
func (h *Hart) cut(b *block, n uint64) *block {
	c := &h.code
	copy(c.shortOps[:n], unsafe.Slice(b.ops, n))
	next := unsafe.Slice(b.ops, n+1)[n]
	c.shortOps[n] = op{code: opEnd}
	c.short = block{
		ops: &c.shortOps[0], n: n, size: uint64(next.off),
		sum: c.prefixes[b.prefixes+int(n)], prefixes: b.prefixes,
		pa: b.pa,
	}
	return &c.short
}

// leaveBlock accounts for a block that was left at o, by a trap or behind o, with the
// data s, and returns where execution goes on.
func (h *Hart) leaveBlock(b *block, o *op, st status, s uint64) uint64 {
	start, n := h.pc, uint64(o.pos)+1
	if st == stJump || st == stSBI {
		start = h.stepPC - uint64(o.off)
	}
	sum := h.code.prefixes[b.prefixes+int(o.pos)]
	off := (b.pa + uint64(o.off)) & 0xfff
	level := h.cfg.Compare
	switch st {
	case stTrap:
		sum = sum.then(level != Off, off, dstTrap)
		s += mix(h.trapData()) * h.wc[o.pos]
	case stSBI:
		sum = sum.then(level != Off, off, dstSBI)
		s += mix(h.x[10]+h.x[11]*foldSecond) * h.wc[o.pos]
	default:
		sum = sum.then(o.counts(level), off, o.dst())
	}
	h.fp = h.fp*foldPowers.up[n&255] + s*foldPowers.up[(n-1)&255] + sum.site + sum.page*pageTerm(start)
	h.steps += n
	switch st {
	case stTrap:
		h.csr.trapped++
		h.takeTrap(start + uint64(o.off))
	case stLeave:
		h.pc = start + uint64(o.off) + o.size()
	}
	return h.pc
}

// markCode marks the page that code was decoded from: bytes of it from the offset at in
// RAM on.
func (h *Hart) markCode(page, at, bytes uint64) {
	first, last := at%pageSize/64, (at%pageSize+bytes-1)/64
	h.code.decoded[page] |= ^uint64(0) << first & (^uint64(0) >> (63 - last))
	h.guard(page, pageCode)
}

// codeWritten drops what was decoded from the bytes that were written at the offset at
// in RAM, within one page. It is called after the write.
func (h *Hart) codeWritten(at, bytes uint64) {
	page := at / pageSize
	first, last := at%pageSize/64, (at%pageSize+bytes-1)/64
	if h.code.decoded[page]&(^uint64(0)<<first&(^uint64(0)>>(63-last))) == 0 {
		return
	}
	h.dropCode(page)
	h.endRegimes()
	h.disturb()
}

// dropCode drops the blocks of a page, and those that end in it.
func (h *Hart) dropCode(page uint64) {
	c := &h.code
	for i := c.pages[page]; i != none; i = c.blocks[i].nextPage {
		at := &c.hash[hashIndex(c.blocks[i].pa)]
		for *at != i {
			at = &c.blocks[*at].nextHash
		}
		*at = c.blocks[i].nextHash
	}
	c.pages[page] = none
	c.decoded[page] = 0
	if h.pages.flags[page]&pageTail != 0 {
		for i := c.cross; i != none; i = c.blocks[i].nextCross {
			if (c.blocks[i].pa2-h.cfg.RAMBase)/pageSize == page {
				c.blocks[i].n = 0
			}
		}
	}
	h.pages.flags[page] &^= pageCode | pageTail
}

// dropAllCode empties the arena.
func (h *Hart) dropAllCode() {
	c := &h.code
	c.nBlocks, c.nOps, c.cross = 0, 0, none
	fill(c.hash, none)
	fill(c.pages, none)
	for i := range c.decoded {
		c.decoded[i] = 0
		h.pages.flags[i] &^= pageCode | pageTail
	}
	h.endRegimes()
}
