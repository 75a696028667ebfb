package exerciser

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ft/mirror/faultfile"
)

func newTest(t *testing.T, seed uint64) *Exerciser {
	t.Helper()
	e, err := New(Options{Path: filepath.Join(t.TempDir(), "file"), Size: 1 << 20, Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// A sound file system passes, and everything that it has is done.
func TestSoundFile(t *testing.T) {
	e := newTest(t, 1)
	for range 1500 {
		if err := e.Step(); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Verify(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"read", "read direct", "read mapped", "write", "write direct", "write mapped", "truncate",
		"allocate", "punch", "copy range", "fsync", "fdatasync", "sync range", "drop"} {
		if e.Done()[name] == 0 {
			t.Errorf("no %s in %v", name, e.Done())
		}
	}
}

// What another hand does to the file is found: a byte, and the file's length.
func TestSpoiledFile(t *testing.T) {
	for name, spoil := range map[string]func(f *os.File, size int64) error{
		"a byte": func(f *os.File, size int64) error {
			var b [1]byte
			if _, err := f.ReadAt(b[:], size/2); err != nil {
				return err
			}
			b[0] ^= 1
			_, err := f.WriteAt(b[:], size/2)
			return err
		},
		"the length": func(f *os.File, size int64) error { return unix.Ftruncate(int(f.Fd()), size-1) },
	} {
		t.Run(name, func(t *testing.T) {
			e := newTest(t, 2)
			for range 50 {
				if err := e.Step(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := e.write(); err != nil { // it is not empty
				t.Fatal(err)
			}
			if err := spoil(e.file, e.size()); err != nil {
				t.Fatal(err)
			}
			if err := e.Verify(); err == nil || !strings.Contains(err.Error(), "seed 2") {
				t.Errorf("it is not found: %v", err)
			}
		})
	}
}

// A part of a block device is worked with alone: what is beside it stays.
func TestDevice(t *testing.T) {
	const whole, part = 256 << 10, 64 << 10
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, bytes.Repeat([]byte{'x'}, whole), 0o600); err != nil {
		t.Fatal(err)
	}
	dev := faultfile.Loop(t, file)
	e, err := New(Options{Path: dev, Base: part, Size: 2 * part, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for range 200 {
		if err := e.Step(); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Verify(); err != nil {
		t.Fatal(err)
	}
	for _, o := range deviceOperations {
		if e.Done()[o.name] == 0 {
			t.Errorf("no %s in %v", o.name, e.Done())
		}
	}
	if err := e.direct.Sync(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	beside := append(got[:part:part], got[3*part:]...)
	if !bytes.Equal(beside, bytes.Repeat([]byte{'x'}, whole-2*part)) {
		t.Error("what is beside the part was written")
	}
	if err := e.rangeIoctl("BLKDISCARD", unix.BLKDISCARD, 0, 2*part); err != nil { // by another hand
		t.Fatal(err)
	}
	if err := e.Verify(); err == nil {
		t.Error("what another hand did to it is not found")
	}
}
