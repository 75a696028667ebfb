package inside

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const confinedEnv = "FT_TEST_CONFINED"

// TestConfined runs this binary as a process that confines itself and then tries what a guest
// that got out of its hart would.
func TestConfined(t *testing.T) {
	if os.Getenv(confinedEnv) != "" {
		for _, wrong := range confined() {
			fmt.Println(wrong)
		}
		os.Exit(0)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestConfined$")
	cmd.Env = append(os.Environ(), confinedEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// confined says what is not as it should be.
func confined() (wrong []string) {
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	null, err := os.Open(os.DevNull)
	if err != nil {
		complain("%v", err)
		return wrong
	}
	if err := confine(); err != nil {
		complain("%v", err)
		return wrong
	}
	for what, try := range map[string]func() error{
		"open a file":       func() error { _, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0); return err },
		"make a file":       func() error { _, err := unix.Open("/tmp/x", unix.O_CREAT|unix.O_WRONLY, 0o600); return err },
		"read a link":       func() error { _, err := os.Readlink("/proc/self/exe"); return err },
		"connect":           func() error { _, err := net.Dial("unix", "/run/ft/ftd.sock"); return err },
		"make a socket":     func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err },
		"start a process":   func() error { _, err := syscall.ForkExec("/bin/true", []string{"true"}, nil); return err },
		"become another":    func() error { return syscall.Exec("/bin/true", []string{"true"}, nil) },
		"signal its parent": func() error { return unix.Kill(os.Getppid(), 0) },
		"signal another":    func() error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) },
		"trace":             func() error { return unix.PtraceAttach(os.Getppid()) },
		"open a process":    func() error { _, err := unix.PidfdOpen(os.Getppid(), 0); return err },
		"make code": func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
			return err
		},
		"map a file": func() error {
			_, err := unix.Mmap(int(null.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
			return err
		},
		"be another user":     func() error { return unix.Setresuid(1, 1, 1) },
		"enter a namespace":   func() error { return unix.Setns(int(null.Fd()), 0) },
		"load eBPF":           func() error { _, _, e := unix.Syscall(unix.SYS_BPF, 5, 0, 0); return e },
		"see what it may do ": func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), "not permitted") {
			complain("to %s: %v", what, err)
		}
	}
	// The runtime lives: threads, timers, memory, the collector, signals among threads.
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			time.Sleep(time.Millisecond)
			b := make([][]byte, 64)
			for j := range b {
				b[j] = make([]byte, 64<<10)
				b[j][i] = 1
			}
			runtime.GC()
		})
	}
	wg.Wait()
	return wrong
}
