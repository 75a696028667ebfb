package bond

import (
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
	"ft/drivers/kerneltest"
)

// TestKernelBondingCompared runs the comparison where there is something to compare with.
func TestKernelBondingCompared(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it measures; make test-kernels runs this")
	}
	kerneltest.RunTests(t, kerneltest.Options{Modules: guestModules, Args: []string{"-test.run=^TestFewerLosses"}}, "ft/bond")
}

// contender is a face that is to survive pulled cables.
type contender interface {
	carrying() drivers.Side // the active port, when both are ready
	network() *bondtest.Net
}

// losses of a contender over all of its pulled cables.
type losses struct {
	name       string
	lost, sent int
	longest    time.Duration
	twice      int
}

func (l losses) String() string {
	return fmt.Sprintf("%-24s lost %5d of %6d, longest gap %v", l.name, l.lost, l.sent, l.longest.Round(100*time.Microsecond))
}

// The same streams and the same pulled cables for the kernel's bonding driver as it is used
// by itself, and for ours over the paths of that kernel: ours lose less. How many times
// less is printed, and measured by bond/bench.
func TestFewerLossesThanKernelBonding(t *testing.T) {
	if !hasBonding(t) {
		t.Skip("this kernel has no bonding driver: TestKernelBondingCompared runs this in a guest")
	}
	var theirs losses
	t.Run("the kernel's", func(t *testing.T) { theirs = endure(t, "kernel bonding", newKernelBond(t)) })
	for _, kind := range []string{datapath.TCX, datapath.Bonding} {
		t.Run("ours over "+kind, func(t *testing.T) {
			r := newRig(t, kind, nil)
			r.attach(1)
			ours := endure(t, "ours over "+kind, r)
			ratio := "none lost here"
			if ours.lost > 0 {
				ratio = fmt.Sprintf("%.1f times fewer", float64(theirs.lost)/float64(ours.lost))
			}
			t.Logf("%v", theirs)
			t.Logf("%v: %s", ours, ratio)
			if ours.lost >= theirs.lost {
				t.Errorf("the kernel's own bonding lost %d, ours %d", theirs.lost, ours.lost)
			}
			if ours.twice > 0 {
				t.Errorf("%d datagrams came twice", ours.twice)
			}
		})
	}
}

// endure pulls the active cable twice under a stream in each direction: one at a time, for
// what goes one way teaches the switch the other.
func endure(t *testing.T, name string, c contender) losses {
	t.Helper()
	const rate, calm = 5000, 100
	all := losses{name: name}
	n := c.network()
	for _, d := range []bondtest.Direction{bondtest.ToPeer, bondtest.FromPeer} {
		for range 2 {
			at := c.carrying()
			switchReady(t, n)
			s := n.Stream(d, rate)
			s.WaitArrived(calm, 10*time.Second)
			n.PullCable(at)
			s.WaitSent(calm, 10*time.Second)
			s.WaitArrived(calm, 10*time.Second)
			res := s.Stop()
			t.Logf("%s, %v: %v", name, d, res)
			all.lost, all.sent, all.twice = all.lost+res.Lost, all.sent+res.Sent, all.twice+res.Duplicated
			all.longest = max(all.longest, res.LongestGap)
			n.ReturnCable(at)
		}
	}
	return all
}

func (r *rig) network() *bondtest.Net { return r.net }

func (r *rig) carrying() drivers.Side {
	r.t.Helper()
	r.wait("duplex", duplex)
	return r.active()
}

// kernelBond is a bond of the kernel's as an admin sets one up.
type kernelBond struct {
	t    *testing.T
	net  *bondtest.Net
	link *netlink.Bond
}

func newKernelBond(t *testing.T) *kernelBond {
	t.Helper()
	k := &kernelBond{t: t, net: bondtest.New(t)}
	la := netlink.NewLinkAttrs()
	la.Name = "net0"
	k.link = netlink.NewLinkBond(la)
	k.link.Mode, k.link.Miimon, k.link.NumPeerNotif = netlink.BOND_MODE_ACTIVE_BACKUP, 100, 1
	if err := netlink.LinkAdd(k.link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(k.link); err != nil {
			t.Error(err)
		}
	})
	for s := range drivers.Side(2) {
		port := k.port(s)
		if err := netlink.LinkSetDown(port); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetMaster(port, k.link); err != nil {
			t.Fatal(err)
		}
	}
	k.net.GiveAddresses("net0")
	return k
}

func (k *kernelBond) network() *bondtest.Net { return k.net }

func (k *kernelBond) port(s drivers.Side) netlink.Link {
	k.t.Helper()
	l, err := netlink.LinkByName(k.net.NIC(s))
	if err != nil {
		k.t.Fatal(err)
	}
	return l
}

func (k *kernelBond) carrying() (active drivers.Side) {
	k.t.Helper()
	bondtest.WaitFor(k.t, "both ports of the kernel's bond up", 10*time.Second, func() bool {
		active = drivers.Whole
		for s := range drivers.Side(2) {
			port, ok := k.port(s).Attrs().Slave.(*netlink.BondSlave)
			if !ok || port.MiiStatus != netlink.BondLinkUp {
				return false
			}
			if port.State == netlink.BondStateActive {
				active = s
			}
		}
		return active.Valid()
	})
	return active
}
