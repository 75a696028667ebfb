//go:build linux

package translate

import "ft/chipset/rv64"

// Floating point, with the host's SSE2 and FMA. The host's single operations round to nearest
// as IEEE 754 says, and note in MXCSR the exceptions that the hart would: tininess is detected
// after rounding by both, and noted when the result is inexact, too. They differ in what NaNs
// look like, in conversions that do not fit, and in the other rounding modes: those go the
// slow way, which notes the rest. So the exceptions that the host has noted before it is found
// that the way is slow have to be among the right ones:
//   - for a NaN they are, as the operands are the same. Of 0·∞ + NaN the host may note
//     nothing, which is a part of NV.
//   - for a conversion to an integer that does not fit it is NV alone, for both. Unsigned ones
//     are looked at before.

const (
	xmm0 reg = 0
	xmm1 reg = 1
)

// Rounding modes, as in the encoding.
const (
	roundNear    = 0
	roundZero    = 1
	roundDynamic = 7
)

func (e *emitter) floatMemory(o *rv64.CodeOp) {
	e.needFP(o)
	switch o.Code {
	case rv64.OpFSW, rv64.OpFSD:
		size := int32(4)
		if o.Code == rv64.OpFSD {
			size = 8
		}
		e.effective(o)
		e.reach(e.l.W, size)
		e.storeAt(o, size)
		return
	}
	i, size := iMOV, int32(8)
	if o.Code == rv64.OpFLW {
		i, size = iMOVL, 4
	}
	e.effective(o)
	e.reach(e.l.R, size)
	e.rm(iADD, rdx, at(rcx, 8))
	e.rm(i, rax, atIndex(rRAM, rdx, 1, 0))
	if size == 4 {
		e.rm(iOR, rax, e.const64(cBoxed))
	}
	e.put(o, rax, false)
}

// needFP goes the slow way unless FS is dirty. Behind an operation that makes it so there is
// nothing to ask.
func (e *emitter) needFP(o *rv64.CodeOp) {
	if !e.dirty {
		e.mi(iCMPBI, e.hart(e.l.DirtyFP), 0)
		e.jcc(ccE, e.toSlow())
	}
	e.dirty = e.dirty || o.Rd >= rv64.RegF && o.Rd != rv64.RegSink
}

// needNear goes the slow way unless o rounds to nearest. false: it never does.
func (e *emitter) needNear(o *rv64.CodeOp) bool {
	switch o.Imm & 0xff {
	case roundNear:
		e.needFP(o)
	case roundDynamic:
		e.mi(iCMPBI, e.hart(e.l.NearFP), 0)
		e.jcc(ccE, e.toSlow())
		e.dirty = e.dirty || o.Rd >= rv64.RegF
	default:
		return false
	}
	return true
}

// needBoxed goes the slow way unless the registers hold single-precision numbers. It uses rax.
func (e *emitter) needBoxed(regs ...uint8) {
	e.rm(iMOV, rax, e.x(regs[0]))
	for i, r := range regs[1:] {
		if r != regs[i] {
			e.rm(iAND, rax, e.x(r))
		}
	}
	e.rm(iCMP, rax, e.const64(cBoxed))
	e.jcc(ccB, e.toSlow())
}

// floatResult makes xmm0, which goes the slow way if it is a NaN, the value of rd.
func (e *emitter) floatResult(o *rv64.CodeOp, single bool) {
	if single {
		e.rr(iUCOMISS, xmm0, xmm0)
		e.jcc(ccP, e.toSlow())
		e.rr(iMOVDXTo, xmm0, rax)
		e.rm(iOR, rax, e.const64(cBoxed))
	} else {
		e.rr(iUCOMISD, xmm0, xmm0)
		e.jcc(ccP, e.toSlow())
		e.rr(iMOVQXTo, xmm0, rax)
	}
	e.put(o, rax, false)
}

// auxOf is what a floating-point operation does, as OpFloat says it.
func auxOf(o *rv64.CodeOp) uint8 { return o.Aux }

func (e *emitter) float(o *rv64.CodeOp) {
	aux := auxOf(o)
	if o.Rd == rv64.RegSink || !e.floatDone(o, aux&^1, aux&1 == 0) {
		e.jmp(e.toSlow())
	}
}

type pair struct{ double, single inst }

func (p pair) of(single bool) inst {
	if single {
		return p.single
	}
	return p.double
}

var (
	moves  = pair{iMOVSD, iMOVSS}
	orders = pair{iUCOMISD, iUCOMISS}
	signal = pair{iCOMISD, iCOMISS}

	arithmetic = map[uint8]pair{
		rv64.FADDS: {iADDSD, iADDSS}, rv64.FSUBS: {iSUBSD, iSUBSS}, rv64.FMULS: {iMULSD, iMULSS}, rv64.FDIVS: {iDIVSD, iDIVSS},
	}
	fused = map[uint8]pair{
		rv64.FMADDS: {iFMADDSD, iFMADDSS}, rv64.FMSUBS: {iFMSUBSD, iFMSUBSS},
		rv64.FNMSUBS: {iFNMADDSD, iFNMADDSS}, rv64.FNMADDS: {iFNMSUBSD, iFNMSUBSS},
	}
)

