package kerneltest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"ft/drivers/initramfs"
	"ft/drivers/kerneltest/plan"
)

// cmdline: an oops is the guest's end and not a line that nobody reads; warnings are on
// the console, what happens at every boot is not; and no time is spent on what an
// emulated machine does not need.
const cmdline = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off nokaslr nowatchdog rcupdate.rcu_cpu_stall_suppress=1 random.trust_cpu=on"

// boot runs commands in a guest. ended is called after each; lines sees what they say. It
// returns after the last one, and ends the test when that does not come.
func boot(t TB, o Options, commands []plan.Command, ended func(int, plan.Result), lines ...func(string)) {
	t.Helper()
	need(t)
	kernel, err := find(o.Kernel, t.Logf)
	if err != nil {
		missing(t, fmt.Sprintf("no kernel to boot: %v", err))
	}
	dir := t.TempDir()
	initrd := filepath.Join(dir, "initrd")
	if err := pack(t, initrd, kernel, o, commands); err != nil {
		t.Fatalf("kerneltest: pack the guest: %v", err)
	}
	// Guests measure time, and an emulated processor keeps a real one busy: one at a time.
	cache, err := Cache()
	if err != nil {
		t.Fatalf("kerneltest: %v", err)
	}
	unlock, err := lock(cache, "guest.lock")
	if err != nil {
		t.Fatalf("kerneltest: wait for other guests: %v", err)
	}
	defer unlock()

	ctx, cancel := context.WithTimeout(context.Background(), o.timeout())
	defer cancel()
	g, err := start(ctx, kernel, initrd, o)
	if err != nil {
		t.Fatalf("kerneltest: start %s: %v", emulator, err)
	}
	defer g.end()
	next, failed, done := 0, "", false
	for l := range g.lines {
		if l.console {
			t.Logf("kernel: %s", l.text)
			continue
		}
		switch kind, text := l.text[0], l.text[1:]; kind {
		case plan.Output:
			t.Logf("guest: %s", text)
			for _, see := range lines {
				see(text)
			}
		case plan.Exit:
			var r plan.Result
			if err := json.Unmarshal([]byte(text), &r); err != nil || next == len(commands) {
				t.Fatalf("kerneltest: the guest's init said %q: %v", l.text, err)
			}
			ended(next, r)
			next++
		case plan.Failed:
			failed = text
		case plan.Done:
			done = true
		default:
			t.Logf("guest's port: %s", l.text)
		}
	}
	err = g.wait()
	switch {
	case failed != "":
		t.Fatalf("kerneltest: in the guest: %s", failed)
	case ctx.Err() != nil:
		t.Fatalf("kerneltest: the guest was not done after %v and was killed", o.timeout())
	case !done || next < len(commands):
		t.Fatalf("kerneltest: the guest ended before its plan was done, see the console above (%s: %v)", emulator, err)
	}
}

