package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	moduleList  = "/lib/modules/load" // paths, in the order of loading; made with the initramfs
	busybox     = "/bin/busybox"
	nic         = "eth0"
	devPatience = 5 * time.Second // for a device to appear after its driver has been loaded
)

// prepare makes the machine a system: file systems, drivers, the disk, the address. It
// goes on as far as it can, and returns what the service cannot be without.
func prepare() error {
	for _, m := range []struct {
		kind, at string
		flags    uintptr
	}{
		{"devtmpfs", "/dev", unix.MS_NOSUID},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
		{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
		{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err)
		}
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		say("set the host's name: %v", err)
	}
	if err := loadModules(); err != nil {
		return err
	}
	words, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read the kernel's command line: %w", err)
	}
	// A guest without a network still has its disk, and its console says so.
	if err := setAddress(parameters(string(words))); err != nil {
		say("no network: %v", err)
	}
	return mountDisk(diskNode)
}

// loadModules loads the drivers and frees the memory that their files take.
func loadModules() error {
	list, err := os.ReadFile(moduleList)
	if err != nil {
		return fmt.Errorf("find the kernel's modules: %w", err)
	}
	for _, path := range strings.Fields(string(list)) {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("load a kernel module: %w", err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load the kernel module %s: %w", path, err)
		}
		if err := os.Remove(path); err != nil {
			say("free a kernel module's file: %v", err)
		}
	}
	return nil
}

// parameters are the words ft.KEY=VALUE of the kernel's command line.
func parameters(cmdline string) map[string]string {
	p := map[string]string{}
	for _, word := range strings.Fields(cmdline) {
		if key, value, ok := strings.Cut(word, "="); ok && strings.HasPrefix(key, "ft.") {
			p[strings.TrimPrefix(key, "ft.")] = value
		}
	}
	return p
}

// networkCommands are what busybox's ip is asked for: ft.address is one address with its
// prefix or several with commas between, ft.gateway likewise.
func networkCommands(p map[string]string) [][]string {
	commands := [][]string{{"link", "set", "lo", "up"}}
	if p["address"] == "" {
		return commands
	}
	commands = append(commands, []string{"link", "set", nic, "up"})
	list := func(key string, command ...string) {
		for _, value := range strings.Split(p[key], ",") {
			if value != "" {
				commands = append(commands, append(command[:len(command):len(command)], value, "dev", nic))
			}
		}
	}
	list("address", "addr", "add")
	list("gateway", "route", "add", "default", "via")
	return commands
}

func setAddress(p map[string]string) error {
	if p["address"] != "" {
		if err := await("/sys/class/net/" + nic); err != nil {
			return err
		}
	}
	for _, args := range networkCommands(p) {
		if err := run(busybox, append([]string{"ip"}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// await waits for what a driver makes.
func await(path string) error {
	for deadline := time.Now().Add(devPatience); ; {
		_, err := os.Stat(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("this machine has no %s", filepath.Base(path))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// run runs a program to its end, with its output on the console. Only before supervise,
// which reaps all that ends.
func run(program string, args ...string) error {
	p, err := os.StartProcess(program, append([]string{filepath.Base(program)}, args...), &os.ProcAttr{
		Dir: "/", Env: childEnv, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	state, err := p.Wait()
	switch {
	case err != nil:
		return fmt.Errorf("run %s: %w", program, err)
	case !state.Success():
		return &exitError{program: program, args: args, status: state.ExitCode()}
	}
	return nil
}

// exitError is a program's end with another status than 0.
type exitError struct {
	program string
	args    []string
	status  int
}

func (e *exitError) Error() string {
	return fmt.Sprintf("%s %s: exit status %d", e.program, strings.Join(e.args, " "), e.status)
}

func itoa(n int) string { return strconv.Itoa(n) }
