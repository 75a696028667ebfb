package nic

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
)

func TestFaceMACIsMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	first, err := FaceMAC(dir, "net0", "")
	if err != nil {
		t.Fatal(err)
	}
	if first[0]&3 != 2 {
		t.Errorf("%v is not of one interface and locally administered", first)
	}
	again, err := FaceMAC(dir, "net0", "")
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("again: %v, %v, want %v", again, err, first)
	}
	other, err := FaceMAC(dir, "net1", "")
	if err != nil || bytes.Equal(first, other) {
		t.Errorf("another face: %v, %v", other, err)
	}
	configured, err := FaceMAC(dir, "net0", "52:54:00:12:34:56")
	if err != nil || configured.String() != "52:54:00:12:34:56" {
		t.Errorf("configured: %v, %v", configured, err)
	}
	if back, err := FaceMAC(dir, "net0", ""); err != nil || !bytes.Equal(first, back) {
		t.Errorf("configured no more: %v, %v, want the first, %v", back, err, first)
	}
	for _, bad := range []string{"52:54:00", "01:00:5e:00:00:01", "00:00:00:00:00:00", "net0", "02:00:00:00:00:00:00:01"} {
		if mac, err := FaceMAC(dir, "net0", bad); err == nil || mac != nil {
			t.Errorf("%s is taken for a MAC: %v", bad, mac)
		}
	}
	if _, err := FaceMAC(dir, "../net0", ""); err == nil {
		t.Error("a face can have a name that leads out of the directory")
	}
	if _, err := FaceMAC(filepath.Join(dir, "missing"), "net0", ""); err == nil {
		t.Error("a MAC that cannot be kept is given")
	}
}

// When the file is lost, the network still knows the face by the MAC that it has.
func TestALostFaceMACIsTheFacesOwn(t *testing.T) {
	newNet(t)
	run(t, "ip link add net0 address 02:46:54:00:00:09 type veth peer name net0-peer")
	defer run(t, "ip link del net0")
	dir := t.TempDir()
	foreign, err := FaceMAC(dir, "net0", "")
	if err != nil || foreign.String() == "02:46:54:00:00:09" {
		t.Errorf("the MAC of an interface that is not ours was taken: %v, %v", foreign, err)
	}
	if err := netlink.LinkSetAlias(byIndex(named(t, "net0").Index), "ft box-net0 tcx"); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{"", "02:46", strings.Repeat("x", 100)} {
		if err := os.WriteFile(filepath.Join(dir, "net0.mac"), []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		mac, err := FaceMAC(dir, "net0", "")
		if err != nil || mac.String() != "02:46:54:00:00:09" {
			t.Errorf("from %q: %v, %v", damage, mac, err)
		}
	}
}

func prefixes(list ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// global are an interface's addresses but the link-local one, sorted.
func global(t *testing.T, name string) []string {
	t.Helper()
	all, err := addresses(named(t, name).Index)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range all {
		if !a.prefix.Addr().IsLinkLocalUnicast() {
			out = append(out, a.prefix.String())
		}
	}
	slices.Sort(out)
	return out
}

func TestAddressesOfTheFace(t *testing.T) {
	n := bondtest.New(t)
	face := n.Index("eth0")
	settled(t, "eth0")
	first := prefixes("192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64")
	ensure := func(want, before []netip.Prefix, have ...string) {
		t.Helper()
		if err := EnsureAddresses(face, want, before); err != nil {
			t.Fatal(err)
		}
		if got := global(t, "eth0"); !slices.Equal(got, have) {
			t.Errorf("the face has %q, want %q", got, have)
		}
	}
	ensure(first, nil, "192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64")
	bondtest.WaitFor(t, "duplicate address detection is over", 5*time.Second, func() bool {
		return !strings.Contains(run(t, "ip -6 addr show dev eth0"), "tentative")
	})

	// What is there is not touched: no address is tentative a second time, and what hangs
	// on it stays.
	run(t, "ip route add default via 192.0.2.1")
	run(t, "ip addr add 198.51.100.7/24 dev eth0")
	watch := run(t, "ip addr show dev eth0")
	ensure(first, first, "192.0.2.10/24", "192.0.2.11/24", "198.51.100.7/24", "2001:db8::10/64")
	if now := run(t, "ip addr show dev eth0"); now != watch {
		t.Errorf("addresses were touched:\n%s\nbefore:\n%s", now, watch)
	}

	// The first address of a network goes; the second stays, and so does the route.
	second := prefixes("192.0.2.11/24", "2001:db8::11/64", "::ffff:203.0.113.1/128")
	ensure(second, first, "192.0.2.11/24", "198.51.100.7/24", "2001:db8::11/64", "203.0.113.1/32")
	if routes := run(t, "ip route show default"); !strings.Contains(routes, "192.0.2.1") {
		t.Errorf("the route is gone: %q", routes)
	}
	// Gone already, or another length of prefix.
	third := prefixes("192.0.2.11/25", "2001:db8::11/48")
	ensure(third, append(second, first...), "192.0.2.11/25", "198.51.100.7/24", "2001:db8::11/48")
	ensure(nil, third, "198.51.100.7/24")
}

// Without promote_secondaries the kernel takes the other addresses of a network away with
// its first one.
func TestAddressesThatTheKernelTakesAwayComeAgain(t *testing.T) {
	n := newNet(t)
	face := n.Index("eth0")
	run(t, "sysctl -q -w net.ipv4.conf.all.promote_secondaries=0 net.ipv4.conf.eth0.promote_secondaries=0")
	first := prefixes("192.0.2.10/24", "192.0.2.11/24", "192.0.2.12/24")
	if err := EnsureAddresses(face, first, nil); err != nil {
		t.Fatal(err)
	}
	if err := removeAddress(named(t, "eth0"), first[0]); err != nil {
		t.Fatal(err)
	}
	if got := global(t, "eth0"); len(got) != 0 {
		t.Fatalf("the kernel has left %q: the test tests nothing", got)
	}
	if err := EnsureAddresses(face, first[1:], first); err != nil {
		t.Fatal(err)
	}
	if got := global(t, "eth0"); !slices.Equal(got, []string{"192.0.2.11/24", "192.0.2.12/24"}) {
		t.Errorf("the face has %q", got)
	}
}

func TestAddressesThatCannotBeGiven(t *testing.T) {
	n := newNet(t)
	face := n.Index("eth0")
	run(t, "ip addr add 2001:db8::10/48 dev eth0")
	err := EnsureAddresses(face, prefixes("2001:db8::10/64"), nil)
	if err == nil || !strings.Contains(err.Error(), "with another prefix") {
		t.Errorf("an address with another prefix: %v", err)
	}
	run(t, "sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=1")
	err = EnsureAddresses(face, prefixes("2001:db8::11/64"), nil)
	if err == nil || !strings.Contains(err.Error(), "IPv6 is turned off") {
		t.Errorf("without IPv6: %v", err)
	}
	if err := EnsureAddresses(face, []netip.Prefix{{}}, nil); err == nil {
		t.Error("no address at all was given")
	}
	if err := EnsureAddresses(1<<30, nil, nil); err == nil {
		t.Error("a face that is gone has addresses")
	}
}
