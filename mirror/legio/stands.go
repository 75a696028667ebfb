package legio

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// standsMax is how many devices may lie one on the other below a path that is looked at.
const standsMax = 16

// StandsOn says whether what lies at path, a file or a block device, is the device rdev or
// stands on it: in a file system there, as a partition of it, under a loop device or a mapped
// one. A leg that stands on its own mirror's face waits for itself.
func StandsOn(path string, rdev uint64) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, fmt.Errorf("look what %s stands on: %w", path, err)
	}
	return standsOn(deviceOf(&st), rdev, standsMax)
}

// deviceOf is the block device that something is, or whose file system it lies in.
func deviceOf(st *unix.Stat_t) uint64 {
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return st.Rdev
	}
	return st.Dev
}

func standsOn(dev, rdev uint64, left int) (bool, error) {
	if dev == rdev {
		return true, nil
	}
	if left == 0 {
		return false, fmt.Errorf("more than %d devices lie one on the other", standsMax)
	}
	below, err := devicesBelow(dev)
	for _, b := range below {
		if on, err := standsOn(b, rdev, left-1); on || err != nil {
			return on, err
		}
	}
	return false, err
}

// devicesBelow are those that a device stands on itself.
func devicesBelow(dev uint64) (below []uint64, err error) {
	dir := sysfsDir(dev)
	if whole := diskDir(dev); whole != dir { // a partition
		if n, ok := numberIn(whole); ok {
			below = append(below, n)
		}
		return below, nil
	}
	slaves, _ := filepath.Glob(filepath.Join(dir, "slaves", "*"))
	for _, s := range slaves {
		if n, ok := numberIn(s); ok {
			below = append(below, n)
		}
	}
	file := readLine(filepath.Join(dir, "loop", "backing_file"))
	if file == "" {
		return below, nil // no loop device, or one with nothing under it
	}
	var st unix.Stat_t
	switch err := unix.Stat(file, &st); {
	case err == nil:
		below = append(below, deviceOf(&st))
	case !errors.Is(err, unix.ENOENT): // it was deleted, or is another namespace's
		return below, fmt.Errorf("look what the loop device over %s stands on: %w", file, err)
	}
	return below, nil
}

// numberIn reads the number of a device from its directory in sysfs.
func numberIn(dir string) (uint64, bool) {
	var major, minor uint32
	if _, err := fmt.Sscanf(readLine(filepath.Join(dir, "dev")), "%d:%d", &major, &minor); err != nil {
		return 0, false
	}
	return unix.Mkdev(major, minor), true
}
