package testbox

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLoopDeviceIsFoundByItsFileAndGoes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "leg.img")
	if err := makeLeg(file, 4<<20); err != nil {
		t.Fatal(err)
	}
	node, err := attachLoop(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := detachLoop(node, file); err != nil {
			t.Error(err)
		}
	})
	link := filepath.Join(t.TempDir(), "link.img")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, link} {
		got, err := loopsOver(name, filepath.Join(dir, "absent"))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[node] != name {
			t.Fatalf("loop devices over %s: %v, want only %s", name, got, node)
		}
	}
	if err := detachLoop(node, file); err != nil {
		t.Fatal(err)
	}
	if got, err := loopsOver(file); err != nil || len(got) != 0 {
		t.Fatalf("after detaching: %v, %v", got, err)
	}
	if err := detachLoop(node, file); err != nil {
		t.Fatalf("detaching twice must be harmless: %v", err)
	}
}
