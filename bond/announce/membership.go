package announce

import (
	"encoding/binary"
	"net/netip"
)

// Membership reports: IGMP (RFC 1112, 2236, 3376) and MLD (RFC 2710, 3810). A switch that
// snoops sends a group's traffic only to the ports on which it has heard a report, so
// that after a failover it must hear them on the new port; the next general query may be
// two minutes away. Routers learn nothing new from them: each report says again what
// holds already.

var (
	ip4Reports   = netip.MustParseAddr("224.0.0.22") // all IGMPv3 routers
	ip6Reports   = netip.MustParseAddr("ff02::16")   // all MLDv2 routers
	ip4SSM       = netip.MustParsePrefix("232.0.0.0/8")
	ip4Local     = netip.MustParsePrefix("224.0.0.0/24")
	ip4AllHosts  = netip.MustParseAddr("224.0.0.1")
	ip6SSMPrefix = [4]byte{0xff, 0x30, 0, 0} // FF3x::/32 (RFC 4607, 1)
)

// group is a joined group.
type group struct {
	addr  netip.Addr
	users int // sockets, and the kernel itself
	// sources are those that some socket wants alone (INCLUDE mode), and wanted is the
	// largest number of sockets that want the same one.
	sources []netip.Addr
	wanted  int
}

// Types of records in reports of IGMPv3 and MLDv2 (RFC 3376, 4.2.12; RFC 3810, 5.2.12).
const (
	changeToExclude = 4
	allowNewSources = 5
)

// recordSourcesMax keeps a record with IPv6 sources under the least MTU of IPv6.
const recordSourcesMax = 64

// record is one of a report.
type record struct {
	kind    byte
	group   netip.Addr
	sources []netip.Addr
}

func (r record) len() int {
	size := len(r.group.AsSlice())
	return 4 + size*(1+len(r.sources))
}

// records say again what a host wants of a group. What is wanted from every source, or
// from all but some, is a change to EXCLUDE of none; what is wanted from some sources
// alone is ALLOW of these, since an EXCLUDE would ask for everything, and routers ignore
// it in the range of source-specific multicast (RFC 4604, 2.2.1). The kernel does not say
// whether there are sockets of both sorts; when there may be, both are said, which is at
// worst too much until the next query has been answered.
func (g group) records() []record {
	var out []record
	for rest := g.sources; len(rest) > 0; {
		n := min(len(rest), recordSourcesMax)
		out = append(out, record{allowNewSources, g.addr, rest[:n]})
		rest = rest[n:]
	}
	if len(g.sources) == 0 || g.users > g.wanted && !g.sourceSpecific() {
		out = append(out, record{kind: changeToExclude, group: g.addr})
	}
	return out
}

func (g group) sourceSpecific() bool {
	if g.addr.Is4() {
		return ip4SSM.Contains(g.addr)
	}
	a := g.addr.As16()
	a[1] &= 0xf0
	return [4]byte(a[:4]) == ip6SSMPrefix
}

// IGMP (linux/igmp.h).
const (
	igmpReportV1  = 0x12
	igmpReportV2  = 0x16
	igmpReportV3  = 0x22
	protoIGMP     = 2
	igmpV3Header  = 8
	igmpIPHeader  = 24 // with the router alert option
	groupMTULeast = 576
)

// igmpReport is a report of one group to that group, of version 1 or 2.
func igmpReport(from station, src, group netip.Addr, kind byte) []byte {
	b := ipv4(ethernet(from, mac4(group), etherIPv4, 16), 8, src, group)
	start := len(b)
	b = append(b, kind, 0, 0, 0)
	b = append(b, group.AsSlice()...)
	sealIGMP(b[start:])
	return b
}

