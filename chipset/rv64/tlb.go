package rv64

// The software TLB.
//
// A translation regime is what decides on an access beside the address: the root of the
// page tables, the privilege that counts, SUM and MXR. Each has a bank of three direct-
// mapped arrays, for loads, stores and fetches; switching regimes switches pointers. An
// entry stands for one 4 KiB page that lies in RAM whole, with every check passed: pages
// of devices are never in it.
//
// Entries never outlive what they came from:
//   - Each remembers the page-table entry that maps it. The pages that walks went through
//     are marked pageLeaf (entries of 4 KiB pages) or pageUpper (pointers to tables, and
//     superpages), and a store to a marked page looks at the valid entry that it changes:
//     in a leaf table the few slots that it can be in are searched; else all banks are
//     emptied. An invalid entry maps nothing, so making it valid costs nothing.
//   - A page that is often stored to while no walk uses it (it was freed and became data)
//     loses its marks, at the cost of one flush.
//   - Writes to satp, PMP and the mode bits select or empty banks.

const (
	tlbSize    = 1024
	tlbMask    = tlbSize - 1
	invalidTag = 1 << 11 // equal to no address whose bits 3 to 11 are cleared
	bankCount  = 16
	quietMax   = 128 // stores to an unused page of page tables until its marks go
)

// tlbEntry maps the page at the virtual address tag: the byte at virtual address a is at
// a+off in RAM.
type tlbEntry struct {
	tag, off uint64
}

// tlb is one array of a bank; pte is the physical address of each entry's page-table
// entry.
type tlb struct {
	entries [tlbSize]tlbEntry
	pte     [tlbSize]uint64
}

func (t *tlb) flush() {
	for i := range t.entries {
		t.entries[i].tag = invalidTag
	}
}

// regimeKey names a regime.
type regimeKey struct {
	root uint64 // satp without ASID; 0 when nothing is translated
	kind kind
}

type kind uint8

const (
	kindU kind = 0
	kindS kind = 1
	kindM kind = 2 // also M mode's own accesses, never translated

	kindSUM kind = 4 // with kindS
	kindMXR kind = 8
)

type bank struct {
	key    regimeKey
	regime uint64
	used   bool // it may have entries
	lost   bool // entries of fetch have made room for others since the regime began
	live   bool // it has a key
	load   tlb
	store  tlb
	fetch  tlb
}

type banks struct {
	all        [bankCount]bank
	victim     int
	lastRegime uint64
}

func (b *banks) init() {
	for i := range b.all {
		b.all[i].empty()
	}
}

func (b *bank) empty() {
	b.load.flush()
	b.store.flush()
	b.fetch.flush()
	b.used = false
}

// translations is the hart's part of it.
type translations struct {
	banks banks
	data  *bank // of loads and stores
	instr *bank // of fetches
	// byKind has the banks of the present satp that were looked up, by kind.
	byKind [16]*bank
}

// newRegime gives a bank a regime number that no jump entry has.
func (h *Hart) newRegime(b *bank) {
	h.banks.lastRegime++
	b.regime, b.lost = h.banks.lastRegime, false
	if h.instr != nil {
		h.regime = h.instr.regime
	}
}

// endRegimes makes every entry of the jump cache stale.
func (h *Hart) endRegimes() {
	for i := range h.banks.all {
		h.newRegime(&h.banks.all[i])
	}
}

// enterRegime selects the banks by privilege, mstatus and satp. It is called whenever
// one of them changes.
func (h *Hart) enterRegime() {
	data := h.priv
	if h.csr.mstatus&mstatusMPRV != 0 && h.priv == Machine {
		data = Priv(h.csr.mstatus >> mstatusMPPShift & 3)
	}
	h.instr = h.bank(h.kindOf(h.priv, true))
	h.data = h.bank(h.kindOf(data, false))
	h.regime = h.instr.regime
	h.r, h.w = &h.data.load.entries, &h.data.store.entries
}

func (h *Hart) kindOf(p Priv, fetch bool) kind {
	switch {
	case p == Machine:
		return kindM
	case h.csr.satp>>60 == satpBare || fetch:
		return kind(p)
	}
	k := kind(p)
	if p == Supervisor && h.csr.mstatus&mstatusSUM != 0 {
		k |= kindSUM
	}
	if h.csr.mstatus&mstatusMXR != 0 {
		k |= kindMXR
	}
	return k
}

// bank returns the bank of a kind with the present satp, taking one over if it has none.
func (h *Hart) bank(k kind) *bank {
	if b := h.byKind[k]; b != nil {
		return b
	}
	key := regimeKey{h.csr.satp, k}
	if k == kindM {
		key.root = 0
	}
	var b *bank
	for i := range h.banks.all {
		if c := &h.banks.all[i]; c.live && c.key == key {
			b = c
			break
		}
	}
	if b == nil {
		b = h.takeBank(key)
	}
	h.byKind[k] = b
	return b
}

// takeBank empties the bank whose turn it is, of those that are not in use.
func (h *Hart) takeBank(key regimeKey) *bank {
	for {
		b := &h.banks.all[h.banks.victim]
		h.banks.victim = (h.banks.victim + 1) % bankCount
		if b == h.data || b == h.instr || h.inUse(b) {
			continue
		}
		if b.used {
			b.empty()
		}
		b.key, b.live = key, true
		h.newRegime(b)
		return b
	}
}

