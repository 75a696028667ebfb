package initramfs

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Module is a kernel module, ready to be loaded.
type Module struct {
	Name string // as lsmod shows it
	Data []byte // an ELF object, not compressed
}

// Modules finds modules of a kernel and what they depend on, in an order in which they
// can be loaded. dir is the kernel's own under lib/modules. Debian's package has no
// modules.dep (depmod makes it when the package is installed), so the modules' own words
// are read. What is built in is left out.
func Modules(dir string, names []string) ([]Module, error) {
	files := map[string]string{}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if base, _, ok := strings.Cut(d.Name(), ".ko"); ok && err == nil && !d.IsDir() {
			files[canonical(base)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for the kernel's modules: %w", err)
	}
	builtIn, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("look for what the kernel has built in: %w", err)
	}
	done := map[string]bool{}
	for line := range strings.Lines(string(builtIn)) {
		done[canonical(strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko"))] = true
	}

	var loaded []Module
	var visit func(name, why string) error
	visit = func(name, why string) error {
		if name = canonical(name); done[name] {
			return nil
		}
		done[name] = true // the kernel's modules do not depend on each other in circles
		path := files[name]
		if path == "" {
			return fmt.Errorf("the kernel of %s has no module %s%s", dir, name, why)
		}
		data, err := decompress(path)
		if err != nil {
			return err
		}
		needs, wishes, err := dependencies(data)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		for _, n := range wishes {
			if files[canonical(n)] != "" {
				needs = append(needs, n)
			}
		}
		for _, n := range needs {
			if err := visit(n, ", on which "+name+" depends"); err != nil {
				return err
			}
		}
		loaded = append(loaded, Module{name, data})
		return nil
	}
	for _, n := range names {
		if err := visit(n, ""); err != nil {
			return nil, err
		}
	}
	return loaded, nil
}

// canonical takes - and _ as the same, as modprobe does.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func decompress(path string) ([]byte, error) {
	var tool string
	switch filepath.Ext(path) {
	case ".ko":
		return os.ReadFile(path)
	case ".xz":
		tool = "xz"
	case ".zst":
		tool = "zstd"
	default:
		return nil, fmt.Errorf("%s is compressed in a way that is not known here", path)
	}
	if _, err := exec.LookPath(tool); err != nil {
		return nil, fmt.Errorf("%s is compressed, and %s is missing: apt-get install %s", path, tool, map[string]string{"xz": "xz-utils", "zstd": "zstd"}[tool])
	}
	var said bytes.Buffer
	cmd := exec.Command(tool, "-q", "-d", "-c", path)
	cmd.Stderr = &said
	data, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w %s", cmd, err, said.String())
	}
	return data, nil
}

// dependencies reads what a module needs from its .modinfo section, strings of the form
// key=value (include/linux/module.h, MODULE_INFO): the modules of its symbols ("depends"),
// and those that it wishes to have before it ("softdep: pre"). A wish may be an alias or
// built in: what is no module's name is left out, as modprobe does.
func dependencies(object []byte) (needs, wishes []string, err error) {
	f, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return nil, nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, nil, errors.New("it has no section .modinfo: not a kernel module")
	}
	info, err := section.Data()
	if err != nil {
		return nil, nil, err
	}
	for _, entry := range strings.Split(string(info), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "depends":
			needs = append(needs, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "softdep":
			pre := false
			for _, word := range strings.Fields(value) {
				if word == "pre:" || word == "post:" {
					pre = word == "pre:"
				} else if pre {
					wishes = append(wishes, word)
				}
			}
		}
	}
	return needs, wishes, nil
}
