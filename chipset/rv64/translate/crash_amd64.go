//go:build linux

package translate

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"ft/chipset/rv64"
)

// Crashes of machine code: a signal while the program counter lies in it. The handler in
// enter_amd64.s stands before Go's and makes the code come back. It is installed once in a
// process and stays.

// codeRegion is where machine code is, and where it comes back after a crash.
type codeRegion struct{ low, high, exit uintptr }

const (
	regionCount = 256 // harts with a translator in one process, at most
	regionSize  = int(unsafe.Sizeof(codeRegion{}))
	exitCrash   = rv64.ExitCrash
)

var (
	regions   [regionCount]codeRegion // read by the handler; written under guard
	goHandler uintptr

	guard struct {
		sync.Mutex
		installed bool
	}
)

func crashHandlerPC() uintptr

// sigaction is the kernel's struct sigaction (arch/x86/include/uapi/asm/signal.h).
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

var crashSignals = []syscall.Signal{syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGILL, syscall.SIGFPE, syscall.SIGTRAP}

// guardRegion makes the handler know of a region.
func guardRegion(r codeRegion) error {
	guard.Lock()
	defer guard.Unlock()
	if err := installHandler(); err != nil {
		return err
	}
	for i := range regions {
		if p := &regions[i]; p.high == 0 {
			p.low, p.exit = r.low, r.exit
			p.high = r.high
			return nil
		}
	}
	return fmt.Errorf("there are %d harts with translated code in this process already, which is as many as there may be", regionCount)
}

func unguardRegion(low uintptr) {
	guard.Lock()
	defer guard.Unlock()
	for i := range regions {
		if p := &regions[i]; p.low == low && p.high != 0 {
			p.high = 0
		}
	}
}

func installHandler() error {
	if guard.installed {
		return nil
	}
	for _, s := range crashSignals {
		var a sigaction
		if err := rtSigaction(s, nil, &a); err != nil {
			return err
		}
		if goHandler != 0 && a.handler != goHandler {
			return errors.New("the signals of crashes have different handlers: is this program linked with C code?")
		}
		goHandler = a.handler
	}
	for _, s := range crashSignals {
		var a sigaction
		if err := rtSigaction(s, nil, &a); err != nil {
			return err
		}
		a.handler = crashHandlerPC()
		if err := rtSigaction(s, &a, nil); err != nil {
			return err
		}
	}
	guard.installed = true
	return nil
}

func rtSigaction(s syscall.Signal, set, get *sigaction) error {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(get)), 8, 0, 0)
	if errno != 0 {
		return fmt.Errorf("rt_sigaction of %v for crashes of translated code: %w", s, errno)
	}
	return nil
}
