package bond

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/drivers/kerneltest"
	"ft/drivers/netns"
)

// macvlan puts one onto the face, up. It goes with the face.
func (r *rig) macvlan(name, mac string) netlink.Link {
	r.t.Helper()
	la := netlink.NewLinkAttrs()
	la.Name, la.ParentIndex = name, r.net.Index("net0")
	var err error
	if la.HardwareAddr, err = net.ParseMAC(mac); err != nil {
		r.t.Fatal(err)
	}
	child := &netlink.Macvlan{LinkAttrs: la, Mode: netlink.MACVLAN_MODE_BRIDGE}
	if err := netlink.LinkAdd(child); err != nil {
		r.t.Fatalf("put the macvlan %s onto the face: %v", name, err)
	}
	if err := netlink.LinkSetUp(child); err != nil {
		r.t.Fatal(err)
	}
	return child
}

// Macvlans in namespaces of their own, as containers have them: they are reached, and
// reach each other and the peer, and keep doing so through every kind of failover. One
// that never says a word is found behind its new port too.
func TestMacvlanChildren(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		var rooms [2]*room
		for i, mac := range []string{"02:00:00:12:34:56", "02:00:00:12:34:57"} {
			rooms[i] = newRoom(t)
			rooms[i].take(r.macvlan("child", mac), fmt.Sprintf("192.0.2.%d/24", 11+i), fmt.Sprintf("2001:db8::%d/64", 11+i))
		}
		for _, mac := range []string{"02:00:00:12:34:56", "02:00:00:12:34:57"} {
			bondtest.WaitFor(t, mac+" in the filters of the NICs", 5*time.Second, func() bool {
				// The bonding driver keeps the filter of the active port alone.
				return strings.Contains(r.traces(0), "unicast "+mac) && (kind == "bonding" || strings.Contains(r.traces(1), "unicast "+mac))
			})
		}
		peer := func(f func()) { r.net.InPeer(f) }
		for _, way := range []struct {
			name     string
			from, to func(func())
			target   string
		}{
			{"peer to child", peer, rooms[0].in, "192.0.2.11"},
			{"peer to child", peer, rooms[1].in, "2001:db8::12"},
			{"child to peer", rooms[0].in, peer, bondtest.PeerIP6},
			{"child to child", rooms[0].in, rooms[1].in, "192.0.2.12"},
			{"child to child", rooms[1].in, rooms[0].in, "2001:db8::11"},
		} {
			s := stream(t, way.from, way.to, way.target, 200)
			bondtest.WaitFor(t, way.name+" "+way.target, 5*time.Second, func() bool { return s.Arrived() >= 10 })
			s.Stop()
		}
		out, in := stream(t, rooms[0].in, peer, bondtest.PeerIP4, 1000), stream(t, peer, rooms[1].in, "192.0.2.12", 1000)
		goesOn := func() {
			t.Helper()
			out.WaitArrived(50, 5*time.Second)
			in.WaitArrived(50, 5*time.Second)
		}
		goesOn()
		r.toTheOther() // no carrier goes: the switches learn from the announcement alone
		goesOn()
		r.net.PullCable(1)
		r.carries(0)
		goesOn()
		for name, s := range map[string]*bondtest.Stream{"from the first": out, "to the second": in} {
			res := s.Stop()
			t.Log(name, res)
			if res.Duplicated > 0 {
				t.Errorf("%s: %v", name, res)
			}
		}
		for _, room := range rooms {
			room.leave("child")
		}
		bondtest.WaitFor(t, "the filters without the children", 10*time.Second, func() bool {
			return !strings.Contains(r.traces(0)+r.traces(1), "02:00:00:12:34")
		})
	})
}

