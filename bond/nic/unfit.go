package nic

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// ours is the alias of a face, or of the other end of one that is a veth pair
// (bond/datapath/pair, Mark).
var ours = regexp.MustCompile(`^ft [A-Za-z0-9_-]+ (tcx|tc|bonding)( carrier)?$`)

// Unfit says why a link cannot be a port of the bond with that face, as a *drivers.Refused
// with the way out, or nil when it can. Other errors say that the kernel could not be
// asked. Links in other namespaces that stand on this one cannot be seen.
func Unfit(l Link, face string) error {
	switch {
	case l.Name == face:
		return unfit("%s is the bond's own face: name a NIC for its port", l.Name)
	case l.Type == "loopback":
		return unfit("%s is the loopback interface: name a NIC for the bond's port", l.Name)
	case l.Type != "ether":
		return unfit("%s is no Ethernet interface (its type is %s): name another NIC for the bond's port", l.Name, l.Type)
	case ours.MatchString(l.Alias):
		return unfit("%s is the face of a bond, or stands behind one (%s): name a NIC for the bond's port", l.Name, l.Alias)
	case gathers(l.Kind):
		return unfit("%s is a %s, not a NIC: name a NIC for the bond's port", l.Name, l.Kind)
	}
	if err := inAnother(l, face); err != nil {
		return err
	}
	if err := carriesLinks(l); err != nil {
		return err
	}
	return hasAddresses(l)
}

// inAnother refuses a NIC that is in a bridge, a bond or the like which is not the face.
func inAnother(l Link, face string) error {
	if l.Master == 0 {
		return nil
	}
	master, err := ByIndex(l.Master)
	if err != nil {
		return fmt.Errorf("see what %s is in: %w", l.Name, err)
	}
	if master.Name == face {
		return nil
	}
	return unfit("%s is in the %s %s: take it out (ip link set %s nomaster), or name another NIC", l.Name, kindWord(master.Kind), master.Name, l.Name)
}

// carriesLinks refuses a NIC with VLANs or macvlans of its own: their packets would come
// and go beside the bond.
func carriesLinks(l Link) error {
	children, err := Children(l.Index)
	if err != nil {
		return fmt.Errorf("see what stands on %s: %w", l.Name, err)
	}
	if len(children) == 0 {
		return nil
	}
	child := children[0]
	return unfit("%s has the %s %s on it: remove that (ip link del %s), it can stand on the bond's face", l.Name, kindWord(child.Kind), child.Name, child.Name)
}

// hasAddresses refuses a NIC with addresses of its own. A link-local one that the kernel
// makes for every interface is none.
func hasAddresses(l Link) error {
	all, err := addresses(l.Index)
	if err != nil {
		return fmt.Errorf("see the addresses of %s: %w", l.Name, err)
	}
	var own []string
	advertised := false
	for _, a := range all {
		if !madeByKernel(a, l.MAC) {
			own = append(own, a.prefix.String())
			advertised = advertised || a.proto == protoKernelRA
		}
	}
	if len(own) == 0 {
		return nil
	}
	which, wayOut := "the address "+own[0], fmt.Sprintf("ip addr del %s dev %s", own[0], l.Name)
	if len(own) > 1 {
		which, wayOut = "addresses", fmt.Sprintf("ip addr flush dev %s", l.Name)
		which += " " + strings.Join(own[:min(len(own), 3)], ", ")
		if len(own) > 3 {
			which += fmt.Sprintf(" and %d more", len(own)-3)
		}
	}
	it := "it"
	if len(own) > 1 {
		it = "them"
	}
	if advertised {
		wayOut = fmt.Sprintf("sysctl -w net.ipv6.conf.%s.accept_ra=0, then %s", l.Name, wayOut)
	}
	return unfit("%s has %s of its own: take %s off (%s), the bond's face carries addresses", l.Name, which, it, wayOut)
}

func madeByKernel(a address, mac net.HardwareAddr) bool {
	switch {
	case !a.prefix.Addr().Is6() || !a.prefix.Addr().IsLinkLocalUnicast():
		return false
	case a.proto == protoKernelLL, a.flags&unix.IFA_F_STABLE_PRIVACY != 0:
		return true
	}
	// Before Linux 5.18 only its form tells.
	return a.prefix.Addr() == linkLocal(mac)
}

// linkLocal is the address that the kernel makes of a MAC (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	if len(mac) != macLen {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

func kindWord(kind string) string {
	switch kind {
	case "":
		return "interface"
	case "vlan":
		return "VLAN"
	}
	return kind
}
