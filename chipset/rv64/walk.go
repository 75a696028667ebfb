package rv64

import "encoding/binary"

// Address translation (privileged specification, "Sv39", "Virtual Address Translation
// Process") with A and D bits updated by the hart.

// What an access wants, as bits of a page-table entry.
type want uint8

const (
	wantLoad  want = pteR
	wantStore want = pteW
	wantFetch want = pteX
)

// Page-table entries.
const (
	pteV = 1 << iota
	pteR
	pteW
	pteX
	pteU
	pteG
	pteA
	pteD

	ptePPNShift = 10
	ptePPNMask  = 1<<44 - 1
	pteReserved = 0x3ff << 54 // N, PBMT and what is for future use: none of it is here
)

// Modes in satp.
const (
	satpBare = 0
	satpSv39 = 8
	satpSv48 = 9
)

// Exception causes.
const (
	causeFetchMisaligned = 0
	causeFetchAccess     = 1
	causeIllegal         = 2
	causeBreakpoint      = 3
	causeLoadMisaligned  = 4
	causeLoadAccess      = 5
	causeStoreMisaligned = 6
	causeStoreAccess     = 7
	causeEcallU          = 8
	causeEcallS          = 9
	causeEcallM          = 11
	causeFetchPage       = 12
	causeLoadPage        = 13
	causeStorePage       = 15
	causeInterrupt       = 1 << 63
)

func (w want) pageFault() uint64 {
	switch w {
	case wantLoad:
		return causeLoadPage
	case wantStore:
		return causeStorePage
	}
	return causeFetchPage
}

func (w want) accessFault() uint64 {
	switch w {
	case wantLoad:
		return causeLoadAccess
	case wantStore:
		return causeStoreAccess
	}
	return causeFetchAccess
}

func (w want) misaligned() uint64 {
	if w == wantLoad {
		return causeLoadMisaligned
	}
	return causeStoreMisaligned
}

// raise notes the trap that the present step takes.
func (h *Hart) raise(cause, value uint64) { h.trapCause, h.trapValue = cause, value }

// translate returns the physical address of va and the address of the entry that maps
// it (0 if nothing is translated), or raises the fault. b is the regime's bank. PMP is still
// to be asked about the physical address.
func (h *Hart) translate(b *bank, va uint64, w want) (pa, pte uint64, ok bool) {
	k := b.key.kind
	if k == kindM || b.key.root>>60 == satpBare {
		return va, 0, true
	}
	levels := uint(3)
	if b.key.root>>60 == satpSv48 {
		levels = 4
	}
	// The bits above the highest that is translated are copies of it.
	if top := int64(va) >> (12 + 9*levels - 1); top != 0 && top != -1 {
		h.raise(w.pageFault(), va)
		return 0, 0, false
	}
	table := b.key.root & ptePPNMask << 12
	for level := levels - 1; ; level-- {
		at := table + va>>(12+9*level)&511*8
		off, isRAM := h.inRAM(at)
		if !isRAM || !h.pmpAllows(at, 8, wantLoad, kindS) {
			h.raise(w.accessFault(), va)
			return 0, 0, false
		}
		e := h.ram64(off)
		if e&pteV == 0 || e&pteReserved != 0 || e&(pteR|pteW) == pteW {
			break
		}
		ppn := e >> ptePPNShift & ptePPNMask
		if e&(pteR|pteX) == 0 { // a pointer to a table
			if e&(pteA|pteD|pteU) != 0 || level == 0 {
				break
			}
			h.inWalk(off, pageUpper)
			table = ppn << 12
			continue
		}
		low := uint64(1)<<(9*level) - 1
		if !permits(e, w, k) || ppn&low != 0 {
			break
		}
		flag := uint8(pageLeaf)
		if level > 0 {
			flag = pageUpper
		}
		h.inWalk(off, flag)
		if !h.accessed(e, off, at, w) {
			h.raise(w.accessFault(), va)
			return 0, 0, false
		}
		return (ppn|va>>12&low)<<12 | va&0xfff, at, true
	}
	h.raise(w.pageFault(), va)
	return 0, 0, false
}

// permits says whether a leaf entry allows an access.
func permits(e uint64, w want, k kind) bool {
	if k&kindS == 0 {
		if e&pteU == 0 {
			return false
		}
	} else if e&pteU != 0 && (w == wantFetch || k&kindSUM == 0) {
		return false
	}
	if w == wantLoad && k&kindMXR != 0 && e&pteX != 0 {
		return true
	}
	return e&uint64(w) != 0
}

// accessed sets A, and D for a store, in the entry e at the offset off in RAM. False if
// PMP keeps the hart from writing there.
func (h *Hart) accessed(e, off, at uint64, w want) bool {
	bits := uint64(pteA)
	if w == wantStore {
		bits |= pteD
	}
	if e&bits == bits {
		return true
	}
	if !h.pmpAllows(at, 8, wantStore, kindS) {
		return false
	}
	page := off / pageSize
	h.touch(page)
	binary.LittleEndian.PutUint64(h.cfg.RAM[off:], e|bits)
	// Setting the bits takes no permission away, so no translation hangs on their being
	// clear; decoded code could.
	if h.pages.flags[page]&pageCode != 0 {
		h.codeWritten(off, 8)
	}
	return true
}

// inWalk marks the page of an entry that a walk used.
func (h *Hart) inWalk(off uint64, flag uint8) {
	page := off / pageSize
	h.pages.quiet[page] = 0
	h.guard(page, flag)
}

// fetch translates the address of a parcel of two bytes. split says that others in its page
// may be treated differently by PMP. ok is false when it raised a trap.
func (h *Hart) fetch(va uint64) (pa uint64, split, ok bool) {
	if e := &h.instr.fetch.entries[va>>12&tlbMask]; e.tag == va&^0xfff {
		return va + e.off + h.cfg.RAMBase, false, true
	}
	pa, pte, ok := h.translate(h.instr, va, wantFetch)
	if !ok {
		return 0, false, false
	}
	off, isRAM := h.inRAM(pa)
	if !isRAM || !h.pmpAllows(pa, 2, wantFetch, h.instr.key.kind) {
		h.raise(causeFetchAccess, va)
		return 0, false, false
	}
	if split = h.pmpSplits(pa); !split {
		h.keepFetch(va, off, pte)
	}
	return pa, split, true
}
