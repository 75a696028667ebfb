package fp

import (
	"fmt"
	"math"
	"math/big"
	"testing"
)

// The references here need no tools: exact arithmetic by math/big, rounded by the words of
// IEEE 754 with nothing in common with core.go. Results that are not rounded (infinities,
// NaNs, zeros) come from the host's arithmetic on operands that have no NaN among them.

// dyadic is ±m × 2^e, or, where sticky, something between that and ±(m+1) × 2^e.
type dyadic struct {
	neg    bool
	m      *big.Int
	e      int
	sticky bool
}

// dyadic reads a finite encoding by the definition: a fraction, counted in units of
// the last place.
func (f *format) dyadic(b uint64) dyadic {
	fraction := b & f.fractionMask()
	e := int(b>>(f.precision-1)) & (2*f.bias + 1)
	if e > 0 {
		fraction |= 1 << (f.precision - 1)
	} else {
		e = 1
	}
	return dyadic{neg: b>>(f.width-1) != 0, m: new(big.Int).SetUint64(fraction), e: e - f.bias - int(f.precision) + 1}
}

func (x dyadic) sign() int {
	if x.m.Sign() == 0 && !x.sticky {
		return 0
	}
	if x.neg {
		return -1
	}
	return 1
}

// signed aligns x to exponent e, which is not above its own.
func (x dyadic) signed(e int) *big.Int {
	v := new(big.Int).Lsh(x.m, uint(x.e-e))
	if x.neg {
		v.Neg(v)
	}
	return v
}

func (x dyadic) add(y dyadic) dyadic {
	e := min(x.e, y.e)
	sum := new(big.Int).Add(x.signed(e), y.signed(e))
	return dyadic{neg: sum.Sign() < 0, m: sum.Abs(sum), e: e}
}

func (x dyadic) mul(y dyadic) dyadic {
	return dyadic{neg: x.neg != y.neg, m: new(big.Int).Mul(x.m, y.m), e: x.e + y.e}
}

const spare = 200 // bits of a quotient or a root

func (x dyadic) div(y dyadic) dyadic {
	q, rem := new(big.Int).QuoRem(new(big.Int).Lsh(x.m, spare), y.m, new(big.Int))
	return dyadic{neg: x.neg != y.neg, m: q, e: x.e - y.e - spare, sticky: rem.Sign() != 0}
}

func (x dyadic) sqrt() dyadic {
	shift := spare
	if (x.e-shift)&1 != 0 {
		shift++
	}
	m := new(big.Int).Lsh(x.m, uint(shift))
	root := new(big.Int).Sqrt(m)
	return dyadic{m: root, e: (x.e - shift) / 2, sticky: new(big.Int).Mul(root, root).Cmp(m) != 0}
}

// quantize rounds x's magnitude to a multiple of 2^q and gives it in these units.
func (x dyadic) quantize(q int, rm Rounding) (n *big.Int, inexact bool) {
	if x.e >= q {
		if x.sticky {
			panic("too few bits")
		}
		return new(big.Int).Lsh(x.m, uint(x.e-q)), false
	}
	unit := new(big.Int).Lsh(big.NewInt(1), uint(q-x.e))
	n, rem := new(big.Int).QuoRem(x.m, unit, new(big.Int))
	inexact = rem.Sign() != 0 || x.sticky
	toHalf := rem.Lsh(rem, 1).Cmp(unit)
	if toHalf == 0 && x.sticky {
		toHalf = 1
	}
	var up bool
	switch rm {
	case RNE:
		up = toHalf > 0 || toHalf == 0 && n.Bit(0) == 1
	case RMM:
		up = toHalf >= 0
	case RDN:
		up = inexact && x.neg
	case RUP:
		up = inexact && !x.neg
	}
	if up {
		n.Add(n, big.NewInt(1))
	}
	return n, inexact
}