// igmpReportsV3 puts records into as few reports as the MTU allows.
func igmpReportsV3(from station, src netip.Addr, records []record, mtu int) [][]byte {
	var out [][]byte
	room := max(mtu, groupMTULeast) - igmpIPHeader - igmpV3Header
	for len(records) > 0 {
		n, size := fit(records, room)
		b := ipv4(ethernet(from, mac4(ip4Reports), etherIPv4, 4+igmpV3Header+size), igmpV3Header+size, src, ip4Reports)
		start := len(b)
		b = append(b, igmpReportV3, 0, 0, 0, 0, 0)
		b = appendRecords(b, records[:n])
		sealIGMP(b[start:])
		out = append(out, b)
		records = records[n:]
	}
	return out
}

func sealIGMP(message []byte) { binary.BigEndian.PutUint16(message[2:], fold(add(0, message))) }

// ipv4 is a header as RFC 3376 (4) wants one: TTL 1, precedence "internetwork control",
// router alert (RFC 2113).
func ipv4(b []byte, payload int, src, dst netip.Addr) []byte {
	start := len(b)
	b = append(b, 0x46, 0xc0)
	b = binary.BigEndian.AppendUint16(b, uint16(igmpIPHeader+payload))
	b = append(b, 0, 0, 0x40, 0, 1, protoIGMP, 0, 0) // an atomic datagram: identification 0, DF (RFC 6864)
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	b = append(b, 0x94, 4, 0, 0)
	binary.BigEndian.PutUint16(b[start+10:], fold(add(0, b[start:])))
	return b
}

// MLD (linux/icmpv6.h).
const (
	mldReportV1 = 131
	mldReportV2 = 143
	mldHeader   = 8
	hopByHop    = 8
	mldMTULeast = 1280
)

// mldReport is a report of one group to that group, of version 1.
func mldReport(from station, src, group netip.Addr) []byte {
	b := mldIPv6(ethernet(from, mac6(group), etherIPv6, 24), 24, src, group)
	start := len(b)
	b = append(b, mldReportV1, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, group.AsSlice()...)
	sealICMPv6(b[start:], src, group)
	return b
}

// mldReportsV2 puts records into as few reports as the MTU allows.
func mldReportsV2(from station, src netip.Addr, records []record, mtu int) [][]byte {
	var out [][]byte
	room := max(mtu, mldMTULeast) - 40 - hopByHop - mldHeader
	for len(records) > 0 {
		n, size := fit(records, room)
		b := mldIPv6(ethernet(from, mac6(ip6Reports), etherIPv6, mldHeader+size), mldHeader+size, src, ip6Reports)
		start := len(b)
		b = append(b, mldReportV2, 0, 0, 0, 0, 0)
		b = appendRecords(b, records[:n])
		sealICMPv6(b[start:], src, ip6Reports)
		out = append(out, b)
		records = records[n:]
	}
	return out
}

// mldIPv6 is the fixed header and a hop-by-hop header with the router alert option of MLD
// (RFC 2711), hop limit 1.
func mldIPv6(b []byte, payload int, src, dst netip.Addr) []byte {
	b = ipv6(b, 0, hopByHop+payload, 1, src, dst)
	return append(b, protoICMPv6, 0, 5, 2, 0, 0, 1, 0)
}

// fit says how many records go into room bytes, and how many bytes they are: at least one,
// which recordSourcesMax makes fit.
func fit(records []record, room int) (n, size int) {
	for n < len(records) && (n == 0 || size+records[n].len() <= room) {
		size += records[n].len()
		n++
	}
	return n, size
}

// appendRecords appends their number and the records: the two protocols differ only in the
// length of addresses.
func appendRecords(b []byte, records []record) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(records)))
	for _, r := range records {
		b = append(b, r.kind, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.sources)))
		b = append(b, r.group.AsSlice()...)
		for _, s := range r.sources {
			b = append(b, s.AsSlice()...)
		}
	}
	return b
}

// mac4 and mac6 are the Ethernet addresses of groups (RFC 1112, 6.4; RFC 2464, 7).
func mac4(group netip.Addr) mac {
	a := group.As4()
	return mac{0x01, 0x00, 0x5e, a[1] & 0x7f, a[2], a[3]}
}

func mac6(group netip.Addr) mac {
	a := group.As16()
	return mac{0x33, 0x33, a[12], a[13], a[14], a[15]}
}
