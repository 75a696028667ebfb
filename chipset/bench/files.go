package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"ft/drivers/initramfs"
	"ft/drivers/kerneltest"
	"ft/ftd/testbox/guest"
)

// files are what a guest starts from, and the program for this computer.
type files struct {
	kernel, initrd, cmdline string
	version                 string
	memoryMiB               int
	program                 string // for this computer
}

// prepare makes them in dir. Debian's kernel is fetched once, into the cache of the tests
// that boot guests.
func prepare(dir string) (f files, err error) {
	cache, err := kerneltest.Cache()
	if err != nil {
		return f, err
	}
	say := func(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
	g, err := guest.Prepare(context.Background(), guest.Options{Dir: filepath.Join(dir, "guest"), Cache: filepath.Join(cache, "guest-riscv64"), Say: say})
	if err != nil {
		return f, err
	}
	if g.Why != "" {
		return f, fmt.Errorf("no guest to measure: %s", g.Why)
	}
	f = files{kernel: g.Kernel, initrd: g.Initrd, cmdline: g.Cmdline, version: g.Version, memoryMiB: guest.MemoryMiB, program: filepath.Join(dir, "program")}
	inGuest := filepath.Join(dir, "init")
	if err := build("riscv64", inGuest); err != nil {
		return f, err
	}
	if err := build(runtime.GOARCH, f.program); err != nil {
		return f, err
	}
	return f, replaceInit(f.initrd, inGuest)
}

// build compiles the program.
func build(arch, to string) error {
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", to, "ft/chipset/bench/program")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program for %s: %w\n%s", arch, err, out)
	}
	return nil
}

// replaceInit has the kernel start another first process: of several archives it unpacks
// one after the other, and a file that comes again replaces the first.
func replaceInit(initrd, program string) error {
	f, err := os.OpenFile(initrd, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("the guest's initramfs: %w", err)
	}
	a := initramfs.NewArchive(f)
	a.File("/init", program)
	if err := errors.Join(a.Close(), f.Close()); err != nil {
		return fmt.Errorf("put the program into the guest's initramfs: %w", err)
	}
	return nil
}
