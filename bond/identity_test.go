package bond

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/bond/nic"
	"ft/drivers"
)

// identity is what a face keeps through everything.
type identity struct {
	index     int
	mac       string
	alias     string
	addresses string
}

func (r *rig) identity() identity {
	r.t.Helper()
	l := link(r.t, "net0")
	return identity{l.Index, l.MAC.String(), l.Alias, r.addresses(l.Index)}
}

func (r *rig) addresses(index int) (all string) {
	r.t.Helper()
	have, err := nic.Addresses(index)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, a := range have {
		all += a.String() + " "
	}
	return all
}

// A face without a NIC is the same face, for those who look on and for a successor.
func TestFaceOutlivesItsNICs(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		was := r.identity()
		same := func(when string) {
			t.Helper()
			bondtest.WaitFor(t, "the face as it was, "+when, 5*time.Second, func() bool { return r.identity() == was })
		}
		remove := func() {
			t.Helper()
			r.net.DeleteNIC(0)
			r.net.DeleteNIC(1)
			r.wait("down", func(st drivers.Status) bool {
				return st.State == drivers.FaceDown && st.Sides[0].State == drivers.Removed && st.Sides[1].State == drivers.Removed
			})
			same("without NICs")
		}
		remove()
		r.net.MakeNIC(1)
		r.carries(1)
		r.connects("with one NIC back")
		same("with one NIC")
		r.net.MakeNIC(0)
		r.wait("duplex", duplex)
		remove()
		if err := r.drv.Stop(context.Background(), drivers.HandOver); err != nil {
			t.Fatal(err)
		}
		r.start()
		same("for a successor")
		r.net.MakeNIC(0)
		r.net.MakeNIC(1)
		r.carries(0)
		r.connects("with NICs again")

		// A NIC that an admin takes out leaves as quietly.
		r.attach(1)
		for s := drivers.Side(0); s <= 1; s++ {
			if _, err := r.drv.Detach(context.Background(), s, drivers.Reason{AcceptRisk: drivers.RiskLastSide}); err != nil {
				t.Fatal(err)
			}
		}
		same("with both NICs taken out")
		if err := r.drv.Attach(context.Background(), 0, drivers.Resource{}); err != nil {
			t.Fatal(err)
		}
		r.carries(0)
		r.connects("with a NIC taken in")
		same("at the end")
	})
}

// A predecessor that dies at the worst time: both NICs go and come back with nobody there.
func TestNICsChangeWithNobodyThere(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		was := r.identity()
		if err := r.drv.Stop(context.Background(), drivers.HandOver); err != nil {
			t.Fatal(err)
		}
		r.net.DeleteNIC(0)
		r.net.DeleteNIC(1)
		r.net.MakeNIC(1)
		r.start()
		if now := r.identity(); now != was {
			t.Errorf("the face was %+v and is %+v", was, now)
		}
		r.carries(1)
		r.connects("through the NIC that is new")
		r.net.MakeNIC(0)
		r.wait("side 0 there", func(st drivers.Status) bool { return st.Sides[0].State != drivers.Removed })
		r.attach(0)
	})
}

// Where the kernel turns by itself it does so with no process of ours there, and a
// successor goes on from where it has turned to.
func TestTurnsWithNobodyThere(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		if err := r.drv.Stop(context.Background(), drivers.HandOver); err != nil {
			t.Fatal(err)
		}
		out := r.net.Stream(bondtest.ToPeer, 1000)
		out.WaitArrived(50, 5*time.Second)
		r.net.PullCable(0)
		if kind != "tc" {
			out.WaitArrived(50, 5*time.Second)
		}
		r.start()
		if r.active() != 1 {
			t.Errorf("the successor has side %v active", r.active())
		}
		out.WaitArrived(50, 5*time.Second)
		t.Log(out.Stop())
		r.net.ReturnCable(0)
		r.wait("side 0 seen", func(st drivers.Status) bool { return r.carrier(0) })
		if r.drv.Status().State != drivers.FaceDuplex {
			r.attach(0)
		}
		r.connects("with both")
	})
}

