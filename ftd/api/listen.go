package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// LockName is the file in the run directory that only one ftd may hold.
const LockName = "ftd.lock"

// RunLock keeps a second ftd off a run directory for as long as this process lives.
type RunLock struct{ f *os.File }

// LockRunDir takes the run directory, or says which process has it. The lock is the
// kernel's (flock), so a killed ftd leaves none behind; the file itself stays.
func LockRunDir(dir string) (*RunLock, error) {
	path := filepath.Join(dir, LockName)
	// Who can open the file, if only to read it, can hold the lock.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Chmod(0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("take the run directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			b := make([]byte, 32)
			n, _ := f.ReadAt(b, 0)
			who := "another ftd"
			if pid := strings.TrimSpace(string(b[:n])); pid != "" {
				who += " (pid " + pid + ")"
			}
			return nil, fmt.Errorf("%s runs on %s already; stop it first, or give this one another --socket", who, dir)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// The pid is for the sentence above only; the lock holds without it.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return &RunLock{f}, nil
}

// Release gives the run directory back.
func (l *RunLock) Release() error { return l.f.Close() }

// Listen makes the socket that ftctl speaks to. The file of a dead ftd is replaced,
// one that somebody answers on is not. Everyone may connect; who may do what is
// decided for each request.
func Listen(path string) (*net.UnixListener, error) {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("make the socket: %w", err)
	case st.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is there and is no socket: move it away, or give ftd another --socket", path)
	default:
		if err := removeStale(path); err != nil {
			return nil, err
		}
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the socket %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		ln.Close()
		return nil, fmt.Errorf("open the socket to everyone: %w", err)
	}
	return ln, nil
}

// InheritedName is what ftd.socket calls the socket that it hands over.
const InheritedName = "api"

// Inherited takes the socket out of what this process was started with (sd_listen_fds(3)),
// by the names of notify.Inherit. nil: none came, Listen makes one. All descriptors are
// taken over; those that are no use are closed.
func Inherited(fds map[string][]int, path string) (*net.UnixListener, error) {
	mine := fds[InheritedName]
	for name, others := range fds {
		if name != InheritedName {
			closeAll(others)
		}
	}
	if len(mine) == 0 {
		return nil, nil
	}
	closeAll(mine[1:])
	f := os.NewFile(uintptr(mine[0]), InheritedName)
	defer f.Close() // FileListener has a copy
	any, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the socket from systemd: %w", err)
	}
	ln, ok := any.(*net.UnixListener)
	if !ok || ln.Addr().String() != path {
		any.Close()
		return nil, fmt.Errorf("systemd hands over a socket at %s, and ftd is to listen on %s: ListenStream in ftd.socket and --socket must be the same", any.Addr(), path)
	}
	return ln, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func removeStale(path string) error {
	c, err := net.DialTimeout("unix", path, 2*time.Second)
	switch {
	case err == nil:
		c.Close()
		return fmt.Errorf("another process answers on %s; stop it first, or give this ftd another --socket", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the socket of a dead ftd: %w", err)
		}
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		// EAGAIN: somebody listens and is behind; anything else is not known to be dead.
		return fmt.Errorf("%s is there and may be alive: %w; stop its owner, or remove it", path, err)
	}
}

// Limits of connections. Root is counted apart, so that an outsider who opens
// connections without end locks out nobody but himself.
const (
	connsRootMax   = 256
	connsPerUIDMax = 24
	connsOthersMax = 192
)

// tooMany is sent, unasked, to a connection that is over the limit.
const tooMany = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" +
	`{"code":"` + CodeBusyServer + `","sentence":"ftd has too many connections from this user; close some (ftctl events --follow, status --watch) and try again"}` + "\n"

// limitedListener notes the peer of each connection and bounds how many there are.
type limitedListener struct {
	*net.UnixListener

	mu     sync.Mutex
	byUID  map[uint32]int
	others int // connections of all but root
}

// peerConn is a connection with its peer.
type peerConn struct {
	*net.UnixConn
	peer    peer
	release func()
	once    sync.Once
}

func (c *peerConn) Close() error {
	c.once.Do(c.release)
	return c.UnixConn.Close()
}

// Accept returns the next connection within the limits.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		p, err := peerOf(c)
		if err != nil {
			c.Close()
			continue // it has gone again
		}
		if !l.admit(p.uid) {
			// A few hundred bytes fit into a new socket's buffer: this does not block.
			_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			_, _ = c.Write([]byte(tooMany))
			c.Close()
			continue
		}
		return &peerConn{UnixConn: c, peer: p, release: func() { l.leave(p.uid) }}, nil
	}
}

func (l *limitedListener) admit(uid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.byUID[uid]
	if uid == 0 && n >= connsRootMax || uid != 0 && (n >= connsPerUIDMax || l.others >= connsOthersMax) {
		return false
	}
	l.byUID[uid]++
	if uid != 0 {
		l.others++
	}
	return true
}

func (l *limitedListener) leave(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byUID[uid]--; l.byUID[uid] == 0 {
		delete(l.byUID, uid)
	}
	if uid != 0 {
		l.others--
	}
}
