package main

import (
	"net"
	"os"

	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
)

// The plain veth is a third NIC in the box, on the same switch, with addresses on itself.
const (
	plainNIC  = "eth9"
	plainPort = "port9"
)

// ends are an address in the box, and the peer's in the same network.
type ends struct{ box, peer string }

var (
	faceAddresses  = ends{bondtest.BoxIP4, bondtest.PeerIP4}
	plainAddresses = ends{"198.51.100.10", "198.51.100.1"} // RFC 5737
)

// of are the sender's and the receiver's places and addresses.
func (e ends) of(way bondtest.Direction) (from, to bondtest.Place, fromIP, toIP string) {
	if way == bondtest.FromPeer {
		return bondtest.Peer, bondtest.Box, e.peer, e.box
	}
	return bondtest.Box, bondtest.Peer, e.box, e.peer
}

// plainVeth makes it, once.
func (b *bench) plainVeth() {
	if _, err := netlink.LinkByName(plainNIC); err == nil {
		return
	}
	b.net.InSwitch(func() {
		la := netlink.NewLinkAttrs()
		la.Name = plainPort
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: plainNIC, PeerNamespace: netlink.NsPid(os.Getpid())})
		if err != nil {
			b.p.Errorf("make a plain veth: %v", err)
			return
		}
		port, err := netlink.LinkByName(plainPort)
		bridge, err2 := netlink.LinkByName(bondtest.Bridge)
		if err == nil && err2 == nil {
			if err = netlink.LinkSetMaster(port, bridge); err == nil {
				err = netlink.LinkSetUp(port)
			}
		}
		if err != nil || err2 != nil {
			b.p.Errorf("put a plain veth into the switch: %v %v", err, err2)
		}
	})
	address := func(nic, ip string) {
		l, err := netlink.LinkByName(nic)
		if err == nil {
			err = netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip).To4(), Mask: net.CIDRMask(24, 32)}})
		}
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err == nil {
			// Else a host says of all its addresses that they are at each of its NICs, and
			// the peer would reach the plain veth's through the face.
			err = os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0)
		}
		if err != nil {
			b.p.Errorf("give %s to %s: %v", ip, nic, err)
		}
	}
	address(plainNIC, plainAddresses.box)
	b.net.InPeer(func() { address(bondtest.PeerNIC, plainAddresses.peer) })
	b.p.Cleanup(func() {
		if l, err := netlink.LinkByName(plainNIC); err == nil {
			if err := netlink.LinkDel(l); err != nil {
				b.p.Errorf("remove the plain veth: %v", err)
			}
		}
	})
}

// attrs are an interface's of the box.
func attrs(p *program, name string) *netlink.LinkAttrs {
	l, err := netlink.LinkByName(name)
	p.must(err, "find %s", name)
	return l.Attrs()
}
