package bonding

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// wire is a netlink socket that stays open: the switch from a dead port must not wait for
// one. Safe for several goroutines (nl locks a socket that is shared).
type wire struct {
	sockets map[int]*nl.SocketHandle
}

func dial() (*wire, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return &wire{map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

func (w *wire) close() {
	for _, s := range w.sockets {
		s.Close()
	}
}

func (w *wire) request(kind uint16, flags int, index int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(int(kind), flags)
	req.Sockets = w.sockets
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	return req
}

// attributes are of one level, by type.
type attributes map[uint16][]byte

func parse(b []byte) (attributes, error) {
	as, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil, fmt.Errorf("the kernel's answer is malformed: %w", err)
	}
	m := attributes{}
	for _, a := range as {
		m[a.Attr.Type&nl.NLA_TYPE_MASK] = a.Value
	}
	return m, nil
}

// info is what we want to know of an interface.
type info struct {
	index  int
	name   string
	kind   string // IFLA_INFO_KIND
	alias  string
	mac    net.HardwareAddr
	mtu    uint32
	master int
	up     bool       // IFF_UP
	lit    bool       // IFF_LOWER_UP: carrier
	data   attributes // IFLA_INFO_DATA
	slave  attributes // IFLA_INFO_SLAVE_DATA, of a bond's
}

// Attributes of IFLA_LINKINFO and, of a bond's slave, IFLA_INFO_SLAVE_DATA (linux/if_link.h).
const (
	infoSlaveKind     = 4
	infoSlaveData     = 5
	slaveLinkFailures = 3
	slavePermMAC      = 4
)

// extSkipStats leaves the counters out of an answer (linux/rtnetlink.h, RTEXT_FILTER_SKIP_STATS).
const extSkipStats = 1 << 3

func (w *wire) link(index int) (info, error) {
	req := w.request(unix.RTM_GETLINK, unix.NLM_F_ACK, index)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extSkipStats)))
	return one(req, fmt.Sprintf("interface %d", index))
}

// linkNamed errors with ENODEV when there is none.
func (w *wire) linkNamed(name string) (info, error) {
	req := w.request(unix.RTM_GETLINK, unix.NLM_F_ACK, 0)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return one(req, name)
}

func one(req *nl.NetlinkRequest, what string) (info, error) {
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err == nil && len(msgs) != 1 {
		err = fmt.Errorf("%d answers", len(msgs))
	}
	if err == nil {
		var i info
		if i, err = decode(msgs[0]); err == nil {
			return i, nil
		}
	}
	return info{}, fmt.Errorf("ask the kernel for %s: %w", what, err)
}

// slaves are the interfaces that a bond has.
func (w *wire) slaves(bond int) (all []info, err error) {
	const tries = 5 // a dump that a change has interrupted is incomplete
	for range tries {
		req := w.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, 0)
		req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bond))))
		req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extSkipStats)))
		var msgs [][]byte
		if msgs, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK); errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		all = nil
		for _, m := range msgs {
			i, e := decode(m)
			if e != nil {
				return nil, e
			}
			if i.master == bond { // a kernel may know no such filter
				all = append(all, i)
			}
		}
		break
	}
	if err != nil {
		return nil, fmt.Errorf("list the ports of interface %d: %w", bond, err)
	}
	return all, nil
}

func decode(msg []byte) (info, error) {
	if len(msg) < unix.SizeofIfInfomsg {
		return info{}, errors.New("the kernel's answer is too short")
	}
	head := nl.DeserializeIfInfomsg(msg)
	i := info{index: int(head.Index), up: head.Flags&unix.IFF_UP != 0, lit: head.Flags&unix.IFF_LOWER_UP != 0}
	as, err := parse(msg[unix.SizeofIfInfomsg:])
	if err != nil {
		return info{}, err
	}
	number := func(b []byte) uint32 {
		if len(b) < 4 {
			return 0
		}
		return nl.NativeEndian().Uint32(b)
	}
	text := func(b []byte) string { return unix.ByteSliceToString(b) }
	i.name, i.alias, i.mac = text(as[unix.IFLA_IFNAME]), text(as[unix.IFLA_IFALIAS]), net.HardwareAddr(as[unix.IFLA_ADDRESS])
	i.mtu, i.master = number(as[unix.IFLA_MTU]), int(number(as[unix.IFLA_MASTER]))
	linkInfo, err := parse(as[unix.IFLA_LINKINFO])
	if err != nil {
		return info{}, err
	}
	i.kind = text(linkInfo[nl.IFLA_INFO_KIND])
	if i.data, err = parse(linkInfo[nl.IFLA_INFO_DATA]); err != nil {
		return info{}, err
	}
	if text(linkInfo[infoSlaveKind]) == kind {
		i.slave, err = parse(linkInfo[infoSlaveData])
	}
	return i, err
}

// own is the MAC that a NIC has by itself, also while it carries the face's.
func (i info) own() net.HardwareAddr {
	if mac := i.slave[slavePermMAC]; len(mac) >= 6 {
		return net.HardwareAddr(mac[:6])
	}
	return i.mac
}

// create makes a bond; that is the step that a kernel without the driver refuses with
// EOPNOTSUPP.
func (w *wire) create(name string, mac net.HardwareAddr, mtu int) error {
	req := w.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, 0)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if len(mac) > 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	}
	if mtu > 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	}
	linkInfo := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	linkInfo.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	req.AddData(linkInfo)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (w *wire) setOption(bond int, attr uint16, value []byte) error {
	req := w.request(unix.RTM_NEWLINK, unix.NLM_F_ACK, bond)
	linkInfo := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	linkInfo.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	linkInfo.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(int(attr), value)
	req.AddData(linkInfo)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (w *wire) set(index int, attr int, value []byte) error {
	req := w.request(unix.RTM_NEWLINK, unix.NLM_F_ACK, index)
	req.AddData(nl.NewRtAttr(attr, value))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (w *wire) setUp(index int, up bool) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	req.Sockets = w.sockets
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	msg.Change = unix.IFF_UP
	if up {
		msg.Flags = unix.IFF_UP
	}
	req.AddData(msg)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (w *wire) remove(index int) error {
	_, err := w.request(unix.RTM_DELLINK, unix.NLM_F_ACK, index).Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// filterMAC lets a NIC take frames to a MAC, or no longer (its unicast filter; `bridge fdb
// add MAC dev NIC self`).
func (w *wire) filterMAC(nic int, mac net.HardwareAddr, take bool) error {
	n := &netlink.Neigh{LinkIndex: nic, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT, HardwareAddr: mac}
	change, done := netlink.NeighDel, error(unix.ENOENT)
	if take {
		change, done = netlink.NeighSet, unix.EEXIST
	}
	if err := change(n); err != nil && !errors.Is(err, done) {
		return err
	}
	return nil
}

// gone says whether a request failed because the interface is no longer there.
func gone(err error) bool { return errors.Is(err, unix.ENODEV) }
