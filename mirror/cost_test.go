package mirror

import (
	"testing"

	"ft/drivers"
	"ft/mirror/frontend"
	"ft/mirror/scrub"
)

// BenchmarkRequest is what the engine itself takes for a request, with legs that take no
// time: with and without checksums.
func BenchmarkRequest(b *testing.B) {
	for _, c := range []struct {
		name, integrity string
		op              frontend.Op
		n               int
	}{
		{"write-4k/none", "none", frontend.Write, 4096}, {"write-4k/crc32c", IntegrityCRC32C, frontend.Write, 4096},
		{"read-4k/none", "none", frontend.Read, 4096}, {"read-4k/crc32c", IntegrityCRC32C, frontend.Read, 4096},
		{"write-1m/none", "none", frontend.Write, 1 << 20}, {"write-1m/crc32c", IntegrityCRC32C, frontend.Write, 1 << 20},
		{"read-1m/none", "none", frontend.Read, 1 << 20}, {"read-1m/crc32c", IntegrityCRC32C, frontend.Read, 1 << 20},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRig(b)
			r.integrity = c.integrity
			r.newEngine()
			if err := r.e.Start([2]*Leg{r.leg(0), r.leg(1)}, nil, [2]bool{}); err != nil {
				b.Fatal(err)
			}
			if err := r.e.Attach(1, r.leg(1), ""); err != nil {
				b.Fatal(err)
			}
			ready := func() bool {
				s := r.e.ScrubStatus()
				return r.face(drivers.FaceDuplex)() && s.Phase == scrub.Idle && (c.integrity == "none" || r.e.sums.on && !s.Build)
			}
			r.until("duplex", ready)
			r.events = nil
			q := &frontend.Request{Op: c.op, Len: int64(c.n), Data: alignedBytes(c.n)}
			b.SetBytes(int64(c.n))
			for i := 0; b.Loop(); i++ {
				q.Off, q.Err = int64(i%8)<<20, 0
				r.e.Submit(q)
				for !r.freed[q] {
					r.step()
				}
				delete(r.freed, q)
			}
		})
	}
}
