package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// sizeUnits, longest first where one ends in another.
var sizeUnits = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"B", 1}, {"", 1},
}

// ParseSize reads a number of bytes: "0", "512", "10MB" (SI), "1.5GiB" (powers of two).
func ParseSize(s string) (int64, error) {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		digits = strings.TrimSpace(digits)
		if digits == "" || strings.Trim(digits, "0123456789.") != "" {
			break
		}
		n, err := strconv.ParseFloat(digits, 64)
		if err != nil {
			break
		}
		if n *= u.bytes; n >= math.MaxInt64 {
			return 0, fmt.Errorf("%q is too large", s)
		}
		if n != math.Trunc(n) {
			return 0, fmt.Errorf("%q is no whole number of bytes", s)
		}
		return int64(n), nil
	}
	return 0, fmt.Errorf("%q is no size", s)
}

// sizeText writes a number of bytes as ParseSize reads it, in the largest unit that is
// whole.
func sizeText(n int64) string {
	for _, u := range []string{"TiB", "GiB", "MiB", "KiB", "MB"} {
		if unit, _ := ParseSize("1" + u); n >= unit && n%unit == 0 {
			return fmt.Sprintf("%d%s", n/unit, u)
		}
	}
	return fmt.Sprintf("%d", n)
}
