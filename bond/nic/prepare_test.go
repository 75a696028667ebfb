package nic

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ft/bond/bondtest"
)

// A NIC that carries a face is silent by itself and takes what the face wants, and is
// afterwards what it was before.
func TestPreparedAndPutBack(t *testing.T) {
	newNet(t)
	before := settled(t, "eth0")
	b := open(t, filepath.Join(t.TempDir(), "nics"))
	prepare(t, b, 0, "eth0", want())

	now := state(t, "eth0")
	for key, value := range map[string]string{
		"link mtu": "1400",
		"/proc/sys/net/ipv6/conf/eth0/disable_ipv6": "1\n",
		"/proc/sys/net/ipv4/conf/eth0/arp_ignore":   "8\n",
		"link address": bondtest.NICMAC(0).String(),
	} {
		if now[key] != value {
			t.Errorf("%s is %q, want %q", key, now[key], value)
		}
	}
	if flags := now["link flags"]; !strings.Contains(flags, "ALLMULTI") || !strings.Contains(flags, "UP") || strings.Contains(flags, "PROMISC") {
		t.Errorf("flags %s", flags)
	}
	if fdb := now["bridge fdb show dev eth0"]; !strings.Contains(fdb, "02:46:54:00:00:01 self permanent") {
		t.Errorf("the face's MAC is not in the filter:\n%s", fdb)
	}
	if addrs := run(t, "ip addr show dev eth0"); strings.Contains(addrs, "inet") {
		t.Errorf("it has addresses:\n%s", addrs)
	}
	restore(t, b, 0)
	returnsTo(t, "eth0", before)
}

func TestADownNICIsDownAfterwards(t *testing.T) {
	newNet(t)
	run(t, "ip link set eth1 down allmulticast on promisc on mtu 1600")
	run(t, "sysctl -q -w net.ipv6.conf.eth1.disable_ipv6=1 net.ipv4.conf.eth1.arp_ignore=2")
	before := state(t, "eth1")
	b := open(t, filepath.Join(t.TempDir(), "nics"))
	prepare(t, b, 1, "eth1", want())
	if l := named(t, "eth1"); !l.Up || l.MTU != 1400 || !l.AllMulti {
		t.Errorf("prepared: %+v", l)
	}
	restore(t, b, 1)
	returnsTo(t, "eth1", before)
}

func TestWhatAnAdminChangedStays(t *testing.T) {
	newNet(t)
	run(t, "bridge fdb add 02:00:00:00:00:77 dev eth0 self")
	path := filepath.Join(t.TempDir(), "nics")
	prepare(t, open(t, path), 0, "eth0", want())
	run(t, "ip link set eth0 mtu 1480")
	run(t, "sysctl -q -w net.ipv4.conf.eth0.arp_ignore=1")
	run(t, "bridge fdb add 02:00:00:00:00:78 dev eth0 self")
	restore(t, open(t, path), 0)
	now := state(t, "eth0")
	if now["link mtu"] != "1480" || now["/proc/sys/net/ipv4/conf/eth0/arp_ignore"] != "1\n" {
		t.Errorf("MTU %s, arp_ignore %q", now["link mtu"], now["/proc/sys/net/ipv4/conf/eth0/arp_ignore"])
	}
	if now["/proc/sys/net/ipv6/conf/eth0/disable_ipv6"] != "0\n" || strings.Contains(now["link flags"], "ALLMULTI") {
		t.Error("what nobody changed was not put back")
	}
	fdb := now["bridge fdb show dev eth0"]
	if !strings.Contains(fdb, "00:77") || !strings.Contains(fdb, "00:78") || strings.Contains(fdb, "02:46:54") {
		t.Errorf("the filter:\n%s", fdb)
	}
}

