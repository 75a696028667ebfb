// Package nic finds the NICs that a bond is made of, makes them ready to carry a face,
// keeps their address filters right, and puts back what was changed on them.
//
// All of it happens in the network namespace of the calling process.
package nic

import "net"

// Link is a network interface as the kernel describes it (rtnetlink(7), RTM_NEWLINK).
type Link struct {
	Index    int
	Name     string
	AltNames []string
	MAC      net.HardwareAddr // now
	PermMAC  net.HardwareAddr // burnt in; nil where the kernel knows none
	MTU      int
	MaxMTU   int    // 0 when the driver sets no limit
	Master   int    // ifindex of a bridge or bond that it is in; 0 for none
	Parent   int    // ifindex of the link below a VLAN or macvlan (IFLA_LINK, in this namespace); 0 for none
	Kind     string // IFLA_INFO_KIND: veth, macvlan, …; "" for hardware
	Alias    string // IFLA_IFALIAS
	Up       bool   // IFF_UP: an admin's
	Carrier  bool   // IFF_LOWER_UP
	VLAN     int    // of a VLAN link; 0 otherwise
}

// Identity is what the NIC is known by, whatever its slot: its permanent MAC.
func (l Link) Identity() string {
	if len(l.PermMAC) > 0 {
		return l.PermMAC.String()
	}
	return l.MAC.String()
}
