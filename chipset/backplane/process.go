package backplane

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// process is a module's process, by its pidfd.
type process struct {
	pid   int
	pidfd int
	file  *os.File // pidfd, in the runtime's poller
	raw   syscall.RawConn
	ended chan struct{} // closed when nobody waits for its end any more
}

// startProcess starts a process in a session of its own, with files from descriptor 0 on.
func startProcess(exe string, args []string, files []uintptr) (*process, error) {
	fd := -1
	pid, err := syscall.ForkExec(exe, args, &syscall.ProcAttr{
		Dir: "/", Files: files,
		// One thread executes; the runtime's own work is small.
		Env: []string{"GOMAXPROCS=1", "GOTRACEBACK=single"},
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &fd},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", exe, err)
	}
	p, err := newProcess(pid, fd)
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		_ = unix.Kill(pid, unix.SIGKILL) // our child, and not reaped: it is the one
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return nil, err
	}
	return p, nil
}

// adoptProcess takes a process over from its pidfd.
func adoptProcess(fd int) (*process, error) {
	pid, err := pidOf(fd)
	if err != nil {
		return nil, err
	}
	return newProcess(pid, fd)
}

func newProcess(pid, fd int) (*process, error) {
	if fd < 0 {
		return nil, errors.New("the kernel gives no pidfd: Linux 5.4 or newer is needed")
	}
	if err := unix.SetNonblock(fd, true); err != nil { // what makes the runtime take it into its poller
		return nil, fmt.Errorf("a pidfd: %w", err)
	}
	p := &process{pid: pid, pidfd: fd, file: os.NewFile(uintptr(fd), "pidfd"), ended: make(chan struct{})}
	var err error
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("a pidfd: %w", err)
	}
	return p, nil
}

// pidOf is the process of a pidfd; -1 when it is gone and reaped.
func pidOf(fd int) (int, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, fmt.Errorf("a pidfd: %w", err)
	}
	for line := range strings.Lines(string(info)) {
		if pid, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(pid))
		}
	}
	return 0, fmt.Errorf("descriptor %d is no pidfd", fd)
}

// wait returns when the process is gone, and reaps it when it is a child. how is for
// people: "was killed (signal 9)". An error says that close was called.
func (p *process) wait() (how string, err error) {
	err = p.raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
	if err != nil {
		return "", err
	}
	for {
		var info unix.Siginfo
		switch err := unix.Waitid(unix.P_PIDFD, p.pidfd, &info, unix.WEXITED|unix.WNOHANG, nil); err {
		case unix.EINTR:
			continue
		case nil:
			return howEnded(&info), nil
		default: // not our child: its parent reaps it
			return "has ended", nil
		}
	}
}

// howEnded reads what waitid(2) says.
func howEnded(info *unix.Siginfo) string {
	const statusOffset = 24 // si_status in siginfo_t, 64-bit (asm-generic/siginfo.h)
	status := *(*int32)(unsafe.Add(unsafe.Pointer(info), statusOffset))
	switch info.Code {
	case 1: // CLD_EXITED
		return fmt.Sprintf("ended with exit code %d", status)
	case 2, 3: // CLD_KILLED, CLD_DUMPED
		return fmt.Sprintf("was killed (signal %d)", status)
	}
	return "has ended"
}

func (p *process) kill() { _ = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0) }

func (p *process) close() { _ = p.file.Close() }

// cpuTime is the processor time that all threads of the process have had.
func (p *process) cpuTime() (time.Duration, bool) {
	const perProcess = 2 // CPUCLOCK_SCHED (linux/posix-timers.h)
	var t unix.Timespec
	if p.pid <= 0 || unix.ClockGettime(int32(^p.pid<<3|perProcess), &t) != nil {
		return 0, false
	}
	return time.Duration(t.Nano()), true
}

// stat is an open /proc/PID/task/TID/stat, which never turns into another process's.
type stat struct{ fd int }

// openStat opens that of a thread, or of the first thread where there is no such thread.
func (p *process) openStat(thread int) stat {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/task/%d/stat", p.pid, thread), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fd, err = unix.Open(fmt.Sprintf("/proc/%d/stat", p.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return stat{-1}
	}
	// It lives as yet, so the number was its own when the file was opened.
	if unix.PidfdSendSignal(p.pidfd, 0, nil, 0) != nil {
		_ = unix.Close(fd)
		return stat{-1}
	}
	return stat{fd}
}

// state is the letter of the thread's state (proc(5)), 0 when there is none.
func (s stat) state() byte {
	var buf [512]byte
	n, err := unix.Pread(s.fd, buf[:], 0)
	if err != nil {
		return 0
	}
	i := bytes.LastIndexByte(buf[:n], ')') // behind the name, which can hold anything
	if i < 0 || i+2 >= n {
		return 0
	}
	return buf[i+2]
}

// wantsCore says whether a thread of the process runs or waits for a core.
func (p *process) wantsCore() bool {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.pid))
	if err != nil {
		return false
	}
	for _, t := range threads {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		st := p.openStat(tid)
		is := st.state()
		st.close()
		if is == 'R' {
			return true
		}
	}
	return false
}

func (s stat) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
	}
}
