package systemd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// limit is how long a test waits for anything: CI has two cores, and they are busy.
const limit = 2 * time.Minute

// bootScript boots systemd as process 1 of namespaces of its own, on a throw-away overlay
// of the machine's root. What it writes is in memory and goes with it. $1 is an empty
// directory for that, $2 one that the box shall have too, under the same path.
//
// Loop devices are the machine's own, the kernel does not separate them: the box has a
// node for each that there may be.
const bootScript = `
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir -p ".$2"
mount --bind "$2" ".$2"
mkdir dev/pts dev/shm dev/net
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for n in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229 loop-control:10:237 net/tun:10:200; do
	IFS=: read -r name major minor <<X
$n
X
	mknod -m 666 "dev/$name" c "$major" "$minor"
done
n=0
while [ $n -lt 128 ]; do mknod -m 660 dev/loop$n b 7 $n; n=$((n + 1)); done
# What the machine runs of its own is no business of the box's, nor is what keeps packages
# from starting services in containers.
rm -f etc/systemd/system/multi-user.target.wants/* etc/fstab usr/sbin/policy-rc.d
# Nor is udev, where there is one: it would be told of the loop devices of all that runs on
# this machine, and look into them.
for u in systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service; do
	ln -sf /dev/null "etc/systemd/system/$u"
done
pivot_root . mnt
umount -l /mnt
# As systemd does outside of containers: what is unmounted goes from the services' own
# namespaces as well.
mount --make-rshared /
ip link set lo up
exec env -i container=ft-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target --log-target=journal --show-status=0
`

// box is a machine of its own, as far as systemd can tell.
type box struct {
	t     *testing.T // of the part of the test that runs now
	pid   int        // of its process 1
	legs  string     // a directory that the box has too, for what its disks are made of
	unsh  *exec.Cmd
	ended chan error
	out   bytes.Buffer // of the boot
}

// boot starts a box that is gone when the test is.
func boot(t *testing.T) *box {
	t.Helper()
	// Not below /tmp, of which services have one each.
	legs, err := os.MkdirTemp("/var/lib", "ft-test-")
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, legs: legs, ended: make(chan error, 1)}
	b.unsh = exec.Command("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--kill-child",
		"sh", "-c", bootScript, "sh", t.TempDir(), b.legs)
	b.unsh.Stdout, b.unsh.Stderr = &b.out, &b.out
	b.unsh.WaitDelay = time.Second
	// The box goes with this process, however that ends. It is the starting thread's death
	// that the kernel means: the thread waits.
	b.unsh.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := b.unsh.Start()
		started <- err
		if err == nil {
			b.ended <- b.unsh.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = b.unsh.Process.Kill()
		select {
		case <-b.ended:
		case <-time.After(limit):
			t.Error("the box does not end")
		}
		b.detach()
		os.RemoveAll(legs)
	})
	b.eventually("systemd is up", func() (bool, string) {
		select {
		case err := <-b.ended:
			b.ended <- err
			t.Fatalf("the box has not booted: %v\n%s", err, b.out.String())
		default:
		}
		if b.pid = childOf(b.unsh.Process.Pid, "systemd"); b.pid == 0 {
			return false, b.out.String()
		}
		state, _ := b.try("systemctl", "is-system-running")
		state = strings.TrimSpace(state)
		return state == "running" || state == "degraded", state
	})
	return b
}

// detach frees the loop devices that a box which was killed has left on files of its own.
func (b *box) detach() {
	files, _ := filepath.Glob(filepath.Join(b.legs, "*"))
	for _, f := range files {
		out, _ := exec.Command("losetup", "--noheadings", "--output", "NAME", "--associated", f).Output()
		for _, dev := range strings.Fields(string(out)) {
			_ = exec.Command("losetup", "--detach", dev).Run()
		}
	}
}

