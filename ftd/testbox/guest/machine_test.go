package guest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ft/drivers/kerneltest"
)

// The guest under QEMU, which is laid out like our own machine.

const emulator = "qemu-system-riscv64"

// bootPatience is for a busy computer: the boot takes 2.2 G instructions.
const bootPatience = 10 * time.Minute

// own ends the test where guests are not to be booted, and keeps others off until its end.
func own(t *testing.T) (cache string) {
	t.Helper()
	cache, done := kerneltest.Own(t, map[string]string{emulator: "qemu-system-misc", "e2fsck": "e2fsprogs", "xz": "xz-utils"})
	t.Cleanup(done)
	return filepath.Join(cache, "guest-riscv64")
}

// debianGuest makes a guest with the service as it is in the tree, and a blank disk.
func debianGuest(t *testing.T) (g Guest, disk string) {
	t.Helper()
	cache := own(t)
	d, err := findDebian(t.Context(), cache, t.Logf)
	if err != nil {
		kerneltest.Missing(t, fmt.Sprintf("no guest to boot: %v", err))
	}
	dir := t.TempDir()
	service := filepath.Join(dir, "service")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", service, "ft/ftd/testbox/guest/service")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=riscv64", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the service: %v\n%s", err, out)
	}
	program, err := os.ReadFile(service)
	if err != nil {
		t.Fatal(err)
	}
	g = Guest{Kernel: d.kernel, Initrd: filepath.Join(dir, "initrd"), Cmdline: Cmdline(Address, Gateway), Version: d.version}
	if err := writeInitrd(g.Initrd, d.base, program); err != nil {
		t.Fatal(err)
	}
	disk = filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 1<<30); err != nil {
		t.Fatal(err)
	}
	return g, disk
}

// machine is a running QEMU.
type machine struct {
	t     *testing.T
	url   string // of the guest's port 80
	stdin io.WriteCloser
	cmd   *exec.Cmd
	ended chan struct{} // closed when QEMU has ended, with err
	err   error

	mu   sync.Mutex
	said strings.Builder // on the console
	more chan struct{}   // closed when it has said more
}

func start(t *testing.T, g Guest, disk string) *machine {
	t.Helper()
	m := &machine{t: t, ended: make(chan struct{}), more: make(chan struct{})}
	args := []string{"-M", "virt", "-m", fmt.Sprint(MemoryMiB), "-nodefaults", "-no-user-config", "-display", "none",
		"-monitor", "none", "-no-reboot", "-serial", "stdio", "-kernel", g.Kernel}
	if g.Initrd != "" {
		port := freePort(t)
		m.url = fmt.Sprintf("http://127.0.0.1:%d", port)
		args = append(args, "-initrd", g.Initrd, "-append", g.Cmdline,
			"-drive", "if=none,id=disk,format=raw,file="+disk, "-device", "virtio-blk-device,drive=disk",
			"-netdev", fmt.Sprintf("user,id=net,net=%s,host=%s,hostfwd=tcp:127.0.0.1:%d-%s:80", Address.Masked(), Gateway, port, Address.Addr()),
			"-device", "virtio-net-device,netdev=net")
	}
	m.cmd = exec.Command(emulator, args...)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.cmd.Stdout = m
	m.cmd.Stderr = m
	var err error
	if m.stdin, err = m.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // QEMU is killed with the thread that started it
		defer runtime.UnlockOSThread()
		err := m.cmd.Start()
		started <- err
		if err == nil {
			m.err = m.cmd.Wait()
		}
		close(m.ended)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			t.Logf("the console of a guest:\n%s", m.console())
		}
	})
	return m
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Write takes what the console says.
func (m *machine) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.said.Write(p)
	close(m.more)
	m.more = make(chan struct{})
	return len(p), nil
}

func (m *machine) console() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said.String()
}

// waitSays waits until the console says something after from bytes, and returns how much
// it has said up to its end.
func (m *machine) waitSays(from int, text string, patience time.Duration) int {
	m.t.Helper()
	late := time.After(patience)
	for {
		m.mu.Lock()
		said, more := m.said.String(), m.more
		m.mu.Unlock()
		if at := strings.Index(said[from:], text); at >= 0 {
			return from + at + len(text)
		}
		select {
		case <-more:
		case <-m.ended:
			m.t.Fatalf("the guest ended without saying %q: %v", text, m.err)
		case <-late:
			m.t.Fatalf("the guest did not say %q in %v", text, patience)
		}
	}
}

// typed sends what a person types.
func (m *machine) typed(text string) {
	m.t.Helper()
	if _, err := io.WriteString(m.stdin, text); err != nil {
		m.t.Fatalf("type %q: %v", text, err)
	}
}

// answers waits until the service does.
func (m *machine) answers() {
	m.t.Helper()
	m.waitSays(0, "answers, ", bootPatience)
}

func (m *machine) kill() {
	_ = m.cmd.Process.Kill() // os.ErrProcessDone: it has ended
	<-m.ended
}

// waitEnds waits until the machine is off by itself.
func (m *machine) waitEnds(patience time.Duration) {
	m.t.Helper()
	select {
	case <-m.ended:
		if m.err != nil {
			m.t.Fatalf("%s: %v", emulator, m.err)
		}
	case <-time.After(patience):
		m.t.Fatalf("the machine is still on after %v", patience)
	}
}

var web = &http.Client{Timeout: 5 * time.Minute}

// ask asks the service. An error is one of the connection.
func (m *machine) ask(method, path string, body io.Reader) (status int, text string, err error) {
	r, err := http.NewRequest(method, m.url+path, body)
	if err != nil {
		return 0, "", err
	}
	answer, err := web.Do(r)
	if err != nil {
		return 0, "", err
	}
	content, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(content), errors.Join(err, answer.Body.Close())
}

// must is ask for what has to be done.
func (m *machine) must(method, path, body string) string {
	m.t.Helper()
	status, text, err := m.ask(method, path, strings.NewReader(body))
	if err != nil || status/100 != 2 {
		m.t.Fatalf("%s %s: %d %s%v", method, path, status, text, err)
	}
	return text
}

// checkDisk has the host look at a guest's file system, without changing it.
func checkDisk(t *testing.T, disk string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-f", "-n", disk).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}