// round rounds x, which is not zero, to f.
func (f *format) round(x dyadic, rm Rounding) (uint64, Flags) {
	p, smallest := int(f.precision), 1-f.bias
	log := x.m.BitLen() - 1 + x.e
	q := max(log, smallest) - p + 1
	n, inexact := x.quantize(q, rm)
	sign := f.signBit(x.neg)
	if n.BitLen()+q > f.bias+1 {
		largest := rm == RTZ || rm == RUP && x.neg || rm == RDN && !x.neg
		if largest {
			return sign | f.infinity() - 1, OF | NX
		}
		return sign | f.infinity(), OF | NX
	}
	var flags Flags
	if inexact {
		flags = NX
		// Tiny after rounding: what it would be if the exponent had no bound.
		free, _ := x.quantize(log-p+1, rm)
		if free.BitLen()+log-p+1 <= smallest {
			flags |= UF
		}
	}
	if n.BitLen() < p { // subnormal
		return sign | n.Uint64(), flags
	}
	if n.BitLen() > p {
		n.Rsh(n, 1)
		q++
	}
	return sign | uint64(q+p-1+f.bias)<<(p-1) | n.Uint64()&f.fractionMask(), flags
}

// host is an encoding of f as the host's number, which is exact.
func (f *format) host(b uint64) float64 {
	if f == &binary32 {
		return float64(math.Float32frombits(uint32(b)))
	}
	return math.Float64frombits(b)
}

// special turns a result that is not rounded, NaN, infinity or zero, into f's encoding.
func (f *format) special(x float64) (uint64, Flags) {
	switch {
	case x != x:
		return f.nan(), NV
	case math.IsInf(x, 0):
		return f.infinity() | f.signBit(x < 0), 0
	case x == 0:
		return f.signBit(math.Signbit(x)), 0
	}
	panic(fmt.Sprintf("%g is not special", x))
}

// specialSum is special for sums: only zeros know about the rounding mode.
func (f *format) specialSum(x, y float64, rm Rounding) (uint64, Flags) {
	if x+y == 0 && rm == RDN && (math.Signbit(x) || math.Signbit(y) || x != 0) {
		return f.signBit(true), 0
	}
	return f.special(x + y)
}

func (f *format) ordinary(b uint64) bool { return b&f.infinity() != f.infinity() }
func (f *format) isNaN(b uint64) bool    { return f.host(b) != f.host(b) }
func (f *format) isSignalling(b uint64) bool {
	return f.isNaN(b) && b&f.quietBit() == 0
}

// arithmetic is what an operation with operands and result of format f must give.
func (f *format) arithmetic(name string, a, b, c uint64, rm Rounding) (uint64, Flags) {
	x, y, z := f.host(a), f.host(b), f.host(c)
	switch name {
	case "fsqrt":
		b, c = 0, 0
	case "fmadd":
	default:
		c = 0
	}
	if f.isNaN(a) || f.isNaN(b) || f.isNaN(c) {
		var flags Flags
		if f.isSignalling(a) || f.isSignalling(b) || f.isSignalling(c) ||
			name == "fmadd" && (math.IsInf(x, 0) && y == 0 || x == 0 && math.IsInf(y, 0)) {
			flags = NV
		}
		return f.nan(), flags
	}
	if name == "fsub" {
		name, y, b = "fadd", -y, b^f.signBit(true)
	}
	all := f.ordinary(a) && f.ordinary(b) && f.ordinary(c)
	l, m, n := f.dyadic(a), f.dyadic(b), f.dyadic(c)
	switch name {
	case "fadd":
		if sum := l.add(m); all && sum.sign() != 0 {
			return f.round(sum, rm)
		}
		return f.specialSum(x, y, rm)
	case "fmul":
		if all && x != 0 && y != 0 {
			return f.round(l.mul(m), rm)
		}
		return f.special(x * y)
	case "fdiv":
		if all && x != 0 && y != 0 {
			return f.round(l.div(m), rm)
		}
		r, flags := f.special(x / y)
		if y == 0 && x != 0 && f.ordinary(a) {
			flags = DZ
		}
		return r, flags
	case "fsqrt":
		if all && x > 0 {
			return f.round(l.sqrt(), rm)
		}
		return f.special(math.Sqrt(x))
	case "fmadd":
		if sum := l.mul(m).add(n); all && sum.sign() != 0 {
			return f.round(sum, rm)
		}
		if all && x != 0 && y != 0 { // cancelled; the product may overflow the host's
			return f.exactZero(rm), 0
		}
		if f.ordinary(a) && f.ordinary(b) && !f.ordinary(c) {
			return f.special(z)
		}
		return f.specialSum(x*y, z, rm)
	}
	panic(name)
}

