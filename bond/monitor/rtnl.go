package monitor

// The messages of rtnetlink(7), as far as the bond looks at them. This stands between the
// kernel and the table of links in a process that must not die: whatever a driver's oddity
// puts into an attribute, decoding ends in a value or in an error.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/nic"
)

// message is one report about a link or an address.
type message struct {
	kind  messageKind
	index int      // of the link
	link  nic.Link // linkIs
	addr  address  // addrIs, addrGone
	flags uint32   // addrIs: IFA_F_… of linux/if_addr.h
}

type messageKind uint8

const (
	linkIs messageKind = iota
	linkGone
	addrIs
	addrGone
)

// address is what an address of a link is known by.
type address struct {
	local netip.Prefix
	peer  netip.Addr // the other end of a point-to-point link, or the zero Addr
}

var errShort = errors.New("cut short")

// decode reads the body of a message of a type. ok is false for one that says nothing
// about the links and addresses that we keep.
func decode(kind uint16, body []byte) (m message, ok bool, err error) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// struct ifinfomsg, linux/rtnetlink.h: family, pad, type, index, flags, change.
		if len(body) < unix.SizeofIfInfomsg {
			return m, false, fmt.Errorf("ifinfomsg: %w", errShort)
		}
		// A bridge reports its ports in the same group under AF_BRIDGE, and a port that
		// leaves it as RTM_DELLINK: the link itself is still there.
		if body[0] != unix.AF_UNSPEC {
			return m, false, nil
		}
		m.index = int(int32(binary.NativeEndian.Uint32(body[4:])))
		if kind == unix.RTM_DELLINK {
			m.kind = linkGone
			return m, true, nil
		}
		m.kind = linkIs
		m.link, err = decodeLink(body)
		// Wireless events (net/wireless/wext-core.c) come as a link without a name.
		return m, err == nil && m.link.Name != "", err
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return decodeAddress(kind, body)
	}
	return m, false, nil
}

// decodeLink leaves the meaning of it to nic.FromNetlink. The library that reads it goes
// by what the kernel always does, and panics where an attribute is shorter.
func decodeLink(body []byte) (l nic.Link, err error) {
	defer func() {
		if oddity := recover(); oddity != nil {
			l, err = nic.Link{}, fmt.Errorf("a link's attributes: %v", oddity)
		}
	}()
	link, err := netlink.LinkDeserialize(nil, body)
	if err != nil {
		return nic.Link{}, fmt.Errorf("a link's attributes: %w", err)
	}
	l = nic.FromNetlink(link)
	err = attributes(body[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) error {
		if kind != unix.IFLA_MAX_MTU {
			return nil
		}
		if len(v) < 4 {
			return fmt.Errorf("IFLA_MAX_MTU: %w", errShort)
		}
		if most := binary.NativeEndian.Uint32(v); most <= math.MaxInt32 { // above: no limit
			l.MaxMTU = int(most)
		}
		return nil
	})
	return l, err
}

func decodeAddress(kind uint16, body []byte) (m message, ok bool, err error) {
	// struct ifaddrmsg, linux/if_addr.h: family, prefixlen, flags, scope, index.
	if len(body) < unix.SizeofIfAddrmsg {
		return m, false, fmt.Errorf("ifaddrmsg: %w", errShort)
	}
	if body[0] != unix.AF_INET && body[0] != unix.AF_INET6 {
		return m, false, nil
	}
	m.kind = addrIs
	if kind == unix.RTM_DELADDR {
		m.kind = addrGone
	}
	m.index = int(int32(binary.NativeEndian.Uint32(body[4:])))
	m.flags = uint32(body[2])
	var local, addr netip.Addr
	err = attributes(body[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			addr, _ = netip.AddrFromSlice(v)
		case unix.IFA_FLAGS: // all 32 of them
			if len(v) < 4 {
				return fmt.Errorf("IFA_FLAGS: %w", errShort)
			}
			m.flags = binary.NativeEndian.Uint32(v)
		}
		return nil
	})
	if err != nil {
		return m, false, fmt.Errorf("an address of link %d: %w", m.index, err)
	}
	if !local.IsValid() {
		local = addr
	}
	if !local.IsValid() {
		return m, false, fmt.Errorf("an address of link %d: neither IFA_LOCAL nor IFA_ADDRESS", m.index)
	}
	m.addr.local = netip.PrefixFrom(local, int(body[1]))
	if addr != local {
		m.addr.peer = addr
	}
	return m, true, nil
}

// nlaTypeMask is NLA_TYPE_MASK, linux/netlink.h: the type without NLA_F_NESTED and
// NLA_F_NET_BYTEORDER.
const nlaTypeMask = 0x3fff

// attributes walks over struct nlattr (linux/netlink.h): length with the header, type.
func attributes(b []byte, each func(kind uint16, value []byte) error) error {
	const header = unix.SizeofNlAttr
	for len(b) >= header {
		n := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) & nlaTypeMask
		if n < header || n > len(b) {
			return fmt.Errorf("attribute %d has a length of %d where %d are left", kind, n, len(b))
		}
		if err := each(kind, b[header:n]); err != nil {
			return err
		}
		b = b[min(align(n), len(b)):]
	}
	return nil
}

// messages walks over struct nlmsghdr of one datagram.
func messages(b []byte, each func(h unix.NlMsghdr, body []byte) error) error {
	for len(b) >= unix.SizeofNlMsghdr {
		h := unix.NlMsghdr{
			Len:   binary.NativeEndian.Uint32(b),
			Type:  binary.NativeEndian.Uint16(b[4:]),
			Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq:   binary.NativeEndian.Uint32(b[8:]),
			Pid:   binary.NativeEndian.Uint32(b[12:]),
		}
		if h.Len < unix.SizeofNlMsghdr || uint64(h.Len) > uint64(len(b)) {
			return fmt.Errorf("a message has a length of %d where %d are left", h.Len, len(b))
		}
		if err := each(h, b[unix.SizeofNlMsghdr:h.Len]); err != nil {
			return err
		}
		b = b[min(align(int(h.Len)), len(b)):]
	}
	return nil
}

// align is NLMSG_ALIGN and NLA_ALIGN, linux/netlink.h.
func align(n int) int { return (n + 3) &^ 3 }
