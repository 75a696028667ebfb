package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ft/chipset/virtio"
)

// media is a block device or a file, opened and claimed: what a disk's I/O is done on.
type media struct {
	path     string
	fd       int
	block    bool // device
	readOnly bool
	direct   bool // past the page cache
	discard  bool // space can be given back
	size     int64
	logical  uint32
	physical uint32
	optimal  uint32
}

var (
	errNotSupported = fmt.Errorf("not supported")
	errEnd          = fmt.Errorf("the device ends before that")
)

// Errors of opening, for those who decide by them.
var (
	// ErrInUse says that somebody else uses the disk.
	ErrInUse = errors.New("in use elsewhere")
	// ErrUnfit says that it is no disk, or not one that a machine can have.
	ErrUnfit = errors.New("cannot be a machine's disk")
)

// logicalMax is the largest logical block that a virtio disk can have here.
const logicalMax = 16 << 10

func openMedia(path string, readOnly bool) (media, error) {
	m := media{path: path, readOnly: readOnly}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return m, err
	}
	flags := unix.O_CLOEXEC | unix.O_RDWR
	if readOnly {
		flags = unix.O_CLOEXEC | unix.O_RDONLY
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		m.block = true
		flags |= unix.O_EXCL // a claim on the device, see open(2)
	case unix.S_IFREG:
		if by := loopOver(&st); by != "" {
			return m, fmt.Errorf("%w: %s is a loop device over it; use that, or detach it", ErrInUse, by)
		}
	default:
		return m, fmt.Errorf("%w: it is neither a block device nor a regular file", ErrUnfit)
	}
	if err := m.open(flags, &st); err != nil {
		return m, err
	}
	err := m.claim()
	if err == nil {
		err = m.measure()
	}
	if err == nil && m.size == 0 {
		err = fmt.Errorf("%w: it is empty", ErrUnfit)
	}
	if err != nil {
		unix.Close(m.fd)
		return m, err
	}
	return m, nil
}

// open opens the file that st describes, past the page cache if it can.
func (m *media) open(flags int, st *unix.Stat_t) (err error) {
	for _, direct := range []bool{true, false} {
		m.direct = direct
		f := flags
		if direct {
			f |= unix.O_DIRECT
		}
		m.fd, err = ignoringInterrupts(func() (int, error) { return unix.Open(m.path, f, 0) })
		if !errors.Is(err, unix.EINVAL) { // what a file system without O_DIRECT says
			break
		}
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %s", ErrInUse, holder(m.path, st))
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES) && os.Geteuid() == 0:
		return fmt.Errorf("it can only be read: %w", err)
	}
	return err
}

// claim keeps others off a file, as O_EXCL keeps them off a block device. Readers may share.
func (m *media) claim() error {
	if m.block {
		return nil
	}
	how := unix.LOCK_EX
	if m.readOnly {
		how = unix.LOCK_SH
	}
	err := unix.Flock(m.fd, how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: another process has locked it (flock)", ErrInUse)
	}
	return err
}

// measure finds out size and blocks.
func (m *media) measure() error {
	if m.block {
		return m.measureBlock()
	}
	var st unix.Stat_t
	if err := unix.Fstat(m.fd, &st); err != nil {
		return err
	}
	m.logical, m.physical, m.discard = virtio.SectorSize, 4096, true
	var x unix.Statx_t
	err := unix.Statx(m.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &x)
	switch known := err == nil && x.Mask&unix.STATX_DIOALIGN != 0; {
	case !m.direct:
	case known && x.Dio_offset_align > 0 && x.Dio_offset_align <= logicalMax:
		m.logical = max(m.logical, x.Dio_offset_align)
	default: // an alignment that is not known, or that no disk has
		return m.buffered(st.Size)
	}
	m.physical = max(m.physical, m.logical)
	m.size = st.Size &^ int64(m.logical-1)
	return nil
}

// buffered turns to the page cache.
func (m *media) buffered(size int64) error {
	flags, err := unix.FcntlInt(uintptr(m.fd), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(m.fd), unix.F_SETFL, flags&^unix.O_DIRECT)
	}
	if err != nil {
		return fmt.Errorf("turn direct I/O off: %w", err)
	}
	m.direct = false
	m.size = size &^ (virtio.SectorSize - 1)
	return nil
}

func (m *media) measureBlock() error {
	logical, err := unix.IoctlGetInt(m.fd, unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("ask for its logical block: %w", err)
	}
	if logical > logicalMax {
		return fmt.Errorf("%w: its logical blocks of %d bytes are larger than %d", ErrUnfit, logical, logicalMax)
	}
	physical, err := unix.IoctlGetUint32(m.fd, unix.BLKPBSZGET)
	if err != nil {
		return fmt.Errorf("ask for its physical block: %w", err)
	}
	size, err := blockSize(m.fd)
	if err != nil {
		return fmt.Errorf("ask for its size: %w", err)
	}
	m.logical, m.physical = uint32(logical), min(max(physical, uint32(logical)), 1<<20)
	m.size = size &^ int64(m.logical-1)
	if optimal, err := unix.IoctlGetUint32(m.fd, unix.BLKIOOPT); err == nil && optimal%m.logical == 0 {
		m.optimal = optimal
	}
	if ro, err := unix.IoctlGetInt(m.fd, unix.BLKROGET); err == nil && ro != 0 && !m.readOnly {
		return fmt.Errorf("it can only be read: %w", unix.EROFS)
	}
	m.discard = discards(m.fd)
	return nil
}

func (m *media) close() error { return unix.Close(m.fd) }

// ignoringInterrupts calls f until it was not interrupted by a signal.
func ignoringInterrupts(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (m *media) read(p []byte, offset int64) error {
	for len(p) > 0 {
		n, err := unix.Pread(m.fd, p, offset)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return errEnd
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

func (m *media) write(p []byte, offset int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(m.fd, p, offset)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return errEnd
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

func (m *media) flush() error {
	_, err := ignoringInterrupts(func() (int, error) { return 0, unix.Fdatasync(m.fd) })
	return err
}

// status is what the guest is told of an error.
func status(err error) virtio.Status {
	switch {
	case err == nil:
		return virtio.OK
	case errors.Is(err, errNotSupported):
		return virtio.Unsupported
	}
	return virtio.IOError
}

// loopOver is the loop device over a file, "" where there is none.
func loopOver(st *unix.Stat_t) string {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		name, err := os.ReadFile(f)
		if err != nil {
			continue // detached meanwhile
		}
		var other unix.Stat_t
		if unix.Stat(strings.TrimSuffix(string(name), "\n"), &other) == nil && other.Dev == st.Dev && other.Ino == st.Ino {
			return "/dev/" + strings.Split(f, "/")[3]
		}
	}
	return ""
}

// holder says who has a block device, as far as can be seen.
func holder(path string, st *unix.Stat_t) string {
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); len(f) > 4 && f[2] == fmt.Sprintf("%d:%d", major, minor) {
				return "it is mounted on " + f[4]
			}
		}
	}
	held, _ := filepath.Glob(fmt.Sprintf("/sys/dev/block/%d:%d/holders/*", major, minor))
	if len(held) > 0 {
		return "it is a part of " + filepath.Base(held[0])
	}
	return "another process has claimed it"
}
