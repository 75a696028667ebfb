// Package integration_test is the acceptance test of the whole: real binaries, real
// loop devices, ext4, fio and PostgreSQL, while parts fail and processes are killed.
// Everything is done as a person would, by the command line; only the faults under the
// legs come from a FUSE file that can fail (mirror/faultfile).
//
// Every box lives in directories of its own and ends with its test, also when that
// fails: processes, loop devices, mounts.
package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/keeper"
	"ft/ftd/api"
)

// binDir has ftd and ftctl, built once.
var binDir string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "loop devices, FUSE and mounts need root: sudo make test")
		return 1
	}
	dir, err := os.MkdirTemp("", "ft-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/", "ft/ftd", "ft/ftctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as the Makefile builds them
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the binaries:", err)
		return 1
	}
	binDir = dir
	removeLeftNICBoxes()
	return m.Run()
}

// Exit codes of ftctl.
const (
	done    = 0
	failed  = 1
	refused = 3
)

// misconfigured is ftd's where its configuration has to be mended first.
const misconfigured = 78

const legBytes = 192 << 20

// box is a box under test: a configuration, directories, and ftd when it runs.
type box struct {
	t    *testing.T
	dir  string // short, for the sockets' sake
	sock string // ftd's; its directory is the run directory
	legs [2]string
	ftd  *exec.Cmd
	log  *os.File
	gone chan error // how ftd ended
}

// newBox makes a box whose disk0 has the two legs. Nothing runs yet.
func newBox(t *testing.T, leg0, leg1 string) *box {
	t.Helper()
	dir, err := os.MkdirTemp("", "ft-")
	if err != nil {
		t.Fatal(err)
	}
	b := boxIn(t, dir)
	b.legs = [2]string{leg0, leg1}
	b.configure("")
	return b
}

// boxIn makes a box without a configuration in a directory, which goes with the box.
func boxIn(t *testing.T, dir string) *box {
	t.Helper()
	b := &box{t: t, dir: dir, sock: filepath.Join(dir, "run", "ftd.sock")}
	var err error
	if b.log, err = os.Create(filepath.Join(dir, "ftd.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.remove)
	return b
}

func (b *box) face() string { return filepath.Join(b.dir, "dev", "disk0") }

// configure writes ft.toml; extra goes to the end of the disk's table.
func (b *box) configure(extra string) {
	b.t.Helper()
	text := "[system]\nname = \"box\"\ndrills = true\n\n[mtbf]\npolicy = \"always\"\n\n[[disk]]\nname = \"disk0\"\n"
	for i, leg := range b.legs {
		if leg != "" {
			text += fmt.Sprintf("pci%d = %q\n", i, leg)
		}
	}
	if err := os.WriteFile(filepath.Join(b.dir, "ft.toml"), []byte(text+extra), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) args() []string {
	return []string{"--config", filepath.Join(b.dir, "ft.toml"), "--socket", b.sock,
		"--state", filepath.Join(b.dir, "state"), "--dev-dir", filepath.Join(b.dir, "dev")}
}

// start starts ftd, which starts a keeper when there is none.
func (b *box) start() {
	b.t.Helper()
	b.ftd = exec.Command(filepath.Join(binDir, "ftd"), b.args()...)
	b.ftd.Stdout, b.ftd.Stderr = b.log, b.log
	b.ftd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := b.ftd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.gone = make(chan error, 1)
	go func(cmd *exec.Cmd, gone chan<- error) { gone <- cmd.Wait() }(b.ftd, b.gone)
	await(b.t, 20*time.Second, "ftd to answer", func() bool {
		_, err := b.statusNow()
		return err == nil
	})
}

// refuseStart runs ftd where it must not start, and returns what it says.
func (b *box) refuseStart() string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), busy*20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(binDir, "ftd"), b.args()...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != failed && exit.ExitCode() != misconfigured {
		b.t.Fatalf("ftd must be refused with exit code %d or %d: %v\n%s", failed, misconfigured, err, out)
	}
	return string(out)
}

// killFtd kills ftd alone and waits until it is gone.
func (b *box) killFtd() {
	b.t.Helper()
	if b.ftd == nil {
		return
	}
	_ = b.ftd.Process.Kill()
	b.awaitFtdGone()
}

func (b *box) awaitFtdGone() {
	b.t.Helper()
	select {
	case <-b.gone:
	case <-time.After(busy * 20 * time.Second):
		b.t.Fatal("ftd does not end")
	}
	b.ftd = nil
}

// ftctl runs a command line and returns what it printed and its exit code.
func (b *box) ftctl(args ...string) (string, int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(binDir, "ftctl"), append([]string{"--socket", b.sock}, args...)...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), exit.ExitCode()
	}
	if err != nil {
		b.t.Fatalf("ftctl %v: %v\n%s", args, err, out)
	}
	return string(out), done
}