// inUse says whether the present satp has b under some kind: at most 10 of the 16 banks.
func (h *Hart) inUse(b *bank) bool {
	for _, c := range h.byKind {
		if c == b {
			return true
		}
	}
	return false
}

// satpChanged is called after a write to satp.
func (h *Hart) satpChanged() {
	clear(h.byKind[:])
	h.enterRegime()
}

// flushTranslations empties all banks.
func (h *Hart) flushTranslations() {
	for i := range h.banks.all {
		b := &h.banks.all[i]
		if b.used {
			b.empty()
			h.newRegime(b)
		}
	}
}

// entriesWritten drops what hangs on page-table entries, before size bytes at an offset
// in RAM, within one page that is marked for them, become those of v.
func (h *Hart) entriesWritten(off, size, v uint64) {
	page := off / pageSize
	for at := off &^ 7; at < off+size; at += 8 {
		old := h.ram64(at)
		if old&pteV == 0 || at == off && size == 8 && old == v {
			continue
		}
		if h.pages.flags[page]&pageUpper != 0 {
			h.flushTranslations()
		} else {
			h.dropEntry(h.cfg.RAMBase + at)
		}
		h.leave = true
	}
	if h.pages.quiet[page]++; h.pages.quiet[page] >= quietMax {
		h.flushTranslations()
		h.pages.flags[page] &^= pageTable8
		h.leave = true
	}
}

// dropEntry drops what the leaf entry of a 4 KiB page, at a physical address, maps. Its
// index in its table is the low 9 bits of the page numbers that it can map. The jump cache
// may also rely on fetch entries that are there no more, which then could be any.
func (h *Hart) dropEntry(pte uint64) {
	for i := range h.banks.all {
		b := &h.banks.all[i]
		if !b.used {
			continue
		}
		fetched := b.lost
		for slot := pte / 8 % 512; slot < tlbSize; slot += 512 {
			if b.load.pte[slot] == pte {
				b.load.entries[slot].tag = invalidTag
			}
			if b.store.pte[slot] == pte {
				b.store.entries[slot].tag = invalidTag
			}
			if b.fetch.pte[slot] == pte && b.fetch.entries[slot].tag != invalidTag {
				b.fetch.entries[slot].tag = invalidTag
				fetched = true
			}
		}
		if fetched {
			h.newRegime(b)
		}
	}
}

// dropWriters drops the write TLB entries of a page of RAM.
func (h *Hart) dropWriters(page uint64) {
	switch at := h.pages.writer[page]; at {
	case 0:
		return
	case manyWriters:
		for i := range h.banks.all {
			if !h.banks.all[i].used {
				continue
			}
			t := &h.banks.all[i].store
			for slot := range t.entries {
				t.dropIf(uint64(slot), page)
			}
		}
	default:
		at--
		h.banks.all[at/tlbSize].store.dropIf(uint64(at%tlbSize), page)
	}
	h.pages.writer[page] = 0
}

// dropIf invalidates an entry if it leads to the page.
func (t *tlb) dropIf(slot, page uint64) {
	if e := &t.entries[slot]; e.tag != invalidTag && (e.tag+e.off)/pageSize == page {
		e.tag = invalidTag
	}
}

// dropAllWriters empties all write TLBs.
func (h *Hart) dropAllWriters() {
	for i := range h.banks.all {
		if h.banks.all[i].used {
			h.banks.all[i].store.flush()
		}
	}
	clear(h.pages.writer)
}

// keepLoad, keepStore and keepFetch enter a translation: the virtual address's page is
// at the offset off in RAM.
func (h *Hart) keepLoad(va, off, pte uint64) {
	h.data.used = true
	h.data.load.keep(va, off, pte)
}

func (h *Hart) keepFetch(va, off, pte uint64) {
	b := h.instr
	b.used = true
	if b.fetch.entries[va>>12&tlbMask].tag != invalidTag {
		b.lost = true
	}
	b.fetch.keep(va, off, pte)
}

// keepStore enters a translation for stores if the page is of the kind that the fast
// path may write to.
func (h *Hart) keepStore(va, off, pte uint64) {
	page := off / pageSize
	if h.pages.flags[page] != 0 {
		return
	}
	h.touch(page)
	h.data.used = true
	slot := va >> 12 & tlbMask
	h.data.store.keep(va, off, pte)
	here := uint32(h.bankIndex(h.data)*tlbSize) + uint32(slot) + 1
	switch w := &h.pages.writer[page]; {
	case *w == 0 || *w == here:
		*w = here
	case *w != manyWriters && !h.leadsTo(*w, page):
		*w = here
	default:
		*w = manyWriters
	}
}

// leadsTo says whether the write TLB entry at a place leads to the page.
func (h *Hart) leadsTo(writer uint32, page uint64) bool {
	writer--
	e := &h.banks.all[writer/tlbSize].store.entries[writer%tlbSize]
	return e.tag != invalidTag && (e.tag+e.off)/pageSize == page
}

func (h *Hart) bankIndex(b *bank) int {
	for i := range h.banks.all {
		if &h.banks.all[i] == b {
			return i
		}
	}
	panic("rv64: a bank that is none of the hart's")
}

func (t *tlb) keep(va, off, pte uint64) {
	slot := va >> 12 & tlbMask
	t.entries[slot] = tlbEntry{va &^ 0xfff, off&^0xfff - va&^0xfff}
	t.pte[slot] = pte
}
