package journal

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// socketPath is where journald listens (systemd-journald.socket(8)).
const socketPath = "/run/systemd/journal/socket"

// sink sends datagrams. It waits while journald is behind: it is asynclog's goroutine
// that waits. While there is no journald, as for a moment when that is restarted, the
// message goes to stderr, whose other end systemd keeps.
type sink struct {
	path string
	fd   int // 0: none yet
}

func (s *sink) Write(p []byte) (int, error) {
	datagram := p
	if !bytes.HasPrefix(p, []byte(nativeStart)) { // asynclog's own word, of lines that were dropped
		datagram = field([]byte(nativeStart+"4\n"), "MESSAGE", string(bytes.TrimSpace(p)))
	}
	if err := s.send(datagram); err != nil {
		fmt.Fprintf(os.Stderr, "%s (the journal: %v)\n", message(datagram), err)
	}
	return len(p), nil
}

func (s *sink) send(datagram []byte) error {
	if s.fd == 0 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		s.fd = fd
	}
	for {
		// To the address each time: a connection would end with the journald that took it.
		err := unix.Sendto(s.fd, datagram, unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: s.path})
		if err != unix.EINTR {
			return err
		}
	}
}

// message is the MESSAGE of a datagram, for a person.
func message(datagram []byte) []byte {
	_, m, _ := bytes.Cut(datagram, []byte("\nMESSAGE="))
	m, _, _ = bytes.Cut(m, []byte("\n"))
	return m
}
