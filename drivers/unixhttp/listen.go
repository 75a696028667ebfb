// Package unixhttp is how the processes of a box talk to each other: HTTP and JSON
// over a unix socket that only root may use. It has the three things that the driver
// process and the keeper share: a private listener, a stream of numbered records that
// a slow reader cannot hold up, and a client that brings a refusal back as the
// *drivers.Refused that it was.
//
// Invariants:
//   - A socket's path always names the newest listener: it is made beside the path and
//     renamed over it, so that a successor never waits for its predecessor to let go.
//   - Nobody but root, or the user that the process itself runs as, gets a byte in.
//   - A listener carries at most maxConns connections at a time.
package unixhttp

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxConns bounds the connections that one listener carries; more wait in the backlog.
const maxConns = 64

// maxPath is the longest path that fits a sockaddr_un (108 bytes with its NUL).
const maxPath = 107

// Listen makes a private stream socket at path, mode 0600, in a directory of mode
// 0700, and takes the path over from a dead or dying predecessor. Closing the
// listener removes the path if it is still its own.
func Listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(tmp)
	addr, release, err := Address(tmp)
	if err != nil {
		return nil, err
	}
	defer release()
	inner, err := net.ListenUnix("unix", &net.UnixAddr{Name: addr, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	inner.SetUnlinkOnClose(false)
	l := &listener{UnixListener: inner, path: path, slots: make(chan struct{}, maxConns), closed: make(chan struct{})}
	if err := l.publish(tmp); err != nil {
		inner.Close()
		os.Remove(tmp)
		return nil, err
	}
	return l, nil
}

// Address gives a socket address for path that fits into a sockaddr_un however long
// path is: a long one goes through a descriptor of its directory. The address is good
// until release is called.
func Address(path string) (addr string, release func(), err error) {
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("open the directory of %s: %w", path, err)
	}
	addr = "/proc/self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(path)
	if len(addr) > maxPath {
		unix.Close(dir)
		return "", nil, fmt.Errorf("the socket name %s is too long", filepath.Base(path))
	}
	return addr, func() { unix.Close(dir) }, nil
}

type listener struct {
	*net.UnixListener
	path  string
	inode uint64
	slots chan struct{}

	closeOnce sync.Once
	closed    chan struct{}
}

// publish moves the socket to its public name.
func (l *listener) publish(tmp string) error {
	if err := os.Chmod(tmp, 0o600); err != nil {
		return fmt.Errorf("restrict %s: %w", l.path, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(tmp, &st); err != nil {
		return fmt.Errorf("look at %s: %w", tmp, err)
	}
	l.inode = st.Ino
	if err := os.Rename(tmp, l.path); err != nil {
		return fmt.Errorf("put the socket in place: %w", err)
	}
	return nil
}

// Accept returns the next connection from root.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			<-l.slots
			return nil, err
		}
		if peerAllowed(c) {
			return &conn{UnixConn: c, done: sync.OnceFunc(func() { <-l.slots })}, nil
		}
		c.Close()
	}
}

// Close ends the listener and removes its path, unless a successor has taken it over.
func (l *listener) Close() error {
	l.closeOnce.Do(func() { close(l.closed) })
	var st unix.Stat_t
	if unix.Lstat(l.path, &st) == nil && st.Ino == l.inode {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}

type conn struct {
	*net.UnixConn
	done func()
}

func (c *conn) Close() error {
	c.done()
	return c.UnixConn.Close()
}

// peerAllowed says whether the other end is root or the user that we are.
func peerAllowed(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return false
	}
	return cred.Uid == 0 || int(cred.Uid) == os.Geteuid()
}

// NewServer is an http.Server with the limits that a private socket wants. Its
// handlers run through edge, which must not return normally from a panic: net/http
// would swallow it, and a process that is broken inside would go on.
func NewServer(h http.Handler, log *slog.Logger, edge func(recovered any)) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if p := recover(); p != nil && p != http.ErrAbortHandler {
					edge(p)
				}
			}()
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
