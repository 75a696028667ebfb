// Package exerciser works with one file in every way that Linux has, at random, and holds
// each byte against a model in memory: what fsx of the file system test suites does.
//
//	Step ─▶ an operation of ops.go ─▶ the file, and the model
//	     ─▶ what was read, and the size, must be the model's
//
// The file is open twice, through the page cache and with O_DIRECT, and mapped, and one file
// is worked with by one goroutine: so the kernel owes it that each way sees what the others
// did. What a file system does not have it is not asked for again; Done tells what was done.
//
// A part of a block device is worked with past the page cache only, with discards and
// write-zeroes (device.go).
//
// A run is its seed's: the same steps in the same order on the same file system. When
// something is wrong, the error has the seed, the place, what should be there and what is,
// and the operations before it.
package exerciser

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Limits.
const (
	pageBytes   = 4096
	pieceMax    = 160 << 10 // bytes of one operation; more than the page cache reads ahead
	historyMax  = 40        // operations that an error tells
	quotedBytes = 16        // bytes that an error tells of each side
)

// Options of an exerciser.
type Options struct {
	Path string // the file, which is made and stays; or a block device
	Base int64  // on a device: where the part that may be written begins, a multiple of 64 KiB
	Size int64  // bytes of the part, or that the file has at most; a multiple of 64 KiB
	Seed uint64
}

// Exerciser is one file at work. It belongs to one goroutine.
type Exerciser struct {
	opt     Options
	rand    *rand.Rand
	file    *os.File // through the page cache; none of a device
	direct  *os.File // O_DIRECT
	block   int64    // what collapse and insert must keep to
	sector  int64    // what O_DIRECT must keep to
	model   []byte   // its length is the file's
	buf     []byte   // mapped, and so aligned
	ops     []op
	history []string
	done    map[string]int
}

// New makes the file.
func New(opt Options) (_ *Exerciser, err error) {
	if opt.Size <= 0 || opt.Size%(64<<10) != 0 {
		return nil, fmt.Errorf("exercise %s: a size of %d bytes is not a multiple of 64 KiB", opt.Path, opt.Size)
	}
	e := &Exerciser{opt: opt, rand: rand.New(rand.NewPCG(opt.Seed, 0)), ops: slices.Clone(operations), done: map[string]int{}}
	defer func() {
		if err != nil {
			e.Close()
			err = fmt.Errorf("exercise %s: %w", opt.Path, err)
		}
	}()
	if e.buf, err = unix.Mmap(-1, 0, int(opt.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
		return nil, fmt.Errorf("%d bytes of memory: %w", opt.Size, err)
	}
	if info, err := os.Stat(opt.Path); err == nil && info.Mode()&os.ModeDevice != 0 {
		return e, e.device()
	}
	if e.file, err = os.OpenFile(opt.Path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, err
	}
	if e.direct, err = os.OpenFile(opt.Path, os.O_RDWR|unix.O_DIRECT, 0); err != nil {
		return nil, err
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, opt.Path, 0, unix.STATX_DIOALIGN|unix.STATX_BASIC_STATS, &st); err != nil {
		return nil, fmt.Errorf("statx: %w", err)
	}
	e.block, e.sector = int64(st.Blksize), int64(st.Dio_offset_align)
	if e.sector == 0 { // a file system that does not say
		e.sector = e.block
	}
	return e, nil
}

// Close gives back everything but the file.
func (e *Exerciser) Close() error {
	var errs []error
	for _, f := range []*os.File{e.file, e.direct} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	e.file, e.direct = nil, nil
	if e.buf != nil {
		errs = append(errs, unix.Munmap(e.buf))
		e.buf = nil
	}
	return errors.Join(errs...)
}

// Done is how often each operation was done.
func (e *Exerciser) Done() map[string]int { return maps.Clone(e.done) }

// Step does one operation.
func (e *Exerciser) Step() error {
	i := e.rand.IntN(len(e.ops))
	o := e.ops[i]
	what, err := o.do(e)
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP):
		e.ops = slices.Delete(e.ops, i, i+1)
		return nil
	case err == nil && what == "": // nothing to do it with
		return nil
	case err == nil:
		e.note(o.name + " " + what)
		e.done[o.name]++
		err = e.checkSize()
	default:
		e.note(o.name + " " + what + ": fails")
	}
	if err != nil {
		return fmt.Errorf("%s (seed %d): %s: %w\nthe operations before, the newest last:\n  %s",
			e.opt.Path, e.opt.Seed, o.name, err, strings.Join(e.history, "\n  "))
	}
	return nil
}

// Verify reads all of the file from the disk, past what memory has of it.
func (e *Exerciser) Verify() error {
	all := []op{{"drop", (*Exerciser).drop}, {"read all", (*Exerciser).readAll}}
	if e.file == nil {
		all = all[1:]
	}
	for _, o := range all {
		if _, err := o.do(e); err != nil {
			return fmt.Errorf("%s (seed %d): %s: %w\nthe operations before, the newest last:\n  %s",
				e.opt.Path, e.opt.Seed, o.name, err, strings.Join(e.history, "\n  "))
		}
	}
	return nil
}

func (e *Exerciser) note(line string) {
	if len(e.history) == historyMax {
		e.history = slices.Delete(e.history, 0, 1)
	}
	e.history = append(e.history, line)
}

func (e *Exerciser) checkSize() error {
	if e.file == nil {
		return nil
	}
	info, err := e.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != e.size() {
		return fmt.Errorf("the file has %d bytes and should have %d", info.Size(), e.size())
	}
	return nil
}

// equal holds what is at off against the model.
func (e *Exerciser) equal(off int64, got []byte) error {
	want := e.model[off : off+int64(len(got))]
	if bytes.Equal(got, want) {
		return nil
	}
	i, n := 0, 0
	for j := len(got) - 1; j >= 0; j-- {
		if got[j] != want[j] {
			i = j
			n++
		}
	}
	end := min(i+quotedBytes, len(got))
	return fmt.Errorf("%d bytes of %d at %d differ, the first at byte %d: %x and should be %x", n, len(got), off, off+int64(i), got[i:end], want[i:end])
}

func (e *Exerciser) size() int64 { return int64(len(e.model)) }

// resize sets the model's length; what is new is zeroes.
func (e *Exerciser) resize(size int64) {
	if grown := size - e.size(); grown > 0 {
		e.model = append(e.model, make([]byte, grown)...)
		return
	}
	e.model = e.model[:size]
}
