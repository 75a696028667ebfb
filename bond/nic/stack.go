package nic

import "net/netip"

// Children are the interfaces that stand directly on another, such as VLANs and
// macvlans, as far as they are in this namespace.
func Children(index int) ([]Link, error) {
	all, err := links()
	if err != nil {
		return nil, err
	}
	var children []Link
	for _, l := range all {
		if l.Parent == index && l.Index != index {
			children = append(children, l)
		}
	}
	return children, nil
}

// Addresses are an interface's own, IPv4 and IPv6, without those that the kernel made
// by itself for the link.
func Addresses(index int) ([]netip.Prefix, error) {
	all, err := addresses(index)
	if err != nil {
		return nil, err
	}
	var own []netip.Prefix
	for _, a := range all {
		if !a.prefix.Addr().IsLinkLocalUnicast() {
			own = append(own, a.prefix)
		}
	}
	return own, nil
}
