package host

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const restrictEnv = "FT_TEST_RESTRICT"

// TestRightsAreGivenUp runs this binary as a process that keeps two capabilities, and looks at
// all of its threads, and at a program that it executes.
func TestRightsAreGivenUp(t *testing.T) {
	if os.Getenv(restrictEnv) != "" {
		var started, end sync.WaitGroup
		end.Add(1)
		for range 4 { // threads from before
			started.Add(1)
			go func() {
				runtime.LockOSThread()
				started.Done()
				end.Wait()
			}()
		}
		started.Wait()
		if err := Restrict([]int{unix.CAP_NET_ADMIN, unix.CAP_CHECKPOINT_RESTORE}); err != nil {
			os.Stdout.WriteString(err.Error() + "\n")
		}
		out, err := exec.Command("sh", "-c", "grep -h -E 'CapPrm|CapEff|NoNewPrivs' /proc/$PPID/task/*/status /proc/self/status").CombinedOutput()
		os.Stdout.Write(out)
		end.Done()
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		t.Skip("there is nothing to give up: this is not root")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestRightsAreGivenUp$")
	cmd.Env = append(os.Environ(), restrictEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "cgo") {
		t.Skip("threads are the C library's here")
	}
	// CAP_NET_ADMIN is bit 12, CAP_CHECKPOINT_RESTORE bit 40.
	want := []string{"CapPrm:\t0000010000001000", "CapEff:\t0000010000001000", "NoNewPrivs:\t1"}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < 3*6 {
		t.Fatalf("threads and a program are missing:\n%s", out)
	}
	for _, l := range lines {
		if !strings.Contains(strings.Join(want, " "), l) {
			t.Errorf("a thread or program has %q", l)
		}
	}
}
