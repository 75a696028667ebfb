package fp

import "math"

// The fast way through binary32, as near64.go's through binary64, with the host's binary64
// as the wider format: it holds products of two binary32 numbers exactly, and a quotient, a
// root or a sum rounded to it and once more to binary32 is the one rounded once (Figueroa,
// "When is double rounding innocuous?", 1995: 53 ≥ 2·24+2). Nothing overflows or
// underflows in it.

const (
	// Results whose neighbours are finite, normal and not on the border to tiny.
	safeLow32  = 2 << 24
	safeSpan32 = (0xfe - 2) << 24
)

// Add32 is fadd.s.
func Add32(a, b uint32, rm Rounding) (uint32, Flags) {
	x, y := math.Float32frombits(a), math.Float32frombits(b)
	s := x + y
	r := math.Float32bits(s)
	// A tiny sum is exact, and an exact zero has the host's sign in all modes but RDN.
	if r<<1 < 0xfe<<24 && (r<<1 != 0 || rm != RDN) {
		v := s - x
		e := (x - (s - v)) + (y - v) // 2Sum
		switch {
		case e == 0:
			return r, 0
		case rm == RNE:
			return r, NX
		case rm != RMM:
			return beside32(r, e > 0, rm), NX
		}
	}
	v, flags := binary32.add(uint64(a), uint64(b), rm)
	return uint32(v), flags
}

// Sub32 is fsub.s.
func Sub32(a, b uint32, rm Rounding) (uint32, Flags) { return Add32(a, b^sign32, rm) }

// Mul32 is fmul.s.
func Mul32(a, b uint32, rm Rounding) (uint32, Flags) {
	p := float64(math.Float32frombits(a)) * float64(math.Float32frombits(b))
	f := float32(p)
	r := math.Float32bits(f)
	if r<<1-safeLow32 < safeSpan32 {
		n := float64(f)
		switch {
		case n == p:
			return r, 0
		case rm == RNE:
			return r, NX
		case rm != RMM:
			return beside32(r, p > n, rm), NX
		}
	} else if p == 0 {
		return r, 0
	}
	v, flags := binary32.mul(uint64(a), uint64(b), rm)
	return uint32(v), flags
}

// Div32 is fdiv.s.
func Div32(a, b uint32, rm Rounding) (uint32, Flags) {
	x, y := float64(math.Float32frombits(a)), float64(math.Float32frombits(b))
	f := float32(x / y)
	r := math.Float32bits(f)
	if r<<1-safeLow32 < safeSpan32 {
		p := float64(float64(f) * y) // exact
		switch {
		case p == x:
			return r, 0
		case rm == RNE || rm == RMM: // a quotient is never halfway between two normal numbers
			return r, NX
		}
		return beside32(r, x > p == (y > 0), rm), NX
	}
	v, flags := binary32.div(uint64(a), uint64(b), rm)
	return uint32(v), flags
}

// Sqrt32 is fsqrt.s.
func Sqrt32(a uint32, rm Rounding) (uint32, Flags) {
	if a-1 < inf32-1 { // a positive number
		x := float64(math.Float32frombits(a))
		f := float32(math.Sqrt(x))
		r := math.Float32bits(f)
		p := float64(float64(f) * float64(f)) // exact
		switch {
		case p == x:
			return r, 0
		case rm == RNE || rm == RMM: // a root is never halfway between two numbers
			return r, NX
		}
		return beside32(r, x > p, rm), NX
	}
	v, flags := binary32.sqrt(uint64(a), rm)
	return uint32(v), flags
}

// FMA32 is fmadd.s: a×b + c, rounded once. fmsub, fnmsub and fnmadd are the same with the
// signs of c, of a, or of both turned.
func FMA32(a, b, c uint32, rm Rounding) (uint32, Flags) {
	z := float64(math.Float32frombits(c))
	p := float64(float64(math.Float32frombits(a)) * float64(math.Float32frombits(b))) // exact
	s := p + z
	// The sum need not be exact. Rounded to odd instead of to nearest, it remembers on which
	// side of every binary32 number, and of every middle between two, the exact sum lies.
	v := s - p
	e := (p - (s - v)) + (z - v) // 2Sum
	if wide := math.Float64bits(s); e != 0 && wide&1 == 0 {
		if (e > 0) == (s > 0) {
			s = math.Float64frombits(wide + 1)
		} else {
			s = math.Float64frombits(wide - 1)
		}
	}
	f := float32(s)
	r := math.Float32bits(f)
	if r<<1-safeLow32 < safeSpan32 {
		n := float64(f)
		switch {
		case n == s:
			return r, 0
		case rm == RNE:
			return r, NX
		case rm != RMM:
			return beside32(r, s > n, rm), NX
		}
	}
	w, flags := binary32.fma(uint64(a), uint64(b), uint64(c), rm)
	return uint32(w), flags
}

// beside32 is beside64 for binary32.
func beside32(r uint32, above bool, rm Rounding) uint32 {
	neg := r>>31 != 0
	switch {
	case rm == RUP && above, rm == RDN && !above:
		if above == neg {
			return r - 1
		}
		return r + 1
	case rm == RTZ && above == neg:
		return r - 1
	}
	return r
}
