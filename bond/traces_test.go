package bond

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/bond/nic"
	"ft/drivers"
)

// A bond that is removed leaves nothing on its NICs, whatever was on the face: the kernel's
// test of address lists, and more of what a NIC has. The NIC of side 1 is down before, and
// has an MTU of its own.
func TestRemovalLeavesNoTrace(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		for _, way := range []string{"removed", "taken out"} {
			t.Run(way, func(t *testing.T) {
				r := readyRig(t, kind, nil)
				if err := nic.SetMTU(r.net.Index("eth1"), 2000); err != nil {
					t.Fatal(err)
				}
				r.setUp(1, false)
				before := [2]string{}
				for s := range before {
					before[s] = r.settled(drivers.Side(s))
				}
				r.start()
				r.attach(1)
				// A macvlan adds to the unicast lists, a link-local address to the multicast ones.
				child := r.macvlan("child", "02:00:00:12:34:56")
				givesAddress(t, "net0", "fe80::78:9abc/64")
				group := "33:33:ff:78:9a:bc"
				bondtest.WaitFor(t, "the child's MAC in the filter of the active NIC", 5*time.Second, func() bool {
					return strings.Contains(r.traces(0), "unicast "+child.Attrs().HardwareAddr.String())
				})
				bondtest.WaitFor(t, "the group on the NIC, or all groups", 5*time.Second, func() bool {
					return strings.Contains(r.traces(0), "multicast "+group) || link(t, "eth0").AllMulti
				})
				r.toTheOther()
				if way == "removed" {
					if err := r.drv.Stop(context.Background(), drivers.RemoveForce); err != nil {
						t.Fatal(err)
					}
				} else {
					for s := drivers.Side(0); s <= 1; s++ {
						if _, err := r.drv.Detach(context.Background(), s, drivers.Reason{AcceptRisk: drivers.RiskLastSide}); err != nil {
							t.Fatal(err)
						}
					}
				}
				for s := range before {
					after := ""
					within := time.Now().Add(10 * time.Second) // IPv6 comes back to the NIC in its own time
					for after = r.traces(drivers.Side(s)); after != before[s] && time.Now().Before(within); after = r.traces(drivers.Side(s)) {
						time.Sleep(5 * time.Millisecond)
					}
					if after != before[s] {
						t.Errorf("%s was\n%s\nand is\n%s", r.net.NIC(drivers.Side(s)), before[s], after)
					}
				}
			})
		}
	})
}

// settled are the traces of a NIC that the bond has not touched, once the kernel has done
// what it does to one by itself: IPv6 takes its time.
func (r *rig) settled(s drivers.Side) (traces string) {
	r.t.Helper()
	name := r.net.NIC(s)
	bondtest.WaitFor(r.t, "nothing of "+name+" to move any more", 10*time.Second, func() bool {
		was := traces
		traces = r.traces(s)
		isUp := link(r.t, name).Up
		return !tentative(r.t, r.net.Index(name)) && traces == was && isUp == strings.Contains(traces, "address fe80:")
	})
	return traces
}

// traces are all that a NIC shows of what was done to it.
func (r *rig) traces(s drivers.Side) string {
	r.t.Helper()
	name := r.net.NIC(s)
	l, err := netlink.LinkByName(name)
	if err != nil {
		r.t.Fatal(err)
	}
	a := l.Attrs()
	lines := []string{fmt.Sprintf("MAC %v, MTU %d, alias %q, master %d, promiscuity %d, allmulti %d, flags %x", a.HardwareAddr, a.MTU, a.Alias, a.MasterIndex, a.Promisc, a.Allmulti,
		a.RawFlags&(unix.IFF_UP|unix.IFF_PROMISC|unix.IFF_ALLMULTI|unix.IFF_SLAVE|unix.IFF_NOARP))}
	for _, knob := range []string{"ipv6/conf/" + name + "/disable_ipv6", "ipv4/conf/" + name + "/arp_ignore"} {
		text, err := os.ReadFile(filepath.Join("/proc/sys/net", knob))
		if err != nil {
			r.t.Fatal(err)
		}
		lines = append(lines, knob+" "+strings.TrimSpace(string(text)))
	}
	filter, err := netlink.NeighList(a.Index, unix.AF_BRIDGE)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, n := range filter {
		if n.HardwareAddr[0]&1 == 0 {
			lines = append(lines, fmt.Sprintf("unicast %v", n.HardwareAddr))
		}
	}
	groups, err := os.ReadFile("/proc/net/dev_mcast") // index, name, users, static, MAC
	if err != nil {
		r.t.Fatal(err)
	}
	for _, g := range strings.Split(string(groups), "\n") {
		if f := strings.Fields(g); len(f) == 5 && f[1] == name {
			lines = append(lines, "multicast "+colons(f[4])+" by "+f[2])
		}
	}
	qdiscs, err := netlink.QdiscList(l)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, q := range qdiscs {
		lines = append(lines, "qdisc "+q.Type())
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, x := range addrs {
		lines = append(lines, "address "+x.IPNet.String())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func colons(hex string) string {
	var parts []string
	for i := 0; i+2 <= len(hex); i += 2 {
		parts = append(parts, hex[i:i+2])
	}
	return strings.Join(parts, ":")
}

func tentative(t *testing.T, index int) bool {
	t.Helper()
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
}

func givesAddress(t *testing.T, name, cidr string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(l, a); err != nil {
		t.Fatalf("give %s to %s: %v", cidr, name, err)
	}
}
