package backend

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"ft/drivers/unixhttp"
)

// A console shows what the guest writes to whoever watches, and keeps it.
//
// All of it goes through one ring of bytes, the history. Write appends and returns; a
// watcher, like the log file, is a reader with a position of its own. One that the ring has
// overtaken goes on at what is still there, and is told how much it missed: nobody slow
// holds up the machine or anyone else.

const (
	// ConsoleReplay is how much of the past a new watcher is shown, in bytes.
	ConsoleReplay = 64 << 10
	// historySize is a power of two, well above ConsoleReplay: the way that a reader may be
	// behind.
	historySize = 256 << 10

	watchersMax = 16

	// DefaultConsoleLog is where a log is turned over, in bytes.
	DefaultConsoleLog = 1 << 20
)

// ConsoleConfig is what a console is opened with.
type ConsoleConfig struct {
	Socket   string // path of the unix socket, made for root or this user alone; "" for none
	Log      string // path of the log file; "" for none
	LogBytes int64  // the log is turned over at half of it, so that both parts have that many; 0: DefaultConsoleLog

	// Typed gets what a watcher types. It must not block; p is the console's again when it
	// returns.
	Typed func(p []byte)
}

// Console is an open console.
type Console struct {
	cfg ConsoleConfig

	mu       sync.Mutex // guards the fields below
	more     *sync.Cond // end has moved, or closed
	history  [historySize]byte
	end      uint64 // bytes written so far; the last historySize of them are there
	sleeping int    // readers that wait for more
	closed   bool
	watchers map[net.Conn]struct{}
	stats    ConsoleStats

	listener net.Listener   // nil: no socket
	done     sync.WaitGroup // listener, log and watchers
}

// ConsoleStats are for people.
type ConsoleStats struct {
	Written  uint64 // bytes
	Watchers int
	Skipped  uint64 // bytes that readers were too slow for
	LogError string // the last
}

// OpenConsole makes the socket and opens the log. What the log holds of an earlier time is
// shown to watchers too.
func OpenConsole(cfg ConsoleConfig) (*Console, error) {
	if cfg.LogBytes <= 0 {
		cfg.LogBytes = DefaultConsoleLog
	}
	c := &Console{cfg: cfg, watchers: map[net.Conn]struct{}{}}
	c.more = sync.NewCond(&c.mu)
	var log *consoleLog
	if cfg.Log != "" {
		var past []byte
		var err error
		if log, past, err = openLog(cfg.Log, cfg.LogBytes/2, c.logFailed); err != nil {
			return nil, fmt.Errorf("open the console's log %s: %w", cfg.Log, err)
		}
		c.append(past)
	}
	if cfg.Socket != "" {
		l, err := unixhttp.Listen(cfg.Socket)
		if err != nil {
			if log != nil {
				log.close()
			}
			return nil, fmt.Errorf("make the console's socket %s: %w", cfg.Socket, err)
		}
		c.listener = l
		c.done.Add(1)
		go c.accept()
	}
	if log != nil {
		c.done.Add(1)
		go c.keep(log, c.end)
	}
	return c, nil
}

// Write appends what the guest has written. It does not wait for anyone.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.append(p)
	c.stats.Written += uint64(len(p))
	c.wake()
	return len(p), nil
}

// append is under mu.
func (c *Console) append(p []byte) {
	if skip := len(p) - historySize; skip > 0 {
		p, c.end = p[skip:], c.end+uint64(skip)
	}
	for len(p) > 0 {
		n := copy(c.history[c.end%historySize:], p)
		p, c.end = p[n:], c.end+uint64(n)
	}
}

// Stats are for people.
func (c *Console) Stats() ConsoleStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Watchers = len(c.watchers)
	return s
}

// reader is a place in the history.
type reader struct {
	c    *Console
	at   uint64
	left bool // whoever it reads for has gone; guarded by c.mu
}

