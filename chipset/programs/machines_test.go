package programs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"ft/chipset"
	"ft/chipset/programs/plan"
	"ft/drivers"
)

// machine is what both machines boot.
type machine struct {
	kernel, initrd, cmdline string
	memoryBytes             int64
}

// ending is how a guest did its plan.
type ending struct {
	results    []plan.Result
	complaints []string
	console    []string // the last lines that were no reports
	err        error    // why it did not come to its end
}

// consoleLines is how much of the kernel's words is kept for a report.
const consoleLines = 40

// listen reads a guest's console until it has done its plan, and says what goes on.
func listen(console io.Reader, commands []plan.Command, say func(format string, args ...any)) (e ending) {
	in := bufio.NewReaderSize(console, 64<<10)
	begun := 0
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			running := "the first command"
			if begun > 0 {
				running = fmt.Sprintf("the end of %q", commands[begun-1].Name)
			}
			e.err = fmt.Errorf("the console ended before %s: %w", running, err)
			return e
		}
		before, text, isReport := bytes.Cut(line, []byte(plan.Mark))
		if said := strings.TrimSpace(string(before)); said != "" {
			e.console = append(e.console[max(0, len(e.console)-consoleLines+1):], said)
		}
		if !isReport {
			continue
		}
		var r plan.Report
		if err := json.Unmarshal(text, &r); err != nil {
			e.err = fmt.Errorf("the guest says %.200q: %w", text, err)
			return e
		}
		switch {
		case r.Begin != "" && (begun == len(commands) || r.Begin != commands[begun].Name):
			e.err = fmt.Errorf("the guest began anew, or with another plan: %q after %d commands", r.Begin, begun)
			return e
		case r.Begin != "":
			begun++
		case r.Result != nil:
			say("%-40s status %d, %6d bytes, sum %.8s, %6.1f s", commands[begun-1].Name, r.Result.Status, r.Result.Bytes, r.Result.Sum, r.Result.Seconds)
			e.results = append(e.results, *r.Result)
		case r.Failed != "":
			e.err = errors.New(r.Failed)
			return e
		case r.Done:
			return e
		default:
			e.complaints = r.Complaints
		}
	}
}

// ours runs the guest on our machine.
func ours(t *testing.T, ctx context.Context, g machine, commands []plan.Command) (e ending) {
	dir := t.TempDir()
	options, err := json.Marshal(chipset.Options{Kernel: g.kernel, Initrd: g.initrd, Cmdline: g.cmdline, MemoryBytes: g.memoryBytes})
	if err != nil {
		return ending{err: err}
	}
	driver, err := chipset.New(drivers.Config{
		Kind: chipset.Kind, Name: "guest", RunDir: dir, StateDir: dir, Options: options,
		Sides: [2]drivers.SideConfig{{Resource: drivers.Resource{Path: "cpu0"}}},
	}, drivers.Env{
		Log: slog.New(slog.DiscardHandler), Predecessor: -1, Text: func(string) {},
		Store: func(string, ...int) error { return nil }, Unstore: func(string) {},
		Fatal: func(err error) { t.Errorf("our machine: %v", err) },
	})
	if err != nil {
		return ending{err: err}
	}
	off := make(chan string, 1)
	go func() {
		for event := range driver.Events() {
			if event.Detail["out_by"] == drivers.OutByGuest {
				off <- event.Reason
			}
		}
	}()
	if err := driver.Start(ctx, drivers.Fresh); err != nil {
		return ending{err: err}
	}
	defer func() {
		e.err = errors.Join(e.err, driver.Stop(context.WithoutCancel(ctx), drivers.Remove))
	}()
	if st := driver.Status(); st.State == drivers.FaceDown {
		return ending{err: fmt.Errorf("our machine does not start: %s", st.Reason)}
	}
	console, err := net.Dial("unix", chipset.ConsolePath(dir, "guest"))
	if err != nil {
		return ending{err: err}
	}
	defer console.Close()
	defer context.AfterFunc(ctx, func() { console.Close() })()
	e = listen(console, commands, func(format string, args ...any) { t.Logf("ours: "+format, args...) })
	if e.err != nil {
		e.err = fmt.Errorf("%w (%v)", e.err, context.Cause(ctx))
		return e
	}
	t.Logf("ours: %v", driver.Status().Stats)
	select {
	case <-off:
	case <-ctx.Done():
		e.err = fmt.Errorf("the guest did not switch the machine off: %w", context.Cause(ctx))
	}
	return e
}

const emulator = "qemu-system-riscv64"

// cpu is QEMU's processor without the extensions that the hart has not: kernel and C
// library choose their code by them.
const cpu = "rv64,h=false,zba=false,zbb=false,zbc=false,zbs=false,sstc=true"

// qemus runs the guest under QEMU.
func qemus(t *testing.T, ctx context.Context, g machine, commands []plan.Command) (e ending) {
	runtime.LockOSThread() // QEMU is killed with the thread that started it
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, emulator, "-M", "virt", "-cpu", cpu, "-m", fmt.Sprint(g.memoryBytes>>20),
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", g.kernel, "-initrd", g.initrd, "-append", g.cmdline)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said strings.Builder
	cmd.Stderr = &said
	console, err := cmd.StdoutPipe()
	if err != nil {
		return ending{err: err}
	}
	if err := cmd.Start(); err != nil {
		return ending{err: err}
	}
	e = listen(console, commands, func(format string, args ...any) { t.Logf("QEMU: "+format, args...) })
	if e.err != nil {
		_ = cmd.Process.Kill() // os.ErrProcessDone: it has ended
	}
	if err := cmd.Wait(); err != nil {
		e.err = errors.Join(e.err, fmt.Errorf("%s: %w: %s (%v)", emulator, err, said.String(), context.Cause(ctx)))
	}
	return e
}
