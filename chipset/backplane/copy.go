package backplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pageSize   = 4096
	chunkBytes = 1 << 20 // copied at once, about 100 µs
	chunkPages = chunkBytes / pageSize
)

// hold keeps the memory of both mapped until the function returned is called.
func hold(dst, src *Module) (release func(), err error) {
	if len(dst.ram) != len(src.ram) && dst.ram != nil && src.ram != nil {
		return nil, fmt.Errorf("copy memory from %s to %s: %d and %d bytes", src.side, dst.side, len(src.ram), len(dst.ram))
	}
	held := make([]*Module, 0, 2)
	release = func() {
		for _, m := range held {
			m.useMu.RUnlock()
		}
	}
	for _, m := range []*Module{dst, src} {
		m.useMu.RLock()
		held = append(held, m)
		if m.released {
			release()
			return nil, fmt.Errorf("copy memory from %s to %s: %s has been released", src.side, dst.side, m.side)
		}
	}
	return release, nil
}

// CopyPages copies pages, by their numbers, and calls yield (which may be nil) behind each
// MiB.
func CopyPages(dst, src *Module, pages []uint32, yield func()) error {
	for len(pages) > 0 {
		part := pages[:min(len(pages), chunkPages)]
		pages = pages[len(part):]
		release, err := hold(dst, src)
		if err != nil {
			return err
		}
		for _, p := range part {
			at := int64(p) * pageSize
			if at+pageSize > int64(len(src.ram)) {
				release()
				return fmt.Errorf("copy memory from %s to %s: there is no page %d in %d bytes", src.side, dst.side, p, len(src.ram))
			}
			copy(dst.ram[at:at+pageSize], src.ram[at:])
		}
		release()
		if yield != nil && len(pages) > 0 {
			yield()
		}
	}
	return nil
}

// Rate says how a copy of a whole memory goes on.
type Rate struct {
	BytesPerSecond int64                   // 0: no limit
	Progress       func(done, total int64) // behind each MiB; may be nil. Holes count as done.
	Yield          func()                  // behind each MiB; may be nil
}

// CopyAll makes the memory of dst equal to that of src as it is now, page by page, while
// src may be running. What was never written in src is not copied, and given back in dst.
// What was copied is mapped in the chipset, so that CopyPages finds it at once.
func CopyAll(ctx context.Context, dst, src *Module, r Rate) error {
	total := int64(len(src.ram))
	began, copied := time.Now(), int64(0)
	for at := int64(0); at < total; {
		from, to, err := nextExtent(dst, src, at, total)
		if err != nil {
			return err
		}
		for at = from; at < to; {
			n := min(to-at, chunkBytes)
			if err := copyChunk(dst, src, at, n); err != nil {
				return err
			}
			at, copied = at+n, copied+n
			if r.Progress != nil {
				r.Progress(at, total)
			}
			if r.Yield != nil {
				r.Yield()
			}
			pause := time.Duration(0)
			if r.BytesPerSecond > 0 {
				pause = time.Duration(float64(copied)/float64(r.BytesPerSecond)*float64(time.Second)) - time.Since(began)
			}
			if err := rest(ctx, pause); err != nil {
				return fmt.Errorf("copy memory from %s to %s: %w", src.side, dst.side, err)
			}
		}
	}
	if r.Progress != nil {
		r.Progress(total, total)
	}
	return nil
}

func rest(ctx context.Context, pause time.Duration) error {
	if pause <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// nextExtent is where src has data next, and clears dst up to there. It is total, total
// behind the last.
func nextExtent(dst, src *Module, at, total int64) (from, to int64, err error) {
	release, err := hold(dst, src)
	if err != nil {
		return 0, 0, err
	}
	defer release()
	if from, err = nextData(src.ramfd, at, total); err != nil {
		return 0, 0, fmt.Errorf("memory of %s: %w", src.side, err)
	}
	if from > at {
		if err := punch(dst, at, from); err != nil {
			return 0, 0, err
		}
	}
	if from == total {
		return total, total, nil
	}
	if to, err = unix.Seek(src.ramfd, from, unix.SEEK_HOLE); err != nil {
		return 0, 0, fmt.Errorf("memory of %s: %w", src.side, err)
	}
	if to = min(to, total); from%pageSize != 0 || to%pageSize != 0 || to <= from {
		return 0, 0, fmt.Errorf("memory of %s: data from %d to %d", src.side, from, to)
	}
	return from, to, nil
}

// copyChunk copies with a write: the kernel then need not clear the new pages, and takes no
// fault for each. Both together cost half of what a copy through the mapping does.
func copyChunk(dst, src *Module, at, n int64) error {
	release, err := hold(dst, src)
	if err != nil {
		return err
	}
	defer release()
	for done := int64(0); done < n; {
		k, err := unix.Pwrite(dst.ramfd, src.ram[at+done:at+n], at+done)
		if err != nil && err != unix.EINTR || err == nil && k <= 0 {
			return fmt.Errorf("copy memory from %s to %s: %w", src.side, dst.side, err)
		}
		done += int64(max(k, 0))
	}
	_ = unix.Madvise(dst.ram[at:at+n], unix.MADV_POPULATE_READ) // or the faults come later
	return nil
}

// nextData is where data begin, from an offset on; total when none do.
func nextData(fd int, at, total int64) (int64, error) {
	begin, err := unix.Seek(fd, at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return total, nil
	}
	return min(begin, total), err
}

// punch makes a range a hole, where it is none.
func punch(m *Module, from, to int64) error {
	begin, err := nextData(m.ramfd, from, to)
	if err == nil && begin < to {
		err = unix.Fallocate(m.ramfd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, begin, to-begin)
	}
	if err != nil {
		return fmt.Errorf("clear memory of %s: %w", m.side, err)
	}
	return nil
}

// FaultIn makes pages of the module's memory be there, and the chipset's mapping of them,
// so that a copy into them later does not wait for the kernel to find and clear memory.
func FaultIn(m *Module, pages []uint32) error {
	m.useMu.RLock()
	defer m.useMu.RUnlock()
	for i := 0; i < len(pages); {
		run := 1
		for i+run < len(pages) && run < chunkPages && pages[i+run] == pages[i]+uint32(run) {
			run++
		}
		from := int64(pages[i]) * pageSize
		to := from + int64(run)*pageSize
		if to > int64(len(m.ram)) {
			return fmt.Errorf("fault in memory of %s: there is no page %d in %d bytes", m.side, int(pages[i])+run-1, len(m.ram))
		}
		if err := unix.Madvise(m.ram[from:to], unix.MADV_POPULATE_WRITE); err != nil && err != unix.EINVAL { // EINVAL: Linux before 5.14
			return fmt.Errorf("fault in memory of %s: %w", m.side, err)
		}
		i += run
	}
	return nil
}
