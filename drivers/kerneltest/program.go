package kerneltest

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// libraryDirs are where the dynamic linker looks by itself (ld.so(8)), in its order, with
// Debian's directories of amd64.
var libraryDirs = []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"}

// program puts a program of this machine into the guest, at the same place, with the
// libraries that it is linked to.
func (a *archive) program(name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	return a.object(path)
}

func (a *archive) object(path string) error {
	at := merged(path)
	if a.have[strings.TrimPrefix(at, "/")] {
		return nil
	}
	a.file(at, path)
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
			if err := a.object(strings.TrimRight(string(text), "\x00")); err != nil {
				return err
			}
		}
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read the libraries of %s: %w", path, err)
	}
	for _, lib := range libraries {
		found, err := findLibrary(lib)
		if err != nil {
			return fmt.Errorf("%s needs %s: %w", path, lib, err)
		}
		if err := a.object(found); err != nil {
			return err
		}
	}
	return nil
}

func findLibrary(name string) (string, error) {
	for _, dir := range libraryDirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, err
		}
	}
	return "", fmt.Errorf("it is not in %s", strings.Join(libraryDirs, ", "))
}

// topLinks are the guest's: all programs and libraries are under /usr.
var topLinks = []string{"bin", "sbin", "lib", "lib64"}

// merged is where a file is in the guest.
func merged(path string) string {
	for _, l := range topLinks {
		if strings.HasPrefix(path, "/"+l+"/") {
			return "/usr" + path
		}
	}
	return path
}
