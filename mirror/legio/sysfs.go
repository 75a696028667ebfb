package legio

// What the kernel says in sysfs about a block device. None of this asks the device.

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func sysfsDir(rdev uint64) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(rdev), unix.Minor(rdev))
}

// diskDir is the directory of the whole disk, also when rdev is a partition.
func diskDir(rdev uint64) string {
	dir := sysfsDir(rdev)
	if _, err := os.Stat(dir + "/partition"); err == nil {
		// The link is resolved first: ".." of a symbolic link is not its target's.
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Dir(real)
		}
	}
	return dir
}

func blockPresent(rdev uint64) bool {
	_, err := os.Stat(sysfsDir(rdev))
	return err == nil
}

// blockBytes is the size of the open block device.
func blockBytes(fd int) (int64, error) {
	var n uint64
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n))); e != 0 {
		return 0, e
	}
	return int64(n), nil
}

func readLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func readInt(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

func readSysfsInt(rdev uint64, name string) (int, error) {
	return readInt(filepath.Join(sysfsDir(rdev), name))
}

// Inflight is how many requests the kernel has under way on a block device, whoever
// gave them: also those of a process that has died.
func Inflight(rdev uint64) (int, error) {
	b, err := os.ReadFile(sysfsDir(rdev) + "/inflight")
	if err != nil {
		return 0, fmt.Errorf("count the requests in flight: %w", err)
	}
	var reads, writes int
	if _, err := fmt.Sscan(string(b), &reads, &writes); err != nil {
		return 0, fmt.Errorf("count the requests in flight: %q in %s/inflight: %w", b, sysfsDir(rdev), err)
	}
	return reads + writes, nil
}

// limits are those of a device's request queue.
type limits struct {
	requests   int // tags a hardware queue
	maxBytes   int // of one request
	maxSegment int // separate pieces of memory in one request
}

func queueLimits(rdev uint64) (limits, error) {
	dir := diskDir(rdev) + "/queue/"
	var q limits
	for name, v := range map[string]*int{"nr_requests": &q.requests, "max_sectors_kb": &q.maxBytes, "max_segments": &q.maxSegment} {
		n, err := readInt(dir + name)
		if err != nil {
			return limits{}, err
		}
		*v = n
	}
	q.maxBytes *= 1024
	return q, nil
}

// requestBytes is what one request is sure to carry, however its pages lie in memory:
// larger I/O the kernel would split, and a split one may not be submitted with NOWAIT.
func (q limits) requestBytes() int64 {
	n := q.maxBytes
	if q.maxSegment > 0 {
		n = min(n, q.maxSegment*align)
	}
	return int64(max(align, n&^(align-1)))
}

// deviceIdentity is what the disk calls itself, and which partition of it this is.
func deviceIdentity(rdev uint64) string {
	disk := diskDir(rdev)
	suffix := ""
	if n := readLine(sysfsDir(rdev) + "/partition"); n != "" {
		suffix = "-part" + n
	}
	for _, name := range []string{"dm/uuid", "md/uuid", "wwid", "device/wwid", "serial", "device/serial", "loop/backing_file"} {
		// A file on a detached mount shows as "/", which names nothing.
		if id := readLine(filepath.Join(disk, name)); id != "" && id != "/" {
			return id + suffix
		}
	}
	return ""
}
