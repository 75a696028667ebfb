package keeper

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/notify"
)

// pidfd is a process that cannot be mistaken for another one. It is readable when no
// thread of the process is left: pwrite and libaio (exit_aio, in the kernel's fs/aio.c)
// have ended by then.
type pidfd struct {
	fd     int
	f      *os.File
	closed bool // by the loop
}

// newPidfd takes fd over.
func newPidfd(fd int) (*pidfd, error) {
	if fd < 0 {
		return nil, errors.New("the kernel gives no pidfd: Linux 5.4 or newer is needed")
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("a pidfd: %w", err)
	}
	return &pidfd{fd: fd, f: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// wait returns nil when the process is gone, an error when the pidfd was closed.
func (p *pidfd) wait() error {
	raw, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool { return readable(int(fd)) })
}

func (p *pidfd) close() {
	p.closed = true
	p.f.Close()
}

// signal sends sig. A process that is gone already is no error.
func (p *pidfd) signal(sig unix.Signal) error {
	if err := unix.PidfdSendSignal(p.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n := 0
	err := retry(func() (err error) { n, err = unix.Poll(fds, 0); return err })
	return err == nil && n > 0
}

// identify names a process beside its pid, which is used again: by its number in the
// pidfs (Linux 6.9), which never is, else by its start time.
//
// The start time stands in /proc/PID/stat, whose reader holds the process's memory
// for a moment. If the process ends in just that moment, the reader waits for its I/O
// and the pidfd is readable before that I/O has ended. So stat is read as seldom as
// can be, and never to see whether a process is well.
func identify(fd, pid int) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err == nil && fs.Type == unix.PID_FS_MAGIC {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return "", fmt.Errorf("look at the pidfd of %d: %w", pid, err)
		}
		return "pidfs " + strconv.FormatUint(st.Ino, 10), nil
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", fmt.Errorf("the start time of process %d: %w", pid, err)
	}
	return startTime(string(b))
}

// startTime is field 22 of /proc/PID/stat; the second field may contain anything.
func startTime(stat string) (string, error) {
	_, rest, ok := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return "", fmt.Errorf("no start time in %q", stat)
	}
	return "start " + fields[19], nil
}

// reopen finds a process again that an earlier keeper had recorded. It returns nil if
// it is gone.
func reopen(pid int, ident string) *pidfd {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	if now, err := identify(fd, pid); err != nil || now != ident || readable(fd) {
		unix.Close(fd)
		return nil
	}
	p, err := newPidfd(fd)
	if err != nil {
		return nil
	}
	return p
}

// exiting says whether a process has begun to end: its main thread has given up its
// memory, so that its executable has no name any more. Unlike the other files that
// would tell, this one is read without holding the process's memory (see identify).
func exiting(pid int) bool {
	_, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
}

// outdated says whether a process runs another program than the one that its path leads to
// now: a newer one was installed since. What cannot be seen is not said. The program of a
// process is looked at without holding the process's memory (see identify).
func outdated(pid int, path string) bool {
	var runs, there unix.Stat_t
	return unix.Stat("/proc/"+strconv.Itoa(pid)+"/exe", &runs) == nil && unix.Stat(path, &there) == nil &&
		(runs.Ino != there.Ino || runs.Dev != there.Dev)
}

// ending is how a process ended.
type ending struct {
	known  bool
	status syscall.WaitStatus
	text   string
}

// exited says whether it is known to have exited with code.
func (e ending) exited(code int) bool {
	return e.known && e.status.Exited() && e.status.ExitStatus() == code
}

// reap takes the end of a process that is gone, by wait4 if it was our child. Of
// another one the kernel tells since Linux 6.15, as soon as its parent has reaped it:
// a short wait, since the name of a signal is worth one, but a failover is not to be
// held up.
func reap(c *child) ending {
	if !c.adopted {
		var ws unix.WaitStatus
		if err := retry(func() error { _, err := unix.Wait4(c.pid, &ws, unix.WNOHANG, nil); return err }); err != nil {
			return ending{text: fmt.Sprintf("ended, cause unknown (%v)", err)}
		}
		return describe(syscall.WaitStatus(ws))
	}
	for range 10 {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		if unix.IoctlPidfdInfo(c.pidfd.fd, &info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return describe(syscall.WaitStatus(info.Exit_code))
		}
		time.Sleep(500 * time.Microsecond)
	}
	return ending{text: "ended, cause unknown (it was another keeper's child)"}
}

// retry repeats a system call that a signal interrupted.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func describe(ws syscall.WaitStatus) ending {
	e := ending{known: true, status: ws}
	switch {
	case ws.Signaled() && ws.CoreDump():
		e.text = fmt.Sprintf("killed by signal %d (%v), core dumped", ws.Signal(), ws.Signal())
	case ws.Signaled():
		e.text = fmt.Sprintf("killed by signal %d (%v)", ws.Signal(), ws.Signal())
	case ws.ExitStatus() == notify.CodeCrash:
		e.text = fmt.Sprintf("crashed (exit status %d)", ws.ExitStatus())
	default:
		e.text = fmt.Sprintf("exit status %d", ws.ExitStatus())
	}
	return e
}
