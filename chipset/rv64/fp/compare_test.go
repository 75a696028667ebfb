package fp

import (
	"math"
	"testing"
)

// comparison is what op must give by the host's relations between numbers, which agree with
// IEEE 754 where no NaN and no order of zeros is involved.
func comparison(s *shape, name string, a, b uint64) (uint64, Flags) {
	f := s.f
	x, y := f.host(a), f.host(b)
	unordered := f.isNaN(a) || f.isNaN(b)
	var flags Flags
	if f.isSignalling(a) || f.isSignalling(b) {
		flags = NV
	}
	switch name {
	case "feq":
		return truth(x == y, flags)
	case "flt", "fle":
		if unordered {
			flags = NV
		}
		return truth(x < y || name == "fle" && x == y, flags)
	}
	first := x < y || x == y && math.Signbit(x)
	if name == "fmax" {
		first = x > y || x == y && !math.Signbit(x)
	}
	switch {
	case f.isNaN(a) && f.isNaN(b):
		return f.nan(), flags
	case f.isNaN(b) || !f.isNaN(a) && first:
		return a, flags
	}
	return b, flags
}

func TestComparisons(t *testing.T) {
	for i := range operations {
		op := &operations[i]
		if kind := op.code &^ 32; kind < 9 || kind > 13 {
			continue
		}
		s := shape64
		if op.takes == f32 {
			s = shape32
		}
		check := func(a, b, _ uint64) {
			got, gotF := op.do(a, b, 0, RNE)
			if want, wantF := comparison(s, op.name[:len(op.name)-2], a, b); got != want || gotF != wantF {
				op.differ(t, "the definition", a, b, 0, RNE, got, gotF, want, wantF)
				t.FailNow()
			}
		}
		op.systematic(check)
		r := newRand(t)
		for range *casesFlag {
			check(op.operands(r))
		}
	}
}

func TestClassIsOneOfTen(t *testing.T) {
	for i, c := range []struct {
		low, high uint64
	}{
		{0xfff0_0000_0000_0000, 0xfff0_0000_0000_0000},
		{0x8010_0000_0000_0000, 0xffef_ffff_ffff_ffff},
		{0x8000_0000_0000_0001, 0x800f_ffff_ffff_ffff},
		{0x8000_0000_0000_0000, 0x8000_0000_0000_0000},
		{0x0000_0000_0000_0000, 0x0000_0000_0000_0000},
		{0x0000_0000_0000_0001, 0x000f_ffff_ffff_ffff},
		{0x0010_0000_0000_0000, 0x7fef_ffff_ffff_ffff},
		{0x7ff0_0000_0000_0000, 0x7ff0_0000_0000_0000},
		{0x7ff0_0000_0000_0001, 0x7ff7_ffff_ffff_ffff},
		{0x7ff8_0000_0000_0000, 0x7fff_ffff_ffff_ffff},
		{0xfff0_0000_0000_0001, 0xfff7_ffff_ffff_ffff},
		{0xfff8_0000_0000_0000, 0xffff_ffff_ffff_ffff},
	} {
		want := uint64(1) << i
		if i >= 10 { // NaNs have no sign
			want >>= 2
		}
		for _, a := range []uint64{c.low, c.high, c.low + (c.high-c.low)/2} {
			if got := Class64(a); got != want {
				t.Errorf("Class64(%#x) = %#x, want %#x", a, got, want)
			}
		}
	}
	for i, c := range [][2]uint32{
		{0xff80_0000, 0xff80_0000}, {0x8080_0000, 0xff7f_ffff}, {0x8000_0001, 0x807f_ffff},
		{0x8000_0000, 0x8000_0000}, {0, 0}, {1, 0x007f_ffff}, {0x0080_0000, 0x7f7f_ffff},
		{0x7f80_0000, 0x7f80_0000}, {0x7f80_0001, 0x7fbf_ffff}, {0x7fc0_0000, 0x7fff_ffff},
		{0xff80_0001, 0xffbf_ffff}, {0xffc0_0000, 0xffff_ffff},
	} {
		want := uint64(1) << i
		if i >= 10 {
			want >>= 2
		}
		for _, a := range []uint32{c[0], c[1], c[0] + (c[1]-c[0])/2} {
			if got := Class32(a); got != want {
				t.Errorf("Class32(%#x) = %#x, want %#x", a, got, want)
			}
		}
	}
}
