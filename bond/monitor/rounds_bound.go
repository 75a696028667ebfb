//go:build race || !(amd64 || arm64 || riscv64)

package monitor

import "golang.org/x/sys/unix"

// Under the race detector, which wants a processor of the runtime for everything, and
// where it has not been tried, each system call is announced by itself. It costs more
// processor time and is right as well.

//go:nosplit
func entersyscall() {}

//go:nosplit
func exitsyscall() {}

//go:nosplit
//go:norace
func systemCall(number, a, b, c, d, e, f uintptr) unix.Errno {
	_, _, errno := unix.Syscall6(number, a, b, c, d, e, f)
	return errno
}
