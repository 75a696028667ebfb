package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// program stands for the test that a bondtest.Net is made for: work that can end at any
// place, and what is to be removed then. Its methods are for the main goroutine.
type program struct {
	work     func(*program) error
	cleanups []func()
	failed   bool
}

// ended is what Fatal panics with, where a test's would end its goroutine.
type ended struct{ text string }

func (e ended) Error() string { return e.text }

func (p *program) Helper()          {}
func (p *program) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }
func (p *program) Fatal(args ...any) {
	panic(ended{fmt.Sprint(args...)})
}
func (p *program) Fatalf(format string, args ...any) {
	panic(ended{fmt.Sprintf(format, args...)})
}
func (p *program) Errorf(format string, args ...any) {
	p.failed = true
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// must is Fatal where there is an error.
func (p *program) must(err error, doing string, args ...any) {
	if err != nil {
		p.Fatalf("%s: %v", fmt.Sprintf(doing, args...), err)
	}
}

// Run is called by bondtest.Main, in the box.
func (p *program) Run() (code int) {
	// Driver processes are children of this thread: killed with it, and with its mounts.
	runtime.LockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	stopped := make(chan struct{})
	p.Cleanup(func() { signal.Stop(signals); close(stopped) })
	p.guarded(func() error {
		if err := ownPins(); err != nil {
			return err
		}
		dir := p.TempDir()
		go func() {
			select {
			case <-signals:
				// All else ends with this process and its namespaces.
				os.RemoveAll(dir)
				os.Exit(1)
			case <-stopped:
			}
		}()
		if err := os.Setenv("TMPDIR", dir); err != nil {
			return err
		}
		return p.work(p)
	})
	p.clean()
	if p.failed {
		return 1
	}
	return 0
}

// clean removes what is there, the latest first.
func (p *program) clean() {
	for len(p.cleanups) > 0 {
		last := len(p.cleanups) - 1
		f := p.cleanups[last]
		p.cleanups = p.cleanups[:last]
		p.guarded(func() error { f(); return nil })
	}
}

// prefix is that of the names of all our directories.
const prefix = "ft-bond-bench-"

// TempDir makes a directory that is removed with the program. While it is locked it is in
// use: what a bench that was killed has left is removed by the next one.
func (p *program) TempDir() string {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	p.must(err, "look for what an earlier bench has left")
	for _, dir := range left {
		if f, err := lock(dir); err == nil {
			p.must(os.RemoveAll(dir), "remove what an earlier bench has left")
			f.Close()
		}
	}
	dir, err := os.MkdirTemp("", prefix)
	p.must(err, "make a directory")
	f, err := lock(dir)
	p.must(err, "make a directory")
	p.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			p.Errorf("remove %s: %v", dir, err)
		}
		f.Close()
	})
	return dir
}

func lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// guarded runs f and reports how it failed, if it did.
func (p *program) guarded(f func() error) {
	defer func() {
		switch e := recover().(type) {
		case nil:
		case ended:
			p.Errorf("%s", e.text)
		default:
			panic(e)
		}
	}()
	if err := f(); err != nil {
		p.Errorf("%v", err)
	}
}

// bpffs is where package tcx pins.
const bpffs = "/sys/fs/bpf"

// ownPins gives this thread, and the processes that it starts, mounts of their own with a
// BPF file system of their own: what a bench that is killed has pinned ends with it.
func ownPins() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("take mounts of its own: %w (it takes root)", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep its mounts to itself: %w", err)
	}
	err := unix.Mount("bpf", bpffs, "bpf", 0, "")
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil // no eBPF here: the path tcx says so
	}
	if err != nil {
		return fmt.Errorf("mount a BPF file system of its own at %s: %w", bpffs, err)
	}
	return nil
}
