package nbdserver

// The socket's name: made, taken over, removed.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const (
	backlog = 64
	// newSuffix: a socket is bound beside its place and then moved there, so that the name
	// always leads to a socket that listens.
	newSuffix = ".new"
	// PathBytesMax is the longest path that a socket can have (sun_path, less the suffix).
	PathBytesMax = 107 - len(newSuffix)
)

// Listen makes a listening socket at path. What was left there by a process that is gone is
// replaced, and its owner and mode are kept; else it is for root alone.
func Listen(path string) (fd int, err error) {
	if len(path) > PathBytesMax {
		return -1, fmt.Errorf("NBD socket %s: a path of a socket has at most %d bytes", path, PathBytesMax)
	}
	owner, group, mode := -1, -1, uint32(0o600)
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return -1, fmt.Errorf("NBD socket %s: %w", path, err)
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return -1, fmt.Errorf("NBD socket %s: there is something that is no socket; remove it, or name another path", path)
	case served(path):
		return -1, fmt.Errorf("NBD socket %s: another process serves it; name another path", path)
	default:
		owner, group, mode = int(st.Uid), int(st.Gid), st.Mode&0o777
	}
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("NBD socket %s: %w", path, err)
	}
	temp := path + newSuffix
	defer func() {
		if err != nil {
			unix.Close(fd)
			os.Remove(temp)
			fd, err = -1, fmt.Errorf("NBD socket %s: %w", path, err)
		}
	}()
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fd, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: temp}); err != nil {
		return fd, fmt.Errorf("bind: %w (does the directory exist?)", err)
	}
	// Nobody can connect before listen, so that the mode holds from the first moment on.
	if err := unix.Chmod(temp, mode); err != nil {
		return fd, err
	}
	if err := keepOwner(temp, owner, group); err != nil {
		return fd, err
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return fd, err
	}
	return fd, os.Rename(temp, path)
}

// keepOwner gives a socket the owner and group that the one before it had, if any. Under systemd the
// driver may give nothing away (see ft-keeper.service), and mostly need not.
func keepOwner(path string, owner, group int) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if owner < 0 || int(st.Uid) == owner && int(st.Gid) == group {
		return nil
	}
	err := unix.Chown(path, owner, group)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("it belonged to %d:%d before, and this process may not give files away: remove it, and put it into a directory with the set-group-ID bit, whose group its clients are in: %w", owner, group, err)
	}
	return err
}

// served says whether somebody listens at path.
func served(path string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	return err == nil || errors.Is(err, unix.EAGAIN) // EAGAIN: many wait already
}

// ErrNotOurs says that a descriptor is not the listening socket at a path.
var ErrNotOurs = errors.New("it is not the listening socket of this path")

// Adopt takes over the listening socket that a predecessor left. After an error it is still
// the caller's.
func Adopt(fd int, path string) error {
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || listening == 0 {
		return fmt.Errorf("NBD socket left by the predecessor: %w", ErrNotOurs)
	}
	sa, err := unix.Getsockname(fd)
	if u, ok := sa.(*unix.SockaddrUnix); err != nil || !ok || u.Name != path+newSuffix {
		return fmt.Errorf("NBD socket left by the predecessor: %w", ErrNotOurs)
	}
	if !served(path) {
		return fmt.Errorf("NBD socket left by the predecessor: nothing listens at %s: %w", path, ErrNotOurs)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("NBD socket left by the predecessor: %w", err)
	}
	return nil
}

// Remove takes the socket's name away.
func Remove(path string) error {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil
	}
	return os.Remove(path)
}
