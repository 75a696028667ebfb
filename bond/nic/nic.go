// Package nic finds the NICs that a bond is made of, makes them ready to carry a face,
// keeps their address filters right, and puts back what was changed on them.
//
// All of it happens in the network namespace of the calling process.
//
// find.go and spec.go find NICs; unfit.go says which of them cannot be a port; book.go
// keeps on disk how they were; prepare.go, filters.go and knobs.go change them and change
// them back; face.go looks after the face's own MAC and addresses. rtnetlink.go and
// ethtool.go speak to the kernel.
package nic

import (
	"bytes"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is a network interface as the kernel describes it (rtnetlink(7), RTM_NEWLINK).
type Link struct {
	Index    int
	Name     string
	AltNames []string
	MAC      net.HardwareAddr // now
	PermMAC  net.HardwareAddr // burnt in; nil where the kernel knows none
	MTU      int
	MaxMTU   int    // 0 when the driver sets no limit, or in a Link of FromNetlink
	Master   int    // ifindex of a bridge or bond that it is in; 0 for none
	Parent   int    // ifindex of the link below a VLAN or macvlan (IFLA_LINK, in this namespace); 0 for none
	Kind     string // IFLA_INFO_KIND: veth, macvlan, …; "" for hardware
	Type     string // of its frames: ether, loopback, …
	Alias    string // IFLA_IFALIAS
	PCI      string // address of its PCI function, as 0000:03:00.0, where rtnetlink knows it
	Up       bool   // IFF_UP: an admin's
	Carrier  bool   // IFF_LOWER_UP
	AllMulti bool   // IFF_ALLMULTI and IFF_PROMISC as an admin has set them, whatever
	Promisc  bool   // packet sockets and links above have counted on top
	VLAN     int    // of a VLAN link; 0 otherwise
	Watchers int    // IFLA_PROMISCUITY: how many want all frames, of whatever kind they are
}

// Identity is what the NIC is known by, whatever its slot: its permanent MAC.
func (l Link) Identity() string {
	if len(l.PermMAC) > 0 {
		return l.PermMAC.String()
	}
	return l.MAC.String()
}

// FromNetlink is the Link of a message that package netlink has decoded. That package
// does not know IFLA_MAX_MTU: Find, ByIndex and ByName do.
func FromNetlink(nl netlink.Link) Link {
	a := nl.Attrs()
	l := Link{
		Index:    a.Index,
		Name:     a.Name,
		AltNames: append([]string(nil), a.AltNames...),
		// The library's addresses point into its receive buffer, which would live on
		// for as long as the Link does.
		MAC:      bytes.Clone(a.HardwareAddr),
		PermMAC:  bytes.Clone(a.PermHWAddr),
		MTU:      a.MTU,
		Master:   a.MasterIndex,
		Type:     a.EncapType,
		Alias:    a.Alias,
		Up:       a.RawFlags&unix.IFF_UP != 0,
		Carrier:  a.RawFlags&unix.IFF_LOWER_UP != 0,
		AllMulti: a.RawFlags&unix.IFF_ALLMULTI != 0,
		Promisc:  a.RawFlags&unix.IFF_PROMISC != 0,
		Watchers: a.Promisc,
	}
	if kind := nl.Type(); kind != "device" {
		l.Kind = kind
	}
	// IFLA_LINK of a veth or netkit is its peer, which is beside it and not below; with
	// IFLA_LINK_NETNSID the number means an interface of another namespace.
	if l.Kind != "veth" && l.Kind != "netkit" && a.NetNsID < 0 {
		l.Parent = a.ParentIndex
	}
	if a.ParentDevBus == "pci" {
		l.PCI = a.ParentDev
	}
	if v, ok := nl.(*netlink.Vlan); ok {
		l.VLAN = v.VlanId
	}
	// The kernel's bonding driver gives its ports the bond's MAC and keeps their own.
	if port, ok := a.Slave.(*netlink.BondSlave); ok && len(l.PermMAC) == 0 {
		l.PermMAC = bytes.Clone(port.PermHardwareAddr)
	}
	if len(l.PermMAC) == 0 && l.Kind == "" && l.Type == "ether" {
		l.PermMAC = burntIn(l.Name) // a kernel before 5.6 does not say it by itself
	}
	return l
}
