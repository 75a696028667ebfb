package rv64

import (
	"encoding/binary"
)

// RAM and what is known of its pages. Everything that writes to RAM ends in beforeWrite
// and afterWrite, or goes through a write TLB entry, which exists only for pages where
// neither would have anything to do.

const pageSize = 4096

// What hangs on a page, so that stores to it have to be seen.
const (
	pageCode    = 1 << iota // decoded instructions came from it (block.go)
	pageTail                // the second half of a block across pages came from it
	pageLeaf                // leaf entries of 4 KiB pages in a TLB came from it
	pageUpper               // other page-table entries in use came from it
	pageWatched             // somebody wants to know of stores to it (watch.go)
)

const pageTable8 = pageLeaf | pageUpper

type pageTable struct {
	flags []uint8
	dirty []uint64 // one bit a page: written since ClearDirty
	// writer is where the page's write TLB entry may be: 0 nowhere, many anywhere, else
	// the bank and slot (plus one). Entries may have gone without being taken off here.
	writer []uint32
	// quiet counts the stores to a page of page tables since a walk last used it.
	quiet []uint8
}

const manyWriters = ^uint32(0)

func (p *pageTable) init(ram uint64) {
	n := ram / pageSize
	p.flags = make([]uint8, n)
	p.dirty = make([]uint64, (n+63)/64)
	p.writer = make([]uint32, n)
	p.quiet = make([]uint8, n)
}

// inRAM turns a physical address into an offset in RAM.
func (h *Hart) inRAM(pa uint64) (off uint64, ok bool) {
	off = pa - h.cfg.RAMBase
	return off, off < h.ramSize
}

func (h *Hart) ram16(off uint64) uint16 {
	return binary.LittleEndian.Uint16(h.cfg.RAM[off:])
}

func (h *Hart) ram64(off uint64) uint64 {
	return binary.LittleEndian.Uint64(h.cfg.RAM[off:])
}

// ramLoad reads size bytes at an offset, all in one page.
func (h *Hart) ramLoad(off, size uint64) uint64 {
	p := h.cfg.RAM[off : off+size]
	switch size {
	case 1:
		return uint64(p[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(p))
	case 4:
		return uint64(binary.LittleEndian.Uint32(p))
	case 8:
		return binary.LittleEndian.Uint64(p)
	}
	v := uint64(0) // a part of an access across pages
	for i, b := range p {
		v |= uint64(b) << (8 * i)
	}
	return v
}

// ramStore writes the low size bytes of v at an offset, all in one page.
func (h *Hart) ramStore(off, size, v uint64) {
	page := off / pageSize
	flags := h.pages.flags[page]
	h.touch(page)
	if flags&pageTable8 != 0 {
		h.entriesWritten(off, size, v)
	}
	p := h.cfg.RAM[off : off+size]
	switch size {
	case 1:
		p[0] = uint8(v)
	case 2:
		binary.LittleEndian.PutUint16(p, uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(p, uint32(v))
	case 8:
		binary.LittleEndian.PutUint64(p, v)
	default:
		for i := range p {
			p[i] = uint8(v >> (8 * i))
		}
	}
	if flags&pageCode != 0 {
		h.codeWritten(off, size)
	}
	if flags&pageWatched != 0 {
		h.watchedWritten(off, size)
	}
}

// touch marks a page as written, before the first write to it.
func (h *Hart) touch(page uint64) {
	if bit := uint64(1) << (page % 64); h.pages.dirty[page/64]&bit == 0 {
		h.pages.dirty[page/64] |= bit
		if h.cfg.OnFirstWrite != nil {
			h.cfg.OnFirstWrite(page)
		}
	}
}

// guard gives a page a flag, after which no write TLB entry leads to it.
func (h *Hart) guard(page uint64, flag uint8) {
	if h.pages.flags[page]&flag == flag {
		return
	}
	h.pages.flags[page] |= flag
	h.dropWriters(page)
}

// ReadRAM copies from RAM; false if not all of it is RAM.
func (h *Hart) ReadRAM(addr uint64, p []byte) bool {
	off, ok := h.inRAM(addr)
	if !ok || uint64(len(p)) > h.ramSize-off {
		return false
	}
	copy(p, h.cfg.RAM[off:])
	return true
}

// WriteRAM is how everything but the hart's instructions writes to RAM: devices, between
// runs or in callbacks. It ends a reservation. False, and nothing is written, if not all
// of it is RAM.
func (h *Hart) WriteRAM(addr uint64, p []byte) bool {
	off, ok := h.inRAM(addr)
	if !ok || uint64(len(p)) > h.ramSize-off {
		return false
	}
	h.reservation = reservation{}
	for len(p) > 0 {
		n := min(uint64(len(p)), pageSize-off%pageSize)
		h.writePage(off, p[:n])
		off += n
		p = p[n:]
	}
	return true
}

// writePage writes bytes in one page.
func (h *Hart) writePage(off uint64, p []byte) {
	page := off / pageSize
	h.touch(page)
	flags := h.pages.flags[page]
	if flags&pageTable8 != 0 {
		// Entry by entry would be dearer than starting anew, and devices rarely write to
		// page tables.
		h.flushTranslations()
		h.disturb()
	}
	copy(h.cfg.RAM[off:], p)
	if flags&pageCode != 0 {
		h.codeWritten(off, uint64(len(p)))
	}
}

// Dirty has a bit for each page of RAM, page i in bit i%64 of word i/64, that was written
// since ClearDirty. It is the hart's own and changes as the hart runs.
func (h *Hart) Dirty() []uint64 { return h.pages.dirty }

// ClearDirty forgets which pages were written. The next write to each is a first one.
func (h *Hart) ClearDirty() {
	clear(h.pages.dirty)
	h.dropAllWriters()
}
