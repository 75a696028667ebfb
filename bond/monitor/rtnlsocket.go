package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of the socket.
const (
	// Memory is used only while messages wait in it. A link's report takes 2-4 KiB there.
	receiveBufferBytes = 8 << 20
	// The kernel builds dumps in pieces of at most 32 KiB, and a link's report (without
	// the virtual functions, which have to be asked for) is far smaller.
	datagramBytes = 64 << 10
	// A dump waits for the kernel's RTNL lock, which may be held while a NIC resets.
	dumpPatience = 10 * time.Second
)

// rtnlSocket is a subscription to links and addresses, on which dumps can be asked for
// too: what it then reads is in the order in which the kernel queued it.
type rtnlSocket struct {
	f   *os.File
	raw syscall.RawConn
	buf []byte
	seq uint32 // of the last request
	pid uint32 // the socket's netlink port
}

func openRtnl(receiveBuffer int) (*rtnlSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	// SO_RCVBUFFORCE takes CAP_NET_ADMIN; without it the system's maximum has to do.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: group(unix.RTNLGRP_LINK) | group(unix.RTNLGRP_IPV4_IFADDR) | group(unix.RTNLGRP_IPV6_IFADDR)})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscribe to links and addresses over netlink: %w", err)
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("find the number of a netlink socket: %w", err)
	}
	s := &rtnlSocket{pid: own.(*unix.SockaddrNetlink).Pid, f: os.NewFile(uintptr(fd), "rtnetlink"), buf: make([]byte, datagramBytes)}
	if s.raw, err = s.f.SyscallConn(); err != nil {
		s.f.Close()
		return nil, fmt.Errorf("subscribe to links and addresses over netlink: %w", err)
	}
	return s, nil
}

func group(n int) uint32 { return 1 << (n - 1) }

// receive waits for the next datagram, which is valid until the next call. Close ends it
// with os.ErrClosed.
func (s *rtnlSocket) receive() ([]byte, error) {
	for {
		var n int
		var from unix.Sockaddr
		var err error
		if e := s.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			return err != unix.EAGAIN && err != unix.EINTR
		}); e != nil {
			return nil, e
		}
		if err != nil {
			return nil, err
		}
		if n > len(s.buf) {
			return nil, fmt.Errorf("a datagram of %d bytes is longer than the %d that there can be", n, len(s.buf))
		}
		// Nobody but the kernel (port 0) has anything to say here.
		if a, ok := from.(*unix.SockaddrNetlink); ok && a.Pid == 0 {
			return s.buf[:n], nil
		}
	}
}

// ask sends a dump request for RTM_GETLINK or RTM_GETADDR.
func (s *rtnlSocket) ask(kind uint16) error {
	s.seq++
	// Both may be asked with struct ifinfomsg in front. The statistics, the larger half of
	// a link's report, are left out: IFLA_EXT_MASK with RTEXT_FILTER_SKIP_STATS
	// (linux/rtnetlink.h).
	const rtextFilterSkipStats = 1 << 3
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg+8)
	if kind == unix.RTM_GETLINK {
		b = binary.NativeEndian.AppendUint16(b, 8)
		b = binary.NativeEndian.AppendUint16(b, unix.IFLA_EXT_MASK)
		b = binary.NativeEndian.AppendUint32(b, rtextFilterSkipStats)
	}
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(b[8:], s.seq)
	var err error
	if e := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return err != unix.EAGAIN && err != unix.EINTR
	}); e != nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("ask for a dump over netlink: %w", err)
	}
	return nil
}

// answers says whether a message belongs to the last request. Notifications carry the
// numbers of whoever caused the change.
func (s *rtnlSocket) answers(h unix.NlMsghdr) bool { return h.Seq == s.seq && h.Pid == s.pid }

// dumped is what an error message or the end of a dump says.
func dumped(body []byte) error {
	if len(body) < 4 {
		return nil // an old kernel's NLMSG_DONE
	}
	if e := int32(binary.NativeEndian.Uint32(body)); e < 0 {
		return fmt.Errorf("dump over netlink: %w", unix.Errno(-e))
	}
	return nil
}

// overrun says whether messages were lost while the socket itself is well.
func overrun(err error) bool { return errors.Is(err, unix.ENOBUFS) }

func (s *rtnlSocket) close() { s.f.Close() }
