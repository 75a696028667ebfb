package fp

import "testing"

// TestFastWayAgreesWithIntegers: what the host's arithmetic gives must be, bit for bit and
// flag for flag, what core.go gives.
func TestFastWayAgreesWithIntegers(t *testing.T) {
	for _, op := range operations {
		if op.ref == nil {
			continue
		}
		t.Run(op.name, func(t *testing.T) {
			r := newRand(t)
			check := func(a, b, c uint64, rm Rounding) {
				got, gotF := op.do(a, b, c, rm)
				if want, wantF := op.ref(a, b, c, rm); got != want || gotF != wantF {
					if op.differ(t, "core", a, b, c, rm, got, gotF, want, wantF); t.Failed() {
						t.FailNow()
					}
				}
			}
			op.systematic(func(a, b, c uint64) {
				if op.arity == 3 { // many: a mode each
					check(a, b, c, pick(r, modes))
					return
				}
				for _, rm := range modes {
					check(a, b, c, rm)
				}
			})
			for range 50 * *casesFlag {
				a, b, c := op.operands(r)
				check(a, b, c, pick(r, modes))
			}
			if *fullFlag && op.arity == 2 {
				s := shape64
				if op.takes == f32 {
					s = shape32
				}
				many := combine(s.in, s.many)
				for _, a := range many {
					for _, b := range many {
						check(a, b, 0, pick(r, modes))
					}
				}
			}
		})
	}
}

func TestNothingIsAllocated(t *testing.T) {
	r := newRand(t)
	for _, op := range operations {
		a, b, c := op.operands(r)
		if n := testing.AllocsPerRun(10, func() {
			for _, rm := range modes {
				op.do(a, b, c, rm)
			}
		}); n != 0 {
			t.Errorf("%s allocates %v times", op.name, n)
		}
	}
}

var sink uint64

func BenchmarkOperation(b *testing.B) {
	for _, op := range operations {
		if op.code == 5 || op.code == 37 || op.ref == nil || op.arity < 3 {
			b.Run(op.name, func(b *testing.B) {
				x, y, z := uint64(0x4008_1234_5678_9abc), uint64(0x3ff3_3333_4444_5555), uint64(0x3fe3_1313_1341_4124)
				if op.takes == f32 {
					x, y, z = 0x4048_1234, 0x3f93_3333, 0x3f13_1313
				}
				for range b.N {
					r, _ := op.do(x, y, z, RNE)
					sink += r
				}
			})
			if op.ref != nil {
				b.Run(op.name+"/core", func(b *testing.B) {
					x, y, z := uint64(0x4008_1234_5678_9abc), uint64(0x3ff3_3333_4444_5555), uint64(0x3fe3_1313_1341_4124)
					if op.takes == f32 {
						x, y, z = 0x4048_1234, 0x3f93_3333, 0x3f13_1313
					}
					for range b.N {
						r, _ := op.ref(x, y, z, RNE)
						sink += r
					}
				})
			}
		}
	}
}
