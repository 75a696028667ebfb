package fp

// Add64 is fadd.d.
func Add64(a, b uint64, rm Rounding) (uint64, Flags) { return binary64.add(a, b, rm) }

// Sub64 is fsub.d.
func Sub64(a, b uint64, rm Rounding) (uint64, Flags) { return binary64.add(a, b^sign64, rm) }

// Mul64 is fmul.d.
func Mul64(a, b uint64, rm Rounding) (uint64, Flags) { return binary64.mul(a, b, rm) }

// Div64 is fdiv.d.
func Div64(a, b uint64, rm Rounding) (uint64, Flags) { return binary64.div(a, b, rm) }

// Sqrt64 is fsqrt.d.
func Sqrt64(a uint64, rm Rounding) (uint64, Flags) { return binary64.sqrt(a, rm) }

// FMA64 is fmadd.d: a×b + c, rounded once. The other three negate a, c or both first.
func FMA64(a, b, c uint64, rm Rounding) (uint64, Flags) { return binary64.fma(a, b, c, rm) }

// Add32 is fadd.s.
func Add32(a, b uint32, rm Rounding) (uint32, Flags) {
	r, flags := binary32.add(uint64(a), uint64(b), rm)
	return uint32(r), flags
}

// Sub32 is fsub.s.
func Sub32(a, b uint32, rm Rounding) (uint32, Flags) { return Add32(a, b^sign32, rm) }

// Mul32 is fmul.s.
func Mul32(a, b uint32, rm Rounding) (uint32, Flags) {
	r, flags := binary32.mul(uint64(a), uint64(b), rm)
	return uint32(r), flags
}

// Div32 is fdiv.s.
func Div32(a, b uint32, rm Rounding) (uint32, Flags) {
	r, flags := binary32.div(uint64(a), uint64(b), rm)
	return uint32(r), flags
}

// Sqrt32 is fsqrt.s.
func Sqrt32(a uint32, rm Rounding) (uint32, Flags) {
	r, flags := binary32.sqrt(uint64(a), rm)
	return uint32(r), flags
}

// FMA32 is fmadd.s: a×b + c, rounded once. The other three negate a, c or both first.
func FMA32(a, b, c uint32, rm Rounding) (uint32, Flags) {
	r, flags := binary32.fma(uint64(a), uint64(b), uint64(c), rm)
	return uint32(r), flags
}
