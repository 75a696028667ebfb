package notify

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names of descriptors that the keeper passes for its own purposes.
const (
	GateName        = "gate"        // see Gate
	PredecessorName = "predecessor" // pidfd of a process that is dying but not gone
)

// listenFdsStart is SD_LISTEN_FDS_START.
const listenFdsStart = 3

// gateTimeout is how long a process waits to be let go; the keeper needs less than a
// millisecond.
const gateTimeout = 30 * time.Second

// Inherit takes the descriptors that this process was started with, by name, makes
// them close-on-exec and clears the environment, so that no child takes them for its
// own. Called once, before the process starts any other.
//
// systemd sets LISTEN_PID, and it must be ours. The keeper cannot know the pid before
// the exec; it leaves LISTEN_PID out and sets FT_TOKEN. With neither the variables are
// somebody else's and are ignored.
func Inherit() (map[string][]int, error) {
	count, names := os.Getenv(EnvListenFds), os.Getenv(EnvListenNames)
	pid, kept := os.Getenv(EnvListenPid), os.Getenv(EnvToken) != ""
	for _, v := range []string{EnvListenFds, EnvListenNames, EnvListenPid} {
		os.Unsetenv(v)
	}
	ours := pid == strconv.Itoa(os.Getpid()) || (pid == "" && kept)
	if count == "" || !ours {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("%s=%q is not a number of descriptors", EnvListenFds, count)
	}
	var list []string
	switch {
	case names != "":
		list = strings.Split(names, ":")
	case !kept:
		list = make([]string, n) // systemd need not give names, the keeper always does
	}
	if len(list) != n {
		return nil, fmt.Errorf("%d descriptors, but %d names in %s=%q", n, len(list), EnvListenNames, names)
	}
	fds := map[string][]int{}
	for i, name := range list {
		fd := listenFdsStart + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("descriptor %d (%s), which %s promises: %w", fd, name, EnvListenFds, err)
		}
		fds[name] = append(fds[name], fd)
	}
	return fds, nil
}

// ErrNotLetGo says that the keeper ended before it had written down that this process
// exists. It must exit without having touched anything: nobody would fence it.
var ErrNotLetGo = errors.New("the keeper ended while it started this process")

// Gate waits at the gate in fds, if there is one, and removes it: the keeper opens it
// when it has recorded the process, so that no process is ever at work that a
// restarted keeper would not find.
func Gate(fds map[string][]int) error {
	gates := fds[GateName]
	delete(fds, GateName)
	for _, fd := range gates {
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("the keeper's gate: %w", err)
		}
		f := os.NewFile(uintptr(fd), GateName)
		defer f.Close()
		if err := f.SetReadDeadline(time.Now().Add(gateTimeout)); err != nil {
			return fmt.Errorf("the keeper's gate: %w", err)
		}
		if _, err := io.ReadFull(f, make([]byte, 1)); err != nil {
			return fmt.Errorf("%w (%w)", ErrNotLetGo, err)
		}
	}
	return nil
}
