package rv64

// The A extension. One hart, and devices that act between steps: every instruction is
// atomic, and acquire and release bits order nothing that is not in order.

// What opAMO does: funct5, with the width in the lowest bit.
const (
	amoADDW = iota
	amoADDD
	amoSWAPW
	amoSWAPD
	amoLRW
	amoLRD
	amoSCW
	amoSCD
	amoXORW
	amoXORD
	amoORW   = 8 << 1
	amoANDW  = 12 << 1
	amoMINW  = 16 << 1
	amoMAXW  = 20 << 1
	amoMINUW = 24 << 1
	amoMAXUW = 28 << 1
)

// reservation is what LR left, and SC wants: size is 0 if there is none.
type reservation struct {
	addr, size uint64
}

func decodeAMO(o *instruction, w uint32) {
	f3, f5 := w>>12&7, w>>27
	if f3 != 2 && f3 != 3 {
		return
	}
	aux := uint8(f5<<1 | f3&1)
	switch aux &^ 1 {
	case amoLRW:
		if o.rs2 != 0 {
			return
		}
	case amoADDW, amoSWAPW, amoSCW, amoXORW, amoORW, amoANDW, amoMINW, amoMAXW, amoMINUW, amoMAXUW:
	default:
		return
	}
	o.op.code, o.aux = opAMO, aux
}

// atomic executes opAMO.
func (h *Hart) atomic(o site) (fold uint64, st status) {
	a := h.x[o.rs1]
	size := uint64(4) << (o.aux & 1)
	w := wantStore
	if o.aux&^1 == amoLRW {
		w = wantLoad
	}
	if a%size != 0 {
		h.raise(w.misaligned(), a)
		return 0, stTrap
	}
	if o.aux&^1 == amoSCW {
		return h.storeConditional(o, a, size)
	}
	off, _, isRAM, ok := h.reach(a, size, w)
	if !ok {
		return 0, stTrap
	}
	if !isRAM {
		h.raise(w.accessFault(), a)
		return 0, stTrap
	}
	if w == wantLoad {
		v := signed(h.ramLoad(off, size), size)
		h.reservation = reservation{h.cfg.RAMBase + off, size}
		if o.rd != regSink {
			h.x[o.rd] = v
			fold = mix(v) * o.weight
		}
		return fold, h.settled()
	}
	old := signed(h.ramLoad(off, size), size)
	v := amoResult(o.aux, old, signed(h.x[o.rs2], size))
	if size == 4 {
		v = uint64(uint32(v))
	}
	h.ramStore(off, size, v)
	data := v*foldThird + a*foldAddr
	if o.rd != regSink {
		h.x[o.rd] = old
		data += old * foldSecond
	}
	return mix(data) * o.weight, h.settled()
}

// signed is the low size bytes of a value, sign-extended.
func signed(v, size uint64) uint64 {
	if size == 4 {
		return sext32(uint32(v))
	}
	return v
}

// storeConditional executes SC. Without a reservation it fails before it looks at memory.
func (h *Hart) storeConditional(o site, a, size uint64) (fold uint64, st status) {
	data, failed := uint64(0), uint64(1)
	if h.reservation.size != 0 {
		off, ok := h.reachPart(a, size, wantStore)
		if !ok {
			return 0, stTrap
		}
		if h.reservation == (reservation{h.cfg.RAMBase + off, size}) {
			v := h.x[o.rs2]
			if size == 4 {
				v = uint64(uint32(v))
			}
			h.ramStore(off, size, v)
			data, failed = v*foldThird+a*foldAddr, 0
		}
		h.reservation = reservation{}
	}
	if o.rd != regSink {
		h.x[o.rd] = failed
		data += failed * foldSecond
	}
	return mix(data) * o.weight, h.settled()
}

// amoResult is what an AMO stores; for words, the operands are sign-extended, which
// keeps the order of unsigned ones too.
func amoResult(aux uint8, old, v uint64) uint64 {
	switch aux &^ 1 {
	case amoADDW:
		return old + v
	case amoXORW:
		return old ^ v
	case amoORW:
		return old | v
	case amoANDW:
		return old & v
	case amoMINW:
		return uint64(min(int64(old), int64(v)))
	case amoMAXW:
		return uint64(max(int64(old), int64(v)))
	case amoMINUW:
		return min(old, v)
	case amoMAXUW:
		return max(old, v)
	}
	return v // amoSWAP
}
