package rv64

import (
	"math"

	"ft/chipset/rv64/fp"
)

// The F and D extensions: registers, NaN boxing, flags, rounding modes and mstatus.FS
// here, arithmetic in package fp.
//
// FS is set to dirty by every instruction that writes a floating-point register, fcsr or
// a part of it, or raises a flag, even one that is already set.

// What opFloat does. Single and double precision alternate: the lowest bit is the
// format's.
const (
	fADDS = iota
	fADDD
	fSUBS
	fSUBD
	fMULS
	fMULD
	fDIVS
	fDIVD
	fSQRTS
	fSQRTD
	fMADDS
	fMADDD
	fMSUBS
	fMSUBD
	fNMSUBS
	fNMSUBD
	fNMADDS
	fNMADDD
	fSGNJS
	fSGNJD
	fSGNJNS
	fSGNJND
	fSGNJXS
	fSGNJXD
	fMINS
	fMIND
	fMAXS
	fMAXD
	fLES
	fLED
	fLTS
	fLTD
	fEQS
	fEQD
	fCLASSS
	fCLASSD
	fMVXW // to an integer register
	fMVXD
	fMVWX // from one
	fMVDX
	fCVTSD // to single
	fCVTDS
	fCVTWS // to int32; the four of these are in the order of the encoding's rs2
	fCVTWD
	fCVTWUS
	fCVTWUD
	fCVTLS
	fCVTLD
	fCVTLUS
	fCVTLUD
	fCVTSW // from int32
	fCVTDW
	fCVTSWU
	fCVTDWU
	fCVTSL
	fCVTDL
	fCVTSLU
	fCVTDLU
)

const (
	roundDynamic = 7
	// An operation without a rounding mode has this one, which is never refused.
	roundNone = 0
)

const boxed = 0xffff_ffff << 32

// box puts a single-precision number into a register (D, "NaN Boxing of Narrower Values").
func box(v uint32) uint64 { return boxed | uint64(v) }

func unbox(v uint64) uint32 {
	if v >= boxed {
		return uint32(v)
	}
	return fp.NaN32
}

// decodeFloat decodes the opcodes OP-FP, MADD, MSUB, NMSUB and NMADD. The rounding mode
// is the low byte of imm, the third source above it.
func decodeFloat(o *instruction, w uint32) {
	double := uint8(w >> 25 & 3)
	if double > 1 {
		return
	}
	rm := w >> 12 & 7
	if w&0x7f != 0x53 {
		o.aux = fMADDS + uint8(w>>2&3)<<1 + double
		o.rd, o.rs1, o.rs2 = o.rd+regF, o.rs1+regF, o.rs2+regF
		o.imm = int32(w>>27+regF) << 8
		decodeRounded(o, rm)
		return
	}
	var ok, rounded bool
	f5, rs2 := w>>27, o.rs2
	o.rd, o.rs1, o.rs2 = o.rd+regF, o.rs1+regF, o.rs2+regF
	switch f5 {
	case 0, 1, 2, 3: // FADD, FSUB, FMUL, FDIV
		o.aux, ok, rounded = fADDS+uint8(f5)<<1, true, true
	case 0x0b:
		o.aux, ok, rounded = fSQRTS, rs2 == 0, true
	case 0x04: // FSGNJ, FSGNJN, FSGNJX
		o.aux, ok = fSGNJS+uint8(rm)<<1, rm <= 2
	case 0x05: // FMIN, FMAX
		o.aux, ok = fMINS+uint8(rm)<<1, rm <= 1
	case 0x14: // FLE, FLT, FEQ
		o.rd -= regF
		o.aux, ok = fLES+uint8(rm)<<1, rm <= 2
	case 0x08: // FCVT.S.D, FCVT.D.S
		o.aux, ok, rounded = fCVTSD, rs2 == double^1, true
	case 0x18: // FCVT to an integer
		o.rd -= regF
		o.aux, ok, rounded = fCVTWS+rs2<<1, rs2 <= 3, true
	case 0x1a: // FCVT from an integer
		o.rs1 -= regF
		o.aux, ok, rounded = fCVTSW+rs2<<1, rs2 <= 3, true
	case 0x1c: // FMV.X, FCLASS
		o.rd -= regF
		o.aux, ok = fMVXW, rs2 == 0 && rm <= 1
		if rm == 1 {
			o.aux = fCLASSS
		}
	case 0x1e: // FMV from X
		o.rs1 -= regF
		o.aux, ok = fMVWX, rs2 == 0 && rm == 0
	}
	o.aux += double
	switch {
	case !ok:
	case rounded:
		decodeRounded(o, rm)
	default:
		o.op.code = opFloat
		o.imm |= roundNone
		if c := fastFloat[o.aux]; c != 0 && o.rd != 0 {
			o.op.code = c
		}
	}
}