// A VLAN on the face keeps its connections, and is announced with its tag. So is a macvlan
// on the VLAN, and the VLAN's MAC may be its own.
func TestVLANChildren(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		const boxIP, peerIP, boxIP6, vid = "198.51.100.10", "198.51.100.1", "2001:db8:100::10", 100
		r := readyRig(t, kind, func(o *Options) { o.AnnounceCount, o.AnnounceDelay = 2, 20*time.Millisecond })
		r.needVLANs()
		r.start()
		r.attach(1)
		vlan(t, "net0", vid)
		givesAddress(t, "net0.100", boxIP+"/24")
		givesAddress(t, "net0.100", boxIP6+"/64")
		r.net.InPeer(func() { vlan(t, bondtest.PeerNIC, vid); givesAddress(t, bondtest.PeerNIC+".100", peerIP+"/24") })
		wires := [2]*wire{r.listen(0), r.listen(1)}
		for _, w := range wires {
			w.vlan, w.arp, w.na = vid, netip.MustParseAddr(boxIP), netip.MustParseAddr(boxIP6)
		}
		peer, box := func(f func()) { r.net.InPeer(f) }, func(f func()) { f() }
		out, in := stream(t, box, peer, peerIP, 1000), stream(t, peer, box, boxIP, 1000)
		for round := range 3 {
			out.WaitArrived(50, 5*time.Second)
			in.WaitArrived(50, 5*time.Second)
			from := r.active()
			to := from.Other()
			before := wires[to].count()
			if round == 1 {
				r.toTheOther()
			} else {
				r.net.PullCable(from)
				r.carries(to)
			}
			bondtest.WaitFor(t, "the VLAN announced with its tag", 5*time.Second, func() bool {
				n := wires[to].count()
				return n.arp >= before.arp+2 && n.na >= before.na+2
			})
			if round != 1 {
				r.net.ReturnCable(from)
				r.wait("duplex", duplex)
			}
		}
		out.WaitArrived(50, 5*time.Second)
		in.WaitArrived(50, 5*time.Second)
		for name, s := range map[string]*bondtest.Stream{"to the peer": out, "from the peer": in} {
			res := s.Stop()
			t.Log(name, res)
			if res.Duplicated > 0 {
				t.Errorf("%s: %v", name, res)
			}
		}
	})
}

// needVLANs ends a test on a kernel without VLANs. No driver runs yet.
func (r *rig) needVLANs() {
	r.t.Helper()
	la := netlink.NewLinkAttrs()
	la.Name, la.ParentIndex = "tryvlan", r.net.Index("eth0")
	l := &netlink.Vlan{LinkAttrs: la, VlanId: 1, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	err := netlink.LinkAdd(l)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP) && !kerneltest.InGuest():
		r.t.Skip("this kernel has no VLANs (module 8021q): TestKernelBonding runs this in a guest")
	case err != nil:
		r.t.Fatalf("a VLAN on eth0: %v", err)
	}
}

func vlan(t *testing.T, on string, vid int) {
	l, err := netlink.LinkByName(on)
	if err == nil {
		la := netlink.NewLinkAttrs()
		la.Name, la.ParentIndex = fmt.Sprintf("%s.%d", on, vid), l.Attrs().Index
		v := &netlink.Vlan{LinkAttrs: la, VlanId: vid, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
		if err = netlink.LinkAdd(v); err == nil {
			err = netlink.LinkSetUp(v)
		}
	}
	if err != nil {
		t.Errorf("a VLAN %d on %s: %v", vid, on, err)
	}
}

// room is a network namespace, a container's. It is gone when the test has ended.
type room struct {
	t  *testing.T
	ns *os.File
}

func newRoom(t *testing.T) *room {
	t.Helper()
	ns, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return &room{t, ns}
}

// in runs a function in the room.
func (r *room) in(f func()) {
	r.t.Helper()
	if err := netns.Do(fmt.Sprintf("/proc/self/fd/%d", r.ns.Fd()), func() error { f(); return nil }); err != nil {
		r.t.Fatal(err)
	}
}

// take takes an interface into the room and gives it addresses.
func (r *room) take(l netlink.Link, cidrs ...string) {
	r.t.Helper()
	name := l.Attrs().Name
	if err := netlink.LinkSetNsFd(l, int(r.ns.Fd())); err != nil {
		r.t.Fatal(err)
	}
	r.in(func() {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		for _, cidr := range cidrs {
			var a *netlink.Addr
			if err == nil {
				a, err = netlink.ParseAddr(cidr)
			}
			if err == nil {
				if a.IP.To4() == nil {
					a.Flags = unix.IFA_F_NODAD
				}
				err = netlink.AddrAdd(l, a)
			}
		}
		if err != nil {
			r.t.Errorf("set up %s in its room: %v", name, err)
		}
	})
}

func (r *room) leave(name string) {
	r.t.Helper()
	r.in(func() {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(l)
		}
		if err != nil {
			r.t.Errorf("remove %s from its room: %v", name, err)
		}
	})
}

// stream is one between any two places.
func stream(t *testing.T, from, to func(func()), target string, rate int) *bondtest.Stream {
	t.Helper()
	var in, out *net.UDPConn
	var err error
	to(func() { in, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(target)}) })
	if err != nil {
		t.Fatal(err)
	}
	from(func() { out, err = net.DialUDP("udp", nil, in.LocalAddr().(*net.UDPAddr)) })
	if err != nil {
		in.Close()
		t.Fatal(err)
	}
	s, err := bondtest.StartStream(t, out, in, rate)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
