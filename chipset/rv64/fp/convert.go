package fp

import (
	"math"
	"math/bits"
)

// Conversions between the formats and integers. What does not fit an integer saturates and
// raises NV alone, never NX (F, table "Domains of float-to-integer conversions"): a NaN and
// +∞ give the largest integer, -∞ the smallest. Whether it fits is judged after rounding.

// F64toI32 is fcvt.w.d; the hart sign-extends the result.
func F64toI32(a uint64, rm Rounding) (int32, Flags) {
	x := math.Float64frombits(a)
	if r := integral(x, rm); r >= math.MinInt32 && r <= math.MaxInt32 {
		return int32(r), raised(r != x)
	}
	v, flags := binary64.toSigned(a, rm, math.MaxInt32)
	return int32(v), flags
}

// F64toU32 is fcvt.wu.d; the hart sign-extends the result all the same.
func F64toU32(a uint64, rm Rounding) (uint32, Flags) {
	x := math.Float64frombits(a)
	if r := integral(x, rm); r >= 0 && r <= math.MaxUint32 {
		return uint32(int64(r)), raised(r != x)
	}
	v, flags := binary64.toUnsigned(a, rm, math.MaxUint32)
	return uint32(v), flags
}

// F64toI64 is fcvt.l.d.
func F64toI64(a uint64, rm Rounding) (int64, Flags) {
	x := math.Float64frombits(a)
	if r := integral(x, rm); r >= -0x1p63 && r < 0x1p63 {
		return int64(r), raised(r != x)
	}
	return binary64.toSigned(a, rm, math.MaxInt64)
}

// F64toU64 is fcvt.lu.d.
func F64toU64(a uint64, rm Rounding) (uint64, Flags) {
	x := math.Float64frombits(a)
	if r := integral(x, rm); r >= 0 && r < 0x1p63 {
		return uint64(int64(r)), raised(r != x)
	}
	return binary64.toUnsigned(a, rm, math.MaxUint64)
}

// The conversions from binary32 go through binary64, which holds every binary32 number; a
// NaN of either kind becomes the same integer with the same flags.

// F32toI32 is fcvt.w.s.
func F32toI32(a uint32, rm Rounding) (int32, Flags) { return F64toI32(widen(a), rm) }

// F32toU32 is fcvt.wu.s; the hart sign-extends the result all the same.
func F32toU32(a uint32, rm Rounding) (uint32, Flags) { return F64toU32(widen(a), rm) }

// F32toI64 is fcvt.l.s.
func F32toI64(a uint32, rm Rounding) (int64, Flags) { return F64toI64(widen(a), rm) }

// F32toU64 is fcvt.lu.s.
func F32toU64(a uint32, rm Rounding) (uint64, Flags) { return F64toU64(widen(a), rm) }

func widen(a uint32) uint64 { return math.Float64bits(float64(math.Float32frombits(a))) }

func raised(inexact bool) Flags {
	if inexact {
		return NX
	}
	return 0
}

// integral rounds a number to an integer, by functions that are exact by definition.
func integral(x float64, rm Rounding) float64 {
	switch rm {
	case RTZ:
		return math.Trunc(x)
	case RDN:
		return math.Floor(x)
	case RUP:
		return math.Ceil(x)
	case RMM:
		return math.Round(x)
	default:
		return math.RoundToEven(x)
	}
}

func (f *format) toSigned(a uint64, rm Rounding, largest int64) (int64, Flags) {
	n := f.unpack(a)
	if n.isNaN() {
		return largest, NV
	}
	magnitude, inexact, fits := n.integer(rm)
	switch {
	case n.neg && (!fits || magnitude > uint64(largest)+1):
		return -largest - 1, NV
	case !n.neg && (!fits || magnitude > uint64(largest)):
		return largest, NV
	case n.neg:
		return -int64(magnitude), inexact
	}
	return int64(magnitude), inexact
}

func (f *format) toUnsigned(a uint64, rm Rounding, largest uint64) (uint64, Flags) {
	n := f.unpack(a)
	if n.isNaN() {
		return largest, NV
	}
	magnitude, inexact, fits := n.integer(rm)
	switch {
	case n.neg && (!fits || magnitude != 0):
		return 0, NV
	case !fits || magnitude > largest:
		return largest, NV
	}
	return magnitude, inexact
}

