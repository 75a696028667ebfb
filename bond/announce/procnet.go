package announce

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
)

// Parsers of the tables of memberships in /proc/net. A line that cannot be read is passed
// over: a table that has grown a column, or was cut at the limit of what is read, costs
// the lines concerned and not the announcement.

// igmpTable is one interface of /proc/net/igmp.
type igmpTable struct {
	version int // of the reports that the queriers there understand: 1, 2 or 3; 0 for no IGMP
	groups  []group
}

// parseIGMP reads /proc/net/igmp (net/ipv4/igmp.c igmp_mc_seq_show), by ifindex. A line of
// an interface ends in the version, V1 to V3 or NONE; those of its groups are indented,
// with the address as the bytes of a native word.
func parseIGMP(text []byte) map[int]igmpTable {
	tables := map[int]igmpTable{}
	index := 0
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		switch {
		case len(f) < 2:
		case line[0] != '\t':
			index = 0
			version := bytes.TrimPrefix(f[len(f)-1], []byte("V"))
			n, err := strconv.Atoi(string(f[0]))
			if err != nil || n <= 0 {
				continue // the headline
			}
			index = n
			t := igmpTable{}
			if v, err := strconv.Atoi(string(version)); err == nil && v >= 1 && v <= 3 {
				t.version = v
			}
			tables[index] = t
		case index != 0:
			word, err := strconv.ParseUint(string(f[0]), 16, 32)
			users, err2 := strconv.Atoi(string(f[1]))
			var a [4]byte
			binary.NativeEndian.PutUint32(a[:], uint32(word))
			if addr := netip.AddrFrom4(a); err == nil && err2 == nil && addr.IsMulticast() {
				t := tables[index]
				t.groups = append(t.groups, group{addr: addr, users: users})
				tables[index] = t
			}
		}
	}
	return tables
}

// mafNoReport marks a group that is never reported (net/if_inet6.h MAF_NOREPORT).
const mafNoReport = 0x08

// parseIGMP6 reads /proc/net/igmp6 (net/ipv6/mcast.c igmp6_mc_seq_show), by ifindex, without
// the groups that are never reported (RFC 3810, 6: all nodes, and those of the interface).
func parseIGMP6(text []byte) map[int][]group {
	groups := map[int][]group{}
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) < 5 {
			continue
		}
		index, err := strconv.Atoi(string(f[0]))
		addr, ok := parseHex6(f[2])
		users, err2 := strconv.Atoi(string(f[3]))
		flags, err3 := strconv.ParseUint(string(f[4]), 16, 32)
		if err != nil || err2 != nil || err3 != nil || !ok || index <= 0 || !addr.IsMulticast() {
			continue
		}
		if scope := addr.As16()[1] & 0x0f; flags&mafNoReport != 0 || addr == ip6AllNodes || scope <= 1 {
			continue
		}
		groups[index] = append(groups[index], group{addr: addr, users: users})
	}
	return groups
}

// filterKey names a group of an interface.
type filterKey struct {
	index int
	group netip.Addr
}

// filter is what sockets want of a group in INCLUDE mode.
type filter struct {
	sources []netip.Addr
	wanted  int
}

// parseFilter reads /proc/net/mcfilter (igmp_mcf_seq_show) and /proc/net/mcfilter6
// (igmp6_mcf_seq_show): ifindex, name, group, source, and how many sockets include and
// exclude it. Only the included ones are kept.
func parseFilter(text []byte) map[filterKey]filter {
	filters := map[filterKey]filter{}
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) < 6 {
			continue
		}
		index, err := strconv.Atoi(string(f[0]))
		addr, ok := parseHex(f[2])
		source, ok2 := parseHex(f[3])
		include, err2 := strconv.Atoi(string(f[4]))
		if err != nil || err2 != nil || !ok || !ok2 || include <= 0 || addr.Is4() != source.Is4() {
			continue
		}
		k := filterKey{index, addr}
		v := filters[k]
		v.sources = append(v.sources, source)
		v.wanted = max(v.wanted, include)
		filters[k] = v
	}
	return filters
}

// parseHex reads an address of either kind as mcfilter (0x and the number) and mcfilter6
// (32 digits) write them.
func parseHex(b []byte) (netip.Addr, bool) {
	digits, isNumber := bytes.CutPrefix(b, []byte("0x"))
	if !isNumber {
		return parseHex6(b)
	}
	n, err := strconv.ParseUint(string(digits), 16, 32)
	if err != nil {
		return netip.Addr{}, false
	}
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(n))
	return netip.AddrFrom4(a), true
}

func parseHex6(b []byte) (netip.Addr, bool) {
	var a [16]byte
	if len(b) != hex.EncodedLen(len(a)) {
		return netip.Addr{}, false
	}
	if _, err := hex.Decode(a[:], b); err != nil {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16(a), true
}

// counter reads one number of a file of names and numbers, as /proc/net/dev_snmp6/NAME. A
// name that is not there has not been counted.
func counter(text []byte, name string) uint64 {
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) == 2 && string(f[0]) == name {
			n, _ := strconv.ParseUint(string(f[1]), 10, 64) // 0 when it is no number
			return n
		}
	}
	return 0
}

// number reads a file that is one number, as a sysctl; 0 when it is none.
func number(text []byte) int {
	n, _ := strconv.Atoi(string(bytes.TrimSpace(text)))
	return n
}
