package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The load on a disk: a few workers, each of whom has blocks of its own, which it writes and
// reads at random. A write that was acknowledged must be there whenever the block is read;
// at the end all of them are.
//
// Where it may write is decided in place.go.

const (
	diskWorkers = 4
	diskRate    = 400 // I/Os a second, of all workers
	syncEvery   = 64  // writes of a worker
	failPause   = 50 * time.Millisecond
)

// diskLoad writes and reads blocks from base on.
type diskLoad struct {
	meter
	device string
	what   string
	file   *os.File
	base   int64
	blocks int64 // written; 0: nothing is, and reads go anywhere below size
	size   int64
	id     blockID
	erase  bool // what was written is to be zeroes again at the end

	acked, tried []uint64 // generations, by block; each worker has its own
}

// unknown stands in for the generation of a block of which nothing is expected until it is
// written again.
const unknown = 0

func (l *diskLoad) Name() string   { return l.device }
func (l *diskLoad) Device() string { return l.device }
func (l *diskLoad) What() string   { return l.what }

// Run works until ctx ends, then reads all of it back.
func (l *diskLoad) Run(ctx context.Context) {
	defer l.file.Close()
	var workers sync.WaitGroup
	for w := range diskWorkers {
		workers.Go(func() { l.work(ctx, w) })
	}
	workers.Wait()
	if l.erase {
		l.zero()
	}
}

func (l *diskLoad) work(ctx context.Context, worker int) {
	buf, free, err := alignedBlock()
	if err != nil {
		l.failed(err)
		return
	}
	defer free()
	random := rand.New(rand.NewPCG(l.id.drill, uint64(worker)))
	tick := time.NewTicker(time.Second * diskWorkers / diskRate)
	defer tick.Stop()
	for writes := 0; ; {
		select {
		case <-ctx.Done():
			l.readBack(worker, buf)
			return
		case <-tick.C:
		}
		var err error
		switch block := l.draw(random, worker); {
		case l.blocks == 0:
			err = l.io(worker, func() error { _, err := l.file.ReadAt(buf, block*blockBytes); return err })
		case random.IntN(2) == 0:
			err = l.read(worker, block, buf)
		default:
			if err = l.write(worker, block, buf); err == nil {
				if writes++; writes%syncEvery == 0 {
					err = l.io(worker, func() error { return unix.Fdatasync(int(l.file.Fd())) })
				}
			}
		}
		if err != nil {
			l.failed(err)
			time.Sleep(failPause)
		}
	}
}

// draw is one of a worker's blocks.
func (l *diskLoad) draw(random *rand.Rand, worker int) int64 {
	if l.blocks == 0 {
		return random.Int64N(l.size / blockBytes)
	}
	return random.Int64N(l.blocks/diskWorkers)*diskWorkers + int64(worker)
}

// io does one I/O and measures it.
func (l *diskLoad) io(worker int, f func() error) error {
	l.begin(worker, time.Now())
	err := f()
	l.end(worker, time.Now(), blockBytes)
	return err
}

func (l *diskLoad) at(block int64) blockID {
	id := l.id
	id.number = uint64(block)
	return id
}

func (l *diskLoad) write(worker int, block int64, buf []byte) error {
	l.tried[block]++
	fillBlock(buf, l.at(block), l.tried[block])
	err := l.io(worker, func() error { _, err := l.file.WriteAt(buf, l.base+block*blockBytes); return err })
	if errors.Is(err, unix.ENOSPC) { // of a file system that gives each write a new place
		l.acked[block] = unknown
		return nil
	}
	if err == nil {
		l.acked[block] = l.tried[block]
	}
	return err
}

func (l *diskLoad) read(worker int, block int64, buf []byte) error {
	err := l.io(worker, func() error { _, err := l.file.ReadAt(buf, l.base+block*blockBytes); return err })
	if err != nil {
		return err
	}
	l.check(block, buf)
	return nil
}

// check compares a block with what was acknowledged. What is lost is so once.
func (l *diskLoad) check(block int64, buf []byte) {
	acked, tried := l.acked[block], l.tried[block]
	if acked == unknown {
		return
	}
	got, ok := readBlock(buf, l.at(block))
	switch {
	case !ok:
		l.lost(1, "block %d of %s is not what was written there: write %d was acknowledged", block, l.device, acked)
	case got < acked || got > tried:
		l.lost(1, "block %d of %s has write %d: write %d was acknowledged", block, l.device, got, acked)
	default:
		return
	}
	l.acked[block] = unknown
}

// readBack reads all of a worker's blocks.
func (l *diskLoad) readBack(worker int, buf []byte) {
	for block := int64(worker); block < l.blocks; block += diskWorkers {
		if err := l.read(worker, block, buf); err != nil {
			l.failed(err)
		}
	}
}

// prepare writes every block once, so that there is room for all of them.
func (l *diskLoad) prepare() error {
	l.acked, l.tried = make([]uint64, l.blocks), make([]uint64, l.blocks)
	const piece = 1 << 20
	buf, err := unix.Mmap(-1, 0, piece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	for first := int64(0); first < l.blocks; first += piece / blockBytes {
		n := min(piece/blockBytes, l.blocks-first)
		for i := range n {
			l.tried[first+i], l.acked[first+i] = 1, 1
			fillBlock(buf[i*blockBytes:(i+1)*blockBytes], l.at(first+i), 1)
		}
		if _, err := l.file.WriteAt(buf[:n*blockBytes], l.base+first*blockBytes); err != nil {
			return err
		}
	}
	return l.file.Sync()
}

// zero leaves the blocks as they were found. Those that are not a drill's any more, somebody
// has written to: they stay.
func (l *diskLoad) zero() {
	const piece = 1 << 20
	buf, err := unix.Mmap(-1, 0, piece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		l.failed(err)
		return
	}
	defer unix.Munmap(buf)
	for at := int64(0); at < l.blocks*blockBytes; at += piece {
		part := buf[:min(piece, l.blocks*blockBytes-at)]
		_, err := l.file.ReadAt(part, l.base+at)
		for i := 0; i < len(part); i += blockBytes {
			if b := part[i : i+blockBytes]; isDrills(b) {
				clear(b)
			}
		}
		if err == nil {
			_, err = l.file.WriteAt(part, l.base+at)
		}
		if err != nil {
			l.failed(fmt.Errorf("write zeroes again where the drill has written: %w", err))
			return
		}
	}
	if err := l.file.Sync(); err != nil {
		l.failed(err)
	}
}

// alignedBlock is a buffer for direct I/O.
func alignedBlock() (buf []byte, free func(), err error) {
	buf, err = unix.Mmap(-1, 0, blockBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	return buf, func() { _ = unix.Munmap(buf) }, err
}
