package nic

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"ft/bond/bondtest"
)

func TestUnfit(t *testing.T) {
	newNet(t)
	settled(t, "eth0")
	for _, name := range []string{"eth0", "eth1"} {
		if err := Unfit(named(t, name), "net0"); err != nil {
			t.Errorf("%s, which has a link-local address that the kernel made: %v", name, err)
		}
	}
	for _, c := range []struct {
		why, do, undo string
		nic           string
		words         []string
	}{
		{"an IPv4 address", "ip addr add 192.0.2.7/24 dev eth0", "ip addr del 192.0.2.7/24 dev eth0", "eth0",
			[]string{"eth0 has the address 192.0.2.7/24 of its own: take it off (ip addr del 192.0.2.7/24 dev eth0), the bond's face carries addresses"}},
		{"an IPv6 address", "ip addr add 2001:db8::7/64 dev eth1", "ip addr del 2001:db8::7/64 dev eth1", "eth1",
			[]string{"2001:db8::7/64", "ip addr del 2001:db8::7/64 dev eth1"}},
		{"a link-local address of an admin", "ip addr add fe80::7/64 dev eth1", "ip addr del fe80::7/64 dev eth1", "eth1",
			[]string{"fe80::7/64"}},
		{"one with a peer", "ip addr add 192.0.2.7 peer 192.0.2.8/32 dev eth0", "ip addr flush dev eth0 scope global", "eth0",
			[]string{"192.0.2.7/32"}},
		{"in a bridge", "ip link set eth0 master br9", "ip link set eth0 nomaster", "eth0",
			[]string{"eth0 is in the bridge br9", "ip link set eth0 nomaster"}},
		{"with a macvlan", "ip link add child0 link eth0 type macvlan mode bridge", "ip link del child0", "eth0",
			[]string{"eth0 has the macvlan child0 on it", "ip link del child0"}},
		{"with a macvtap", "ip link add child0 link eth0 type macvtap mode bridge", "ip link del child0", "eth0",
			[]string{"eth0 has the macvtap child0 on it"}},
		{"an alias like ours", "ip link set eth0 alias ft", "true", "eth0", nil},
		{"a bridge", "true", "true", "br9", []string{"br9 is a bridge, not a NIC"}},
		{"loopback", "true", "true", "lo", []string{"lo is the loopback"}},
		{"no Ethernet", "true", "true", "tun9", []string{"tun9 is no Ethernet interface"}},
		{"the face", "ip link add net0 type bridge", "ip link del net0", "net0", []string{"net0 is the bond's own face"}},
	} {
		t.Run(c.why, func(t *testing.T) {
			run(t, "ip link add br9 type bridge")
			defer run(t, "ip link del br9")
			run(t, "ip tuntap add tun9 mode tun")
			defer run(t, "ip tuntap del tun9 mode tun")
			run(t, c.do)
			err := Unfit(named(t, c.nic), "net0")
			if c.words == nil && err != nil {
				t.Errorf("refused: %v", err)
			}
			if c.words != nil {
				refusedWith(t, err, c.words...)
			}
			run(t, c.undo)
			if c.nic == "eth0" || c.nic == "eth1" {
				if err := Unfit(named(t, c.nic), "net0"); err != nil {
					t.Errorf("after the way out, %s: %v", c.undo, err)
				}
			}
		})
	}
}

// Being in the face itself is what a port of the kernel's bonding driver is for.
func TestAPortOfTheFaceIsFit(t *testing.T) {
	newNet(t)
	run(t, "ip link add net0 type bridge")
	defer run(t, "ip link del net0")
	run(t, "ip link set eth0 master net0")
	if err := Unfit(named(t, "eth0"), "net0"); err != nil {
		t.Error(err)
	}
	if err := Unfit(named(t, "eth0"), "net1"); err == nil {
		t.Error("a port of net0 is fit to be one of net1")
	}
}

func TestEitherEndOfAFaceIsNoNIC(t *testing.T) {
	l := Link{Name: "net1", Type: "ether", Kind: "veth"}
	for _, alias := range []string{"ft box-net1 tcx", "ft a_b tc", "ft box-net1 tcx carrier"} {
		l.Alias = alias
		refusedWith(t, Unfit(l, "net0"), "net1", alias)
	}
}

func TestSeveralAddresses(t *testing.T) {
	newNet(t)
	for _, a := range []string{"192.0.2.7/24", "192.0.2.8/24", "198.51.100.1/32", "203.0.113.9/30"} {
		run(t, "ip addr add "+a+" dev eth0")
	}
	refusedWith(t, Unfit(named(t, "eth0"), "net0"), "192.0.2.7/24", "and 1 more", "take them off (ip addr flush dev eth0)")
}

// On a kernel before 5.18, which does not say who made an address, its form tells.
func TestLinkLocalAddressesOfTheKernel(t *testing.T) {
	mac := bondtest.NICMAC(0)
	own := address{prefix: netip.MustParsePrefix("fe80::200:5eff:fe00:5310/64")}
	if !madeByKernel(own, mac) {
		t.Errorf("%v is not what the kernel makes of %v", own.prefix, mac)
	}
	if madeByKernel(own, bondtest.NICMAC(1)) || madeByKernel(own, nil) {
		t.Errorf("%v is what the kernel makes of any MAC", own.prefix)
	}
	if global := (address{prefix: netip.MustParsePrefix("2001:db8::1/64"), proto: protoKernelLL}); madeByKernel(global, mac) {
		t.Error("a global address is taken for a link-local one")
	}
}

// An address out of a router's advertisement comes again unless that is turned off too.
func TestAdvertisedAddress(t *testing.T) {
	n := newNet(t)
	settled(t, "eth0")
	advertise(t, n)
	bondtest.WaitFor(t, "eth0 has an address of the advertised network", 5*time.Second, func() bool {
		return strings.Contains(run(t, "ip -6 addr show dev eth0"), "2001:db8:7:")
	})
	refusedWith(t, Unfit(named(t, "eth0"), "net0"), "2001:db8:7:", "sysctl -w net.ipv6.conf.eth0.accept_ra=0, then ip addr del")
	b := open(t, t.TempDir()+"/nics")
	prepare(t, b, 0, "eth0", want())
	if err := Unfit(named(t, "eth0"), "net0"); err != nil {
		t.Errorf("with IPv6 off: %v", err)
	}
}

// advertise sends a router advertisement (RFC 4861, 4.2) with a prefix from the peer.
func advertise(t *testing.T, n *bondtest.Net) {
	t.Helper()
	message := []byte{134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0,
		0x20, 0x01, 0x0d, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	// A router speaks with its link-local address (RFC 4861, 6.1.2).
	bondtest.WaitFor(t, "the peer has a link-local address", 5*time.Second, func() bool {
		out, err := n.PeerCommand("ip", "-6", "addr", "show", "dev", bondtest.PeerNIC).CombinedOutput()
		return err == nil && strings.Contains(string(out), "fe80::") && !strings.Contains(string(out), "tentative")
	})
	n.InPeer(func() {
		if err := sendICMPv6("ff02::1", bondtest.PeerNIC, message); err != nil {
			t.Errorf("send an advertisement: %v", err)
		}
	})
}
