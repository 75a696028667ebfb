package testbox

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// children is the box's small init: it starts the keeper and ftd, starts each again
// when it dies, and reaps whatever is left to it. It is the child subreaper, so that
// a driver process whose keeper was killed becomes its child and not a zombie.
//
// All reaping is done in one place, by wait4(-1): nothing else in this process may
// start processes while it runs.
type children struct {
	log *slog.Logger
	env []string // of every child

	mu   sync.Mutex // held over start and registration, so that no death comes before its entry
	byID map[int]*child
	wg   sync.WaitGroup
	quit chan struct{}
}

// child is one supervised process: the way to start it and, while it lives, its pid.
type child struct {
	name string
	argv []string
	log  string // file that its output is appended to

	exited  chan unix.WaitStatus // how it ended; one message a life
	pid     int                  // guarded by children.mu, 0 while it does not run
	stopped bool                 // guarded by children.mu: not to be started again
}

const (
	healthyAfter = 5 * time.Second // a life longer than this is answered by a start at once
	backoffMin   = 250 * time.Millisecond
	backoffMax   = 8 * time.Second
)

func newChildren(log *slog.Logger, env []string) (*children, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the parent of orphaned driver processes (PR_SET_CHILD_SUBREAPER): %w", err)
	}
	c := &children{log: log, env: env, byID: map[int]*child{}, quit: make(chan struct{})}
	c.wg.Add(1)
	go c.reap()
	return c, nil
}

// reap waits for deaths until close. SIGCHLD may stand for many of them.
func (c *children) reap() {
	defer c.wg.Done()
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGCHLD)
	defer signal.Stop(sig)
	for {
		for c.reapOne() {
		}
		select {
		case <-sig:
		case <-c.quit:
			return
		}
	}
}

func (c *children) reapOne() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ws unix.WaitStatus
	pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
	for errors.Is(err, unix.EINTR) {
		pid, err = unix.Wait4(-1, &ws, unix.WNOHANG, nil)
	}
	if err != nil || pid <= 0 {
		return false
	}
	if ch := c.byID[pid]; ch != nil {
		delete(c.byID, pid)
		ch.pid = 0
		ch.exited <- ws
	}
	return true
}

// ending says how a process ended, in words.
func ending(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return fmt.Sprintf("was killed by signal %d (%s)", ws.Signal(), unix.SignalName(ws.Signal()))
	}
	return fmt.Sprintf("ended with exit status %d", ws.ExitStatus())
}

// keep starts a child and starts it again whenever it dies, until stop. after is told
// of each death.
func (c *children) keep(name, logFile string, argv []string, after func(how string)) (*child, error) {
	ch := &child{name: name, argv: argv, log: logFile, exited: make(chan unix.WaitStatus, 1)}
	if err := c.start(ch); err != nil {
		return nil, err
	}
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		c.supervise(ch, after)
	}()
	return ch, nil
}

func (c *children) supervise(ch *child, after func(string)) {
	began, wait := time.Now(), backoffMin
	for {
		select {
		case ws := <-ch.exited:
			if c.isStopped(ch) {
				return
			}
			if ws.Exited() && ws.ExitStatus() == 0 {
				return // it ended because it was asked to: over its socket, or by a person
			}
			after(ending(ws))
		case <-c.quit:
			return
		}
		if time.Since(began) >= healthyAfter {
			wait = backoffMin
		} else {
			select {
			case <-time.After(wait):
			case <-c.quit:
				return
			}
			wait = min(2*wait, backoffMax)
		}
		began = time.Now()
		for err := c.start(ch); err != nil; err = c.start(ch) {
			c.log.Error("start again", "process", ch.name, "error", err)
			select {
			case <-time.After(backoffMax):
			case <-c.quit:
				return
			}
		}
	}
}

func (c *children) isStopped(ch *child) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ch.stopped
}

func (c *children) start(ch *child) error {
	out, err := os.OpenFile(ch.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("start %s: open its log: %w", ch.name, err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("start %s: %w", ch.name, err)
	}
	defer null.Close()
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start %s: find ftd's own binary: %w", ch.name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch.stopped {
		return nil
	}
	// A session of its own: Ctrl-C on the terminal is for the box, which ends its
	// processes in order.
	p, err := os.StartProcess(exe, ch.argv, &os.ProcAttr{
		Dir:   "/", // so that it keeps no file system busy
		Files: []*os.File{null, out, out},
		Env:   c.env,
		Sys:   &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", ch.name, err)
	}
	ch.pid = p.Pid
	c.byID[p.Pid] = ch
	return p.Release()
}

// pidOf is the child's process, 0 while it does not run.
func (c *children) pidOf(ch *child) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ch.pid
}

// stop ends a child for good: SIGTERM, and SIGKILL when patience is over. It returns
// when the child is gone.
func (c *children) stop(ch *child, patience time.Duration) {
	c.mu.Lock()
	ch.stopped = true
	if ch.pid != 0 {
		_ = unix.Kill(ch.pid, unix.SIGTERM) // not reaped yet (we hold mu), so the pid is its own
	}
	c.mu.Unlock()
	deadline := time.Now().Add(patience)
	for c.pidOf(ch) != 0 {
		if time.Now().After(deadline) {
			c.mu.Lock()
			if ch.pid != 0 {
				_ = unix.Kill(ch.pid, unix.SIGKILL)
			}
			c.mu.Unlock()
			deadline = time.Now().Add(patience)
		}
		time.Sleep(goneCheck)
	}
}

// close ends the supervision; the children have been stopped before.
func (c *children) close() {
	close(c.quit)
	c.wg.Wait()
}
