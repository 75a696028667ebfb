package exerciser

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
