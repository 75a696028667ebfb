package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Rounds of load: each does a bounded amount of work, a second or so on a slow hart, and
// says what was wrong.

const (
	computeSteps = 1 << 20
	pageBytes    = 4096
	faultBytes   = 1 << 20
	diskBytes    = 4 << 20
	patternBytes = 64 << 10
)

// What compute gives after computeSteps, on any machine: rounding of IEEE 754 doubles is
// exact, and the conversions keep the compiler from fusing a product with a sum.
const (
	computeInteger = 0xabf3c4cd3712c6a8
	computeFloat   = 0x3ff518df659b3979
)

func compute(steps int) (uint64, uint64) {
	n, x, sum := uint64(0x9E3779B97F4A7C15), 0.4, 0.0
	for range steps {
		n ^= n << 13
		n ^= n >> 7
		n ^= n << 17
		n = n*0x5851F42D4C957F2D + n/7 + n%11
		x = float64(3.9*x) * float64(1-x) // the logistic map: no bit of it comes to rest
		sum = float64(sum/2) + math.Sqrt(x)
	}
	return n, math.Float64bits(sum)
}

func computeRound(context.Context, int, uint64) error {
	n, x := compute(computeSteps)
	if n != computeInteger || x != computeFloat {
		return fmt.Errorf("computed %#x and %#x, and not %#x and %#x", n, x, uint64(computeInteger), uint64(computeFloat))
	}
	return nil
}

// memoryRound maps so many MiB, writes all words of it and reads them again.
func memoryRound(mib int) func(context.Context, int, uint64) error {
	return func(ctx context.Context, _ int, number uint64) error {
		pages, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fmt.Errorf("map %d MiB: %w", mib, err)
		}
		defer unix.Munmap(pages)
		for at := 0; at < len(pages) && ctx.Err() == nil; at += patternBytes {
			fill(pages[at:][:patternBytes], number<<40+uint64(at))
		}
		for at := 0; at < len(pages) && ctx.Err() == nil; at += patternBytes {
			if err := check(pages[at:][:patternBytes], number<<40+uint64(at)); err != nil {
				return fmt.Errorf("memory from %#x of %d MiB on: %w", at, mib, err)
			}
		}
		return nil
	}
}

// faultRound takes page faults: fresh pages are zero, a page that is made read-only and
// writable again keeps its content, and one that is given back is zero again.
func faultRound(ctx context.Context, worker int, number uint64) error {
	pages, err := unix.Mmap(-1, 0, faultBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map %d pages: %w", faultBytes/pageBytes, err)
	}
	defer unix.Munmap(pages)
	zero := func(at int) error {
		if got := binary.LittleEndian.Uint64(pages[at:]); got != 0 {
			return fmt.Errorf("a fresh page has %#x in it", got)
		}
		return nil
	}
	for at := 0; at < len(pages); at += pageBytes {
		if err := zero(at); err != nil {
			return err
		}
		binary.LittleEndian.PutUint64(pages[at:], mix(number+uint64(at)))
	}
	if err := unix.Mprotect(pages, unix.PROT_READ); err != nil {
		return err
	}
	if err := unix.Mprotect(pages, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return err
	}
	for at := 0; at < len(pages); at += pageBytes {
		if got, want := binary.LittleEndian.Uint64(pages[at:]), mix(number+uint64(at)); got != want {
			return fmt.Errorf("the page at %#x begins with %#x, and not %#x", at, got, want)
		}
		binary.LittleEndian.PutUint64(pages[at:], 1) // after a fault, where mprotect took the right away
	}
	if err := unix.Madvise(pages, unix.MADV_DONTNEED); err != nil {
		return err
	}
	return zero(int(mix(number+uint64(worker))%(faultBytes/pageBytes)) * pageBytes)
}

// forkScript starts processes one after another and many at once, and asks each for the
// status that it was told to end with. Copies of the shell write to pages that they share.
const forkScript = `
i=0
while [ $i -lt 20 ]; do
	(x=$x$i; exit $i); [ $? = $i ] || exit 1
	i=$((i+1))
done
i=0
while [ $i -lt 20 ]; do
	(x=$x$i; exit 0) &
	i=$((i+1))
done
wait
[ "$(echo $i | { read n; echo $((n*2)); })" = 40 ]
`

func forkRound(ctx context.Context, _ int, _ uint64) error {
	if out, err := exec.CommandContext(ctx, shell, "-c", forkScript).CombinedOutput(); err != nil {
		return fmt.Errorf("a shell with 40 children: %w %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// diskRound writes a file, syncs it, forgets it and reads it from the disk again.
func (l *load) diskRound(ctx context.Context, worker int, number uint64) (err error) {
	f, err := os.OpenFile(filepath.Join(l.files(), itoa(worker)), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	seed := mix(number<<8 + uint64(worker))
	buf := make([]byte, patternBytes)
	for at := int64(0); at < diskBytes && ctx.Err() == nil; at += patternBytes {
		fill(buf, seed+uint64(at))
		if _, err := f.WriteAt(buf, at); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	for at := int64(0); at < diskBytes && ctx.Err() == nil; at += patternBytes {
		if _, err := f.ReadAt(buf, at); err != nil {
			return err
		}
		if err := check(buf, seed+uint64(at)); err != nil {
			return fmt.Errorf("%s from %d on: %w", f.Name(), at, err)
		}
	}
	return nil
}

// mix makes a number that looks like none of its neighbours' (SplitMix64).
func mix(n uint64) uint64 {
	n += 0x9E3779B97F4A7C15
	n = (n ^ n>>30) * 0xBF58476D1CE4E5B9
	n = (n ^ n>>27) * 0x94D049BB133111EB
	return n ^ n>>31
}

// fill writes the pattern that a seed makes; len(p) is a multiple of 8.
func fill(p []byte, seed uint64) {
	for at := 0; at < len(p); at += 8 {
		binary.LittleEndian.PutUint64(p[at:], mix(seed+uint64(at)))
	}
}

func check(p []byte, seed uint64) error {
	for at := 0; at < len(p); at += 8 {
		if got, want := binary.LittleEndian.Uint64(p[at:]), mix(seed+uint64(at)); got != want {
			return fmt.Errorf("%#x at %#x, and not %#x", got, at, want)
		}
	}
	return nil
}
