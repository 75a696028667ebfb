package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers/unixhttp"
)

// retryEvery is how often Confirm tries again while the receiver is full or away.
const retryEvery = 5 * time.Millisecond

// Sender speaks to whoever watches this process. The socket's path is looked up for
// each message, so that a receiver that was restarted on the same path is reached. A
// Sender without a path (nobody watches) sends nothing and has no errors.
type Sender struct {
	path  string
	token string
	drops atomic.Uint64

	confirmMu sync.Mutex // one Confirm at a time: a barrier answers for what went before it
}

// NewSender sends to the socket at path as the start that token names.
func NewSender(path, token string) *Sender { return &Sender{path: path, token: token} }

// SenderFromEnv takes the socket and the token from the environment and removes them
// there, so that no child speaks in our name.
func SenderFromEnv() *Sender {
	s := NewSender(os.Getenv(EnvSocket), os.Getenv(EnvToken))
	os.Unsetenv(EnvSocket)
	os.Unsetenv(EnvToken)
	return s
}

// WatchdogFromEnv is the watchdog's period, 0 for none, and removes it from the
// environment.
func WatchdogFromEnv() time.Duration {
	usec, err := strconv.ParseInt(os.Getenv(EnvWatchdogUsec), 10, 64)
	pid := os.Getenv(EnvWatchdogPid)
	os.Unsetenv(EnvWatchdogUsec)
	os.Unsetenv(EnvWatchdogPid)
	if err != nil || usec <= 0 || (pid != "" && pid != strconv.Itoa(os.Getpid())) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// Watched says whether somebody listens, Kept whether it is the keeper.
func (s *Sender) Watched() bool { return s.path != "" }

// Kept says whether the keeper listens, which confirms stores in words.
func (s *Sender) Kept() bool { return s.path != "" && s.token != "" }

// Drops counts the messages that did not go out.
func (s *Sender) Drops() uint64 { return s.drops.Load() }

// Send sends m if that is possible at once, and says whether it was.
func (s *Sender) Send(m Message, fds ...int) bool {
	if !s.Watched() {
		return true
	}
	if err := s.send(m, fds); err != nil {
		s.drops.Add(1)
		return false
	}
	return true
}

// Confirm sends m and returns when the receiver has acted on it, with the error that
// it answered. It tries again until ctx is done while the receiver is full, away or
// dies before it has answered: m must bear to be acted on twice.
func (s *Sender) Confirm(ctx context.Context, m Message, fds ...int) error {
	if !s.Watched() {
		return nil
	}
	s.confirmMu.Lock()
	defer s.confirmMu.Unlock()
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		retry, err := s.confirmOnce(ctx, m, fds)
		if err == nil || !retry {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no confirmation from %s: %w (%w)", s.path, err, ctx.Err())
		case <-tick.C:
		}
	}
}

// confirmOnce sends m and a barrier, and waits for the barrier's descriptor to be
// closed. The keeper writes "ok" or an error into it before; systemd just closes it.
func (s *Sender) confirmOnce(ctx context.Context, m Message, fds []int) (retry bool, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return false, fmt.Errorf("make the confirmation's pipe: %w", err)
	}
	defer r.Close()
	if err := s.send(m, fds); err != nil {
		w.Close()
		return passing(err), err
	}
	err = s.send(Message{Barrier: true}, []int{int(w.Fd())})
	w.Close()
	if err != nil {
		return passing(err), err
	}
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := io.ReadAll(io.LimitReader(r, sizeMax))
	answer := strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return true, fmt.Errorf("it took the message but does not answer: %w", err)
	case answer == "ok":
		return false, nil
	case answer != "":
		return false, errors.New(answer)
	case s.Kept():
		return true, errors.New("it ended before it answered")
	default:
		return false, nil
	}
}

// passing says whether an error of send may go away by itself.
func passing(err error) bool {
	for _, e := range []unix.Errno{unix.EAGAIN, unix.ECONNREFUSED, unix.ENOENT, unix.ENOBUFS, unix.ETOOMANYREFS, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// send sends one datagram without waiting. net.UnixConn cannot: its WriteMsgUnix
// refuses an address on a connected socket and Write carries no descriptors.
func (s *Sender) send(m Message, fds []int) error {
	if len(fds) > FdsMax {
		return fmt.Errorf("%d descriptors in one message, at most %d fit", len(fds), FdsMax)
	}
	addr, release, err := unixhttp.Address(s.path)
	if err != nil {
		return err
	}
	defer release()
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a notify socket: %w", err)
	}
	defer unix.Close(sock)
	if m.Token == "" {
		m.Token = s.token
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	// x/sys takes a leading @ for the abstract namespace, as NOTIFY_SOCKET does.
	if err := unix.Sendmsg(sock, m.Encode(), rights, &unix.SockaddrUnix{Name: addr}, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("notify %s: %w", s.path, err)
	}
	return nil
}
