package rv64

// Decoding of the 32-bit encodings (unprivileged specification, "RV32/64G Instruction
// Set Listings"). Encodings that are not of this hart's extensions become opIllegal;
// hints are executed as what they look like, with x0 as their destination.

func immI(w uint32) int32 { return int32(w) >> 20 }
func immS(w uint32) int32 { return int32(w)>>25<<5 | int32(w>>7&31) }
func immU(w uint32) int32 { return int32(w &^ 0xfff) }
func immB(w uint32) int32 {
	return int32(w)>>31<<12 | int32(w>>7&1)<<11 | int32(w>>25&63)<<5 | int32(w>>8&15)<<1
}
func immJ(w uint32) int32 {
	return int32(w)>>31<<20 | int32(w>>12&255)<<12 | int32(w>>20&1)<<11 | int32(w>>21&1023)<<1
}

// The codes of an opcode's operations by funct3; opIllegal where there is none.
var (
	loadCodes   = [8]code{opLB, opLH, opLW, opLD, opLBU, opLHU, opLWU, opIllegal}
	storeCodes  = [8]code{opSB, opSH, opSW, opSD, opIllegal, opIllegal, opIllegal, opIllegal}
	branchCodes = [8]code{opBEQ, opBNE, opIllegal, opIllegal, opBLT, opBGE, opBLTU, opBGEU}
	immCodes    = [8]code{opADDI, opIllegal, opSLTI, opSLTIU, opXORI, opIllegal, opORI, opANDI}
	regCodes    = [8]code{opADD, opSLL, opSLT, opSLTU, opXOR, opSRL, opOR, opAND}
	mulCodes    = [8]code{opMUL, opMULH, opMULHSU, opMULHU, opDIV, opDIVU, opREM, opREMU}
	reg32Codes  = [8]code{opADDW, opSLLW, opIllegal, opIllegal, opIllegal, opSRLW, opIllegal, opIllegal}
	mul32Codes  = [8]code{opMULW, opIllegal, opIllegal, opIllegal, opDIVW, opDIVUW, opREMW, opREMUW}
)

// decode decodes a 32-bit instruction. pos and off are the caller's to set.
func decode(w uint32) instruction {
	var o instruction
	o.raw = w
	o.op = op{
		code: opIllegal,
		rd:   uint8(w >> 7 & 31), rs1: uint8(w >> 15 & 31), rs2: uint8(w >> 20 & 31),
	}
	f3 := w >> 12 & 7
	f7 := w >> 25
	switch w & 0x7f {
	case 0x03: // LOAD
		o.op.code, o.imm = loadCodes[f3], immI(w)
		if o.rd == 0 && o.op.code != opIllegal {
			o.op.code, o.aux = opLoadX0, uint8(o.op.code)
		}
	case 0x07: // LOAD-FP
		o.imm = immI(w)
		o.rd += regF
		switch f3 {
		case 2:
			o.op.code = opFLW
		case 3:
			o.op.code = opFLD
		}
	case 0x0f: // MISC-MEM
		// Memory is coherent with itself and with the instruction stream at every step
		// (block.go, tlb.go), so FENCE and FENCE.I have nothing to do.
		if f3 <= 1 {
			o.op.code, o.rd = opNOP, 0
		}
	case 0x13: // OP-IMM
		o.op.code, o.imm = immCodes[f3], immI(w)
		switch {
		case f3 == 1 && w>>26 == 0:
			o.op.code, o.imm = opSLLI, int32(w>>20&63)
		case f3 == 5 && w>>26 == 0:
			o.op.code, o.imm = opSRLI, int32(w>>20&63)
		case f3 == 5 && w>>26 == 0x10:
			o.op.code, o.imm = opSRAI, int32(w>>20&63)
		}
	case 0x17:
		o.op.code, o.imm = opAUIPC, immU(w)
	case 0x1b: // OP-IMM-32
		switch {
		case f3 == 0:
			o.op.code, o.imm = opADDIW, immI(w)
		case f3 == 1 && f7 == 0:
			o.op.code, o.imm = opSLLIW, int32(o.rs2)
		case f3 == 5 && f7 == 0:
			o.op.code, o.imm = opSRLIW, int32(o.rs2)
		case f3 == 5 && f7 == 0x20:
			o.op.code, o.imm = opSRAIW, int32(o.rs2)
		}
	case 0x23: // STORE
		o.op.code, o.imm, o.rd = storeCodes[f3], immS(w), regSink
	case 0x27: // STORE-FP
		o.imm, o.rd = immS(w), regSink
		o.rs2 += regF
		switch f3 {
		case 2:
			o.op.code = opFSW
		case 3:
			o.op.code = opFSD
		}
	case 0x2f:
		decodeAMO(&o, w)
	case 0x33: // OP
		switch {
		case f7 == 0:
			o.op.code = regCodes[f3]
		case f7 == 1:
			o.op.code = mulCodes[f3]
		case f7 == 0x20 && f3 == 0:
			o.op.code = opSUB
		case f7 == 0x20 && f3 == 5:
			o.op.code = opSRA
		}
	case 0x37:
		o.op.code, o.imm = opLUI, immU(w)
	case 0x3b: // OP-32
		switch {
		case f7 == 0:
			o.op.code = reg32Codes[f3]
		case f7 == 1:
			o.op.code = mul32Codes[f3]
		case f7 == 0x20 && f3 == 0:
			o.op.code = opSUBW
		case f7 == 0x20 && f3 == 5:
			o.op.code = opSRAW
		}
	case 0x43, 0x47, 0x4b, 0x4f, 0x53:
		decodeFloat(&o, w)
	case 0x63: // BRANCH
		o.op.code, o.imm, o.rd = branchCodes[f3], immB(w), regSink
	case 0x67: // JALR
		if f3 == 0 {
			o.op.code, o.imm = opJALR, immI(w)
			if o.rd == 0 {
				o.op.code = opJR
			}
		}
	case 0x6f:
		o.op.code, o.imm = opJAL, immJ(w)
		if o.rd == 0 {
			o.op.code = opJ
		}
	case 0x73:
		decodeSystem(&o, w)
	}
	// What only computes and has nowhere to put it does nothing.
	if o.rd == 0 {
		o.rd = regSink
		if o.op.code < opLB {
			o.op.code = opNOP
		}
	}
	return o
}

// decodeParcel decodes the instruction whose first 16 bits, or all 32, are in w.
func decodeParcel(w uint32) (o instruction) {
	if w&3 == 3 {
		return decode(w)
	}
	c := uint16(w)
	if x, ok := expand(c); ok {
		o = decode(x)
	} else {
		o.op = op{code: opIllegal, rd: regSink}
	}
	o.raw = uint32(c)
	return o
}
