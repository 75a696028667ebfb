package main

import (
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror"
)

// intentMap measures random writes with the write-intent map beside the same without.
func (b *bench) intentMap(rounds int) error {
	j := job{rw: "randwrite", bs: "4k", depth: 16}
	var without, with, ratios []float64
	for range rounds {
		if err := b.box.again(mirror.Options{Frontend: "fuseloop", Measure: mirror.NoIntentMap}); err != nil {
			return err
		}
		x, err := b.fio(j, b.box.face())
		if err != nil {
			return err
		}
		if err := b.box.again(mirror.Options{Frontend: "fuseloop"}); err != nil {
			return err
		}
		y, err := b.fio(j, b.box.face())
		if err != nil {
			return err
		}
		without, with, ratios = append(without, x), append(with, y), append(ratios, y/x)
	}
	fmt.Printf("%-32s %8.1f k/s %8.1f k/s %8.2f %9.2f\n", "write-intent map, QD 16", median(without)/1000, median(with)/1000, median(ratios), 0.9)
	return nil
}

// balance measures reads beside the same with the legs in turn, by I/Os under way alone. On
// legs that are one disk it shall cost nothing.
func (b *bench) balance(rounds int) error {
	for _, j := range []job{
		{"balance, 4 KiB reads, QD 1", "randread", "4k", 1, 0},
		{"balance, 4 KiB reads, QD 32", "randread", "4k", 32, 0},
		{"balance, 1 MiB reads, QD 4", "read", "1m", 4, 0},
	} {
		var without, with, ratios []float64
		for range rounds {
			if err := b.box.again(mirror.Options{Measure: mirror.PlainReads}); err != nil {
				return err
			}
			x, err := b.fio(j, b.box.face())
			if err != nil {
				return err
			}
			if err := b.box.again(mirror.Options{}); err != nil {
				return err
			}
			y, err := b.fio(j, b.box.face())
			if err != nil {
				return err
			}
			without, with, ratios = append(without, x), append(with, y), append(ratios, y/x)
		}
		fmt.Printf("%-32s %8.1f k/s %8.1f k/s %8.2f\n", j.name, median(without)/1000, median(with)/1000, median(ratios))
	}
	return nil
}

// checksums measures the mirror with checksums beside the same without.
func (b *bench) checksums(rounds int) error {
	for _, j := range []job{
		{"checksums, 4 KiB writes, QD 16", "randwrite", "4k", 16, 0},
		{"checksums, 4 KiB reads, QD 16", "randread", "4k", 16, 0},
		{"checksums, 1 MiB writes, QD 4", "write", "1m", 4, 0},
		{"checksums, 1 MiB reads, QD 4", "read", "1m", 4, 0},
	} {
		var without, with, ratios []float64
		for range rounds {
			if err := b.box.again(mirror.Options{Frontend: "fuseloop"}); err != nil {
				return err
			}
			x, err := b.fio(j, b.box.face())
			if err != nil {
				return err
			}
			if err := b.box.again(mirror.Options{Frontend: "fuseloop", Integrity: mirror.IntegrityCRC32C}); err != nil {
				return err
			}
			if err := b.box.summed(); err != nil { // so that there is something to verify
				return err
			}
			y, err := b.fio(j, b.box.face())
			if err != nil {
				return err
			}
			without, with, ratios = append(without, x), append(with, y), append(ratios, y/x)
		}
		fmt.Printf("%-32s %8.1f k/s %8.1f k/s %8.2f\n", j.name, median(without)/1000, median(with)/1000, median(ratios))
	}
	return b.box.again(mirror.Options{Frontend: "fuseloop"})
}

