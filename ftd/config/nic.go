package config

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ft/bond/nic"
	"ft/drivers/netns"
)

// This file reads [[nic]]. Beside the form of each value it checks what the values of one
// NIC say of one another; what the tables say of one another is in cross_nic.go, and
// what needs a look at the machine in check_nic.go.

// NIC is a table [[nic]].
type NIC struct {
	Name          string  // also the face's
	Ports         [2]Port // by module; at least one is configured
	Addresses     []netip.Prefix
	MAC           string // of the face, "" for one that is made once and kept
	MTU           int    // of the face
	Primary       string // pci0, pci1: one that is configured
	Reselect      string // always, better, failure
	Datapath      string // auto, tcx, bonding, tc
	Netns         string // name or path, "" for the host's
	Probe         []netip.Addr
	ProbeInterval time.Duration
	ProbeMisses   int
	UpDelay       time.Duration
	DownDelay     time.Duration
	AnnounceCount int
	AnnounceDelay time.Duration
	FlapMax       int
	FlapWindow    time.Duration
	FlapHold      time.Duration
	Line          int
}

// Port is one NIC of a bond, by its name, MAC or PCI address. A zero Port is a side with
// nothing configured.
type Port struct {
	NIC  string
	Line int
}

const (
	ifnameMax = 15    // IFNAMSIZ, linux/if.h, less the terminating zero
	mtuMin    = 68    // ETH_MIN_MTU, linux/if_ether.h
	mtuMax    = 65535 // ETH_MAX_MTU, there too
	mtuMinIP6 = 1280  // RFC 8200, section 5
	probesMax = 16    // as many as the kernel's bonding driver takes (BOND_MAX_ARP_TARGETS)
)

// ifnamesTaken mean something else in /proc/sys/net, or are there in every namespace.
var ifnamesTaken = []string{"all", "default", "lo"}

func (r *reader) nic(t *table) NIC {
	n := NIC{
		Name:          t.name(),
		Ports:         [2]Port{t.port("pci0"), t.port("pci1")},
		Addresses:     t.prefixes("addresses"),
		MAC:           t.mac("mac"),
		MTU:           t.integer("mtu", 1500, mtuMin, mtuMax),
		Primary:       t.choice("primary", "pci0", "pci0", "pci1"),
		Reselect:      t.choice("reselect", "failure", "always", "better", "failure"),
		Datapath:      t.choice("datapath", "auto", "auto", "tcx", "bonding", "tc"),
		Netns:         t.netns("netns"),
		Probe:         t.addrs("probe"),
		ProbeInterval: t.duration("probe_interval", 100*time.Millisecond, 10*time.Millisecond, time.Minute),
		ProbeMisses:   t.integer("probe_misses", 3, 1, 100),
		UpDelay:       t.duration("updelay", 200*time.Millisecond, 0, 10*time.Minute),
		DownDelay:     t.duration("downdelay", 0, 0, time.Minute),
		AnnounceCount: t.integer("announce_count", 3, 1, 255),
		AnnounceDelay: t.duration("announce_delay", 100*time.Millisecond, 10*time.Millisecond, time.Minute),
		FlapMax:       t.integer("flap_max", 5, 1, 1000),
		FlapWindow:    t.duration("flap_window", 10*time.Second, 100*time.Millisecond, time.Hour),
		FlapHold:      t.duration("flap_hold", 10*time.Second, 100*time.Millisecond, time.Hour),
		Line:          t.line(""),
	}
	t.checkFaceName(n)
	t.checkPrimary(&n)
	t.checkMTU(n)
	t.checkProbes(n)
	t.refuseRest()
	return n
}

func (t *table) checkFaceName(n NIC) {
	switch {
	case len(n.Name) > ifnameMax:
		t.complain("name", fmt.Sprintf("%q is too long for a network interface", n.Name), fmt.Sprintf("use at most %d characters", ifnameMax))
	case slices.Contains(ifnamesTaken, n.Name):
		t.complain("name", fmt.Sprintf("%q cannot be the name of a face: it means something else to the kernel", n.Name), "choose another")
	}
}

