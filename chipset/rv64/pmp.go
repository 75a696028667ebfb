package rv64

// Physical memory protection (privileged specification, "Physical Memory Protection"),
// with a granularity of 4 KiB, so that a page is allowed or refused as a whole.

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

	pmpGrain    = 10 // log2(4 KiB) - 2
	pmpaddrMask = 1<<54 - 1
)

func pmpMode(cfg uint8) uint8 { return cfg >> 3 & 3 }

// pmpAllows says whether an access of a kind to the page of pa passes. The entry with
// the lowest number that matches decides; without a match only M mode passes.
func (h *Hart) pmpAllows(pa uint64, w want, k kind) bool {
	machine := k == kindM
	at := pa >> 2
	for i := range h.csr.pmpcfg {
		cfg := h.csr.pmpcfg[i]
		mode := pmpMode(cfg)
		if mode == pmpOff {
			continue
		}
		low, high := h.pmpRange(i, mode)
		if at < low || at > high {
			continue
		}
		if machine && cfg&pmpL == 0 {
			return true
		}
		switch w {
		case wantLoad:
			return cfg&pmpR != 0
		case wantStore:
			return cfg&pmpW != 0
		}
		return cfg&pmpX != 0
	}
	return machine
}

// pmpRange is what an entry covers, first and last unit of four bytes; low > high when
// it covers nothing.
func (h *Hart) pmpRange(i int, mode uint8) (low, high uint64) {
	const grain = uint64(1)<<pmpGrain - 1
	addr := h.csr.pmpaddr[i]
	if mode == pmpTOR {
		if i > 0 {
			low = h.csr.pmpaddr[i-1] &^ grain
		}
		if addr &^= grain; addr == 0 {
			return 1, 0
		}
		return low, addr - 1
	}
	addr |= grain >> 1
	span := addr ^ (addr + 1) // the trailing ones and the zero above
	return addr &^ span, addr | span
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

// readPMPAddr reads an address register as the granularity shows it.
func (h *Hart) readPMPAddr(i int) uint64 {
	const grain = uint64(1)<<pmpGrain - 1
	if pmpMode(h.csr.pmpcfg[i]) == pmpNAPOT {
		return h.csr.pmpaddr[i] | grain>>1
	}
	return h.csr.pmpaddr[i] &^ grain
}

// writePMPConfig writes eight configuration bytes from entry i on.
func (h *Hart) writePMPConfig(i int, v uint64) {
	for j := i; j < i+8; j++ {
		cfg := uint8(v>>(8*(j-i))) & (pmpL | 3<<3 | pmpX | pmpW | pmpR)
		old := h.csr.pmpcfg[j]
		if old&pmpL != 0 {
			continue
		}
		if pmpMode(cfg) == pmpNA4 { // finer than the granularity
			cfg = cfg&^(3<<3) | old&(3<<3)
		}
		if cfg&(pmpR|pmpW) == pmpW { // reserved
			cfg &^= pmpW
		}
		h.csr.pmpcfg[j] = cfg
	}
	h.flushTranslations()
	h.leave = true
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
	h.flushTranslations()
	h.leave = true
}
