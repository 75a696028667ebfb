package fp

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// The operands are chosen as Berkeley TestFloat chooses them: exponents around everything
// that an operation may trip over, combined with significands of a few bits, of long runs
// of ones, and with holes; and the same with random bits added. Level 1 combines few
// significands, level 2 many.

var (
	seedFlag  = flag.Uint64("fp.seed", 0, "seed of the random operands; 0 takes the time")
	casesFlag = flag.Int("fp.cases", 2000, "random cases for each operation and rounding mode")
	fullFlag  = flag.Bool("fp.full", false, "all pairs of TestFloat's level 2, all triples of its level 1 (minutes)")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *seedFlag == 0 {
		*seedFlag = uint64(time.Now().UnixNano())
	}
	code := m.Run()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "operands are reproduced by -fp.seed %d\n", *seedFlag)
	}
	os.Exit(code)
}

func newRand(t testing.TB) *rand.Rand {
	var salt uint64
	for _, c := range t.Name() {
		salt = salt*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(*seedFlag, salt))
}

var modes = []Rounding{RNE, RTZ, RDN, RUP, RMM}

// operand says what an operation takes or gives.
type operand uint8

const (
	none operand = iota
	f32
	f64
	i32
	u32
	i64
	u64
)

// operation is one of the package's functions, on operands widened to 64 bits.
type operation struct {
	name  string
	code  uint32 // names it to the oracles, see testdata
	takes operand
	arity int
	gives operand
	do    func(a, b, c uint64, rm Rounding) (uint64, Flags)
	ref   func(a, b, c uint64, rm Rounding) (uint64, Flags) // by integers, where do has a fast way
}

func truth(b bool, flags Flags) (uint64, Flags) {
	if b {
		return 1, flags
	}
	return 0, flags
}

func wide[T int32 | uint32 | int64 | uint64](v T, flags Flags) (uint64, Flags) {
	return uint64(v), flags
}

