package testbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// role is what one of the box's processes is.
type role string

const (
	roleControl role = "ftd"
	roleKeeper  role = "ftd keeper"
	roleDriver  role = "ftd driver"
)

// process is a running process of the box.
type process struct {
	pid  int
	role role
}

// markName is in the environment of every process of a box, with the box's directory.
// The keeper hands it on to the drivers. So the processes of a box that was killed are
// found without a record, and nobody else's, also on the same run directory, are taken
// for ours.
const markName = "FT_TESTBOX"

func mark(dir string) string { return markName + "=" + dir }

// Child says whether this process is one that a test box which lives has started, and starts
// again when it dies.
func Child() bool { return os.Getenv(markName) != "" && os.Getppid() != 1 }

// processesOf finds the running processes of the box in dir.
func processesOf(dir string) ([]process, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes of the box: %w", err)
	}
	var found []process
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if r, ok := roleIn(pid, dir); ok {
			found = append(found, process{pid, r})
		}
	}
	return found, nil
}

// roleIn says what a process is to the box in dir, if it is one of its own.
func roleIn(pid int, dir string) (role, bool) {
	r, ok := roleOf(words(pid, "cmdline"))
	return r, ok && slices.Contains(words(pid, "environ"), mark(dir))
}

// roleOf says what a command line is, as this package, ftd and the keeper start theirs.
func roleOf(argv []string) (role, bool) {
	if len(argv) < 2 || filepath.Base(argv[0]) != "ftd" {
		return "", false
	}
	switch {
	case argv[1] == "keeper":
		return roleKeeper, true
	case argv[1] == "driver":
		return roleDriver, true
	case strings.HasPrefix(argv[1], "-") && !slices.Contains(argv, "--testbox"):
		return roleControl, true
	}
	return "", false
}

// words reads a file of /proc/PID whose words end with NUL. It has none for what is
// gone, a zombie or a kernel thread.
func words(pid int, name string) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(b, []byte{0})), "\x00")
}

// killAll ends the processes of the box in dir that have one of the roles and waits until they are gone. What does not go in time is returned: it hangs in the kernel.
func killAll(dir string, patience time.Duration, roles ...role) ([]process, error) {
	deadline := time.Now().Add(patience)
	for {
		all, err := processesOf(dir)
		if err != nil {
			return nil, err
		}
		left := slices.DeleteFunc(all, func(p process) bool { return !slices.Contains(roles, p.role) })
		if len(left) == 0 || time.Now().After(deadline) {
			return left, nil
		}
		for _, p := range left {
			if err := kill(p, dir); err != nil {
				return left, err
			}
		}
		time.Sleep(goneCheck)
	}
}

// kill ends one process. The handle is taken before it is looked at once more, so that a process id that was given out again in between is not hit.
func kill(p process, dir string) error {
	h, err := os.FindProcess(p.pid)
	if err != nil {
		return fmt.Errorf("find %s (pid %d): %w", p.role, p.pid, err)
	}
	defer h.Release()
	if r, ok := roleIn(p.pid, dir); !ok || r != p.role {
		return nil
	}
	if err := h.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s (pid %d): %w", p.role, p.pid, err)
	}
	return nil
}
