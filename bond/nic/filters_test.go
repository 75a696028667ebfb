package nic

import (
	"path/filepath"
	"strings"
	"testing"
)

// addFace makes a veth pair as the face is one, and prepares both NICs for it.
func addFace(t *testing.T, b *Book) (face int) {
	t.Helper()
	run(t, "ip link add net0 address 02:46:54:00:00:01 mtu 1400 type veth peer name net0-peer")
	t.Cleanup(func() { run(t, "ip link del net0") })
	run(t, "ip link set net0 up")
	run(t, "ip link set net0-peer up")
	prepare(t, b, 0, "eth0", want())
	prepare(t, b, 1, "eth1", want())
	return named(t, "net0").Index
}

// entries are the unicast entries of a NIC's filter, as bridge shows them.
func entries(t *testing.T, nic string) []string {
	t.Helper()
	var macs []string
	for _, line := range strings.Split(run(t, "bridge fdb show dev "+nic), "\n") {
		mac, rest, _ := strings.Cut(line, " ")
		if strings.Contains(rest, "self permanent") && !strings.HasPrefix(mac, "33:33:") && !strings.HasPrefix(mac, "01:") {
			macs = append(macs, mac)
		}
	}
	return macs
}

func ports(t *testing.T) [2]int {
	t.Helper()
	return [2]int{named(t, "eth0").Index, named(t, "eth1").Index}
}

func syncFilters(t *testing.T, b *Book, face int) {
	t.Helper()
	if err := b.SyncFilters(face, faceMAC, ports(t)); err != nil {
		t.Fatal(err)
	}
}

// A macvlan or macvtap on the face has a MAC that both NICs must take, for as long as it
// is there.
func TestChildrenOfTheFaceAreInBothFilters(t *testing.T) {
	newNet(t)
	before := [2]map[string]string{settled(t, "eth0"), settled(t, "eth1")}
	path := filepath.Join(t.TempDir(), "nics")
	b := open(t, path)
	face := addFace(t, b)
	run(t, "ip link add child0 link net0 address 02:00:00:00:00:c0 type macvlan mode bridge")
	run(t, "ip link add child1 link net0 address 02:00:00:00:00:c1 type macvtap mode bridge")
	run(t, "ip link set child0 up")
	run(t, "ip link set child1 up")
	syncFilters(t, b, face)
	for _, nic := range []string{"eth0", "eth1"} {
		got := strings.Join(entries(t, nic), " ")
		for _, mac := range []string{"02:46:54:00:00:01", "02:00:00:00:00:c0", "02:00:00:00:00:c1"} {
			if strings.Count(got, mac) != 1 {
				t.Errorf("%s has %s, want %s once", nic, got, mac)
			}
		}
		if named(t, nic).Promisc {
			t.Errorf("%s is promiscuous without need", nic)
		}
	}
	steps := changes(b)
	syncFilters(t, b, face)
	if len(*steps) > 0 {
		t.Errorf("again: it changed %q", *steps)
	}

	run(t, "ip link del child0")
	b = open(t, path) // a later process takes them away
	syncFilters(t, b, face)
	for _, nic := range []string{"eth0", "eth1"} {
		got := strings.Join(entries(t, nic), " ")
		if strings.Contains(got, "00:c0") || !strings.Contains(got, "00:c1") {
			t.Errorf("%s has %s after child0 has gone", nic, got)
		}
	}
	restore(t, b, 0)
	restore(t, b, 1)
	returnsTo(t, "eth0", before[0])
	returnsTo(t, "eth1", before[1])
}

