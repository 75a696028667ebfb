//go:build linux

package translate

import "ft/chipset/rv64"

// operation emits o, and says whether the block ends with it.
func (e *emitter) operation(o *rv64.CodeOp) (ends bool) {
	switch c := o.Code; {
	case c == rv64.OpNOP:
	case c <= rv64.OpSRAIW:
		e.oneSource(o)
	case c <= rv64.OpMULW && c != rv64.OpDIV && c != rv64.OpDIVU && c != rv64.OpREM && c != rv64.OpREMU:
		e.register(o)
	case c < rv64.OpLB:
		e.divide(o)
	case c >= rv64.OpLB && c < rv64.OpLoadX0:
		e.loadOp(o)
	case c >= rv64.OpSB && c <= rv64.OpSD:
		e.storeOp(o)
	case c >= rv64.OpFLW && c <= rv64.OpFSD:
		e.floatMemory(o)
	case c >= rv64.OpFADDS && c <= rv64.OpFloat:
		e.float(o)
	case c >= rv64.OpBEQ && c <= rv64.OpBGEU:
		return e.branch(o)
	case c >= rv64.OpJ && c <= rv64.OpJALR:
		e.jump(o)
		return true
	case c == rv64.OpAMO:
		e.atomic(o)
	case c >= rv64.OpSystem:
		e.system(o)
		return true
	default:
		e.jmp(e.toSlow())
	}
	e.resume()
	return false
}

// oneSource is what has one source, or none.
func (e *emitter) oneSource(o *rv64.CodeOp) {
	d := e.dst(o)
	if v, ok := o.Constant(); ok {
		e.constant(d, v)
		if d == rax {
			e.rm(iMOVTo, d, e.x(o.Rd))
		}
		return
	}
	word := func(i inst) {
		e.with(iMOVL, rax, o.Rs1)
		e.ri(i, rax, o.Imm&31)
		e.rr(iMOVSXD, d, rax)
	}
	whole := func(i inst, imm int32) {
		e.load(d, o.Rs1)
		e.ri(i, d, imm)
	}
	small := false
	switch o.Code {
	case rv64.OpAUIPC:
		e.pcOf(d, int64(e.b.Start)+int64(o.Imm))
	case rv64.OpADDI:
		if h, ok := host(o.Rs1); ok && h != d && o.Imm != 0 {
			e.rm(iLEA, d, at(h, o.Imm))
		} else if e.load(d, o.Rs1); o.Imm != 0 {
			e.ri(iADDI, d, o.Imm)
		}
	case rv64.OpSLTI, rv64.OpSLTIU:
		e.rr(iXORL, rax, rax)
		e.compareImmediate(o.Rs1, o.Imm)
		if o.Code == rv64.OpSLTI {
			e.set(ccL, rax)
		} else {
			e.set(ccB, rax)
		}
		d, small = rax, true
	case rv64.OpXORI:
		if o.Imm == -1 {
			e.load(d, o.Rs1)
			e.r1(iNOT, d)
		} else {
			whole(iXORI, o.Imm)
		}
	case rv64.OpORI:
		whole(iORI, o.Imm)
	case rv64.OpANDI:
		whole(iANDI, o.Imm)
		small = o.Imm >= 0
	case rv64.OpSLLI:
		whole(iSHLI, o.Imm&63)
	case rv64.OpSRLI:
		whole(iSHRI, o.Imm&63)
		small = o.Imm&63 >= 32
	case rv64.OpSRAI:
		whole(iSARI, o.Imm&63)
	case rv64.OpADDIW:
		if o.Imm == 0 {
			e.with(iMOVSXD, d, o.Rs1)
			break
		}
		if h, ok := host(o.Rs1); ok {
			e.rm(iLEAL, rax, at(h, o.Imm))
		} else {
			e.rm(iMOVL, rax, e.x(o.Rs1))
			e.ri(iADDLI, rax, o.Imm)
		}
		e.rr(iMOVSXD, d, rax)
	case rv64.OpSLLIW:
		word(iSHLLI)
	case rv64.OpSRLIW:
		word(iSHRLI)
		small = o.Imm&31 > 0
	case rv64.OpSRAIW:
		word(iSARLI)
	}
	e.put(o, d, small)
}

