// Command init is process 1 of a guest of drivers/kerneltest: it mounts what programs
// expect, loads the kernel modules of the plan, runs its commands one after another, and
// reports on the second serial port. It leaves the guest by a reboot, with which QEMU ends.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"ft/drivers/kerneltest/plan"
)

func main() {
	// On a machine that is not a guest this program would reboot it.
	if _, err := os.Stat(plan.File); os.Getpid() != 1 || err != nil {
		fmt.Fprintln(os.Stderr, "init: this runs as process 1 of a guest of drivers/kerneltest only")
		os.Exit(2)
	}
	port, err := prepare()
	if err == nil {
		err = work(port)
	}
	if err != nil {
		say(port, plan.Failed, strings.ReplaceAll(err.Error(), "\n", " "))
	} else {
		say(port, plan.Done, "")
	}
	if port != nil {
		_ = unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1) // tcdrain(3)
	}
	unix.Sync()
	// QEMU's -no-reboot makes it the end. Process 1 must not return: the kernel panics.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Println("init: reboot:", err)
	}
	select {}
}

var mounts = []struct{ kind, at string }{
	{"devtmpfs", "/dev"},
	{"devpts", "/dev/pts"},
	{"tmpfs", "/dev/shm"},
	{"proc", "/proc"},
	{"sysfs", "/sys"},
	{"bpf", "/sys/fs/bpf"},
	{"cgroup2", "/sys/fs/cgroup"},
	{"tmpfs", "/run"},
	{"tmpfs", "/tmp"},
}

// prepare makes the guest a system. The port is nil when even that cannot be opened; the
// kernel's console says why then.
func prepare() (*os.File, error) {
	for _, m := range mounts {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			fmt.Println("init:", err)
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			fmt.Printf("init: mount %s on %s: %v\n", m.kind, m.at, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, "/dev/"+name); err != nil {
			fmt.Println("init:", err)
		}
	}
	port, err := openPort()
	if err != nil {
		fmt.Println("init:", err)
		return nil, err
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return port, fmt.Errorf("set the host's name: %w", err)
	}
	if err := upLoopback(); err != nil {
		return port, fmt.Errorf("set lo up: %w", err)
	}
	return port, nil
}

// openPort opens the serial port and takes the terminal's manners from it: what is
// written is what arrives.
func openPort() (*os.File, error) {
	f, err := os.OpenFile(plan.Port, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the port to the host: %w", err)
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err == nil {
		t.Oflag &^= unix.OPOST
		t.Lflag = 0
		err = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("set %s raw: %w", plan.Port, err)
	}
	return f, nil
}

func upLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

func work(port *os.File) error {
	text, err := os.ReadFile(plan.File)
	if err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	var p plan.Plan
	if err := json.Unmarshal(text, &p); err != nil {
		return fmt.Errorf("read %s: %w", plan.File, err)
	}
	for _, m := range p.Modules {
		if err := load(m); err != nil {
			return fmt.Errorf("load the module %s: %w", m, err)
		}
	}
	for _, c := range p.Commands {
		status, err := run(port, c)
		if err != nil {
			return fmt.Errorf("run %s: %w", c.Path, err)
		}
		text, err := json.Marshal(plan.Result{Status: status})
		if err != nil {
			return err
		}
		say(port, plan.Exit, string(text))
	}
	return nil
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// run runs a command and passes its output on, line by line. As process 1 it also reaps
// what others have left behind, so it waits for any child and not by os.Process.
func run(port *os.File, c plan.Command) (status int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	stdin, err := os.Open("/dev/null")
	if err != nil {
		return 0, err
	}
	child, err := os.StartProcess(c.Path, append([]string{c.Path}, c.Args...), &os.ProcAttr{
		Dir: c.Dir, Env: c.Env, Files: []*os.File{stdin, w, w},
	})
	w.Close()
	stdin.Close()
	if err != nil {
		r.Close()
		return 0, err
	}
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		pass(port, r)
	}()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case pid == child.Pid:
			// What it has left running may keep the pipe open for ever: the rest ends here.
			killAll()
			<-passed
			r.Close()
			if ws.Signaled() {
				return 128 + int(ws.Signal()), nil
			}
			return ws.ExitStatus(), nil
		}
	}
}

// killAll ends every process but this one (kill(2), pid -1).
func killAll() {
	_ = unix.Kill(-1, unix.SIGKILL) // ESRCH: there is none
}

// lineMax keeps a line without end from filling the memory; it is cut then.
const lineMax = 64 << 10

func pass(port *os.File, from io.Reader) {
	in := bufio.NewReaderSize(from, lineMax)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			say(port, plan.Output, strings.TrimSuffix(string(line), "\n"))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func say(port *os.File, kind byte, text string) {
	if port == nil {
		return
	}
	if _, err := fmt.Fprintf(port, "%c%s\n", kind, text); err != nil {
		fmt.Println("init: write to the host:", err)
	}
}
