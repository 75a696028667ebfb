package integration_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ft/bond/datapath/tcx"
	"ft/ftd/testbox/network"
)

// throwaway is a running `ftd --testbox`, in directories of its own. Its box answers to
// the same helpers as any other.
type throwaway struct {
	*box
	guest string // what its machine runs; "none" when ""
	out   lockedBuffer
	init  *exec.Cmd
	end   chan error
}

// testbox is the command of a test box in a directory.
func testbox(dir string, args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(binDir, "ftd"), append([]string{"--testbox", dir}, args...)...)
}

// lockedBuffer takes a process's output while it is looked at.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func newThrowaway(t *testing.T) *throwaway {
	t.Helper()
	b := &throwaway{}
	t.Cleanup(func() { // the last one: what a failed test has left
		if _, err := network.Remove(filepath.Join(b.dir, "box")); err != nil {
			t.Error(err)
		}
		if err := tcx.Unpin(pinKey(b.dir)); err != nil {
			t.Error(err)
		}
	})
	b.box = newBox(t, "", "")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the test box said:\n%s", b.out.String())
			logs, _ := filepath.Glob(filepath.Join(b.box.dir, "box", "*.log"))
			for _, l := range logs {
				text, _ := os.ReadFile(l)
				t.Logf("%s:\n%s", l, text[max(0, len(text)-4000):])
			}
		}
		for _, node := range b.loops() { // what a failed test has left
			_ = exec.Command("losetup", "-d", node).Run()
		}
	})
	return b
}

func (b *throwaway) start() {
	b.t.Helper()
	b.out.reset()
	guest, best := b.guest, "The box is " // whatever: a machine takes its time
	if guest == "" {
		guest, best = "none", "The box is duplex"
	}
	b.init = testbox(filepath.Join(b.dir, "box"), "--guest", guest, "--socket", b.sock, "--dev-dir", filepath.Join(b.dir, "dev"))
	b.init.Stdout, b.init.Stderr = &b.out, &b.out
	b.init.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := b.init.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.end = make(chan error, 1)
	cmd, end := b.init, b.end
	go func() { end <- cmd.Wait() }()
	b.t.Cleanup(func() { _ = cmd.Process.Kill() })
	b.hears(best)
}

// hears waits until the test box has said something.
func (b *throwaway) hears(words string) {
	b.t.Helper()
	await(b.t, 60*time.Second, "the test box to say: "+words, func() bool { return strings.Contains(b.out.String(), words) })
}

func (b *throwaway) signal(s os.Signal) {
	b.t.Helper()
	if err := b.init.Process.Signal(s); err != nil {
		b.t.Fatal(err)
	}
}

func (b *throwaway) ends() {
	b.t.Helper()
	select {
	case err := <-b.end:
		if err != nil {
			b.t.Fatalf("the test box ended with %v", err)
		}
	case <-time.After(60 * time.Second):
		b.t.Fatal("the test box does not end")
	}
}

// loops are the loop devices over files in the box's directory, and those over the
// FUSE files of faces cannot be told from others: they are seen by their links.
func (b *throwaway) loops() (nodes []string) {
	all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range all {
		file, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(file), b.dir+"/") {
			nodes = append(nodes, "/dev/"+strings.Split(path, "/")[3])
		}
	}
	return nodes
}

// noLoops waits until the box has no loop devices: whoever looks at all devices of this
// computer may keep one a moment longer.
func (b *throwaway) noLoops() {
	b.t.Helper()
	await(b.t, 5*time.Second, "the box's loop devices to be gone", func() bool { return len(b.loops()) == 0 })
}