// compareImmediate compares a guest's register with a constant.
func (e *emitter) compareImmediate(i uint8, imm int32) {
	if h, ok := host(i); ok {
		e.ri(iCMPI, h, imm)
	} else {
		e.mi(iCMPI, e.x(i), imm)
	}
}

// compare compares two guest's registers; it may use rcx.
func (e *emitter) compare(a, b uint8) {
	if h, ok := host(a); b == 0 && ok {
		e.rr(iTEST, h, h)
	} else if b == 0 {
		e.mi(iCMPI, e.x(a), 0)
	} else {
		e.with(iCMP, e.value(a, rcx), b)
	}
}

// register is what has two sources.
func (e *emitter) register(o *rv64.CodeOp) {
	d, small := e.dst(o), false
	shift := func(i inst) {
		count := e.value(o.Rs2, rcx)
		if h, ok := host(o.Rs1); ok {
			e.rrr(i, d, count, h)
		} else {
			e.rrm(i, d, count, e.x(o.Rs1))
		}
	}
	shiftWord := func(i inst) {
		shift(i)
		e.rr(iMOVSXD, d, d)
	}
	word := func(i inst) {
		e.with(iMOVL, rax, o.Rs1)
		e.with(i, rax, o.Rs2)
		e.rr(iMOVSXD, d, rax)
	}
	high := func(i inst) {
		e.load(rax, o.Rs1)
		r := e.value(o.Rs2, rcx)
		e.r1(i, r)
		d = rdx
	}
	switch o.Code {
	case rv64.OpADD:
		a, oka := host(o.Rs1)
		b, okb := host(o.Rs2)
		switch {
		case o.Rs1 == 0:
			e.load(d, o.Rs2)
		case o.Rs2 == 0:
			e.load(d, o.Rs1)
		case oka && okb && a != d && b != d:
			e.rm(iLEA, d, atIndex(a, b, 1, 0))
		default:
			e.binary(iADD, o, true)
		}
	case rv64.OpSUB:
		e.binary(iSUB, o, false)
	case rv64.OpXOR:
		e.binary(iXOR, o, true)
	case rv64.OpOR:
		e.binary(iOR, o, true)
	case rv64.OpAND:
		e.binary(iAND, o, true)
	case rv64.OpMUL:
		e.binary(iIMUL, o, true)
	case rv64.OpSLL:
		shift(iSHLX)
	case rv64.OpSRL:
		shift(iSHRX)
	case rv64.OpSRA:
		shift(iSARX)
	case rv64.OpSLLW:
		shiftWord(iSHLXL)
	case rv64.OpSRLW:
		shiftWord(iSHRXL)
	case rv64.OpSRAW:
		shiftWord(iSARXL)
	case rv64.OpSLT, rv64.OpSLTU:
		e.rr(iXORL, rax, rax)
		e.with(iCMP, e.value(o.Rs1, rcx), o.Rs2)
		if o.Code == rv64.OpSLT {
			e.set(ccL, rax)
		} else {
			e.set(ccB, rax)
		}
		d, small = rax, true
	case rv64.OpADDW:
		word(iADDL)
	case rv64.OpSUBW:
		word(iSUBL)
	case rv64.OpMULW:
		word(iIMULL)
	case rv64.OpMULH:
		high(iIMUL1)
	case rv64.OpMULHU:
		high(iMUL1)
	case rv64.OpMULHSU:
		high(iMUL1)
		// The unsigned product counts a negative rs1 as 2⁶⁴ more than it is.
		e.load(rax, o.Rs1)
		e.ri(iSARI, rax, 63)
		e.with(iAND, rax, o.Rs2)
		e.rr(iSUB, rdx, rax)
	}
	if e.broken != "" {
		e.breakRegister(o, d)
	}
	e.put(o, d, small)
}

