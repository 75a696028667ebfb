package oracle

import (
	"math"
	"math/rand/v2"
)

// Values that are worth trying: the ends of ranges, and what lies around them.

// integer is a value for an integer register.
func integer(rng *rand.Rand) uint64 {
	edge := uint64(1) << rng.IntN(64)
	switch rng.IntN(8) {
	case 0:
		return uint64(rng.IntN(17)) - 8
	case 1:
		return edge - 1
	case 2:
		return edge
	case 3:
		return -edge
	case 4:
		return uint64(int64(int32(rng.Uint32())))
	case 5:
		return uint64(rng.Uint32())
	case 6:
		return rng.Uint64() >> rng.IntN(64)
	}
	return rng.Uint64()
}

var doubles = []uint64{
	0, 1 << 63, // zeros
	0x7ff0_0000_0000_0000, 0xfff0_0000_0000_0000, // infinities
	0x7ff8_0000_0000_0000, 0x7ff0_0000_0000_0001, 0xfff8_dead_beef_0000, 0xfff0_0000_0000_1000, // NaNs, quiet and not
	1, 0x8000_0000_0000_0001, 0x000f_ffff_ffff_ffff, // subnormal
	0x0010_0000_0000_0000, 0x8010_0000_0000_0000, 0x0010_0000_0000_0001, // smallest normal
	0x7fef_ffff_ffff_ffff, 0xffef_ffff_ffff_ffff, // largest
	0x3ff0_0000_0000_0000, 0xbff0_0000_0000_0000, 0x3ff0_0000_0000_0001, 0x3fef_ffff_ffff_ffff, // around 1
	0x3fe0_0000_0000_0000, 0x3ff8_0000_0000_0000, 0x4004_0000_0000_0000, // halves
	0x36a0_0000_0000_0000, 0x380f_ffff_ffff_ffff, 0x47ef_ffff_efff_ffff, 0x47ef_ffff_f000_0000, // where binary32 ends
}

var singles = []uint32{
	0, 1 << 31, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x7f80_0001, 0xffc1_2345, 0xff80_4000,
	1, 0x8000_0001, 0x007f_ffff, 0x0080_0000, 0x8080_0000, 0x0080_0001, 0x7f7f_ffff, 0xff7f_ffff,
	0x3f80_0000, 0xbf80_0000, 0x3f80_0001, 0x3f7f_ffff, 0x3f00_0000, 0x3fc0_0000, 0x4020_0000,
}

// double is the bits of a binary64.
func double(rng *rand.Rand) uint64 {
	sign := rng.Uint64() & (1 << 63)
	switch rng.IntN(6) {
	case 0:
		return doubles[rng.IntN(len(doubles))]
	case 1: // around an integer that some conversion cannot represent any more
		v := math.Ldexp(1, []int{7, 15, 31, 32, 52, 53, 63, 64}[rng.IntN(8)])
		return sign | math.Float64bits(v) + uint64(rng.IntN(5)) - 2
	case 2: // near 1, so that sums cancel
		return sign | uint64(1023-3+rng.IntN(7))<<52 | rng.Uint64()>>12
	case 3: // few bits, so that results are exact or tie
		return sign | uint64(1023-30+rng.IntN(60))<<52 | rng.Uint64()<<(40+rng.IntN(12))>>12
	case 4: // subnormal
		return sign | rng.Uint64()>>(12+rng.IntN(52))
	}
	return rng.Uint64()
}

// single is the bits of a binary32.
func single(rng *rand.Rand) uint32 {
	sign := rng.Uint32() & (1 << 31)
	switch rng.IntN(6) {
	case 0:
		return singles[rng.IntN(len(singles))]
	case 1:
		v := float32(math.Ldexp(1, []int{7, 15, 23, 24, 31, 32, 63, 64}[rng.IntN(8)]))
		return sign | math.Float32bits(v) + uint32(rng.IntN(5)) - 2
	case 2:
		return sign | uint32(127-3+rng.IntN(7))<<23 | rng.Uint32()>>9
	case 3:
		return sign | uint32(127-20+rng.IntN(40))<<23 | rng.Uint32()<<(15+rng.IntN(8))>>9
	case 4:
		return sign | rng.Uint32()>>(9+rng.IntN(23))
	}
	return rng.Uint32()
}

const box = 0xffff_ffff_0000_0000

// float is a value for a floating-point register, mostly a double or a boxed single.
func float(rng *rand.Rand) uint64 {
	switch rng.IntN(8) {
	case 0, 1, 2:
		return double(rng)
	case 7:
		return integer(rng)
	}
	return box | uint64(single(rng))
}

// slot is eight bytes of memory: a double, two singles or integers.
func slot(rng *rand.Rand) uint64 {
	switch rng.IntN(3) {
	case 0:
		return double(rng)
	case 1:
		return uint64(single(rng))<<32 | uint64(single(rng))
	}
	return integer(rng)
}