// checkPrimary: with one port that one is the primary, unless the file says otherwise.
func (t *table) checkPrimary(n *NIC) {
	if n.Ports == [2]Port{} {
		if !t.has("pci0") && !t.has("pci1") {
			t.complain("", fmt.Sprintf("nic %q has no port", n.Name), `add pci0 = "eth0" and pci1 = "eth1"`)
		}
		return
	}
	side := slices.Index(moduleKeys[:], n.Primary)
	if t.has(n.Primary) {
		return
	}
	if t.has("primary") {
		t.complain("primary", fmt.Sprintf("primary = %q, and no %s is configured", n.Primary, n.Primary), fmt.Sprintf("add %s, or leave primary out", n.Primary))
	}
	n.Primary = moduleKeys[1-side]
}

func (t *table) checkMTU(n NIC) {
	six := slices.ContainsFunc(n.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) ||
		slices.ContainsFunc(n.Probe, netip.Addr.Is6)
	if six && n.MTU < mtuMinIP6 {
		t.complain("mtu", fmt.Sprintf("mtu = %d is too small for IPv6", n.MTU), fmt.Sprintf("%d is the least, or leave the IPv6 addresses out", mtuMinIP6))
	}
}

// checkProbes: a target is asked by ARP or a neighbour solicitation, which no router
// passes on.
func (t *table) checkProbes(n NIC) {
	if len(n.Probe) > probesMax {
		t.complain("probe", fmt.Sprintf("%d targets are too many", len(n.Probe)), fmt.Sprintf("name at most %d; one that answers is enough", probesMax))
	}
	for i, a := range n.Probe {
		wrong := func(what, wayOut string) { t.complain("probe", fmt.Sprintf("probe: %v %s", a, what), wayOut) }
		on := slices.IndexFunc(n.Addresses, func(p netip.Prefix) bool { return p.Contains(a) })
		switch {
		case slices.Contains(n.Probe[:i], a):
			wrong("is named twice", "once is enough")
		case slices.ContainsFunc(n.Addresses, func(p netip.Prefix) bool { return p.Addr() == a }):
			wrong("is an address of the face itself", "name another host in its network, such as the router")
		case a.Is6() && a.IsLinkLocalUnicast():
			// Always on-link, whatever the addresses.
		case on < 0:
			wrong("is not on-link: it is in none of the face's networks"+listed(n.Addresses, a),
				"name a host that is reached without a router (the router itself is one), or give the face an address in its network")
		case noHost(n.Addresses[on], a) != "":
			wrong(fmt.Sprintf("is %s of %v, no host", noHost(n.Addresses[on], a), n.Addresses[on].Masked()), "name a host, such as the router")
		}
	}
}

// listed are the face's networks of the same family as a.
func listed(addresses []netip.Prefix, a netip.Addr) string {
	var nets []string
	for _, p := range addresses {
		if s := p.Masked().String(); p.Addr().Is4() == a.Is4() && !slices.Contains(nets, s) {
			nets = append(nets, s)
		}
	}
	if len(nets) == 0 {
		return ", and it has no address of that family"
	}
	return " (" + strings.Join(nets, ", ") + ")"
}

// noHost says what an address is in its network when that is no host, or "". Prefixes of
// one or two addresses have hosts alone (RFC 3021, RFC 6164).
func noHost(p netip.Prefix, a netip.Addr) string {
	if p.Addr().BitLen()-p.Bits() < 2 {
		return ""
	}
	switch {
	case a == p.Masked().Addr() && a.Is4():
		return "the network address"
	case a == p.Masked().Addr():
		return "the address of all routers (RFC 4291, 2.6.1)"
	case a.Is4() && !p.Contains(a.Next()):
		return "the broadcast address"
	}
	return ""
}

