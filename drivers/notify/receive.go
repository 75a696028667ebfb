package notify

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ft/drivers/unixhttp"
)

// Packet is a datagram with its sender and its descriptors, which the receiver owns.
type Packet struct {
	Message
	Pid int // of the sender, by the kernel's word
	Uid uint32
	Fds []int
	Err error // the datagram made no sense: Message is not to be acted on
}

// Close closes the descriptors that are still there.
func (p *Packet) Close() {
	for _, fd := range p.Fds {
		unix.Close(fd)
	}
	p.Fds = nil
}

// Receiver is the receiving end at a path.
type Receiver struct {
	conn *net.UnixConn
	buf  [sizeMax]byte
	oob  []byte
}

// Listen makes the socket at path, mode 0600, and takes the path over from a dead
// predecessor.
func Listen(path string) (*Receiver, error) {
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(tmp)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the notify socket's directory: %w", err)
	}
	addr, release, err := unixhttp.Address(tmp)
	if err != nil {
		return nil, err
	}
	defer release()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	r := &Receiver{conn: conn, oob: make([]byte, unix.CmsgSpace(4*FdsMax)+unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(64))}
	err = r.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	if err == nil {
		err = errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path))
	}
	if err != nil {
		conn.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("make the notify socket %s: %w", path, err)
	}
	return r, nil
}

// Close ends Receive.
func (r *Receiver) Close() error { return r.conn.Close() }

func (r *Receiver) control(f func(fd int) error) error {
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// Receive waits for the next datagram. Its error means that the socket is closed or
// unusable; a bad datagram is a Packet with Err. One caller at a time.
func (r *Receiver) Receive() (Packet, error) {
	// ReadMsgUnix sets MSG_CMSG_CLOEXEC.
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(r.buf[:], r.oob)
	if err != nil {
		return Packet{}, err
	}
	var p Packet
	if err := p.ancillary(r.oob[:oobn]); err != nil {
		p.Err = err
	}
	switch {
	case flags&unix.MSG_CTRUNC != 0:
		p.Err = errors.New("descriptors were lost on the way: is this process out of descriptors?")
	case flags&unix.MSG_TRUNC != 0:
		p.Err = fmt.Errorf("a message of more than %d bytes", sizeMax)
	}
	msg, err := Parse(r.buf[:n])
	p.Message = msg
	if p.Err == nil {
		p.Err = err
	}
	return p, nil
}

// ancillary takes descriptors and credentials out of a control message.
func (p *Packet) ancillary(oob []byte) error {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("a control message: %w", err)
	}
	for i := range cmsgs {
		c := &cmsgs[i]
		switch {
		case c.Header.Level == unix.SOL_SOCKET && c.Header.Type == unix.SCM_RIGHTS:
			fds, err := unix.ParseUnixRights(c)
			if err != nil {
				return fmt.Errorf("descriptors: %w", err)
			}
			p.Fds = append(p.Fds, fds...)
		case c.Header.Level == unix.SOL_SOCKET && c.Header.Type == unix.SCM_CREDENTIALS:
			cred, err := unix.ParseUnixCredentials(c)
			if err != nil {
				return fmt.Errorf("credentials: %w", err)
			}
			p.Pid, p.Uid = int(cred.Pid), cred.Uid
		}
	}
	return nil
}
