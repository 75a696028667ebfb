package announce

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// native writes an IPv4 address as /proc/net/igmp does.
func native(ip string) string {
	a := netip.MustParseAddr(ip).As4()
	return fmt.Sprintf("%08X", binary.NativeEndian.Uint32(a[:]))
}

// From a 6.18 kernel; the third interface's name leaves no blank before the colon.
var igmpText = `Idx	Device    : Count Querier	Group    Users Timer	Reporter
1	lo        :     1      V3
				` + native("224.0.0.1") + `     1 0:00000000		0
4	net0      :     3      V2
				` + native("239.1.2.3") + `     2 1:00000064		1
				` + native("224.0.0.251") + `     1 0:00000000		0
				` + native("224.0.0.1") + `     1 0:00000000		0
12	abcdefghijklmno:     1    NONE
				` + native("239.9.9.9") + `     1 0:00000000		0
`

const igmp6Text = `1    lo              ff020000000000000000000000000001     1 0000000C 0
1    lo              ff010000000000000000000000000001     1 00000008 0
4    net0            ff0200000000000000000001ff000010     2 00000004 0
4    net0            ff050000000000000000000000000042     1 00000007 12
4    net0            ff020000000000000000000000000001     1 0000000C 0
`

const filterText = `Idx Device        MCA        SRC    INC    EXC
  4   net0 0xe8010101 0xc0000201      1      0
  4   net0 0xe8010101 0xc0000202      2      0
  4   net0 0xef010203 0xc0000203      0      1
`

const filter6Text = `Idx Device                Multicast Address                   Source Address    INC    EXC
  4   net0 ff3e0000000000000000000080000001 20010db8000000000000000000000001      1      0
`

var compare = cmp.Options{
	cmp.AllowUnexported(igmpTable{}, group{}, filter{}, filterKey{}),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

func TestParseTables(t *testing.T) {
	addr := netip.MustParseAddr
	if diff := cmp.Diff(map[int]igmpTable{
		1: {version: 3, groups: []group{{addr: addr("224.0.0.1"), users: 1}}},
		4: {version: 2, groups: []group{{addr: addr("239.1.2.3"), users: 2},
			{addr: addr("224.0.0.251"), users: 1}, {addr: addr("224.0.0.1"), users: 1}}},
		12: {groups: []group{{addr: addr("239.9.9.9"), users: 1}}},
	}, parseIGMP([]byte(igmpText)), compare); diff != "" {
		t.Errorf("igmp: %s", diff)
	}
	if diff := cmp.Diff(map[int][]group{4: {{addr: addr("ff02::1:ff00:10"), users: 2}, {addr: addr("ff05::42"), users: 1}}},
		parseIGMP6([]byte(igmp6Text)), compare); diff != "" {
		t.Errorf("igmp6: %s", diff)
	}
	if diff := cmp.Diff(map[filterKey]filter{{4, addr("232.1.1.1")}: {[]netip.Addr{addr("192.0.2.1"), addr("192.0.2.2")}, 2}},
		parseFilter([]byte(filterText)), compare); diff != "" {
		t.Errorf("mcfilter: %s", diff)
	}
	if diff := cmp.Diff(map[filterKey]filter{{4, addr("ff3e::8000:1")}: {[]netip.Addr{source6}, 1}},
		parseFilter([]byte(filter6Text)), compare); diff != "" {
		t.Errorf("mcfilter6: %s", diff)
	}
	snmp := []byte("ifIndex                         \t4\nIcmp6OutType131                 \t7\n")
	if n := counter(snmp, "Icmp6OutType131"); n != 7 {
		t.Errorf("counter %d", n)
	}
	if n := counter(snmp, "Icmp6OutType143"); n != 0 {
		t.Errorf("a counter that is not there: %d", n)
	}
}

// A table that is cut anywhere gives the part that is whole; no line of it is misread as
// one of another interface.
func TestParseCutTables(t *testing.T) {
	whole := parseIGMP([]byte(igmpText))
	for i := range igmpText {
		for index, table := range parseIGMP([]byte(igmpText[:i])) {
			for _, g := range table.groups {
				if !slices.ContainsFunc(whole[index].groups, func(w group) bool { return w.addr == g.addr }) {
					t.Errorf("cut at %d, interface %d has %v", i, index, g.addr)
				}
			}
		}
	}
}

// Whatever /proc may say: no panic, and only groups from which frames can be made.
func fuzzTables(f *testing.F, seeds []string, parse func([]byte) []group) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l := link{at: face, igmp: 3, mld: mldBoth, groups: parse(text)}
		for _, g := range l.groups {
			if !g.addr.IsMulticast() {
				t.Fatalf("%v is no group", g.addr)
			}
		}
		for _, frame := range l.reports() {
			if _, err := decode(frame); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzIGMP(f *testing.F) {
	fuzzTables(f, []string{igmpText, "4\tx:\n\t\t0\n", "4\tx V3\n\t\t\t\tFFFFFFFF -1"}, func(text []byte) (all []group) {
		for _, t := range parseIGMP(text) {
			all = append(all, t.groups...)
		}
		return all
	})
}

func FuzzIGMP6(f *testing.F) {
	fuzzTables(f, []string{igmp6Text, "-1 x ff05 1 0\n"}, func(text []byte) (all []group) {
		for _, g := range parseIGMP6(text) {
			all = append(all, g...)
		}
		return all
	})
}

func FuzzFilter(f *testing.F) {
	fuzzTables(f, []string{filterText, filter6Text, "4 x 0xe8010101 20010db8000000000000000000000001 1 0"}, func(text []byte) (all []group) {
		for k, v := range parseFilter(text) {
			if len(v.sources) == 0 || v.wanted <= 0 {
				f.Fatalf("%v: %v", k, v)
			}
			if k.group.IsMulticast() {
				all = append(all, group{addr: k.group, users: v.wanted, sources: v.sources, wanted: v.wanted})
			}
		}
		return all
	})
}
