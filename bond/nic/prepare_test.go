package nic

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ft/bond/bondtest"
	"ft/drivers"
)

// A NIC that carries a face is silent by itself and takes what the face wants, and is
// afterwards what it was before.
func TestPreparedAndPutBack(t *testing.T) {
	bondtest.New(t)
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
	bondtest.New(t)
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

// changes counts the steps that change a NIC.
func changes(b *Book) *[]string {
	var steps []string
	b.before = func(what string) { steps = append(steps, what) }
	return &steps
}

func TestPreparingAgainChangesNothing(t *testing.T) {
	bondtest.New(t)
	before := settled(t, "eth0")
	path := filepath.Join(t.TempDir(), "nics")
	b := open(t, path)
	first := changes(b)
	prepare(t, b, 0, "eth0", want())
	if len(*first) < 5 {
		t.Errorf("the first time it changed only %q", *first)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	// A later process has only the file.
	for _, b := range []*Book{b, open(t, path)} {
		again := changes(b)
		prepare(t, b, 0, "eth0", want())
		if len(*again) > 0 {
			t.Errorf("again: it changed %q", *again)
		}
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(info, after) {
		t.Errorf("the book was written again without need (%v)", err)
	}
	b = open(t, path)
	other := want()
	other.MTU = 1450
	prepare(t, b, 0, "eth0", other)
	prepare(t, open(t, path), 0, "eth0", want())
	restore(t, open(t, path), 0)
	returnsTo(t, "eth0", before)
	if left, err := os.ReadFile(path); err != nil || strings.Contains(string(left), "eth0") {
		t.Errorf("the book still knows a NIC that was put back: %s, %v", left, err)
	}
}

type crash struct{}

// crashing does something with a book that ends at the nth change, as in a crash. It says
// whether it came that far.
func crashing(t *testing.T, path string, nth int, do func(b *Book) error) (crashed bool) {
	t.Helper()
	b := open(t, path)
	steps := 0
	b.before = func(string) {
		if steps++; steps == nth {
			panic(crash{})
		}
	}
	defer func() {
		if r := recover(); r != nil {
			if _, ours := r.(crash); !ours {
				panic(r)
			}
			crashed = true
		}
	}()
	if err := do(b); err != nil {
		t.Fatal(err)
	}
	return false
}

// Whatever process dies at whatever change, the next one goes on, and in the end the NIC
// is what it was.
func TestCrashAtEveryChange(t *testing.T) {
	bondtest.New(t)
	run(t, "ip link set eth0 down mtu 1600")
	before := state(t, "eth0")
	preparing := func(mtu int) func(b *Book) error {
		return func(b *Book) error {
			w := want()
			w.MTU = mtu
			_, err := b.Prepare(0, named(t, "eth0"), w)
			return err
		}
	}
	restoring := func(b *Book) error { return b.Restore(0) }

	ends := 0
	for nth := 1; ; nth++ {
		path := filepath.Join(t.TempDir(), "nics")
		crashed := crashing(t, path, nth, preparing(1400))
		switch nth % 3 {
		case 0: // put back at once
		case 1: // gone on with
			crashing(t, path, 0, preparing(1400))
		case 2: // gone on with to something else, and crashed in that too
			crashing(t, path, 1, preparing(1450))
			crashing(t, path, 0, preparing(1400))
		}
		restore(t, open(t, path), 0)
		returnsTo(t, "eth0", before)
		if !crashed {
			break
		}
		ends++
	}
	if ends < 5 {
		t.Errorf("preparing crashed at %d changes only", ends)
	}
	for nth := 1; ; nth++ {
		path := filepath.Join(t.TempDir(), "nics")
		crashing(t, path, 0, preparing(1400))
		crashed := crashing(t, path, nth, restoring)
		if nth%2 == 0 {
			crashing(t, path, 0, preparing(1450))
		}
		restore(t, open(t, path), 0)
		returnsTo(t, "eth0", before)
		if !crashed {
			if nth < 6 {
				t.Errorf("putting back crashed at %d changes only", nth-1)
			}
			return
		}
	}
}

func TestWhatAnAdminChangedStays(t *testing.T) {
	bondtest.New(t)
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
	bondtest.New(t)
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
	bondtest.New(t)
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
	n := bondtest.New(t)
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
	n := bondtest.New(t)
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

// An interface index means nothing in another namespace, or in another boot.
func TestABookOfAnotherPlaceOrTime(t *testing.T) {
	bondtest.New(t)
	for what, elsewhere := range map[string]func(b *Book){
		"another namespace": func(b *Book) { b.netns++ },
		"another boot":      func(b *Book) { b.boot = "00000000-0000-0000-0000-000000000000" },
	} {
		path := filepath.Join(t.TempDir(), "nics")
		there := open(t, path)
		elsewhere(there)
		prepare(t, there, 0, "eth0", want())
		run(t, "ip link set eth0 mtu 1400")
		restore(t, open(t, path), 0)
		if mtu := named(t, "eth0").MTU; mtu != 1400 {
			t.Errorf("%s: the MTU was put back to %d", what, mtu)
		}
		prepare(t, open(t, path), 0, "eth0", Want{FaceMAC: faceMAC, MTU: 1300})
		restore(t, open(t, path), 0)
		if mtu := named(t, "eth0").MTU; mtu != 1400 {
			t.Errorf("%s: the original was taken for %d, want 1400", what, mtu)
		}
		run(t, "ip link set eth0 mtu 1500")
	}
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
	bondtest.New(t)
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
	n := bondtest.New(t)
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
	bondtest.New(t)
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
	bondtest.New(t)
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
	bondtest.New(t)
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
	bondtest.New(t)
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

func TestABookThatCannotBeWrittenChangesNothing(t *testing.T) {
	bondtest.New(t)
	before := settled(t, "eth0")
	b := open(t, filepath.Join(t.TempDir(), "missing", "nics"))
	if _, err := b.Prepare(0, named(t, "eth0"), want()); err == nil || !strings.Contains(err.Error(), "write down") {
		t.Errorf("got %v", err)
	}
	returnsTo(t, "eth0", before)
	if _, err := b.Prepare(drivers.Whole, named(t, "eth0"), want()); err == nil {
		t.Error("both sides at once were prepared")
	}
}

func TestADamagedBookIsSetAside(t *testing.T) {
	bondtest.New(t)
	for i, text := range []string{"", "{", `{"version":2,"boot":"","sides":[null,null]}`, `{"version":1}x`} {
		path := filepath.Join(t.TempDir(), "nics")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b := open(t, path)
		notes, err := b.Prepare(0, named(t, "eth0"), want())
		if err != nil || len(notes) != 1 || !strings.Contains(notes[0], path) || !strings.Contains(notes[0], "ip link set") {
			t.Errorf("%d: notes %q, error %v", i, notes, err)
		}
		if aside, err := os.ReadFile(path + ".damaged"); err != nil || string(aside) != text {
			t.Errorf("%d: set aside is %q, %v", i, aside, err)
		}
		prepare(t, b, 0, "eth0", want()) // said once
		restore(t, b, 0)
	}
}

func FuzzBook(f *testing.F) {
	f.Add([]byte(`{"version":1,"boot":"b","sides":[{"netns":1,"index":2,"name":"eth0","perm_mac":"00:00:5e:00:53:10","changed":{"mtu":{"original":"1500","ours":["1400","1450"]}},"filters":["02:46:54:00:00:01"]},null]}`))
	f.Add([]byte(`{"version":1,"sides":[{"index":2,"changed":{"../../x":{"original":"1","ours":[]}}},null]}`))
	f.Add([]byte(`{"version":1,"sides":[null,null]}{}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := decodeBook(text)
		if err != nil {
			return
		}
		for _, r := range p.Sides {
			if r == nil {
				continue
			}
			if r.Index <= 0 {
				t.Fatalf("index %d", r.Index)
			}
			for name, c := range r.Changed {
				if _, known := knobNamed(name); !known {
					t.Fatalf("knob %q", name)
				}
				for _, v := range append(c.Ours, c.Original) {
					var n int32
					if _, err := fmt.Sscan(v, &n); err != nil {
						t.Fatalf("%s = %q: %v", name, v, err)
					}
				}
			}
		}
	})
}