// unusable says why an address cannot be one host's, or "".
func unusable(a netip.Addr) string {
	switch {
	case a.Zone() != "":
		return "has a zone"
	case a.Is4In6():
		return "is an IPv4 address in IPv6 clothes"
	case a.IsUnspecified():
		return "is the unspecified address"
	case a.IsLoopback():
		return "is a loopback address"
	case a.IsMulticast():
		return "is a multicast address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is the broadcast address"
	}
	return ""
}

const plainAddress = `write it like "192.0.2.1" or "2001:db8::1"`

func (t *table) prefixes(key string) []netip.Prefix {
	const example = `write it like "192.0.2.10/24" or "2001:db8::10/64"`
	var out []netip.Prefix
	for _, s := range t.strs(key, `["192.0.2.10/24"]`) {
		p, err := netip.ParsePrefix(s)
		wrong := func(what, wayOut string) { t.complain(key, fmt.Sprintf("%s: %q %s", key, s, what), wayOut) }
		switch {
		case err != nil:
			wrong("is no address with its prefix length", example)
		case unusable(p.Addr()) != "":
			wrong(unusable(p.Addr()), "give the face an address that is its own")
		case p.Bits() == 0:
			wrong("has everything in its network", "give the prefix length of the network, like /24 or /64")
		case slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Addr() == p.Addr() }):
			wrong("is given twice", "once is enough")
		case noHost(p, p.Addr()) != "":
			wrong("is "+noHost(p, p.Addr())+" of its network", "give the face a host's address")
		default:
			out = append(out, p)
		}
	}
	return out
}

func (t *table) addrs(key string) []netip.Addr {
	var out []netip.Addr
	for _, s := range t.strs(key, `["192.0.2.1"]`) {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			t.complain(key, fmt.Sprintf("%s: %q is no address", key, s), plainAddress)
		case unusable(a) != "":
			t.complain(key, fmt.Sprintf("%s: %q %s", key, s, unusable(a)), plainAddress+", the address of one host")
		default:
			out = append(out, a)
		}
	}
	return out
}

func (t *table) port(key string) Port {
	s := t.str(key, "")
	if _, isString := t.raw[key].(string); !isString {
		return Port{}
	}
	if _, err := nic.Canonical(s); err != nil {
		t.complain(key, fmt.Sprintf("%s = %q cannot be a NIC", key, s),
			"give the name that `ip link` lists, a MAC (52:54:00:12:34:56) or a PCI address (0000:03:00.0)")
		return Port{}
	}
	return Port{NIC: s, Line: t.line(key)}
}

// mac is the face's own: of one interface, and not nobody's.
func (t *table) mac(key string) string {
	s := t.str(key, "")
	if _, isString := t.raw[key].(string); !isString {
		return ""
	}
	mac, err := net.ParseMAC(s)
	switch {
	case err != nil || len(mac) != 6:
		t.complain(key, fmt.Sprintf("%s = %q is no MAC", key, s), `write it like "02:46:54:00:00:01", or leave it out: one is made then, and kept`)
	case mac[0]&1 != 0:
		t.complain(key, fmt.Sprintf("%s = %q is a group's MAC", key, s), "the lowest bit of the first byte must not be set")
	case bytes.Equal(mac, make([]byte, 6)):
		t.complain(key, fmt.Sprintf("%s = %q is nobody's MAC", key, s), "leave it out: one is made then, and kept")
	default:
		return mac.String()
	}
	return ""
}

func (t *table) netns(key string) string {
	s := t.str(key, "")
	if _, isString := t.raw[key].(string); !isString {
		return ""
	}
	if strings.HasPrefix(s, "/") {
		return netns.Path(s)
	}
	if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/ ") {
		t.complain(key, fmt.Sprintf("%q cannot be a network namespace's name", s), "give the name that `ip netns` lists, or a path")
		return ""
	}
	return s
}