// floatDone emits what o does, by its operation in single precision; false: nothing is done.
func (e *emitter) floatDone(o *rv64.CodeOp, f uint8, single bool) bool {
	switch f {
	case rv64.FADDS, rv64.FSUBS, rv64.FMULS, rv64.FDIVS, rv64.FSQRTS:
		if !e.needNear(o) {
			return false
		}
		if f == rv64.FSQRTS {
			e.boxedIf(single, o.Rs1)
			e.rm(moves.of(single), xmm0, e.x(o.Rs1))
			e.rr(pair{iSQRTSD, iSQRTSS}.of(single), xmm0, xmm0)
		} else {
			e.boxedIf(single, o.Rs1, o.Rs2)
			e.rm(moves.of(single), xmm0, e.x(o.Rs1))
			e.rm(arithmetic[f].of(single), xmm0, e.x(o.Rs2))
		}
		e.floatResult(o, single)
	case rv64.FMADDS, rv64.FMSUBS, rv64.FNMSUBS, rv64.FNMADDS:
		if !e.needNear(o) {
			return false
		}
		rs3 := uint8(o.Imm >> 8)
		e.boxedIf(single, o.Rs1, o.Rs2, rs3)
		e.rm(moves.of(single), xmm0, e.x(rs3))
		e.rm(moves.of(single), xmm1, e.x(o.Rs1))
		e.rrm(fused[f].of(single), xmm0, xmm1, e.x(o.Rs2))
		e.floatResult(o, single)
	case rv64.FSGNJS, rv64.FSGNJNS, rv64.FSGNJXS:
		e.needFP(o)
		e.boxedIf(single, o.Rs1, o.Rs2)
		e.signs(o, f, single)
	case rv64.FMINS, rv64.FMAXS:
		e.needFP(o)
		e.boxedIf(single, o.Rs1, o.Rs2)
		e.rm(moves.of(single), xmm0, e.x(o.Rs1))
		e.rm(orders.of(single), xmm0, e.x(o.Rs2))
		slow := e.toSlow()
		e.jcc(ccP, slow)
		e.jcc(ccE, slow) // zeros of either sign
		e.rm(iMOV, rax, e.x(o.Rs1))
		if f == rv64.FMINS {
			e.rm(iCMOVA, rax, e.x(o.Rs2))
		} else {
			e.rm(iCMOVB, rax, e.x(o.Rs2))
		}
		e.put(o, rax, false)
	case rv64.FLES, rv64.FLTS, rv64.FEQS:
		e.needFP(o)
		e.boxedIf(single, o.Rs1, o.Rs2)
		e.compareFloat(o, f, single)
	case rv64.FMVXW:
		e.needFP(o)
		d := e.dst(o)
		if single {
			e.rm(iMOVSXD, d, e.x(o.Rs1))
		} else {
			e.rm(iMOV, d, e.x(o.Rs1))
		}
		e.put(o, d, false)
	case rv64.FMVWX:
		e.needFP(o)
		if single {
			e.with(iMOVL, rax, o.Rs1)
			e.rm(iOR, rax, e.const64(cBoxed))
		} else {
			e.load(rax, o.Rs1)
		}
		e.put(o, rax, false)
	case rv64.FCVTSD: // the lowest bit is the source's format
		if !e.needNear(o) {
			return false
		}
		if single { // to single, from double
			e.rm(iMOVSD, xmm0, e.x(o.Rs1))
			e.rr(iCVTSD2SS, xmm0, xmm0)
		} else {
			e.needBoxed(o.Rs1)
			e.rm(iMOVSS, xmm0, e.x(o.Rs1))
			e.rr(iCVTSS2SD, xmm0, xmm0)
		}
		e.floatResult(o, single)
	case rv64.FCVTWS, rv64.FCVTLS, rv64.FCVTWUS, rv64.FCVTLUS:
		return e.toInteger(o, f, single)
	case rv64.FCVTSW, rv64.FCVTSWU, rv64.FCVTSL, rv64.FCVTSLU:
		return e.fromInteger(o, f, single)
	default:
		return false
	}
	return true
}

func (e *emitter) boxedIf(single bool, regs ...uint8) {
	if single {
		e.needBoxed(regs...)
	}
}

