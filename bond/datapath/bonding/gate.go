package bonding

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
	"ft/drivers"
)

// A gate is what we put onto a NIC so that the kernel's bonding driver, which takes any
// port whose carrier is good, keeps to the invariants of a path: filters at the NIC's
// clsact hooks, which the driver's frames pass like any others.
//
//	         a frame comes in                        a frame goes out
//	always   from the face's MAC: drop (reflected)
//	closed   to the NIC's own MAC: pass (probes)     from the NIC's own MAC: pass
//	closed   drop                                    drop
//	silent   drop                                    drop
//
// The state of a gate is in the kernel, and so is the side that the NIC carries: its rules
// have priorities of their own. A successor reads both (gateOf).
type gate uint8

const (
	gateNone   gate = iota // nothing of ours is on the NIC
	gateOpen               // the port may be the active one
	gateClosed             // the kernel may turn to it, and gets nothing through
	gateSilent             // neither do probes: an injected fault
)

func (g gate) String() string {
	return [...]string{"none", "open", "closed", "silent"}[g]
}

// Priorities of our filters, before those that tc gives by itself (from 49152 downwards).
// A priority at a hook is one of our rules as a whole; side 1 has those from prioSide on.
const (
	prioReflected = 26228 + iota
	prioProbes
	prioAll
	prioSide
)

// place is a NIC and what it carries.
type place struct {
	nic       int // ifindex
	side      drivers.Side
	own, face net.HardwareAddr
}

func (pl place) prio(r rule) uint16 {
	return r.prio + uint16(pl.side)*(prioSide-prioReflected)
}

type hook uint32

const (
	hookIn  hook = netlink.HANDLE_MIN_INGRESS
	hookOut hook = netlink.HANDLE_MIN_EGRESS
)

// Offsets of the MACs in a frame, from the network header, as u32 counts.
const (
	offDestination = -14
	offSource      = -8
)

// rule is a filter of ours; rules are put in place from the first to the last and taken
// away from the last to the first, so that probes are let through before all is dropped.
type rule struct {
	at   hook
	prio uint16
	in   [4]bool // gate → the rule is in place
	make func(own, face net.HardwareAddr) (keys []netlink.TcU32Key, verdict netlink.TcAct)
}

var rules = []rule{
	{hookIn, prioReflected, [4]bool{gateOpen: true, gateClosed: true, gateSilent: true}, func(_, face net.HardwareAddr) ([]netlink.TcU32Key, netlink.TcAct) {
		return matchMAC(offSource, face), netlink.TC_ACT_SHOT
	}},
	{hookIn, prioProbes, [4]bool{gateClosed: true}, func(own, _ net.HardwareAddr) ([]netlink.TcU32Key, netlink.TcAct) {
		return matchMAC(offDestination, own), netlink.TC_ACT_OK
	}},
	{hookOut, prioProbes, [4]bool{gateClosed: true}, func(own, _ net.HardwareAddr) ([]netlink.TcU32Key, netlink.TcAct) {
		return matchMAC(offSource, own), netlink.TC_ACT_OK
	}},
	{hookIn, prioAll, [4]bool{gateClosed: true, gateSilent: true}, dropAll},
	{hookOut, prioAll, [4]bool{gateClosed: true, gateSilent: true}, dropAll},
}

func dropAll(_, _ net.HardwareAddr) ([]netlink.TcU32Key, netlink.TcAct) {
	return []netlink.TcU32Key{{}}, netlink.TC_ACT_SHOT // a mask of 0 matches any frame
}

func matchMAC(off int32, mac net.HardwareAddr) []netlink.TcU32Key {
	return []netlink.TcU32Key{
		{Mask: 0xffffffff, Val: binary.BigEndian.Uint32(mac[:4]), Off: off},
		{Mask: 0x0000ffff, Val: uint32(binary.BigEndian.Uint16(mac[4:])), Off: off + 2},
	}
}

func (pl place) attrs(r rule) netlink.FilterAttrs {
	return netlink.FilterAttrs{LinkIndex: pl.nic, Parent: uint32(r.at), Priority: pl.prio(r), Protocol: unix.ETH_P_ALL}
}