// What somebody else has put into a NIC's filter stays, also when the face wanted it too.
func TestForeignEntriesStay(t *testing.T) {
	newNet(t)
	b := open(t, filepath.Join(t.TempDir(), "nics"))
	face := addFace(t, b)
	run(t, "bridge fdb add 02:00:00:00:00:c0 dev eth0 self")
	run(t, "ip link add child0 link net0 address 02:00:00:00:00:c0 type macvlan mode bridge")
	run(t, "ip link set child0 up")
	syncFilters(t, b, face)
	run(t, "ip link del child0")
	syncFilters(t, b, face)
	if got := strings.Join(entries(t, "eth0"), " "); !strings.Contains(got, "00:c0") {
		t.Errorf("the admin's entry is gone: %s", got)
	}
	if got := strings.Join(entries(t, "eth1"), " "); strings.Contains(got, "00:c0") {
		t.Errorf("eth1 still has it: %s", got)
	}
}

// An entry that somebody took out comes again: the face needs it.
func TestEntriesThatWereLostComeAgain(t *testing.T) {
	newNet(t)
	b := open(t, filepath.Join(t.TempDir(), "nics"))
	face := addFace(t, b)
	run(t, "bridge fdb del 02:46:54:00:00:01 dev eth0 self")
	syncFilters(t, b, face)
	if got := entries(t, "eth0"); len(got) != 1 {
		t.Errorf("eth0 has %q", got)
	}
	run(t, "bridge fdb del 02:46:54:00:00:01 dev eth0 self")
	restore(t, b, 0) // also when there is nothing to take out
}

// Behind a face that is in a bridge are MACs that nobody can list.
func TestAFaceInABridgeTakesAllFrames(t *testing.T) {
	newNet(t)
	b := open(t, filepath.Join(t.TempDir(), "nics"))
	face := addFace(t, b)
	run(t, "ip link add child0 link net0 address 02:00:00:00:00:c0 type macvlan mode bridge")
	run(t, "ip link set child0 up")
	run(t, "ip link add br9 type bridge")
	defer run(t, "ip link del br9")
	all := func(step string, want bool) {
		t.Helper()
		syncFilters(t, b, face)
		if p := [2]bool{named(t, "eth0").Promisc, named(t, "eth1").Promisc}; p != [2]bool{want, want} {
			t.Errorf("%s: promiscuous is %v, want %v", step, p, want)
		}
	}
	all("alone", false)
	run(t, "ip link del child0")
	run(t, "ip link set net0 master br9")
	run(t, "ip link set br9 up")
	all("in a bridge", true)
	run(t, "ip link set net0 nomaster")
	all("out of the bridge", false)
	run(t, "ip link set net0 promisc on")
	all("watched", true)
	restore(t, b, 0)
	if named(t, "eth0").Promisc {
		t.Error("eth0 is promiscuous after it was put back")
	}
}

// The ports of the kernel's bonding driver have the filters that it gives them.
func TestFiltersOfPortsOfTheFaceAreLeftAlone(t *testing.T) {
	newNet(t)
	run(t, "ip link add net0 type bridge")
	defer run(t, "ip link del net0")
	run(t, "ip link set eth0 master net0")
	b := open(t, filepath.Join(t.TempDir(), "nics"))
	if err := b.SyncFilters(named(t, "net0").Index, faceMAC, [2]int{named(t, "eth0").Index, 0}); err != nil {
		t.Error(err)
	}
	if got := entries(t, "eth0"); len(got) != 0 {
		t.Errorf("eth0 has %q", got)
	}
}

func TestFiltersOfANICThatIsNotPrepared(t *testing.T) {
	newNet(t)
	b := open(t, filepath.Join(t.TempDir(), "nics"))
	face := addFace(t, b)
	restore(t, b, 1)
	if err := b.SyncFilters(face, faceMAC, ports(t)); err == nil || !strings.Contains(err.Error(), "eth1: it has not been prepared") {
		t.Errorf("got %v", err)
	}
	if got := entries(t, "eth1"); len(got) != 0 {
		t.Errorf("eth1 has %q", got)
	}
	if err := b.SyncFilters(1<<30, faceMAC, ports(t)); err == nil {
		t.Error("a face that is gone has a filter")
	}
}
