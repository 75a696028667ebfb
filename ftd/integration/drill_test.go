package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// drillReport is what `ftctl --json drill` says, as far as it is looked at here.
type drillReport struct {
	OK          bool
	Verdict     string
	Faults      int
	Errors      int64
	Lost        int64
	State       string
	Interrupted bool
	Kinds       []struct {
		On, Kind string
		Times    int
	}
	Loads []struct {
		Device, What string
		Ops          int64
	}
}

// drill is a running `ftctl drill`.
type drill struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  lockedBuffer
	errs lockedBuffer
	end  chan error
}

func (b *box) drill(args ...string) *drill {
	b.t.Helper()
	d := &drill{t: b.t, end: make(chan error, 1)}
	d.cmd = exec.Command(filepath.Join(binDir, "ftctl"), append([]string{"--socket", b.sock, "drill"}, args...)...)
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.errs
	if err := d.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() { d.end <- d.cmd.Wait() }()
	b.t.Cleanup(func() { _ = d.cmd.Process.Kill() })
	return d
}

// ends waits for its end, and returns what it printed and its exit code.
func (d *drill) ends() (string, int) {
	d.t.Helper()
	select {
	case err := <-d.end:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return d.out.String() + d.errs.String(), exit.ExitCode()
		}
		return d.out.String(), done
	case <-time.After(busy * time.Minute):
		d.t.Fatalf("the drill does not end\n%s", d.out.String())
		return "", 0
	}
}

func (d *drill) report() (r drillReport, code int) {
	d.t.Helper()
	text, code := d.ends()
	if err := json.Unmarshal([]byte(d.out.String()), &r); err != nil {
		d.t.Fatalf("%v: %s", err, text)
	}
	return r, code
}

// A fire drill of a test box: disks, NICs, CPU modules, all processes. It ends with zeros,
// and leaves nothing behind. Beside it there is no other.
func TestFireDrill(t *testing.T) {
	t.Parallel()
	b := newThrowaway(t)
	b.guest = "bare"
	b.start()
	b.wait("box", "duplex")
	empty := digestOf(t, b.face())

	// This seed begins with all processes, and with faults that pass quickly.
	d := b.drill("--json", "--minutes", "0.2", "--seed", "2378", "--parts", "disk0,net0,guest,cpu1,ftd")
	await(t, 30*time.Second, "the drill to begin", func() bool { return strings.Contains(b.do("events", "--since", "0"), "injected: clear") })
	if s := b.refuse("drill"); !strings.Contains(s, "another drill runs on this box") {
		t.Errorf("a second drill is refused with %q", s)
	}
	r, code := d.report()
	if code != done || !r.OK || r.Errors != 0 || r.Lost != 0 || r.State != "duplex" || r.Faults == 0 {
		t.Errorf("exit code %d: %+v\n%s", code, r, d.errs.String())
	}
	t.Logf("%s", r.Verdict)
	loads := map[string]int64{}
	for _, l := range r.Loads {
		loads[l.Device] += l.Ops
	}
	for _, device := range []string{"disk0", "net0", "guest"} {
		if loads[device] == 0 {
			t.Errorf("there was no load on %s: %+v", device, r.Loads)
		}
	}
	if digestOf(t, b.face()) != empty {
		t.Error("the disk is not as it was")
	}

	// What it must not do.
	b.do("inject", "pci1/disk0", "vanish")
	b.wait("disk0", "simplex")
	if s := b.refuse("drill"); !strings.Contains(s, "the box is simplex") || !strings.Contains(s, "ftctl wait box --for duplex") {
		t.Errorf("on a box in simplex it is refused with %q", s)
	}
	b.do("inject", "pci1/disk0", "return")
	b.wait("box", "duplex")

	// On a mounted disk; and Ctrl-C gives back what is out.
	b.mkfs()
	dir := b.mount()
	since := b.status().System.Seq
	d = b.drill("--json", "--minutes", "9", "--parts", "pci1/disk0")
	await(t, 60*time.Second, "the leg to fail", func() bool { return strings.Contains(b.do("events", "--since", fmt.Sprint(since)), "simplex") })
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	r, code = d.report()
	if code != done || !r.Interrupted || r.State != "duplex" || !strings.Contains(r.Loads[0].What, dir) {
		t.Errorf("exit code %d: %+v\n%s", code, r, d.errs.String())
	}
	b.wait("box", "duplex")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the drill has left %v (%v)", entries, err)
	}
	unmount(t, dir)

	face := b.faceDevice()
	b.signal(unix.SIGINT)
	b.ends()
	b.leavesNothing(face)
}

// ftd that nobody starts again is not killed; and where it dies all the same, the drill ends.
func TestFireDrillWithoutFtd(t *testing.T) {
	t.Parallel()
	b := newBox(t, legFile(t, legBytes), legFile(t, legBytes))
	b.start()
	b.wait("disk0", "duplex")
	if s := b.refuse("drill", "--parts", "ftd"); !strings.Contains(s, "there is nothing to drill") || !strings.Contains(s, "ftd is not killed: nobody would start it again") {
		t.Errorf("it is refused with %q", s)
	}
	config := filepath.Join(b.dir, "ft.toml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(text), "drills = true", "drills = false", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	b.killFtd()
	b.start()
	b.wait("disk0", "duplex")
	if s := b.refuse("drill"); !strings.Contains(s, "drills are not allowed on this box") || !strings.Contains(s, "drills = true") {
		t.Errorf("where drills are not allowed it is refused with %q", s)
	}
	b.killFtd()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(binDir, "ftctl"), "--socket", b.sock, "drill").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 4 || !strings.Contains(string(out), "ftd is not running") {
		t.Errorf("without ftd: %v\n%s", err, out)
	}
}
