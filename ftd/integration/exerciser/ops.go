package exerciser

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// op is an operation. do does it on the file and on the model and says with what; "" when
// there was nothing that it could have been done with.
type op struct {
	name string
	do   func(*Exerciser) (string, error)
}

var operations = []op{
	{"read", (*Exerciser).read},
	{"read direct", (*Exerciser).readDirect},
	{"read mapped", (*Exerciser).readMapped},
	{"write", (*Exerciser).write},
	{"write direct", (*Exerciser).writeDirect},
	{"write mapped", (*Exerciser).writeMapped},
	{"truncate", (*Exerciser).truncate},
	{"allocate", (*Exerciser).allocate},
	{"punch", (*Exerciser).punch},
	{"zero", (*Exerciser).zero},
	{"collapse", (*Exerciser).collapse},
	{"insert", (*Exerciser).insert},
	{"copy range", (*Exerciser).copyRange},
	{"clone range", (*Exerciser).cloneRange},
	{"fsync", (*Exerciser).fsync},
	{"fdatasync", (*Exerciser).fdatasync},
	{"sync range", (*Exerciser).syncRange},
	{"drop", (*Exerciser).drop},
}

// span draws a place below limit and a length that ends there at the latest, both multiples
// of align. The length is 0 when there is no such place.
func (e *Exerciser) span(limit, align int64) (off, n int64) {
	if limit < align {
		return 0, 0
	}
	off = e.rand.Int64N(limit/align) * align
	most := min(pieceMax, limit-off) / align
	return off, (1 + e.rand.Int64N(most)) * align
}

// fill makes new bytes at the beginning of the buffer.
func (e *Exerciser) fill(n int64) []byte {
	p := e.buf[:n]
	for i := 0; i < len(p); i += 8 {
		v := e.rand.Uint64() | 0x0101010101010101 // no zeroes: those are holes
		for j := i; j < min(i+8, len(p)); j, v = j+1, v>>8 {
			p[j] = byte(v)
		}
	}
	return p
}

// written takes what is on the file over to the model.
func (e *Exerciser) written(off int64, p []byte) {
	if end := off + int64(len(p)); end > e.size() {
		e.resize(end)
	}
	copy(e.model[off:], p)
}

func span(off, n int64) string { return fmt.Sprintf("%d at %d", n, off) }

func (e *Exerciser) readFrom(f *os.File, align int64) (string, error) {
	off, n := e.span((e.size()+align-1)/align*align, align)
	if n == 0 {
		return "", nil
	}
	want := min(n, e.size()-off) // the file may end within a block
	got, err := f.ReadAt(e.buf[:n], e.opt.Base+off)
	if err != nil && !errors.Is(err, io.EOF) {
		return span(off, n), err
	}
	if int64(got) != want {
		return span(off, n), fmt.Errorf("%d bytes were read of a file of %d", got, e.size())
	}
	return span(off, n), e.equal(off, e.buf[:got])
}

func (e *Exerciser) read() (string, error)       { return e.readFrom(e.file, 1) }
func (e *Exerciser) readDirect() (string, error) { return e.readFrom(e.direct, e.sector) }

func (e *Exerciser) writeTo(f *os.File, align int64) (string, error) {
	off, n := e.span(e.opt.Size, align)
	p := e.fill(n)
	if _, err := f.WriteAt(p, e.opt.Base+off); err != nil {
		return span(off, n), err
	}
	e.written(off, p)
	return span(off, n), nil
}

func (e *Exerciser) write() (string, error)       { return e.writeTo(e.file, 1) }
func (e *Exerciser) writeDirect() (string, error) { return e.writeTo(e.direct, e.sector) }

// mapped gives f the bytes [off, off+n) of a shared map, and what its last page has behind
// the file's end.
func (e *Exerciser) mapped(off, n int64, prot int, f func(p, behind []byte) error) error {
	start := off / pageBytes * pageBytes
	end := (off + n + pageBytes - 1) / pageBytes * pageBytes
	m, err := unix.Mmap(int(e.file.Fd()), start, int(end-start), prot, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	var behind []byte
	if end > e.size() {
		behind = m[e.size()-start:]
	}
	return errors.Join(f(m[off-start:off-start+n], behind), unix.Munmap(m))
}

func (e *Exerciser) readMapped() (string, error) {
	off, n := e.span(e.size(), 1)
	if n == 0 {
		return "", nil
	}
	return span(off, n), e.mapped(off, n, unix.PROT_READ, func(p, behind []byte) error {
		for i, b := range behind {
			if b != 0 {
				return fmt.Errorf("behind the file's end, at byte %d, is %#x", e.size()+int64(i), b)
			}
		}
		return e.equal(off, p)
	})
}

func (e *Exerciser) writeMapped() (string, error) {
	off, n := e.span(e.size(), 1)
	if n == 0 {
		return "", nil
	}
	durable := e.rand.IntN(4) == 0
	return span(off, n), e.mapped(off, n, unix.PROT_READ|unix.PROT_WRITE, func(p, _ []byte) error {
		copy(p, e.fill(n))
		e.written(off, e.buf[:n])
		if durable {
			return unix.Fsync(int(e.file.Fd()))
		}
		return nil
	})
}

func (e *Exerciser) truncate() (string, error) {
	size := e.rand.Int64N(e.opt.Size + 1)
	if e.rand.IntN(4) == 0 {
		size = size / e.block * e.block
	}
	if err := e.file.Truncate(size); err != nil {
		return fmt.Sprintf("to %d", size), err
	}
	e.resize(size)
	return fmt.Sprintf("to %d", size), nil
}

func (e *Exerciser) fallocate(mode uint32, off, n int64) error {
	err := unix.Fallocate(int(e.file.Fd()), mode, off, n)
	if err != nil {
		return fmt.Errorf("fallocate: %w", err)
	}
	return nil
}

func (e *Exerciser) allocate() (string, error) {
	off, n := e.span(e.opt.Size, 1)
	mode := uint32(e.rand.IntN(2)) * unix.FALLOC_FL_KEEP_SIZE
	if err := e.fallocate(mode, off, n); err != nil {
		return span(off, n), err
	}
	if mode == 0 {
		e.resize(max(e.size(), off+n))
	}
	return span(off, n), nil
}

// cleared makes zeroes of a range in the model, as far as the file has it.
func (e *Exerciser) cleared(off, n int64) {
	if off < e.size() {
		clear(e.model[off:min(off+n, e.size())])
	}
}

func (e *Exerciser) punch() (string, error) {
	off, n := e.span(e.opt.Size, 1)
	if err := e.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n); err != nil {
		return span(off, n), err
	}
	e.cleared(off, n)
	return span(off, n), nil
}

