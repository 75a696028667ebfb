package testbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	loopControl = "/dev/loop-control"
	// loopTries bounds the race for a free loop device with other programs.
	loopTries = 64
	// detachPatience is how long a detached loop device may take to let its file go:
	// a process that dies with I/O under way holds it until that I/O has ended.
	detachPatience = 10 * time.Second
	detachPoll     = 20 * time.Millisecond
)

// attachLoop binds a free loop device to file, with direct I/O, and returns its node.
// It stays until detachLoop, also when this process dies: a leg must outlive its users.
func attachLoop(file string) (string, error) {
	f, err := os.OpenFile(file, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("attach a loop device: %w", err)
	}
	defer f.Close()
	ctl, err := os.OpenFile(loopControl, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("attach a loop device to %s: %w (is the kernel's loop driver there? try `modprobe loop`)", file, err)
	}
	defer ctl.Close()
	for range loopTries {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("attach a loop device to %s: ask for a free one: %w", file, err)
		}
		node := "/dev/loop" + strconv.Itoa(n)
		err = configureLoop(node, f)
		if err == nil {
			return node, nil
		}
		if !errors.Is(err, unix.EBUSY) { // EBUSY: another program was faster
			return "", fmt.Errorf("attach %s to %s: %w", node, file, err)
		}
	}
	return "", fmt.Errorf("attach a loop device to %s: other programs took %d free ones first; try again", file, loopTries)
}

func configureLoop(node string, file *os.File) error {
	dev, err := os.OpenFile(node, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	cfg := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_DIRECT_IO}}
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], file.Name())
	err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
	if errors.Is(err, unix.EINVAL) {
		// The file system below has no direct I/O (tmpfs before Linux 6.6): the box
		// still works, through the page cache.
		cfg.Info.Flags = 0
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
	}
	return err
}

// detachLoop unbinds a loop device from file and waits until the file is free. It does
// nothing when the device has another file by now. A device that is open would only be
// marked to go with its last user; that is an error here that says so.
func detachLoop(node, file string) error {
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	deadline := time.Now().Add(detachPatience)
	for backingOf(node) == file {
		err := clearLoop(node)
		if err != nil && !errors.Is(err, unix.ENXIO) && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("detach %s: %w", node, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("detach %s: a process still holds it after %s (`fuser -v %s` names it); it goes with its last user", node, detachPatience, node)
		}
		time.Sleep(detachPoll)
	}
	return nil
}

func clearLoop(node string) error {
	dev, err := os.OpenFile(node, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	return unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0)
}

// backingOf is the file under a loop device as the kernel names it, "" when it has none.
func backingOf(node string) string {
	b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(node), "loop/backing_file"))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), " (deleted)")
}

// loopsOver finds the loop devices over the given files: by the kernel's own path of
// the backing file, which renames and symlinks cannot fool into naming another's.
func loopsOver(files ...string) (map[string]string, error) {
	want := map[string]string{} // resolved path → as given
	for _, f := range files {
		real, err := filepath.EvalSymlinks(f)
		if errors.Is(err, os.ErrNotExist) {
			continue // nothing can have been attached to it but a deleted file
		}
		if err != nil {
			return nil, err
		}
		if real, err = filepath.Abs(real); err != nil {
			return nil, err
		}
		want[real] = f
	}
	nodes, err := filepath.Glob("/sys/block/loop[0-9]*")
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, n := range nodes {
		node := "/dev/" + filepath.Base(n)
		if f, ok := want[backingOf(node)]; ok {
			found[node] = f
		}
	}
	return found, nil
}
