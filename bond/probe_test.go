package bond

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/drivers"
)

// peerLinkLocal is a router's usual address. The peer gets it in a test that probes it.
const peerLinkLocal = "fe80::1"

// Targets over IPv6 and over IPv6 of the link (the other tests have IPv4): good paths stay good, a silent one is
// left, and it is good again when it answers. NICs that carry the face of the kernel's
// bonding driver probe like others.
func TestProbeTargets(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		for _, target := range []string{bondtest.PeerIP6, peerLinkLocal} {
			t.Run(target, func(t *testing.T) {
				r := readyRig(t, kind, func(o *Options) {
					o.Probe, o.ProbeInterval = []netip.Addr{netip.MustParseAddr(target)}, 20*time.Millisecond
				})
				if target == peerLinkLocal {
					r.net.InPeer(func() { givePeer(t, peerLinkLocal+"/64") })
				}
				r.start()
				r.attach(1)
				r.pathsGood()
				r.probed(20)
				for _, ev := range r.events() {
					if ev.Kind == drivers.EventSide && ev.To == drivers.Shot.String() {
						t.Errorf("a good path was left: %+v", ev)
					}
				}
				r.net.SilencePath(0)
				r.carries(1)
				r.connects("past a silent path")
				r.net.RestorePath(0)
				r.wait("duplex", duplex)
				r.pathsGood()
			})
		}
	})
}

func givePeer(t *testing.T, cidr string) {
	l, err := netlink.LinkByName(bondtest.PeerNIC)
	if err == nil {
		var a *netlink.Addr
		if a, err = netlink.ParseAddr(cidr); err == nil {
			a.Flags = unix.IFA_F_NODAD
			err = netlink.AddrAdd(l, a)
		}
	}
	if err != nil {
		t.Errorf("give the peer %s: %v", cidr, err)
	}
}

// probed waits until n more probes were answered on each port.
func (r *rig) probed(n uint64) {
	r.t.Helper()
	count := func(s drivers.Side) uint64 { return r.port(s)["probes_answered"].(uint64) }
	want := [2]uint64{count(0) + n, count(1) + n}
	bondtest.WaitFor(r.t, "probes to be answered", 10*time.Second, func() bool { return count(0) >= want[0] && count(1) >= want[1] })
}

// port is what the driver tells of a port.
func (r *rig) port(s drivers.Side) map[string]any {
	return r.drv.Status().Stats[[2]string{"pci0", "pci1"}[s]].(map[string]any)
}

// Traffic of others on a dead path, ARP of theirs too, does not hide that it is dead.
func TestForeignTrafficHidesNothing(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, func(o *Options) {
			o.Probe, o.ProbeInterval = []netip.Addr{netip.MustParseAddr(bondtest.PeerIP4)}, 20*time.Millisecond
		})
		r.attach(1)
		r.pathsGood()
		port := r.net.Raw(bondtest.Switch, r.net.Port(0))
		stranger := net.HardwareAddr{0x00, 0x00, 0x5e, 0x00, 0x53, 0x66}
		theirs := [][]byte{
			bondtest.Frame(bondtest.Broadcast, stranger, 0, "for all"),
			bondtest.Frame(bondtest.NICMAC(0), stranger, 0, "for the NIC"),
			bondtest.Frame(link(t, "net0").MAC, stranger, 0, "for the face"),
			arp(bondtest.Broadcast, stranger, arpRequest, "192.0.2.66", bondtest.PeerIP4),
			arp(bondtest.NICMAC(0), stranger, arpReply, "192.0.2.66", "0.0.0.0"),
			arp(bondtest.Broadcast, bondtest.PeerMAC(), arpRequest, bondtest.PeerIP4, "192.0.2.66"),
		}
		r.net.SilencePath(0)
		r.wait("the other port", func(st drivers.Status) bool {
			for _, f := range theirs {
				port.Send(f)
			}
			return st.Sides[1].Active
		})
	})
}

// Operations of ARP (RFC 826, linux/if_arp.h).
const (
	arpRequest = 1
	arpReply   = 2
)

// arp is a frame of ARP over Ethernet.
func arp(to, from net.HardwareAddr, op byte, sender, target string) []byte {
	s, d := netip.MustParseAddr(sender).As4(), netip.MustParseAddr(target).As4()
	f := slices.Concat(to, from, []byte{0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, op}, from, s[:], to, d[:])
	return append(f, make([]byte, 18)...)
}
