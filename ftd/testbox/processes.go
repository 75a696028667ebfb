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

// processesOf finds the processes of a run directory by their command lines: each of
// them names the directory in an argument of its own. So nothing has to be recorded,
// and a process id that was given out again cannot be mistaken for one of ours.
func processesOf(runDir string) ([]process, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if r, ok := roleOf(commandLine(pid), runDir); ok {
			found = append(found, process{pid, r})
		}
	}
	return found, nil
}

// commandLine is empty for what is gone, a zombie or a kernel thread.
func commandLine(pid int) []string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(line) == 0 {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(line, []byte{0})), "\x00")
}

// roleOf says what a command line is to the run directory, as this package, ftd and
// the keeper start their children.
func roleOf(argv []string, runDir string) (role, bool) {
	if len(argv) < 2 || filepath.Base(argv[0]) != "ftd" {
		return "", false
	}
	switch {
	case argv[1] == "keeper":
		return roleKeeper, argument(argv, "--run") == runDir
	case argv[1] == "driver":
		return roleDriver, filepath.Dir(argument(argv, "--config")) == filepath.Join(runDir, "drivers")
	case strings.HasPrefix(argv[1], "-") && !slices.Contains(argv, "--testbox"):
		return roleControl, filepath.Dir(argument(argv, "--socket")) == runDir
	}
	return "", false
}

func argument(argv []string, flag string) string {
	if i := slices.Index(argv, flag); i >= 0 && i+1 < len(argv) {
		return argv[i+1]
	}
	return ""
}

// killAll ends the processes of a run directory that have one of the roles and waits
// until they are gone. What does not go in time is returned: it hangs in the kernel.
func killAll(runDir string, patience time.Duration, roles ...role) ([]process, error) {
	deadline := time.Now().Add(patience)
	for {
		all, err := processesOf(runDir)
		if err != nil {
			return nil, err
		}
		left := slices.DeleteFunc(all, func(p process) bool { return !slices.Contains(roles, p.role) })
		if len(left) == 0 || time.Now().After(deadline) {
			return left, nil
		}
		for _, p := range left {
			if err := kill(p, runDir); err != nil {
				return left, err
			}
		}
		time.Sleep(goneCheck)
	}
}

// kill ends one process. The handle is taken before its command line is read once
// more, so that a process id that was given out again in between is not hit.
func kill(p process, runDir string) error {
	h, err := os.FindProcess(p.pid)
	if err != nil {
		return fmt.Errorf("find %s (pid %d): %w", p.role, p.pid, err)
	}
	defer h.Release()
	if r, ok := roleOf(commandLine(p.pid), runDir); !ok || r != p.role {
		return nil
	}
	if err := h.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s (pid %d): %w", p.role, p.pid, err)
	}
	return nil
}
