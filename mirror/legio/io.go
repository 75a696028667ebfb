// Package legio carries I/O to the legs of a mirror: block devices (or files, put
// under a loop device of our own), written asynchronously with io_submit(2) so that
// an event loop never waits for a leg, and with a fault layer for drills.
package legio

import "syscall"

// Op is what an IO does.
type Op uint8

// Operations on a leg.
const (
	Read  Op = iota // fill Buf from Off
	Write           // store Buf at Off
	Flush           // make everything completed before stable
	Zero            // make Len bytes from Off read as zeroes, freeing space where the leg can
)

func (o Op) String() string { return [...]string{"read", "write", "flush", "zero"}[o] }

// IO is one operation on one leg. The submitter owns it until it is submitted, the
// leg until it is completed. Buf must be aligned to 4096 bytes in memory, Off and
// the length to the leg's logical block size.
type IO struct {
	Op   Op
	Side int8  // which leg, 0 or 1; 2 is a device that replaces one
	Off  int64 // bytes
	Len  int64 // bytes; for Read and Write len(Buf)
	Buf  []byte
	Err  syscall.Errno // set at completion, 0 when done; a short transfer is EIO

	// Owner is the engine's, and untouched here.
	Owner any
	// Begun is the engine's: when it was submitted, nanoseconds on its clock.
	Begun int64

	os ioOS // the real backend's part
}
