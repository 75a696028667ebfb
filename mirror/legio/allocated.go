package legio

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Range is a range of a leg, from where the one before it ends.
type Range struct {
	Len  int64 // bytes
	Hole bool  // nothing is stored there: it reads as zeroes
}

// errNotKnown: what is allocated cannot be found out.
var errNotKnown = errors.New("what is allocated on it cannot be known")

// Allocated tells where a leg has holes, for a leg that is a file under a loop device: at
// most most ranges from off on, which may end before n bytes. It asks the file's file
// system, and may wait for that.
func (l *Leg) Allocated(off, n int64, most int) ([]Range, error) {
	if l.remote != nil {
		return nil, errNotKnown
	}
	if !l.acquire() {
		return nil, syscall.ENODEV
	}
	defer l.release()
	info, err := unix.IoctlLoopGetStatus64(l.fd)
	if err != nil {
		return nil, errNotKnown
	}
	path := readLine(filepath.Join(sysfsDir(l.Rdev), "loop/backing_file"))
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotKnown, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG ||
		st.Ino != info.Inode || st.Dev != info.Device {
		return nil, errNotKnown // another file has the name now
	}
	return allocated(fd, int64(info.Offset)+off, n, most)
}

func allocated(fd int, off, n int64, most int) ([]Range, error) {
	var ranges []Range
	for end := off + n; off < end && len(ranges) < most; {
		next, err := unix.Seek(fd, off, unix.SEEK_DATA)
		hole := next > off
		switch {
		case errors.Is(err, unix.ENXIO): // nothing behind it
			hole, next = true, end
		case err != nil:
			return nil, fmt.Errorf("%w: %w", errNotKnown, err)
		case !hole:
			if next, err = unix.Seek(fd, off, unix.SEEK_HOLE); err != nil {
				return nil, fmt.Errorf("%w: %w", errNotKnown, err)
			}
		}
		next = min(next, end)
		ranges = append(ranges, Range{Len: next - off, Hole: hole})
		off = next
	}
	return ranges, nil
}

// ZeroesFast says whether a range is made to read as zeroes without writing as much, as far
// as that is known.
func (l *Leg) ZeroesFast() bool { return zeroMethod(l.zeroing.Load()) != zeroWrite }
