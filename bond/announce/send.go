package announce

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// port is a NIC that frames are sent through: a packet socket bound to it. It receives
// nothing, having no protocol (packet(7)); for the frames that it sends the kernel takes
// the protocol from their headers (Linux 5.1).
//
// The frames pass by the NIC's queue, which may be long, and which drops all without a word
// while the kernel has not yet seen to a carrier that has just returned (dev_activate,
// called by net/core/link_watch.c). They pass by filters at egress, too.
type port struct {
	fd      int
	index   int
	failing bool // and has been reported
}

// sendBuffer is the room for frames that a NIC has not sent yet, in bytes: an announcement
// of the largest size, each frame with what the kernel keeps beside it.
const sendBuffer = 8 << 20

func openPort(index int) (*port, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w (it takes CAP_NET_RAW)", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind a packet socket to interface %d: %w", index, err)
	}
	// Both are wishes. Without them a large announcement may lose frames, which are counted,
	// or wait behind data.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	return &port{fd: fd, index: index}, nil
}

func (p *port) close() { unix.Close(p.fd) }

// chunkMax is how many frames go into one sendmmsg(2).
const chunkMax = 64

// mmsghdr is struct mmsghdr (linux/socket.h).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [unsafe.Sizeof(uintptr(0)) - 4]byte
}

// transmitter holds the headers of a sendmmsg, so that sending does not allocate.
type transmitter struct {
	hdrs [chunkMax]mmsghdr
	iovs [chunkMax]unix.Iovec
}

// send puts frames onto a port without waiting. A frame that the port does not take is
// passed over; a port that takes none ends it. err is the last refusal.
func (t *transmitter) send(p *port, frames [][]byte) (sent, failed int, err error) {
	for len(frames) > 0 {
		n, errno := t.sendChunk(p.fd, frames[:min(len(frames), chunkMax)])
		if errno == 0 {
			sent += n
			frames = frames[n:]
			continue
		}
		switch errno {
		case unix.EINTR:
			continue
		case unix.ENETDOWN, unix.ENXIO, unix.ENODEV, unix.EBADF:
			return sent, failed + len(frames), errno
		}
		// ENOBUFS: its queue is full. EAGAIN: our buffer is. Others: this frame's fault.
		err = errno
		failed++
		frames = frames[1:]
	}
	return sent, failed, err
}

// sendChunk sends as many frames as the kernel takes at once: at least one, or an error.
func (t *transmitter) sendChunk(fd int, frames [][]byte) (int, unix.Errno) {
	for i, f := range frames {
		t.iovs[i].Base = &f[0]
		t.iovs[i].SetLen(len(f))
		t.hdrs[i].hdr.Iov = &t.iovs[i]
		t.hdrs[i].hdr.SetIovlen(1)
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&t.hdrs[0])),
		uintptr(len(frames)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// wayOut says what a refusal means and what can be done.
func wayOut(err error) string {
	switch {
	case errors.Is(err, errNoPort):
		return "it is announced when one is there"
	case errors.Is(err, unix.ENETDOWN):
		return "the NIC is down: set it up, and announce again"
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return "the NIC is gone: it is announced again when it has come back"
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN):
		return "its queue is full: the repeats make up for it"
	}
	return "the repeats may make up for it"
}
