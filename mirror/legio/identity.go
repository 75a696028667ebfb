package legio

import (
	"fmt"

	"golang.org/x/sys/unix"

	"ft/mirror/legio/loop"
	"ft/mirror/nbd"
)

// DeviceAt is the block device that I/O on a leg at path goes through, as for Inflight:
// the device, or the loop device that is over the file. It opens nothing.
func DeviceAt(path string) (rdev uint64, ok bool) {
	if nbd.IsAddress(path) {
		return 0, false
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, false
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		dev := loop.Over(fullPath(path, &st))
		if dev == "" || unix.Stat(dev, &st) != nil {
			return 0, false
		}
	}
	return st.Rdev, st.Mode&unix.S_IFMT == unix.S_IFBLK
}

// IdentityAt is what a leg opened at path would have as its Identity, "" when that is
// not known. It opens nothing, so that a device that hangs cannot hold it up: ftd knows
// by it whether what has appeared at a path is the part that was there before.
func IdentityAt(path string) string {
	if a, err := nbd.ParseAddress(path); nbd.IsAddress(path) && err == nil {
		return a.String()
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ""
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return deviceIdentity(st.Rdev)
	case unix.S_IFREG:
		return fileIdentity(fullPath(path, &st), &st)
	}
	return ""
}

// fileIdentity names a file that is a leg: a copy of it is another one.
func fileIdentity(full string, st *unix.Stat_t) string {
	return fmt.Sprintf("%s#%d:%d", full, st.Dev, st.Ino)
}
