package bonding

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
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
// The state of a gate is in the kernel: a successor reads it (gateOf).
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
// A priority at a hook is one of our rules as a whole.
const (
	prioReflected = 26228 + iota
	prioProbes
	prioAll
)

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
	make func(nic, face net.HardwareAddr) (keys []netlink.TcU32Key, action netlink.TcAct)
}

var rules = []rule{
	{hookIn, prioReflected, [4]bool{gateOpen: true, gateClosed: true, gateSilent: true}, func(_, face net.HardwareAddr) ([]netlink.TcU32Key, netlink.TcAct) {
		return matchMAC(offSource, face), netlink.TC_ACT_SHOT
	}},
	{hookIn, prioProbes, [4]bool{gateClosed: true}, func(nic, _ net.HardwareAddr) ([]netlink.TcU32Key, netlink.TcAct) {
		return matchMAC(offDestination, nic), netlink.TC_ACT_OK
	}},
	{hookOut, prioProbes, [4]bool{gateClosed: true}, func(nic, _ net.HardwareAddr) ([]netlink.TcU32Key, netlink.TcAct) {
		return matchMAC(offSource, nic), netlink.TC_ACT_OK
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

func (r rule) attrs(nic int) netlink.FilterAttrs {
	return netlink.FilterAttrs{LinkIndex: nic, Parent: uint32(r.at), Priority: r.prio, Protocol: unix.ETH_P_ALL}
}

// setGate turns a gate from one state into another. own and face are the MACs.
func setGate(nic int, from, to gate, own, face net.HardwareAddr) error {
	if from == gateNone && to != gateNone {
		if err := addClsact(nic); err != nil {
			return err
		}
	}
	for _, r := range rules {
		if r.in[to] && !r.in[from] {
			if err := r.add(nic, own, face); err != nil {
				return err
			}
		}
	}
	for i := range rules {
		if r := rules[len(rules)-1-i]; r.in[from] && !r.in[to] {
			if err := r.remove(nic); err != nil {
				return err
			}
		}
	}
	if to == gateNone {
		return removeClsact(nic)
	}
	return nil
}

func (r rule) add(nic int, own, face net.HardwareAddr) error {
	keys, verdict := r.make(own, face)
	action := &netlink.GenericAction{ActionAttrs: netlink.ActionAttrs{Action: verdict}}
	err := netlink.FilterAdd(&netlink.U32{
		FilterAttrs: r.attrs(nic),
		Sel:         &netlink.TcU32Sel{Flags: nl.TC_U32_TERMINAL, Nkeys: uint8(len(keys)), Keys: keys},
		Actions:     []netlink.Action{action},
	})
	if err != nil {
		return fmt.Errorf("put filter %d onto interface %d (modules cls_u32, act_gact): %w", r.prio, nic, err)
	}
	return nil
}

func (r rule) remove(nic int) error {
	// Without a handle it is all of that priority.
	err := netlink.FilterDel(&netlink.U32{FilterAttrs: r.attrs(nic)})
	if err != nil && !errors.Is(err, unix.ENOENT) && !gone(err) {
		return fmt.Errorf("take filter %d off interface %d: %w", r.prio, nic, err)
	}
	return nil
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
	if err := netlink.QdiscDel(clsact(nic)); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !gone(err) {
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

// gateOf reads a gate. One that somebody has changed, or whose change was cut short by a
// death, is brought back to the state that it is nearest to on the safe side.
func gateOf(nic int, own, face net.HardwareAddr) (gate, error) {
	found := map[hook]map[uint16]bool{}
	for _, at := range []hook{hookIn, hookOut} {
		var err error
		if found[at], err = filters(nic, at); err != nil {
			return gateNone, err
		}
	}
	g := gateNone
	switch in, out := found[hookIn], found[hookOut]; {
	case in[prioAll] && out[prioAll] && !in[prioProbes] && !out[prioProbes]:
		g = gateSilent
	case in[prioAll] || out[prioAll]:
		g = gateClosed
	case in[prioReflected]:
		g = gateOpen
	}
	for _, r := range rules {
		if have := found[r.at][r.prio]; g != gateNone && r.in[g] && !have {
			if err := r.add(nic, own, face); err != nil {
				return gateNone, err
			}
		} else if have && !r.in[g] {
			if err := r.remove(nic); err != nil {
				return gateNone, err
			}
		}
	}
	return g, nil
}