// fastFloat has the codes of the operations that interp.go knows; they may be rounded in
// any mode that is not the instruction's own, which plainFP then stands for.
var fastFloat = [256]code{
	fADDS: opFADDS, fADDD: opFADDD, fSUBS: opFSUBS, fSUBD: opFSUBD, fMULS: opFMULS, fMULD: opFMULD,
	fSGNJD: opFSGNJD, fLED: opFLED, fLTD: opFLTD, fEQD: opFEQD, fMVDX: opFMVDX, fCVTDW: opFCVTDW,
}

// decodeRounded finishes an operation with a rounding mode, of which 5 and 6 are reserved.
func decodeRounded(o *instruction, rm uint32) {
	if rm > uint32(fp.RMM) && rm != roundDynamic {
		return
	}
	o.op.code = opFloat
	o.imm |= int32(rm)
	// What plainFP does not ask for is exact, but refused when frm is a reserved mode.
	dynamic := rm == roundDynamic && o.aux != fCVTDW
	if c := fastFloat[o.aux]; c != 0 && (rm == uint32(fp.RNE) || dynamic) {
		o.op.code = c
	}
}

// float executes opFloat.
func (h *Hart) float(o site) (fold uint64, st status) {
	if h.csr.mstatus&mstatusFS == 0 {
		return 0, h.illegal(o)
	}
	rm := fp.Rounding(o.imm)
	if rm == roundDynamic {
		if rm = fp.Rounding(h.csr.frm); rm > fp.RMM {
			return 0, h.illegal(o)
		}
	}
	v, ok := uint64(0), false
	if h.plainFP && rm == fp.RNE {
		v, ok = h.computePlain(o)
	}
	if !ok {
		var flags fp.Flags
		v, flags = h.compute(o, rm)
		if flags != 0 || o.rd >= regF && o.rd != regSink {
			h.csr.fflags |= uint64(flags)
			h.csr.mstatus |= mstatusFS
			h.floatChanged()
		}
	}
	h.x[o.rd] = v
	if o.rd == regSink {
		return 0, stDone
	}
	return mix(v) * o.weight, stDone
}

// floatChanged is called after mstatus.FS, frm or fflags were written: it keeps what the
// fast paths ask for.
//
// plainFP says that NX is set and rounding is to nearest. Then the host's arithmetic, which
// rounds to nearest too, is all there is to an operation that can raise no other flag than
// NX; its result shows that it did not.
func (h *Hart) floatChanged() {
	h.dirtyFP = h.csr.mstatus&mstatusFS == mstatusFS
	h.frame.nearFP = h.dirtyFP && h.csr.frm == uint64(fp.RNE)
	h.plainFP = h.dirtyFP && h.csr.frm == uint64(fp.RNE) && h.csr.fflags&uint64(fp.NX) != 0
}

// Results that show it: finite ones of sums, which are exact when they are tiny, and
// normal ones away from the borders of overflow and underflow.
func isFinite64(v uint64) bool { return v<<1 < 0x7ff<<53 }
func isPlain64(v uint64) bool  { return v<<1-2<<53 < (0x7fe-2)<<53 }
func isFinite32(v uint32) bool { return v<<1 < 0xff<<24 }
func isPlain32(v uint32) bool  { return v<<1-2<<24 < (0xfe-2)<<24 }

