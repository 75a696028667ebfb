package port

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// seals make memory whose size nobody can change: whoever has it mapped can rely on it.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// SealedMemory makes zeroed memory of a size that stays, as a memfd.
func SealedMemory(name string, bytes int64) (fd int, err error) {
	fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // Linux before 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, fmt.Errorf("make memory %s: %w", name, err)
	}
	if err = unix.Ftruncate(fd, bytes); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("make memory %s of %d bytes: %w", name, bytes, err)
	}
	return fd, nil
}

// CheckSealed refuses a descriptor that is not such memory of that size.
func CheckSealed(name string, fd int, bytes int64) error {
	got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return fmt.Errorf("%s is no sealed memory: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at %s: %w", name, err)
	}
	if got&seals != seals || st.Size != bytes {
		return fmt.Errorf("%s has %d bytes and the seals %#x: want %d bytes, sealed", name, st.Size, got, bytes)
	}
	return nil
}

// linux/futex.h
const (
	opFutexWait = 0
	opFutexWake = 1
)

// futexWait sleeps while *w is v, at most for so long. It is shared between processes.
func futexWait(w *uint32, v uint32, timeout *unix.Timespec) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), opFutexWait, uintptr(v), uintptr(unsafe.Pointer(timeout)), 0, 0)
	return errno
}

// futexWake does not wait for anything.
func futexWake(w *uint32) {
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), opFutexWake, 1, 0, 0, 0)
}
