// Package netns puts a driver process, or one look at the machine, into a network
// namespace (network_namespaces(7)).
//
// A Go process has many threads, and each has a namespace of its own: one that changes
// its namespace while it runs is in two places at once. So a driver process that belongs
// elsewhere is there wholly or not at all: Enter changes the calling thread's namespace
// and executes the program again, which ends all other threads. Whoever looked after the
// process does not notice: its pid, descriptors, environment and parent stay.
//
// Do is for looking: a function runs on a thread in the namespace, and the thread is
// thrown away with it, for it could not be trusted to be back where it came from.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// namedDir is where ip-netns(8) keeps the namespaces that have names.
const namedDir = "/run/netns"

// ErrNone says that there is no such namespace now (errors.Is); it may come.
var ErrNone = errors.New("there is no such network namespace")

// init keeps the main thread for the main goroutine, so that Do never takes that one: it
// could not be thrown away, and /proc/self speaks of it.
func init() { runtime.LockOSThread() }

// Path is where a namespace is found: that of a name as `ip netns` lists it, or the path
// itself.
func Path(spec string) string {
	if strings.HasPrefix(spec, "/") {
		return filepath.Clean(spec)
	}
	return filepath.Join(namedDir, spec)
}

// Enter has the whole process run in a namespace. It returns nil when it does already;
// else the program is executed again with the same arguments, and Enter does not return
// unless that fails. It is to be called first of all: what the process has done until
// then is done again, and descriptors that are not close-on-exec are handed on.
func Enter(spec string) error {
	runtime.LockOSThread() // not undone after a change: see Do
	here, err := enterThread(spec)
	if here || err != nil {
		runtime.UnlockOSThread()
		return err
	}
	exe, err := program()
	if err != nil {
		return fmt.Errorf("enter the network namespace %s: %w", spec, err)
	}
	err = syscall.Exec(exe, os.Args, os.Environ())
	return fmt.Errorf("enter the network namespace %s: execute %s again: %w", spec, exe, err)
}

// Do runs f in a namespace, "" for that of the process, and waits for it.
func Do(spec string, f func() error) error {
	if spec == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		_, err := enterThread(spec)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// enterThread changes the namespace of the calling thread, to which the goroutine is
// locked. here: it was there already, and nothing has changed.
func enterThread(spec string) (here bool, err error) {
	path := Path(spec)
	called := spec
	if path != spec {
		called += " (" + path + ")"
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("%w: %s; `ip netns add` makes one", ErrNone, called)
	}
	if err != nil {
		return false, fmt.Errorf("open the network namespace %s: %w", called, err)
	}
	defer unix.Close(fd)
	var fsInfo unix.Statfs_t
	if err := unix.Fstatfs(fd, &fsInfo); err != nil {
		return false, fmt.Errorf("look at the network namespace %s: %w", called, err)
	}
	if fsInfo.Type != unix.NSFS_MAGIC {
		// What is left of a name after a restart, or while it is being made.
		return false, fmt.Errorf("%w: %s is a name without a namespace, an ordinary file; `ip netns del` removes it", ErrNone, called)
	}
	if here, err := isCurrent(fd); here || err != nil {
		return here, err
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return false, fmt.Errorf("enter the network namespace %s: %w%s", called, err, rights(err))
	}
	// What guards against executing for ever: the next process will see the same.
	if now, err := isCurrent(fd); !now {
		return false, fmt.Errorf("enter the network namespace %s: the kernel says done, and the thread is elsewhere (%v)", called, err)
	}
	return false, nil
}

// isCurrent says whether fd is the namespace of the calling thread.
func isCurrent(fd int) (bool, error) {
	var there, here unix.Stat_t
	if err := unix.Fstat(fd, &there); err != nil {
		return false, fmt.Errorf("look at a network namespace: %w", err)
	}
	if err := unix.Stat("/proc/thread-self/ns/net", &here); err != nil {
		return false, fmt.Errorf("look at the network namespace of this thread: %w", err)
	}
	return there.Dev == here.Dev && there.Ino == here.Ino, nil
}

func rights(err error) string {
	if errors.Is(err, unix.EPERM) {
		return " (it takes CAP_SYS_ADMIN)"
	}
	return ""
}

// program is the binary of this process under its own name, or, where another has taken
// that name since, the one that runs.
func program() (string, error) {
	const running = "/proc/self/exe"
	var now, byName unix.Stat_t
	if err := unix.Stat(running, &now); err != nil {
		return "", fmt.Errorf("find the program of this process: %w", err)
	}
	name, err := os.Readlink(running)
	if err == nil && unix.Stat(name, &byName) == nil && byName.Dev == now.Dev && byName.Ino == now.Ino {
		return name, nil
	}
	return running, nil
}