// computePlain is compute with the host's arithmetic, under plainFP, for what interp.go
// leaves.
func (h *Hart) computePlain(o site) (v uint64, ok bool) {
	f := math.Float64frombits
	a, b := f(h.x[o.rs1]), f(h.x[o.rs2])
	var r float64
	switch o.aux {
	case fDIVD:
		r = a / b
	case fSQRTD:
		r = math.Sqrt(a)
	case fMADDD:
		r = math.FMA(a, b, f(h.x[uint8(o.imm>>8)]))
	case fMSUBD:
		r = math.FMA(a, b, -f(h.x[uint8(o.imm>>8)]))
	case fNMSUBD:
		r = math.FMA(-a, b, f(h.x[uint8(o.imm>>8)]))
	case fNMADDD:
		r = math.FMA(-a, b, -f(h.x[uint8(o.imm>>8)]))
	default:
		return 0, false
	}
	v = math.Float64bits(r)
	return v, isPlain64(v)
}

// compute returns the value of the destination, and the flags raised.
func (h *Hart) compute(o site, rm fp.Rounding) (uint64, fp.Flags) {
	a, b, c := h.x[o.rs1], h.x[o.rs2], h.x[uint8(o.imm>>8)]
	switch o.aux {
	case fADDD:
		return fp.Add64(a, b, rm)
	case fSUBD:
		return fp.Sub64(a, b, rm)
	case fMULD:
		return fp.Mul64(a, b, rm)
	case fDIVD:
		return fp.Div64(a, b, rm)
	case fSQRTD:
		return fp.Sqrt64(a, rm)
	case fMADDD:
		return fp.FMA64(a, b, c, rm)
	case fMSUBD:
		return fp.FMA64(a, b, c^sign64, rm)
	case fNMSUBD:
		return fp.FMA64(a^sign64, b, c, rm)
	case fNMADDD:
		return fp.FMA64(a^sign64, b, c^sign64, rm)
	case fSGNJD:
		return a&^sign64 | b&sign64, 0
	case fSGNJND:
		return a&^sign64 | ^b&sign64, 0
	case fSGNJXD:
		return a ^ b&sign64, 0
	case fMIND:
		return fp.Min64(a, b)
	case fMAXD:
		return fp.Max64(a, b)
	case fLED:
		return compared(fp.Le64(a, b))
	case fLTD:
		return compared(fp.Lt64(a, b))
	case fEQD:
		return compared(fp.Eq64(a, b))
	case fCLASSD:
		return fp.Class64(a), 0
	case fMVXD, fMVDX:
		return a, 0
	case fMVXW:
		return sext32(uint32(a)), 0
	case fMVWX:
		return box(uint32(a)), 0
	case fCVTSD:
		return boxOf(fp.F64toF32(a, rm))
	case fCVTDS:
		return fp.F32toF64(unbox(a))
	}
	if o.aux >= fCVTWS {
		return convertInteger(o.aux, a, rm)
	}
	return computeSingle(o.aux, unbox(a), unbox(b), unbox(c), rm)
}

const (
	sign32 = 1 << 31
	sign64 = 1 << 63
)

func boxOf(v uint32, f fp.Flags) (uint64, fp.Flags)    { return box(v), f }
func compared(v bool, f fp.Flags) (uint64, fp.Flags)   { return truth(v), f }
func word(v int32, f fp.Flags) (uint64, fp.Flags)      { return uint64(int64(v)), f }
func unsigned(v uint32, f fp.Flags) (uint64, fp.Flags) { return sext32(v), f }
func long(v int64, f fp.Flags) (uint64, fp.Flags)      { return uint64(v), f }

