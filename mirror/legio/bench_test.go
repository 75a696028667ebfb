package legio

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkRing is random I/O on a leg, 4 KiB and 1 MiB, as `fio --ioengine=libaio --direct=1
// --bs=4k` does it: one thread that keeps depth IOs in flight. FT_LEG names the leg;
// by default it is a file of 1 GiB, filled.
func BenchmarkRing(b *testing.B) {
	path := os.Getenv("FT_LEG")
	if path == "" {
		path = sparse(b, 1<<30)
	}
	leg := mustOpen(b, path, OpenOptions{})
	for off := int64(0); path != os.Getenv("FT_LEG") && off < leg.Bytes; off += mib {
		if _, err := leg.WriteAt(zeroes, off); err != nil {
			b.Fatal(err)
		}
	}
	for _, op := range []Op{Write, Read} {
		for _, depth := range []int{1, 16, 32} {
			b.Run(fmt.Sprintf("rand%s/QD%d", op, depth), func(b *testing.B) { benchmark(b, leg, op, depth, 4096) })
		}
		b.Run(fmt.Sprintf("rand%s1M/QD8", op), func(b *testing.B) { benchmark(b, leg, op, 8, mib) })
	}
}

func benchmark(b *testing.B, leg *Leg, op Op, depth int, size int64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ring, err := NewRing(RingEntries)
	if err != nil {
		b.Fatal(err)
	}
	defer ring.Close()
	ios := make([]*IO, 0, depth)
	for range depth {
		ios = append(ios, &IO{Op: op, Len: size, Buf: alignedBytes(int(size))})
	}
	begun, ended := 0, 0
	next := ios[:depth:depth]
	done := func(io *IO) {
		if io.Err != 0 {
			b.Errorf("%v at %d: %v", io.Op, io.Off, io.Err)
		}
		ended++
		next = append(next, io)
	}
	poll := []unix.PollFd{{Fd: int32(ring.Fd()), Events: unix.POLLIN}}
	for b.ResetTimer(); ended < b.N; {
		if left := b.N - begun; len(next) > left {
			next = next[:left]
		}
		for _, io := range next {
			io.Off = rand.Int64N(leg.Bytes/size) * size
		}
		begun += len(next)
		ring.Submit(next, [3]*Leg{leg})
		next = next[:0]
		unix.Poll(poll, -1)
		ring.Reap(done)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "IO/s")
}
