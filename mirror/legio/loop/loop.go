// Package loop puts files under loop devices that go by themselves: the kernel
// detaches them with the last descriptor (AUTOCLEAR), so that also a process that is
// killed leaves none behind.
package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tries bounds the race for a free loop device with others who attach one.
const tries = 32

// Attach binds a free loop device to the open file, with direct I/O where its file
// system has that. name is what losetup shows. The descriptor fd of the device keeps it
// until somebody else has opened it; the caller closes it.
func Attach(file int, name string) (dev string, fd int, err error) {
	ctl, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", -1, fmt.Errorf("open /dev/loop-control: %w", err)
	}
	defer unix.Close(ctl)
	cfg := unix.LoopConfig{Fd: uint32(file)}
	cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], name)
	for range tries {
		n, err := unix.IoctlRetInt(ctl, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", -1, fmt.Errorf("ask for a free loop device: %w", err)
		}
		dev = fmt.Sprintf("/dev/loop%d", n)
		fd, err = unix.Open(dev, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EBUSY) {
				continue // being removed, or held by another who asked
			}
			return "", -1, fmt.Errorf("open %s: %w", dev, err)
		}
		err = unix.IoctlLoopConfigure(fd, &cfg)
		if err == nil {
			// A number that somebody set read-only once (blockdev --setro) stays so
			// over its next uses.
			if err := unix.IoctlSetPointerInt(fd, unix.BLKROSET, 0); err != nil {
				unix.Close(fd)
				return "", -1, fmt.Errorf("make %s writable: %w", dev, err)
			}
			return dev, fd, nil
		}
		unix.Close(fd)
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EAGAIN) {
			return "", -1, fmt.Errorf("bind %s: %w", dev, err)
		}
	}
	return "", -1, fmt.Errorf("no free loop device after %d tries: %w", tries, unix.EBUSY)
}

// Over is the loop device that has the file, by its full path, under it; or "".
func Over(file string) string {
	found, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range found {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSuffix(string(b), "\n") == file {
			return "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(f)))
		}
	}
	return ""
}

// Stays says whether the loop device has its file until somebody detaches it. One that
// goes with its last descriptor does not, nor does one that has gone just now.
func Stays(dev string) bool {
	b, err := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/loop/autoclear")
	return err == nil && strings.TrimSpace(string(b)) == "0"
}

// Bound says whether the loop device has a file under it.
func Bound(dev string) bool { return File(dev) != "" }

// File is what the loop device has under it, "" for nothing. A number that has become free is
// the first that others are given.
func File(dev string) string {
	b, err := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/loop/backing_file")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}
