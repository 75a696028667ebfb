package rv64

import (
	"math"
	"math/bits"
)

// mulDiv is the M extension's slower half. Divisions by zero and the overflow of signed
// ones have results instead of traps (M, "Semantics for division by zero and division
// overflow").
func mulDiv(c code, a, b uint64) uint64 {
	switch c {
	case opMULH:
		hi, _ := bits.Mul64(a, b)
		return hi - uint64(int64(a)>>63)&b - uint64(int64(b)>>63)&a
	case opMULHSU:
		hi, _ := bits.Mul64(a, b)
		return hi - uint64(int64(a)>>63)&b
	case opDIV:
		return divide(int64(a), int64(b))
	case opDIVU:
		if b == 0 {
			return math.MaxUint64
		}
		return a / b
	case opREM:
		return remainder(int64(a), int64(b))
	case opREMU:
		if b == 0 {
			return a
		}
		return a % b
	case opDIVW:
		return sext32(uint32(divide(int64(int32(a)), int64(int32(b)))))
	case opDIVUW:
		if uint32(b) == 0 {
			return math.MaxUint64
		}
		return sext32(uint32(a) / uint32(b))
	case opREMW:
		return sext32(uint32(remainder(int64(int32(a)), int64(int32(b)))))
	default: // opREMUW
		if uint32(b) == 0 {
			return sext32(uint32(a))
		}
		return sext32(uint32(a) % uint32(b))
	}
}

// divide and remainder: Go defines MinInt64 / -1 as MinInt64 with the remainder 0, which
// is what the overflow's results are.
func divide(a, b int64) uint64 {
	if b == 0 {
		return math.MaxUint64
	}
	return uint64(a / b)
}

func remainder(a, b int64) uint64 {
	if b == 0 {
		return uint64(a)
	}
	return uint64(a % b)
}

func sext32(v uint32) uint64 { return uint64(int64(int32(v))) }

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
