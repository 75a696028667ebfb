package fp

import "math/bits"

// The reference way through every operation: operands are taken apart into sign, exponent
// and a 64-bit significand, the result is computed exactly or with a sticky lowest bit, and
// is rounded once, in pack. It serves both formats, and no step of it knows about speed.
//
// A significand has its leading one at bit 63, so 11 bits (binary64) or 40 (binary32) lie
// below what a result keeps: enough for a guard bit and a sticky one in each operation.

// format is one of the two interchange formats (IEEE 754-2019, 3.4).
type format struct {
	precision uint // bits of the significand, the hidden one included
	width     uint // bits of the encoding
	bias      int
}

var (
	binary32 = format{precision: 24, width: 32, bias: 127}
	binary64 = format{precision: 53, width: 64, bias: 1023}
)

func (f *format) fractionMask() uint64 { return 1<<(f.precision-1) - 1 }
func (f *format) infinity() uint64     { return uint64(2*f.bias+1) << (f.precision - 1) }
func (f *format) quietBit() uint64     { return 1 << (f.precision - 2) }
func (f *format) nan() uint64          { return f.infinity() | f.quietBit() }
func (f *format) signBit(neg bool) uint64 {
	if neg {
		return 1 << (f.width - 1)
	}
	return 0
}

// kind tells how a number's other fields are to be read.
type kind uint8

const (
	zero   kind = iota
	finite      // value is sig/2^63 × 2^exp
	infinite
	quiet
	signalling
)

// number is an operand taken apart. Subnormals are normalized.
type number struct {
	kind kind
	neg  bool
	exp  int
	sig  uint64
}

func (n number) isNaN() bool { return n.kind >= quiet }

func (f *format) unpack(b uint64) number {
	fraction := b & f.fractionMask()
	biased := int(b>>(f.precision-1)) & (2*f.bias + 1)
	n := number{neg: b>>(f.width-1)&1 != 0}
	switch {
	case biased == 2*f.bias+1 && fraction == 0:
		n.kind = infinite
	case biased == 2*f.bias+1 && fraction&f.quietBit() != 0:
		n.kind = quiet
	case biased == 2*f.bias+1:
		n.kind = signalling
	case biased == 0 && fraction == 0:
		n.kind = zero
	case biased == 0:
		shift := uint(bits.LeadingZeros64(fraction))
		n.kind = finite
		n.sig = fraction << shift
		// The lowest bit of the encoding weighs 2^(2-bias-precision).
		n.exp = 63 - int(shift) + 2 - f.bias - int(f.precision)
	default:
		n.kind = finite
		n.sig = (fraction | 1<<(f.precision-1)) << (64 - f.precision)
		n.exp = biased - f.bias
	}
	return n
}

// invalid is the answer to NaN operands: canonical, NV if one of them is signalling.
func (f *format) invalid(ns ...number) (uint64, Flags) {
	for _, n := range ns {
		if n.kind == signalling {
			return f.nan(), NV
		}
	}
	return f.nan(), 0
}

// exactZero is the zero that a sum of opposite numbers is (IEEE 754-2019, 6.3).
func (f *format) exactZero(rm Rounding) uint64 { return f.signBit(rm == RDN) }

// roundsAway says whether a magnitude of integer part q and remainder rem, where half is
// the remainder's middle, is rounded to q+1.
func roundsAway(rm Rounding, neg bool, q, rem, half uint64) bool {
	switch rm {
	case RTZ:
		return false
	case RDN:
		return neg && rem != 0
	case RUP:
		return !neg && rem != 0
	case RMM:
		return rem >= half
	default:
		return rem > half || rem == half && q&1 != 0
	}
}

// pack rounds ±sig/2^63 × 2^exp to the format. Bit 63 of sig is set; its lowest bit also
// stands for anything non-zero below it.
func (f *format) pack(neg bool, exp int, sig uint64, rm Rounding) (uint64, Flags) {
	below := 64 - f.precision
	half, mask := uint64(1)<<(below-1), uint64(1)<<below-1
	biased := exp + f.bias
	tiny := false
	if biased < 1 {
		// After rounding means: as if the exponent had no lower bound. Only a result just
		// under the smallest normal number can round up to it and so not be tiny.
		carries := biased == 0 && sig>>below == 1<<f.precision-1 &&
			roundsAway(rm, neg, sig>>below, sig&mask, half)
		tiny = !carries
		sig = shiftRightSticky(sig, uint(1-biased))
		biased = 1
	}
	q, rem := sig>>below, sig&mask
	if roundsAway(rm, neg, q, rem, half) {
		q++
	}
	var flags Flags
	if rem != 0 {
		flags = NX
		if tiny {
			flags |= UF
		}
	}
	// The hidden bit of q, or a carry out of it, adds itself to the exponent field; a
	// subnormal result has no hidden bit and so gets the field 0.
	magnitude := uint64(biased-1)<<(f.precision-1) + q
	if biased > 2*f.bias || magnitude >= f.infinity() {
		flags = OF | NX
		magnitude = f.infinity()
		if rm == RTZ || rm == RDN && !neg || rm == RUP && neg {
			magnitude-- // the largest finite number
		}
	}
	return magnitude | f.signBit(neg), flags
}

