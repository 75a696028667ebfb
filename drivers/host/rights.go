package host

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Restrict gives up all capabilities but those that are named, of all threads and for good:
// no program that the process executes gets them back (PR_SET_NO_NEW_PRIVS). None named:
// nothing is given up. What the process has not it does not get.
func Restrict(capabilities []int) error {
	if len(capabilities) == 0 {
		return nil
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have, keep [2]unix.CapUserData
	if err := unix.Capget(&hdr, &have[0]); err != nil {
		return fmt.Errorf("read the capabilities of this process: %w", err)
	}
	for _, c := range capabilities {
		if bit := uint32(1) << (c % 32); have[c/32].Permitted&bit != 0 {
			keep[c/32].Permitted |= bit
			keep[c/32].Effective |= bit
		}
	}
	if errno := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno != nil {
		return fmt.Errorf("PR_SET_NO_NEW_PRIVS: %w", errno)
	}
	if errno := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&keep[0])), 0); errno != nil {
		return fmt.Errorf("capset: %w", errno)
	}
	return nil
}

// allThreads makes a system call on every thread; those that come later inherit what it did.
func allThreads(trap, a1, a2, a3 uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, a3, 0, 0, 0)
	switch {
	case errno == 0:
		return nil
	case errors.Is(errno, syscall.ENOTSUP):
		return errors.New("not possible in a binary linked with cgo")
	}
	return errno
}
