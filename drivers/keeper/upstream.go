package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/notify"
)

// Limits towards systemd.
const (
	upstreamMax     = 1024            // messages that wait for systemd
	upstreamTimeout = 5 * time.Second // for systemd to take one
)

// upstream is the keeper towards systemd, which holds a further copy of every
// descriptor: a keeper that is killed together with a driver finds them there.
// Messages go out in order from one goroutine, so that the loop never waits for
// systemd; what does not fit, or is not taken in time, is logged.
type upstream struct {
	sender *notify.Sender
	log    *slog.Logger
	wg     sync.WaitGroup

	mu     sync.Mutex
	queue  chan upMessage
	closed bool
}

type upMessage struct {
	m   notify.Message
	fds []int // copies, closed when sent
}

func newUpstream(s *notify.Sender, log *slog.Logger) *upstream {
	u := &upstream{sender: s, log: log, queue: make(chan upMessage, upstreamMax)}
	u.wg.Go(u.run)
	return u
}

// close sends what waits, and ends. What is sent later is dropped.
func (u *upstream) close() {
	u.mu.Lock()
	u.closed = true
	close(u.queue)
	u.mu.Unlock()
	u.wg.Wait()
}

func (u *upstream) run() {
	for m := range u.queue {
		var err error
		if m.m.Watchdog || m.m.Status != nil {
			u.sender.Send(m.m)
		} else {
			ctx, cancel := context.WithTimeout(context.Background(), upstreamTimeout)
			err = u.sender.Confirm(ctx, m.m, m.fds...)
			cancel()
		}
		closeAll(m.fds)
		if err != nil {
			u.log.Warn("systemd was not told", "err", err)
		}
	}
}

func (u *upstream) send(m notify.Message, fds ...int) {
	if !u.sender.Watched() {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return
	}
	copies := make([]int, 0, len(fds))
	for _, fd := range fds {
		c, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeAll(copies)
			u.log.Warn("systemd gets no copy of a descriptor", "err", err)
			return
		}
		copies = append(copies, c)
	}
	select {
	case u.queue <- upMessage{m, copies}:
	default:
		closeAll(copies)
		u.log.Warn("systemd does not keep up: a message was dropped")
	}
}

// store and remove name a descriptor PROCESS/NAME.
func (u *upstream) store(process, name string, fds []int) {
	u.send(notify.Message{Store: process + "/" + name, NoPoll: true}, fds...)
}

func (u *upstream) remove(process, name string) {
	u.send(notify.Message{Remove: process + "/" + name})
}

// text sets the keeper's line in `systemctl status`.
func (u *upstream) text(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	u.send(notify.Message{Status: &s})
}

// splitUpstream is the inverse of the name that store makes.
func splitUpstream(name string) (process, descriptor string, ok bool) {
	return strings.Cut(name, "/")
}
