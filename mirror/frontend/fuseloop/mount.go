package fuseloop

// FUSE connections and their mounts.

import (
	"errors"
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openFuse opens a description of /dev/fuse, with a number above another descriptor's
// (see the note on the order of descriptors at Descriptors).
func openFuse(above int) (int, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w (is FUSE in this kernel? `modprobe fuse`)", err)
	}
	defer closeAll(fd)
	return renumber(fd, above)
}

// renumber duplicates a descriptor to a number above another's.
func renumber(fd, above int) (int, error) {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, above+1)
	if err != nil {
		return -1, fmt.Errorf("duplicate a descriptor of /dev/fuse: %w", err)
	}
	return fd, nil
}

// cloneFuse opens a further description of the connection that fuse belongs to, with a
// higher number.
func cloneFuse(fuse int) (int, error) {
	fd, err := openFuse(fuse)
	if err != nil {
		return -1, err
	}
	source := uint32(fuse)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), devIocClone, uintptr(unsafe.Pointer(&source))); errno != 0 {
		closeAll(fd)
		return -1, fmt.Errorf("clone /dev/fuse: %w", errno)
	}
	return fd, nil
}

// mountDisk mounts a connection's root, a regular file, nowhere. The descriptor holds
// the mount until a file of it is open.
func mountDisk(fuse int, name string) (mount int, err error) {
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen fuse: %w", err)
	}
	defer closeAll(fs)
	for _, kv := range [][2]string{
		{"source", "ft-" + name},
		{"fd", strconv.Itoa(fuse)},
		{"rootmode", "100600"}, // octal S_IFREG | 0600
		{"user_id", "0"},
		{"group_id", "0"},
	} {
		if err := unix.FsconfigSetString(fs, kv[0], kv[1]); err != nil {
			return -1, fmt.Errorf("fsconfig fuse %s=%s: %w", kv[0], kv[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("create the FUSE file system: %w", err)
	}
	mount, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("fsmount fuse: %w", err)
	}
	return mount, nil
}

// connectionOf is the number by which fusectl knows the connection of a mount: its
// device number, whose major part is 0. Asked without asking the server.
func connectionOf(mount int) (uint32, error) {
	var st unix.Statx_t
	err := unix.Statx(mount, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err != nil {
		return 0, fmt.Errorf("statx the FUSE mount: %w", err)
	}
	return st.Dev_minor, nil
}

// abortConnection ends a connection whoever holds descriptors of it: what is in flight
// fails, and so does what comes. It goes by a fusectl mount of its own, as there may be
// none in the system. It is no error if there is no such connection any more.
func abortConnection(connection uint32) error {
	fs, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("abort FUSE connection %d: fsopen fusectl: %w", connection, err)
	}
	defer closeAll(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("abort FUSE connection %d: mount fusectl: %w", connection, err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("abort FUSE connection %d: fsmount fusectl: %w", connection, err)
	}
	defer closeAll(mount)
	fd, err := unix.Openat(mount, fmt.Sprintf("%d/abort", connection), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		_, err = unix.Write(fd, []byte("1"))
		closeAll(fd)
	}
	if err != nil {
		return fmt.Errorf("abort FUSE connection %d: %w", connection, err)
	}
	return nil
}

// connectionAlive reports whether a connection has neither been aborted nor lost its
// mount.
func connectionAlive(fuse int) bool { return !waitGone(fuse, 0) }

// waitGone waits for a connection to end, for at most so many milliseconds. That of no
// descriptor, -1, has ended.
func waitGone(fuse int, milliseconds int) bool {
	if fuse < 0 {
		return true
	}
	// Without an event asked for, only POLLERR, POLLHUP and POLLNVAL come.
	p := []unix.PollFd{{Fd: int32(fuse)}}
	for {
		n, err := unix.Poll(p, milliseconds)
		if err == unix.EINTR {
			continue
		}
		return n > 0
	}
}

// resend makes the kernel send again what predecessors read and did not answer.
func resend(fuse int) error {
	h := outHeader{Len: uint32(outHeaderSize), Error: notifyResend}
	if _, err := unix.Write(fuse, bytesOf(&h)); err != nil {
		return fmt.Errorf("ask for the requests that the predecessor left: FUSE_NOTIFY_RESEND: %w (needs Linux 6.9)", err)
	}
	return nil
}
