package announce

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/drivers"
)

// Stations of the tests, all locally administered.
var (
	macvlanMAC = mac{0x02, 0, 0x5e, 0x10, 0, 0x02}
	tapMAC     = mac{0x02, 0, 0x5e, 0x10, 0, 0x03}
	awayMAC    = mac{0x02, 0, 0x5e, 0x10, 0, 0x04}
)

const within = 5 * time.Second

// makeFace makes a face that leads nowhere (its own frames never reach the switch, so that
// what arrives there is ours), up, without IPv6 addresses of its own making.
func makeFace(t *testing.T) netlink.Link {
	t.Helper()
	la := netlink.NewLinkAttrs()
	la.Name, la.HardwareAddr = "net0", faceMAC[:]
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: "net0-peer"}); err != nil {
		t.Fatalf("make net0: %v", err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(&netlink.Dummy{LinkAttrs: la}) })
	setSysctl(t, "ipv6/conf/net0/addr_gen_mode", "1")
	return up(t, "net0")
}

func up(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		t.Fatalf("set %s up: %v", name, err)
	}
	return l
}

// child makes a link on the face.
func child(t *testing.T, l netlink.Link) netlink.Link {
	t.Helper()
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatalf("make %s: %v", l.Attrs().Name, err)
	}
	setSysctl(t, "ipv6/conf/"+l.Attrs().Name+"/addr_gen_mode", "1")
	return up(t, l.Attrs().Name)
}

func childAttrs(name string, m mac, below netlink.Link) netlink.LinkAttrs {
	la := netlink.NewLinkAttrs()
	la.Name, la.HardwareAddr, la.ParentIndex = name, m[:], below.Attrs().Index
	return la
}

// journal is a log that a test can look at.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) lines() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Split(strings.TrimSpace(j.b.String()), "\n")
}

func config(l netlink.Link, count int, delay time.Duration) (Config, *journal) {
	j := &journal{}
	return Config{Face: l.Attrs().Index, Count: count, Delay: delay, Log: slog.New(slog.NewTextHandler(j, nil))}, j
}

// announcer makes one for a face, with both ports.
func announcer(t *testing.T, n *bondtest.Net, cfg Config) *Announcer {
	t.Helper()
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	for s := drivers.Side(0); s <= 1; s++ {
		if err := a.SetPort(s, n.Index(n.NIC(s))); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func say(m mac, format string, args ...any) string {
	dst := macBroadcast
	what := fmt.Sprintf(format, args...)
	if strings.HasPrefix(what, "na ") {
		dst = macAllNodes
	}
	return decoded{src: m, dst: dst, what: what}.String()
}

// expect waits until exactly these frames have arrived in this order.
func expect(t *testing.T, c *capture, want ...string) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		got := c.ours()
		if len(got) >= len(want) || time.Now().After(deadline) {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s", diff)
			}
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// learned is the switch's port behind which it has seen a MAC.
func learned(t *testing.T, n *bondtest.Net, m mac) (port string) {
	t.Helper()
	n.InSwitch(func() {
		table, err := netlink.NeighList(0, unix.AF_BRIDGE)
		if err != nil {
			t.Error(err)
		}
		for _, e := range table {
			if bytes.Equal(e.HardwareAddr, m[:]) && e.State&netlink.NUD_PERMANENT == 0 {
				if l, err := netlink.LinkByIndex(e.LinkIndex); err == nil {
					port = l.Attrs().Name
				}
			}
		}
	})
	return port
}

// A host that says nothing is found behind the new port at once: with no more than one call
// between, what is sent to it arrives there.
func TestSilentHostMovesAtOnce(t *testing.T) {
	n := bondtest.New(t)
	face := makeFace(t)
	n.GiveAddresses("net0")
	child(t, &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: childAttrs("tap0", tapMAC, face), Mode: netlink.MACVLAN_MODE_BRIDGE}})
	cfg, _ := config(face, 1, time.Second)
	a := announcer(t, n, cfg)
	boxes := [2]*capture{listen(t, n, bondtest.Box, n.NIC(0)), listen(t, n, bondtest.Box, n.NIC(1))}

	const hello = "\x88\xb5 hello" // of the type for experiments (linux/if_ether.h ETH_P_802_EX1)
	peer := mac(bondtest.PeerMAC())
	for i := range 6 {
		s := drivers.Side(i % 2)
		for _, c := range boxes {
			c.forget()
		}
		a.Announce(s)
		for _, m := range []mac{faceMAC, tapMAC} {
			if port := learned(t, n, m); port != n.Port(s) {
				t.Fatalf("announced on %s, the switch has %x behind %q", n.Port(s), m, port)
			}
			n.InPeer(func() { sendRaw(t, bondtest.PeerNIC, slices.Concat(m[:], peer[:], []byte(hello))) })
			bondtest.WaitFor(t, "a frame of the peer", within, func() bool { return boxes[s].has(hello) })
			if boxes[s.Other()].has(hello) {
				t.Errorf("announced on %s, it came by the other as well", n.Port(s))
			}
			boxes[s].forget()
		}
	}
}

