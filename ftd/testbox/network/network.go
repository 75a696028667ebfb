// Package network makes the network of a throw-away box: three named network
// namespaces, as `ip netns` makes them, so that a person can go into each.
//
//	ft-box                    ft-switch                    ft-peer
//	  eth0 ═══════ cable ═══════ port0 ┐
//	                                   ├ br0 ┤ peer ═══════ eth0  192.0.2.1, 2001:db8::1
//	  eth1 ═══════ cable ═══════ port1 ┘
//
// The two NICs in the box carry the face, which is the bond's to make. A cable is a veth
// pair: taking its end in the switch down takes the carrier of its other end away. The
// switch is a dull one: no spanning tree, no delay, nothing of its own on the wire.
//
// Invariants:
//   - A namespace has its name only once it carries the mark of its owner (the alias of
//     its loopback interface). So whatever is found under one of the names says whose it
//     is, also after a crash at any point, and nobody else's is ever touched.
//   - All of it goes with the namespaces: nothing is made outside them.
package network

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names of what is in the namespaces.
const (
	Bridge   = "br0"
	PeerPort = "peer" // of the switch, towards the peer
	PeerNIC  = "eth0"
)

// NICs are the box's, Ports the other ends of their cables, at the switch.
var (
	NICs  = [2]string{"eth0", "eth1"}
	Ports = [2]string{"port0", "port1"}
)

// Addresses on the network (RFC 5737, RFC 3849). The box's belong on the face.
var (
	BoxAddresses  = []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8::10/64")}
	PeerAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}
)

// ErrUnsupported is wrapped by what a kernel without network namespaces, veth or bridges
// answers, or one that does not let this process make them.
var ErrUnsupported = errors.New("this kernel, or this process's rights, do not allow it")

// Names are those of the three namespaces.
type Names struct {
	Box    string `json:"box"`
	Switch string `json:"switch"`
	Peer   string `json:"peer"`
}

// NamesWith are ft-box, ft-switch and ft-peer, with a suffix that tells them from those
// of other boxes.
func NamesWith(suffix string) Names {
	return Names{"ft-box" + suffix, "ft-switch" + suffix, "ft-peer" + suffix}
}

func (n Names) list() []string { return []string{n.Box, n.Switch, n.Peer} }

// Make makes the network. owner is what tells one owner's namespaces from another's: the
// directory of a box. When it fails, what it has made so far is left for Remove.
func Make(n Names, owner string) error {
	for _, name := range n.list() {
		if err := free(name); err != nil {
			return err
		}
	}
	for _, name := range n.list() {
		if err := addNamespace(name, markOf(owner), settings(n, name)); err != nil {
			return fmt.Errorf("make the network namespace %s: %w", name, err)
		}
	}
	box, err := open(n.Box)
	if err != nil {
		return err
	}
	defer box.close()
	sw, err := open(n.Switch)
	if err != nil {
		return err
	}
	defer sw.close()
	peer, err := open(n.Peer)
	if err != nil {
		return err
	}
	defer peer.close()

	bridge, err := sw.addBridge(Bridge)
	if err != nil {
		return fmt.Errorf("make the switch %s in %s: %w", Bridge, n.Switch, err)
	}
	cables := []cable{
		{Ports[0], box, NICs[0]},
		{Ports[1], box, NICs[1]},
		{PeerPort, peer, PeerNIC},
	}
	for _, c := range cables {
		if err := sw.addCable(c, bridge, owner); err != nil {
			return fmt.Errorf("lay the cable from %s in %s to %s in %s: %w", c.port, n.Switch, c.nic, c.to.name, err)
		}
	}
	if err := peer.setAddresses(PeerNIC, PeerAddresses); err != nil {
		return fmt.Errorf("give %s in %s its addresses: %w", PeerNIC, n.Peer, err)
	}
	return nil
}

// settings are files under /proc/sys/net with their values, for a namespace that has no
// interface yet.
func settings(n Names, name string) []string {
	if name == n.Switch {
		return []string{"ipv6/conf/all/disable_ipv6=1"} // it would announce itself on every cable
	}
	return nil
}

// MakeCable lays one of the box's cables again after its NIC was deleted (`ip -n ft-box
// link del eth0`): the same NIC, with the MAC that it had, under another ifindex.
func MakeCable(n Names, owner string, side int) error {
	box, err := open(n.Box)
	if err != nil {
		return err
	}
	defer box.close()
	sw, err := open(n.Switch)
	if err != nil {
		return err
	}
	defer sw.close()
	bridge, err := sw.handle.LinkByName(Bridge)
	if err != nil {
		return fmt.Errorf("find the switch %s in %s: %w", Bridge, n.Switch, err)
	}
	return sw.addCable(cable{Ports[side], box, NICs[side]}, bridge, owner)
}

// cable is a veth pair from a port of the switch to a NIC in another namespace.
type cable struct {
	port string
	to   *namespace
	nic  string
}

// addCable lays a cable and takes it into the switch. The NIC's end is left down for
// the one whose it is.
func (sw *namespace) addCable(c cable, bridge netlink.Link, owner string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = c.port, bridge.Attrs().Index
	attrs.HardwareAddr = macOf(owner, c.to.name+"/"+c.nic+"/"+c.port)
	pair := netlink.NewVeth(attrs) // with what is the kernel's to choose
	pair.PeerName, pair.PeerNamespace = c.nic, netlink.NsFd(c.to.fd)
	pair.PeerHardwareAddr = macOf(owner, c.to.name+"/"+c.nic)
	if err := sw.handle.LinkAdd(pair); err != nil {
		return fmt.Errorf("add a veth pair: %w", unsupported(err))
	}
	port, err := sw.handle.LinkByName(c.port)
	if err != nil {
		return fmt.Errorf("find %s: %w", c.port, err)
	}
	if err := sw.handle.LinkSetUp(port); err != nil {
		return fmt.Errorf("take %s up: %w", c.port, err)
	}
	return nil
}

func (ns *namespace) setAddresses(nic string, addresses []netip.Prefix) error {
	link, err := ns.handle.LinkByName(nic)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // nobody else is here; it answers at once
		}
		if err := ns.handle.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
	}
	return ns.handle.LinkSetUp(link)
}

// macOf is a NIC's address, the same at every start of a box: a NIC is known by it, and
// so is the history of its faults. Locally administered (IEEE 802, bit 1 of the first
// octet), unicast.
func macOf(owner, nic string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(owner + "\x00" + nic))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^0x03 | 0x02
	return mac
}

// unsupported adds ErrUnsupported to what a kernel says that lacks a kind of link
// (EOPNOTSUPP, rtnl_newlink; ENODEV and EAFNOSUPPORT where a module is not there), or that
// has no namespaces (EINVAL, ENOSYS; EPERM in a container; ENOSPC at the limit that
// /proc/sys/user/max_net_namespaces sets).
func unsupported(err error) error {
	for _, e := range []error{unix.EOPNOTSUPP, unix.ENODEV, unix.EAFNOSUPPORT, unix.EINVAL, unix.ENOSYS, unix.EPERM, unix.EACCES, unix.ENOSPC} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
	}
	return err
}
