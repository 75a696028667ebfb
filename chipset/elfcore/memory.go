package elfcore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

var zeroPage [pageBytes]byte

func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }

// pieces reads memory from its start on, whole pages in pieces of up to chunkBytes, and
// leaves out what is a hole in a file. p is valid during the call alone.
func pieces(ctx context.Context, c *Config, take func(from uint64, p []byte) error) error {
	buf := make([]byte, min(chunkBytes, c.Size))
	for at := uint64(0); at < c.Size; {
		from, to := c.extent(at)
		for at = from; at < to; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			p := buf[:min(uint64(len(buf)), to-at)]
			if err := c.read(at, p); err != nil {
				return err
			}
			if err := take(at, p); err != nil {
				return err
			}
			at += uint64(len(p))
		}
	}
	return nil
}

// extent is the next part of memory from at on that may be something else than zeros.
func (c *Config) extent(at uint64) (from, to uint64) {
	f, ok := c.Memory.(*os.File)
	if !ok {
		return at, c.Size
	}
	data, err := unix.Seek(int(f.Fd()), int64(at), unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return c.Size, c.Size
	}
	if err != nil { // a file that cannot tell
		return at, c.Size
	}
	hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
	if err != nil {
		return at, c.Size
	}
	from = min(uint64(data)&^(pageBytes-1), c.Size)
	to = min((uint64(hole)+pageBytes-1)&^(pageBytes-1), c.Size)
	return from, to
}

// read fills p with memory from an offset on.
func (c *Config) read(at uint64, p []byte) error {
	if n, err := c.Memory.ReadAt(p, int64(at)); n < len(p) {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes of memory at %#x: %w", len(p), c.Base+at, err)
	}
	return nil
}

// physical reads up to len(p) bytes at a physical address; what is not there is left out.
func (c *Config) physical(addr uint64, p []byte) []byte {
	off := addr - c.Base
	if off >= c.Size {
		return nil
	}
	p = p[:min(uint64(len(p)), c.Size-off)]
	if c.read(off, p) != nil {
		return nil
	}
	return p
}

// output takes a core's bytes in order.
type output interface {
	data(p []byte) error
	zeros(n uint64) error
}

// stream writes zeros as any other bytes.
type stream struct {
	w    io.Writer
	zero []byte
}

func (s *stream) data(p []byte) error {
	_, err := s.w.Write(p)
	return err
}

func (s *stream) zeros(n uint64) error {
	if s.zero == nil {
		s.zero = make([]byte, chunkBytes)
	}
	for n > 0 {
		p := s.zero[:min(n, uint64(len(s.zero)))]
		if err := s.data(p); err != nil {
			return err
		}
		n -= uint64(len(p))
	}
	return nil
}

// file makes holes of zeros.
type file struct {
	f  *os.File
	at int64
}

func (f *file) data(p []byte) error {
	n, err := f.f.WriteAt(p, f.at)
	f.at += int64(n)
	return err
}

func (f *file) zeros(n uint64) error {
	f.at += int64(n)
	return nil
}

// finish gives the file its length and waits until it is on the disk.
func (f *file) finish() error {
	if err := errors.Join(f.f.Truncate(f.at), f.f.Sync()); err != nil {
		return fmt.Errorf("write a core to the disk: %w", err)
	}
	return nil
}
