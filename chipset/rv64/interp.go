package rv64

import (
	"math"
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
// that could run past it is cut (block.go). Traps are taken here.
//
// A case of the switch that is done with its operation continues with the next; what
// falls out of the switch takes the slow path, execute. That is the only call in a block,
// and s waits in memory for its end, so that the compiler keeps what the fast cases need
// in registers. Indices of registers are bytes into an array of 256, and TLB offsets are
// only kept for pages that lie in RAM whole, so that the checks that are left out cannot
// fail.
//
// In a block, pc is that of its start; the data terms of the fingerprint are summed in s.
func (h *Hart) interpret() {
	var (
		pc      = h.pc
		ram     = h.ram
		page    uint64 // the fingerprint's term of the page that pc lies in
		from    *note  // where the last block was left
		b, next *block
	)
blocks:
	for {
		if next != nil {
			b = next
		} else if e := &h.jumps[jumpIndex(pc)]; e.pc == pc && e.regime == h.regime {
			b = e.block
			page = pageTerm(pc)
			if from != nil && from.links && !b.cross {
				from.taken = b
			}
		} else {
			if h.steps >= h.limit {
				break
			}
			h.pc, from = pc, nil
			if b = h.find(pc); b == nil {
				pc = h.pc // of the trap's handler
				continue
			}
			page = pageTerm(pc)
		}
		if h.steps+b.n > h.limit {
			if h.steps >= h.limit {
				break
			}
			if b = h.shorten(b, h.limit-h.steps); b == nil {
				break
			}
		}
		s := uint64(0)
		o := b.ops
	exec:
		for ; ; o = (*op)(unsafe.Add(unsafe.Pointer(o), opSize)) {
			switch o.code {
			case opNOP:
				continue
			case opLUI:
				v := uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opAUIPC:
				v := pc + uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opADDI:
				v := h.x[o.rs1] + uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSLTI:
				v := truth(int64(h.x[o.rs1]) < int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSLTIU:
				v := truth(h.x[o.rs1] < uint64(int64(o.imm)))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opXORI:
				v := h.x[o.rs1] ^ uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opORI:
				v := h.x[o.rs1] | uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opANDI:
				v := h.x[o.rs1] & uint64(int64(o.imm))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSLLI:
				v := h.x[o.rs1] << (uint32(o.imm) & 63)
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSRLI:
				v := h.x[o.rs1] >> (uint32(o.imm) & 63)
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSRAI:
				v := uint64(int64(h.x[o.rs1]) >> (uint32(o.imm) & 63))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opADDIW:
				v := sext32(uint32(h.x[o.rs1]) + uint32(o.imm))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSLLIW:
				v := sext32(uint32(h.x[o.rs1]) << (uint32(o.imm) & 31))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSRLIW:
				v := sext32(uint32(h.x[o.rs1]) >> (uint32(o.imm) & 31))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSRAIW:
				v := uint64(int64(int32(h.x[o.rs1]) >> (uint32(o.imm) & 31)))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opADD:
				v := h.x[o.rs1] + h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSUB:
				v := h.x[o.rs1] - h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSLL:
				v := h.x[o.rs1] << (h.x[o.rs2] & 63)
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSLT:
				v := truth(int64(h.x[o.rs1]) < int64(h.x[o.rs2]))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSLTU:
				v := truth(h.x[o.rs1] < h.x[o.rs2])
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opXOR:
				v := h.x[o.rs1] ^ h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSRL:
				v := h.x[o.rs1] >> (h.x[o.rs2] & 63)
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSRA:
				v := uint64(int64(h.x[o.rs1]) >> (h.x[o.rs2] & 63))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opOR:
				v := h.x[o.rs1] | h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opAND:
				v := h.x[o.rs1] & h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opADDW:
				v := sext32(uint32(h.x[o.rs1]) + uint32(h.x[o.rs2]))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSUBW:
				v := sext32(uint32(h.x[o.rs1]) - uint32(h.x[o.rs2]))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSLLW:
				v := sext32(uint32(h.x[o.rs1]) << (h.x[o.rs2] & 31))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSRLW:
				v := sext32(uint32(h.x[o.rs1]) >> (h.x[o.rs2] & 31))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opSRAW:
				v := uint64(int64(int32(h.x[o.rs1]) >> (h.x[o.rs2] & 31)))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opMUL:
				v := h.x[o.rs1] * h.x[o.rs2]
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opMULHU:
				v, _ := bits.Mul64(h.x[o.rs1], h.x[o.rs2])
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue
			case opMULW:
				v := sext32(uint32(h.x[o.rs1]) * uint32(h.x[o.rs2]))
				h.x[o.rd] = v
				s += mix(v) * o.weight
				continue

			case opLB:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xfff {
					v := uint64(int64(*(*int8)(unsafe.Add(ram, a+e.off))))
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opLBU:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xfff {
					v := uint64(*(*uint8)(unsafe.Add(ram, a+e.off)))
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opLH:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xffe {
					v := uint64(int64(*(*int16)(unsafe.Add(ram, a+e.off))))
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opLHU:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xffe {
					v := uint64(*(*uint16)(unsafe.Add(ram, a+e.off)))
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opLW:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xffc {
					v := uint64(int64(*(*int32)(unsafe.Add(ram, a+e.off))))
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opLWU:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xffc {
					v := uint64(*(*uint32)(unsafe.Add(ram, a+e.off)))
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opLD:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xff8 {
					v := *(*uint64)(unsafe.Add(ram, a+e.off))
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}

			case opSB:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.w[a>>12&tlbMask]; e.tag == a&^0xfff {
					v := uint8(h.x[o.rs2])
					*(*uint8)(unsafe.Add(ram, a+e.off)) = v
					s += mix(uint64(v)+a*foldAddr) * o.weight
					continue
				}
			case opSH:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.w[a>>12&tlbMask]; e.tag == a&^0xffe {
					v := uint16(h.x[o.rs2])
					*(*uint16)(unsafe.Add(ram, a+e.off)) = v
					s += mix(uint64(v)+a*foldAddr) * o.weight
					continue
				}
			case opSW:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.w[a>>12&tlbMask]; e.tag == a&^0xffc {
					v := uint32(h.x[o.rs2])
					*(*uint32)(unsafe.Add(ram, a+e.off)) = v
					s += mix(uint64(v)+a*foldAddr) * o.weight
					continue
				}
			case opSD:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.w[a>>12&tlbMask]; e.tag == a&^0xff8 {
					v := h.x[o.rs2]
					*(*uint64)(unsafe.Add(ram, a+e.off)) = v
					s += mix(v+a*foldAddr) * o.weight
					continue
				}

			case opFLW:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xffc && h.dirtyFP {
					v := boxed | uint64(*(*uint32)(unsafe.Add(ram, a+e.off)))
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opFLD:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.r[a>>12&tlbMask]; e.tag == a&^0xff8 && h.dirtyFP {
					v := *(*uint64)(unsafe.Add(ram, a+e.off))
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opFSW:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.w[a>>12&tlbMask]; e.tag == a&^0xffc && h.dirtyFP {
					v := uint32(h.x[o.rs2])
					*(*uint32)(unsafe.Add(ram, a+e.off)) = v
					s += mix(uint64(v)+a*foldAddr) * o.weight
					continue
				}
			case opFSD:
				a := h.x[o.rs1] + uint64(int64(o.imm))
				if e := &h.w[a>>12&tlbMask]; e.tag == a&^0xff8 && h.dirtyFP {
					v := h.x[o.rs2]
					*(*uint64)(unsafe.Add(ram, a+e.off)) = v
					s += mix(v+a*foldAddr) * o.weight
					continue
				}
			case opFADDD:
				v := math.Float64bits(math.Float64frombits(h.x[o.rs1]) + math.Float64frombits(h.x[o.rs2]))
				if h.plainFP && isFinite64(v) {
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opFSUBD:
				v := math.Float64bits(math.Float64frombits(h.x[o.rs1]) - math.Float64frombits(h.x[o.rs2]))
				if h.plainFP && isFinite64(v) {
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opFMULD:
				v := math.Float64bits(math.Float64frombits(h.x[o.rs1]) * math.Float64frombits(h.x[o.rs2]))
				if h.plainFP && isPlain64(v) {
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opFADDS:
				r := math.Float32bits(math.Float32frombits(uint32(h.x[o.rs1])) + math.Float32frombits(uint32(h.x[o.rs2])))
				if h.plainFP && isFinite32(r) && h.x[o.rs1]&h.x[o.rs2] >= boxed {
					v := boxed | uint64(r)
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opFSUBS:
				r := math.Float32bits(math.Float32frombits(uint32(h.x[o.rs1])) - math.Float32frombits(uint32(h.x[o.rs2])))
				if h.plainFP && isFinite32(r) && h.x[o.rs1]&h.x[o.rs2] >= boxed {
					v := boxed | uint64(r)
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opFMULS:
				r := math.Float32bits(math.Float32frombits(uint32(h.x[o.rs1])) * math.Float32frombits(uint32(h.x[o.rs2])))
				if h.plainFP && isPlain32(r) && h.x[o.rs1]&h.x[o.rs2] >= boxed {
					v := boxed | uint64(r)
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opFSGNJD:
				if h.dirtyFP {
					v := h.x[o.rs1]&^sign64 | h.x[o.rs2]&sign64
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opFMVDX:
				if h.dirtyFP {
					v := h.x[o.rs1]
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opFCVTDW:
				if h.dirtyFP {
					v := math.Float64bits(float64(int32(h.x[o.rs1])))
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}
			case opFEQD, opFLTD, opFLED:
				a, b := math.Float64frombits(h.x[o.rs1]), math.Float64frombits(h.x[o.rs2])
				if h.dirtyFP && a == a && b == b { // no NaN
					v := truth(a == b && o.code != opFLTD || a < b && o.code != opFEQD)
					h.x[o.rd] = v
					s += mix(v) * o.weight
					continue
				}

			case opBEQ:
				if h.x[o.rs1] == h.x[o.rs2] {
					pc += uint64(int64(o.imm))
					break exec
				}
				continue
			case opBNE:
				if h.x[o.rs1] != h.x[o.rs2] {
					pc += uint64(int64(o.imm))
					break exec
				}
				continue
			case opBLT:
				if int64(h.x[o.rs1]) < int64(h.x[o.rs2]) {
					pc += uint64(int64(o.imm))
					break exec
				}
				continue
			case opBGE:
				if int64(h.x[o.rs1]) >= int64(h.x[o.rs2]) {
					pc += uint64(int64(o.imm))
					break exec
				}
				continue
			case opBLTU:
				if h.x[o.rs1] < h.x[o.rs2] {
					pc += uint64(int64(o.imm))
					break exec
				}
				continue
			case opBGEU:
				if h.x[o.rs1] >= h.x[o.rs2] {
					pc += uint64(int64(o.imm))
					break exec
				}
				continue
			case opJ, opEnd:
				pc += uint64(int64(o.imm))
				break exec
			case opJAL:
				v := pc + b.behind(o)
				h.x[o.rd] = v
				s += mix(v) * o.weight
				pc += uint64(int64(o.imm))
				break exec
			case opJR:
				pc = (h.x[o.rs1] + uint64(int64(o.imm))) &^ 1
				break exec
			case opJALR:
				v := pc + b.behind(o)
				pc = (h.x[o.rs1] + uint64(int64(o.imm))) &^ 1
				h.x[o.rd] = v
				s += mix(v) * o.weight
				break exec
			}
			h.pc, h.sum = pc, s
			fold, st := h.execute(b, o)
			if st != stDone {
				pc = h.leaveBlock(b, o, st, fold)
				from, next = nil, nil
				continue blocks
			}
			s = h.sum + fold
		}
		n := b.note(o)
		h.fp = h.fp*foldPowers.up[n.n] + s*foldPowers.up[n.n-1] + n.sum.site + n.sum.page*page
		h.steps += uint64(n.n)
		from, next = n, n.taken
	}
	h.pc = pc
}

// execute is the slow path: all that is not one of interpret's fast cases, or does not
// meet their conditions. h.pc is the block's start.
func (h *Hart) execute(b *block, hot *op) (fold uint64, st status) {
	o := site{hot, b.note(hot)}
	switch c := o.note.code; {
	case c >= opLB && c <= opLoadX0:
		return h.load(o, h.x[o.rs1]+uint64(int64(o.imm)))
	case c >= opSB && c <= opSD:
		return h.store(o, h.x[o.rs1]+uint64(int64(o.imm)))
	case c >= opFLW && c <= opFSD:
		return h.floatMemory(o)
	case c >= opFADDS && c <= opFloat:
		return h.float(o)
	case c == opAMO:
		return h.atomic(o)
	case c < opLB:
		v := mulDiv(c, h.x[o.rs1], h.x[o.rs2])
		h.x[o.rd] = v
		return mix(v) * o.weight, stDone
	}
	return h.system(o)
}
