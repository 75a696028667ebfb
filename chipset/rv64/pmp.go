package rv64

// Physical memory protection (privileged specification, "Physical Memory Protection"),
// down to regions of four bytes (G = 0). A page that entries treat as a whole is checked when
// its translation is entered in a TLB; one in which some entry begins or ends is in none, so
// that each access to it is checked by itself.

const (
	pmpCount = 16
	pmpR     = 1
	pmpW     = 2
	pmpX     = 4
	pmpL     = 0x80

	pmpOff   = 0
	pmpTOR   = 1
	pmpNA4   = 2
	pmpNAPOT = 3

	pmpaddrMask = 1<<54 - 1
	paBits      = 56
)

func pmpMode(cfg uint8) uint8 { return cfg >> 3 & 3 }

// pmpAllows says whether an access of a kind to size bytes at pa, all in one page, passes.
// The entry with the lowest number that matches any of them decides, and has to match all;
// without a match only M mode passes.
func (h *Hart) pmpAllows(pa, size uint64, w want, k kind) bool {
	return h.pmpOpen && pa>>paBits == 0 || h.pmpAsk(pa, size, w, k)
}

// pmpAsk is pmpAllows by the entries.
func (h *Hart) pmpAsk(pa, size uint64, w want, k kind) bool {
	machine := k == kindM
	first, last := pa>>2, (pa+size-1)>>2
	for i, cfg := range h.csr.pmpcfg[:h.pmpUsed] {
		low, high := h.pmpRange(i, pmpMode(cfg))
		switch {
		case last < low || first > high:
			continue
		case first < low || last > high:
			return false
		case machine && cfg&pmpL == 0:
			return true
		case w == wantLoad:
			return cfg&pmpR != 0
		case w == wantStore:
			return cfg&pmpW != 0
		}
		return cfg&pmpX != 0
	}
	return machine
}

// pmpSplits says whether an entry begins or ends inside the page of pa, and counts there.
func (h *Hart) pmpSplits(pa uint64) bool {
	if h.pmpOpen && pa>>paBits == 0 {
		return false
	}
	first := pa &^ (pageSize - 1) >> 2
	last := first + pageSize/4 - 1
	for i, cfg := range h.csr.pmpcfg[:h.pmpUsed] {
		low, high := h.pmpRange(i, pmpMode(cfg))
		if last >= low && first <= high {
			return first < low || last > high
		}
	}
	return false
}

// pmpRange is what an entry covers, first and last unit of four bytes; low > high when
// it covers nothing.
func (h *Hart) pmpRange(i int, mode uint8) (low, high uint64) {
	addr := h.csr.pmpaddr[i]
	switch mode {
	case pmpTOR:
		if i > 0 {
			low = h.csr.pmpaddr[i-1]
		}
		if addr == 0 {
			return 1, 0
		}
		return low, addr - 1
	case pmpNA4:
		return addr, addr
	case pmpNAPOT:
		span := addr ^ (addr + 1) // the trailing ones and the zero above
		return addr &^ span, addr | span
	}
	return 1, 0
}

// pmpLocked says whether an address register may not be written: its entry is locked,
// or the one above is and counts from it.
func (h *Hart) pmpLocked(i int) bool {
	if h.csr.pmpcfg[i]&pmpL != 0 {
		return true
	}
	if i+1 < pmpCount {
		next := h.csr.pmpcfg[i+1]
		return next&pmpL != 0 && pmpMode(next) == pmpTOR
	}
	return false
}

// writePMPConfig writes eight configuration bytes from entry i on.
func (h *Hart) writePMPConfig(i int, v uint64) {
	for j := i; j < i+8; j++ {
		cfg := uint8(v>>(8*(j-i))) & (pmpL | 3<<3 | pmpX | pmpW | pmpR)
		if h.csr.pmpcfg[j]&pmpL != 0 {
			continue
		}
		if cfg&(pmpR|pmpW) == pmpW { // reserved
			cfg &^= pmpW
		}
		h.csr.pmpcfg[j] = cfg
	}
	h.pmpChanged()
}

// readPMPConfig reads eight configuration bytes from entry i on.
func (h *Hart) readPMPConfig(i int) (v uint64) {
	for j := 7; j >= 0; j-- {
		v = v<<8 | uint64(h.csr.pmpcfg[i+j])
	}
	return v
}

func (h *Hart) writePMPAddr(i int, v uint64) {
	if h.pmpLocked(i) {
		return
	}
	h.csr.pmpaddr[i] = v & pmpaddrMask
	h.pmpChanged()
}

// pmpChanged is called after writes to entries: what was allowed may not be any more.
func (h *Hart) pmpChanged() {
	h.pmpUsed = 0
	for i, cfg := range h.csr.pmpcfg {
		if pmpMode(cfg) != pmpOff {
			h.pmpUsed = i + 1
		}
	}
	// As the hart starts, and Linux leaves it: the first entry lets everything pass, and no
	// other is asked.
	const all = pmpNAPOT<<3 | pmpR | pmpW | pmpX
	h.pmpOpen = h.csr.pmpcfg[0]&^pmpL == all && h.csr.pmpaddr[0] == pmpaddrMask
	h.flushTranslations()
	h.leave = true
}
