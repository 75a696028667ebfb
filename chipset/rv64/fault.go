package rv64

// What fault drills and their reports need: looking at instructions and translations without
// touching either, stopping before certain instructions, and changing memory behind the
// hart's back. All of it is called between runs, and none of it is in a State.

// SetHook makes the hart call hit before each instruction that match accepts, given in its
// 32-bit form, and stop there if hit calls RequestStop; the hart goes on behind it after Pass.
// match is asked when an instruction is decoded, so it has to answer alike each time. nil
// ends it.
func (h *Hart) SetHook(match func(insn uint32) bool, hit func()) {
	h.hookMatch, h.hookHit, h.hookPass = match, hit, false
	h.dropAllCode()
}

// Pass lets the hart go on with the instruction that hit was called for.
func (h *Hart) Pass() { h.hookPass = true }

// hookedSteps is the length of a block of one instruction that there is a hook for: so large
// that no block of it is run without h.shorten being asked.
const hookedSteps = 1 << 62

// hooked says whether there is a hook for the instruction whose first 16 bits, or all 32, are
// in w.
func (h *Hart) hooked(w uint32) bool {
	if h.hookMatch == nil {
		return false
	}
	full, ok := full(w)
	return ok && h.hookMatch(full)
}

// full is the 32-bit form of an instruction.
func full(w uint32) (full uint32, ok bool) {
	if w&3 == 3 {
		return w, true
	}
	return expand(uint16(w))
}

// shorten is the part of a block that fits into the steps that are left, at least one; nil
// if the hart has to stop before it.
func (h *Hart) shorten(b *block, left uint64) *block {
	if h.hard != 0 {
		if b.n <= h.hard-h.steps {
			return b
		}
		left = h.hard - h.steps
	}
	if b.n != hookedSteps {
		return h.cut(b, left)
	}
	if !h.hookPass {
		h.hookHit()
		if h.stop {
			return nil
		}
	}
	h.hookPass = false
	return h.cut(b, 1)
}

// Fetch is the instruction at a virtual address as the hart would fetch it now, in its 32-bit
// form, and its size in bytes. Nothing changes by it. ok is false where fetching would trap,
// or finds a compressed instruction that there is not.
func (h *Hart) Fetch(pc uint64) (insn uint32, size uint64, ok bool) {
	off, ok := h.look(h.instr, pc, wantFetch)
	if !ok {
		return 0, 0, false
	}
	w := uint32(h.ram16(off))
	if w&3 != 3 {
		insn, ok = full(w)
		return insn, 2, ok
	}
	if off, ok = h.look(h.instr, pc+2, wantFetch); !ok {
		return 0, 0, false
	}
	return w | uint32(h.ram16(off))<<16, 4, true
}

// StoreAt is the offset in RAM that a store of the hart to a virtual address would go to now.
// Nothing changes by it. ok is false where it would trap or go to a device.
func (h *Hart) StoreAt(va uint64) (off uint64, ok bool) { return h.look(h.data, va, wantStore) }

// Retired is how many steps did not trap.
func (h *Hart) Retired() uint64 { return h.steps - h.csr.trapped }

// Corrupt writes to RAM as a fault of memory does: no page counts as written, and a
// reservation stays. What the hart has derived from the bytes is dropped, so that it takes
// effect at the next step. They lie in one page.
func (h *Hart) Corrupt(off uint64, p []byte) {
	flags := h.pages.flags[off/pageSize]
	if flags&pageTable8 != 0 {
		h.flushTranslations()
	}
	copy(h.cfg.RAM[off:], p)
	if flags&pageCode != 0 {
		h.codeWritten(off, uint64(len(p)))
	}
}

// look is translate without a trace: the offset in RAM that va leads to, where an access is
// allowed. It does not set A and D.
func (h *Hart) look(b *bank, va uint64, w want) (off uint64, ok bool) {
	pa, ok := h.lookPhysical(b, va, w)
	if !ok || !h.pmpAllows(pa, 1, w, b.key.kind) {
		return 0, false
	}
	return h.inRAM(pa)
}

func (h *Hart) lookPhysical(b *bank, va uint64, w want) (pa uint64, ok bool) {
	k := b.key.kind
	if k == kindM || b.key.root>>60 == satpBare {
		return va, true
	}
	levels := uint(3)
	if b.key.root>>60 == satpSv48 {
		levels = 4
	}
	if top := int64(va) >> (12 + 9*levels - 1); top != 0 && top != -1 {
		return 0, false
	}
	table := b.key.root & ptePPNMask << 12
	for level := levels - 1; ; level-- {
		off, isRAM := h.inRAM(table + va>>(12+9*level)&511*8)
		if !isRAM {
			return 0, false
		}
		e := h.ram64(off)
		if e&pteV == 0 || e&pteReserved != 0 || e&(pteR|pteW) == pteW {
			return 0, false
		}
		ppn := e >> ptePPNShift & ptePPNMask
		if e&(pteR|pteX) != 0 {
			low := uint64(1)<<(9*level) - 1
			return (ppn|va>>12&low)<<12 | va&0xfff, permits(e, w, k) && ppn&low == 0
		}
		if level == 0 {
			return 0, false
		}
		table = ppn << 12
	}
}

// csrBits are the bits of a State's words that are registers of the hart and can flip: what a
// program could write there. The fields that are numbers of the simulation are not among them.
var csrBits = map[string]uint64{
	"Mstatus": mstatusWritable &^ mstatusMPP, "Mie": mieWritable, "MipSoftware": mipSSIP | mipSTIP | mipSEIP, "MipLines": mieWritable,
	"Medeleg": medelegMask, "Mideleg": midelegMask,
	"Mtvec": ^uint64(2), "Mscratch": ^uint64(0), "Mepc": ^uint64(1), "Mcause": ^uint64(0), "Mtval": ^uint64(0),
	"Stvec": ^uint64(2), "Sscratch": ^uint64(0), "Sepc": ^uint64(1), "Scause": ^uint64(0), "Stval": ^uint64(0),
	"Satp": satpFields, "Mcounteren": 0xffff_ffff, "Scounteren": 0xffff_ffff,
	"Menvcfg": menvcfgFIOM | menvcfgSTCE, "Senvcfg": menvcfgFIOM, "Fflags": 31, "Frm": 7,
	"Pmpcfg": pmpL | 3<<3 | pmpR | pmpW | pmpX, "Pmpaddr": pmpaddrMask,
	"CycleOffset": ^uint64(0), "InstretOffset": ^uint64(0), "Stimecmp": ^uint64(0), "Mtimecmp": ^uint64(0),
	"ReservationAddr": ^uint64(0),
}

// CSRBits is which bits of word i of a State are bits of a register that a program could
// have written, x, f and pc apart; 0 if it is none.
func CSRBits(i int) uint64 { return csrBits[wordFields[i]] }
