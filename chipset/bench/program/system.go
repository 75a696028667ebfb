package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What the first process of a guest has to do besides. Its initramfs is that of the test
// box's guest (ftd/testbox/guest), with this program in the place of the service. Of its
// kernel modules those up to the last driver are loaded; the file system takes longer than
// all else and is not used.

const (
	moduleList  = "/lib/modules/load" // paths, in the order of loading
	lastDriver  = "virtio_net.ko"
	busybox     = "/bin/busybox"
	devPatience = 5 * time.Second // for a device to appear after its driver has been loaded
)

// becomeSystem mounts what programs expect, makes the console a plain line, and loads the
// drivers.
func becomeSystem() error {
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err)
		}
	}
	if err := plainConsole(); err != nil {
		return fmt.Errorf("set up the console: %w", err)
	}
	list, err := os.ReadFile(moduleList)
	if err != nil {
		return fmt.Errorf("find the kernel's modules: %w", err)
	}
	for _, path := range strings.Fields(string(list)) {
		f, err := os.Open(path)
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
			f.Close()
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load the kernel module %s: %w", path, err)
		}
		if filepath.Base(path) == lastDriver {
			return nil
		}
	}
	return fmt.Errorf("%s does not name %s", moduleList, lastDriver)
}

// plainConsole ends echo and the translation of line ends.
func plainConsole() error {
	t, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	t.Lflag &^= unix.ECHO
	t.Oflag &^= unix.OPOST
	return unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, t)
}

// powerOff does not return.
func powerOff() {
	unix.Sync()
	fmt.Println("power off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
	select {}
}

// clock is the command that tells what time it is here, in nanoseconds since 1970.
func clock(args []string) (string, error) {
	return strconv.FormatInt(time.Now().UnixNano(), 10), scan(args)
}

// address is the command
//
//	address INTERFACE ADDRESS/LENGTH
//
// which a guest without any other user space needs.
func address(args []string) (string, error) {
	var nic, prefix string
	if err := scan(args, &nic, &prefix); err != nil {
		return "", err
	}
	for deadline := time.Now().Add(devPatience); ; time.Sleep(5 * time.Millisecond) {
		_, err := os.Stat("/sys/class/net/" + nic)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			return "", fmt.Errorf("this machine has no %s: %w", nic, err)
		}
	}
	for _, words := range [][]string{{"ip", "link", "set", nic, "up"}, {"ip", "addr", "add", prefix, "dev", nic}} {
		if out, err := exec.Command(busybox, words...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, out)
		}
	}
	return prefix, nil
}
