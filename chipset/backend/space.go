package backend

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Giving space back, and writing zeroes without sending them.

// zeroes is what is written where nothing better works; page-aligned for O_DIRECT.
var zeroes = sync.OnceValues(func() ([]byte, error) {
	return unix.Mmap(-1, 0, 1<<20, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
})

// blockSize is a block device's size in bytes.
func blockSize(fd int) (int64, error) {
	var size uint64
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size))); e != 0 {
		return 0, e
	}
	return int64(size), nil
}

// discards says whether a block device can forget data.
func discards(fd int) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return false
	}
	dir := fmt.Sprintf("/sys/dev/block/%d:%d/", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	for _, queue := range []string{"queue", "../queue"} { // of a disk, of a partition
		if b, err := os.ReadFile(dir + queue + "/discard_max_bytes"); err == nil {
			n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
			return n > 0
		}
	}
	return false
}

// forget is a discard: advice, so that one that cannot be followed is none that fails.
func (m *media) forget(offset, length int64) error {
	var err error
	if m.block {
		r := [2]uint64{uint64(offset), uint64(length)}
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(m.fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&r))); e != 0 {
			err = e
		}
	} else {
		err = m.allocate(unix.FALLOC_FL_PUNCH_HOLE, offset, length)
	}
	if unsupported(err) {
		return nil
	}
	return err
}

// zero makes a range read as zeroes. The kernel's ways are tried first: punching, which
// gives the space back, if the guest allows it, then zeroing (for block devices see
// blkdev_fallocate in block/fops.c: neither is done by a discard of undefined result).
func (m *media) zero(offset, length int64, unmap bool) error {
	if unmap {
		if err := m.allocate(unix.FALLOC_FL_PUNCH_HOLE, offset, length); !unsupported(err) {
			return err
		}
	}
	if err := m.allocate(unix.FALLOC_FL_ZERO_RANGE, offset, length); !unsupported(err) {
		return err
	}
	return m.writeZeroes(offset, length)
}

// writeZeroes does it by hand.
func (m *media) writeZeroes(offset, length int64) error {
	p, err := zeroes()
	if err != nil {
		return err
	}
	for length > 0 {
		n := min(length, int64(len(p)))
		if err := m.write(p[:n], offset); err != nil {
			return err
		}
		offset, length = offset+n, length-n
	}
	return nil
}

func (m *media) allocate(mode uint32, offset, length int64) error {
	for {
		err := unix.Fallocate(m.fd, mode|unix.FALLOC_FL_KEEP_SIZE, offset, length)
		if err != unix.EINTR {
			return err
		}
	}
}

// unsupported says whether an error means that a way is not there, rather than failed.
func unsupported(err error) bool {
	return err == unix.EOPNOTSUPP || err == unix.ENOSYS || err == unix.ENOTTY
}