// signs is FSGNJ and its kin.
func (e *emitter) signs(o *rv64.CodeOp, f uint8, single bool) {
	mov := iMOV
	if single {
		mov = iMOVL
	}
	e.rm(mov, rax, e.x(o.Rs2))
	if f == rv64.FSGNJNS {
		e.r1(iNOT, rax)
	}
	e.rm(mov, rcx, e.x(o.Rs1))
	if single {
		e.ri(iANDLI, rax, -1<<31)
		if f != rv64.FSGNJXS {
			e.ri(iANDLI, rcx, 1<<31-1)
		}
		e.rr(iXORL, rax, rcx)
		e.rm(iOR, rax, e.const64(cBoxed))
	} else {
		e.ri(iSHRI, rax, 63)
		e.ri(iSHLI, rax, 63)
		if f != rv64.FSGNJXS {
			e.ri(iSHLI, rcx, 1)
			e.ri(iSHRI, rcx, 1)
		}
		e.rr(iXOR, rax, rcx)
	}
	e.put(o, rax, false)
}

// compareFloat is FEQ, which is quiet, FLT and FLE, for which any NaN is NV; NaNs are
// unordered, which sets ZF, PF and CF.
func (e *emitter) compareFloat(o *rv64.CodeOp, f uint8, single bool) {
	if f == rv64.FEQS {
		e.rr(iXORL, rax, rax)
		e.rr(iXORL, rcx, rcx)
		e.rm(moves.of(single), xmm0, e.x(o.Rs1))
		e.rm(orders.of(single), xmm0, e.x(o.Rs2))
		e.set(ccE, rax)
		e.set(ccNP, rcx)
		e.rr(iANDL, rax, rcx)
	} else {
		e.rr(iXORL, rax, rax)
		e.rm(moves.of(single), xmm0, e.x(o.Rs2))
		e.rm(signal.of(single), xmm0, e.x(o.Rs1))
		if f == rv64.FLTS {
			e.set(ccA, rax)
		} else {
			e.set(ccAE, rax)
		}
	}
	e.put(o, rax, true)
}

// toInteger converts to an integer, to nearest or towards zero.
func (e *emitter) toInteger(o *rv64.CodeOp, f uint8, single bool) bool {
	zero := o.Imm&0xff == roundZero
	unsigned := f == rv64.FCVTWUS || f == rv64.FCVTLUS
	if single && unsigned {
		return false
	}
	if zero {
		e.needFP(o)
	} else if !e.needNear(o) {
		return false
	}
	e.boxedIf(single, o.Rs1)
	word := f == rv64.FCVTWS
	if unsigned {
		// Positive ones that fit the host's, signed, conversion, and round to what fits.
		e.rm(iMOV, rax, e.x(o.Rs1))
		limit := cTwo31
		if f == rv64.FCVTLUS {
			limit = cTwo62
		}
		e.rm(iCMP, rax, e.const64(limit))
		e.jcc(ccAE, e.toSlow())
	}
	var i inst
	switch {
	case word && zero:
		i = pair{iCVTTSD2SIL, iCVTTSS2SIL}.of(single)
	case word:
		i = pair{iCVTSD2SIL, iCVTSS2SIL}.of(single)
	case zero:
		i = pair{iCVTTSD2SI, iCVTTSS2SI}.of(single)
	default:
		i = pair{iCVTSD2SI, iCVTSS2SI}.of(single)
	}
	e.rm(i, rax, e.x(o.Rs1))
	if word || f == rv64.FCVTWUS {
		e.rr(iMOVSXD, rax, rax)
	}
	if !unsigned { // what does not fit, and the least number
		if word {
			e.ri(iCMPI, rax, -1<<31)
		} else {
			e.rm(iCMP, rax, e.const64(cSign64))
		}
		e.jcc(ccE, e.toSlow())
	}
	e.put(o, rax, false)
	return true
}

// fromInteger converts from an integer.
func (e *emitter) fromInteger(o *rv64.CodeOp, f uint8, single bool) bool {
	if !e.needNear(o) {
		return false
	}
	e.rr(iXORPS, xmm0, xmm0) // of which the conversion keeps a part
	switch f {
	case rv64.FCVTSW:
		e.with(pair{iCVTSI2SDL, iCVTSI2SSL}.of(single), xmm0, o.Rs1)
	case rv64.FCVTSWU:
		e.with(iMOVL, rax, o.Rs1)
		e.rr(pair{iCVTSI2SD, iCVTSI2SS}.of(single), xmm0, rax)
	case rv64.FCVTSLU:
		e.load(rax, o.Rs1)
		e.rr(iTEST, rax, rax)
		e.jcc(ccL, e.toSlow())
		e.rr(pair{iCVTSI2SD, iCVTSI2SS}.of(single), xmm0, rax)
	default:
		e.with(pair{iCVTSI2SD, iCVTSI2SS}.of(single), xmm0, o.Rs1)
	}
	e.floatResult(o, single)
	return true
}
