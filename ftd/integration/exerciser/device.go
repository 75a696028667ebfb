package exerciser

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

var deviceOperations = []op{
	{"read direct", (*Exerciser).readDirect},
	{"write direct", (*Exerciser).writeDirect},
	{"discard", (*Exerciser).discard},
	{"zero out", (*Exerciser).zeroOut},
	{"fdatasync", (*Exerciser).fdatasync},
}

// device begins with a part of a block device, which it clears.
func (e *Exerciser) device() (err error) {
	if e.direct, err = os.OpenFile(e.opt.Path, os.O_RDWR|unix.O_DIRECT, 0); err != nil {
		return err
	}
	sector, err := unix.IoctlGetInt(int(e.direct.Fd()), unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("BLKSSZGET: %w", err)
	}
	e.sector, e.ops = int64(sector), append([]op(nil), deviceOperations...)
	e.resize(e.opt.Size)
	return e.rangeIoctl("BLKZEROOUT", unix.BLKZEROOUT, 0, e.opt.Size)
}

func (e *Exerciser) rangeIoctl(name string, request uintptr, off, n int64) error {
	place := [2]uint64{uint64(e.opt.Base + off), uint64(n)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, e.direct.Fd(), request, uintptr(unsafe.Pointer(&place))); errno != 0 {
		return fmt.Errorf("%s: %w", name, errno)
	}
	return nil
}

// discard: what is discarded of a face reads as zeroes.
func (e *Exerciser) discard() (string, error) {
	return e.clearedBy("BLKDISCARD", unix.BLKDISCARD)
}

func (e *Exerciser) zeroOut() (string, error) {
	return e.clearedBy("BLKZEROOUT", unix.BLKZEROOUT)
}

func (e *Exerciser) clearedBy(name string, request uintptr) (string, error) {
	off, n := e.span(e.opt.Size, e.sector)
	if err := e.rangeIoctl(name, request, off, n); err != nil {
		return span(off, n), err
	}
	e.cleared(off, n)
	return span(off, n), nil
}
