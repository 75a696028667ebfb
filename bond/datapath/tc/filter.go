package tc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// This file speaks with the kernel: classifiers on clsact hooks, over rtnetlink. It knows
// what a filter is, and nothing of sides or of which port is active.

// A hook is where the filters of an interface are: clsact's two (linux/pkt_sched.h,
// TC_H_CLSACT and TC_H_MIN_INGRESS, TC_H_MIN_EGRESS).
type hook uint32

const (
	ingress hook = netlink.HANDLE_MIN_INGRESS
	egress  hook = netlink.HANDLE_MIN_EGRESS
)

func (h hook) String() string {
	if h == ingress {
		return "ingress"
	}
	return "egress"
}

// kernel is a netlink socket of the network namespace that it was opened in.
type kernel struct{ *netlink.Handle }

// dumpTries bounds how often a dump that was interrupted by a change is begun again.
const dumpTries = 10

func device(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func clsact(index int) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

// addClsact gives an interface its hooks. Those that are there already, ours or another's, serve.
func (k kernel) addClsact(index int) error {
	err := k.QdiscAdd(clsact(index))
	if !errors.Is(err, unix.EEXIST) {
		if err != nil {
			return fmt.Errorf("add the clsact qdisc: %w", err)
		}
		return nil
	}
	kind, err := k.hookQdisc(index)
	if err == nil && kind != "clsact" {
		err = fmt.Errorf("there is a qdisc of the kind %s where clsact belongs: remove it (tc qdisc del dev … ingress)", kind)
	}
	return err
}

// hookQdisc is the kind of the qdisc that has the place of clsact; "" when there is none.
func (k kernel) hookQdisc(index int) (kind string, err error) {
	err = k.hookQdiscs(device(index), func(q netlink.Qdisc) { kind = q.Type() })
	return kind, err
}

// clsactLinks are the interfaces that have clsact's hooks.
func (k kernel) clsactLinks() (indexes []int, err error) {
	err = k.hookQdiscs(nil, func(q netlink.Qdisc) {
		if q.Type() == "clsact" {
			indexes = append(indexes, q.Attrs().LinkIndex)
		}
	})
	return indexes, err
}

// hookQdiscs lists the qdiscs in the place of clsact, of one interface or, with nil, of
// all.
func (k kernel) hookQdiscs(of netlink.Link, each func(netlink.Qdisc)) error {
	for range dumpTries {
		qdiscs, err := k.QdiscList(of)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list the qdiscs: %w", err)
		}
		for _, q := range qdiscs {
			if q.Attrs().Parent == netlink.HANDLE_CLSACT {
				each(q)
			}
		}
		return nil
	}
	return fmt.Errorf("list the qdiscs: interrupted %d times by changes", dumpTries)
}

// dropClsact takes the hooks away, when nobody's filters are on them any more.
func (k kernel) dropClsact(index int) error {
	if kind, err := k.hookQdisc(index); err != nil || kind != "clsact" {
		return err
	}
	for _, h := range []hook{ingress, egress} {
		left, err := k.filters(index, h)
		if err != nil || len(left) > 0 {
			return gone(err)
		}
	}
	if err := gone(k.QdiscDel(clsact(index))); err != nil {
		return fmt.Errorf("remove the clsact qdisc: %w", err)
	}
	return nil
}

// gone forgives that something is not there any more: the filter, the qdisc, the interface.
func gone(err error) error {
	for _, none := range []error{unix.ENOENT, unix.EINVAL, unix.ENODEV} {
		if errors.Is(err, none) {
			return nil
		}
	}
	return err
}

// filters lists what is on a hook, in the order in which packets meet it.
func (k kernel) filters(index int, h hook) ([]netlink.Filter, error) {
	for range dumpTries {
		list, err := k.FilterList(device(index), uint32(h))
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list the filters at %s of interface %d: %w", h, index, err)
		}
		return list, nil
	}
	return nil, fmt.Errorf("list the filters at %s of interface %d: interrupted %d times by changes", h, index, dumpTries)
}

// A node is a filter of the kind u32. Those of one priority on one hook are met in the order of their numbers.
type node struct {
	index  int
	hook   hook
	number uint32 // 1 to 0xfff (linux/pkt_cls.h, TC_U32_NODE)
	class  uint32 // a mark without a meaning to the kernel (TCA_U32_CLASSID)
	keys   []netlink.TcU32Key
	to     int // the interface out of which what matches is sent; 0 lets it pass
}

// table is the handle of the hash table of one priority's nodes, which the kernel chooses.
type table uint32

