package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func file(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLookAtAFile(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "leg.img"), filepath.Join(dir, "by-id")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if p := look(link); p.present || !strings.Contains(p.why, "is gone") {
		t.Errorf("a link to nothing: %+v", p)
	}
	file(t, path)
	first := look(link)
	if !first.present || first != look(link) {
		t.Fatalf("a file: %+v", first)
	}
	file(t, path+".new")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if second := look(link); !second.present || second.medium == first.medium || second.identity == first.identity {
		t.Errorf("another file at the same path: %+v, before %+v", second, first)
	}
}

// A loop device without a file is no leg; one that gets another file is another part,
// although its name and number stay.
func TestLookAtADevice(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.img"), filepath.Join(dir, "b.img")
	file(t, a)
	file(t, b)
	node := ownLoop(t)
	losetup(t, node, a)
	first := look(node)
	if !first.present || !strings.Contains(first.identity, "a.img") {
		t.Fatalf("a loop device: %+v", first)
	}
	losetup(t, "-d", node)
	if p := look(node); p.present {
		t.Errorf("a loop device without its file: %+v", p)
	}
	losetup(t, node, b)
	if second := look(node); !second.present || second.medium == first.medium || !strings.Contains(second.identity, "b.img") {
		t.Errorf("another file in the same device: %+v, before %+v", second, first)
	}
}

// ownLoop makes a loop device with a number far above those that programs are given
// who ask for a free one.
func ownLoop(t *testing.T) (node string) {
	t.Helper()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 100_000 + os.Getpid()%100_000
	if err := unix.IoctlSetInt(int(ctl.Fd()), unix.LOOP_CTL_ADD, n); err != nil {
		t.Fatalf("make /dev/loop%d: %v", n, err)
	}
	node = fmt.Sprintf("/dev/loop%d", n)
	t.Cleanup(func() {
		defer ctl.Close()
		_ = exec.Command("losetup", "-d", node).Run() // fails when it has no file any more
		await(t, node+" to go", func() bool { return unix.IoctlSetInt(int(ctl.Fd()), unix.LOOP_CTL_REMOVE, n) == nil })
	})
	return node
}

func losetup(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("losetup", args...).CombinedOutput(); err != nil {
		t.Fatalf("losetup %v: %v\n%s", args, err, out)
	}
}
