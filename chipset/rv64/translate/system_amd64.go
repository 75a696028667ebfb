//go:build linux

package translate

import "ft/chipset/rv64"

// atomic is LR, SC and the AMOs on pages in the TLB. Between two steps nobody else acts, so the
// host's atomic instructions are not needed.
func (e *emitter) atomic(o *rv64.CodeOp) {
	size := int32(4) << (o.Aux & 1)
	e.load(rdx, o.Rs1)
	switch o.Aux &^ 1 {
	case rv64.AmoLRW:
		e.reach(e.l.R, size)
		e.rm(iADD, rdx, at(rcx, 8))
		d := e.dst(o)
		e.reserve(rcx, rdx)
		e.rm(iMOVTo, rcx, e.hart(e.l.ReservationAddr))
		e.mi(iMOVI, e.hart(e.l.ReservationSize), size)
		if o.Rd == rv64.RegSink {
			return
		}
		if size == 4 {
			e.rm(iMOVSXD, d, atIndex(rRAM, rdx, 1, 0))
		} else {
			e.rm(iMOV, d, atIndex(rRAM, rdx, 1, 0))
		}
		e.put(o, d, false)
	case rv64.AmoSCW:
		e.storeConditional(o, size)
	default:
		e.amo(o, size)
	}
}

// reserve makes r the physical address of an offset in RAM.
func (e *emitter) reserve(r, off reg) {
	e.constant(r, e.l.RAMBase)
	e.rr(iADD, r, off)
}

// storeConditional is an SC that succeeds, the usual one.
func (e *emitter) storeConditional(o *rv64.CodeOp, size int32) {
	e.mi(iCMPI, e.hart(e.l.ReservationSize), size)
	e.jcc(ccNE, e.toSlow())
	e.reach(e.l.W, size)
	e.rm(iMOV, rcx, at(rcx, 8))
	e.rr(iADD, rcx, rdx)
	e.reserve(rax, rcx)
	e.rm(iCMP, rax, e.hart(e.l.ReservationAddr))
	e.jcc(ccNE, e.toSlow())
	v := rax
	if size == 4 { // zero-extended
		e.with(iMOVL, rax, o.Rs2)
		e.rm(iMOVLTo, rax, atIndex(rRAM, rcx, 1, 0))
	} else {
		v = e.value(o.Rs2, rax)
		e.rm(iMOVTo, v, atIndex(rRAM, rcx, 1, 0))
	}
	if o.Weight != 0 {
		e.rm(iIMUL, rdx, e.const64(cFoldAddr))
		e.rr(iMOV, rcx, v)
		e.rm(iIMUL, rcx, e.const64(cFoldThird))
		e.rr(iADD, rdx, rcx)
	}
	e.mi(iMOVI, e.hart(e.l.ReservationSize), 0)
	e.mi(iMOVI, e.hart(e.l.ReservationAddr), 0)
	if o.Rd != rv64.RegSink {
		if h, ok := host(o.Rd); ok {
			e.rr(iXORL, h, h)
		} else {
			e.mi(iMOVI, e.x(o.Rd), 0)
		}
	}
	e.fold(o, rdx, false)
}

var amos = map[uint8]struct{ whole, word inst }{
	rv64.AmoADDW: {iADD, iADDL}, rv64.AmoXORW: {iXOR, iXORL}, rv64.AmoORW: {iOR, iORL}, rv64.AmoANDW: {iAND, iANDL},
	// The operand is taken where it is less, or greater.
	rv64.AmoMINW: {iCMOVG, iCMOVGL}, rv64.AmoMAXW: {iCMOVL, iCMOVLL}, rv64.AmoMINUW: {iCMOVA, iCMOVAL}, rv64.AmoMAXUW: {iCMOVB, iCMOVBL},
}

func (e *emitter) amo(o *rv64.CodeOp, size int32) {
	e.reach(e.l.W, size)
	e.rm(iMOV, rcx, at(rcx, 8))
	e.rr(iADD, rcx, rdx)
	e.rm(iIMUL, rdx, e.const64(cFoldAddr))
	to := atIndex(rRAM, rcx, 1, 0)
	word := size == 4
	if word {
		e.rm(iMOVSXD, rax, to)
	} else {
		e.rm(iMOV, rax, to)
	}
	old := e.hart(e.l.Site) // which is free between the code's ends
	e.rm(iMOVTo, rax, old)
	op, ok := amos[o.Aux&^1]
	i, cmp := op.whole, iCMP
	if word {
		i, cmp = op.word, iCMPL
	}
	switch {
	case !ok: // AMOSWAP
		e.load(rax, o.Rs2)
	case o.Aux&^1 >= rv64.AmoMINW:
		e.with(cmp, rax, o.Rs2)
		e.with(i, rax, o.Rs2)
	default:
		e.with(i, rax, o.Rs2)
	}
	if word {
		e.rm(iMOVLTo, rax, to)
		e.rr(iMOVL, rcx, rax)
	} else {
		e.rm(iMOVTo, rax, to)
		e.rr(iMOV, rcx, rax)
	}
	e.rm(iIMUL, rcx, e.const64(cFoldThird))
	e.rr(iADD, rdx, rcx)
	if o.Rd != rv64.RegSink {
		e.rm(iMOV, rax, old)
		if h, ok := host(o.Rd); ok {
			e.rr(iMOV, h, rax)
		} else {
			e.rm(iMOVTo, rax, e.x(o.Rd))
		}
		e.rm(iIMUL, rax, e.const64(cFoldSecond))
		e.rr(iADD, rdx, rax)
	}
	e.fold(o, rdx, false)
}