func (e *Exerciser) zero() (string, error) {
	off, n := e.span(e.opt.Size, 1)
	keep := uint32(e.rand.IntN(2)) * unix.FALLOC_FL_KEEP_SIZE
	if err := e.fallocate(unix.FALLOC_FL_ZERO_RANGE|keep, off, n); err != nil {
		return span(off, n), err
	}
	if keep == 0 {
		e.resize(max(e.size(), off+n))
	}
	e.cleared(off, n)
	return span(off, n), nil
}

func (e *Exerciser) collapse() (string, error) {
	off, n := e.span((e.size()-1)/e.block*e.block, e.block) // it must not reach the end
	if n == 0 {
		return "", nil
	}
	if err := e.fallocate(unix.FALLOC_FL_COLLAPSE_RANGE, off, n); err != nil {
		return span(off, n), err
	}
	e.model = append(e.model[:off], e.model[off+n:]...)
	return span(off, n), nil
}

func (e *Exerciser) insert() (string, error) {
	room := (e.opt.Size - e.size()) / e.block * e.block
	off, _ := e.span(e.size()/e.block*e.block, e.block)
	if room == 0 || off >= e.size() { // it must begin within the file
		return "", nil
	}
	n := (1 + e.rand.Int64N(min(room, pieceMax)/e.block)) * e.block
	if err := e.fallocate(unix.FALLOC_FL_INSERT_RANGE, off, n); err != nil {
		return span(off, n), err
	}
	behind := append(make([]byte, n), e.model[off:]...)
	e.model = append(e.model[:off], behind...)
	return span(off, n), nil
}

// twoSpans draws a range of the file and a place for it that does not touch it.
func (e *Exerciser) twoSpans(align int64) (from, to, n int64) {
	from, n = e.span(e.size()/align*align, align)
	if n == 0 {
		return 0, 0, 0
	}
	to = e.rand.Int64N((e.opt.Size-n)/align+1) * align
	if to < from+n && from < to+n {
		return 0, 0, 0
	}
	return from, to, n
}

func (e *Exerciser) copyRange() (string, error) {
	from, to, n := e.twoSpans(1)
	if n == 0 {
		return "", nil
	}
	what := fmt.Sprintf("%d from %d to %d", n, from, to)
	fd := int(e.file.Fd())
	for in, out, left := from, to, int(n); left > 0; {
		copied, err := unix.CopyFileRange(fd, &in, fd, &out, left, 0)
		if err != nil {
			return what, fmt.Errorf("copy_file_range: %w", err)
		}
		if copied == 0 {
			return what, fmt.Errorf("copy_file_range: %d bytes of %d are not copied", left, n)
		}
		left -= copied
	}
	e.written(to, append([]byte(nil), e.model[from:from+n]...))
	return what, nil
}

func (e *Exerciser) cloneRange() (string, error) {
	from, to, n := e.twoSpans(e.block)
	if n == 0 {
		return "", nil
	}
	what := fmt.Sprintf("%d from %d to %d", n, from, to)
	err := unix.IoctlFileCloneRange(int(e.file.Fd()), &unix.FileCloneRange{Src_fd: int64(e.file.Fd()),
		Src_offset: uint64(from), Src_length: uint64(n), Dest_offset: uint64(to)})
	if err != nil {
		return what, fmt.Errorf("FICLONERANGE: %w", err)
	}
	e.written(to, append([]byte(nil), e.model[from:from+n]...))
	return what, nil
}

func (e *Exerciser) fsync() (string, error) { return "all", e.file.Sync() }

func (e *Exerciser) fdatasync() (string, error) { return "all", unix.Fdatasync(int(e.direct.Fd())) }

func (e *Exerciser) syncRange() (string, error) {
	off, n := e.span(e.size(), 1)
	if n == 0 {
		return "", nil
	}
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return span(off, n), unix.SyncFileRange(int(e.file.Fd()), off, n, all)
}

// drop makes memory forget the file: what is read next comes from the disk.
func (e *Exerciser) drop() (string, error) {
	fd := int(e.file.Fd())
	return "all", errors.Join(e.file.Sync(), unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED))
}

func (e *Exerciser) readAll() (string, error) {
	f := e.file
	if f == nil {
		f = e.direct
	}
	n, err := f.ReadAt(e.buf[:e.size()], e.opt.Base)
	if err != nil && !errors.Is(err, io.EOF) {
		return "all", err
	}
	if int64(n) != e.size() {
		return "all", fmt.Errorf("%d bytes were read of a file of %d", n, e.size())
	}
	return "all", e.equal(0, e.buf[:n])
}
