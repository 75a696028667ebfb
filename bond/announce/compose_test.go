package announce

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// machine is a kernel of the tests' own. Stacks with VLANs are tried on it, since not every
// kernel that runs the tests has 8021q.
type machine struct {
	list  []ifLink
	addrs map[int][]address
	uc    map[int][]mac
	files map[string]string
	fail  error
}

func (m *machine) links() ([]ifLink, error)              { return m.list, m.fail }
func (m *machine) addresses() (map[int][]address, error) { return m.addrs, m.fail }
func (m *machine) filters() (map[int][]mac, error)       { return m.uc, m.fail }
func (m *machine) proc(path string) ([]byte, error)      { return []byte(m.files[path]), m.fail }

// at is the n-th MAC of the tests' stations.
func at(n byte) mac { return mac{0x02, 0, 0, 0, 0, n} }

func addrs(ips ...string) (out []address) {
	for _, ip := range ips {
		out = append(out, address{ip: netip.MustParseAddr(ip)})
	}
	return out
}

func announcement(t *testing.T, m *machine, face int) (*frameSet, []string) {
	t.Helper()
	stack, err := look(m, face)
	if err != nil {
		t.Fatal(err)
	}
	set := compose(stack)
	var got []string
	for _, f := range set.frames {
		d, err := decode(f)
		if err != nil {
			t.Errorf("%x: %v", f, err)
		}
		got = append(got, fmt.Sprintf("%d%s", d.src[5], d.String()[len("020000000000 > 020000000000"):]))
	}
	return set, got
}

func TestStackOfVLANsAndMacvlans(t *testing.T) {
	m := &machine{
		list: []ifLink{
			{index: 1, kind: "veth", parent: 2, name: "net0", mac: at(1), mtu: 1500, up: true},
			{index: 2, kind: "veth", parent: 1, name: "peer", mac: at(99), mtu: 1500, up: true},
			{index: 3, kind: "vlan", parent: 1, name: "net0.5", mac: at(1), mtu: 1500, up: true, vlan: 5, protocol: 0x8100},
			{index: 4, kind: "vlan", parent: 3, name: "net0.5.7", mac: at(1), mtu: 1496, up: true, vlan: 7, protocol: 0x8100},
			{index: 5, kind: "macvlan", parent: 1, name: "mv0", mac: at(5), mtu: 1500, up: true},
			{index: 6, kind: "vlan", parent: 5, name: "mv0.9", mac: at(5), mtu: 1500, up: true, vlan: 9, protocol: 0x8100},
			{index: 7, kind: "macvtap", parent: 1, name: "tap0", mac: at(7), mtu: 1500, up: true},
			{index: 8, kind: "macvlan", parent: 3, name: "mv5", mac: at(8), mtu: 1500, up: true},
			{index: 9, kind: "macvlan", parent: 1, name: "down", mac: at(9), mtu: 1500},
			{index: 10, kind: "vlan", parent: 9, name: "on down", mac: at(9), mtu: 1500, up: true, vlan: 3, protocol: 0x8100},
			{index: 11, kind: "vlan", parent: 2, name: "elsewhere", mac: at(11), mtu: 1500, up: true, vlan: 3, protocol: 0x8100},
			{index: 12, kind: "vlan", parent: 1, name: "net0.6", mac: at(12), mtu: 1500, up: true, vlan: 6, protocol: 0x88a8},
			{index: 13, kind: "ipvlan", parent: 1, name: "ipvl", mac: at(1), mtu: 1500, up: true, noARP: true},
		},
		addrs: map[int][]address{
			1: append(addrs("192.0.2.10", "192.0.2.11", "2001:db8::10"), address{netip.MustParseAddr("2001:db8::11"), true}),
			3: addrs("198.51.100.10"),
			4: addrs("203.0.113.10"),
			5: addrs("192.0.2.50"),
			6: addrs("2001:db8:9::50"),
			9: addrs("192.0.2.90"), 10: addrs("192.0.2.91"), 11: addrs("192.0.2.92"), 13: addrs("192.0.2.93"),
		},
		uc: map[int][]mac{
			1: {at(5), at(7), at(8), at(12), at(60), at(61)},
			2: {at(98)},
			3: {at(8), at(61)}, // a macvlan here, and one that lives in another namespace
		},
		files: map[string]string{"sys/net/ipv6/conf/mv0.9/forwarding": "1\n"},
	}
	set, got := announcement(t, m, 1)
	if diff := cmp.Diff([]string{
		"1: garp 192.0.2.10",
		"1 vlan 5: garp 198.51.100.10",
		"5: garp 192.0.2.50",
		"1 vlan 5.7: garp 203.0.113.10",
		"5 vlan 9: na 2001:db8:9::50 RO",
		"8 vlan 5: rarp",
		"12 vlan 6: rarp",
		"7: rarp",
		"61 vlan 5: rarp",
		"60: rarp",
		"1: garp 192.0.2.11",
		"1: na 2001:db8::10 O",
		"1: na 2001:db8::11 ",
	}, got); diff != "" {
		t.Error(diff)
	}
	if set.addresses != 8 || set.stations != 10 || set.groups != 0 || set.omitted != 0 {
		t.Errorf("%d addresses, %d stations, %d groups, %d omitted", set.addresses, set.stations, set.groups, set.omitted)
	}
}

