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
	for range 10 {
		if lookAtADevice(t, ownLoop(t), a, b) {
			return
		}
	}
	t.Error("the loop device was taken by others each time")
}

// lookAtADevice gives up when somebody else has taken the device, which was free.
func lookAtADevice(t *testing.T, node, a, b string) bool {
	if !losetup(t, node, a) {
		return false
	}
	first := look(node)
	if !first.present || !strings.Contains(first.identity, "a.img") {
		t.Errorf("a loop device: %+v", first)
	}
	losetup(t, "-d", node)
	without := look(node)
	if !losetup(t, node, b) {
		return false
	}
	if without.present {
		t.Errorf("a loop device without its file: %+v", without)
	}
	if second := look(node); !second.present || second.medium == first.medium || !strings.Contains(second.identity, "b.img") {
		t.Errorf("another file in the same device: %+v, before %+v", second, first)
	}
	return true
}

var loops = 0 // made by these tests

// ownLoop makes a loop device with a number above those that programs are given who ask for
// a free one, as long as there is one.
func ownLoop(t *testing.T) (node string) {
	t.Helper()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	loops++
	n := 100_000 + (os.Getpid()*10+loops)%900_000
	if err := unix.IoctlSetInt(int(ctl.Fd()), unix.LOOP_CTL_ADD, n); err != nil {
		t.Fatalf("make /dev/loop%d: %v", n, err)
	}
	node = fmt.Sprintf("/dev/loop%d", n)
	t.Cleanup(func() {
		defer ctl.Close()
		await(t, node+" to go", func() bool {
			backing, _ := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", n))
			switch {
			case strings.HasPrefix(string(backing), os.TempDir()+"/"+t.Name()):
				_ = exec.Command("losetup", "-d", node).Run()
			case len(backing) > 0: // it is another's now
				return true
			}
			return unix.IoctlSetInt(int(ctl.Fd()), unix.LOOP_CTL_REMOVE, n) == nil
		})
	})
	return node
}

// losetup says whether the device was free.
func losetup(t *testing.T, args ...string) bool {
	t.Helper()
	out, err := exec.Command("losetup", args...).CombinedOutput()
	if err != nil && strings.Contains(string(out), "busy") {
		return false
	}
	if err != nil {
		t.Fatalf("losetup %v: %v\n%s", args, err, out)
	}
	return true
}
