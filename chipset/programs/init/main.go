// Command init is process 1 of a guest of chipset/programs: it mounts what programs expect,
// runs the commands of the plan one after another, reports on the console, and switches the
// machine off.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/programs/plan"
)

func main() {
	// On a machine that is not a guest this program would switch it off.
	if _, err := os.Stat(plan.File); os.Getpid() != 1 || err != nil {
		fmt.Fprintln(os.Stderr, "init: this runs as process 1 of a guest of chipset/programs only")
		os.Exit(2)
	}
	if err := work(); err != nil {
		say(plan.Report{Failed: err.Error()})
	}
	_ = unix.IoctlSetInt(1, unix.TCSBRK, 1) // tcdrain(3)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("init: power off:", err)
	}
	select {} // process 1 must not return: the kernel panics
}

// say reports. The console may be a terminal: a line is one write, and JSON has no byte
// that a terminal changes.
func say(r plan.Report) {
	text, err := json.Marshal(r)
	if err != nil {
		text = []byte(fmt.Sprintf(`{"failed":%q}`, err))
	}
	_, _ = os.Stdout.WriteString(plan.Mark + string(text) + "\n") // whom else to tell
}

func work() error {
	if err := prepare(); err != nil {
		return err
	}
	text, err := os.ReadFile(plan.File)
	if err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	var p plan.Plan
	if err := json.Unmarshal(text, &p); err != nil {
		return fmt.Errorf("read %s: %w", plan.File, err)
	}
	for i := range p.Commands {
		c := &p.Commands[i]
		say(plan.Report{Begin: c.Name})
		result, err := run(c)
		if err != nil {
			return fmt.Errorf("run %q: %w", c.Name, err)
		}
		say(plan.Report{Result: result})
	}
	said, err := complaints()
	if err != nil {
		return fmt.Errorf("read the kernel's log: %w", err)
	}
	say(plan.Report{Complaints: said})
	say(plan.Report{Done: true})
	return nil
}

var mounts = []struct{ kind, at string }{
	{"devtmpfs", "/dev"},
	{"devpts", "/dev/pts"},
	{"tmpfs", "/dev/shm"},
	{"proc", "/proc"},
	{"sysfs", "/sys"},
	{"tmpfs", "/tmp"},
}

func prepare() error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err)
		}
	}
	if err := os.Symlink("/proc/self/fd", "/dev/fd"); err != nil {
		return err
	}
	return unix.Sethostname([]byte("guest"))
}

const workDir = "/tmp/work"

var environment = []string{
	"PATH=/usr/bin:/usr/sbin", "HOME=/tmp", "TMPDIR=/tmp", "LC_ALL=C.UTF-8", "TZ=UTC",
	"PYTHONHASHSEED=0", "PYTHONDONTWRITEBYTECODE=1",
}

// run runs a command. As process 1 it also reaps what others have left behind, so it waits
// for any child and not by os.Process.
func run(c *plan.Command) (*plan.Result, error) {
	if err := os.MkdirAll(workDir, 0o755); err != nil {
		return nil, err
	}
	defer clear()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		return nil, err
	}
	began := time.Now()
	child, err := os.StartProcess("/usr/bin/busybox", []string{"sh", "-c", c.Script}, &os.ProcAttr{
		Dir: workDir, Env: environment, Files: []*os.File{null, w, w},
	})
	null.Close()
	w.Close()
	if err != nil {
		return nil, err
	}
	var output bytes.Buffer
	read := make(chan error, 1)
	go func() { _, err := io.Copy(&output, r); read <- err }()
	status, err := wait(child.Pid)
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	_ = unix.Kill(-1, unix.SIGKILL) // what it has left running; ESRCH: there is none
	if err := <-read; err != nil {
		return nil, err
	}
	normal, err := c.Normal(output.Bytes())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(normal)
	return &plan.Result{
		Status: status, Bytes: len(normal), Sum: hex.EncodeToString(sum[:]), Seconds: took.Seconds(),
		Output: strings.ToValidUTF8(string(normal[:min(len(normal), plan.OutputMax)]), "?"),
	}, nil
}

func wait(child int) (status int, err error) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case pid == child && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case pid == child:
			return ws.ExitStatus(), nil
		}
	}
}

// clear gives the memory back that a command's files are in.
func clear() {
	files, _ := filepath.Glob("/tmp/*") // the pattern is well formed
	for _, f := range files {
		_ = os.RemoveAll(f) // what stays is in nobody's way
	}
}

// complaint is what a kernel that is well does not say, beside lines at the level of an
// error.
var complaint = regexp.MustCompile(`\bBUG: |kernel BUG at |^WARNING: |\bOops\b|Unable to handle kernel|Out of memory: Killed|I/O error`)

// complaints are what the kernel has logged since its start: records of /dev/kmsg
// (Documentation/ABI/testing/dev-kmsg).
func complaints() (said []string, err error) {
	f, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(f)
	buf := make([]byte, 16<<10) // a record has at most 8 KiB
	for {
		n, err := unix.Read(f, buf)
		switch {
		case err == unix.EPIPE: // the oldest have been overwritten
			said = append(said, "(more than the kernel keeps)")
			continue
		case err == unix.EAGAIN:
			return said, nil
		case err != nil:
			return said, err
		}
		head, text, _ := strings.Cut(string(buf[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		var priority int
		if _, err := fmt.Sscanf(head, "%d,", &priority); err != nil {
			return said, errors.New("a record without a priority: " + head)
		}
		const facilities, error = 3, 3 // the bits below a facility; KERN_ERR
		if priority>>facilities == 0 && (priority <= error || complaint.MatchString(text)) {
			said = append(said, text)
		}
	}
}
