package nic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ft/bond/bondtest"
	"ft/drivers"
)

func TestMain(m *testing.M) { bondtest.Main(m) }

// newNet is a box whose interfaces have their link-local addresses at once: detection of
// duplicates takes the kernel a second or two, each time.
func newNet(t testing.TB) *bondtest.Net {
	t.Helper()
	run(t, "sysctl -q -w net.ipv6.conf.default.accept_dad=0")
	t.Cleanup(func() { run(t, "sysctl -q -w net.ipv6.conf.default.accept_dad=1") })
	return bondtest.New(t)
}

// run runs a command in the box: what ip and bridge say is what the kernel says, without
// the code under test.
func run(t testing.TB, command string) string {
	t.Helper()
	args := strings.Fields(command)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// named is a link that must be there.
func named(t testing.TB, name string) Link {
	t.Helper()
	l, err := ByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// state is all that can be seen of a NIC from outside: its attributes, features, sysctls,
// address filter and multicast lists.
func state(t testing.TB, name string) map[string]string {
	t.Helper()
	s := map[string]string{"features": run(t, "ethtool -k "+name)}
	var attributes []map[string]any
	if err := json.Unmarshal([]byte(run(t, "ip -d -j link show dev "+name)), &attributes); err != nil {
		t.Fatal(err)
	}
	for k, v := range attributes[0] {
		s["link "+k] = fmt.Sprint(v)
	}
	for _, list := range []string{"bridge fdb show dev " + name, "ip maddr show dev " + name} {
		lines := strings.Split(strings.TrimSpace(run(t, list)), "\n")
		slices.Sort(lines)
		s[list] = strings.Join(lines, "\n")
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		files, err := filepath.Glob("/proc/sys/net/" + family + "/conf/" + name + "/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil { // stable_secret cannot be read while it is not set
				s[f] = string(b)
			}
		}
	}
	if len(s) < 60 {
		t.Fatalf("%s has a state of %d entries: the test looks in the wrong place", name, len(s))
	}
	return s
}

// returnsTo waits until a NIC is as it was: the kernel makes a link-local address again
// and joins its groups beside us.
func returnsTo(t testing.TB, name string, before map[string]string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		diff := cmp.Diff(before, state(t, name))
		if diff == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not as it was (-before +now):\n%s", name, diff)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// settled is the state of a NIC when the kernel has made its link-local address.
func settled(t testing.TB, name string) map[string]string {
	t.Helper()
	bondtest.WaitFor(t, name+" has a link-local address", 5*time.Second, func() bool {
		out := run(t, "ip -6 addr show dev "+name)
		return strings.Contains(out, "fe80::") && !strings.Contains(out, "tentative")
	})
	return state(t, name)
}

func open(t testing.TB, path string) *Book {
	t.Helper()
	b, err := OpenBook(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// prepare is a Prepare that must succeed and have nothing to say.
func prepare(t testing.TB, b *Book, s drivers.Side, name string, w Want) {
	t.Helper()
	notes, err := b.Prepare(s, named(t, name), w)
	if err != nil {
		t.Fatal(err)
	}
	if len(notes) > 0 {
		t.Fatalf("notes: %q", notes)
	}
}

func restore(t testing.TB, b *Book, s drivers.Side) {
	t.Helper()
	if err := b.Restore(s); err != nil {
		t.Fatal(err)
	}
}

// refusedWith checks that an error is a refusal whose sentence has all those words.
func refusedWith(t testing.TB, err error, words ...string) {
	t.Helper()
	var r *drivers.Refused
	if !errors.As(err, &r) || r.Code != drivers.RuleUnfit {
		t.Fatalf("got %v, want a refusal of the code %q", err, drivers.RuleUnfit)
	}
	for _, w := range words {
		if !strings.Contains(r.Sentence, w) {
			t.Errorf("the sentence lacks %q: %s", w, r.Sentence)
		}
	}
}

var faceMAC = []byte{0x02, 0x46, 0x54, 0, 0, 1}

func want() Want { return Want{FaceMAC: faceMAC, MTU: 1400} }

func TestFindsNICsByEveryName(t *testing.T) {
	newNet(t)
	long := "a-name-that-is-longer-than-an-interface-name-can-be"
	run(t, "ip link property add dev eth0 altname slot0 altname "+long)
	mac := bondtest.NICMAC(0).String()
	for _, spec := range []string{"eth0", "slot0", long, mac, strings.ToUpper(mac)} {
		l, err := Find(spec)
		if err != nil {
			t.Errorf("Find(%q): %v", spec, err)
			continue
		}
		if l.Name != "eth0" || l.Index == 0 || !bytes.Equal(l.MAC, bondtest.NICMAC(0)) || l.MTU != 1500 ||
			l.MaxMTU != 65535 || l.Kind != "veth" || l.Type != "ether" || !l.Up || l.Parent != 0 {
			t.Errorf("Find(%q) is %+v", spec, l)
		}
		if !Matches(spec, l) {
			t.Errorf("Matches(%q) is false for the link that Find finds", spec)
		}
		if Matches(spec, named(t, "eth1")) {
			t.Errorf("Matches(%q) is true for eth1", spec)
		}
		same, err := ByIndex(l.Index)
		if err != nil || !cmp.Equal(same, l) {
			t.Errorf("ByIndex differs from Find: %v, %s", err, cmp.Diff(l, same))
		}
	}

	run(t, "ip link set eth0 down")
	run(t, "ip link set eth0 name renamed0")
	defer run(t, "ip link set renamed0 name eth0")
	if _, err := Find("eth0"); !errors.Is(err, ErrNone) {
		t.Errorf("Find of a name that is no more: %v, want ErrNone", err)
	}
	if l, err := Find("slot0"); err != nil || l.Name != "renamed0" || l.Up {
		t.Errorf("by its alternative name after a rename: %+v, %v", l, err)
	}
}

func TestFindSaysWhatIsWrong(t *testing.T) {
	newNet(t)
	for spec, words := range map[string]string{
		"eth7":                   "there is no such NIC",
		"00:00:5e:00:53:99":      "there is no such NIC",
		"0000:03:00.0":           "there is no such NIC",
		"pci-0000:03:00.0":       "there is no such NIC",
		"":                       "without a name",
		"a/b":                    "cannot be the name",
		"..":                     "cannot be the name",
		"a b":                    "cannot be the name",
		"eth0:1":                 "is no NIC",
		"0000:03:00":             "is no NIC",
		"01:00:5e:00:00:01":      "group's MAC",
		"00:00:00:00:00:00":      "no interface's MAC",
		strings.Repeat("x", 128): "at most 127",
	} {
		_, err := Find(spec)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("Find(%q): %v, want %q in it", spec, err, words)
		}
		if none := strings.HasPrefix(words, "there is no"); errors.Is(err, ErrNone) != none {
			t.Errorf("Find(%q): ErrNone is %v, want %v", spec, !none, none)
		}
	}
	if _, err := ByIndex(0); !errors.Is(err, ErrNone) {
		t.Errorf("ByIndex(0): %v, want ErrNone", err)
	}
	if _, err := ByIndex(1 << 30); !errors.Is(err, ErrNone) {
		t.Errorf("ByIndex of none: %v, want ErrNone", err)
	}
}

// A MAC is that of the NIC, not of what stands on it, and one that several have is
// nobody's name.
func TestAMACMeansTheNICBelow(t *testing.T) {
	newNet(t)
	mac := bondtest.NICMAC(0).String()
	run(t, "ip link add stacked0 link eth0 address "+mac+" type macvlan mode passthru")
	l, err := Find(mac)
	if err != nil || l.Name != "eth0" {
		t.Errorf("got %q, %v, want eth0", l.Name, err)
	}
	if child := named(t, "stacked0"); child.Parent != l.Index || child.Kind != "macvlan" {
		t.Errorf("the macvlan is %+v, want a parent of %d", child, l.Index)
	}
	run(t, "ip link del stacked0")

	run(t, "ip link set eth1 address "+mac)
	if _, err := Find(mac); err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "eth0 and eth1") {
		t.Errorf("two NICs with one MAC: %v", err)
	}
}

func TestPCIAddresses(t *testing.T) {
	l := Link{Name: "enp3s0", PCI: "0000:03:00.0", Type: "ether"}
	for spec, matches := range map[string]bool{
		"0000:03:00.0": true, "pci-0000:03:00.0": true, "0000:03:00.1": false, "0001:03:00.0": false, "10000:03:00.0": false,
	} {
		if Matches(spec, l) != matches {
			t.Errorf("Matches(%q) is %v", spec, !matches)
		}
	}
	if Matches("0000:E1:1F.7", l) || !Matches("0000:E1:1F.7", Link{PCI: "0000:e1:1f.7"}) {
		t.Error("an address in capitals is another than in small letters")
	}
	for _, spec := range []string{"0000:03:00.8", "0000:3:00.0", "000:03:00.0", "0000:03:00.0.0", "pci-:", "pci:03:00.0", "123456789:03:00.0", "0000:0g:00.0"} {
		if _, err := parseSpec(spec); err == nil {
			t.Errorf("%q is taken for a NIC", spec)
		}
	}
}

// A NIC is known by what is burnt in, whoever gave it another MAC.
func TestIdentityIsThePermanentMAC(t *testing.T) {
	own, other := bondtest.NICMAC(0), bondtest.NICMAC(1)
	l := Link{Name: "eth0", MAC: other, PermMAC: own}
	if l.Identity() != own.String() || (Link{MAC: other}).Identity() != other.String() {
		t.Errorf("identities %q and %q", l.Identity(), Link{MAC: other}.Identity())
	}
	if !Matches(own.String(), l) || Matches(other.String(), l) {
		t.Error("a NIC is matched by a MAC that is not its own")
	}
}

func TestLinkSpeed(t *testing.T) {
	n := newNet(t)
	if s, err := LinkSpeed("eth0"); err != nil || s != (Speed{Mbit: 10000, Full: true}) {
		t.Errorf("speed of a veth: %+v, %v", s, err)
	}
	if s, err := LinkSpeed("lo"); err != nil || s != (Speed{}) {
		t.Errorf("speed of lo, which has none: %+v, %v", s, err)
	}
	n.DeleteNIC(0)
	if _, err := LinkSpeed("eth0"); err == nil {
		t.Error("a NIC that is gone has a speed")
	}
	for _, unknown := range []uint32{0, 0xffff, 0xffffffff} {
		if s := speed(unknown, duplexFull); s != (Speed{}) {
			t.Errorf("speed %#x is %+v", unknown, s)
		}
	}
	if s := speed(400000, 0); s != (Speed{Mbit: 400000}) {
		t.Errorf("400 Gbit half duplex is %+v", s)
	}
}

func TestSetters(t *testing.T) {
	newNet(t)
	i := named(t, "eth0").Index
	if err := errors.Join(SetMTU(i, 1300), SetUp(i, false)); err != nil {
		t.Fatal(err)
	}
	if l := named(t, "eth0"); l.MTU != 1300 || l.Up {
		t.Errorf("after an MTU of 1300 and down: %+v", l)
	}
	if err := SetUp(i, true); err != nil || !named(t, "eth0").Up {
		t.Errorf("up: %v", err)
	}
	if err := SetMTU(1<<30, 1300); !errors.Is(err, ErrNone) {
		t.Errorf("MTU of no NIC: %v", err)
	}
}

func FuzzSpec(f *testing.F) {
	for _, s := range []string{"eth0", "0000:03:00.0", "pci-0000:03:00.0", "00:00:5e:00:53:10", "a:b", "", "10000:e1:00.7", "slot 0", "ff:ff:ff:ff:ff:ff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sp, err := parseSpec(s)
		if err != nil {
			if !cmp.Equal(sp, spec{}, cmp.AllowUnexported(spec{})) {
				t.Fatalf("%q is refused (%v) and yet is %+v", s, err, sp)
			}
			return
		}
		kinds, l := 0, Link{Name: "eth0", Type: "ether"}
		if sp.name != "" {
			kinds++
			l.Name = sp.name
		}
		if sp.mac != nil {
			kinds++
			l.MAC = sp.mac
		}
		if sp.pci != "" {
			kinds++
			l.PCI = sp.pci
		}
		if kinds != 1 {
			t.Fatalf("%q is %d kinds of names at once: %+v", s, kinds, sp)
		}
		if !Matches(s, l) {
			t.Fatalf("%q does not match what it names: %+v", s, l)
		}
	})
}