// binary makes dst rs1 i rs2.
func (e *emitter) binary(i inst, o *rv64.CodeOp, commutes bool) {
	d, a, b := e.dst(o), o.Rs1, o.Rs2
	if h, ok := host(b); ok && h == d && a != b {
		if !commutes {
			e.load(rax, a)
			e.rr(i, rax, h)
			e.rr(iMOV, d, rax)
			return
		}
		a, b = b, a
	}
	e.load(d, a)
	e.with(i, d, b)
}

// divide is DIV and its kin. By zero and by -1, whose overflow the host traps, nothing is
// divided.
func (e *emitter) divide(o *rv64.CodeOp) {
	c := o.Code
	signed := c == rv64.OpDIV || c == rv64.OpREM || c == rv64.OpDIVW || c == rv64.OpREMW
	rest := c == rv64.OpREM || c == rv64.OpREMU || c == rv64.OpREMW || c == rv64.OpREMUW
	word := c >= rv64.OpDIVW
	load := iMOV
	if word {
		load = iMOVL
		if signed {
			load = iMOVSXD
		}
	}
	var byZero, byOne, done label
	e.with(load, rcx, o.Rs2)
	e.with(load, rax, o.Rs1)
	e.rr(iTEST, rcx, rcx)
	e.jcc(ccE, &byZero)
	if signed {
		e.ri(iCMPI, rcx, -1)
		e.jcc(ccE, &byOne)
	}
	switch {
	case signed && word:
		e.cdq()
		e.r1(iIDIVL, rcx)
	case signed:
		e.cqo()
		e.r1(iIDIV, rcx)
	case word:
		e.rr(iXORL, rdx, rdx)
		e.r1(iDIVL, rcx)
	default:
		e.rr(iXORL, rdx, rdx)
		e.r1(iDIV, rcx)
	}
	e.jmp(&done)
	e.bind(&byOne)
	if signed {
		e.r1(iNEG, rax)
		e.rr(iXORL, rdx, rdx)
		e.jmp(&done)
	}
	e.bind(&byZero)
	e.rr(iMOV, rdx, rax)
	e.constant(rax, 1<<64-1)
	e.bind(&done)
	v := rax
	if rest {
		v = rdx
	}
	if word {
		e.rr(iMOVSXD, v, v)
	}
	e.put(o, v, false)
}

var branches = map[rv64.Code]cond{
	rv64.OpBEQ: ccE, rv64.OpBNE: ccNE, rv64.OpBLT: ccL, rv64.OpBGE: ccGE, rv64.OpBLTU: ccB, rv64.OpBGEU: ccAE,
}

// branch leaves the block where it is taken. If it is the last operation, what is likely
// comes first: backwards, that it is taken.
func (e *emitter) branch(o *rv64.CodeOp) (ends bool) {
	e.compare(o.Rs1, o.Rs2)
	c := branches[o.Code]
	if e.broken != "" {
		c = e.breakBranch(o, c)
	}
	if e.op == e.steps-1 && o.Imm <= int32(o.Off) {
		var end label
		e.jcc(c^1, &end)
		e.leave(e.steps, o, e.fixed, e.summed)
		e.goTo(e.op, o)
		e.bind(&end)
		return false // goes on with the end
	}
	e.taken = append(e.taken, exit{op: e.op, constant: e.fixed, summed: e.summed})
	e.jcc(c, &e.taken[len(e.taken)-1].label)
	return false
}

// jump ends the block.
func (e *emitter) jump(o *rv64.CodeOp) {
	if o.Code == rv64.OpJR || o.Code == rv64.OpJALR {
		if h, ok := host(o.Rs1); ok {
			e.rm(iLEA, rdx, at(h, o.Imm))
		} else {
			e.rm(iMOV, rdx, e.x(o.Rs1))
			e.addConstant(rdx, int64(o.Imm))
		}
		e.ri(iANDI, rdx, -2)
	}
	if o.Code == rv64.OpJAL || o.Code == rv64.OpJALR {
		d := e.dst(o)
		e.pcOf(d, int64(e.b.Start)+int64(o.Behind))
		e.put(o, d, false)
	}
	e.leave(e.steps, o, e.fixed, e.summed)
	if o.Code == rv64.OpJ || o.Code == rv64.OpJAL {
		e.goTo(e.op, o)
	} else {
		e.lookup()
	}
}