// An admin gives the face another MAC: the driver says that it goes for a successor, which
// has all of the path follow.
func TestFaceGetsAnotherMAC(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		gaveUp := make(chan error, 8)
		r.gaveUp = func(err error) {
			select {
			case gaveUp <- err:
			default:
			}
		}
		l, err := netlink.LinkByName("net0")
		if err != nil {
			t.Fatal(err)
		}
		other := net.HardwareAddr{0x02, 0, 0, 0x65, 0x43, 0x21}
		if err := netlink.LinkSetHardwareAddr(l, other); err != nil {
			t.Fatal(err)
		}
		select {
		case <-gaveUp:
		case <-time.After(5 * time.Second):
			t.Fatal("the driver goes on with a MAC that the face no longer has")
		}
		if err := r.drv.Stop(context.Background(), drivers.HandOver); err != nil {
			t.Fatal(err)
		}
		r.gaveUp = nil
		r.start()
		r.wait("duplex", duplex)
		for range 2 {
			r.connects("with another MAC")
			r.noReflection(other)
			r.toTheOther()
		}
		if now := link(t, "net0").MAC; !slices.Equal(now, other) {
			t.Errorf("the face has the MAC %v", now)
		}
	})
}

// noReflection checks that the face does not hear what it says itself, through the active
// port, and hears others.
func (r *rig) noReflection(mac net.HardwareAddr) {
	r.t.Helper()
	face, port := r.net.Stack(bondtest.Box, "net0"), r.net.Raw(bondtest.Switch, r.net.Port(r.active()))
	port.Send(bondtest.Frame(bondtest.Broadcast, mac, 0, "its own"))
	port.Send(bondtest.Frame(bondtest.Broadcast, bondtest.PeerMAC(), 0, "another's"))
	face.Next("a frame of another's", 5*time.Second, func(f []byte) bool {
		if bondtest.Says("its own")(f) {
			r.t.Errorf("the face hears itself with the MAC %v", mac)
		}
		return bondtest.Says("another's")(f)
	})
}

// A face that something stands on is not removed, unless by force.
func TestFaceInUseStays(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		r.macvlan("child", "02:00:00:12:34:56")
		var refused *drivers.Refused
		if err := r.drv.Stop(context.Background(), drivers.Remove); !errors.As(err, &refused) || refused.Code != drivers.RuleBusy {
			t.Fatalf("removing a face in use: %v", err)
		}
		r.connects("with the face in use")
		r.toTheOther()
		r.connects("through the other port")
	})
}

// Somebody takes a NIC out of the kernel's bond by hand: it does not count as a port that
// it no longer is, and is put back.
func TestNICTakenOutOfTheBond(t *testing.T) {
	if !hasBonding(t) {
		t.Skip("this kernel has no bonding driver: TestKernelBonding runs this in a guest")
	}
	t.Run(datapath.Bonding, func(t *testing.T) {
		r := newRig(t, datapath.Bonding, nil)
		r.attach(1)
		for s := range drivers.Side(2) {
			l, err := netlink.LinkByName(r.net.NIC(s))
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetNoMaster(l); err != nil {
				t.Fatal(err)
			}
			bondtest.WaitFor(t, "the NIC in the bond again", 5*time.Second, func() bool { return link(t, r.net.NIC(s)).Master == link(t, "net0").Index })
			r.wait("duplex", duplex)
			if r.active() != s {
				r.toTheOther()
			}
			r.connects("through the NIC that was taken out")
		}
	})
}

// What cannot be done is refused, and nothing has changed.
func TestRefusalsChangeNothing(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := readyRig(t, kind, nil)
		givesAddress(t, "eth1", "198.51.100.7/24")
		before := r.settled(1)
		r.start()
		r.wait("side 1 refused", func(st drivers.Status) bool { return st.Sides[1].State == drivers.Offline })
		if after := r.traces(1); after != before {
			t.Errorf("eth1 was\n%s\nand is\n%s", before, after)
		}
		var refused *drivers.Refused
		if err := r.drv.Attach(context.Background(), 1, drivers.Resource{}); !errors.As(err, &refused) {
			t.Errorf("a NIC with an address of its own: %v", err)
		}
		r.connects("through the other NIC")
	})
}
