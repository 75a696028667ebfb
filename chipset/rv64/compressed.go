package rv64

// The compressed encodings (unprivileged specification, "C" extension), each expanded
// to the 32-bit instruction that it stands for. Reserved encodings are refused; hints
// expand to instructions whose destination is x0.

// Builders of 32-bit encodings.
func encI(op, f3, rd, rs1 uint32, imm int32) uint32 {
	return op | rd<<7 | f3<<12 | rs1<<15 | uint32(imm)<<20
}
func encS(op, f3, rs1, rs2 uint32, imm int32) uint32 {
	return op | uint32(imm)&31<<7 | f3<<12 | rs1<<15 | rs2<<20 | uint32(imm)>>5<<25
}
func encR(op, f3, f7, rd, rs1, rs2 uint32) uint32 {
	return op | rd<<7 | f3<<12 | rs1<<15 | rs2<<20 | f7<<25
}
func encB(f3, rs1, rs2 uint32, imm int32) uint32 {
	u := uint32(imm)
	return 0x63 | u>>11&1<<7 | u>>1&15<<8 | f3<<12 | rs1<<15 | rs2<<20 | u>>5&63<<25 | u>>12&1<<31
}
func encJ(rd uint32, imm int32) uint32 {
	u := uint32(imm)
	return 0x6f | rd<<7 | u>>12&255<<12 | u>>11&1<<20 | u>>1&1023<<21 | u>>20&1<<31
}

// part moves the bits hi…lo of c to position at.
func part(c uint32, hi, lo, at uint) int32 {
	return int32(c>>lo&(1<<(hi-lo+1)-1)) << at
}

// expand returns the 32-bit instruction that c stands for.
func expand(c16 uint16) (uint32, bool) {
	c := uint32(c16)
	f3 := c >> 13
	rd := c >> 7 & 31  // also rs1
	rs2 := c >> 2 & 31 // full register
	rs1s := c>>7&7 + 8 // x8…x15
	rs2s := c>>2&7 + 8
	imm6 := int32(c)<<19>>31<<5 | part(c, 6, 2, 0) // sign-extended, CI format
	immD := part(c, 12, 10, 3) | part(c, 6, 5, 6)  // doubleword offset
	immW := part(c, 12, 10, 3) | part(c, 6, 6, 2) | part(c, 5, 5, 6)
	switch c & 3 {
	case 0:
		switch f3 {
		case 0: // c.addi4spn
			imm := part(c, 12, 11, 4) | part(c, 10, 7, 6) | part(c, 6, 6, 2) | part(c, 5, 5, 3)
			return encI(0x13, 0, rs2s, 2, imm), imm != 0
		case 1: // c.fld
			return encI(0x07, 3, rs2s, rs1s, immD), true
		case 2: // c.lw
			return encI(0x03, 2, rs2s, rs1s, immW), true
		case 3: // c.ld
			return encI(0x03, 3, rs2s, rs1s, immD), true
		case 5: // c.fsd
			return encS(0x27, 3, rs1s, rs2s, immD), true
		case 6: // c.sw
			return encS(0x23, 2, rs1s, rs2s, immW), true
		case 7: // c.sd
			return encS(0x23, 3, rs1s, rs2s, immD), true
		}
	case 1:
		switch f3 {
		case 0: // c.addi, c.nop
			return encI(0x13, 0, rd, rd, imm6), true
		case 1: // c.addiw
			return encI(0x1b, 0, rd, rd, imm6), rd != 0
		case 2: // c.li
			return encI(0x13, 0, rd, 0, imm6), true
		case 3:
			if rd == 2 { // c.addi16sp
				imm := imm6>>5<<9 | part(c, 6, 6, 4) | part(c, 5, 5, 6) | part(c, 4, 3, 7) | part(c, 2, 2, 5)
				return encI(0x13, 0, 2, 2, imm), imm != 0
			}
			// c.lui
			return 0x37 | rd<<7 | uint32(imm6)<<12, imm6 != 0
		case 4:
			return expandALU(c, rs1s, rs2s, imm6)
		case 5: // c.j
			imm := int32(c)<<19>>31<<11 | part(c, 11, 11, 4) | part(c, 10, 9, 8) | part(c, 8, 8, 10) |
				part(c, 7, 7, 6) | part(c, 6, 6, 7) | part(c, 5, 3, 1) | part(c, 2, 2, 5)
			return encJ(0, imm), true
		case 6, 7: // c.beqz, c.bnez
			imm := int32(c)<<19>>31<<8 | part(c, 11, 10, 3) | part(c, 6, 5, 6) | part(c, 4, 3, 1) | part(c, 2, 2, 5)
			return encB(f3&1, rs1s, 0, imm), true
		}
	case 2:
		spD := part(c, 12, 12, 5) | part(c, 6, 5, 3) | part(c, 4, 2, 6)
		spW := part(c, 12, 12, 5) | part(c, 6, 4, 2) | part(c, 3, 2, 6)
		toD := part(c, 12, 10, 3) | part(c, 9, 7, 6)
		toW := part(c, 12, 9, 2) | part(c, 8, 7, 6)
		switch f3 {
		case 0: // c.slli
			return encI(0x13, 1, rd, rd, imm6&63), true
		case 1: // c.fldsp
			return encI(0x07, 3, rd, 2, spD), true
		case 2: // c.lwsp
			return encI(0x03, 2, rd, 2, spW), rd != 0
		case 3: // c.ldsp
			return encI(0x03, 3, rd, 2, spD), rd != 0
		case 4:
			switch {
			case c>>12&1 == 0 && rs2 == 0: // c.jr
				return encI(0x67, 0, 0, rd, 0), rd != 0
			case c>>12&1 == 0: // c.mv
				return encR(0x33, 0, 0, rd, 0, rs2), true
			case rs2 == 0 && rd == 0: // c.ebreak
				return 0x0010_0073, true
			case rs2 == 0: // c.jalr
				return encI(0x67, 0, 1, rd, 0), true
			}
			return encR(0x33, 0, 0, rd, rd, rs2), true // c.add
		case 5: // c.fsdsp
			return encS(0x27, 3, 2, rs2, toD), true
		case 6: // c.swsp
			return encS(0x23, 2, 2, rs2, toW), true
		case 7: // c.sdsp
			return encS(0x23, 3, 2, rs2, toD), true
		}
	}
	return 0, false
}

// expandALU expands the arithmetic of quadrant 1, funct3 100.
func expandALU(c, rd, rs2 uint32, imm6 int32) (uint32, bool) {
	switch c >> 10 & 3 {
	case 0: // c.srli
		return encI(0x13, 5, rd, rd, imm6&63), true
	case 1: // c.srai
		return encI(0x13, 5, rd, rd, imm6&63|0x400), true
	case 2: // c.andi
		return encI(0x13, 7, rd, rd, imm6), true
	}
	switch c>>12&1<<2 | c>>5&3 {
	case 0:
		return encR(0x33, 0, 0x20, rd, rd, rs2), true // c.sub
	case 1:
		return encR(0x33, 4, 0, rd, rd, rs2), true // c.xor
	case 2:
		return encR(0x33, 6, 0, rd, rd, rs2), true // c.or
	case 3:
		return encR(0x33, 7, 0, rd, rd, rs2), true // c.and
	case 4:
		return encR(0x3b, 0, 0x20, rd, rd, rs2), true // c.subw
	case 5:
		return encR(0x3b, 0, 0, rd, rd, rs2), true // c.addw
	}
	return 0, false
}
