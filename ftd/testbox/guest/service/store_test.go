package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

func storeIn(t *testing.T, dir string) *store {
	t.Helper()
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func TestStoreKeepsFiles(t *testing.T) {
	dir := t.TempDir()
	s := storeIn(t, dir)
	f, made, err := s.put("a", strings.NewReader("one"))
	if err != nil || !made || f != (file{"a", 3, sumOf("one")}) {
		t.Fatalf("put: %+v, made %v, %v", f, made, err)
	}
	old, err := s.open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if _, made, err := s.put("a", strings.NewReader("other")); err != nil || made {
		t.Fatalf("put again: made %v, %v", made, err)
	}
	if content, err := io.ReadAll(old); err != nil || string(content) != "one" {
		t.Errorf("a file that was open when it was replaced has %q, %v", content, err)
	}
	s = storeIn(t, dir) // another process
	if now, err := s.open("a"); err != nil {
		t.Error(err)
	} else if content, err := io.ReadAll(now); err != nil || string(content) != "other" {
		t.Errorf("the file has %q, %v", content, err)
	}
	if err := s.remove("a"); err != nil {
		t.Error(err)
	}
	if _, err := s.open("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was removed: %v", err)
	}
}

// TestCutOffUploadLeavesNothing: what was not acknowledged is not there, and the file of
// before is.
func TestCutOffUploadLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := storeIn(t, dir)
	if _, _, err := s.put("a", strings.NewReader("whole")); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("the sender is gone")
	if _, _, err := s.put("a", io.MultiReader(strings.NewReader("ha"), iotest.ErrReader(gone))); !errors.Is(err, gone) {
		t.Fatalf("a cut-off upload: %v", err)
	}
	if _, total, err := s.sum(); err != nil || total != sumOf("a 5 "+sumOf("whole")+"\n") {
		t.Errorf("the sum is another: %v", err)
	}
	if left, _ := os.ReadDir(s.incoming); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	// And what a crash left behind goes at the next start.
	if err := os.WriteFile(filepath.Join(s.incoming, "half"), []byte("ha"), 0o600); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(storeIn(t, dir).incoming); len(left) != 0 {
		t.Errorf("left behind after a start: %v", left)
	}
}

func TestNamesStayInside(t *testing.T) {
	dir := t.TempDir()
	s := storeIn(t, dir)
	for _, name := range []string{"", ".", "..", ".hidden", "a/b", "../requests", "a\x00b", "ä", "a b", strings.Repeat("n", nameMax+1)} {
		if _, _, err := s.put(name, strings.NewReader("x")); !errors.Is(err, errName) {
			t.Errorf("put %q: %v", name, err)
		}
		if _, err := s.open(name); !errors.Is(err, errName) {
			t.Errorf("open %q: %v", name, err)
		}
		if err := s.remove(name); !errors.Is(err, errName) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	if _, _, err := s.put(strings.Repeat("n", nameMax), strings.NewReader("x")); err != nil {
		t.Error(err)
	}
}

func TestSumIsOfNamesSizesAndContent(t *testing.T) {
	s := storeIn(t, t.TempDir())
	for name, content := range map[string]string{"b": "2", "a.txt": "one", "c": ""} {
		if _, _, err := s.put(name, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	files, total, err := s.sum()
	if err != nil {
		t.Fatal(err)
	}
	lines := "a.txt 3 " + sumOf("one") + "\nb 1 " + sumOf("2") + "\nc 0 " + sumOf("") + "\n"
	if len(files) != 3 || total != sumOf(lines) {
		t.Errorf("%d files, total %s, want that of\n%s", len(files), total, lines)
	}
}
