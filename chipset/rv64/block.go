package rv64

import "unsafe"

// Decoded code.
//
// A block is a run of instructions in one page, decoded from physical memory, that is
// entered at its start and left at its end or by a branch that is taken; a branch that is
// not goes on in it, and a jump forwards is followed within the page. It is found by its
// physical address, so that processes share the blocks of a library; what in it depends
// on the pc is kept relative to the block's start. An instruction that lies across two
// pages is a block of its own, checked against the second page's translation whenever it
// is looked up.
//
// Three ways lead to a block, from fast to slow, all of them invisible to the guest:
//   - links between blocks of one page, from where one is left (note.taken). They are
//     valid as long as execution stays in the page with the page's translation
//     unchanged; whatever changes it leaves the block by another way (status stLeave).
//   - the jump cache, by pc and regime. A regime is a number that is never used again;
//     it ends when what a fetch translation of its bank came from changes (one that only
//     made room for another is remembered, see bank.lost) or any block is dropped.
//   - find: the fetch TLB or a walk, the table by physical address, or decoding.
//
// A page with decoded code is marked; decoded says which 64-byte chunks of it the code
// came from. A write into such a chunk drops all blocks of the page. Dropped blocks keep
// their storage until everything is dropped because the arena is full: a block that is
// being executed when it goes is safe to leave.

const (
	maxOps      = 1 << 20 // places for decoded instructions, 16 + 40 bytes each, if memory is large
	minOps      = 1 << 16
	opsPerBlock = 4 // on average, at least
	maxBranches = 4 // in a block
	jumpSize    = 4096
	hashSize    = 1 << 16
	none        = ^uint32(0)
)

type block struct {
	ops       *op
	notes     *note
	n         uint64 // steps, if it is not left before
	pa, pa2   uint64
	nextHash  uint32  // of the blocks in one bucket
	nextPage  uint32  // of the blocks of one page
	nextCross uint32  // of the blocks across pages
	cross     bool    // one instruction, across two pages
	hooked    bool    // one instruction that there is a hook for; n is hookedSteps
	entry     uintptr // of machine code (seam.go)
	heat      uint32  // how often it was come to without
}

// note is that of an op of the block.
func (b *block) note(o *op) *note {
	i := (uintptr(unsafe.Pointer(o)) - uintptr(unsafe.Pointer(b.ops))) / opSize
	return (*note)(unsafe.Add(unsafe.Pointer(b.notes), i*unsafe.Sizeof(note{})))
}

// behind is the offset of what lies behind an op.
func (b *block) behind(o *op) uint64 {
	n := b.note(o)
	return uint64(n.off) + n.size()
}

type jumpEntry struct {
	pc     uint64
	regime uint64
	block  *block
}

func jumpIndex(pc uint64) uint64 { return (pc>>1 ^ pc>>13) % jumpSize }

type codeCache struct {
	blocks  []block
	ops     []op
	notes   []note // as many
	nBlocks int
	nOps    int
	hash    []uint32 // by physical address: index of the bucket's first block
	pages   []uint32 // by page of RAM: index of the page's first block
	decoded []uint64 // by page of RAM: its chunks with decoded code
	cross   uint32   // index of the first block across pages

	// The storage of a block that was cut to fit the steps that are left.
	short      block
	shortOps   [maxBlock + 1]op
	shortNotes [maxBlock + 1]note
}

func (c *codeCache) init(ram uint64) {
	n := max(min(ram/8, maxOps), minOps)
	c.ops = make([]op, n)
	c.notes = make([]note, n)
	c.blocks = make([]block, n/opsPerBlock)
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
	b := &h.code.blocks[i]
	h.jumps[jumpIndex(pc)] = jumpEntry{pc, h.regime, b}
	return b
}