var operations = []operation{
	{"fadd.d", 0, f64, 2, f64,
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return Add64(a, b, rm) },
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return binary64.add(a, b, rm) }},
	{"fsub.d", 1, f64, 2, f64,
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return Sub64(a, b, rm) },
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return binary64.add(a, b^sign64, rm) }},
	{"fmul.d", 2, f64, 2, f64,
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return Mul64(a, b, rm) },
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return binary64.mul(a, b, rm) }},
	{"fdiv.d", 3, f64, 2, f64,
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return Div64(a, b, rm) },
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return binary64.div(a, b, rm) }},
	{"fsqrt.d", 4, f64, 1, f64,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return Sqrt64(a, rm) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary64.sqrt(a, rm) }},
	{"fmadd.d", 5, f64, 3, f64,
		func(a, b, c uint64, rm Rounding) (uint64, Flags) { return FMA64(a, b, c, rm) },
		func(a, b, c uint64, rm Rounding) (uint64, Flags) { return binary64.fma(a, b, c, rm) }},
	{"fmsub.d", 6, f64, 3, f64,
		func(a, b, c uint64, rm Rounding) (uint64, Flags) { return FMA64(a, b, c^sign64, rm) }, nil},
	{"fnmsub.d", 7, f64, 3, f64,
		func(a, b, c uint64, rm Rounding) (uint64, Flags) { return FMA64(a^sign64, b, c, rm) }, nil},
	{"fnmadd.d", 8, f64, 3, f64,
		func(a, b, c uint64, rm Rounding) (uint64, Flags) { return FMA64(a^sign64, b, c^sign64, rm) }, nil},
	{"feq.d", 9, f64, 2, u64,
		func(a, b, _ uint64, _ Rounding) (uint64, Flags) { return truth(Eq64(a, b)) }, nil},
	{"flt.d", 10, f64, 2, u64,
		func(a, b, _ uint64, _ Rounding) (uint64, Flags) { return truth(Lt64(a, b)) }, nil},
	{"fle.d", 11, f64, 2, u64,
		func(a, b, _ uint64, _ Rounding) (uint64, Flags) { return truth(Le64(a, b)) }, nil},
	{"fmin.d", 12, f64, 2, f64,
		func(a, b, _ uint64, _ Rounding) (uint64, Flags) { return Min64(a, b) }, nil},
	{"fmax.d", 13, f64, 2, f64,
		func(a, b, _ uint64, _ Rounding) (uint64, Flags) { return Max64(a, b) }, nil},
	{"fclass.d", 14, f64, 1, u64,
		func(a, _, _ uint64, _ Rounding) (uint64, Flags) { return Class64(a), 0 }, nil},
	{"fcvt.w.d", 15, f64, 1, i32,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(F64toI32(a, rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(binary64.toSigned(a, rm, 1<<31-1)) }},
	{"fcvt.wu.d", 16, f64, 1, u32,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(F64toU32(a, rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary64.toUnsigned(a, rm, 1<<32-1) }},
	{"fcvt.l.d", 17, f64, 1, i64,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(F64toI64(a, rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(binary64.toSigned(a, rm, 1<<63-1)) }},
	{"fcvt.lu.d", 18, f64, 1, u64,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return F64toU64(a, rm) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary64.toUnsigned(a, rm, 1<<64-1) }},
	{"fcvt.d.w", 19, i32, 1, f64,
		func(a, _, _ uint64, _ Rounding) (uint64, Flags) { return I32toF64(int32(a)), 0 }, nil},
	{"fcvt.d.wu", 20, u32, 1, f64,
		func(a, _, _ uint64, _ Rounding) (uint64, Flags) { return U32toF64(uint32(a)), 0 }, nil},
	{"fcvt.d.l", 21, i64, 1, f64,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return I64toF64(int64(a), rm) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary64.fromSigned(int64(a), rm) }},
	{"fcvt.d.lu", 22, u64, 1, f64,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return U64toF64(a, rm) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary64.fromInteger(false, a, rm) }},
	{"fcvt.s.d", 23, f64, 1, f32,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(F64toF32(a, rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return narrow(a, rm) }},
	{"fcvt.d.s", 24, f32, 1, f64,
		func(a, _, _ uint64, _ Rounding) (uint64, Flags) { return F32toF64(uint32(a)) }, nil},

	{"fadd.s", 32, f32, 2, f32,
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return wide(Add32(uint32(a), uint32(b), rm)) },
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return binary32.add(a, b, rm) }},
	{"fsub.s", 33, f32, 2, f32,
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return wide(Sub32(uint32(a), uint32(b), rm)) },
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return binary32.add(a, b^uint64(sign32), rm) }},
	{"fmul.s", 34, f32, 2, f32,
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return wide(Mul32(uint32(a), uint32(b), rm)) },
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return binary32.mul(a, b, rm) }},
	{"fdiv.s", 35, f32, 2, f32,
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return wide(Div32(uint32(a), uint32(b), rm)) },
		func(a, b, _ uint64, rm Rounding) (uint64, Flags) { return binary32.div(a, b, rm) }},
	{"fsqrt.s", 36, f32, 1, f32,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(Sqrt32(uint32(a), rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary32.sqrt(a, rm) }},
	{"fmadd.s", 37, f32, 3, f32,
		func(a, b, c uint64, rm Rounding) (uint64, Flags) {
			return wide(FMA32(uint32(a), uint32(b), uint32(c), rm))
		},
		func(a, b, c uint64, rm Rounding) (uint64, Flags) { return binary32.fma(a, b, c, rm) }},
	{"fmsub.s", 38, f32, 3, f32,
		func(a, b, c uint64, rm Rounding) (uint64, Flags) {
			return wide(FMA32(uint32(a), uint32(b), uint32(c)^sign32, rm))
		}, nil},
	{"fnmsub.s", 39, f32, 3, f32,
		func(a, b, c uint64, rm Rounding) (uint64, Flags) {
			return wide(FMA32(uint32(a)^sign32, uint32(b), uint32(c), rm))
		}, nil},
	{"fnmadd.s", 40, f32, 3, f32,
		func(a, b, c uint64, rm Rounding) (uint64, Flags) {
			return wide(FMA32(uint32(a)^sign32, uint32(b), uint32(c)^sign32, rm))
		}, nil},
	{"feq.s", 41, f32, 2, u64,
		func(a, b, _ uint64, _ Rounding) (uint64, Flags) { return truth(Eq32(uint32(a), uint32(b))) }, nil},
	{"flt.s", 42, f32, 2, u64,
		func(a, b, _ uint64, _ Rounding) (uint64, Flags) { return truth(Lt32(uint32(a), uint32(b))) }, nil},
	{"fle.s", 43, f32, 2, u64,
		func(a, b, _ uint64, _ Rounding) (uint64, Flags) { return truth(Le32(uint32(a), uint32(b))) }, nil},
	{"fmin.s", 44, f32, 2, f32,
		func(a, b, _ uint64, _ Rounding) (uint64, Flags) { return wide(Min32(uint32(a), uint32(b))) }, nil},
	{"fmax.s", 45, f32, 2, f32,
		func(a, b, _ uint64, _ Rounding) (uint64, Flags) { return wide(Max32(uint32(a), uint32(b))) }, nil},
	{"fclass.s", 46, f32, 1, u64,
		func(a, _, _ uint64, _ Rounding) (uint64, Flags) { return Class32(uint32(a)), 0 }, nil},
	{"fcvt.w.s", 47, f32, 1, i32,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(F32toI32(uint32(a), rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(binary32.toSigned(a, rm, 1<<31-1)) }},
	{"fcvt.wu.s", 48, f32, 1, u32,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(F32toU32(uint32(a), rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary32.toUnsigned(a, rm, 1<<32-1) }},
	{"fcvt.l.s", 49, f32, 1, i64,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(F32toI64(uint32(a), rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(binary32.toSigned(a, rm, 1<<63-1)) }},
	{"fcvt.lu.s", 50, f32, 1, u64,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return F32toU64(uint32(a), rm) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary32.toUnsigned(a, rm, 1<<64-1) }},
	{"fcvt.s.w", 51, i32, 1, f32,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(I32toF32(int32(a), rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary32.fromSigned(int64(int32(a)), rm) }},
	{"fcvt.s.wu", 52, u32, 1, f32,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(U32toF32(uint32(a), rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary32.fromInteger(false, a, rm) }},
	{"fcvt.s.l", 53, i64, 1, f32,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(I64toF32(int64(a), rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary32.fromSigned(int64(a), rm) }},
	{"fcvt.s.lu", 54, u64, 1, f32,
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return wide(U64toF32(a, rm)) },
		func(a, _, _ uint64, rm Rounding) (uint64, Flags) { return binary32.fromInteger(false, a, rm) }},
}

// shape holds a format's interesting parts, from which operands are put together.
type shape struct {
	f         *format
	in, out   []uint64 // signs and exponents: for two or three operands, and for one
	few, many []uint64 // fractions: of level 1 and of level 2
}

func shapeOf(f *format) *shape {
	s := &shape{f: f}
	p, top := int(f.precision), 2*f.bias+1
	in := []int{0, 1, f.bias - p, f.bias - 2, f.bias - 1, f.bias, f.bias + 1, f.bias + 2, f.bias + p, top - 1, top}
	out := []int{0, 1, 2, f.bias - p, f.bias + p, top - 2, top - 1, top}
	for e := -4; e <= 4; e++ {
		out = append(out, f.bias+e)
	}
	for _, e := range []int{29, 30, 31, 32, 61, 62, 63, 64} {
		out = append(out, f.bias+e)
	}
	if f == &binary64 { // the ends of binary32
		for _, e := range []int{-151, -150, -149, -129, -128, -127, -126, -125, 126, 127, 128, 129} {
			out = append(out, f.bias+e)
		}
	}
	both := func(exps []int) (q []uint64) {
		for _, e := range exps {
			q = append(q, uint64(e)<<(p-1), uint64(e)<<(p-1)|1<<(f.width-1))
		}
		return q
	}
	s.in, s.out = both(in), both(out)
	ones := f.fractionMask()
	s.few = []uint64{0, 1, ones, ones - 1}
	s.many = []uint64{0, ones}
	for i := range p - 1 {
		bit := uint64(1) << i
		s.many = append(s.many, bit, ones-bit, ones&^(bit-1), bit-1)
	}
	return s
}

var (
	shape32 = shapeOf(&binary32)
	shape64 = shapeOf(&binary64)
)

func combine(exponents, fractions []uint64) (all []uint64) {
	for _, q := range exponents {
		for _, p := range fractions {
			all = append(all, q|p)
		}
	}
	return all
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// random is an operand of TestFloat's random kinds.
func (s *shape) random(r *rand.Rand) uint64 {
	ones := s.f.fractionMask()
	q := pick(r, s.out)
	if r.IntN(2) == 0 { // any exponent, more often near that of one
		q = r.Uint64() & (1<<(s.f.width-1) | s.f.infinity())
		if keep := r.IntN(int(s.f.width-s.f.precision) + 1); keep > 0 {
			e := r.IntN(1<<keep) - 1<<(keep-1)
			e = min(max(s.f.bias+e, 0), 2*s.f.bias+1)
			q = q&(1<<(s.f.width-1)) | uint64(e)<<(s.f.precision-1)
		}
	}
	if r.IntN(4) == 0 {
		return q | r.Uint64()&ones
	}
	return q | (pick(r, s.many)+pick(r, s.many))&ones
}

// triple is three random operands, of which the later ones are often made to collide with
// what comes before: sums that cancel, quotients that are exact, neighbours of both.
func (s *shape) triple(r *rand.Rand) (a, b, c uint64) {
	a, b, c = s.random(r), s.random(r), s.random(r)
	near := func(x uint64) uint64 { return x + uint64(r.IntN(5)) - 2 }
	switch mask := uint64(1)<<(s.f.width-1)<<1 - 1; r.IntN(8) {
	case 0:
		b = near(a^1<<(s.f.width-1)) & mask
	case 1: // b/a, or a cancelling a product
		b, _ = s.f.mul(a, c, RNE)
		a, b = near(b)&mask, a
	case 2, 3, 4:
		c, _ = s.f.mul(a, b, pick(r, modes))
		c = near(c^1<<(s.f.width-1)) & mask
		if r.IntN(2) == 0 { // the same, precision-2 to precision+2 bits away
			shift := uint64(int(s.f.precision)-2+r.IntN(5)) << (s.f.precision - 1)
			c = (c + shift - 2*shift*uint64(r.IntN(2))) & mask
		}
	}
	return a, b, c
}

// border is three operands whose product, or the quotient of the first two, lies where the
// fast ways end: near the smallest normal numbers, the limits of near64.go, and overflow. The
// third is anywhere up to two precisions away from the product, or tiny.
func (s *shape) border(r *rand.Rand) (a, b, c uint64) {
	f, top := s.f, 2*s.f.bias+1
	ends := []int{0, 1, 2, int(f.precision), top - 3, top - 2, top - 1}
	if f == &binary64 {
		ends = append(ends, errorLow64>>53, termLimit64>>53, 2*int(f.precision))
	}
	at := func(e int) uint64 {
		sign := r.Uint64() & (1 << (f.width - 1))
		return sign | uint64(min(max(e, 0), top-1))<<(f.precision-1) | s.random(r)&f.fractionMask()
	}
	target := pick(r, ends) + r.IntN(5) - 2
	x := r.IntN(top)
	y := target - x + f.bias
	if r.IntN(2) == 0 { // for a quotient
		y = x - target + f.bias
	}
	z := target + r.IntN(4*int(f.precision)) - 2*int(f.precision)
	if r.IntN(4) == 0 {
		z = r.IntN(3)
	}
	return at(x), at(y), at(z)
}

// integer is a random integer with few, many or all bits.
func integer(r *rand.Rand, kind operand) uint64 {
	v := pick(r, shape64.many)<<r.IntN(13) + pick(r, shape64.many)
	switch r.IntN(4) {
	case 0:
		v = r.Uint64() >> r.IntN(64)
	case 1:
		v = 1<<r.IntN(64) + uint64(r.IntN(5)) - 2
	}
	if r.IntN(2) == 0 {
		v = -v
	}
	switch kind {
	case i32:
		return uint64(int32(v))
	case u32:
		return uint64(uint32(v))
	}
	return v
}

// operands is one random case for op.
func (op *operation) operands(r *rand.Rand) (a, b, c uint64) {
	s := shape64
	switch op.takes {
	case f32:
		s = shape32
	case f64:
	default:
		return integer(r, op.takes), 0, 0
	}
	if r.IntN(4) == 0 {
		return s.border(r)
	}
	return s.triple(r)
}

// systematic calls f with TestFloat's level 1 for op; one operand gets level 2.
func (op *operation) systematic(f func(a, b, c uint64)) {
	s := shape64
	switch op.takes {
	case f32:
		s = shape32
	case f64:
	default:
		for i := range 64 {
			for j := range 64 {
				for d := range uint64(3) {
					v := uint64(1)<<i + uint64(1)<<j + d - 1
					for _, v := range []uint64{v, -v, v << 1, 1<<i - 1<<j} {
						switch op.takes {
						case i32:
							v = uint64(int32(v))
						case u32:
							v = uint64(uint32(v))
						}
						f(v, 0, 0)
					}
				}
			}
		}
		return
	}
	switch few := combine(s.in, s.few); op.arity {
	case 1:
		for _, a := range combine(s.out, s.many) {
			f(a, 0, 0)
		}
	case 2:
		for _, a := range few {
			for _, b := range few {
				f(a, b, 0)
			}
		}
	case 3:
		for _, a := range few {
			for _, b := range few {
				for _, c := range few {
					f(a, b, c)
				}
			}
		}
	}
}

func (op *operation) String() string { return op.name }

func (op *operation) differ(t *testing.T, who string, a, b, c uint64, rm Rounding, got uint64, gotF Flags, want uint64, wantF Flags) {
	t.Helper()
	t.Errorf("%s %#x %#x %#x, mode %d: %#x flags %05b, %s says %#x flags %05b",
		op, a, b, c, rm, got, gotF, who, want, wantF)
}
