package kerneltest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ends makes the test binary a program that ends in a way of its own.
const ends = "KERNELTEST_ENDS"

func TestMain(m *testing.M) {
	switch os.Getenv(ends) {
	case "status":
		os.Exit(7)
	case "oops":
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			fmt.Println("crash the kernel:", err)
		}
	case "never":
		_ = unix.Pause()
	}
	os.Exit(m.Run())
}

// TestKernelGuest is what a program finds in a guest: TestGuest… run there.
func TestKernelGuest(t *testing.T) {
	RunTests(t, Options{
		Modules:  []string{"bonding", "veth", "raid1"},
		Programs: []string{"nsenter"},
		Files:    map[string]string{"/etc/hello": "/proc/self/comm"},
		Env:      []string{"HELLO=1"},
		CPUs:     2,
	}, "ft/drivers/kerneltest")
}

func inGuestOnly(t *testing.T) {
	if !InGuest() {
		t.Skip("TestKernelGuest runs this in a guest")
	}
}

func TestGuestIsAnotherKernel(t *testing.T) {
	inGuestOnly(t)
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	if release := unix.ByteSliceToString(u.Release[:]); !strings.HasPrefix(release, "6.12.") {
		t.Errorf("the guest runs Linux %s", release)
	}
	if os.Getuid() != 0 || os.Getenv("HELLO") != "1" || runtime.NumCPU() != 2 {
		t.Errorf("uid %d, HELLO=%q, %d processors", os.Getuid(), os.Getenv("HELLO"), runtime.NumCPU())
	}
	if _, err := os.Stat("/etc/hello"); err != nil {
		t.Error(err)
	}
	if wd, err := os.Getwd(); err != nil || !strings.HasPrefix(wd, "/kerneltest/") {
		t.Errorf("working directory %q, %v", wd, err)
	}
}

func TestGuestHasItsModules(t *testing.T) {
	inGuestOnly(t)
	text, err := os.ReadFile("/proc/modules")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"bonding", "veth", "raid1", "md_mod"} { // raid1 depends on md_mod
		if !strings.Contains("\n"+string(text), "\n"+m+" ") {
			t.Errorf("%s is not loaded:\n%s", m, text)
		}
	}
}

func TestGuestHasItsFileSystems(t *testing.T) {
	inGuestOnly(t)
	for at, magic := range map[string]int64{
		"/proc": unix.PROC_SUPER_MAGIC, "/sys": unix.SYSFS_MAGIC, "/sys/fs/bpf": unix.BPF_FS_MAGIC,
		"/sys/fs/cgroup": unix.CGROUP2_SUPER_MAGIC, "/dev/pts": unix.DEVPTS_SUPER_MAGIC, "/tmp": unix.TMPFS_MAGIC,
	} {
		var s unix.Statfs_t
		if err := unix.Statfs(at, &s); err != nil || s.Type != magic {
			t.Errorf("%s: file system %#x, %v", at, s.Type, err)
		}
	}
	if _, err := os.Stat("/dev/fd/1"); err != nil {
		t.Error(err)
	}
}

func TestGuestHasPrograms(t *testing.T) {
	inGuestOnly(t)
	out, err := exec.Command("nsenter", "--net=/proc/self/ns/net", "--", "nsenter", "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "util-linux") {
		t.Errorf("nsenter: %v: %s", err, out)
	}
}

// TestKernelEnds: how a program ends is what Run returns, and a guest that does not get so
// far is a failure that says why.
func TestKernelEnds(t *testing.T) {
	if InGuest() {
		t.Skip("this is the guest")
	}
	need(t)
	binary, _ := Build(t, "ft/drivers/kerneltest")
	end := func(how string) Options {
		return Options{Binary: binary, Env: []string{ends + "=" + how}}
	}
	if status := Run(t, end("status")); status != 7 {
		t.Errorf("exit status %d, want 7", status)
	}
	if said := failure(t, func(r testing.TB) { Run(r, end("oops")) }); !strings.Contains(said, "ended before its plan was done") {
		t.Errorf("a guest that crashed: %s", said)
	}
	late := end("never")
	late.Timeout = time.Second
	if said := failure(t, func(r testing.TB) { Run(r, late) }); !strings.Contains(said, "not done after 1s") {
		t.Errorf("a guest that never ends: %s", said)
	}
	none := end("status")
	none.Modules = []string{"no-such-module"}
	if said := failure(t, func(r testing.TB) { Run(r, none) }); !strings.Contains(said, "has no module no_such_module") {
		t.Errorf("a module that is not there: %s", said)
	}
}

