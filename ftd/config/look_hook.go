package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LookAtHook says why a program may not be run when there is an alarm. It runs as root, so
// nobody else may be able to change it.
func LookAtHook(path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no %s: write it, or leave hook out", path)
	case err != nil:
		return err
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return fmt.Errorf("%s is no program: chmod +x it", path)
	}
	for p := path; ; p = filepath.Dir(p) {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			return fmt.Errorf("look at %s: %w", p, err)
		}
		switch open := st.Mode & 0o022; {
		case st.Uid != 0 && int(st.Uid) != os.Geteuid():
			return fmt.Errorf("%s belongs to uid %d, who could have root run anything: chown root it", p, st.Uid)
		case open != 0 && st.Mode&unix.S_ISVTX == 0:
			return fmt.Errorf("others than its owner may write to %s, and so have root run anything: chmod go-w it", p)
		}
		if p == "/" {
			return nil
		}
	}
}

// hook looks at the program for alarms. A box starts without it: what it serves matters more.
func (k *checker) hook(a Alarms, look func(string) error) {
	if a.Hook == "" || look == nil {
		return
	}
	if err := look(a.Hook); err != nil {
		k.add(a.HookLine, Problem{Advice: true, What: fmt.Sprintf("alarms will not be heard: hook = %q", a.Hook), WayOut: err.Error()})
	}
}