// toInteger is what a conversion to an integer between lowest and highest must give.
func (f *format) toInteger(a uint64, rm Rounding, lowest, highest *big.Int) (*big.Int, Flags) {
	if x := f.host(a); x != x || math.IsInf(x, 1) {
		return highest, NV
	} else if math.IsInf(x, -1) {
		return lowest, NV
	}
	x := f.dyadic(a)
	n, inexact := x.quantize(0, rm)
	if x.neg {
		n.Neg(n)
	}
	switch {
	case n.Cmp(lowest) < 0:
		return lowest, NV
	case n.Cmp(highest) > 0:
		return highest, NV
	case inexact:
		return n, NX
	}
	return n, 0
}

var limits = map[operand][2]*big.Int{
	i32: {big.NewInt(math.MinInt32), big.NewInt(math.MaxInt32)},
	u32: {big.NewInt(0), big.NewInt(math.MaxUint32)},
	i64: {big.NewInt(math.MinInt64), big.NewInt(math.MaxInt64)},
	u64: {big.NewInt(0), new(big.Int).SetUint64(math.MaxUint64)},
}

// integerBits is an integer as the operations give and take it: sign-extended if it is signed.
func integerBits(n *big.Int) uint64 {
	if n.Sign() < 0 {
		return uint64(n.Int64())
	}
	return n.Uint64()
}

// exactly is what op must give. ok is false where another test has the reference.
func (op *operation) exactly(a, b, c uint64, rm Rounding) (r uint64, flags Flags, ok bool) {
	formats := map[operand]*format{f32: &binary32, f64: &binary64}
	from, to := formats[op.takes], formats[op.gives]
	switch {
	case op.code&^32 <= 5:
		r, flags = from.arithmetic(op.name[:len(op.name)-2], a, b, c, rm)
	case from != nil && to != nil && op.arity == 1: // between the formats
		switch x := from.host(a); {
		case from.isNaN(a):
			r = to.nan()
			if from.isSignalling(a) {
				flags = NV
			}
		case x == 0 || math.IsInf(x, 0):
			r, flags = to.special(x)
		default:
			r, flags = to.round(from.dyadic(a), rm)
		}
	case from != nil && op.code&^32 >= 15:
		var n *big.Int
		n, flags = from.toInteger(a, rm, limits[op.gives][0], limits[op.gives][1])
		r = integerBits(n)
	case from == nil:
		n := new(big.Int).SetUint64(a)
		if op.takes == i32 || op.takes == i64 {
			n.SetInt64(int64(a))
		}
		if n.Sign() != 0 {
			x := dyadic{neg: n.Sign() < 0}
			x.m = n.Abs(n)
			r, flags = to.round(x, rm)
		}
	default:
		return 0, 0, false
	}
	return r, flags, true
}

// TestArithmeticIsExact compares every operation that rounds with exact arithmetic.
func TestArithmeticIsExact(t *testing.T) {
	for i := range operations {
		op := &operations[i]
		if _, _, ok := op.exactly(0, 0, 0, RNE); !ok {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			r := newRand(t)
			check := func(a, b, c uint64, rm Rounding) {
				got, gotF := op.do(a, b, c, rm)
				if want, wantF, _ := op.exactly(a, b, c, rm); got != want || gotF != wantF {
					op.differ(t, "exact arithmetic", a, b, c, rm, got, gotF, want, wantF)
					t.FailNow()
				}
			}
			thin := map[int]int{1: 8, 2: 8, 3: 512}[op.arity]
			op.systematic(func(a, b, c uint64) {
				if *fullFlag || r.IntN(thin) == 0 {
					check(a, b, c, pick(r, modes))
				}
			})
			for range *casesFlag {
				a, b, c := op.operands(r)
				for _, rm := range modes {
					check(a, b, c, rm)
				}
			}
		})
	}
}
