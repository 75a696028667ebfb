// Package kerneltest runs tests on other kernels than this machine's: it boots one of
// Debian's under QEMU, without KVM, as root, with nothing around it, and runs a program
// of this tree in it.
//
//	test process ── fetch the kernel, once ── apt, with a configuration of its own
//	     │
//	     ├ packs an initramfs: init, modules in the order of loading, the program, files
//	     └ QEMU ── ttyS0: the kernel's console ──┐
//	            └─ ttyS1: the program's output ──┴─▶ t.Log, and how the program ended
//
// Nothing of a guest outlives its test: it has no disk and no network, QEMU is killed with
// the thread that started it, and all that stays is the kernel in the cache ($FT_KERNELS,
// or ft-kernels in the user's cache directory).
//
// Tests of a package run in a guest by a test of that package that is called TestKernel…
// and calls RunTests: those tests are what `make test-kernels` runs, and are themselves
// left out in the guest.
//
// Where QEMU or the kernel cannot be had, a test says what is missing, and is skipped; it
// fails where the environment has CI=true or FT_KERNELTEST=require. With FT_KERNELTEST=skip
// no guest is booted at all: guests measure time, and are not to run beside other tests.
package kerneltest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"ft/drivers/kerneltest/plan"
)

// Options say what a guest is made of.
type Options struct {
	Kernel   Kernel            // Linux612 when ""
	Modules  []string          // kernel modules, loaded with what they depend on
	Programs []string          // programs of this machine (nsenter, ip …), with their libraries
	Files    map[string]string // other files: path in the guest → path here
	CPUs     int               // 1 when 0; more take turns on one thread, 100 ms each unless they wait
	Memory   int               // MiB, 512 when 0
	CPU      string            // QEMU's model of a processor, "max" when ""
	// Counted: the guest's clock counts its instructions, a nanosecond each, and time in which
	// it has nothing to do costs none. What is measured then is the same however busy this
	// machine is: the instructions that something takes.
	Counted bool
	Timeout time.Duration // of the whole guest, from its boot; 10 minutes when 0

	// Binary is the program that Run runs: a static one, or one that is in Programs by its
	// full path, with what it depends on.
	Binary string
	Args   []string
	Env    []string // beside PATH, HOME and TMPDIR
}

// TB is what a guest needs of the test that it is for: a testing.TB, or what stands for one
// in a program. Fatal, Fatalf, Skip and Skipf do not return.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Skip(args ...any)
	Skipf(format string, args ...any)
	TempDir() string
}

// inGuest is set in the environment of all programs in a guest.
const inGuest = "FT_KERNELTEST_GUEST"

// InGuest says whether this process runs in a guest. A test that would be skipped for what
// this machine's kernel lacks must fail there instead.
func InGuest() bool { return os.Getenv(inGuest) != "" }

// Run boots a guest, runs the program in it and returns its exit status, 128 + the signal
// when one killed it. A guest that does not come so far ends the test.
func Run(t TB, o Options) (status int) {
	t.Helper()
	if o.Binary == "" {
		t.Fatal("kerneltest: Options.Binary is the program to be run")
	}
	o.Files = with(o.Files, map[string]string{"/kerneltest/" + filepath.Base(o.Binary): o.Binary})
	var results []plan.Result
	boot(t, o, []plan.Command{{
		Path: "/kerneltest/" + filepath.Base(o.Binary), Args: o.Args, Env: environment(o), Dir: "/tmp",
	}}, func(_ int, r plan.Result) { results = append(results, r) })
	return results[0].Status
}

// RunTests runs the tests of packages in one guest, one package after another, and fails
// the test when one of them fails, or when one has passed no test at all. Options.Binary
// is not used; Options.Args are for the test binaries (-test.run=…).
func RunTests(t TB, o Options, packages ...string) {
	t.Helper()
	if InGuest() {
		t.Skip("this is the guest: its tests are run by the host's TestKernel…")
	}
	need(t)
	o.Files = with(o.Files, nil)
	var commands []plan.Command
	for i, pkg := range packages {
		dir := fmt.Sprintf("/kerneltest/%d", i)
		binary, source := Build(t, pkg)
		o.Files[dir+"/tests"] = binary
		if err := addTestdata(o.Files, dir, source); err != nil {
			t.Fatalf("kerneltest: the test data of %s: %v", pkg, err)
		}
		args := append([]string{"-test.v", "-test.skip=^TestKernel", "-test.timeout=" + o.timeout().String()}, o.Args...)
		commands = append(commands, plan.Command{Path: dir + "/tests", Args: args, Env: environment(o), Dir: dir})
	}
	passed := 0
	boot(t, o, commands, func(i int, r plan.Result) {
		if r.Status != 0 {
			t.Errorf("the tests of %s failed in the guest: exit status %d", packages[i], r.Status)
		} else if passed == 0 {
			t.Errorf("the tests of %s passed in the guest without any that ran", packages[i])
		}
		passed = 0
	}, func(line string) {
		if strings.HasPrefix(line, "--- PASS") {
			passed++
		}
	})
}

