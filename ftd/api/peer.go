package api

import (
	"errors"
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Groups whose members may use the socket.
const (
	ReadGroup  = "ft"    // may read
	AdminGroup = "ftadm" // may read and change
)

// peer is who is at the other end of a connection, as the kernel noted it when the
// connection was made.
type peer struct {
	pid  int32
	uid  uint32
	gids []uint32 // primary and supplementary
}

// peerOf asks the kernel. SO_PEERCRED (unix(7)) lacks supplementary groups, which
// SO_PEERGROUPS (Linux 4.13) has.
func peerOf(c *net.UnixConn) (peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var p peer
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			inner = fmt.Errorf("SO_PEERCRED: %w", err)
			return
		}
		groups, err := peerGroups(fd)
		if err != nil {
			inner = fmt.Errorf("SO_PEERGROUPS: %w", err)
			return
		}
		p = peer{pid: cred.Pid, uid: cred.Uid, gids: append(groups, cred.Gid)}
	})
	return p, errors.Join(err, inner)
}

// peerGroups reads the supplementary groups. The kernel answers ERANGE with the
// length it needs; NGROUPS_MAX (65536) bounds that.
func peerGroups(fd uintptr) ([]uint32, error) {
	buf := make([]uint32, 64)
	for range 2 {
		n := uint32(len(buf) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&n)), 0)
		switch errno {
		case 0:
			return buf[:n/4], nil
		case unix.ERANGE:
			buf = make([]uint32, n/4+1)
		case unix.ENODATA: // no credentials were noted: no groups
			return nil, nil
		default:
			return nil, errno
		}
	}
	return nil, unix.ERANGE
}

// name is the peer's user name for the event log.
func (p peer) name() string {
	if p.uid == 0 {
		return "root"
	}
	id := strconv.FormatUint(uint64(p.uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id
}

// in says whether the peer is in the group. A group that does not exist has no
// members. Looked up each time, so that a group made later counts at once.
func (p peer) in(group string) bool {
	g, err := user.LookupGroup(group)
	if err != nil {
		return false
	}
	gid, err := strconv.ParseUint(g.Gid, 10, 32)
	return err == nil && slices.Contains(p.gids, uint32(gid))
}

// groups names who may use the socket; tests set other ones.
type groups struct{ read, admin string }

// mayRead and mayChange answer nil, or a refusal that says who may.
func (g groups) mayRead(p peer) *Error {
	if p.uid == 0 || p.in(g.read) || p.in(g.admin) {
		return nil
	}
	return &Error{Code: CodeForbidden, Refused: true, Sentence: fmt.Sprintf(
		"%s may not look at this box: that is for root and the groups %s and %s; ask for `adduser %s %s`, and log in again", p.name(), g.read, g.admin, p.name(), g.read)}
}

func (g groups) mayChange(p peer) *Error {
	if p.uid == 0 || p.in(g.admin) {
		return nil
	}
	return &Error{Code: CodeForbidden, Refused: true, Sentence: fmt.Sprintf(
		"%s may not change this box: that is for root and the group %s; use sudo, or ask for `adduser %s %s` and log in again", p.name(), g.admin, p.name(), g.admin)}
}

// mayType is about the keys of a machine's console.
func (g groups) mayType(p peer, machine string) *Error {
	if g.mayChange(p) == nil {
		return nil
	}
	return &Error{Code: CodeForbidden, Refused: true, Sentence: fmt.Sprintf(
		"%s may watch the console of %s, not type on it: that is for root and the group %s; `ftctl console --read-only %s` watches", p.name(), machine, g.admin, machine)}
}