// turn turns a gate from one state into another.
func (pl place) turn(from, to gate) error {
	if from == gateNone && to != gateNone {
		if err := addClsact(pl.nic); err != nil {
			return err
		}
	}
	for _, r := range rules {
		if r.in[to] && !r.in[from] {
			if err := pl.add(r); err != nil {
				return err
			}
		}
	}
	for i := range rules {
		if r := rules[len(rules)-1-i]; r.in[from] && !r.in[to] {
			if err := pl.remove(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (pl place) add(r rule) error {
	keys, verdict := r.make(pl.own, pl.face)
	action := &netlink.GenericAction{ActionAttrs: netlink.ActionAttrs{Action: verdict}}
	err := netlink.FilterAdd(&netlink.U32{
		FilterAttrs: pl.attrs(r),
		Sel:         &netlink.TcU32Sel{Flags: nl.TC_U32_TERMINAL, Nkeys: uint8(len(keys)), Keys: keys},
		Actions:     []netlink.Action{action},
	})
	if err != nil {
		return fmt.Errorf("put filter %d onto interface %d (modules cls_u32, act_gact): %w", pl.prio(r), pl.nic, err)
	}
	return nil
}

func (pl place) remove(r rule) error {
	// Without a handle it is all of that priority.
	err := netlink.FilterDel(&netlink.U32{FilterAttrs: pl.attrs(r)})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !gone(err) { // EINVAL: no clsact
		return fmt.Errorf("take filter %d off interface %d: %w", pl.prio(r), pl.nic, err)
	}
	return nil
}

// renew makes a rule anew whose MAC is no longer the face's. Until the new filter is there
// the old one stays.
func (pl place) renew(r rule) error {
	list, err := netlink.FilterList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: pl.nic}}, uint32(r.at))
	if err != nil {
		return fmt.Errorf("list the filters of interface %d: %w", pl.nic, err)
	}
	keys, _ := r.make(pl.own, pl.face)
	var old []netlink.Filter
	for _, f := range list {
		u, ok := f.(*netlink.U32)
		if !ok || u.Priority != pl.prio(r) || u.Handle&0xfff == 0 { // u32's table itself
			continue
		}
		if u.Sel != nil && slices.Equal(u.Sel.Keys, keys) {
			return nil
		}
		old = append(old, f)
	}
	if err := pl.add(r); err != nil {
		return err
	}
	for _, f := range old {
		if err := netlink.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) && !gone(err) {
			return fmt.Errorf("take the old filter %d off interface %d: %w", pl.prio(r), pl.nic, err)
		}
	}
	return nil
}

// dropGate takes all that is ours off a NIC, whatever of it is there.
func dropGate(nic int) error {
	var errs []error
	for side := drivers.Side(0); side <= 1; side++ {
		for i := range rules {
			errs = append(errs, place{nic: nic, side: side}.remove(rules[len(rules)-1-i]))
		}
	}
	return errors.Join(append(errs, removeClsact(nic))...)
}

func clsact(nic int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: nic, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

func addClsact(nic int) error {
	if err := netlink.QdiscAdd(clsact(nic)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("put clsact onto interface %d (module sch_ingress): %w", nic, err)
	}
	return nil
}

// removeClsact takes the hooks away when nobody's filter is left at them.
func removeClsact(nic int) error {
	for _, at := range []hook{hookIn, hookOut} {
		left, err := filters(nic, at)
		if err != nil || len(left) > 0 {
			return err
		}
	}
	err := netlink.QdiscDel(clsact(nic))
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) && !gone(err) {
		return fmt.Errorf("take clsact off interface %d: %w", nic, err)
	}
	return nil
}

// filters lists priorities; a NIC without clsact has none.
func filters(nic int, at hook) (prios map[uint16]bool, err error) {
	list, err := netlink.FilterList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: nic}}, uint32(at))
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) && !gone(err) {
		return nil, fmt.Errorf("list the filters of interface %d: %w", nic, err)
	}
	prios = map[uint16]bool{}
	for _, f := range list {
		prios[f.Attrs().Priority] = true
	}
	return prios, nil
}

// gateOf reads the gate of a NIC and its side, datapath.None when there is no gate of
// ours. A gate that somebody has changed, or whose change a death has cut short, is
// brought to the state that it is nearest to, rather closed than open.
func gateOf(nic int, own, face net.HardwareAddr) (drivers.Side, gate, error) {
	found := map[hook]map[uint16]bool{}
	for _, at := range []hook{hookIn, hookOut} {
		var err error
		if found[at], err = filters(nic, at); err != nil {
			return datapath.None, gateNone, err
		}
	}
	for side := drivers.Side(0); side <= 1; side++ {
		pl := place{nic, side, own, face}
		has := func(at hook, prio uint16) bool { return found[at][pl.prio(rule{prio: prio})] }
		var g gate
		switch {
		case !has(hookIn, prioReflected):
			continue
		case !has(hookIn, prioAll) && !has(hookOut, prioAll):
			g = gateOpen
		case !has(hookIn, prioProbes) && !has(hookOut, prioProbes):
			g = gateSilent
		default:
			g = gateClosed
		}
		for _, r := range rules {
			var err error
			have := has(r.at, r.prio)
			if have && r.prio == prioReflected {
				err = pl.renew(r)
			} else if r.in[g] && !have {
				err = pl.add(r)
			} else if have && !r.in[g] {
				err = pl.remove(r)
			}
			if err != nil {
				return datapath.None, gateNone, err
			}
		}
		return side, g, nil
	}
	return datapath.None, gateNone, nil
}