// Build compiles the tests of a package into a static binary that is removed with the
// test, and tells the package's directory.
func Build(t TB, pkg string) (binary, source string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "tests")
	goTool(t, "test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary, pkg)
	return binary, strings.TrimSpace(goTool(t, "list", "-f", "{{.Dir}}", pkg))
}

func goTool(t TB, args ...string) (out string) {
	t.Helper()
	var said strings.Builder
	cmd := exec.Command("go", append([]string{args[0], "-buildvcs=false"}, args[1:]...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	cmd.Stderr = &said
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("kerneltest: %s: %v\n%s", cmd, err, said.String())
	}
	return string(text)
}

func addTestdata(files map[string]string, dir, source string) error {
	return filepath.WalkDir(filepath.Join(source, "testdata"), func(path string, d os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil && d.Type().IsRegular() {
			files[dir+strings.TrimPrefix(path, source)] = path
		}
		return err
	})
}

func environment(o Options) []string {
	return append([]string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp", "LC_ALL=C", inGuest + "=1",
	}, o.Env...)
}

func with(m, more map[string]string) map[string]string {
	all := map[string]string{}
	for _, from := range []map[string]string{m, more} {
		for k, v := range from {
			all[k] = v
		}
	}
	return all
}

// timeout is for what hangs: on a busy machine a guest may take many times as long as alone.
func (o Options) timeout() time.Duration {
	if o.Timeout <= 0 {
		return 10 * time.Minute
	}
	return o.Timeout
}

const emulator = "qemu-system-x86_64"

// need ends the test where a guest cannot run.
func need(t TB) {
	t.Helper()
	needTools(t, map[string]string{emulator: "qemu-system-x86", "xz": "xz-utils"})
	if runtime.GOARCH != "amd64" {
		missing(t, fmt.Sprintf("the guests are amd64 machines, this is %s", runtime.GOARCH))
	}
}

// needTools ends the test where no guests are to be booted, or a program is missing:
// tools are programs with the packages that have them.
func needTools(t TB, tools map[string]string) {
	t.Helper()
	if os.Getenv("FT_KERNELTEST") == "skip" {
		t.Skip("kerneltest: FT_KERNELTEST=skip: `make test-kernels` runs this in a guest")
	}
	for tool, pkg := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, fmt.Sprintf("%s is missing, which boots other kernels: apt-get install %s", tool, pkg))
		}
	}
}

// Own is for tests that boot guests of their own making, which are to be called TestKernel…
// as well: it ends the test where none are to be booted, or one of tools (programs, with
// the packages that have them) is missing, and keeps other guests off until done is
// called. cache is where what such a guest is made of may stay from one test to the next.
func Own(t TB, tools map[string]string) (cache string, done func()) {
	t.Helper()
	needTools(t, tools)
	cache, err := Cache()
	if err != nil {
		t.Fatalf("kerneltest: %v", err)
	}
	unlock, err := lock(cache, "guest.lock")
	if err != nil {
		t.Fatalf("kerneltest: wait for other guests: %v", err)
	}
	return cache, unlock
}

// Missing ends a test of Own's that lacks something else: it fails where nothing may be
// missing, and is skipped elsewhere.
func Missing(t TB, what string) {
	t.Helper()
	missing(t, what)
}

// missing ends a test that cannot have its guest: see the package's comment.
func missing(t TB, what string) {
	t.Helper()
	switch word := os.Getenv("FT_KERNELTEST"); {
	case word == "require", word == "" && os.Getenv("CI") == "true":
		t.Fatalf("kerneltest: %s", what)
	case word == "":
		t.Skipf("kerneltest: %s", what)
	default:
		t.Fatalf("kerneltest: FT_KERNELTEST=%s: say require or skip", word)
	}
}