// shiftRightSticky shifts right; what falls out stays visible in the lowest bit.
func shiftRightSticky(x uint64, n uint) uint64 {
	if n >= 64 {
		if x != 0 {
			return 1
		}
		return 0
	}
	r := x >> n
	if r<<n != x {
		r |= 1
	}
	return r
}

func (f *format) add(a, b uint64, rm Rounding) (uint64, Flags) {
	x, y := f.unpack(a), f.unpack(b)
	switch {
	case x.isNaN() || y.isNaN():
		return f.invalid(x, y)
	case x.kind == infinite && y.kind == infinite && x.neg != y.neg:
		return f.nan(), NV
	case x.kind == infinite:
		return a, 0
	case y.kind == infinite:
		return b, 0
	case x.kind == zero && y.kind == zero:
		if x.neg == y.neg {
			return a, 0
		}
		return f.exactZero(rm), 0
	case x.kind == zero:
		return b, 0
	case y.kind == zero:
		return a, 0
	}
	return f.addWide(x.neg, x.exp, x.sig, 0, y.neg, y.exp, y.sig, 0, rm)
}

// addWide adds two finite numbers with significands of 128 bits, leading one at bit 127 and
// at most 107 bits long, and rounds once. One bit of headroom takes the carry. If the
// shift loses bits it is longer than the 20 free bits, so at most one bit cancels and the
// sticky bit stays below everything that counts.
func (f *format) addWide(xneg bool, xexp int, xhi, xlo uint64, yneg bool, yexp int, yhi, ylo uint64, rm Rounding) (uint64, Flags) {
	if xexp < yexp || xexp == yexp && (xhi < yhi || xhi == yhi && xlo < ylo) {
		xneg, xexp, xhi, xlo, yneg, yexp, yhi, ylo = yneg, yexp, yhi, ylo, xneg, xexp, xhi, xlo
	}
	xhi, xlo = xhi>>1, xhi<<63|xlo>>1
	yhi, ylo = shiftRightSticky128(yhi, ylo, uint(xexp-yexp)+1)
	var hi, lo, carry uint64
	if xneg == yneg {
		lo, carry = bits.Add64(xlo, ylo, 0)
		hi, _ = bits.Add64(xhi, yhi, carry)
	} else {
		lo, carry = bits.Sub64(xlo, ylo, 0)
		hi, _ = bits.Sub64(xhi, yhi, carry)
		if hi|lo == 0 {
			return f.exactZero(rm), 0
		}
	}
	exp := xexp + 1 // of bit 127
	if hi == 0 {
		hi, lo = lo, 0
		exp -= 64
	}
	shift := uint(bits.LeadingZeros64(hi))
	hi, lo = hi<<shift|lo>>(64-shift), lo<<shift
	if lo != 0 {
		hi |= 1
	}
	return f.pack(xneg, exp-int(shift), hi, rm)
}

func shiftRightSticky128(hi, lo uint64, n uint) (uint64, uint64) {
	switch {
	case n == 0:
		return hi, lo
	case n < 64:
		out := lo << (64 - n)
		lo = hi<<(64-n) | lo>>n
		if out != 0 {
			lo |= 1
		}
		return hi >> n, lo
	default:
		low := shiftRightSticky(hi, n-64)
		if lo != 0 {
			low |= 1
		}
		return 0, low
	}
}

func (f *format) mul(a, b uint64, rm Rounding) (uint64, Flags) {
	x, y := f.unpack(a), f.unpack(b)
	neg := x.neg != y.neg
	switch {
	case x.isNaN() || y.isNaN():
		return f.invalid(x, y)
	case x.kind == infinite && y.kind == zero || x.kind == zero && y.kind == infinite:
		return f.nan(), NV
	case x.kind == infinite || y.kind == infinite:
		return f.infinity() | f.signBit(neg), 0
	case x.kind == zero || y.kind == zero:
		return f.signBit(neg), 0
	}
	exp, hi, lo := product(x, y)
	if lo != 0 {
		hi |= 1
	}
	return f.pack(neg, exp, hi, rm)
}