// scrub measures the comparison of both legs beside reading one with dd.
func (b *bench) scrub(rounds int) error {
	var anchors, faces, ratios []float64
	for range rounds {
		begun := time.Now()
		if err := command("dd", "if="+b.loops[0], "of="+b.loops[1], "bs=1M", "iflag=direct", "oflag=direct", "status=none"); err != nil {
			return err
		}
		dd := float64(b.size) / time.Since(begun).Seconds()
		begun = time.Now()
		if err := b.box.startScrub(); err != nil {
			return err
		}
		if err := b.box.scrubbed(); err != nil {
			return err
		}
		m := float64(b.size) / time.Since(begun).Seconds()
		anchors, faces, ratios = append(anchors, dd), append(faces, m), append(ratios, m/dd)
	}
	fmt.Printf("%-32s %7.0f MB/s %7.0f MB/s %8.2f %9.2f\n", "scrub, against dd", median(anchors)/1e6, median(faces)/1e6, median(ratios), 0.9)
	return nil
}

// resync measures a full resync of written legs beside dd, and how much a fast one copies.
func (b *bench) resync(rounds int) error {
	if _, err := b.fio(job{rw: "write", bs: "1m", depth: 4}, b.box.face()); err != nil {
		return err
	}
	var anchors, faces, ratios []float64
	for range rounds {
		begun := time.Now()
		if err := command("dd", "if="+b.loops[0], "of="+b.loops[1], "bs=1M", "iflag=direct", "oflag=direct", "status=none"); err != nil {
			return err
		}
		dd := float64(b.size) / time.Since(begun).Seconds()
		if err := b.box.detach(); err != nil {
			return err
		}
		if err := b.box.forget(); err != nil {
			return err
		}
		copied, took, err := b.box.attach("overwrite")
		if err != nil {
			return err
		}
		m := float64(copied) / took.Seconds()
		anchors, faces, ratios = append(anchors, dd), append(faces, m), append(ratios, m/dd)
	}
	fmt.Printf("%-32s %7.0f MB/s %7.0f MB/s %8.2f %9.2f\n", "full resync, against dd", median(anchors)/1e6, median(faces)/1e6, median(ratios), 0.9)

	if err := b.box.detach(); err != nil {
		return err
	}
	const written = 8 << 20
	if err := command("dd", "if=/dev/urandom", "of="+b.box.face(), "bs=64k", fmt.Sprintf("count=%d", written>>16), "seek=1000", "oflag=direct", "conv=notrunc", "status=none"); err != nil {
		return err
	}
	copied, _, err := b.box.attach("")
	if err != nil {
		return err
	}
	fmt.Printf("%-32s %8.1f MiB %8.1f MiB %8.2f %9s\n", "fast resync, bytes copied", float64(written)/(1<<20), float64(copied)/(1<<20), float64(copied)/written, "<= 1.05")
	return nil
}

// healthy is how long a driver must have served for its successor to come at once.
const healthy = 5500 * time.Millisecond

// stall measures how long a write waits at most when the driver is killed: direct
// writes of 4 KiB one after the other, beside the longest one when nothing happens.
func (b *bench) stall(rounds int) error {
	f, err := os.OpenFile(b.box.face(), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE) // aligned, for O_DIRECT
	if err != nil {
		return err
	}
	defer unix.Munmap(page)
	longest := func(d time.Duration, during func() error) (worst time.Duration, err error) {
		done := make(chan error, 1)
		go func() { time.Sleep(d / 4); done <- during() }()
		for end := time.Now().Add(d); time.Now().Before(end); {
			begun := time.Now()
			if _, err := f.WriteAt(page, begun.UnixNano()%4096*4096); err != nil {
				return 0, fmt.Errorf("a write failed while the driver was killed: %w", err)
			}
			worst = max(worst, time.Since(begun))
		}
		return worst, <-done
	}
	var quiet, stalls []time.Duration
	for range rounds {
		x, err := longest(healthy, func() error { return nil })
		if err != nil {
			return err
		}
		y, err := longest(2*time.Second, b.box.kill)
		if err != nil {
			return err
		}
		quiet, stalls = append(quiet, x), append(stalls, y)
	}
	slices.Sort(quiet)
	slices.Sort(stalls)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	fmt.Printf("%-32s %9.1f ms %9.1f ms %8s %9s   (longest write: quiet, with a kill; worst %.1f ms)\n", "stall when the process is killed",
		ms(quiet[len(quiet)/2]), ms(stalls[len(stalls)/2]), "", "<= 50 ms", ms(stalls[len(stalls)-1]))
	return nil
}