// sendRaw sends a frame in the namespace of the calling thread.
func sendRaw(t *testing.T, name string, frame []byte) {
	index, err := ifIndex(name)
	if err != nil {
		t.Error(err)
		return
	}
	p, err := openPort(index)
	if err != nil {
		t.Error(err)
		return
	}
	defer p.close()
	if _, _, err := new(transmitter).send(p, [][]byte{frame}); err != nil {
		t.Error(err)
	}
}

// The peer sees the addresses of the face and of its children, and the MACs of those whose
// addresses are others' matter: each once, by the announced port alone.
func TestEveryStationIsAnnounced(t *testing.T) {
	n := bondtest.New(t)
	face := makeFace(t)
	n.GiveAddresses("net0")
	give(t, face, "192.0.2.11/24")
	mv := child(t, &netlink.Macvlan{LinkAttrs: childAttrs("mv0", macvlanMAC, face), Mode: netlink.MACVLAN_MODE_BRIDGE})
	give(t, mv, "192.0.2.20/24")
	give(t, mv, "2001:db8::20/64")
	setSysctl(t, "ipv6/conf/mv0/forwarding", "1")
	child(t, &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: childAttrs("tap0", tapMAC, face), Mode: netlink.MACVLAN_MODE_BRIDGE}})
	sendAway(t, n, face)
	takeInStranger(t, n, face)

	cfg, _ := config(face, 1, time.Second)
	a := announcer(t, n, cfg)
	// The kernel joins the groups of addresses in its own time.
	bondtest.WaitFor(t, "the groups are joined", within, func() bool { a.Refresh(); return a.Stats().Groups == 5 })
	peer, box0 := listen(t, n, bondtest.Peer, bondtest.PeerNIC), listen(t, n, bondtest.Switch, n.Port(0))
	a.Announce(1)
	solicited := func(m mac, records string) string {
		return decoded{src: m, dst: mac6(ip6Reports), what: "mldv2 " + records + " from ::"}.String()
	}
	expect(t, peer,
		say(faceMAC, "garp 192.0.2.10"),
		say(macvlanMAC, "garp 192.0.2.20"),
		say(tapMAC, "rarp"), say(awayMAC, "rarp"),
		say(faceMAC, "garp 192.0.2.11"),
		say(faceMAC, "na 2001:db8::10 O"),
		say(macvlanMAC, "na 2001:db8::20 RO"),
		solicited(faceMAC, "to_ex ff02::1:ff00:10"),
		solicited(macvlanMAC, "to_ex ff02::2; to_ex ff02::1:ff00:0; to_ex ff02::1:ff00:20; to_ex ff05::2"),
	)
	if s := a.Stats(); s.Addresses != 5 || s.Stations != 4 || s.Groups != 5 || s.Frames != 9 || s.Announcements != 1 || s.Errors != 0 {
		t.Errorf("%+v", s)
	}
	if other := box0.ours(); len(other) != 0 && len(other) != 9 {
		t.Errorf("by the other port: %v", other)
	}
}

// sendAway makes a macvlan on the face that lives in the peer's namespace.
func sendAway(t *testing.T, n *bondtest.Net, face netlink.Link) {
	t.Helper()
	var space *os.File
	var err error
	n.InPeer(func() { space, err = os.Open("/proc/thread-self/ns/net") })
	if err != nil {
		t.Fatal(err)
	}
	defer space.Close()
	la := childAttrs("away", awayMAC, face)
	la.Namespace = netlink.NsFd(space.Fd())
	if err := netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: la, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
		t.Fatalf("make a macvlan in the peer: %v", err)
	}
	if out, err := n.PeerCommand("ip", "link", "set", "away", "up").CombinedOutput(); err != nil {
		t.Fatalf("set it up: %v: %s", err, out)
	}
}

// takeInStranger makes a macvlan in the box whose link below is in the peer, where it has
// the ifindex that the face has here.
func takeInStranger(t *testing.T, n *bondtest.Net, face netlink.Link) {
	t.Helper()
	box, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	here := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), box.Fd())
	for _, args := range [][]string{
		{"link", "add", "below", "index", fmt.Sprint(face.Attrs().Index), "type", "veth", "peer", "name", "below-peer"},
		{"link", "add", "link", "below", "name", "stranger", "type", "macvlan"},
		{"link", "set", "stranger", "netns", here},
	} {
		if out, err := n.PeerCommand("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v in the peer: %v: %s", args, err, out)
		}
	}
	l := up(t, "stranger")
	if l.Attrs().ParentIndex != face.Attrs().Index {
		t.Fatalf("the stranger is on %d", l.Attrs().ParentIndex)
	}
	give(t, l, "192.0.2.66/24")
}