// product multiplies two finite magnitudes exactly; the leading one is at bit 127.
func product(x, y number) (exp int, hi, lo uint64) {
	hi, lo = bits.Mul64(x.sig, y.sig)
	if hi>>63 != 0 {
		return x.exp + y.exp + 1, hi, lo
	}
	return x.exp + y.exp, hi<<1 | lo>>63, lo << 1
}

func (f *format) fma(a, b, c uint64, rm Rounding) (uint64, Flags) {
	x, y, z := f.unpack(a), f.unpack(b), f.unpack(c)
	neg := x.neg != y.neg
	switch {
	case x.kind == infinite && y.kind == zero || x.kind == zero && y.kind == infinite:
		// Raised even when c is a quiet NaN (F, "Single-Precision Floating-Point
		// Computational Instructions"; IEEE 754-2019, 7.2, leaves it open).
		return f.nan(), NV
	case x.isNaN() || y.isNaN() || z.isNaN():
		return f.invalid(x, y, z)
	case x.kind == infinite || y.kind == infinite:
		if z.kind == infinite && z.neg != neg {
			return f.nan(), NV
		}
		return f.infinity() | f.signBit(neg), 0
	case z.kind == infinite:
		return c, 0
	case x.kind == zero || y.kind == zero:
		if z.kind == zero && z.neg != neg {
			return f.exactZero(rm), 0
		}
		return c, 0
	}
	exp, hi, lo := product(x, y)
	if z.kind == zero {
		if lo != 0 {
			hi |= 1
		}
		return f.pack(neg, exp, hi, rm)
	}
	return f.addWide(neg, exp, hi, lo, z.neg, z.exp, z.sig, 0, rm)
}

func (f *format) div(a, b uint64, rm Rounding) (uint64, Flags) {
	x, y := f.unpack(a), f.unpack(b)
	neg := x.neg != y.neg
	switch {
	case x.isNaN() || y.isNaN():
		return f.invalid(x, y)
	case x.kind == infinite && y.kind == infinite || x.kind == zero && y.kind == zero:
		return f.nan(), NV
	case x.kind == infinite:
		return f.infinity() | f.signBit(neg), 0
	case x.kind == zero || y.kind == infinite:
		return f.signBit(neg), 0
	case y.kind == zero:
		return f.infinity() | f.signBit(neg), DZ
	}
	exp, hi, lo := x.exp-y.exp-1, x.sig, uint64(0)
	if x.sig >= y.sig {
		exp, hi, lo = exp+1, x.sig>>1, x.sig<<63
	}
	q, rem := bits.Div64(hi, lo, y.sig)
	if rem != 0 {
		q |= 1
	}
	return f.pack(neg, exp, q, rm)
}

func (f *format) sqrt(a uint64, rm Rounding) (uint64, Flags) {
	x := f.unpack(a)
	switch {
	case x.isNaN():
		return f.invalid(x)
	case x.kind == zero:
		return a, 0
	case x.neg:
		return f.nan(), NV
	case x.kind == infinite:
		return a, 0
	}
	// The radicand as an integer of 127 or 128 bits, so that its root has exactly 64.
	hi, lo := x.sig>>1, x.sig<<63
	if x.exp&1 != 0 {
		hi, lo = x.sig, 0
	}
	root, exact := sqrt128(hi, lo)
	if !exact {
		root |= 1
	}
	return f.pack(false, x.exp>>1, root, rm)
}

// sqrt128 is the integer part of the root of hi:lo, digit by digit, two bits of the
// radicand for one of the root. The remainder never exceeds twice the root: 66 bits.
func sqrt128(hi, lo uint64) (root uint64, exact bool) {
	var remHi, remLo uint64
	for range 64 {
		remHi, remLo = remHi<<2|remLo>>62, remLo<<2|hi>>62
		hi, lo = hi<<2|lo>>62, lo<<2
		tryHi, tryLo := root>>62, root<<2|1
		root <<= 1
		if remHi > tryHi || remHi == tryHi && remLo >= tryLo {
			var borrow uint64
			remLo, borrow = bits.Sub64(remLo, tryLo, 0)
			remHi, _ = bits.Sub64(remHi, tryHi, borrow)
			root |= 1
		}
	}
	return root, remHi|remLo == 0
}