func TestFaceWithoutAddressesSaysRARP(t *testing.T) {
	m := &machine{list: []ifLink{{index: 1, name: "net0", mac: at(1), up: true}}}
	if _, got := announcement(t, m, 1); cmp.Diff([]string{"1: rarp"}, got) != "" {
		t.Error(got)
	}
	m.list[0].up = false
	if _, got := announcement(t, m, 1); got != nil {
		t.Errorf("a face that is down: %v", got)
	}
	if _, got := announcement(t, m, 2); got != nil {
		t.Errorf("a face that is not there: %v", got)
	}
}

func TestVersionsOfReports(t *testing.T) {
	m := &machine{
		list: []ifLink{
			{index: 4, name: "net0", mac: at(4), mtu: 1500, up: true},
			{index: 5, parent: 4, kind: "vlan", name: "net0.5", mac: at(4), mtu: 1500, up: true, vlan: 5, protocol: 0x8100},
		},
		addrs: map[int][]address{4: addrs("192.0.2.10", "2001:db8::10", "fe80::1")},
		files: map[string]string{
			"net/igmp":           igmpText + "5\tnet0.5    :     1      V1\n\t\t\t\t" + native("239.5.5.5") + "     1 0:00000000\t\t0\n",
			"net/igmp6":          igmp6Text,
			"net/dev_snmp6/net0": "Icmp6OutType131\t1\n",
		},
	}
	reports := func(want ...string) {
		t.Helper()
		set, got := announcement(t, m, 4)
		if diff := cmp.Diff(want, got[4:]); diff != "" {
			t.Error(diff)
		}
		if set.addresses != 3 {
			t.Errorf("%d addresses", set.addresses)
		}
	}
	v2, mdns := "4: igmpv2 239.1.2.3 from 192.0.2.10", "4: igmpv2 224.0.0.251 from 192.0.2.10"
	v1 := "4 vlan 5: igmpv1 239.5.5.5 from 0.0.0.0"
	old := []string{"4: mldv1 ff02::1:ff00:10 from fe80::1", "4: mldv1 ff05::42 from fe80::1"}
	mld2 := "4: mldv2 to_ex ff02::1:ff00:10; to_ex ff05::42 from fe80::1"

	// A querier of version 1 has been here.
	reports(v2, old[0], old[1], mld2, v1)
	m.files["net/dev_snmp6/net0"] = ""
	reports(v2, mld2, v1)
	m.files["sys/net/ipv6/conf/net0/force_mld_version"] = "1"
	reports(v2, old[0], old[1], v1)
	m.files["sys/net/ipv6/conf/all/force_mld_version"] = "2" // goes before the interface's
	reports(v2, mld2, v1)
	m.files["sys/net/ipv4/igmp_link_local_mcast_reports"] = "1"
	reports(mdns, v2, mld2, v1)
}

// However much is behind the face: the frames are bounded, and what is lost is the least of them.
func TestFramesAreBounded(t *testing.T) {
	m := &machine{list: []ifLink{{index: 1, name: "net0", mac: at(1), up: true}}, addrs: map[int][]address{}, uc: map[int][]mac{}}
	for i := range framesMax {
		m.addrs[1] = append(m.addrs[1], address{ip: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})})
	}
	m.uc[1] = []mac{at(2)}
	set, got := announcement(t, m, 1)
	if len(got) != framesMax || set.omitted != 1 || got[0] != "1: garp 10.0.0.0" || got[1] != "2: rarp" {
		t.Errorf("%d frames, %d omitted, first %v", len(got), set.omitted, got[:2])
	}

	m = &machine{}
	for i := range 2 * linksMax { // each on the one before
		m.list = append(m.list, ifLink{index: i + 1, parent: i, kind: "vlan", name: "x", mac: at(1), up: true, protocol: 0x8100})
	}
	if _, got := announcement(t, m, 1); len(got) != stackMax+1 {
		t.Errorf("a stack of %d", len(got))
	}
	for i := range m.list {
		m.list[i].parent = 1
		m.list[i].mac = mac{2, 1, 0, 0, byte(i >> 8), byte(i)}
	}
	if stack, _ := look(m, 1); len(stack) != linksMax {
		t.Errorf("%d links", len(stack))
	}
}

func TestRefusalsOfTheKernelAreNamed(t *testing.T) {
	m := &machine{fail: errors.New("refused")}
	if _, err := look(m, 1); err == nil || err.Error() != "list links: refused" {
		t.Error(err)
	}
}
