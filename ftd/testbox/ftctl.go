package testbox

import (
	"os"
	"path/filepath"
)

// ftctlPath is how to call ftctl from here: the one beside this binary, relative to
// where the person is when that is shorter.
func ftctlPath() string {
	exe, err := os.Executable()
	if err != nil {
		return "ftctl"
	}
	path := filepath.Join(filepath.Dir(exe), "ftctl")
	if _, err := os.Stat(path); err != nil {
		return "ftctl"
	}
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, path); err == nil && len(rel) < len(path) {
			return "./" + rel
		}
	}
	return path
}