func (t table) handle(number uint32) uint32 { return uint32(t)&0xfffff000 | number }

func u32(index int, h hook, priority uint16, handle uint32, keys []netlink.TcU32Key) *netlink.U32 {
	return &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: uint32(h), Priority: priority, Protocol: unix.ETH_P_ALL, Handle: handle},
		Sel:         &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL, Keys: slices.Clip(keys)},
	}
}

func (n node) filter(handle uint32) *netlink.U32 {
	f := u32(n.index, n.hook, prioWays, handle, n.keys)
	f.ClassId = n.class
	if n.to != 0 {
		f.Actions = []netlink.Action{netlink.NewMirredAction(n.to)}
	}
	return f
}

// add puts a node in. It is an error that it is there.
func (k kernel) add(n node) error {
	if err := k.FilterAdd(n.filter(n.number)); err != nil {
		return fmt.Errorf("add filter %d at %s of interface %d: %w", n.number, n.hook, n.index, err)
	}
	return nil
}

// replace exchanges a node's class and action for others in one step: a packet sees the
// old ones or the new.
func (k kernel) replace(t table, n node) error {
	if err := k.FilterReplace(n.filter(t.handle(n.number))); err != nil {
		return fmt.Errorf("replace filter %d at %s of interface %d: %w", n.number, n.hook, n.index, err)
	}
	return nil
}

// remove takes a node out. One that is not there is no error.
func (k kernel) remove(t table, n node) error {
	if err := gone(k.FilterDel(u32(n.index, n.hook, prioWays, t.handle(n.number), nil))); err != nil {
		return fmt.Errorf("remove filter %d at %s of interface %d: %w", n.number, n.hook, n.index, err)
	}
	return nil
}

// removePriority takes all filters of one priority away. None is no error.
func (k kernel) removePriority(index int, h hook, priority uint16) error {
	req := request(unix.RTM_DELTFILTER, 0, index, h, priority)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err = gone(err); err != nil {
		return fmt.Errorf("remove the filters of priority %d at %s of interface %d: %w", priority, h, index, err)
	}
	return nil
}

// request is for what package netlink has no words for. Package nl opens a socket for
// it: it is for the rare changes.
func request(kind, flags, index int, h hook, priority uint16) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, unix.NLM_F_ACK|flags)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(index), Parent: uint32(h),
		Info: netlink.MakeHandle(priority, nl.Swap16(unix.ETH_P_ALL))})
	return req
}

// nodes are the nodes on a hook by number, and the table that they are in.
func (k kernel) nodes(index int, h hook) (map[uint32]*netlink.U32, table, error) {
	list, err := k.filters(index, h)
	if err != nil {
		return nil, 0, err
	}
	found := map[uint32]*netlink.U32{}
	var t table
	for _, f := range list {
		if u, ok := f.(*netlink.U32); ok && u.Priority == prioWays {
			t = table(u.Handle & 0xfffff000)
			found[u.Handle&0xfff] = u
		}
	}
	return found, t, nil
}

// target is where a node sends to; 0 when it does not, or that interface is gone.
func target(u *netlink.U32) int {
	for _, a := range u.Actions {
		if m, ok := a.(*netlink.MirredAction); ok {
			return m.Ifindex
		}
	}
	return 0
}

// Offsets of an Ethernet frame's addresses from the network header, from which u32 counts
// on both hooks. A VLAN tag is out of the way there: the kernel has moved it, or the
// addresses, before (skb_vlan_untag).
const (
	offDestination = -14
	offSource      = -8
)

// macKeys match a MAC address at an offset.
func macKeys(mac net.HardwareAddr, off int32) []netlink.TcU32Key {
	return []netlink.TcU32Key{
		{Off: off, Mask: 0xffffffff, Val: binary.BigEndian.Uint32(mac[:4])},
		{Off: off + 4, Mask: 0xffff0000, Val: uint32(binary.BigEndian.Uint16(mac[4:])) << 16},
	}
}

// unicastKeys match frames to one station: the group bit is clear (IEEE 802.3, 3.2.3).
func unicastKeys() []netlink.TcU32Key {
	return []netlink.TcU32Key{{Off: offDestination, Mask: 0x01000000}}
}

// macOf is the inverse of macKeys.
func macOf(u *netlink.U32) net.HardwareAddr {
	if u.Sel == nil || len(u.Sel.Keys) != 2 {
		return nil
	}
	mac := binary.BigEndian.AppendUint32(nil, u.Sel.Keys[0].Val)
	return binary.BigEndian.AppendUint16(mac, uint16(u.Sel.Keys[1].Val>>16))
}
