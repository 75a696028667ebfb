package rv64

import (
	"math/bits"
	"unsafe"
)

// status is how the slow path of an operation ended.
type status uint8

const (
	stDone  status = iota
	stLeave        // retired; the block has to be left behind it
	stJump         // retired; execution goes on at h.pc
	stSBI          // as stJump; the step was a call of the firmware
	stTrap         // did not retire; trapCause and trapValue are set
)

// interpret runs blocks from h.pc until h.steps reaches h.limit, which is exact: a block
// that would run past it is cut (block.go). Traps are taken here.
//
// In a block only s and the current op are live; the data terms of the fingerprint are
// summed in s, each times its position's weight. Positions, indices of registers and of
// weights are bytes into arrays of 256, and TLB offsets are only kept for pages that lie
// in RAM whole, so that the checks that are left out cannot fail.
func (h *Hart) interpret() {
	pc := h.pc
	var b, next *block
	for h.steps < h.limit {
		if next != nil {
			b = next
			next = nil
		} else {
			e := &h.jumps[jumpIndex(pc)]
			if e.pc == pc && e.regime == h.regime {
				b = &h.code.blocks[e.block]
			} else {
				h.pc = pc
				if b = h.find(pc); b == nil {
					pc = h.pc // of the trap's handler
					continue
				}
				if h.steps >= h.limit { // disturbed
					break
				}
			}
		}
		if h.steps+b.n > h.limit {
			b = h.cut(b, h.limit-h.steps)
		}
		start := pc
		h.pc = pc
		s := uint64(0)
		var fold uint64
		st := stDone
		o := b.ops
	exec:
		for {
			switch o.code {
			case opNOP:
			case opLUI:
				v := uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opAUIPC:
				v := pc + uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opADDI:
				v := h.x[o.rs1] + uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSLTI:
				v := truth(int64(h.x[o.rs1]) < int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSLTIU:
				v := truth(h.x[o.rs1] < uint64(int64(o.imm)))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opXORI:
				v := h.x[o.rs1] ^ uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opORI:
				v := h.x[o.rs1] | uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opANDI:
				v := h.x[o.rs1] & uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSLLI:
				v := h.x[o.rs1] << (uint32(o.imm) & 63)
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSRLI:
				v := h.x[o.rs1] >> (uint32(o.imm) & 63)
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSRAI:
				v := uint64(int64(h.x[o.rs1]) >> (uint32(o.imm) & 63))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opADDIW:
				v := sext32(uint32(h.x[o.rs1]) + uint32(o.imm))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSLLIW:
				v := sext32(uint32(h.x[o.rs1]) << (uint32(o.imm) & 31))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSRLIW:
				v := sext32(uint32(h.x[o.rs1]) >> (uint32(o.imm) & 31))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSRAIW:
				v := uint64(int64(int32(h.x[o.rs1]) >> (uint32(o.imm) & 31)))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opADD:
				v := h.x[o.rs1] + h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSUB:
				v := h.x[o.rs1] - h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSLL:
				v := h.x[o.rs1] << (h.x[o.rs2] & 63)
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSLT:
				v := truth(int64(h.x[o.rs1]) < int64(h.x[o.rs2]))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSLTU:
				v := truth(h.x[o.rs1] < h.x[o.rs2])
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opXOR:
				v := h.x[o.rs1] ^ h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSRL:
				v := h.x[o.rs1] >> (h.x[o.rs2] & 63)
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSRA:
				v := uint64(int64(h.x[o.rs1]) >> (h.x[o.rs2] & 63))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opOR:
				v := h.x[o.rs1] | h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opAND:
				v := h.x[o.rs1] & h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opADDW:
				v := sext32(uint32(h.x[o.rs1]) + uint32(h.x[o.rs2]))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSUBW:
				v := sext32(uint32(h.x[o.rs1]) - uint32(h.x[o.rs2]))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSLLW:
				v := sext32(uint32(h.x[o.rs1]) << (h.x[o.rs2] & 31))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSRLW:
				v := sext32(uint32(h.x[o.rs1]) >> (h.x[o.rs2] & 31))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opSRAW:
				v := uint64(int64(int32(h.x[o.rs1]) >> (h.x[o.rs2] & 31)))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opMUL:
				v := h.x[o.rs1] * h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opMULHU:
				v, _ := bits.Mul64(h.x[o.rs1], h.x[o.rs2])
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opMULW:
				v := sext32(uint32(h.x[o.rs1]) * uint32(h.x[o.rs2]))
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
			case opMULH, opMULHSU, opDIV, opDIVU, opREM, opREMU, opDIVW, opDIVUW, opREMW, opREMUW:
				v := mulDiv(o.code, h.x[o.rs1], h.x[o.rs2])
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]

			case opLB:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xfff {
					v := uint64(int64(*(*int8)(unsafe.Add(h.ram, a+e.off))))
					h.x[o.rd] = v
					s += mix(v) * h.wv[o.pos]
				} else if fold, st = h.load(o, a); st != stDone {
					break exec
				} else {
					s += fold
				}
			case opLBU:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xfff {
					v := uint64(*(*uint8)(unsafe.Add(h.ram, a+e.off)))
					h.x[o.rd] = v
					s += mix(v) * h.wv[o.pos]
				} else if fold, st = h.load(o, a); st != stDone {
					break exec
				} else {
					s += fold
				}
			case opLH:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xffe {
					v := uint64(int64(*(*int16)(unsafe.Add(h.ram, a+e.off))))
					h.x[o.rd] = v
					s += mix(v) * h.wv[o.pos]
				} else if fold, st = h.load(o, a); st != stDone {
					break exec
				} else {
					s += fold
				}
			case opLHU:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xffe {
					v := uint64(*(*uint16)(unsafe.Add(h.ram, a+e.off)))
					h.x[o.rd] = v
					s += mix(v) * h.wv[o.pos]
				} else if fold, st = h.load(o, a); st != stDone {
					break exec
				} else {
					s += fold
				}
			case opLW:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xffc {
					v := uint64(int64(*(*int32)(unsafe.Add(h.ram, a+e.off))))
					h.x[o.rd] = v
					s += mix(v) * h.wv[o.pos]
				} else if fold, st = h.load(o, a); st != stDone {
					break exec
				} else {
					s += fold
				}
			case opLWU:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xffc {
					v := uint64(*(*uint32)(unsafe.Add(h.ram, a+e.off)))
					h.x[o.rd] = v
					s += mix(v) * h.wv[o.pos]
				} else if fold, st = h.load(o, a); st != stDone {
					break exec
				} else {
					s += fold
				}
			case opLD:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xff8 {
					v := *(*uint64)(unsafe.Add(h.ram, a+e.off))
					h.x[o.rd] = v
					s += mix(v) * h.wv[o.pos]
				} else if fold, st = h.load(o, a); st != stDone {
					break exec
				} else {
					s += fold
				}

			case opSB:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.w[a>>12&tlbMask]; e.tag == a&^0xfff {
					v := uint8(h.x[o.rs2])
					*(*uint8)(unsafe.Add(h.ram, a+e.off)) = v
					s += mix(uint64(v)+a*foldAddr) * h.wc[o.pos]
				} else if fold, st = h.store(o, a); st != stDone {
					break exec
				} else {
					s += fold
				}
			case opSH:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.w[a>>12&tlbMask]; e.tag == a&^0xffe {
					v := uint16(h.x[o.rs2])
					*(*uint16)(unsafe.Add(h.ram, a+e.off)) = v
					s += mix(uint64(v)+a*foldAddr) * h.wc[o.pos]
				} else if fold, st = h.store(o, a); st != stDone {
					break exec
				} else {
					s += fold
				}
			case opSW:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.w[a>>12&tlbMask]; e.tag == a&^0xffc {
					v := uint32(h.x[o.rs2])
					*(*uint32)(unsafe.Add(h.ram, a+e.off)) = v
					s += mix(uint64(v)+a*foldAddr) * h.wc[o.pos]
				} else if fold, st = h.store(o, a); st != stDone {
					break exec
				} else {
					s += fold
				}
			case opSD:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.w[a>>12&tlbMask]; e.tag == a&^0xff8 {
					v := h.x[o.rs2]
					*(*uint64)(unsafe.Add(h.ram, a+e.off)) = v
					s += mix(v+a*foldAddr) * h.wc[o.pos]
				} else if fold, st = h.store(o, a); st != stDone {
					break exec
				} else {
					s += fold
				}

			case opFLD, opFLW, opFSD, opFSW:
				if fold, st = h.floatMemory(o); st != stDone {
					break exec
				}
				s += fold
			case opFloat:
				if fold, st = h.float(o); st != stDone {
					break exec
				}
				s += fold
			case opAMO:
				if fold, st = h.atomic(o); st != stDone {
					break exec
				}
				s += fold
			case opLoadX0:
				if fold, st = h.load(o, h.x[o.rs1]+uint64(int64(o.imm))); st != stDone {
					break exec
				}

			case opBEQ:
				if h.x[o.rs1] == h.x[o.rs2] {
					pc += uint64(int64(o.imm))
					next = b.taken
				} else {
					pc += b.size
					next = b.fall
				}
				break exec
			case opBNE:
				if h.x[o.rs1] != h.x[o.rs2] {
					pc += uint64(int64(o.imm))
					next = b.taken
				} else {
					pc += b.size
					next = b.fall
				}
				break exec
			case opBLT:
				if int64(h.x[o.rs1]) < int64(h.x[o.rs2]) {
					pc += uint64(int64(o.imm))
					next = b.taken
				} else {
					pc += b.size
					next = b.fall
				}
				break exec
			case opBGE:
				if int64(h.x[o.rs1]) >= int64(h.x[o.rs2]) {
					pc += uint64(int64(o.imm))
					next = b.taken
				} else {
					pc += b.size
					next = b.fall
				}
				break exec
			case opBLTU:
				if h.x[o.rs1] < h.x[o.rs2] {
					pc += uint64(int64(o.imm))
					next = b.taken
				} else {
					pc += b.size
					next = b.fall
				}
				break exec
			case opBGEU:
				if h.x[o.rs1] >= h.x[o.rs2] {
					pc += uint64(int64(o.imm))
					next = b.taken
				} else {
					pc += b.size
					next = b.fall
				}
				break exec
			case opJ:
				pc += uint64(int64(o.imm))
				next = b.taken
				break exec
			case opJAL:
				v := pc + b.size
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
				pc += uint64(int64(o.imm))
				next = b.taken
				break exec
			case opJR:
				pc = (h.x[o.rs1] + uint64(int64(o.imm))) &^ 1
				break exec
			case opJALR:
				v := pc + b.size
				pc = (h.x[o.rs1] + uint64(int64(o.imm))) &^ 1
				h.x[o.rd] = v
				s += mix(v) * h.wv[o.pos]
				break exec
			case opEnd:
				pc += b.size
				next = b.fall
				break exec
			default: // opSystem, opIllegal
				fold, st = h.system(o)
				break exec
			}
			o = (*op)(unsafe.Add(unsafe.Pointer(o), opSize))
		}
		if st != stDone {
			pc = h.leaveBlock(b, o, st, s+fold)
			next = nil
			continue
		}
		h.fp = h.fp*foldPowers.up[b.n&255] + s*foldPowers.up[(b.n-1)&255] +
			b.sum.site + b.sum.page*pageTerm(start)
		h.steps += b.n
		if next == nil && b.linkable && (start^pc)>>12 == 0 {
			next = h.link(b, start, pc)
		}
	}
	h.pc = pc
}
