//go:build linux

package translate

import "ft/chipset/rv64"

// address makes rdx the address of a load or a store.
func (e *emitter) effective(o *rv64.CodeOp) {
	if h, ok := host(o.Rs1); ok && o.Imm != 0 {
		e.rm(iLEA, rdx, at(h, o.Imm))
	} else if e.load(rdx, o.Rs1); o.Imm != 0 {
		e.ri(iADDI, rdx, o.Imm)
	}
}

// reach makes rcx the TLB's entry for the address in rdx, which is aligned to size, or goes
// the slow way. It uses rax.
func (e *emitter) reach(table int32, size int32) {
	e.rr(iMOV, rcx, rdx)
	e.ri(iSHRI, rcx, 8)
	e.ri(iANDLI, rcx, (e.l.TLBEntries-1)<<4)
	e.rm(iADD, rcx, e.hart(table))
	e.rr(iMOV, rax, rdx)
	e.ri(iANDI, rax, ^0xfff|size-1)
	e.rm(iCMP, rax, at(rcx, 0))
	e.jcc(ccNE, e.toSlow())
}

var loads = map[rv64.Code]struct {
	inst
	size  int32
	small bool
}{
	rv64.OpLB: {iMOVSXB, 1, false}, rv64.OpLH: {iMOVSXW, 2, false}, rv64.OpLW: {iMOVSXD, 4, false}, rv64.OpLD: {iMOV, 8, false},
	rv64.OpLBU: {iMOVZXB, 1, true}, rv64.OpLHU: {iMOVZXW, 2, true}, rv64.OpLWU: {iMOVL, 4, true},
}

func (e *emitter) loadOp(o *rv64.CodeOp) {
	l := loads[o.Code]
	e.effective(o)
	e.reach(e.l.R, l.size)
	e.rm(iADD, rdx, at(rcx, 8))
	d := e.dst(o)
	e.rm(l.inst, d, atIndex(rRAM, rdx, 1, 0))
	e.put(o, d, l.small)
}

func (e *emitter) storeOp(o *rv64.CodeOp) {
	size := int32(1) << (o.Code - rv64.OpSB)
	e.effective(o)
	e.reach(e.l.W, size)
	e.storeAt(o, size)
}

// storeAt stores rs2 where the entry in rcx and the address in rdx lead.
func (e *emitter) storeAt(o *rv64.CodeOp, size int32) {
	e.rm(iMOV, rcx, at(rcx, 8))
	e.rr(iADD, rcx, rdx)
	to := atIndex(rRAM, rcx, 1, 0)
	v := e.value(o.Rs2, rax)
	switch size {
	case 1:
		e.rm(iMOVBTo, v, to)
	case 2:
		e.rm(iMOVWTo, v, to)
	case 4:
		e.rm(iMOVLTo, v, to)
	default:
		e.rm(iMOVTo, v, to)
	}
	if o.Weight == 0 {
		return
	}
	switch size {
	case 1:
		e.rr(iMOVZXB, rax, v)
		v = rax
	case 2:
		e.rr(iMOVZXW, rax, v)
		v = rax
	case 4:
		e.rr(iMOVL, rax, v)
		v = rax
	}
	e.rm(iIMUL, rdx, e.const64(cFoldAddr))
	e.rr(iADD, rdx, v)
	e.fold(o, rdx, false)
}