// do runs a command line that must succeed.
func (b *box) do(args ...string) string {
	b.t.Helper()
	out, code := b.ftctl(args...)
	if code != done {
		b.t.Fatalf("ftctl %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// refuse runs a command line that a rule must refuse, and returns the sentence.
func (b *box) refuse(args ...string) string {
	b.t.Helper()
	out, code := b.ftctl(args...)
	if code != refused {
		b.t.Fatalf("ftctl %s: exit code %d, want %d\n%s", strings.Join(args, " "), code, refused, out)
	}
	return out
}

// wait waits for a state of a component.
func (b *box) wait(id, state string) {
	b.t.Helper()
	if out, code := b.ftctl("wait", id, "--for", state, "--timeout", "120s"); code != done {
		status, _ := b.ftctl("status")
		b.t.Fatalf("%s is not %s: %s\n%s", id, state, out, status)
	}
}

func (b *box) statusNow() (api.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), busy*5*time.Second)
	defer cancel()
	c := api.NewClient(b.sock)
	defer c.Close()
	return c.Status(ctx)
}

// status is the status document, as `ftctl --json status` prints it.
func (b *box) status() api.Status {
	b.t.Helper()
	var st api.Status
	if err := json.Unmarshal([]byte(b.do("--json", "status")), &st); err != nil {
		b.t.Fatal(err)
	}
	return st
}

// stat is one of the counters of disk0's driver, at this moment.
func (b *box) stat(name string) int64 {
	b.t.Helper()
	stats := b.stats("disk0")
	v, ok := stats[name].(float64)
	if !ok {
		b.t.Fatalf("disk0 has no counter %s: %v", name, stats)
	}
	return int64(v)
}

// stats are what a device's driver counts and says of itself, at this moment.
func (b *box) stats(device string) map[string]any {
	b.t.Helper()
	var shown struct {
		Detail struct{ Stats map[string]any }
	}
	if err := json.Unmarshal([]byte(b.do("--json", "show", device)), &shown); err != nil {
		b.t.Fatal(err)
	}
	return shown.Detail.Stats
}

// awaitStat waits until a counter is what it should be.
func (b *box) awaitStat(name string, ok func(int64) bool) int64 {
	b.t.Helper()
	var v int64
	await(b.t, 30*time.Second, "the counter "+name, func() bool { v = b.stat(name); return ok(v) })
	return v
}

// pids of the box's processes, by what they are.
func (b *box) driverPid() int {
	b.t.Helper()
	return b.processOf("disk0").Pid
}

// awaitSuccessor waits for a driver process that is another one and serves.
func (b *box) awaitSuccessor(name string, of int) {
	b.t.Helper()
	await(b.t, 60*time.Second, "a successor of the driver of "+name, func() bool {
		p := b.processOf(name)
		return p.Pid != 0 && p.Pid != of && p.State == "running"
	})
}

// killDriver kills the driver of disk0 and waits for its successor.
func (b *box) killDriver() {
	b.t.Helper()
	pid := b.driverPid()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	b.awaitSuccessor("disk0", pid)
}

func (b *box) processOf(name string) keeper.Process {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), busy*5*time.Second)
	defer cancel()
	p, err := keeper.Dial(keeper.SocketPath(filepath.Dir(b.sock))).Process(ctx, name)
	if err != nil {
		b.t.Fatalf("ask the keeper for %s: %v", name, err)
	}
	return p
}

// keeperPid finds the keeper by its command line.
func (b *box) keeperPid() int {
	b.t.Helper()
	pid := b.keeperNow()
	if pid == 0 {
		b.t.Fatal("there is no keeper")
	}
	return pid
}

// keeperNow is 0 while there is none.
func (b *box) keeperNow() int {
	b.t.Helper()
	for _, pid := range b.processes() {
		if line := commandLine(pid); len(line) > 1 && line[1] == "keeper" {
			return pid
		}
	}
	return 0
}

// processes are all that name the box's directory on their command lines.
func (b *box) processes() []int {
	b.t.Helper()
	pids, err := processesOf(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	return pids
}

func processesOf(dir string) (pids []int, err error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		var pid int
		if _, err := fmt.Sscan(d.Name(), &pid); err != nil || pid == os.Getpid() {
			continue
		}
		line := commandLine(pid)
		if len(line) > 0 && filepath.Base(line[0]) == "ftd" && strings.Contains(strings.Join(line, " "), dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func commandLine(pid int) []string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(line) == 0 {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(line, []byte{0})), "\x00")
}

// killAll kills every process of the box at once and waits until they are gone.
func (b *box) killAll() {
	b.t.Helper()
	for _, pid := range b.processes() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	await(b.t, 20*time.Second, "the killed processes to be gone", func() bool { return len(b.processes()) == 0 })
	if b.ftd != nil {
		b.awaitFtdGone()
	}
}

// stop ends the box cleanly: ftd, then the keeper with the faces.
func (b *box) stop() {
	b.t.Helper()
	if b.ftd != nil {
		_ = b.ftd.Process.Signal(unix.SIGTERM)
		b.awaitFtdGone()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := keeper.Dial(keeper.SocketPath(filepath.Dir(b.sock))).Stop(ctx, false); err != nil {
		b.t.Fatalf("stop the keeper: %v", err)
	}
	await(b.t, 10*time.Second, "the box's processes to end", func() bool { return len(b.processes()) == 0 })
}

// remove ends the box whatever state it is in, and shows its logs when the test failed.
func (b *box) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), busy*20*time.Second)
	defer cancel()
	if b.t.Failed() {
		b.showLogs()
	}
	b.killFtd()
	_ = keeper.Dial(keeper.SocketPath(filepath.Dir(b.sock))).Stop(ctx, true)
	b.killAll()
	b.log.Close()
	if err := os.RemoveAll(b.dir); err != nil {
		b.t.Error(err)
	}
}

func (b *box) showLogs() {
	logs, _ := filepath.Glob(filepath.Join(b.dir, "run", "log", "*"))
	crashes, _ := filepath.Glob(filepath.Join(b.dir, "run", "drivers", "*.crash"))
	for _, path := range append(append(logs, crashes...), filepath.Join(b.dir, "ftd.log")) {
		text, err := os.ReadFile(path)
		if err != nil || len(text) == 0 {
			continue
		}
		const tail = 6000
		b.t.Logf("%s:\n%s", path, text[max(0, len(text)-tail):])
	}
}

// busy is how much longer everything that is waited for may take on a machine that has
// much else to do.
const busy = 4

// await waits for a condition. limit is for a quiet machine, and no measurement.
func await(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	limit *= busy
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