// leavesNothing checks that all is gone but the box's own directory.
func (b *throwaway) leavesNothing(face faceDevice) {
	b.t.Helper()
	if ps := b.processes(); len(ps) > 0 {
		b.t.Errorf("processes %v are left", ps)
	}
	b.noLoops()
	for _, path := range []string{b.face(), filepath.Join(b.dir, "run"), filepath.Join(b.dir, "dev"), filepath.Join(b.dir, "box", "testbox.json")} {
		if _, err := os.Lstat(path); err == nil {
			b.t.Errorf("%s is left", path)
		}
	}
	await(b.t, 5*time.Second, "the face's device "+face.node+" to be gone", func() bool {
		_, err := os.Stat(face.sysfs() + "/loop/backing_file")
		return err != nil || sequence(b.t, face.node) != face.sequence
	})
	if ns, err := network.Of(filepath.Join(b.dir, "box")); err != nil || len(ns) > 0 {
		b.t.Errorf("network namespaces %v are left (%v)", ns, err)
	}
	if pins, err := tcx.Pins(); err != nil || slices.Contains(pins, pinKey(b.dir)) {
		b.t.Errorf("pinned programs of net0 are left (%v)", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), b.dir+"/") {
		b.t.Errorf("mounts are left (%v)", err)
	}
}

// faceDevice is the device behind a face's link. The kernel gives its number to others
// as soon as it is free; the sequence number tells them apart.
type faceDevice struct {
	node     string
	sequence string
}

func (f faceDevice) sysfs() string { return "/sys/block/" + filepath.Base(f.node) }