func computeSingle(aux uint8, a, b, c uint32, rm fp.Rounding) (uint64, fp.Flags) {
	switch aux {
	case fADDS:
		return boxOf(fp.Add32(a, b, rm))
	case fSUBS:
		return boxOf(fp.Sub32(a, b, rm))
	case fMULS:
		return boxOf(fp.Mul32(a, b, rm))
	case fDIVS:
		return boxOf(fp.Div32(a, b, rm))
	case fSQRTS:
		return boxOf(fp.Sqrt32(a, rm))
	case fMADDS:
		return boxOf(fp.FMA32(a, b, c, rm))
	case fMSUBS:
		return boxOf(fp.FMA32(a, b, c^sign32, rm))
	case fNMSUBS:
		return boxOf(fp.FMA32(a^sign32, b, c, rm))
	case fNMADDS:
		return boxOf(fp.FMA32(a^sign32, b, c^sign32, rm))
	case fSGNJS:
		return box(a&^sign32 | b&sign32), 0
	case fSGNJNS:
		return box(a&^sign32 | ^b&sign32), 0
	case fSGNJXS:
		return box(a ^ b&sign32), 0
	case fMINS:
		return boxOf(fp.Min32(a, b))
	case fMAXS:
		return boxOf(fp.Max32(a, b))
	case fLES:
		return compared(fp.Le32(a, b))
	case fLTS:
		return compared(fp.Lt32(a, b))
	case fEQS:
		return compared(fp.Eq32(a, b))
	default: // fCLASSS
		return fp.Class32(a), 0
	}
}

// convertInteger converts to and from integers.
func convertInteger(aux uint8, a uint64, rm fp.Rounding) (uint64, fp.Flags) {
	switch aux {
	case fCVTWS:
		return word(fp.F32toI32(unbox(a), rm))
	case fCVTWD:
		return word(fp.F64toI32(a, rm))
	case fCVTWUS:
		return unsigned(fp.F32toU32(unbox(a), rm))
	case fCVTWUD:
		return unsigned(fp.F64toU32(a, rm))
	case fCVTLS:
		return long(fp.F32toI64(unbox(a), rm))
	case fCVTLD:
		return long(fp.F64toI64(a, rm))
	case fCVTLUS:
		return fp.F32toU64(unbox(a), rm)
	case fCVTLUD:
		return fp.F64toU64(a, rm)
	case fCVTSW:
		return boxOf(fp.I32toF32(int32(a), rm))
	case fCVTDW:
		return fp.I32toF64(int32(a)), 0
	case fCVTSWU:
		return boxOf(fp.U32toF32(uint32(a), rm))
	case fCVTDWU:
		return fp.U32toF64(uint32(a)), 0
	case fCVTSL:
		return boxOf(fp.I64toF32(int64(a), rm))
	case fCVTDL:
		return fp.I64toF64(int64(a), rm)
	case fCVTSLU:
		return boxOf(fp.U64toF32(a, rm))
	default: // fCVTDLU
		return fp.U64toF64(a, rm)
	}
}

// floatMemory executes the loads and stores of floating-point registers.
func (h *Hart) floatMemory(o site) (fold uint64, st status) {
	if h.csr.mstatus&mstatusFS == 0 {
		return 0, h.illegal(o)
	}
	a := h.x[o.rs1] + uint64(int64(o.imm))
	switch o.note.code {
	case opFSW, opFSD:
		return h.store(o, a)
	}
	v, ok := h.read(o, a, uint64(accesses[o.note.code].size))
	if !ok {
		return 0, stTrap
	}
	if o.note.code == opFLW {
		v = box(uint32(v))
	}
	h.x[o.rd] = v
	h.csr.mstatus |= mstatusFS
	h.floatChanged()
	return mix(v) * o.weight, h.settled()
}

// writeFloatCSR writes fcsr or a part of it.
func (h *Hart) writeFloatCSR(n uint32, v uint64) {
	c := &h.csr
	switch n {
	case csrFflags:
		c.fflags = v & 31
	case csrFrm:
		c.frm = v & 7
	default:
		c.fflags, c.frm = v&31, v>>5&7
	}
	c.mstatus |= mstatusFS
	h.floatChanged()
}
