package nic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What package netlink does not know or does not tell.
const (
	extSkipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS, linux/rtnetlink.h
	ifaProto     = 11     // IFA_PROTO, linux/if_addr.h: who made an address, since Linux 5.18

	protoKernelRA = 2 // IFAPROT_KERNEL_RA, linux/if_addr.h: from a router advertisement
	protoKernelLL = 3 // IFAPROT_KERNEL_LL, linux/if_addr.h: link-local, made by the kernel
)

// A dump that was interrupted by a change is begun again, but not for ever: on a box
// where links come and go without end the last one is good enough to say so.
const dumpAttempts = 5

// dump asks for a whole table.
func dump(what string, kind uint16, answer uint16, body ...nl.NetlinkRequestData) ([][]byte, error) {
	for attempt := 1; ; attempt++ {
		req := nl.NewNetlinkRequest(int(kind), unix.NLM_F_DUMP)
		for _, b := range body {
			req.AddData(b)
		}
		msgs, err := req.Execute(unix.NETLINK_ROUTE, answer)
		if err == nil {
			return msgs, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) || attempt == dumpAttempts {
			return nil, fmt.Errorf("ask the kernel for its %s: %w", what, err)
		}
	}
}

// links are all interfaces of the namespace.
func links() ([]Link, error) {
	msgs, err := dump("links", unix.RTM_GETLINK, unix.RTM_NEWLINK,
		nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extSkipStats)))
	if err != nil {
		return nil, err
	}
	all := make([]Link, 0, len(msgs))
	for _, m := range msgs {
		l, err := decodeLink(m)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// link is one interface, by its number or else by its name, also an alternative one.
func link(index int, name string) (Link, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extSkipStats)))
	if index == 0 {
		attr := unix.IFLA_IFNAME // the kernel looks for alternative names here as well
		if len(name) >= unix.IFNAMSIZ {
			attr = unix.IFLA_ALT_IFNAME
		}
		req.AddData(nl.NewRtAttr(attr, nl.ZeroTerminated(name)))
	}
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	switch {
	case errors.Is(err, unix.ENODEV):
		return Link{}, ErrNone
	case err != nil:
		return Link{}, fmt.Errorf("ask the kernel: %w", err)
	case len(msgs) == 0:
		return Link{}, ErrNone
	}
	return decodeLink(msgs[0])
}

func decodeLink(m []byte) (Link, error) {
	decoded, err := netlink.LinkDeserialize(nil, m)
	if err != nil {
		return Link{}, fmt.Errorf("read the kernel's description of a link: %w", err)
	}
	l := FromNetlink(decoded)
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
	if err != nil {
		return Link{}, fmt.Errorf("read the kernel's description of %s: %w", l.Name, err)
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_MAX_MTU && len(a.Value) >= 4 {
			// Where there is no limit but the format's own, the kernel may say 2^32-1.
			if v := binary.NativeEndian.Uint32(a.Value); v < 1<<31 {
				l.MaxMTU = int(v)
			}
		}
	}
	return l, nil
}

// address is one of an interface.
type address struct {
	prefix netip.Prefix
	flags  uint32 // IFA_F_…
	proto  uint8  // IFAPROT_…; 0 when it was not the kernel, or the kernel is older than 5.18
}

// addresses are those of one interface.
func addresses(index int) ([]address, error) {
	msgs, err := dump("addresses", unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	if err != nil {
		return nil, err
	}
	var all []address
	for _, m := range msgs {
		if len(m) < unix.SizeofIfAddrmsg {
			continue
		}
		head := nl.DeserializeIfAddrmsg(m)
		if int(head.Index) != index {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfAddrmsg:])
		if err != nil {
			return nil, fmt.Errorf("read the kernel's description of an address: %w", err)
		}
		a := address{flags: uint32(head.Flags)}
		var local, remote netip.Addr
		for _, at := range attrs {
			switch at.Attr.Type {
			case unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(at.Value)
			case unix.IFA_ADDRESS: // the other end's on a point-to-point link, else the same
				remote, _ = netip.AddrFromSlice(at.Value)
			case unix.IFA_FLAGS:
				if len(at.Value) >= 4 {
					a.flags = binary.NativeEndian.Uint32(at.Value)
				}
			case ifaProto:
				if len(at.Value) >= 1 {
					a.proto = at.Value[0]
				}
			}
		}
		if !local.IsValid() {
			local = remote
		}
		if a.prefix = netip.PrefixFrom(local, int(head.Prefixlen)); a.prefix.IsValid() {
			all = append(all, a)
		}
	}
	return all, nil
}

// unicastFilters are what interfaces take beside their own MACs (their lists of unicast
// addresses, as `bridge fdb show dev IF self`), by ifindex: entries by hand, and those
// that macvlan and macvtap links on top have made.
func unicastFilters() (map[int][]net.HardwareAddr, error) {
	msgs, err := dump("address filters", unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, &netlink.Ndmsg{Family: unix.AF_BRIDGE})
	if err != nil {
		return nil, err
	}
	filters := map[int][]net.HardwareAddr{}
	for _, m := range msgs {
		n, err := netlink.NeighDeserialize(m)
		if err != nil {
			return nil, fmt.Errorf("read an entry of the kernel's address filters: %w", err)
		}
		unicast := len(n.HardwareAddr) == macLen && n.HardwareAddr[0]&1 == 0
		if n.Flags&unix.NTF_SELF != 0 && n.State&unix.NUD_PERMANENT != 0 && unicast {
			filters[n.LinkIndex] = append(filters[n.LinkIndex], n.HardwareAddr)
		}
	}
	return filters, nil
}

// filterEntry is what `bridge fdb add MAC dev IF self` sends.
func filterEntry(index int, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: index, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, State: unix.NUD_PERMANENT, HardwareAddr: mac,
	}
}

// byIndex is a link as the library's setters want it.
func byIndex(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}
