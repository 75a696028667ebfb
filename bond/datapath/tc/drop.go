package tc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ft/bond/datapath"
)

// Dropping a packet takes an action that u32 does not have itself. The usual one is gact;
// a kernel without it (CONFIG_NET_ACT_GACT) may have classifiers in classic BPF
// (CONFIG_NET_CLS_BPF), whose answer can be the verdict. That is the packet filter of
// tcpdump: it takes neither the bpf system call nor its rights.

// dropper is one of these two.
type dropper uint8

const (
	byGact dropper = iota
	byClassicBPF
)

func (d dropper) String() string { return [...]string{"gact", "classic BPF"}[d] }

// drop puts a filter of a priority of its own on a hook, which drops what comes from a MAC
// address, or, with nil, everything.
func (k kernel) drop(d dropper, index int, h hook, priority uint16, from net.HardwareAddr) error {
	var err error
	switch d {
	case byGact:
		var keys []netlink.TcU32Key
		if from != nil {
			keys = macKeys(from, offSource)
		}
		f := u32(index, h, priority, 0, keys)
		f.Actions = []netlink.Action{&netlink.GenericAction{ActionAttrs: netlink.ActionAttrs{Action: netlink.TC_ACT_SHOT}}}
		err = k.FilterAdd(f)
	case byClassicBPF:
		err = addClassicBPF(index, h, priority, dropProgram(from))
	}
	if err != nil {
		return fmt.Errorf("add a filter that drops (%s) at %s of interface %d: %w", d, h, index, err)
	}
	return nil
}

// dropFrom makes the filter that drop has put onto a hook at a priority one for a MAC
// address that may be another now. One that is for it already stays; until the new one is
// there the old one does. A program in classic BPF is always made anew: package netlink
// does not tell it.
func (k kernel) dropFrom(d dropper, index int, h hook, priority uint16, from net.HardwareAddr) error {
	list, err := k.filters(index, h)
	if err != nil {
		return err
	}
	var before []netlink.Filter
	for _, f := range list {
		u, isU32 := f.(*netlink.U32)
		switch {
		case f.Attrs().Priority != priority, isU32 && u.Handle&0xfff == 0: // u32's table itself
		case isU32 && bytes.Equal(macOf(u), from):
			return nil
		default:
			before = append(before, f)
		}
	}
	if err := k.drop(d, index, h, priority, from); err != nil {
		return err
	}
	for _, f := range before {
		if err := gone(k.FilterDel(f)); err != nil {
			return fmt.Errorf("remove the filter %x of priority %d at %s of interface %d: %w", f.Attrs().Handle, priority, h, index, err)
		}
	}
	return nil
}

// dropProgram answers with a verdict of linux/pkt_cls.h. Offsets count from the frame's beginning.
func dropProgram(from net.HardwareAddr) []unix.SockFilter {
	const (
		load4 = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		load2 = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
	)
	shot := unix.SockFilter{Code: ret, K: uint32(netlink.TC_ACT_SHOT)}
	if from == nil {
		return []unix.SockFilter{shot}
	}
	return []unix.SockFilter{
		{Code: load4, K: 6},
		{Code: equal, K: binary.BigEndian.Uint32(from[:4]), Jf: 3},
		{Code: load2, K: 10},
		{Code: equal, K: uint32(binary.BigEndian.Uint16(from[4:])), Jf: 1},
		shot,
		{Code: ret, K: 0xffffffff}, // TC_ACT_UNSPEC: the next filter
	}
}

// addClassicBPF is net/sched/cls_bpf.c's TCA_BPF_OPS, which package netlink does not have.
func addClassicBPF(index int, h hook, priority uint16, program []unix.SockFilter) error {
	req := request(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index, h, priority)
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("bpf")))
	var ops []byte
	for _, f := range program { // struct sock_filter, linux/filter.h
		ops = binary.NativeEndian.AppendUint16(ops, f.Code)
		ops = append(ops, f.Jt, f.Jf)
		ops = binary.NativeEndian.AppendUint32(ops, f.K)
	}
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_BPF_OPS_LEN, nl.Uint16Attr(uint16(len(program))))
	options.AddRtAttr(nl.TCA_BPF_OPS, ops)
	options.AddRtAttr(nl.TCA_BPF_FLAGS, nl.Uint32Attr(nl.TCA_BPF_FLAG_ACT_DIRECT))
	req.AddData(options)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// tryDroppers finds one that works, and leaves its filter on the hook.
func (k kernel) tryDroppers(index int, h hook, priority uint16) (dropper, error) {
	var tried error
	for _, d := range []dropper{byGact, byClassicBPF} {
		err := k.drop(d, index, h, priority, nil)
		if err == nil {
			return d, nil
		}
		tried = errors.Join(tried, err)
	}
	return 0, fmt.Errorf("%w: %w: it takes u32 with gact (CONFIG_NET_CLS_U32, CONFIG_NET_ACT_GACT), or CONFIG_NET_CLS_BPF", datapath.ErrUnsupported, tried)
}

// dropperOf says how the drop filter of a priority on a hook was made.
func (k kernel) dropperOf(index int, h hook, priority uint16) (d dropper, found bool, err error) {
	list, err := k.filters(index, h)
	if err != nil {
		return 0, false, err
	}
	for _, f := range list {
		if f.Attrs().Priority != priority {
			continue
		}
		if f.Type() == "bpf" {
			return byClassicBPF, true, nil
		}
		return byGact, true, nil
	}
	return 0, false, nil
}