// alone returns the first instruction of b, from which no way leads on but find: the
// page's next instruction may not be fetched.
func (h *Hart) alone(b *block) *block {
	if b.hooked {
		return b // cut when it is run; it has one instruction
	}
	return h.cut(b, 1)
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

// decodeBlock decodes the block at the physical address pa, which lies in RAM, and
// returns its index.
func (h *Hart) decodeBlock(pa uint64) uint32 {
	c := &h.code
	if c.nBlocks == len(c.blocks) || c.nOps+maxBlock+1 > len(c.ops) {
		h.dropAllCode()
	}
	i := uint32(c.nBlocks)
	c.nBlocks++
	b := &c.blocks[i]
	*b = block{pa: pa, ops: &c.ops[c.nOps], notes: &c.notes[c.nOps], entry: h.cold}
	at := pa - h.cfg.RAMBase
	page := at / pageSize
	if at%pageSize == pageSize-2 && h.ram16(at)&3 == 3 {
		b.cross = true
		b.nextCross, c.cross = c.cross, i
		c.nOps += 2 // for the instruction and opEnd, by decodeCross
		h.markCode(page, at, 2)
	} else {
		h.decodeRun(b, at)
		c.nOps += int(b.n) + 1
		b.seal()
	}
	bucket := &c.hash[hashIndex(pa)]
	b.nextHash, *bucket = *bucket, i
	b.nextPage, c.pages[page] = c.pages[page], i
	return i
}

// decodeRun decodes the instructions of b from the offset at in RAM on.
func (h *Hart) decodeRun(b *block, at uint64) {
	end := at&^(pageSize-1) + pageSize
	branches := 0
	for from, begun := at, at; ; {
		w := uint32(h.ram16(from))
		if w&3 == 3 {
			w |= uint32(h.ram16(from+2)) << 16
		}
		if hooked := h.hooked(w); hooked && b.n > 0 {
			if from > begun {
				h.markCode(at/pageSize, begun, from-begun)
			}
			b.finish(from - at)
			return
		} else if hooked {
			b.hooked = true
		}
		o := b.append(h.cfg.Compare, decodeParcel(w), from-at)
		from += o.size()
		goesOn := !o.note.code.ends()
		switch c := o.note.code; {
		case c.branches():
			branches++
			goesOn = o.imm > int32(o.off) && branches < maxBranches
		case c == opJ || c == opJAL:
			to := at + uint64(int64(o.imm))
			if goesOn = to >= from && to < end; !goesOn {
				break
			}
			h.markCode(at/pageSize, begun, from-begun)
			if o.op.code = opNOP; c == opJAL { // which writes what AUIPC writes
				o.op.code, o.imm = opAUIPC, int32(from-at)
			}
			from, begun = to, to
		}
		if !goesOn || b.hooked || b.n == maxBlock || from == end || from == end-2 && h.ram16(from)&3 == 3 {
			if from > begun {
				h.markCode(at/pageSize, begun, from-begun)
			}
			b.finish(from - at)
			return
		}
	}
}

// decodeCross decodes the one instruction of a block across two pages, whose second half
// is at pa2 (now), in the storage that the block has.
func (h *Hart) decodeCross(b *block, pa2 uint64) {
	at, at2 := b.pa-h.cfg.RAMBase, pa2-h.cfg.RAMBase
	b.pa2, b.n = pa2, 0
	b.entry, b.heat = h.cold, 0
	w := uint32(h.ram16(at)) | uint32(h.ram16(at2))<<16
	o := b.append(h.cfg.Compare, decode(w), 0)
	b.finish(o.size())
	b.hooked = h.hooked(w)
	b.seal()
	h.markCode(at2/pageSize, at2, 2)
	h.pages.flags[at2/pageSize] |= pageTail
}

// append puts an instruction at an offset from the block's start behind those that b has.
func (b *block) append(level Compare, in instruction, off uint64) site {
	o := b.site(b.n)
	*o.op, *o.note = in.op, in.note
	o.off = uint16(off)
	o.note.code = in.op.code
	if c := in.op.code; c >= opBEQ && c <= opJAL || c == opAUIPC {
		o.imm += int32(off)
	}
	o.links = in.op.code >= opBEQ && in.op.code <= opJAL && b.within(o.imm)
	if b.n > 0 {
		before := b.site(b.n - 1)
		_, fixed := before.constant()
		o.sum, o.fixed = before.sum, before.fixed || fixed
	}
	b.n++
	o.n = uint8(b.n)
	o.sum = o.sum.then(o.counts(level), (b.pa+off)&0xfff, o.dst())
	o.weigh(level)
	return o
}

// within says whether a place relative to the start lies in the block's page, so that
// what is there can be linked to.
func (b *block) within(to int32) bool {
	return !b.cross && uint64(int64(b.pa%pageSize)+int64(to)) < pageSize
}

// site is the op at a position of the block's, or the end behind them.
func (b *block) site(i uint64) site {
	return site{
		(*op)(unsafe.Add(unsafe.Pointer(b.ops), i*opSize)),
		(*note)(unsafe.Add(unsafe.Pointer(b.notes), uintptr(i)*unsafe.Sizeof(note{}))),
	}
}

// finish ends a block that goes on at an offset from its start, where it goes on at all.
func (b *block) finish(off uint64) {
	o := b.site(b.n)
	*o.op = op{code: opEnd, imm: int32(off)}
	*o.note = note{sum: b.site(b.n - 1).sum, code: opEnd, off: uint16(off), n: uint8(b.n), links: b.within(int32(off))}
}

// seal makes a block with a hook one that is never run as a whole.
func (b *block) seal() {
	if b.hooked {
		b.n = hookedSteps
	}
}

// cut returns the first n steps of b, or all of them without their links, in storage that
// the next cut uses again.
func (h *Hart) cut(b *block, n uint64) *block {
	c := &h.code
	c.short = block{ops: &c.shortOps[0], notes: &c.shortNotes[0], n: n, pa: b.pa}
	for i := range n {
		from, to := b.site(i), c.short.site(i)
		*to.op, *to.note = *from.op, *from.note
		to.taken, to.links = nil, false
	}
	c.short.finish(uint64(b.site(n).off))
	c.short.site(n).links = false
	return &c.short
}

// leaveBlock accounts for a block that the slow path left, by a trap or behind an op that
// adds fold to the sum of data, and returns where execution goes on.
func (h *Hart) leaveBlock(b *block, hot *op, st status, fold uint64) uint64 {
	o := site{hot, b.note(hot)}
	start, n := h.pc, uint64(o.n)
	if st == stJump || st == stSBI {
		start = h.stepPC - uint64(o.off)
	}
	sum, s := o.sum, h.sum+fold
	if st == stTrap || st == stSBI {
		sum = prefix{}
		if n > 1 {
			sum = b.site(n - 2).sum
		}
		dst, data := uint8(dstTrap), h.trapData()
		if st == stSBI {
			dst, data = dstSBI, h.x[10]+h.x[11]*foldSecond
		}
		if counts := h.cfg.Compare != Off; counts {
			sum = sum.then(true, (b.pa+uint64(o.off))&0xfff, dst)
			s += mix(data) * foldPowers.down[o.position()]
		}
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
	if h.machine != nil {
		h.machine.Dropped()
	}
	fill(c.hash, none)
	fill(c.pages, none)
	for i := range c.decoded {
		c.decoded[i] = 0
		h.pages.flags[i] &^= pageCode | pageTail
	}
	h.endRegimes()
}
