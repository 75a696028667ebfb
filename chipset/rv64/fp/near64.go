package fp

import "math"

// The fast way through binary64. The host computes the result to nearest even and then,
// without error, how far the exact result lies from it: a zero says that there is no NX, a
// sign says which neighbour a directed mode wants. The formulas are the classical ones
// (Muller et al., Handbook of Floating-Point Arithmetic, chapters 4 and 5; for the fused
// multiply-add Boldo and Muller, "Exact and Approximated Error of the FMA", 2011). They
// hold while nothing in them overflows or underflows, which is what the ranges below are
// for. What is outside (most zeros, subnormals, infinities, NaNs, huge numbers), and what
// RMM may see as a tie, goes the way of core.go.
//
// float64(x*y) keeps compilers from fusing the product into a following sum, which Go's
// specification allows them otherwise.

// Ranges of magnitudes: an encoding shifted left by one, so that its sign is gone, lies in
// a range if it is less than span above low.
const (
	// Results whose neighbours are finite, normal and not on the border to tiny.
	safeLow64  = 2 << 53
	safeSpan64 = (0x7fe - 2) << 53
	// Values of which the product, the square, or the remainder of a quotient has an error
	// that is representable: a multiple of 2^(e-107) is one of 2^-1074.
	errorLow64  = 128 << 53
	errorSpan64 = (0x7fe - 128) << 53
	// Terms of a fused multiply-add, and its result, that stay finite in all its sums.
	termLimit64 = 0x7f0 << 53
)

// Add64 is fadd.d.
func Add64(a, b uint64, rm Rounding) (uint64, Flags) {
	x, y := math.Float64frombits(a), math.Float64frombits(b)
	s := x + y
	r := math.Float64bits(s)
	// A tiny sum is exact, and an exact zero has the host's sign in all modes but RDN.
	if r<<1 < 0x7fe<<53 && (r<<1 != 0 || rm != RDN) {
		v := s - x
		e := (x - (s - v)) + (y - v) // 2Sum
		switch {
		case e == 0:
			return r, 0
		case rm == RNE:
			return r, NX
		case rm != RMM:
			return beside64(r, e > 0, rm), NX
		}
	}
	return binary64.add(a, b, rm)
}

// Sub64 is fsub.d.
func Sub64(a, b uint64, rm Rounding) (uint64, Flags) { return Add64(a, b^sign64, rm) }

// Mul64 is fmul.d.
func Mul64(a, b uint64, rm Rounding) (uint64, Flags) {
	x, y := math.Float64frombits(a), math.Float64frombits(b)
	p := x * y
	r := math.Float64bits(p)
	if r<<1-errorLow64 < errorSpan64 {
		e := math.FMA(x, y, -p)
		switch {
		case e == 0:
			return r, 0
		case rm == RNE:
			return r, NX
		case rm != RMM:
			return beside64(r, e > 0, rm), NX
		}
	} else if r<<1 == 0 && (x == 0 || y == 0) {
		return r, 0
	}
	return binary64.mul(a, b, rm)
}

// Div64 is fdiv.d.
func Div64(a, b uint64, rm Rounding) (uint64, Flags) {
	x, y := math.Float64frombits(a), math.Float64frombits(b)
	q := x / y
	r := math.Float64bits(q)
	if r<<1-safeLow64 < safeSpan64 && a<<1 >= errorLow64 {
		e := math.FMA(-q, y, x) // of the sign of the error times y's
		switch {
		case e == 0:
			return r, 0
		case rm == RNE || rm == RMM: // a quotient is never halfway between two normal numbers
			return r, NX
		}
		return beside64(r, e > 0 == (y > 0), rm), NX
	}
	return binary64.div(a, b, rm)
}

// Sqrt64 is fsqrt.d.
func Sqrt64(a uint64, rm Rounding) (uint64, Flags) {
	if a-errorLow64>>1 < errorSpan64>>1 {
		x := math.Float64frombits(a)
		s := math.Sqrt(x)
		r := math.Float64bits(s)
		e := math.FMA(-s, s, x)
		switch {
		case e == 0:
			return r, 0
		case rm == RNE || rm == RMM: // a root is never halfway between two numbers
			return r, NX
		}
		return beside64(r, e > 0, rm), NX
	}
	return binary64.sqrt(a, rm)
}

// FMA64 is fmadd.d: a×b + c, rounded once. fmsub, fnmsub and fnmadd are the same with the
// signs of c, of a, or of both turned.
func FMA64(a, b, c uint64, rm Rounding) (uint64, Flags) {
	x, y, z := math.Float64frombits(a), math.Float64frombits(b), math.Float64frombits(c)
	f := math.FMA(x, y, z)
	r := math.Float64bits(f)
	u := float64(x * y)
	// As the product's last place is representable, a tiny result is exact.
	if math.Float64bits(u)<<1-errorLow64 < termLimit64-errorLow64 &&
		c<<1 < termLimit64 && r<<1 < termLimit64 && (r<<1 != 0 || rm != RDN) {
		v := math.FMA(x, y, -u) // x×y = u + v
		s := z + v
		t := s - z
		low := (z - (s - t)) + (v - t) // z + v = s + low
		h := u + s
		t = h - u
		rest := (u - (h - t)) + (s - t) // u + s = h + rest
		e := ((h - f) + rest) + low
		switch {
		case e == 0:
			return r, 0
		case rm == RNE:
			return r, NX
		case rm != RMM:
			return beside64(r, e > 0, rm), NX
		}
	} else if u == 0 && (x == 0 || y == 0) && c<<1-1 < inf64<<1-1 {
		return c, 0 // a true zero was added to a number
	}
	return binary64.fma(a, b, c, rm)
}

// beside64 is what a directed mode makes of an inexact result: r, which is the nearest, or
// its neighbour on the other side of the exact result, which is above r or below it.
func beside64(r uint64, above bool, rm Rounding) uint64 {
	neg := r>>63 != 0
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
