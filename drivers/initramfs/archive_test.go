package initramfs

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// entry is one of an archive, as the kernel's init/initramfs.c reads it.
type entry struct {
	mode  uint64
	major uint64
	minor uint64
	data  string
}

// unpack reads an archive by the format's description, and fails the test where it is not
// kept.
func unpack(t *testing.T, archive []byte) (names []string, entries map[string]entry) {
	t.Helper()
	entries = map[string]entry{}
	aligned := func(n uint64) uint64 { return (n + 3) &^ 3 }
	for at := uint64(0); ; {
		head := archive[at:]
		if string(head[:6]) != "070701" {
			t.Fatalf("no header at %d: %q", at, head[:6])
		}
		var field [13]uint64
		for i := range field {
			v, err := strconv.ParseUint(string(head[6+8*i:][:8]), 16, 32)
			if err != nil {
				t.Fatalf("field %d of the header at %d: %v", i, at, err)
			}
			field[i] = v
		}
		size, nameSize := field[6], field[11]
		name := string(head[110:][:nameSize-1])
		if head[110+nameSize-1] != 0 {
			t.Fatalf("the name at %d does not end", at)
		}
		if name == "TRAILER!!!" {
			return names, entries
		}
		start := aligned(at + 110 + nameSize)
		names = append(names, name)
		entries[name] = entry{field[1], field[9], field[10], string(archive[start:][:size])}
		at = aligned(start + size)
	}
}

func TestArchiveIsWhatTheKernelReads(t *testing.T) {
	file := filepath.Join(t.TempDir(), "five")
	if err := os.WriteFile(file, []byte("12345"), 0o640); err != nil {
		t.Fatal(err)
	}
	pack := func() []byte {
		var out bytes.Buffer
		a := NewArchive(&out)
		a.Char("/dev/console", 5, 1)
		a.MergeUsr()
		a.File("/etc/five", file)
		a.Bytes("etc/five", 0o600, []byte("written twice"))
		a.Bytes("/usr/bin/empty", 0o755, nil)
		a.Link("/etc/link", "five")
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	names, got := unpack(t, pack())
	for name, want := range map[string]entry{
		"dev":           {0o040755, 0, 0, ""},
		"dev/console":   {0o020600, 5, 1, ""},
		"lib":           {0o120777, 0, 0, "usr/lib"},
		"etc/five":      {0o100640, 0, 0, "12345"},
		"etc/link":      {0o120777, 0, 0, "five"},
		"usr/bin/empty": {0o100755, 0, 0, ""},
	} {
		if got[name] != want {
			t.Errorf("%s is %+v, want %+v", name, got[name], want)
		}
	}
	if len(names) != len(got) {
		t.Errorf("entries that are there twice: %q", names)
	}
	seen := map[string]bool{".": true}
	for _, name := range names {
		if !seen[filepath.Dir(name)] {
			t.Errorf("%s comes before its directory", name)
		}
		seen[name] = true
	}
	if !bytes.Equal(pack(), pack()) {
		t.Error("the same content makes two archives")
	}
}

func TestFirstErrorIsTheArchives(t *testing.T) {
	a := NewArchive(&bytes.Buffer{})
	a.File("/a", filepath.Join(t.TempDir(), "missing"))
	a.Bytes("/b", 0o644, []byte("b"))
	if err := a.Close(); !os.IsNotExist(err) {
		t.Errorf("an archive with a file that is not there: %v", err)
	}
}

// TestProgramBringsItsLibraries, found in a tree whose interpreter is named by a link that
// only an installed system has.
func TestProgramBringsItsLibraries(t *testing.T) {
	program, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Skip(err)
	}
	here := Tree{Root: "/", Libraries: []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"}}
	var out bytes.Buffer
	a := NewArchive(&out)
	if err := a.Program(here, program); err != nil {
		t.Skip("this machine's libraries are elsewhere:", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	_, got := unpack(t, out.Bytes())
	libraries := 0
	for name := range got {
		if strings.Contains(name, "libc.so") || strings.Contains(name, "ld-linux") {
			libraries++
		}
	}
	if libraries < 2 {
		t.Errorf("neither the C library nor the dynamic linker among %d entries", len(got))
	}
	a = NewArchive(&out)
	if err := a.Program(Tree{Root: "/", Libraries: []string{"/nowhere"}}, program); err == nil || !strings.Contains(err.Error(), "needs lib") {
		t.Errorf("a library that is not there: %v", err)
	}
}