// system is what ends a block. The registers of S mode that are only kept are accessed here,
// and SIE is switched while no interrupt waits for it; the rest goes the slow way.
func (e *emitter) system(o *rv64.CodeOp) {
	if o.Code != rv64.OpSystem || !e.accessCSR(o) {
		e.jmp(e.toSlow())
		return
	}
	e.leave(e.steps, o, e.fixed, e.summed)
	e.pcOf(rdx, int64(e.b.Start)+int64(o.Behind))
	e.lookup()
}

// sie is mstatus.SIE.
const sie = 2

// accessCSR emits an access; false: it is none of those.
func (e *emitter) accessCSR(o *rv64.CodeOp) bool {
	kind := o.Aux & 3
	if o.Aux > rv64.SysCSRRCI || kind == 0 {
		return false
	}
	immediate := o.Aux >= rv64.SysCSRRWI
	writes := kind == rv64.SysCSRRW || o.Rs1 != 0
	status := uint32(o.Imm) == rv64.CSRSstatus
	if uint32(o.Imm) == rv64.CSRFrm && !writes {
		e.needFP(o)
		e.readFrm(rax, o)
		return true
	}
	off, mask, ok := e.l.PlainCSR(uint32(o.Imm))
	if !ok && !(status && (!writes || immediate && kind != rv64.SysCSRRW && o.Rs1 == sie)) {
		return false
	}
	e.mi(iCMPBI, e.hart(e.l.Priv), int32(rv64.Supervisor))
	e.jcc(ccB, e.toSlow())
	if status {
		if writes && kind == rv64.SysCSRRS { // unless an interrupt waits for it
			e.rm(iMOV, rax, e.hart(e.l.Mip))
			e.rm(iOR, rax, e.hart(e.l.Lines))
			e.rm(iOR, rax, e.hart(e.l.Timers))
			e.rm(iAND, rax, e.hart(e.l.Mie))
			e.jcc(ccNE, e.toSlow())
		}
		e.readStatus()
	} else {
		e.rm(iMOV, rax, e.hart(off))
	}
	e.rr(iXORL, rdx, rdx)
	if writes {
		switch {
		case immediate:
			e.constant(rdx, uint64(o.Rs1))
		default:
			e.load(rdx, o.Rs1)
		}
		switch kind {
		case rv64.SysCSRRS:
			e.rr(iOR, rdx, rax)
		case rv64.SysCSRRC:
			e.r1(iNOT, rdx)
			e.rr(iAND, rdx, rax)
		}
		switch {
		case status && kind == rv64.SysCSRRS:
			e.mi(iORI, e.hart(e.l.Mstatus), sie)
		case status:
			e.mi(iANDI, e.hart(e.l.Mstatus), ^sie)
		default:
			e.rr(iMOV, rcx, rdx)
			e.ri(iANDI, rcx, mask)
			e.rm(iMOVTo, rcx, e.hart(off))
		}
		e.rm(iIMUL, rdx, e.const64(cFoldSecond))
	}
	if o.Rd != rv64.RegSink {
		if h, ok := host(o.Rd); ok {
			e.rr(iMOV, h, rax)
		} else {
			e.rm(iMOVTo, rax, e.x(o.Rd))
		}
		e.rr(iADD, rdx, rax)
	}
	e.fold(o, rdx, false)
	return true
}

// readFrm is a read of frm.
func (e *emitter) readFrm(r reg, o *rv64.CodeOp) {
	e.rm(iMOV, r, e.hart(e.l.Frm))
	if o.Rd != rv64.RegSink {
		e.put(o, r, true)
	}
}

// readStatus makes rax sstatus.
func (e *emitter) readStatus() {
	var clean label
	e.rm(iMOV, rax, e.hart(e.l.Mstatus))
	e.rm(iOR, rax, e.const64(cStatusXL))
	e.rr(iMOVL, rcx, rax)
	e.ri(iXORI, rcx, rv64.StatusFS) // both bits set
	e.ri(iANDLI, rcx, rv64.StatusFS)
	e.jcc(ccNE, &clean)
	e.rm(iOR, rax, e.const64(cSign64)) // SD
	e.bind(&clean)
	e.rm(iAND, rax, e.const64(cStatusRead))
}
