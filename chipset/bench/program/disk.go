package main

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const sectorSize = 512

// disk is the command
//
//	disk read|write PATH BYTES DEPTH COUNT SEED
//
// It reads or writes COUNT blocks of BYTES with direct I/O, DEPTH at a time, past the page
// cache: big blocks one behind the other, small ones in an order without a pattern, none of
// them twice. Each sector begins with a number made of the seed and its place. The answer
// is a checksum of these numbers in all blocks, as they were written or as they are read.
func disk(args []string) (string, error) {
	var d diskWork
	var how, path string
	if err := scan(args, &how, &path, &d.size, &d.depth, &d.count, &d.seed); err != nil {
		return "", err
	}
	flags := map[string]int{"read": unix.O_RDONLY, "write": unix.O_WRONLY}
	flag, known := flags[how]
	if !known || d.size < 4096 || d.size%4096 != 0 || d.depth < 1 || d.count < 1 {
		return "", fmt.Errorf("%s in blocks of %d bytes, %d of %d at a time: that is nothing to be done", how, d.size, d.depth, d.count)
	}
	var err error
	if d.fd, err = unix.Open(path, flag|unix.O_DIRECT|unix.O_CLOEXEC, 0); err != nil {
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(d.fd)
	end, err := unix.Seek(d.fd, 0, unix.SEEK_END)
	if err != nil {
		return "", fmt.Errorf("the size of %s: %w", path, err)
	}
	if d.blocks = end / int64(d.size); d.count > d.blocks {
		return "", fmt.Errorf("%s has %d blocks of %d bytes, %d are to be used", path, d.blocks, d.size, d.count)
	}
	sum, err := d.run(how == "write")
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", how, path, err)
	}
	return fmt.Sprintf("%016x", sum), nil
}

// diskWork is what the workers share.
type diskWork struct {
	fd     int
	size   int // of a block, in bytes
	depth  int
	count  int64
	seed   uint64
	blocks int64 // of the disk
	next   atomic.Int64
	sum    atomic.Uint64
}

func (d *diskWork) run(write bool) (uint64, error) {
	var workers sync.WaitGroup
	failures := make(chan error, d.depth)
	for range d.depth {
		workers.Go(func() {
			if err := d.work(write); err != nil {
				d.next.Store(d.count) // for the others
				failures <- err
			}
		})
	}
	workers.Wait()
	close(failures)
	return d.sum.Load(), <-failures
}

// work does blocks until none is left.
func (d *diskWork) work(write bool) error {
	buf, err := unix.Mmap(-1, 0, d.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS) // aligned
	if err != nil {
		return fmt.Errorf("map memory: %w", err)
	}
	defer unix.Munmap(buf)
	var sum uint64
	for i := d.next.Add(1) - 1; i < d.count; i = d.next.Add(1) - 1 {
		at := d.place(i) * int64(d.size)
		transfer := unix.Pread
		if write {
			transfer = unix.Pwrite
			d.stamp(buf, at)
		}
		n, err := transfer(d.fd, buf, at)
		if err != nil || n != len(buf) {
			return fmt.Errorf("%d bytes at %d: %d, %w", len(buf), at, n, err)
		}
		for s := 0; s < len(buf); s += sectorSize {
			sum += binary.LittleEndian.Uint64(buf[s:]) // of all blocks, in any order
		}
	}
	d.sum.Add(sum)
	return nil
}

// bigBlock is from where on blocks are taken in the disk's order.
const bigBlock = 64 << 10

// place is the number of the block that is the i-th to be done.
func (d *diskWork) place(i int64) int64 {
	if d.size >= bigBlock {
		return i
	}
	// A step that has no divisor in common with the number of blocks visits each once.
	step := d.blocks*618/1000 | 1
	for gcd(step, d.blocks) != 1 {
		step += 2
	}
	return i * step % d.blocks
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (d *diskWork) stamp(buf []byte, at int64) {
	for s := 0; s < len(buf); s += sectorSize {
		r := random(d.seed<<40 + uint64(at+int64(s))/sectorSize + 1)
		binary.LittleEndian.PutUint64(buf[s:], r.next())
	}
}
