package backend

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Making and removing macvtaps over netlink.

// macvtapAlias marks what was made here; a successor of a process that was killed may take
// it away.
const macvtapAlias = "ft: NIC of a machine"

// receiveQueue is the length of the kernel's queue of frames that were not read yet.
const receiveQueue = 1024

// attachNew makes a macvtap on the link and opens it.
func (n *Network) attachNew() (*port, error) {
	lower, err := linkNamed(n.cfg.Link)
	if err != nil {
		return nil, err
	}
	if err := n.clearName(lower); err != nil {
		return nil, err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex, a.HardwareAddr, a.Alias = n.cfg.Name, lower.Attrs().Index, n.cfg.MAC, macvtapAlias
	a.TxQLen = receiveQueue
	l := &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE}}
	if err := netlink.LinkAdd(l); err != nil {
		return nil, fmt.Errorf("make the macvtap %s on %s: %w%s", n.cfg.Name, n.cfg.Link, err, whyNotMade(lower, err))
	}
	p, err := n.finish(lower)
	if err != nil {
		if made, e := netlink.LinkByName(n.cfg.Name); e == nil {
			_ = netlink.LinkDel(made)
		}
		return nil, fmt.Errorf("the macvtap %s on %s: %w", n.cfg.Name, n.cfg.Link, err)
	}
	return p, nil
}

// finish opens a macvtap that was made and gets it going.
func (n *Network) finish(lower netlink.Link) (*port, error) {
	l, err := linkNamed(n.cfg.Name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetAlias(l, macvtapAlias); err != nil {
		return nil, fmt.Errorf("mark it: %w", err)
	}
	if err := quiet(n.cfg.Name); err != nil {
		return nil, err
	}
	// Which multicasts the guest wants is not known here (it has no control queue to say so).
	if err := netlink.LinkSetAllmulticastOn(l); err != nil {
		return nil, fmt.Errorf("have it receive all multicasts: %w", err)
	}
	p := &port{name: n.cfg.Name, index: l.Attrs().Index, made: true, mtu: l.Attrs().MTU}
	if err := p.openMacvtap(l.Attrs()); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		p.file.Close()
		if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("the MAC %s is in use on %s already: give the machine another", n.cfg.MAC, lower.Attrs().Name)
		}
		return nil, fmt.Errorf("set it up: %w", err)
	}
	return p, nil
}

// quiet keeps the host from speaking IPv6 of its own on the interface, with the guest's MAC.
func quiet(name string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // without IPv6 there is nothing to say
		return fmt.Errorf("keep the host's IPv6 off it: %w", err)
	}
	return nil
}

// clearName removes a macvtap that a predecessor has left.
func (n *Network) clearName(lower netlink.Link) error {
	l, err := netlink.LinkByName(n.cfg.Name)
	if missing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the interface %s: %w", n.cfg.Name, err)
	}
	a := l.Attrs()
	ours := l.Type() == "macvtap" && (a.Alias == macvtapAlias ||
		a.ParentIndex == lower.Attrs().Index && a.HardwareAddr.String() == n.cfg.MAC.String())
	if !ours {
		return fmt.Errorf("%w: there is an interface %s (%s) that was not made here; rename it, or give the machine another name", ErrInUse, n.cfg.Name, l.Type())
	}
	if err := removeLink(a.Index); err != nil {
		return fmt.Errorf("remove the macvtap %s, left by a predecessor: %w", n.cfg.Name, err)
	}
	return nil
}

// removeLink removes an interface; one that has gone is removed.
func removeLink(index int) error {
	a := netlink.NewLinkAttrs()
	a.Index = index
	err := netlink.LinkDel(&netlink.GenericLink{LinkAttrs: a})
	if missing(err) {
		return nil
	}
	return err
}

// whyNotMade explains what the kernel's word for it does not.
func whyNotMade(lower netlink.Link, err error) string {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return "; this kernel has no macvtap (load or build the module macvtap)"
	case errors.Is(err, unix.EBUSY):
		return fmt.Sprintf("; %s is a port of something else, as a bridge", lower.Attrs().Name)
	case errors.Is(err, unix.EINVAL):
		return fmt.Sprintf("; %s cannot carry one", lower.Attrs().Name)
	}
	return ""
}