// What an admin sets while the bond runs is overruled, and is the original from then on.
func TestTheLastForeignValueIsTheOriginal(t *testing.T) {
	newNet(t)
	path := filepath.Join(t.TempDir(), "nics")
	prepare(t, open(t, path), 0, "eth0", want())
	run(t, "ip link set eth0 mtu 1480")
	prepare(t, open(t, path), 0, "eth0", want())
	if mtu := named(t, "eth0").MTU; mtu != 1400 {
		t.Errorf("MTU %d", mtu)
	}
	restore(t, open(t, path), 0)
	if mtu := named(t, "eth0").MTU; mtu != 1480 {
		t.Errorf("put back to an MTU of %d, want the admin's 1480", mtu)
	}
}

func TestRenamedWhileItCarriesAFace(t *testing.T) {
	newNet(t)
	run(t, "ip link set eth0 down")
	before := state(t, "eth0")
	path := filepath.Join(t.TempDir(), "nics")
	prepare(t, open(t, path), 0, "eth0", want())
	run(t, "ip link set eth0 name other0")
	restore(t, open(t, path), 0)
	run(t, "ip link set other0 name eth0")
	returnsTo(t, "eth0", before)
}

func TestANICThatIsGoneIsPutBack(t *testing.T) {
	n := newNet(t)
	path := filepath.Join(t.TempDir(), "nics")
	b := open(t, path)
	prepare(t, b, 0, "eth0", want())
	gone := named(t, "eth0")
	n.DeleteNIC(0)
	if _, err := b.Prepare(0, gone, want()); !errors.Is(err, ErrNone) {
		t.Errorf("prepare a NIC that is gone: %v, want ErrNone", err)
	}
	if err := b.SyncFilters(named(t, "eth1").Index, faceMAC, [2]int{gone.Index, 0}); err != nil {
		t.Errorf("filters of a NIC that is gone: %v", err)
	}
	restore(t, b, 0)
	restore(t, b, 0)
}

// A NIC that was taken out and put in again, or another one in its place, is a new
// interface: what the old one was like is of no interest.
func TestAnotherNICBeginsAnew(t *testing.T) {
	n := newNet(t)
	path := filepath.Join(t.TempDir(), "nics")
	run(t, "ip link set eth0 mtu 1600")
	prepare(t, open(t, path), 0, "eth0", want())
	n.DeleteNIC(0)
	n.MakeNIC(0)
	run(t, "ip link set eth0 address 02:00:00:00:00:05")
	before := settled(t, "eth0")
	// Until it is prepared it is nobody's.
	restore(t, open(t, path), 0)
	returnsTo(t, "eth0", before)

	n.DeleteNIC(0)
	n.MakeNIC(0)
	prepare(t, open(t, path), 0, "eth0", want())
	n.DeleteNIC(0)
	n.MakeNIC(0)
	before = settled(t, "eth0")
	prepare(t, open(t, path), 0, "eth0", want())
	restore(t, open(t, path), 0)
	returnsTo(t, "eth0", before)
}

// A NIC that is a port no longer, while it is still there, is put back when another takes
// its side.
func TestTheNICBeforeIsPutBack(t *testing.T) {
	newNet(t)
	before := settled(t, "eth0")
	path := filepath.Join(t.TempDir(), "nics")
	prepare(t, open(t, path), 0, "eth0", want())
	prepare(t, open(t, path), 0, "eth1", want())
	returnsTo(t, "eth0", before)
	if mtu := named(t, "eth1").MTU; mtu != 1400 {
		t.Errorf("eth1 has an MTU of %d", mtu)
	}
}

func TestNICsThatChangeSides(t *testing.T) {
	newNet(t)
	before := [2]map[string]string{settled(t, "eth0"), settled(t, "eth1")}
	path := filepath.Join(t.TempDir(), "nics")
	b := open(t, path)
	prepare(t, b, 0, "eth0", want())
	prepare(t, b, 1, "eth1", want())
	b = open(t, path)
	steps := changes(b)
	prepare(t, b, 0, "eth1", want())
	prepare(t, b, 1, "eth0", want())
	if len(*steps) > 0 {
		t.Errorf("it changed %q", *steps)
	}
	b = open(t, path)
	restore(t, b, 1)
	returnsTo(t, "eth0", before[0])
	restore(t, b, 0)
	returnsTo(t, "eth1", before[1])
}

