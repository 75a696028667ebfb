//go:build !race && (amd64 || arm64 || riscv64)

package monitor

import (
	_ "unsafe" // for go:linkname

	"golang.org/x/sys/unix"
)

// The runtime keeps these two for packages outside of it (golang.org/issue/67401).
//
//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

//go:nosplit
//go:norace
func systemCall(number, a, b, c, d, e, f uintptr) unix.Errno {
	_, _, errno := unix.RawSyscall6(number, a, b, c, d, e, f)
	return errno
}
