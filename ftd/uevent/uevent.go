// Package uevent listens to the kernel's own device events (NETLINK_KOBJECT_UEVENT,
// lib/kobject_uevent.c) so that a device that vanishes or returns is seen at once
// and without udev.
//
// Only what the kernel itself sent is believed: the message's sender must be port 0.
// The kernel drops events when a listener is slow and says so with ENOBUFS; that
// comes up as an Event with Lost set, and the listener's user looks at everything
// again. Events are hints to look, never facts to act on: between the event and the
// look the device may have changed once more.
package uevent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// kernelGroup is the multicast group of the kernel; udev's own is 2.
	kernelGroup = 1
	// receiveBufferBytes holds a burst of some thousand events (one is under 1 KiB).
	receiveBufferBytes = 4 << 20
	// messageBytesMax: UEVENT_BUFFER_SIZE is 2048, plus the header's device path.
	messageBytesMax = 16 << 10
)

// Event is one device event.
type Event struct {
	Action    string // add, remove, change, move, online, offline, bind, unbind
	DevPath   string // below /sys
	Subsystem string // block, net, …
	Name      string // DEVNAME (loop0), or INTERFACE for net; "" when it has neither
	Major     int
	Minor     int
	Seq       uint64 // the kernel's number, as in /sys/kernel/uevent_seqnum
	// Lost says that the kernel dropped events: nothing else is set, look at everything.
	Lost bool
}

// Listener receives the events of one subsystem.
type Listener struct {
	subsystem string
	sock      *os.File
}

// Listen opens the kernel's event socket for one subsystem ("block", "net"). Events
// that happen after Listen has returned are received.
func Listen(subsystem string) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open the kernel's device event socket: %w", err)
	}
	// The larger buffer needs CAP_NET_ADMIN; without it the default serves, with Lost
	// coming earlier.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBufferBytes); err != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBufferBytes)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("join the kernel's device events: %w", err)
	}
	return &Listener{subsystem: subsystem, sock: os.NewFile(uintptr(fd), "uevent")}, nil
}

// Close ends Run.
func (l *Listener) Close() error { return l.sock.Close() }

// Run calls handle for each event, in order, until ctx ends or Close is called; it
// then returns nil. It closes the socket.
func (l *Listener) Run(ctx context.Context, handle func(Event)) error {
	defer l.sock.Close()
	stop := context.AfterFunc(ctx, func() { l.sock.Close() })
	defer stop()
	raw, err := l.sock.SyscallConn()
	if err != nil {
		return fmt.Errorf("device event socket: %w", err)
	}
	buf := make([]byte, messageBytesMax)
	for {
		var n int
		var from unix.Sockaddr
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			n, from, rerr = unix.Recvfrom(int(fd), buf, 0)
			return rerr != unix.EAGAIN && rerr != unix.EINTR
		})
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("wait for device events: %w", err)
		case rerr == unix.ENOBUFS:
			handle(Event{Lost: true})
			continue
		case rerr != nil:
			return fmt.Errorf("receive device events: %w", rerr)
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue // not from the kernel
		}
		if ev, ok := parse(buf[:n]); ok && ev.Subsystem == l.subsystem {
			handle(ev)
		}
	}
}

// parse reads "ACTION@DEVPATH\0KEY=VALUE\0…". What does not look like that (udev's
// "libudev" messages, truncated ones) is not an event.
func parse(msg []byte) (Event, bool) {
	head, rest, ok := bytes.Cut(msg, []byte{0})
	if !ok {
		return Event{}, false
	}
	action, path, ok := bytes.Cut(head, []byte{'@'})
	if !ok || len(action) == 0 || len(path) == 0 {
		return Event{}, false
	}
	ev := Event{Action: string(action), DevPath: string(path)}
	for len(rest) > 0 {
		var field []byte
		field, rest, _ = bytes.Cut(rest, []byte{0})
		key, value, ok := bytes.Cut(field, []byte{'='})
		if !ok {
			continue
		}
		switch string(key) {
		case "SUBSYSTEM":
			ev.Subsystem = string(value)
		case "DEVNAME", "INTERFACE":
			ev.Name = string(value)
		case "MAJOR":
			ev.Major, _ = strconv.Atoi(string(value))
		case "MINOR":
			ev.Minor, _ = strconv.Atoi(string(value))
		case "SEQNUM":
			ev.Seq, _ = strconv.ParseUint(string(value), 10, 64)
		}
	}
	return ev, ev.Subsystem != ""
}