// addMacvlan makes mv0, a NIC with an MTU that is bound to another's, a feature that can
// be asked for, and a driver that refuses entries in its filter. It has been up once: the
// kernel gives an interface its queueing discipline then, and for good.
func addMacvlan(t *testing.T) {
	t.Helper()
	run(t, "ip link add mv0 link eth1 type macvlan mode bridge")
	t.Cleanup(func() { run(t, "ip link del mv0") })
	run(t, "ip link set mv0 up")
	run(t, "ip link set mv0 down")
}

func TestUnfitForThisFace(t *testing.T) {
	newNet(t)
	addMacvlan(t)
	for _, c := range []struct {
		nic   string
		want  Want
		words []string
	}{
		{"eth0", Want{FaceMAC: faceMAC, MTU: 70000}, []string{"eth0", "65535", "70000", "set mtu = 65535"}},
		{"eth0", Want{FaceMAC: bondtest.NICMAC(0), MTU: 1500}, []string{"eth0", bondtest.NICMAC(0).String(), "face's"}},
		// It says that it can, and finds out that the NIC below cannot.
		{"mv0", Want{MTU: 9000}, []string{"mv0", "9000", "1500"}},
	} {
		before := state(t, c.nic)
		_, err := open(t, filepath.Join(t.TempDir(), "nics")).Prepare(0, named(t, c.nic), c.want)
		refusedWith(t, err, c.words...)
		returnsTo(t, c.nic, before)
	}
}

// A NIC whose driver takes no entries in its filter (here a macvlan) takes all frames.
func TestANICWithoutAFilterIsPromiscuous(t *testing.T) {
	n := newNet(t)
	addMacvlan(t)
	face := n.Index("eth0") // any interface with a filter will do
	before := state(t, "mv0")
	path := filepath.Join(t.TempDir(), "nics")
	b := open(t, path)
	notes, err := b.Prepare(0, named(t, "mv0"), want())
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "mv0") || !strings.Contains(notes[0], "promiscuous") {
		t.Fatalf("notes %q, error %v", notes, err)
	}
	if !named(t, "mv0").Promisc {
		t.Error("it is not promiscuous")
	}
	if err := b.SyncFilters(face, faceMAC, [2]int{n.Index("mv0"), 0}); err != nil {
		t.Error(err)
	}
	if !named(t, "mv0").Promisc {
		t.Error("it is not promiscuous after its filter was looked at again")
	}
	restore(t, open(t, path), 0)
	returnsTo(t, "mv0", before)
}

// A macvlan offers large receive offload, which no packet that is sent on survives.
func TestLargeReceiveOffloadIsTurnedOff(t *testing.T) {
	newNet(t)
	addMacvlan(t)
	if err := setFeature("mv0", "rx-lro", true); err != nil {
		t.Fatal(err)
	}
	before := state(t, "mv0")
	if !strings.Contains(before["features"], "large-receive-offload: off [requested on]") {
		t.Fatalf("nobody wants it:\n%s", before["features"])
	}
	b := open(t, filepath.Join(t.TempDir(), "nics"))
	prepare(t, b, 0, "mv0", Want{MTU: 1500})
	if now := run(t, "ethtool -k mv0"); !strings.Contains(now, "large-receive-offload: off\n") {
		t.Errorf("prepared:\n%s", now)
	}
	restore(t, b, 0)
	returnsTo(t, "mv0", before)
}

// What cannot be turned off is said, with what it costs.
func TestWhatCannotBeSetIsNoted(t *testing.T) {
	newNet(t)
	if err := setFeature("eth0", "rx-vlan-filter", true); err == nil {
		t.Error("a veth took a VLAN filter")
	}
	i := slices.IndexFunc(knobs, func(k knob) bool { return k.name == knobLRO })
	was := knobs[i]
	defer func() { knobs[i] = was }()
	knobs[i].get = func(device) (string, bool, error) { return on, true, nil }
	knobs[i].set = func(device, string) error { return errors.New("the driver keeps it on") }
	b := open(t, filepath.Join(t.TempDir(), "nics"))
	notes, err := b.Prepare(0, named(t, "eth0"), want())
	if err != nil || len(notes) != 1 {
		t.Fatalf("notes %q, error %v", notes, err)
	}
	for _, w := range []string{"eth0", "rx-lro", "the driver keeps it on", "are lost"} {
		if !strings.Contains(notes[0], w) {
			t.Errorf("the note lacks %q: %s", w, notes[0])
		}
	}
	if mtu := named(t, "eth0").MTU; mtu != 1400 {
		t.Errorf("the rest was not done: MTU %d", mtu)
	}
}

