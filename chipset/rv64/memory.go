package rv64

// The slow path of loads and stores: TLB misses, devices, misaligned and page-crossing
// accesses, and pages that something hangs on. Each function returns what the step adds
// to the fingerprint's sum of data, and how it ended.

// settled is the status of a step that retired.
func (h *Hart) settled() status {
	if h.leave {
		h.leave = false
		return stLeave
	}
	return stDone
}

// load does the load o at the virtual address a.
func (h *Hart) load(o site, a uint64) (fold uint64, st status) {
	c := o.note.code
	if c == opLoadX0 {
		c = code(o.aux)
	}
	acc := accesses[c]
	v, ok := h.read(o, a, uint64(acc.size))
	if !ok {
		return 0, stTrap
	}
	if acc.signed {
		shift := 64 - 8*uint(acc.size)
		v = uint64(int64(v<<shift) >> shift)
	}
	if o.note.code == opLoadX0 {
		return 0, h.settled()
	}
	h.x[o.rd] = v
	return mix(v) * o.weight, h.settled()
}

// store does the store o at the virtual address a.
func (h *Hart) store(o site, a uint64) (fold uint64, st status) {
	size := uint64(accesses[o.note.code].size)
	v := h.x[o.rs2] & (^uint64(0) >> (64 - 8*size))
	if !h.write(o, a, size, v) {
		return 0, stTrap
	}
	return mix(v+a*foldAddr) * o.weight, h.settled()
}

// read reads size bytes at a virtual address; false if it raised a trap.
func (h *Hart) read(o site, a, size uint64) (v uint64, ok bool) {
	first := pageSize - a%pageSize // bytes up to the page's end
	if size <= first {
		off, pa, isRAM, ok := h.reach(a, size, wantLoad)
		switch {
		case !ok:
			return 0, false
		case isRAM:
			return h.ramLoad(off, size), true
		}
		return h.busLoad(o, a, pa, size)
	}
	off1, ok := h.reachPart(a, first, wantLoad)
	if !ok {
		return 0, false
	}
	off2, ok := h.reachPart(a+first, size-first, wantLoad)
	if !ok {
		return 0, false
	}
	return h.ramLoad(off1, first) | h.ramLoad(off2, size-first)<<(8*first), true
}

// write writes size bytes at a virtual address; false if it raised a trap, and then
// nothing was written.
func (h *Hart) write(o site, a, size, v uint64) (ok bool) {
	first := pageSize - a%pageSize
	if size <= first {
		off, pa, isRAM, ok := h.reach(a, size, wantStore)
		switch {
		case !ok:
			return false
		case isRAM:
			h.ramStore(off, size, v)
			return true
		}
		return h.busStore(o, a, pa, size, v)
	}
	off1, ok := h.reachPart(a, first, wantStore)
	if !ok {
		return false
	}
	off2, ok := h.reachPart(a+first, size-first, wantStore)
	if !ok {
		return false
	}
	h.ramStore(off1, first, v)
	h.ramStore(off2, size-first, v>>(8*first))
	return true
}

// reach translates the virtual address of a load or store of size bytes in one page, through
// the TLB, and enters what it finds: an offset in RAM, or a physical address outside. ok is
// false if it raised a trap. After reaching for a store, the store has to follow: the page
// counts as written.
func (h *Hart) reach(a, size uint64, w want) (off, pa uint64, isRAM, ok bool) {
	if off, ok = h.reached(a, w); ok {
		return off, 0, true, true
	}
	pa, pte, ok := h.translate(h.data, a, w)
	if !ok {
		return 0, 0, false, false
	}
	if !h.pmpAllows(pa, size, w, h.data.key.kind) {
		h.raise(w.accessFault(), a)
		return 0, 0, false, false
	}
	off, isRAM = h.inRAM(pa)
	switch {
	case !isRAM || h.pmpSplits(pa):
	case w == wantStore:
		h.keepStore(a, off, pte)
	default:
		h.keepLoad(a, off, pte)
	}
	return off, pa, isRAM, true
}

// reached looks in the TLB alone.
func (h *Hart) reached(a uint64, w want) (off uint64, ok bool) {
	entries := h.r
	if w == wantStore {
		entries = h.w
	}
	e := &entries[a>>12&tlbMask]
	return a + e.off, e.tag == a&^0xfff
}

// reachPart is reach for one half of an access across two pages, of which the other half
// may trap: nothing is entered, and a device is an access fault. xtval is the address of the
// half that faulted.
func (h *Hart) reachPart(a, size uint64, w want) (off uint64, ok bool) {
	if off, ok = h.reached(a, w); ok {
		return off, true
	}
	pa, _, ok := h.translate(h.data, a, w)
	if !ok {
		return 0, false
	}
	off, ok = h.inRAM(pa)
	if !ok || !h.pmpAllows(pa, size, w, h.data.key.kind) {
		h.raise(w.accessFault(), a)
		return 0, false
	}
	return off, true
}

// busLoad reads from a device.
func (h *Hart) busLoad(o site, a, pa, size uint64) (v uint64, ok bool) {
	if h.cfg.Bus != nil && pa%size == 0 {
		back := h.callOut(o)
		v, ok = h.cfg.Bus.Load(pa, int(size))
		h.pc, h.inStep = back, 0
	}
	if !ok {
		h.raise(causeLoadAccess, a)
		return 0, false
	}
	return v & (^uint64(0) >> (64 - 8*size)), true
}

// busStore writes to a device.
func (h *Hart) busStore(o site, a, pa, size, v uint64) (ok bool) {
	if h.cfg.Bus != nil && pa%size == 0 {
		back := h.callOut(o)
		ok = h.cfg.Bus.Store(pa, int(size), v)
		h.pc, h.inStep = back, 0
	}
	if !ok {
		h.raise(causeStoreAccess, a)
	}
	return ok
}

// callOut makes PC and Steps those of the present step, and returns the block's start.
func (h *Hart) callOut(o site) (start uint64) {
	start = h.pc
	h.pc += uint64(o.off)
	h.inStep = o.position()
	return start
}