// childOf is the child of a process that has a name, 0 for none.
func childOf(parent int, name string) int {
	list, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", parent))
	for _, s := range strings.Fields(string(list)) {
		if comm, _ := os.ReadFile("/proc/" + s + "/comm"); strings.TrimSpace(string(comm)) == name {
			pid, _ := strconv.Atoi(s)
			return pid
		}
	}
	return 0
}

// command is a program in the box.
func (b *box) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(b.pid), "-a", "env", "-i", "--chdir=/",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"}, args...)...)
	cmd.Cancel = func() error { cancel(); return cmd.Process.Kill() }
	cmd.WaitDelay = time.Second
	return cmd
}

// try runs a program in the box, and returns what it wrote and its exit code.
func (b *box) try(args ...string) (out string, code int) {
	b.t.Helper()
	cmd := b.command(args...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatalf("%q: %v", args, err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// do runs a program that must succeed.
func (b *box) do(args ...string) string {
	b.t.Helper()
	out, code := b.try(args...)
	if code != 0 {
		b.t.Fatalf("%q: exit code %d\n%s", args, code, out)
	}
	return out
}

// fails runs a program that must end with a code, and say some words.
func (b *box) fails(code int, says []string, args ...string) {
	b.t.Helper()
	out, got := b.try(args...)
	if got != code {
		b.t.Fatalf("%q: exit code %d, want %d\n%s", args, got, code, out)
	}
	wantWords(b.t, fmt.Sprintf("%q", args), out, says...)
}

func wantWords(t *testing.T, what, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s says nothing of %q:\n%s", what, w, text)
		}
	}
}

// sh runs a script that must succeed.
func (b *box) sh(script string) string {
	b.t.Helper()
	return b.do("sh", "-ec", script)
}

// path is where a file of the box is for this process.
func (b *box) path(p string) string { return fmt.Sprintf("/proc/%d/root%s", b.pid, p) }

func (b *box) write(path, text string) {
	b.t.Helper()
	if err := os.WriteFile(b.path(path), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// put copies a file into the box.
func (b *box) put(from, to string) {
	b.t.Helper()
	in, err := os.Open(from)
	if err != nil {
		b.t.Fatal(err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(b.path(to)), 0o755); err != nil {
		b.t.Fatal(err)
	}
	out, err := os.OpenFile(b.path(to), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		b.t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		b.t.Fatal(err)
	}
}

// eventually waits for a condition, which says what it saw instead.
func (b *box) eventually(what string, is func() (bool, string)) {
	b.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		ok, saw := is()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("not in %v: %s; last seen:\n%s\n%s", limit, what, saw, b.log())
		}
	}
}

// property is one of a unit's, from systemctl show.
func (b *box) property(unit, name string) string {
	b.t.Helper()
	return strings.TrimSpace(b.do("systemctl", "show", "-P", name, unit))
}

// pidOf is the main process of a unit, in the box's count.
func (b *box) pidOf(unit string) string {
	b.t.Helper()
	pid := b.property(unit, "MainPID")
	if pid == "0" || pid == "" {
		b.t.Fatalf("%s has no process:\n%s", unit, b.log())
	}
	return pid
}

// active waits until a unit runs as another process than before, "" for any.
func (b *box) active(unit, before string) (pid string) {
	b.t.Helper()
	b.eventually(unit+" is active again", func() (bool, string) {
		state := b.property(unit, "ActiveState")
		pid = b.property(unit, "MainPID")
		return state == "active" && pid != "0" && pid != before, state + " " + pid
	})
	return pid
}

// box's state by ftctl's word.
func (b *box) duplex() {
	b.t.Helper()
	if out, code := b.try("ftctl", "wait", "box", "--for", "duplex", "--timeout", "100s"); code != 0 {
		status, _ := b.try("ftctl", "status")
		b.t.Fatalf("the box is not duplex: %s%s\n%s", out, status, b.log())
	}
}

// log is what the services have said last.
func (b *box) log() string {
	out, _ := b.try("journalctl", "--no-pager", "-q", "-n", "80", "-u", "ftd", "-u", "ft-keeper", "-u", "ftd.socket")
	return out
}