// thisMachine is where the guest's programs come from, with Debian's directories of amd64.
var thisMachine = initramfs.Tree{Root: "/", Libraries: []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu/ceph", "/usr/lib64", "/usr/lib"}}

// pack writes the initramfs.
func pack(t TB, initrd string, kernel image, o Options, commands []plan.Command) error {
	modules, err := initramfs.Modules(kernel.modules, o.Modules)
	if err != nil {
		return err
	}
	program := filepath.Join(t.TempDir(), "init")
	goTool(t, "build", "-ldflags=-s -w", "-o", program, "ft/drivers/kerneltest/init")

	f, err := os.Create(initrd)
	if err != nil {
		return err
	}
	defer f.Close()
	a := initramfs.NewArchive(f)
	// Without it the kernel starts init without standard files.
	a.Char("/dev/console", 5, 1)
	a.MergeUsr()
	for _, d := range []string{"/etc", "/root", "/var/lib", "/mnt"} {
		a.Dir(d)
	}
	a.Link("/var/run", "/run")
	a.File("/init", program)
	p := plan.Plan{Commands: commands}
	for _, m := range modules {
		at := "/usr/lib/modules/" + m.Name + ".ko"
		a.Bytes(at, 0o644, m.Data)
		p.Modules = append(p.Modules, at)
	}
	for _, name := range o.Programs {
		path, err := exec.LookPath(name)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err == nil {
			err = a.Program(thisMachine, path)
		}
		if err != nil {
			return fmt.Errorf("put the program %s into the guest: %w", name, err)
		}
	}
	for at, from := range o.Files {
		a.File(initramfs.Merged(at), from)
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	a.Bytes(plan.File, 0o644, text)
	return a.Close()
}

// guest is a QEMU process and what it says.
type guest struct {
	cmd   *exec.Cmd
	lines chan line // closed when QEMU has ended
	stop  chan struct{}
	once  sync.Once
	err   error
}

type line struct {
	console bool // from the kernel's console, else from init's port
	text    string
}

func start(ctx context.Context, kernel image, initrd string, o Options) (*guest, error) {
	cpus, memory := o.CPUs, o.Memory
	if cpus <= 0 {
		cpus = 1
	}
	if memory <= 0 {
		memory = 512
	}
	cpu := o.CPU
	if cpu == "" {
		cpu = "max"
	}
	console, consoleW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	port, portW, err := os.Pipe()
	if err != nil {
		console.Close()
		consoleW.Close()
		return nil, err
	}
	// One thread runs all processors: with one each, QEMU 7.2 at times runs code that the
	// kernel has patched since (its static keys), and the kernel dies of a stray int3.
	// QEMU opens the pipes by the numbers that ExtraFiles get (os/exec).
	cmd := exec.CommandContext(ctx, emulator, "-accel", "tcg,thread=single", "-cpu", cpu, "-smp", strconv.Itoa(cpus), "-m", strconv.Itoa(memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot",
		"-chardev", "file,id=console,path=/dev/fd/3", "-serial", "chardev:console",
		"-chardev", "file,id=port,path=/dev/fd/4", "-serial", "chardev:port",
		"-kernel", kernel.vmlinuz, "-initrd", initrd, "-append", cmdline)
	if o.Counted {
		cmd.Args = append(cmd.Args, "-icount", "shift=0,sleep=off")
	}
	cmd.ExtraFiles = []*os.File{consoleW, portW}
	said := &strings.Builder{}
	cmd.Stderr = said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	g := &guest{cmd: cmd, lines: make(chan line), stop: make(chan struct{})}

	started := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		// QEMU is killed with the thread that started it: that thread waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		consoleW.Close()
		portW.Close()
		started <- err
		if err == nil {
			if err = cmd.Wait(); err != nil && said.Len() > 0 {
				err = fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
			}
			g.err = err
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		console.Close()
		port.Close()
		return nil, err
	}
	var readers sync.WaitGroup
	readers.Go(func() { g.read(console, true) })
	readers.Go(func() { g.read(port, false) })
	go func() {
		readers.Wait()
		<-ended
		close(g.lines)
	}()
	return g, nil
}

// lineMax is longer than any line of init's; a longer one is cut.
const lineMax = 128 << 10

// read passes lines on until QEMU closes its end.
func (g *guest) read(from io.ReadCloser, console bool) {
	defer from.Close()
	in := bufio.NewReaderSize(from, lineMax)
	for {
		raw, err := in.ReadSlice('\n')
		if text := strings.TrimRight(string(raw), "\r\n"); text != "" {
			select {
			case g.lines <- line{console, text}:
			case <-g.stop:
				return
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// wait returns how QEMU ended; lines has been closed.
func (g *guest) wait() error { return g.err }

// end kills QEMU if it still runs, and returns when all is gone.
func (g *guest) end() {
	g.once.Do(func() {
		close(g.stop)
		_ = g.cmd.Process.Kill() // os.ErrProcessDone: it has ended
		deadline := time.After(10 * time.Second)
		for {
			select {
			case _, more := <-g.lines:
				if !more {
					return
				}
			case <-deadline:
				return
			}
		}
	})
}
