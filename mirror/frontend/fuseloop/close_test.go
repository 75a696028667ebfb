package fuseloop

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// mountAt mounts the device and unmounts it at the end, if the test has not.
func mountAt(t testing.TB, device, dir string) {
	t.Helper()
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		t.Fatalf("mount %s: %v", device, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func TestFileSystem(t *testing.T) {
	r := start(t, geometry(t, 128<<20, 4096), Options{}, late)
	run(t, "mkfs.ext4", "-q", r.Device())
	dir := t.TempDir()
	mountAt(t, r.Device(), dir)
	want := make([]byte, 20<<20)
	fill(want, 4)
	if err := os.WriteFile(filepath.Join(dir, "file"), want, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "fstrim", dir)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	run(t, "fsck.ext4", "-fn", r.Device())
	mountAt(t, r.Device(), dir)
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file: %v, or not what was written", err)
	}
}

func TestUsersAreNamed(t *testing.T) {
	r := start(t, geometry(t, 32<<20, 512), Options{}, atOnce)
	// Another who was told of the same free device may still have it open.
	noUsers := func() bool { n, _ := r.Users(); return n == 0 }
	eventually(t, "a new face has no users", noUsers)
	run(t, "mkfs.ext4", "-q", r.Device())
	dir := filepath.Join(t.TempDir(), "a b")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mountAt(t, r.Device(), dir)
	if n, who := r.Users(); n == 0 || !slices.Contains(who, "mounted on "+dir) {
		t.Errorf("mounted: %d users, %q", n, who)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}

	reader := exec.Command("sleep", "60")
	reader.Stdin = openDevice(t, r.Device(), 0)
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Process.Kill(); _ = reader.Wait() })
	eventually(t, "a process that has it open is named", func() bool {
		_, who := r.Users()
		return slices.Contains(who, fmt.Sprintf("pid %d (sleep)", reader.Process.Pid))
	})
	r.Face.options.ExcludePids = func() []int { return []int{reader.Process.Pid} }
	eventually(t, "the excluded process is not counted", noUsers)
	_ = reader.Process.Kill()
	_ = reader.Wait()

	claim, err := unix.Open(r.Device(), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(claim)
	if n, who := r.Users(); n != 1 || !strings.Contains(who[0], "claimed") {
		t.Errorf("claimed by no visible process: %d users, %q", n, who)
	}
}

func TestUserInAnotherMountNamespaceIsNamed(t *testing.T) {
	r := start(t, geometry(t, 32<<20, 512), Options{}, atOnce)
	run(t, "mkfs.ext4", "-q", r.Device())
	dir := t.TempDir()
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mount "$1" "$2" && echo && exec sleep 60`, "sh", r.Device(), dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("mount in a namespace: %v", err)
	}
	if n, who := r.Users(); n == 0 || !slices.Contains(who, "mounted on "+dir) {
		t.Errorf("%d users, %q", n, who)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "the namespace is gone, with its mount", func() bool { n, _ := r.Users(); return n == 0 })
}

func TestCloseWritesBackAndLeavesNothing(t *testing.T) {
	g := geometry(t, 32<<20, 512)
	g.Name = "fuseloop-" + strconv.Itoa(os.Getpid())
	d := ramDiskFor(t, g)
	before := descriptors(t)
	f := create(t, g, Options{})
	r := startOn(t, f, d, atOnce(d))
	want := make([]byte, 16<<20)
	fill(want, 5)
	if err := os.WriteFile(f.Device(), want, 0); err != nil {
		t.Error(err)
	}
	bound := bindingOf(t, f.Device())
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	r.wait(t)
	if after := descriptors(t); !slices.Equal(before, after) {
		t.Errorf("descriptors before: %q\nafter: %q", before, after)
	}
	if !bytes.Equal(d.mem[:len(want)], want) {
		t.Error("what was in the page cache is lost")
	}
	if bound.there() {
		t.Errorf("%s is still there", f.Device())
	}
	if info, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(info, []byte("ft-"+g.Name)) {
		t.Errorf("a mount is left (%v)", err)
	}
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	if f.pool.bytes != 0 {
		t.Errorf("%d bytes are still mapped", f.pool.bytes)
	}
}

// descriptors are what this process has open, by kind.
func descriptors(t testing.TB) (targets []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil { // not that of ReadDir itself
			targets = append(targets, target)
		}
	}
	slices.Sort(targets)
	return targets
}

func TestCloseUnderAMountNamesItAndFailsIt(t *testing.T) {
	g := geometry(t, 32<<20, 512)
	d := ramDiskFor(t, g)
	f := create(t, g, Options{})
	r := startOn(t, f, d, atOnce(d))
	run(t, "mkfs.ext4", "-q", f.Device())
	dir := t.TempDir()
	mountAt(t, f.Device(), dir)
	bound := bindingOf(t, f.Device())
	if err := f.Close(); err == nil || !strings.Contains(err.Error(), "mounted on "+dir) {
		t.Errorf("close: %v", err)
	}
	r.wait(t)
	dev, err := os.Open(f.Device())
	if err == nil {
		_, err = dev.ReadAt(make([]byte, 4096), 16<<20)
		_ = dev.Close()
	}
	if err == nil {
		t.Error("the device still reads")
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
	bound.expectFree(t)
}