// integer rounds n's magnitude to an integer. fits is false where that needs more than 64
// bits. n is no NaN.
func (n number) integer(rm Rounding) (magnitude uint64, inexact Flags, fits bool) {
	switch {
	case n.kind == zero:
		return 0, 0, true
	case n.kind == infinite || n.exp > 63:
		return 0, 0, false
	case n.exp == 63:
		return n.sig, 0, true
	}
	// rem is the fraction in units of 2^-64. Of a number under 1/2 it only matters that it is
	// not zero.
	q, rem := uint64(0), uint64(1)
	switch {
	case n.exp >= 0:
		q, rem = n.sig>>(63-n.exp), n.sig<<(n.exp+1)
	case n.exp == -1:
		rem = n.sig
	}
	if roundsAway(rm, n.neg, q, rem, 1<<63) {
		q++
	}
	if rem != 0 {
		inexact = NX
	}
	return q, inexact, true
}

// I32toF64 is fcvt.d.w: always exact.
func I32toF64(v int32) uint64 { return math.Float64bits(float64(v)) }

// U32toF64 is fcvt.d.wu: always exact.
func U32toF64(v uint32) uint64 { return math.Float64bits(float64(v)) }

// I64toF64 is fcvt.d.l.
func I64toF64(v int64, rm Rounding) (uint64, Flags) {
	if -1<<53 <= v && v <= 1<<53 {
		return math.Float64bits(float64(v)), 0
	}
	return binary64.fromSigned(v, rm)
}

// U64toF64 is fcvt.d.lu.
func U64toF64(v uint64, rm Rounding) (uint64, Flags) {
	if v <= 1<<53 {
		return math.Float64bits(float64(int64(v))), 0
	}
	return binary64.fromInteger(false, v, rm)
}

// I32toF32 is fcvt.s.w.
func I32toF32(v int32, rm Rounding) (uint32, Flags) { return F64toF32(I32toF64(v), rm) }

// U32toF32 is fcvt.s.wu.
func U32toF32(v uint32, rm Rounding) (uint32, Flags) { return F64toF32(U32toF64(v), rm) }

// I64toF32 is fcvt.s.l.
func I64toF32(v int64, rm Rounding) (uint32, Flags) {
	if -1<<53 <= v && v <= 1<<53 {
		return F64toF32(math.Float64bits(float64(v)), rm)
	}
	r, flags := binary32.fromSigned(v, rm)
	return uint32(r), flags
}

// U64toF32 is fcvt.s.lu.
func U64toF32(v uint64, rm Rounding) (uint32, Flags) {
	if v <= 1<<53 {
		return F64toF32(math.Float64bits(float64(int64(v))), rm)
	}
	r, flags := binary32.fromInteger(false, v, rm)
	return uint32(r), flags
}

func (f *format) fromSigned(v int64, rm Rounding) (uint64, Flags) {
	if v < 0 {
		return f.fromInteger(true, -uint64(v), rm)
	}
	return f.fromInteger(false, uint64(v), rm)
}

func (f *format) fromInteger(neg bool, magnitude uint64, rm Rounding) (uint64, Flags) {
	if magnitude == 0 {
		return 0, 0
	}
	shift := bits.LeadingZeros64(magnitude)
	return f.pack(neg, 63-shift, magnitude<<shift, rm)
}

// F32toF64 is fcvt.d.s: exact, but for a signalling NaN.
func F32toF64(a uint32) (uint64, Flags) {
	if isNaN32(a) {
		return NaN64, signalled32(a, a)
	}
	return widen(a), 0
}

// F64toF32 is fcvt.s.d.
func F64toF32(a uint64, rm Rounding) (uint32, Flags) {
	x := math.Float64frombits(a)
	f := float32(x)
	r := math.Float32bits(f)
	if r<<1-safeLow32 < safeSpan32 {
		n := float64(f)
		switch {
		case n == x:
			return r, 0
		case rm == RNE:
			return r, NX
		case rm != RMM:
			return beside32(r, x > n, rm), NX
		}
	} else if x == 0 {
		return r, 0
	}
	v, flags := narrow(a, rm)
	return uint32(v), flags
}

func narrow(a uint64, rm Rounding) (uint64, Flags) {
	n := binary64.unpack(a)
	switch {
	case n.isNaN():
		return binary32.invalid(n)
	case n.kind == infinite:
		return binary32.infinity() | binary32.signBit(n.neg), 0
	case n.kind == zero:
		return binary32.signBit(n.neg), 0
	}
	return binary32.pack(n.neg, n.exp, n.sig, rm)
}
