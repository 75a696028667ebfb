package fp

// Comparisons, minimum and maximum, and classification: operations that never round. They
// work on the encodings, whose magnitudes are ordered as the numbers are.

const (
	sign32 uint32 = 1 << 31
	inf32  uint32 = 0x7f80_0000
	sign64 uint64 = 1 << 63
	inf64  uint64 = 0x7ff0_0000_0000_0000
)

func isNaN32(a uint32) bool { return a&^sign32 > inf32 }
func isNaN64(a uint64) bool { return a&^sign64 > inf64 }

func isSignalling32(a uint32) bool { return isNaN32(a) && a&(NaN32&^inf32) == 0 }
func isSignalling64(a uint64) bool { return isNaN64(a) && a&(NaN64&^inf64) == 0 }

// key32 maps the encodings of numbers to integers of the same order, with -0 just below +0.
func key32(a uint32) int32 { return int32(a) ^ int32(uint32(int32(a)>>31)>>1) }
func key64(a uint64) int64 { return int64(a) ^ int64(uint64(int64(a)>>63)>>1) }

// Eq32 is feq.s: quiet, only a signalling NaN raises NV.
func Eq32(a, b uint32) (bool, Flags) {
	if isNaN32(a) || isNaN32(b) {
		return false, signalled32(a, b)
	}
	return a == b || (a|b)&^sign32 == 0, 0
}

// Lt32 is flt.s: signalling, any NaN raises NV.
func Lt32(a, b uint32) (bool, Flags) {
	if isNaN32(a) || isNaN32(b) {
		return false, NV
	}
	return key32(a) < key32(b) && (a|b)&^sign32 != 0, 0
}

// Le32 is fle.s: signalling, any NaN raises NV.
func Le32(a, b uint32) (bool, Flags) {
	if isNaN32(a) || isNaN32(b) {
		return false, NV
	}
	return key32(a) <= key32(b) || (a|b)&^sign32 == 0, 0
}

// Eq64 is feq.d: quiet, only a signalling NaN raises NV.
func Eq64(a, b uint64) (bool, Flags) {
	if isNaN64(a) || isNaN64(b) {
		return false, signalled64(a, b)
	}
	return a == b || (a|b)&^sign64 == 0, 0
}

// Lt64 is flt.d: signalling, any NaN raises NV.
func Lt64(a, b uint64) (bool, Flags) {
	if isNaN64(a) || isNaN64(b) {
		return false, NV
	}
	return key64(a) < key64(b) && (a|b)&^sign64 != 0, 0
}

// Le64 is fle.d: signalling, any NaN raises NV.
func Le64(a, b uint64) (bool, Flags) {
	if isNaN64(a) || isNaN64(b) {
		return false, NV
	}
	return key64(a) <= key64(b) || (a|b)&^sign64 == 0, 0
}

// Min32 is fmin.s since version 2.2 of F: minimumNumber of IEEE 754-2019 (9.6). -0 is less
// than +0, a number is preferred to a NaN, and a signalling NaN raises NV all the same.
func Min32(a, b uint32) (uint32, Flags) {
	if isNaN32(a) || isNaN32(b) {
		return number32(a, b), signalled32(a, b)
	}
	if key32(a) < key32(b) {
		return a, 0
	}
	return b, 0
}

// Max32 is fmax.s: maximumNumber of IEEE 754-2019, as Min32.
func Max32(a, b uint32) (uint32, Flags) {
	if isNaN32(a) || isNaN32(b) {
		return number32(a, b), signalled32(a, b)
	}
	if key32(a) > key32(b) {
		return a, 0
	}
	return b, 0
}

// Min64 is fmin.d, as Min32.
func Min64(a, b uint64) (uint64, Flags) {
	if isNaN64(a) || isNaN64(b) {
		return number64(a, b), signalled64(a, b)
	}
	if key64(a) < key64(b) {
		return a, 0
	}
	return b, 0
}

// Max64 is fmax.d, as Max32.
func Max64(a, b uint64) (uint64, Flags) {
	if isNaN64(a) || isNaN64(b) {
		return number64(a, b), signalled64(a, b)
	}
	if key64(a) > key64(b) {
		return a, 0
	}
	return b, 0
}

// number32 is the one of a and b that is a number, of which at most one is.
func number32(a, b uint32) uint32 {
	switch {
	case !isNaN32(a):
		return a
	case !isNaN32(b):
		return b
	}
	return NaN32
}

func number64(a, b uint64) uint64 {
	switch {
	case !isNaN64(a):
		return a
	case !isNaN64(b):
		return b
	}
	return NaN64
}

func signalled32(a, b uint32) Flags {
	if isSignalling32(a) || isSignalling32(b) {
		return NV
	}
	return 0
}

func signalled64(a, b uint64) Flags {
	if isSignalling64(a) || isSignalling64(b) {
		return NV
	}
	return 0
}

// The bits of fclass's result.
const (
	ClassNegInf uint64 = 1 << iota
	ClassNegNormal
	ClassNegSubnormal
	ClassNegZero
	ClassPosZero
	ClassPosSubnormal
	ClassPosNormal
	ClassPosInf
	ClassSignallingNaN
	ClassQuietNaN
)

// Class32 is fclass.s: exactly one bit of ten.
func Class32(a uint32) uint64 {
	if isNaN32(a) {
		if isSignalling32(a) {
			return ClassSignallingNaN
		}
		return ClassQuietNaN
	}
	magnitude := a &^ sign32
	return class(a&sign32 != 0, magnitude == 0, magnitude>>23 == 0, magnitude == inf32)
}

// Class64 is fclass.d, as Class32.
func Class64(a uint64) uint64 {
	if isNaN64(a) {
		if isSignalling64(a) {
			return ClassSignallingNaN
		}
		return ClassQuietNaN
	}
	magnitude := a &^ sign64
	return class(a&sign64 != 0, magnitude == 0, magnitude>>52 == 0, magnitude == inf64)
}

func class(neg, isZero, noExponent, isInf bool) uint64 {
	switch {
	case isInf && neg:
		return ClassNegInf
	case isInf:
		return ClassPosInf
	case isZero && neg:
		return ClassNegZero
	case isZero:
		return ClassPosZero
	case noExponent && neg:
		return ClassNegSubnormal
	case noExponent:
		return ClassPosSubnormal
	case neg:
		return ClassNegNormal
	}
	return ClassPosNormal
}
