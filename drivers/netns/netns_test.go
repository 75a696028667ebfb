package netns

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// enterEnv makes the test binary a process that enters a namespace and says where it is.
const enterEnv = "FT_TEST_NETNS"

func TestMain(m *testing.M) {
	spec := os.Getenv(enterEnv)
	if spec == "" {
		os.Exit(m.Run())
	}
	fmt.Printf("start %d\n", os.Getpid())
	if err := Enter(spec); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	inherited, _ := bufio.NewReader(os.NewFile(3, "inherited")).ReadString('\n')
	fmt.Printf("in %s %q %s\n", links(), os.Args[1:], inherited)
	os.Exit(0)
}

// links are the names of the interfaces of the process, as any thread sees them.
func links() string {
	seen := make(chan string)
	go func() { // on a thread that has not done the entering
		runtime.LockOSThread()
		all, err := net.Interfaces()
		if err != nil {
			seen <- err.Error()
			return
		}
		var names []string
		for _, l := range all {
			names = append(names, l.Name)
		}
		seen <- strings.Join(names, ",")
	}()
	return <-seen
}

// namespace makes one with an interface that tells it from others, and returns its path.
// It lasts as long as the test.
func namespace(t *testing.T, link string) string {
	t.Helper()
	path := make(chan string)
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	go func() {
		runtime.LockOSThread() // thrown away, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a network namespace: %v", err)
		}
		if out, err := exec.Command("ip", "link", "add", link, "type", "bridge").CombinedOutput(); err != nil {
			t.Errorf("make an interface: %v: %s", err, out)
		}
		path <- fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		<-hold
	}()
	return <-path
}

// TestEnter: the process executes itself once, and is there with all its threads, with
// the pid, arguments and descriptors that it was started with.
func TestEnter(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(os.Args[0], "with", "arguments")
	cmd.Env = append(os.Environ(), enterEnv+"="+namespace(t, "ft-in"))
	cmd.ExtraFiles = []*os.File{r}
	fmt.Fprintln(w, "hello")
	w.Close()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	start := fmt.Sprintf("start %d\n", cmd.Process.Pid)
	want := start + start + "in lo,ft-in [\"with\" \"arguments\"] hello"
	if strings.TrimSpace(string(out)) != want {
		t.Errorf("got:\n%swant:\n%s", out, want)
	}
}

func TestEnterWhereTheProcessIsAlready(t *testing.T) {
	if err := Enter("/proc/thread-self/ns/net"); err != nil {
		t.Error(err)
	}
}

func TestDo(t *testing.T) {
	before := links()
	var inside string
	if err := Do(namespace(t, "ft-do"), func() error {
		all, err := net.Interfaces()
		for _, l := range all {
			inside += l.Name + " "
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if inside != "lo ft-do " {
		t.Errorf("the function saw %q", inside)
	}
	for range 2 * runtime.GOMAXPROCS(0) {
		if now := links(); now != before {
			t.Fatalf("the process sees %s, before it saw %s", now, before)
		}
	}
	said := errors.New("said by the function")
	if err := Do("", func() error { return said }); err != said {
		t.Errorf("the error of the function became %v", err)
	}
}

func TestNoNamespace(t *testing.T) {
	leftover := filepath.Join(t.TempDir(), "leftover")
	if err := os.WriteFile(leftover, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, spec := range []string{"ft-no-such-namespace", "/nowhere/at/all", leftover} {
		for name, try := range map[string]func() error{
			"Enter": func() error { return Enter(spec) },
			"Do":    func() error { return Do(spec, func() error { t.Error("ran"); return nil }) },
		} {
			if err := try(); !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), spec) {
				t.Errorf("%s(%s): %v", name, spec, err)
			}
		}
	}
	if err := Enter("/proc/self/ns/uts"); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("a namespace of another kind: %v", err)
	}
}