// No 8021q is needed for this: the VLANs are in the tables that the announcer is shown,
// and the tags in real frames through a real switch.
func TestTagsAreInTheFrames(t *testing.T) {
	n := bondtest.New(t)
	m := &machine{
		list: []ifLink{
			{index: 1, name: "net0", mac: faceMAC, mtu: 1500, up: true},
			{index: 2, kind: "vlan", parent: 1, name: "net0.5", mac: faceMAC, mtu: 1500, up: true, vlan: 5, protocol: 0x8100},
			{index: 3, kind: "vlan", parent: 1, name: "net0.100", mac: faceMAC, mtu: 1500, up: true, vlan: 100, protocol: 0x88a8},
			{index: 4, kind: "vlan", parent: 3, name: "net0.100.7", mac: faceMAC, mtu: 1500, up: true, vlan: 7, protocol: 0x8100},
		},
		addrs: map[int][]address{1: addrs("192.0.2.10"), 2: addrs("198.51.100.10", "2001:db8:5::10"), 4: addrs("203.0.113.10")},
		files: map[string]string{"net/igmp": "2\tnet0.5    :     1      V3\n\t\t\t\t" + native("239.5.5.5") + "     1 0:00000000\t\t0\n"},
	}
	a, err := start(Config{Face: 1, Count: 1, Log: slog.Default()}, m, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.SetPort(0, n.Index(n.NIC(0))); err != nil {
		t.Fatal(err)
	}
	c := listen(t, n, bondtest.Peer, bondtest.PeerNIC)
	a.Announce(0)
	tagged := func(tags string, dst mac, what string) string {
		return decoded{src: faceMAC, dst: dst, tags: tags, what: what}.String()
	}
	expect(t, c,
		say(faceMAC, "garp 192.0.2.10"),
		tagged("5", macBroadcast, "garp 198.51.100.10"),
		tagged("100.7", macBroadcast, "garp 203.0.113.10"),
		tagged("100", macBroadcast, "rarp"),
		tagged("5", macAllNodes, "na 2001:db8:5::10 O"),
		tagged("5", mac4(ip4Reports), "igmpv3 to_ex 239.5.5.5 from 198.51.100.10"),
	)
}

// What sockets have joined on the face and on its children is reported again, in the
// version of the queriers. The announcer is not told of it.
func TestMembershipsAreReported(t *testing.T) {
	n := bondtest.New(t)
	face := makeFace(t)
	give(t, face, "192.0.2.10/24")
	mv := child(t, &netlink.Macvlan{LinkAttrs: childAttrs("mv0", macvlanMAC, face), Mode: netlink.MACVLAN_MODE_BRIDGE})
	give(t, mv, "192.0.2.20/24")
	setSysctl(t, "ipv4/conf/mv0/force_igmp_version", "2")
	setSysctl(t, "ipv6/conf/mv0/force_mld_version", "1")
	cfg, _ := config(face, 1, time.Second)
	a := announcer(t, n, cfg)
	c := listen(t, n, bondtest.Peer, bondtest.PeerNIC)

	for _, l := range []netlink.Link{face, mv} {
		defer join(t, l.Attrs().Index, "239.1.2.3", "")()
		defer join(t, l.Attrs().Index, "232.1.2.3", "192.0.2.1")()
		defer join(t, l.Attrs().Index, "ff15::1234", "")()
	}
	a.Announce(0)
	report := func(m, dst mac, what string) string { return decoded{src: m, dst: dst, what: what}.String() }
	expect(t, c,
		say(faceMAC, "garp 192.0.2.10"), say(macvlanMAC, "garp 192.0.2.20"),
		report(faceMAC, mac4(ip4Reports), "igmpv3 allow 232.1.2.3,192.0.2.1; to_ex 239.1.2.3 from 192.0.2.10"),
		report(faceMAC, mac6(ip6Reports), "mldv2 to_ex ff15::1234 from ::"),
		report(macvlanMAC, mac{1, 0, 0x5e, 1, 2, 3}, "igmpv2 232.1.2.3 from 192.0.2.20"),
		report(macvlanMAC, mac{1, 0, 0x5e, 1, 2, 3}, "igmpv2 239.1.2.3 from 192.0.2.20"),
		report(macvlanMAC, mac{0x33, 0x33, 0, 0, 0x12, 0x34}, "mldv1 ff15::1234 from ::"),
	)
	// Nothing forces version 1 any more, but it has been spoken there.
	setSysctl(t, "ipv6/conf/mv0/force_mld_version", "0")
	a.Announce(1)
	bondtest.WaitFor(t, "both versions of MLD", within, func() bool {
		all := strings.Join(c.ours(), "\n")
		return strings.Contains(all, report(macvlanMAC, mac6(ip6Reports), "mldv2 to_ex ff15::1234 from ::")) &&
			strings.Count(all, report(macvlanMAC, mac{0x33, 0x33, 0, 0, 0x12, 0x34}, "mldv1 ff15::1234 from ::")) == 2
	})
}

// A switch that snoops, which checks what it hears, sends groups to the new port at once.
func TestSnoopingSwitchLearnsGroups(t *testing.T) {
	n := bondtest.New(t)
	if out, err := n.SwitchCommand("ip", "link", "set", bondtest.Bridge, "type", "bridge", "mcast_snooping", "1", "mcast_igmp_version", "3", "mcast_mld_version", "2").CombinedOutput(); err != nil {
		t.Fatalf("turn snooping on: %v: %s", err, out)
	}
	face := makeFace(t)
	give(t, face, "192.0.2.10/24")
	give(t, face, fe80.String()+"/64")
	old := child(t, &netlink.Macvlan{LinkAttrs: childAttrs("mv0", macvlanMAC, face), Mode: netlink.MACVLAN_MODE_BRIDGE})
	setSysctl(t, "ipv4/conf/mv0/force_igmp_version", "2")
	setSysctl(t, "ipv6/conf/mv0/force_mld_version", "1")
	for _, group := range []string{"239.1.2.3", "ff15::1234"} {
		defer join(t, face.Attrs().Index, group, "")()
	}
	defer join(t, face.Attrs().Index, "232.1.2.3", "192.0.2.1")()
	defer join(t, face.Attrs().Index, ssm6.String(), source6.String())()
	for _, group := range []string{"239.4.5.6", "ff15::5678"} {
		defer join(t, old.Attrs().Index, group, "")()
	}
	cfg, _ := config(face, 1, time.Second)
	a := announcer(t, n, cfg)
	for s := drivers.Side(0); s <= 1; s++ {
		a.Announce(s)
		out, err := n.SwitchCommand("bridge", "mdb", "show").CombinedOutput()
		if err != nil {
			t.Fatalf("bridge mdb show: %v: %s", err, out)
		}
		for _, group := range []string{"239.1.2.3", "ff15::1234", "232.1.2.3", ssm6.String(), "239.4.5.6", "ff15::5678"} {
			if want := fmt.Sprintf("port %s grp %s ", n.Port(s), group); !strings.Contains(string(out), want) {
				t.Errorf("the switch has no %q in\n%s", want, out)
			}
		}
	}
}

// BenchmarkAnnounce is a common announcement: two addresses of each kind and a guest.
func BenchmarkAnnounce(b *testing.B) {
	n := bondtest.New(b)
	m := &machine{
		list:  []ifLink{{index: 1, name: "net0", mac: faceMAC, mtu: 1500, up: true}},
		addrs: map[int][]address{1: addrs("192.0.2.10", "192.0.2.11", "2001:db8::10", "fe80::1")},
		uc:    map[int][]mac{1: {tapMAC}},
	}
	a, err := start(Config{Face: 1, Count: 1, Log: slog.Default()}, m, func() {})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	if err := a.SetPort(0, n.Index(n.NIC(0))); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		a.Announce(0)
	}
}

// An address is announced only when duplicate address detection has let it pass; nobody
// has to say when that is, as long as there is something to repeat.
func TestTentativeAddressesWait(t *testing.T) {
	n := bondtest.New(t)
	face := makeFace(t)
	setSysctl(t, "ipv6/conf/net0/dad_transmits", "1")
	up(t, "net0-peer") // without carrier there is no detection
	addr, err := netlink.ParseAddr("2001:db8::77/64")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(face, addr); err != nil {
		t.Fatal(err)
	}
	cfg, _ := config(face, 2, 200*time.Millisecond)
	a := announcer(t, n, cfg)
	if s := a.Stats(); s.Addresses != 0 || s.Stations != 1 {
		t.Errorf("a tentative address is ready to be announced: %+v", s)
	}
	c := listen(t, n, bondtest.Peer, bondtest.PeerNIC)
	bondtest.WaitFor(t, "detection has ended", within, func() bool { a.Refresh(); return a.Stats().Addresses == 1 })
	a.Announce(0)
	bondtest.WaitFor(t, "its advertisement", within, func() bool {
		return strings.Contains(strings.Join(c.ours(), "\n"), "na 2001:db8::77 O")
	})
}
