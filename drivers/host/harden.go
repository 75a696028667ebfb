package host

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// oomScoreAdj makes the kernel's out-of-memory killer take nearly everybody else first.
const oomScoreAdj = "-900"

// Harden readies a process that must never wait for a device that it serves itself:
// memory that is used stays in RAM, allocations do not write dirty pages back to make
// room (PR_SET_IO_FLUSHER), and the out-of-memory killer looks elsewhere first. Each
// needs rights that a container may lack; what did not work is logged and returned in
// words for the status.
func Harden(log *slog.Logger) []string {
	var notes []string
	for _, step := range []struct {
		what string
		do   func() error
		risk string
	}{
		{"PR_SET_IO_FLUSHER", setIOFlusher, "a shortage of memory may stall the device"},
		{"mlockall", lockMemory, "a shortage of memory may stall the device"},
		{"oom_score_adj", lowerOOMScore, "the out-of-memory killer may choose this process"},
	} {
		if err := step.do(); err != nil {
			note := fmt.Sprintf("%s: %v: %s", step.what, err, step.risk)
			log.Warn("not hardened", "note", note)
			notes = append(notes, note)
		}
	}
	return notes
}

// setIOFlusher marks all threads; those that come later inherit it (prctl(2)).
func setIOFlusher() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0, 0); errno != 0 {
		if errors.Is(errno, syscall.ENOTSUP) {
			return errors.New("not possible in a binary linked with cgo")
		}
		return errno
	}
	return nil
}

// lockMemory keeps every page that is used from now on in RAM. Where a limit on locked
// memory stays, it does nothing: a later allocation above it would end the process.
func lockMemory() error {
	inf := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &inf); err != nil && !mayLockMemory() {
		return fmt.Errorf("RLIMIT_MEMLOCK cannot be raised: %w", err)
	}
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}

// mayLockMemory says whether the limit on locked memory does not count for us.
func mayLockMemory() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}

func lowerOOMScore() error {
	return os.WriteFile("/proc/self/oom_score_adj", []byte(oomScoreAdj), 0)
}

// Prefault brings the program itself into memory, where Harden keeps it: code that
// runs for the first time when a leg fails must not be read from a disk then, nor the
// program that the keeper is about to execute. It takes some milliseconds; a mapping
// that does not work is left to be read when it is used.
func Prefault() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		if !strings.HasSuffix(strings.TrimSpace(line), exe) {
			continue
		}
		if n, _ := fmt.Sscanf(line, "%x-%x r", &from, &to); n != 2 {
			continue
		}
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_POPULATE_READ)
	}
}
