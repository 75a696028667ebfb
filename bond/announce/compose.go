package announce

import "net/netip"

// framesMax is how many frames an announcement has at most.
const framesMax = 4096

// frameSet is an announcement that is ready to go. It is never changed once it is made.
type frameSet struct {
	frames    [][]byte
	addresses int // announced
	stations  int // MACs on a VLAN or on none
	groups    int // reported
	omitted   int // frames beyond framesMax
}

// compose makes the frames of what look has seen. Their order is that of their worth: first
// one frame of each station, which is all that a switch needs, then the other addresses,
// then the groups. A station without an address says RARP.
func compose(stack []link) *frameSet {
	set := &frameSet{}
	var first, more, reports [][]byte
	seen := map[station]bool{}
	for _, l := range stack {
		for _, a := range l.addresses {
			f := l.announcement(a)
			if f == nil {
				continue
			}
			set.addresses++
			if seen[l.at] {
				more = append(more, f)
				continue
			}
			seen[l.at] = true
			first = append(first, f)
		}
		set.groups += len(l.groups)
		reports = append(reports, l.reports()...)
	}
	for _, at := range silent(stack) {
		if !seen[at] {
			seen[at] = true
			first = append(first, rarp(at))
		}
	}
	set.stations = len(seen)
	set.frames = append(append(first, more...), reports...)
	if n := len(set.frames); n > framesMax {
		set.omitted = n - framesMax
		set.frames = set.frames[:framesMax]
	}
	return set
}

// announcement is the frame of one address, nil when there is none to be made of it.
// Deprecated addresses are announced: connections go on using them (RFC 4862, 5.5.4).
func (l *link) announcement(a address) []byte {
	switch {
	case l.noARP || a.ip.IsUnspecified() || a.ip.IsLoopback() || a.ip.IsMulticast():
		return nil
	case a.ip.Is4():
		return gratuitousARP(l.at, a.ip)
	default:
		return neighbourAdvert(l.at, a.ip, l.router, !a.optimistic)
	}
}

// silent lists the stations behind the face, whether they have addresses or not: those of
// the links, and those whose MACs are in a link's unicast filter, whose addresses somebody
// else knows: a guest's on a macvtap, or a macvlan's in another namespace.
//
// The kernel hands a filter down to the link below (dev_uc_sync), so that the face's list
// also has what is behind its VLANs, where it is told with the tag. So a MAC in a list is
// taken for that of the uppermost link which has it.
func silent(stack []link) []station {
	var out []station
	above := map[int]map[mac]bool{} // what the links on a link have, by its ifindex
	for i := len(stack) - 1; i >= 0; i-- {
		l := &stack[i]
		known := above[l.index]
		if known == nil {
			known = map[mac]bool{}
		}
		delete(above, l.index)
		for _, m := range l.filter {
			if !known[m] {
				known[m] = true
				out = append(out, station{tags: l.at.tags, mac: m})
			}
		}
		known[l.mac] = true
		if l.mac != (mac{}) {
			out = append(out, l.at)
		}
		below := above[l.parent]
		if below == nil {
			above[l.parent] = known
			continue
		}
		for m := range known {
			below[m] = true
		}
	}
	return out
}

// reports say which groups are joined on a link.
func (l *link) reports() [][]byte {
	var out [][]byte
	var igmp, mld []record
	src4, src6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	for _, a := range l.addresses {
		if a.ip.Is4() && src4.IsUnspecified() {
			src4 = a.ip // RFC 3376, 4.2.13
		}
		if a.ip.Is6() && a.ip.IsLinkLocalUnicast() && !a.optimistic && src6.IsUnspecified() {
			src6 = a.ip // RFC 3810, 5.2.13
		}
	}
	for _, g := range l.groups {
		switch {
		case g.addr.Is6():
			if l.mld != mldV1 {
				mld = append(mld, g.records()...)
			}
			if l.mld != mldV2 {
				out = append(out, mldReport(l.at, src6, g.addr))
			}
		case l.igmp == 3:
			igmp = append(igmp, g.records()...)
		case l.igmp == 2:
			out = append(out, igmpReport(l.at, src4, g.addr, igmpReportV2))
		case l.igmp == 1:
			out = append(out, igmpReport(l.at, src4, g.addr, igmpReportV1))
		}
	}
	out = append(out, igmpReportsV3(l.at, src4, igmp, l.mtu)...)
	return append(out, mldReportsV2(l.at, src6, mld, l.mtu)...)
}