// TestMissing: without QEMU a test is skipped, or fails where nothing may be missing.
func TestMissing(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the sentence here is another")
	}
	t.Setenv("PATH", t.TempDir())
	for _, c := range []struct {
		ci, word string
		skipped  bool
		says     string
	}{
		{"", "", true, "is missing"},
		{"true", "", false, "is missing"},
		{"", "require", false, "is missing"},
		{"true", "skip", true, "make test-kernels"},
	} {
		t.Setenv("CI", c.ci)
		t.Setenv("FT_KERNELTEST", c.word)
		r := record(t, func(r testing.TB) { need(r) })
		if r.skipped != c.skipped || r.failed == c.skipped || !strings.Contains(r.said, c.says) {
			t.Errorf("CI=%q FT_KERNELTEST=%q: skipped %v, failed %v: %s", c.ci, c.word, r.skipped, r.failed, r.said)
		}
	}
}

// TestFetchSaysWhatIsMissing: nothing half-fetched stays.
func TestFetchSaysWhatIsMissing(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("FT_KERNELS", cache)
	t.Setenv("PATH", t.TempDir())
	_, err := find(Linux612, t.Logf)
	if err == nil || !strings.Contains(err.Error(), "apt-get is missing") {
		t.Errorf("no apt: %v", err)
	}
	if _, err := find("2.4", t.Logf); err == nil {
		t.Error("a kernel that does not exist was found")
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "amd64*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(filepath.Join(cache, "fetch.lock")); errors.Is(err, fs.ErrNotExist) {
		t.Error("FT_KERNELS was not used")
	}
}

// TestFetchIsThroughTheNetworkThatIsNamed: tests in a network namespace of their own reach no
// mirror by themselves.
func TestFetchIsThroughTheNetworkThatIsNamed(t *testing.T) {
	if InGuest() {
		t.Skip("a guest fetches nothing")
	}
	hold := exec.Command("unshare", "--net", "cat")
	in, err := hold.StdinPipe() // it ends when this is closed
	if err == nil {
		err = hold.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = hold.Wait() }()
	named := fmt.Sprintf("/proc/%d/ns/net", hold.Process.Pid)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var want string
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // until it has unshared
		if want, err = os.Readlink(named); err == nil && want != own {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no other namespace: %q, %v", want, err)
		}
	}
	tools, seen := t.TempDir(), filepath.Join(t.TempDir(), "seen")
	for _, tool := range []string{"apt-get", "apt-cache", "apt-config", "dpkg-deb"} {
		script := "#!/bin/sh\n/usr/bin/readlink /proc/self/ns/net >> " + seen + "\ntest " + tool + " = apt-config\n"
		if err := os.WriteFile(filepath.Join(tools, tool), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", tools)
	t.Setenv("FT_KERNELS", t.TempDir())
	t.Setenv(Network, named)
	if _, err := find(Linux61, t.Logf); err == nil {
		t.Error("a kernel was fetched from nowhere")
	}
	text, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) != want {
			t.Errorf("apt ran in %s, not in %s", line, want)
		}
	}
}

// recorder is a test that is expected to end early.
type recorder struct {
	testing.TB
	said            string
	failed, skipped bool
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.said, r.failed = fmt.Sprintf(format, args...), true
	runtime.Goexit()
}

func (r *recorder) Skip(args ...any) {
	r.said, r.skipped = fmt.Sprint(args...), true
	runtime.Goexit()
}

func (r *recorder) Skipf(format string, args ...any) {
	r.said, r.skipped = fmt.Sprintf(format, args...), true
	runtime.Goexit()
}

func record(t *testing.T, f func(testing.TB)) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func failure(t *testing.T, f func(testing.TB)) string {
	t.Helper()
	r := record(t, f)
	if !r.failed {
		t.Errorf("it did not fail (skipped: %v)", r.skipped)
	}
	return r.said
}
