package initramfs

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Tree is where programs come from: this machine, or the root of unpacked packages.
type Tree struct {
	Root      string   // "/" is this machine
	Libraries []string // where its dynamic linker looks by itself (ld.so(8)), in its order
}

// Program puts a program into the archive, at the same place, with the libraries that it
// is linked to. The name is a path in the tree.
func (a *Archive) Program(t Tree, name string) error {
	at := Merged(name)
	if a.have[strings.TrimPrefix(at, "/")] {
		return nil
	}
	path := filepath.Join(t.Root, name)
	a.File(at, path)
	f, err := elf.Open(path)
	var notELF *elf.FormatError
	if errors.As(err, &notELF) {
		return nil // a script: its interpreter is a program of its own
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			text := make([]byte, p.Filesz)
			if _, err := p.ReadAt(text, 0); err != nil {
				return fmt.Errorf("read the interpreter of %s: %w", path, err)
			}
			interpreter, err := t.place(strings.TrimRight(string(text), "\x00"))
			if err != nil {
				return fmt.Errorf("the interpreter of %s: %w", path, err)
			}
			if err := a.Program(t, interpreter); err != nil {
				return err
			}
		}
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read the libraries of %s: %w", path, err)
	}
	for _, lib := range libraries {
		found, err := t.library(lib)
		if err != nil {
			return fmt.Errorf("%s needs %s: %w", path, lib, err)
		}
		if err := a.Program(t, found); err != nil {
			return err
		}
	}
	return nil
}

// place finds a path of the tree that may be named by one of topLinks, which unpacked
// packages do not have.
func (t Tree) place(name string) (string, error) {
	for _, at := range []string{name, Merged(name)} {
		if _, err := os.Stat(filepath.Join(t.Root, at)); !errors.Is(err, fs.ErrNotExist) {
			return at, err
		}
	}
	return "", fmt.Errorf("%s has no %s", t.Root, name)
}

func (t Tree) library(name string) (string, error) {
	for _, dir := range t.Libraries {
		at := filepath.Join(dir, name)
		if _, err := os.Stat(filepath.Join(t.Root, at)); !errors.Is(err, fs.ErrNotExist) {
			return at, err
		}
	}
	return "", fmt.Errorf("%s has none in %s", t.Root, strings.Join(t.Libraries, ", "))
}

// topLinks are links to their namesakes under /usr, where all programs and libraries are.
var topLinks = []string{"bin", "sbin", "lib", "lib64"}

// MergeUsr makes /bin, /sbin, /lib and /lib64 links into /usr, as Debian has them.
func (a *Archive) MergeUsr() {
	for _, l := range topLinks {
		a.Dir("/usr/" + l)
		a.Link("/"+l, "usr/"+l)
	}
}

// Merged is where a file is when MergeUsr has made the links.
func Merged(path string) string {
	for _, l := range topLinks {
		if strings.HasPrefix(path, "/"+l+"/") {
			return "/usr" + path
		}
	}
	return path
}
