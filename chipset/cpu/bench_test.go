package cpu

import (
	"testing"
	"time"

	"ft/chipset/firmware"
	"ft/chipset/lockstep"
	"ft/chipset/module"
	"ft/chipset/rv64/oracle/asm"
)

// What a module costs beside a machine alone: quanta of 100000 steps with their answers, and
// epochs of 50 ms with the copies and digests of what was written. As the Makefile links it:
//
//	go test -ldflags=-funcalign=64 -bench Module -run '^$' ./chipset/cpu
//
// best is of the quickest epochs alone: on a machine with other work it is the steadier figure.

const (
	benchRAM     = 64 << 20
	benchQuantum = 100_000
	benchEpoch   = 50 * time.Millisecond
)

// benchGuest hashes a buffer, over and over; span is its size in bytes.
func benchGuest(span uint64) []byte {
	g := guestCode{asm.New(ramBase)}
	g.Label("outer")
	g.Li(asm.S1, ramBase+1<<20)
	g.Li(asm.S2, ramBase+1<<20+span)
	g.Label("loop")
	g.i("ld", asm.T0, asm.S1, 0)
	g.i("lw", asm.T1, asm.S1, 8)
	g.r("add", asm.T0, asm.T0, asm.T1)
	g.i("slli", asm.T3, asm.T0, 13)
	g.i("srli", asm.T4, asm.T0, 7)
	g.r("xor", asm.T0, asm.T3, asm.T4)
	g.r("mul", asm.T0, asm.T0, asm.S2)
	g.r("add", asm.T0, asm.T0, asm.T5)
	g.i("addi", asm.T5, asm.T0, 77)
	g.Op("sd", asm.Args{Rs1: asm.S1, Rs2: asm.T0})
	g.i("addi", asm.S1, asm.S1, 64)
	g.To("bne", asm.Args{Rs1: asm.S1, Rs2: asm.S2}, "loop")
	g.To("jal", asm.Args{}, "outer")
	g.Finish()
	return g.Bytes
}

func BenchmarkModule(b *testing.B) {
	for _, c := range []struct {
		name string
		span uint64
	}{{"8KiB", 8 << 10}, {"4MiB", 4 << 20}, {"31MiB", 31 << 20}} {
		code := benchGuest(c.span)
		b.Run(c.name+"/alone", func(b *testing.B) {
			ram := make([]byte, benchRAM)
			m, err := module.New(module.Config{RAM: ram}, nil)
			if err != nil {
				b.Fatal(err)
			}
			if err := m.Load(&firmware.Boot{Entry: ramBase, Segments: []firmware.Segment{{Addr: ramBase, Data: code}}}); err != nil {
				b.Fatal(err)
			}
			measure(b, func() uint64 { m.Run(benchQuantum); return m.Steps() }, func() {})
		})
		b.Run(c.name+"/module", func(b *testing.B) {
			x := newExecutor(b, code, func(c *Config) {
				c.RAM, c.Send = make([]byte, benchRAM), func(*lockstep.Record) {}
			})
			epoch := uint64(0)
			do := func(verb lockstep.Verb, a uint64) {
				if err := x.Do(&lockstep.Command{Verb: verb, A: a}); err != nil {
					b.Fatal(err)
				}
			}
			pages := 0
			measure(b, func() uint64 {
				do(lockstep.Run, benchQuantum)
				return x.machine.Steps()
			}, func() {
				pages = x.undo.written()
				epoch++
				do(lockstep.Epoch, epoch)
				do(lockstep.Commit, epoch)
			})
			b.ReportMetric(float64(pages), "pages/epoch")
		})
	}
}

// measure runs b.N steps in quanta, and ends epochs.
func measure(b *testing.B, quantum func() uint64, epoch func()) {
	for range 20 {
		quantum()
	}
	epoch()
	first, best := quantum(), 0.0
	begun, from := time.Now(), first
	b.ResetTimer()
	at := first
	for at < first+uint64(b.N) {
		if at = quantum(); time.Since(begun) >= benchEpoch {
			epoch()
			now := time.Now()
			best = max(best, float64(at-from)/now.Sub(begun).Seconds())
			begun, from = now, at
		}
	}
	b.ReportMetric(float64(at-first)/b.Elapsed().Seconds()/1e6, "Msteps/s")
	b.ReportMetric(best/1e6, "best-Msteps/s")
	b.ReportMetric(0, "ns/op")
}
