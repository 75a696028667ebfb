package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestAFullNICIsRead(t *testing.T) {
	got := parse(t, `[[nic]]
name = "net0"
pci0 = "eth0"
pci1 = "52:54:00:AB:CD:EF"
addresses = ["192.0.2.10/24", "2001:db8::10/64", "fe80::10/64", "10.0.0.0/31"]
mac = "02-46-54-00-00-01"
mtu = 9000
primary = "pci1"
reselect = "better"
datapath = "tcx"
netns = "ft-box"
probe = ["192.0.2.1", "fe80::1"]
probe_interval = "50ms"
probe_misses = 2
updelay = "0"
downdelay = "10ms"
announce_count = 5
announce_delay = "50ms"
flap_max = 10
flap_window = "1m"
flap_hold = "30s"

[[nic]]
name = "net1"
pci1 = "pci-0000:03:00.0"
`)
	want := []NIC{
		{Name: "net0", Ports: [2]Port{{"eth0", 3}, {"52:54:00:AB:CD:EF", 4}},
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8::10/64"), netip.MustParsePrefix("fe80::10/64"), netip.MustParsePrefix("10.0.0.0/31")},
			MAC:       "02:46:54:00:00:01", MTU: 9000, Primary: "pci1", Reselect: "better", Datapath: "tcx", Netns: "ft-box",
			Probe:         []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")},
			ProbeInterval: 50 * time.Millisecond, ProbeMisses: 2, DownDelay: 10 * time.Millisecond,
			AnnounceCount: 5, AnnounceDelay: 50 * time.Millisecond, FlapMax: 10, FlapWindow: time.Minute, FlapHold: 30 * time.Second, Line: 1},
		{Name: "net1", Ports: [2]Port{{}, {"pci-0000:03:00.0", 25}}, MTU: 1500, Primary: "pci1", Reselect: "failure", Datapath: "auto",
			ProbeInterval: 100 * time.Millisecond, ProbeMisses: 3, UpDelay: 200 * time.Millisecond,
			AnnounceCount: 3, AnnounceDelay: 100 * time.Millisecond, FlapMax: 5, FlapWindow: 10 * time.Second, FlapHold: 10 * time.Second, Line: 23},
	}
	if d := cmp.Diff(want, got.NICs, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// Each case is what is added to a good [[nic]], from line 5 on, and the complaints.
func TestMistakesInANIC(t *testing.T) {
	const good = "[[nic]]\nname = \"net0\"\npci0 = \"eth0\"\npci1 = \"eth1\"\n"
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"misspelt key", "probe_intervall = \"1s\"\n", []string{`5: unknown key "probe_intervall" in [[nic]]; did you mean probe_interval?`}},
		{"values", "mtu = 67\nannounce_count = 0\nflap_hold = \"0s\"\ndatapath = \"txc\"\n", []string{
			`5: mtu = 67 is out of range; 68 to 65535 are possible`,
			`6: announce_count = 0 is out of range; 1 to 255 are possible`,
			`7: flap_hold = "0s" is out of range; 100ms to 1h are possible`,
			`8: datapath = "txc" is not known; did you mean "tcx"? it is one of auto, tcx, bonding, tc`}},
		{"addresses that are nobody's", `addresses = ["224.0.0.1/24", "127.0.0.1/8", "0.0.0.0/8", "::/64", "ff02::1/64", "::ffff:192.0.2.1/120", "255.255.255.255/32", "192.0.2.1/0"]` + "\n", []string{
			`5: addresses: "224.0.0.1/24" is a multicast address; give the face an address that is its own`,
			`5: addresses: "127.0.0.1/8" is a loopback address; give the face an address that is its own`,
			`5: addresses: "0.0.0.0/8" is the unspecified address; give the face an address that is its own`,
			`5: addresses: "::/64" is the unspecified address; give the face an address that is its own`,
			`5: addresses: "ff02::1/64" is a multicast address; give the face an address that is its own`,
			`5: addresses: "::ffff:192.0.2.1/120" is an IPv4 address in IPv6 clothes; give the face an address that is its own`,
			`5: addresses: "255.255.255.255/32" is the broadcast address; give the face an address that is its own`,
			`5: addresses: "192.0.2.1/0" has everything in its network; give the prefix length of the network, like /24 or /64`}},
		{"a network's own addresses", `addresses = ["192.0.2.0/24", "192.0.2.255/24", "2001:db8::/64"]` + "\n", []string{
			`5: addresses: "192.0.2.0/24" is the network address of its network; give the face a host's address`,
			`5: addresses: "192.0.2.255/24" is the broadcast address of its network; give the face a host's address`,
			`5: addresses: "2001:db8::/64" is the address of all routers (RFC 4291, 2.6.1) of its network; give the face a host's address`}},
		{"an address twice", `addresses = ["192.0.2.10/24", "192.0.2.10/16"]` + "\n", []string{
			`5: addresses: "192.0.2.10/16" is given twice; once is enough`}},
		{"targets that no probe reaches", "addresses = [\"192.0.2.10/24\"]\n" + `probe = ["198.51.100.1", "2001:db8::1", "192.0.2.10", "192.0.2.255", "192.0.2.1", "192.0.2.1", "224.0.0.5", "fe80::1%eth0"]` + "\n", []string{
			`6: probe: "224.0.0.5" is a multicast address; write it like "192.0.2.1" or "2001:db8::1", the address of one host`,
			`6: probe: "fe80::1%eth0" has a zone; write it like "192.0.2.1" or "2001:db8::1", the address of one host`,
			`6: probe: 198.51.100.1 is not on-link: it is in none of the face's networks (192.0.2.0/24); name a host that is reached without a router (the router itself is one), or give the face an address in its network`,
			`6: probe: 2001:db8::1 is not on-link: it is in none of the face's networks, and it has no address of that family; name a host that is reached without a router (the router itself is one), or give the face an address in its network`,
			`6: probe: 192.0.2.10 is an address of the face itself; name another host in its network, such as the router`,
			`6: probe: 192.0.2.255 is the broadcast address of 192.0.2.0/24, no host; name a host, such as the router`,
			`6: probe: 192.0.2.1 is named twice; once is enough`}},
		{"MACs that are no interface's", "mac = \"01:00:5e:00:00:01\"\n[[nic]]\nname = \"b\"\npci0 = \"eth2\"\nmac = \"00:00:00:00:00:00\"\n[[nic]]\nname = \"c\"\npci0 = \"eth3\"\nmac = \"02:46\"\n", []string{
			`5: mac = "01:00:5e:00:00:01" is a group's MAC; the lowest bit of the first byte must not be set`,
			`9: mac = "00:00:00:00:00:00" is nobody's MAC; leave it out: one is made then, and kept`,
			`13: mac = "02:46" is no MAC; write it like "02:46:54:00:00:01", or leave it out: one is made then, and kept`}},
		{"an MTU without room for IPv6", "mtu = 1279\naddresses = [\"2001:db8::10/64\"]\n", []string{
			`5: mtu = 1279 is too small for IPv6; 1280 is the least, or leave the IPv6 addresses out`}},
		{"a namespace's name", "netns = \"a/b\"\n", []string{`5: "a/b" cannot be a network namespace's name; give the name that ` + "`ip netns`" + ` lists, or a path`}},
		{"a NIC twice", "[[nic]]\nname = \"net1\"\npci0 = \"eth1\"\npci1 = \"eth2\"\n", []string{
			`7: eth1 is used twice: in line 4 already; each port needs a NIC of its own`}},
		{"one MAC in two ways", "[[nic]]\nname = \"net1\"\npci0 = \"52:54:00:ab:cd:ef\"\npci1 = \"52:54:00:AB:CD:EF\"\n", []string{
			`8: 52:54:00:AB:CD:EF is used twice: in line 7 already; each port needs a NIC of its own`}},
		{"one PCI function in two ways", "[[nic]]\nname = \"net1\"\npci0 = \"0000:03:00.0\"\npci1 = \"pci-0000:03:00.0\"\n", []string{
			`8: pci-0000:03:00.0 is used twice: in line 7 already; each port needs a NIC of its own`}},
		{"a port named like a face", "[[nic]]\nname = \"eth1\"\npci0 = \"net0\"\n", []string{
			`4: eth1 has the name of the face of [[nic]] "eth1"; give one of them another name: the face is an interface of its own`,
			`7: net0 has the name of the face of [[nic]] "net0"; give one of them another name: the face is an interface of its own`}},
		{"a port with the face's MAC", "[[nic]]\nname = \"net1\"\npci0 = \"02:00:00:00:00:01\"\nmac = \"02:00:00:00:00:01\"\n", []string{
			`7: 02:00:00:00:00:01 is named by the MAC that the face of net1 is to have; leave mac out: a NIC keeps its own, the face has another`}},
		{"an address on two faces", "addresses = [\"192.0.2.10/24\", \"fe80::1/64\"]\n[[nic]]\nname = \"net1\"\npci0 = \"eth2\"\naddresses = [\"192.0.2.10/16\", \"fe80::1/64\"]\n", []string{
			`9: 192.0.2.10 is given twice: in line 5 already; each address belongs to one face, and once`}},
		{"a MAC on two faces", "mac = \"02:00:00:00:00:01\"\n[[nic]]\nname = \"net1\"\npci0 = \"eth2\"\nmac = \"02:00:00:00:00:01\"\n", []string{
			`9: 02:00:00:00:00:01 is given twice: in line 5 already; each face needs a MAC of its own`}},
		{"names that the kernel has taken", "[[nic]]\nname = \"all\"\npci0 = \"eth2\"\n[[nic]]\nname = \"much-too-long-name\"\npci0 = \"eth3\"\n", []string{
			`6: "all" cannot be the name of a face: it means something else to the kernel; choose another`,
			`9: "much-too-long-name" is too long for a network interface; use at most 15 characters`}},
		{"no port, and a primary that is none", "[[nic]]\nname = \"net1\"\n[[nic]]\nname = \"net2\"\npci0 = \"eth2\"\nprimary = \"pci1\"\n", []string{
			`5: nic "net1" has no port; add pci0 = "eth0" and pci1 = "eth1"`,
			`10: primary = "pci1", and no pci1 is configured; add pci1, or leave primary out`}},
		{"too many targets", "addresses = [\"192.0.2.10/24\"]\nprobe = [" + strings.TrimSuffix(manyAddrs(17), ", ") + "]\n", []string{
			`6: 17 targets are too many; name at most 16; one that answers is enough`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f", []byte(good+c.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if d := cmp.Diff("f:"+strings.Join(c.want, "\nf:"), err.Error()); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func manyAddrs(n int) (list string) {
	for i := range n {
		list += fmt.Sprintf("%q, ", fmt.Sprintf("192.0.2.%d", 100+i))
	}
	return list
}

// The same names and addresses in another network namespace are others.
func TestNamespacesKeepNICsApart(t *testing.T) {
	const one = "[[nic]]\nname = \"%s\"\nnetns = \"%s\"\npci0 = \"eth0\"\naddresses = [\"192.0.2.10/24\"]\n"
	if _, err := Parse("f", fmt.Appendf(nil, one+one, "net0", "a", "net1", "b")); err != nil {
		t.Error(err)
	}
	_, err := Parse("f", fmt.Appendf(nil, one+one, "net0", "a", "net1", "/run/netns/a"))
	if err == nil || !strings.Contains(err.Error(), "eth0 is used twice") || !strings.Contains(err.Error(), "192.0.2.10 is given twice") {
		t.Errorf("one namespace by its name and its path: %v", err)
	}
}
