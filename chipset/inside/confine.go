package inside

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A CPU module runs what a guest has in its memory. Should a guest ever get out of its hart,
// it finds a process that can do next to nothing: it has no capabilities, can gain none, and
// the kernel answers only the calls that computing takes. It can neither open nor connect,
// start no process, signal none but itself, and make no memory executable. What is left is
// its own memory and the rings to its chipset, which believes nothing that comes from them.

// confine gives up what a CPU module does not need, for the whole process and for good.
func confine() error {
	arch, known := auditArch[runtime.GOARCH]
	if !known {
		return fmt.Errorf("a CPU module is not confined on %s: its system calls are not known here", runtime.GOARCH)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("confine a CPU module: PR_SET_NO_NEW_PRIVS: %w", err)
	}
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("confine a CPU module: drop its capabilities: %w", err)
	}
	program := filter(arch, uint32(os.Getpid()))
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// TSYNC: for all threads, which get NO_NEW_PRIVS with it.
	failed, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("confine a CPU module: seccomp: %w", errno)
	}
	if failed != 0 {
		return fmt.Errorf("confine a CPU module: its thread %d has a filter of its own", failed)
	}
	return nil
}

// dropCapabilities empties the sets of all threads.
func dropCapabilities() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0)
	if errno == 0 {
		return nil
	}
	if errors.Is(errno, syscall.ENOTSUP) { // a binary linked with cgo, as for the race detector
		return unix.Capset(&hdr, &none[0])
	}
	return errno
}

// auditArch are the kernel's names of architectures (include/uapi/linux/audit.h).
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// allowed are calls that are answered whatever their arguments: those of the Go runtime, and
// of the rings.
var allowed = []uint32{
	unix.SYS_FUTEX, unix.SYS_WRITE, unix.SYS_READ, unix.SYS_CLOSE,
	unix.SYS_MUNMAP, unix.SYS_MADVISE,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_RESTART_SYSCALL,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETTID, unix.SYS_GETPID, unix.SYS_GETRANDOM,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, // of timers
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, // a C library's, under the race detector
}

// Places in struct seccomp_data (include/uapi/linux/seccomp.h). The tests look at the lower
// halves of arguments; both architectures are little-endian.
const (
	dataNumber = 0
	dataArch   = 4
	dataArg0   = 16
)

func dataArg(n uint32) uint32 { return dataArg0 + 8*n }

// prSetVMA is PR_SET_VMA (include/uapi/linux/prctl.h), with which the runtime names memory.
const prSetVMA = 0x53564d41

// filter is the program that the kernel runs at each call of the process pid.
func filter(arch, pid uint32) []unix.SockFilter {
	var p filterProgram
	p.load(dataArch)
	p.jump(unix.BPF_JEQ, arch, 1, 0)
	p.answer(unix.SECCOMP_RET_KILL_PROCESS)
	p.load(dataNumber)
	for _, nr := range allowed {
		p.jump(unix.BPF_JEQ, nr, 0, 1)
		p.answer(unix.SECCOMP_RET_ALLOW)
	}
	// Memory without a file, and never executable.
	p.when(unix.SYS_MMAP, argument{2, unix.BPF_JSET, unix.PROT_EXEC, false}, argument{3, unix.BPF_JSET, unix.MAP_ANONYMOUS, true})
	p.when(unix.SYS_MPROTECT, argument{2, unix.BPF_JSET, unix.PROT_EXEC, false})
	p.when(unix.SYS_PRCTL, argument{0, unix.BPF_JEQ, prSetVMA, true})
	// A thread, but no process; a signal to itself alone, as the scheduler's.
	p.when(unix.SYS_CLONE, argument{0, unix.BPF_JSET, unix.CLONE_THREAD, true})
	p.when(unix.SYS_TGKILL, argument{0, unix.BPF_JEQ, pid, true})
	// Its flags are in memory, which a filter cannot see: a C library then takes clone.
	p.jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1)
	p.answer(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	p.answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	return p
}

// argument is a condition on one argument of a call.
type argument struct {
	n     uint32
	test  uint16
	value uint32
	want  bool
}

type filterProgram []unix.SockFilter

func (p *filterProgram) load(offset uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

// jump skips yes instructions when the test of the loaded word is true, no when it is not.
func (p *filterProgram) jump(test uint16, value uint32, yes, no uint8) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, Jt: yes, Jf: no, K: value})
}

func (p *filterProgram) answer(a uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: a})
}

// when answers the call nr, whose number is loaded, if all conditions hold, and refuses it
// otherwise.
func (p *filterProgram) when(nr uint32, conditions ...argument) {
	length := 2*len(conditions) + 2
	if length > math.MaxUint8 {
		panic("a jump is too far")
	}
	p.jump(unix.BPF_JEQ, nr, 0, uint8(length))
	for i, c := range conditions {
		refuse := uint8(2*(len(conditions)-1-i) + 1)
		p.load(dataArg(c.n))
		if c.want {
			p.jump(c.test, c.value, 0, refuse)
		} else {
			p.jump(c.test, c.value, refuse, 0)
		}
	}
	p.answer(unix.SECCOMP_RET_ALLOW)
	p.answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
}
