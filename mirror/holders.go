package mirror

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// keepers are the processes that hold the face's descriptors for a successor, and so
// are none of its users: the keeper, which is not our parent when it was restarted, and
// pid 1, in whose store a keeper of systemd's puts them.
func (d *driver) keepers() []int {
	pids := []int{1, os.Getppid()}
	if pid := listenerPid(filepath.Join(d.cfg.RunDir, "keeper.sock")); pid > 0 {
		pids = append(pids, pid)
	}
	return pids
}

// listenerPid is the process that listens on a unix socket, as the kernel noted it
// (SO_PEERCRED, unix(7)); 0 when nobody does.
func listenerPid(path string) int {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: path}) != nil {
		return 0
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0
	}
	return int(cred.Pid)
}
