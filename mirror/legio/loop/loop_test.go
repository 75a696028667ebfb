package loop

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStays follows a loop device of ours that is told to go only when it is told to, to
// one that goes with its last descriptor, until it has gone: that stays no more.
func TestStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	dev, fd, err := Attach(int(f.Fd()), path)
	if err != nil {
		t.Fatal(err)
	}
	if Stays(dev) || !Bound(dev) || Over(path) != dev {
		t.Errorf("%s goes with its last descriptor: stays %t, bound %t, over %q", dev, Stays(dev), Bound(dev), Over(path))
	}
	flags := func(flags uint32) {
		t.Helper()
		if err := unix.IoctlLoopSetStatus64(fd, &unix.LoopInfo64{Flags: flags}); err != nil {
			t.Error(err)
		}
	}
	flags(0)
	if !Stays(dev) {
		t.Errorf("%s stays when its descriptors are closed, and is said to go", dev)
	}
	flags(unix.LO_FLAGS_AUTOCLEAR)
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	if Over(path) == "" && Stays(dev) {
		t.Errorf("%s has gone and is said to stay", dev)
	}
}
