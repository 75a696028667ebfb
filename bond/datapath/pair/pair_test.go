package pair

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
	"ft/bond/datapath"
)

func TestMain(m *testing.M) { bondtest.Main(m) }

var faceMAC = net.HardwareAddr{0x02, 0, 0, 0, 0x53, 1}

func spec(face string) datapath.Spec {
	return datapath.Spec{Key: "box-" + face, Face: face, MAC: faceMAC, MTU: 1400}
}

func open(t *testing.T, s datapath.Spec, kind string) Pair {
	t.Helper()
	p, err := Open(s, kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return l
}

func carrier(t *testing.T, name string) bool {
	return link(t, name).Attrs().RawFlags&0x10000 != 0 // IFF_LOWER_UP, linux/if.h
}

func TestFaceIsMadeMarkedAndSilent(t *testing.T) {
	for _, face := range []string{"net0", "net0123456", "a-face-of-15chr"} {
		s := spec(face)
		p := open(t, s, "tc")
		if p.Adopted {
			t.Errorf("%s was adopted from nobody", face)
		}
		f, peer := link(t, face).Attrs(), link(t, PeerName(face)).Attrs()
		if f.Index != p.Face || peer.Index != p.Peer || f.MTU != 1400 || peer.MTU != 1400 || f.HardwareAddr.String() != faceMAC.String() {
			t.Errorf("%s: face %+v, peer %+v, pair %+v", face, f, peer, p)
		}
		if f.Alias != "ft box-"+face+" tc" || !strings.HasPrefix(peer.Alias, f.Alias+" ") {
			t.Errorf("%s: aliases %q and %q", face, f.Alias, peer.Alias)
		}
		off, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + peer.Name + "/disable_ipv6")
		if err != nil || strings.TrimSpace(string(off)) != "1" || peer.RawFlags&0x80 == 0 { // IFF_NOARP
			t.Errorf("%s: disable_ipv6 %q (%v), flags %x", peer.Name, off, err, peer.RawFlags)
		}
	}
}

func TestCarrierFollowsThePeer(t *testing.T) {
	p := open(t, spec("net0"), "tc")
	if err := netlink.LinkSetUp(link(t, "net0")); err != nil {
		t.Fatal(err)
	}
	if carrier(t, "net0") {
		t.Error("a new face has carrier")
	}
	for _, up := range []bool{true, false, true} {
		if err := p.SetCarrier(up); err != nil {
			t.Fatal(err)
		}
		bondtest.WaitFor(t, "carrier follows", time.Second, func() bool { return carrier(t, "net0") == up })
	}
}

func TestFaceIsAdopted(t *testing.T) {
	s := spec("net0")
	p := open(t, s, "tc")
	if err := p.SetCarrier(true); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s, "tc")
	if err != nil || again != (Pair{Face: p.Face, Peer: p.Peer, Adopted: true}) {
		t.Errorf("opened again: %+v, %v; was %+v", again, err, p)
	}
	if link(t, PeerName("net0")).Attrs().RawFlags&1 == 0 { // IFF_UP
		t.Error("adoption took the carrier away")
	}
	if kind, ours, err := Kind("net0", s.Key); kind != "tc" || !ours || err != nil {
		t.Errorf("Kind: %q %v %v", kind, ours, err)
	}
	if _, err := Open(s, "tcx"); err == nil || !strings.Contains(err.Error(), "kind tc") {
		t.Errorf("opened as another kind: %v", err)
	}
}

func TestForeignInterfaceIsLeftAlone(t *testing.T) {
	s := spec("net0")
	if kind, ours, err := Kind("net0", s.Key); kind != "" || ours || err != nil {
		t.Errorf("Kind of nothing: %q %v %v", kind, ours, err)
	}
	for _, alias := range []string{"", "ft box-net0", "ft box-net1 tc", "ft box-net0 tc carrier"} {
		la := netlink.NewLinkAttrs()
		la.Name = "net0"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: la}); err != nil {
			t.Fatal(err)
		}
		l := link(t, "net0")
		if alias != "" {
			if err := netlink.LinkSetAlias(l, alias); err != nil {
				t.Fatal(err)
			}
		}
		if kind, ours, err := Kind("net0", s.Key); kind != "bridge" || ours || err != nil {
			t.Errorf("alias %q: Kind: %q %v %v", alias, kind, ours, err)
		}
		if _, err := Open(s, "tc"); err == nil || !strings.Contains(err.Error(), "not a face of ours") {
			t.Errorf("alias %q: a foreign interface was taken: %v", alias, err)
		}
		if a := link(t, "net0").Attrs(); a.Index != l.Attrs().Index || a.Alias != alias {
			t.Errorf("a foreign interface was changed: %+v", a)
		}
		if err := netlink.LinkDel(l); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHalfMadeFaceIsReplaced(t *testing.T) {
	la := netlink.NewLinkAttrs()
	la.Name = unfinished("net0")
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: PeerName("net0")}); err != nil {
		t.Fatal(err)
	}
	old := link(t, la.Name).Attrs().Index
	p := open(t, spec("net0"), "tcx")
	if p.Adopted || p.Face == old {
		t.Errorf("a half-made face was adopted: %+v", p)
	}
	if _, err := netlink.LinkByName(la.Name); err == nil {
		t.Errorf("%s is still there", la.Name)
	}
}

func TestRemoveTakesBothAndForgivesNone(t *testing.T) {
	p, err := Open(spec("net0"), "tc")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Type() == "veth" {
			t.Errorf("%s is left", l.Attrs().Name)
		}
	}
}

func TestOtherEndElsewhereIsRefused(t *testing.T) {
	s := spec("net0")
	p := open(t, s, "tc")
	peer := link(t, PeerName("net0"))
	if err := netlink.LinkSetName(peer, "elsewhere"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s, "tc"); err == nil || !strings.Contains(err.Error(), PeerName("net0")) {
		t.Errorf("a face without its other end was adopted as %+v: %v", p, err)
	}
}
