package announce

import (
	"fmt"
	"net/netip"
	"slices"
)

// What there is to announce: the face and the links stacked on it, each with its station,
// its addresses, its unicast filter and its groups. look reads it from the kernel (which a
// test may stand in for), compose makes frames of it.

// Limits of what is looked at. Deeper stacks than stackMax the kernel does not make
// (linux/netdevice.h MAX_NEST_DEV).
const (
	stackMax = 8
	linksMax = 4096
)

// kernel is what look asks. Maps are by ifindex.
type kernel interface {
	links() ([]ifLink, error)
	addresses() (map[int][]address, error)
	filters() (map[int][]mac, error) // unicast filter lists (dev->uc)
	// proc reads a file below /proc, at most procMax bytes of it; nil when it is not there.
	proc(path string) ([]byte, error)
}

// ifLink is one interface of the namespace.
type ifLink struct {
	index    int
	parent   int // ifindex of the link below, 0 for none in this namespace
	kind     string
	name     string
	mac      mac
	mtu      int
	up       bool   // IFF_UP
	noARP    bool   // IFF_NOARP
	vlan     uint16 // of a VLAN
	protocol uint16 // of its tags
}

// address is one that may be announced: it is not tentative.
type address struct {
	ip         netip.Addr
	optimistic bool
}

// link is an interface of the stack.
type link struct {
	ifLink
	at        station
	depth     int
	addresses []address
	filter    []mac
	router    bool
	igmp      int // version of its reports, 0 for none
	mld       mldVersion
	groups    []group // IPv4 and IPv6
}

// mldVersion is which reports of MLD are made.
type mldVersion uint8

const (
	mldV2   mldVersion = iota
	mldV1              // forced by sysctl
	mldBoth            // a querier of version 1 has been here, and may still be
)

// look reads what there is to announce: the face first, then what is stacked on it, lower
// links before upper ones. Links that are down are left out with all that is on them.
func look(k kernel, face int) ([]link, error) {
	all, err := k.links()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	stack := stacked(all, face)
	if len(stack) == 0 {
		return nil, nil
	}
	addresses, err := k.addresses()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	filters, err := k.filters()
	if err != nil {
		return nil, fmt.Errorf("list address filters: %w", err)
	}
	groups, err := memberships(k)
	if err != nil {
		return nil, err
	}
	for i := range stack {
		l := &stack[i]
		l.addresses = addresses[l.index]
		l.filter = filters[l.index]
		if err := groups.join(k, l); err != nil {
			return nil, err
		}
		if err := l.readRouter(k); err != nil {
			return nil, err
		}
	}
	return stack, nil
}

// stacked finds the face and the links on it whose frames leave by it as they are or with
// a tag. All else that names a link below (a veth its peer, a tunnel its carrier) is not of
// these kinds.
func stacked(all []ifLink, face int) []link {
	on := map[int][]ifLink{} // by the link below
	var out []link
	for _, l := range all {
		switch {
		case !l.up:
		case l.index == face:
			out = []link{{ifLink: l, at: station{mac: l.mac}}}
		case l.kind == "vlan" || l.kind == "macvlan" || l.kind == "macvtap" || l.kind == "ipvlan" || l.kind == "ipvtap":
			on[l.parent] = append(on[l.parent], l)
		}
	}
	for i := 0; i < len(out); i++ {
		below := out[i]
		if below.depth == stackMax {
			continue
		}
		for _, l := range on[below.index] {
			if len(out) == linksMax {
				return out
			}
			at := station{tags: below.at.tags, mac: l.mac}
			if l.kind == "vlan" {
				at.tags += tag(l.protocol, l.vlan)
			}
			out = append(out, link{ifLink: l, at: at, depth: below.depth + 1})
		}
	}
	return out
}

func (l *link) readRouter(k kernel) error {
	for _, a := range l.addresses {
		if a.ip.Is6() {
			text, err := k.proc("sys/net/ipv6/conf/" + l.name + "/forwarding")
			l.router = number(text) > 0
			return err
		}
	}
	return nil
}

// membershipTables are the groups of all interfaces.
type membershipTables struct {
	igmp      map[int]igmpTable
	igmp6     map[int][]group
	filters   map[filterKey]filter
	localToo  bool // net.ipv4.igmp_link_local_mcast_reports
	mldForced int  // net.ipv6.conf.all.force_mld_version
}

func memberships(k kernel) (t membershipTables, err error) {
	read := func(path string) (text []byte) {
		if err == nil {
			text, err = k.proc(path)
		}
		return text
	}
	t.igmp = parseIGMP(read("net/igmp"))
	t.igmp6 = parseIGMP6(read("net/igmp6"))
	t.filters = parseFilter(read("net/mcfilter"))
	for key, f := range parseFilter(read("net/mcfilter6")) {
		t.filters[key] = f
	}
	t.localToo = number(read("sys/net/ipv4/igmp_link_local_mcast_reports")) != 0
	t.mldForced = number(read("sys/net/ipv6/conf/all/force_mld_version"))
	return t, err
}

// join gives a link its groups, and the versions of the reports of them.
func (t *membershipTables) join(k kernel, l *link) error {
	l.igmp = t.igmp[l.index].version
	for _, g := range t.igmp[l.index].groups {
		if g.addr != ip4AllHosts && (t.localToo || !ip4Local.Contains(g.addr)) && l.igmp != 0 {
			l.groups = append(l.groups, g)
		}
	}
	if v6 := t.igmp6[l.index]; len(v6) > 0 {
		l.groups = append(l.groups, v6...)
		var err error
		if l.mld, err = t.mldOf(k, l); err != nil {
			return err
		}
	}
	// The order of the kernel's tables says nothing; a steady one makes equal frames.
	slices.SortFunc(l.groups, func(a, b group) int { return a.addr.Compare(b.addr) })
	for i := range l.groups {
		g := &l.groups[i]
		f := t.filters[filterKey{l.index, g.addr}]
		g.sources, g.wanted = f.sources, f.wanted
	}
	return nil
}

// mldOf is the version that MLD reports of a link must have. The kernel does not show which
// one it uses. It has used version 1 if it has ever sent such a report, which it does when
// it has heard a querier of that version: then both are sent, since such a querier ignores
// version 2. They are not both sent always, because a report of version 1 makes queriers
// of version 2 fall back for that group (RFC 3810, 8.3.2).
func (t *membershipTables) mldOf(k kernel, l *link) (mldVersion, error) {
	forced := t.mldForced
	if forced <= 0 {
		text, err := k.proc("sys/net/ipv6/conf/" + l.name + "/force_mld_version")
		if err != nil {
			return mldV2, err
		}
		forced = number(text)
	}
	switch forced {
	case 1:
		return mldV1, nil
	case 2:
		return mldV2, nil
	}
	text, err := k.proc("net/dev_snmp6/" + l.name)
	if err != nil || counter(text, "Icmp6OutType131") == 0 {
		return mldV2, err
	}
	return mldBoth, nil
}