// next waits for bytes behind the reader's place and copies as many as fit into p. skipped
// are those before them that it came too late for. io.EOF: the console is closed and there
// is no more, or nobody wants it.
func (r *reader) next(p []byte) (n int, skipped uint64, err error) {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for r.left || r.at == c.end {
		if r.left || c.closed {
			return 0, 0, io.EOF
		}
		c.sleeping++
		c.more.Wait()
	}
	if behind := c.end - r.at; behind > historySize {
		// With some way ahead, or the ring would overtake it at once again.
		skipped = behind - ConsoleReplay
		r.at += skipped
		c.stats.Skipped += skipped
	}
	for n < len(p) && r.at < c.end {
		from := r.at % historySize
		k := copy(p[n:], c.history[from:min(historySize, from+(c.end-r.at))])
		n, r.at = n+k, r.at+uint64(k)
	}
	return n, skipped, nil
}

// notice is what a reader is told of what it missed.
func notice(skipped uint64) []byte {
	return fmt.Appendf(nil, "\r\n[%d bytes left out: this reader was too slow]\r\n", skipped)
}

// readerBuffer is how much a reader takes at once.
const readerBuffer = 16 << 10

// copyTo writes everything from the reader's place on to w, as it comes, until w fails or
// the console is closed.
func (r *reader) copyTo(w io.Writer) error {
	buf := make([]byte, readerBuffer)
	for {
		n, skipped, err := r.next(buf)
		if err != nil {
			return err
		}
		if skipped > 0 {
			if _, err := w.Write(notice(skipped)); err != nil {
				return err
			}
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// accept takes watchers in.
func (c *Console) accept() {
	defer c.done.Done()
	for {
		conn, err := c.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors left, or one that went at once
			time.Sleep(acceptPause)
			continue
		}
		if why := c.watch(conn); why != "" {
			_, _ = io.WriteString(conn, why+"\r\n")
			conn.Close()
		}
	}
}

// acceptPause is between tries to take a watcher in that the kernel refuses.
const acceptPause = 100 * time.Millisecond

// watch starts a watcher, or says why not.
func (c *Console) watch(conn net.Conn) (refusal string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return "the console is being closed"
	case len(c.watchers) >= watchersMax:
		return fmt.Sprintf("%d are watching this console already, which is the most", watchersMax)
	}
	c.watchers[conn] = struct{}{}
	r := &reader{c: c, at: c.end - min(c.end, ConsoleReplay)}
	c.done.Add(2)
	go func() {
		defer c.done.Done()
		_ = r.copyTo(conn)
		c.leave(conn, r)
	}()
	go func() {
		defer c.done.Done()
		c.listen(conn)
		c.leave(conn, r)
	}()
	return ""
}

// listen hands on what a watcher types, until it goes.
func (c *Console) listen(conn net.Conn) {
	buf := make([]byte, 1024)
	for {
		n, err := conn.Read(buf)
		if n > 0 && c.cfg.Typed != nil {
			c.cfg.Typed(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// leave ends a watcher: the one of its goroutines that sees it first ends the other.
func (c *Console) leave(conn net.Conn, r *reader) {
	conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watchers, conn)
	r.left = true
	c.wake()
}

// wake is under mu.
func (c *Console) wake() {
	if c.sleeping > 0 {
		c.sleeping = 0
		c.more.Broadcast()
	}
}

// keep writes the log until the console is closed.
func (c *Console) keep(log *consoleLog, from uint64) {
	defer c.done.Done()
	r := &reader{c: c, at: from}
	if err := r.copyTo(log); err != io.EOF {
		panic(err) // the log keeps its errors to itself
	}
	log.close()
}

// logFailed notes an error of the log.
func (c *Console) logFailed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.LogError = err.Error()
}

// Close ends the console. Watchers still get what was written before, if they are quick.
func (c *Console) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	for conn := range c.watchers {
		_ = conn.SetDeadline(time.Now().Add(closePatience))
	}
	c.wake()
	c.mu.Unlock()
	var err error
	if c.listener != nil {
		err = c.listener.Close() // removes the socket
	}
	c.done.Wait()
	return err
}

// closePatience is how long Close waits for slow watchers.
const closePatience = time.Second
