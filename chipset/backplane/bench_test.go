package backplane

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/lockstep"
)

// costs reports the processor time that both sides have used, an operation.
func costs(b *testing.B, m *rig) {
	chipset, module := ownTime(), moduleTime(m)
	b.Cleanup(func() {
		b.ReportMetric(float64(ownTime()-chipset)/1000/float64(b.N), "chipset-µs/op")
		b.ReportMetric(float64(moduleTime(m)-module)/1000/float64(b.N), "module-µs/op")
	})
	b.ResetTimer()
}

func ownTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

func moduleTime(m *rig) time.Duration {
	t, _ := m.proc.cpuTime()
	return t
}

// A command there and its answer back, one at a time: both sides sleep in between.
func BenchmarkRoundTrip(b *testing.B) {
	m := start(b, Config{CPU: -1})
	costs(b, m)
	for i := range uint64(b.N) {
		m.run(i)
		m.record(i)
	}
}

// As a core does it: so many commands ahead of the answers.
func BenchmarkWindow64(b *testing.B) {
	m := start(b, Config{CPU: -1})
	costs(b, m)
	sent := uint64(0)
	for i := range uint64(b.N) {
		for ; sent < i+64 && sent < uint64(b.N); sent++ {
			m.run(sent)
		}
		m.record(i)
	}
}

// A module that computes for 300 µs for each answer, as real ones do.
func BenchmarkQuanta(b *testing.B) {
	m := start(b, Config{CPU: -1})
	m.send(lockstep.Command{Verb: lockstep.Fault, Data: []byte("quanta")})
	costs(b, m)
	sent := uint64(0)
	for i := range uint64(b.N) {
		for ; sent < i+8 && sent < uint64(b.N); sent++ {
			m.run(sent)
		}
		m.record(i)
	}
}

func BenchmarkMiB(b *testing.B) {
	m := start(b, Config{CPU: -1})
	costs(b, m)
	data := make([]byte, 1<<20)
	b.SetBytes(2 << 20)
	m.send(lockstep.Command{Verb: lockstep.Save, Data: data})
	for i := range uint64(b.N) {
		m.send(lockstep.Command{Verb: lockstep.Save, Number: i + 1, Data: data})
		m.record(i)
	}
}

// All of a memory of 256 MiB, into one that has nothing yet.
func BenchmarkCopyAll(b *testing.B) {
	const size = 256 << 20
	src := start(b, Config{Side: 0, CPU: -1, MemoryBytes: size})
	for at := 0; at < size; at += pageSize {
		src.RAM()[at] = 1
	}
	b.SetBytes(size)
	used := time.Duration(0)
	for b.Loop() {
		b.StopTimer()
		dst := start(b, Config{Side: 1, CPU: -1, MemoryBytes: size})
		b.StartTimer()
		began := ownTime()
		if err := CopyAll(b.Context(), dst.Module, src.Module, Rate{}); err != nil {
			b.Fatal(err)
		}
		used += ownTime() - began
		b.StopTimer()
		if err := dst.Release(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms/op")
}