func sequence(t *testing.T, node string) string {
	t.Helper()
	b, err := os.ReadFile("/sys/block/" + filepath.Base(node) + "/diskseq")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (b *throwaway) faceDevice() faceDevice {
	b.t.Helper()
	node, err := filepath.EvalSymlinks(b.face())
	if err != nil {
		b.t.Fatal(err)
	}
	return faceDevice{node, sequence(b.t, node)}
}

// The first command of a new user, twice: the data are there the second time.
func TestTestBoxComesAndGoes(t *testing.T) {
	t.Parallel()
	b := newThrowaway(t)
	b.start()
	face := b.faceDevice()
	b.pattern('x')
	b.signal(unix.SIGINT)
	b.ends()
	b.leavesNothing(face)

	b.start()
	b.reads('x')
	face = b.faceDevice()
	b.signal(unix.SIGTERM)
	b.ends()
	b.leavesNothing(face)
}

func TestTestBoxCleansUpAfterAKill(t *testing.T) {
	t.Parallel()
	b := newThrowaway(t)
	b.start()
	b.mkfs()
	dir := b.mount()
	writeSome(t, dir+"/before", 8<<20)
	want := digestOf(t, dir+"/before")
	b.fio(dir)
	b.killAll() // the test box itself among them: it names the directory too
	<-b.end

	// The file system on the dead face is still mounted: that is in nobody's way.
	b.start()
	unmount(t, dir)
	dir = b.mount()
	if digestOf(t, dir+"/before") != want {
		t.Error("a file that was durable before the kill has changed")
	}
	unmount(t, dir)
	face := b.faceDevice()
	b.signal(unix.SIGINT)
	b.ends()
	b.leavesNothing(face)
}

// `make clean-box` removes what a killed box left, and starts none. The data stay. A box
// that runs is not cleaned away.
func TestTestBoxIsCleaned(t *testing.T) {
	t.Parallel()
	b := newThrowaway(t)
	clean := func() (string, error) {
		out, err := testbox(filepath.Join(b.dir, "box"), "--clean").CombinedOutput()
		return string(out), err
	}
	b.start()
	face := b.faceDevice()
	b.pattern('x')
	out, err := clean()
	if err == nil {
		t.Errorf("a box that runs was cleaned away: %s", out)
	}
	says(t, out, "already")
	b.signal(unix.SIGKILL) // keeper, ftd and the driver live on
	<-b.end
	if out, err = clean(); err != nil {
		t.Fatalf("clean: %v\n%s", err, out)
	}
	says(t, out, "removed")
	b.leavesNothing(face)
	if out, err = clean(); err != nil {
		t.Errorf("clean once more: %v\n%s", err, out)
	}
	says(t, out, "no box has left anything")
	b.start()
	b.reads('x')
	b.signal(unix.SIGINT)
	b.ends()
}

// Only the test box itself is killed; keeper, ftd and the driver live on. The next one
// takes over what they have in order.
func TestTestBoxCleansUpAfterItsOwnDeath(t *testing.T) {
	t.Parallel()
	b := newThrowaway(t)
	b.start()
	b.pattern('x')
	b.signal(unix.SIGKILL)
	<-b.end
	b.start()
	b.reads('x')
	face := b.faceDevice()
	b.signal(unix.SIGINT)
	b.ends()
	b.leavesNothing(face)
}

// The keeper and ftd are started again when they die; the face goes on.
func TestTestBoxIsAnInit(t *testing.T) {
	t.Parallel()
	b := newThrowaway(t)
	b.start()
	driver := b.driverPid()
	before := b.status().System.Seq
	b.do("inject", "ftd", "crash")
	b.hears("ftd was killed by signal 9")
	await(t, 20*time.Second, "ftd to answer again", func() bool {
		st, err := b.statusNow()
		return err == nil && st.System.State.String() == "duplex" && st.System.Seq > before
	})
	if err := unix.Kill(b.keeperPid(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.hears("the keeper was killed by signal 9")
	await(t, 20*time.Second, "the new keeper to know the driver", func() bool {
		out, code := b.ftctl("--json", "show", "disk0")
		return code == done && strings.Contains(out, `"restored":true`)
	})
	if now := b.driverPid(); now != driver {
		t.Errorf("the driver was replaced: pid %d, now %d", driver, now)
	}
	b.signal(unix.SIGINT)
	b.ends()
}

// Ended while the face is in use, it names the users and waits; the second signal forces.
func TestTestBoxWaitsForItsUsers(t *testing.T) {
	t.Parallel()
	b := newThrowaway(t)
	b.start()
	b.mkfs()
	dir := b.mount()
	face := b.faceDevice()
	b.signal(unix.SIGINT)
	b.hears(dir)
	writeSome(t, dir+"/still-here", 1<<20)
	unmount(t, dir)
	b.ends()
	b.leavesNothing(face)

	b.start()
	dir = b.mount()
	b.signal(unix.SIGINT)
	b.hears(dir)
	b.signal(unix.SIGINT)
	b.ends()
	if ps := b.processes(); len(ps) > 0 {
		t.Errorf("processes %v are left", ps)
	}
}

func TestSecondTestBoxIsRefused(t *testing.T) {
	t.Parallel()
	b := newThrowaway(t)
	b.start()
	again := testbox(filepath.Join(b.dir, "box"), "--guest", "none", "--socket", b.sock)
	out, err := again.CombinedOutput()
	if err == nil {
		t.Fatal("a second test box on the same directory was started")
	}
	says(t, string(out), "already")
	other := testbox(filepath.Join(b.dir, "other"), "--guest", "none", "--socket", b.sock)
	out, err = other.CombinedOutput()
	if err == nil {
		t.Fatal("a second test box on the same run directory was started")
	}
	says(t, string(out), "pid")
	b.wait("disk0", "duplex")
	b.signal(unix.SIGINT)
	b.ends()
}

// After a test box was killed another box has its run directory: the next start of the
// test box is refused, and touches nothing of it.
func TestTestBoxTouchesNothingOfOthers(t *testing.T) {
	t.Parallel()
	b := newThrowaway(t)
	b.start()
	b.killAll()
	<-b.end

	// It has disks of the same names: else its keeper finds the killed box's and goes on with them.
	other := newBox(t, legFile(t, legBytes), legFile(t, legBytes))
	other.configure(fmt.Sprintf("\n[[disk]]\nname = \"disk1\"\npci0 = %q\npci1 = %q\n", legFile(t, legBytes), legFile(t, legBytes)))
	other.sock = b.sock
	other.start()
	other.wait("disk0", "duplex")
	other.wait("disk1", "duplex")
	ftd, driver := other.ftd.Process.Pid, other.driverPid()
	again := testbox(filepath.Join(b.dir, "box"), "--guest", "none", "--socket", b.sock, "--dev-dir", filepath.Join(b.dir, "dev"))
	out, err := again.CombinedOutput()
	if err == nil {
		t.Fatal("a test box was started on the run directory of another box")
	}
	says(t, string(out), "pid "+strconv.Itoa(ftd))
	other.wait("disk0", "duplex")
	if now := other.driverPid(); now != driver {
		t.Errorf("the other box's driver was replaced: pid %d, now %d", driver, now)
	}
	b.noLoops()
}