// The kernel takes the settings of IPv6 away from an interface with a small MTU, and
// brings fresh ones with a greater.
func TestMTUBelowWhatIPv6Needs(t *testing.T) {
	newNet(t)
	run(t, "ip link set eth0 mtu 1000")
	before := state(t, "eth0")
	b := open(t, filepath.Join(t.TempDir(), "nics"))
	prepare(t, b, 0, "eth0", want())
	if now := run(t, "sysctl -n net.ipv6.conf.eth0.disable_ipv6"); now != "1\n" {
		t.Errorf("disable_ipv6 is %q", now)
	}
	restore(t, b, 0)
	returnsTo(t, "eth0", before)

	small := want()
	small.MTU = 1000
	before = settled(t, "eth1")
	prepare(t, b, 1, "eth1", small)
	restore(t, b, 1)
	returnsTo(t, "eth1", before)
}

// The kernel's bonding driver has a NIC's MTU, flags and filter, and leaves it down.
func TestEnslaved(t *testing.T) {
	newNet(t)
	before := settled(t, "eth0")
	path := filepath.Join(t.TempDir(), "nics")
	w := want()
	w.Enslaved = true
	prepare(t, open(t, path), 0, "eth0", w)
	now := state(t, "eth0")
	for _, same := range []string{"link mtu", "link flags"} {
		if now[same] != before[same] {
			t.Errorf("%s was changed from %s to %s", same, before[same], now[same])
		}
	}
	if now["/proc/sys/net/ipv6/conf/eth0/disable_ipv6"] != "1\n" || strings.Contains(now["bridge fdb show dev eth0"], "02:46:54") {
		t.Error("prepared for the wrong path")
	}
	run(t, "ip link set eth0 down")
	prepare(t, open(t, path), 0, "eth0", w)
	restore(t, open(t, path), 0)
	returnsTo(t, "eth0", before)
}

// The MTU of a face can change while NICs carry it.
func TestTheMTUFollowsTheFace(t *testing.T) {
	newNet(t)
	run(t, "ip link set eth0 mtu 1600")
	path := filepath.Join(t.TempDir(), "nics")
	b := open(t, path)
	set := func(mtu int) error {
		w := want()
		w.MTU = mtu
		_, err := b.Prepare(0, named(t, "eth0"), w)
		return err
	}
	// An MTU below what IPv6 needs, in between, does not make the NIC speak.
	for _, mtu := range []int{1500, 1000, 1450} {
		if err := set(mtu); err != nil || named(t, "eth0").MTU != mtu {
			t.Errorf("MTU %d instead of %d, %v", named(t, "eth0").MTU, mtu, err)
		}
	}
	if now := run(t, "sysctl -n net.ipv6.conf.eth0.disable_ipv6"); now != "1\n" {
		t.Errorf("disable_ipv6 is %q", now)
	}
	// What it cannot be given leaves it as it is, in service.
	refusedWith(t, set(70000), "eth0", "65535", "70000")
	refusedWith(t, set(10), "eth0", "10", "1450")
	if l := named(t, "eth0"); l.MTU != 1450 || !l.Up || len(entries(t, "eth0")) != 1 {
		t.Errorf("after an MTU that was refused: %+v, filter %q", l, entries(t, "eth0"))
	}
	restore(t, open(t, path), 0)
	if mtu := named(t, "eth0").MTU; mtu != 1600 {
		t.Errorf("put back to an MTU of %d", mtu)
	}
}
