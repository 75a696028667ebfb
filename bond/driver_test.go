package bond

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"ft/bond/bondtest"
	"ft/bond/nic"
	"ft/drivers"
)

func TestFailoverIsNotNoticed(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		out, in := r.net.Stream(bondtest.ToPeer, 5000), r.net.Stream(bondtest.FromPeer, 5000)
		out.WaitArrived(500, 5*time.Second)
		for range 4 {
			from := r.active()
			r.net.PullCable(from)
			r.wait("the other port active", func(drivers.Status) bool { return r.active() == from.Other() })
			in.WaitArrived(500, 5*time.Second)
			r.net.ReturnCable(from)
			r.wait("duplex again", duplex)
		}
		for _, s := range []*bondtest.Stream{out, in} {
			res := s.Stop()
			t.Log(kind, res)
			if res.Duplicated > 0 {
				t.Errorf("%v: %d frames came twice", res, res.Duplicated)
			}
		}
		if n := r.drv.Status().Stats["failovers"]; n != uint64(4) {
			t.Errorf("%v failovers were counted, not 4", n)
		}
	})
}

func TestBothCablesOut(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		r.net.PullCable(0)
		r.net.PullCable(1)
		r.wait("down", func(st drivers.Status) bool { return st.State == drivers.FaceDown })
		bondtest.WaitFor(t, "no carrier on the face", 2*time.Second, func() bool { return !link(t, "net0").Carrier })
		have, err := nic.Addresses(link(t, "net0").Index)
		if err != nil || len(have) != 2 {
			t.Fatalf("the face has the addresses %v (%v), not its two", have, err)
		}
		r.net.ReturnCable(1)
		r.wait("simplex", func(st drivers.Status) bool { return st.State == drivers.FaceSimplex && st.Sides[1].Active })
		bondtest.WaitFor(t, "carrier on the face", 2*time.Second, func() bool { return link(t, "net0").Carrier })
		r.net.Stream(bondtest.FromPeer, 1000).WaitArrived(100, 5*time.Second)
	})
}

func TestNICVanishesAndReturns(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		s := r.net.Stream(bondtest.FromPeer, 5000)
		s.WaitArrived(200, 5*time.Second)
		r.net.DeleteNIC(0)
		r.wait("removed", func(st drivers.Status) bool { return st.Sides[0].State == drivers.Removed && st.Sides[1].Active })
		s.WaitArrived(500, 5*time.Second)
		var refused *drivers.Refused
		if err := r.drv.Attach(context.Background(), 0, drivers.Resource{}); !errors.As(err, &refused) || refused.Code != drivers.RuleWaits {
			t.Errorf("attaching a NIC that is gone: %v", err)
		}
		r.net.MakeNIC(0)
		r.wait("duplex again", duplex)
		if err := r.drv.Switch(context.Background()); err != nil {
			t.Fatal(err)
		}
		s.WaitArrived(500, 5*time.Second)
		t.Log(s.Stop())
	})
}

func TestSilentPathIsLeft(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, func(o *Options) {
			o.Probe = []netip.Addr{netip.MustParseAddr(bondtest.PeerIP4)}
			o.ProbeInterval = 20 * time.Millisecond
		})
		r.attach(1)
		r.pathsGood()
		r.net.SilencePath(0)
		st := r.wait("the other port", func(st drivers.Status) bool { return st.Sides[1].Active })
		if st.Sides[0].State != drivers.Shot || !strings.Contains(st.Sides[0].Reason, "path behind eth0 is dead") {
			t.Errorf("side 0 is %v: %s", st.Sides[0].State, st.Sides[0].Reason)
		}
		r.net.SilencePath(1) // now it is the target that is dead, for all that can be known
		r.wait("both in service", duplex)
		r.net.RestorePath(0)
		r.wait("the path that answers", func(st drivers.Status) bool { return st.Sides[0].Active })
	})
}

func TestDetachAttach(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		if _, err := r.drv.Detach(context.Background(), 0, drivers.Reason{Text: "by hand"}); err != nil {
			t.Fatal(err)
		}
		if r.active() != 1 {
			t.Fatal("the port that was taken out is active")
		}
		var refused *drivers.Refused
		if _, err := r.drv.Detach(context.Background(), 1, drivers.Reason{}); !errors.As(err, &refused) || refused.Code != drivers.RuleLastSide {
			t.Fatalf("taking out the last port: %v", err)
		}
		r.attach(0)
		if _, err := r.drv.Detach(context.Background(), 1, drivers.Reason{}); err != nil {
			t.Fatal(err)
		}
		if after := link(t, "eth1"); after.AllMulti {
			t.Errorf("eth1 was given back as the bond needed it: %+v", after)
		}
		r.net.Stream(bondtest.ToPeer, 1000).WaitArrived(100, 5*time.Second)
	})
}

func TestSuccessorAdopts(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		if err := r.drv.Switch(context.Background()); err != nil {
			t.Fatal(err)
		}
		s := r.net.Stream(bondtest.FromPeer, 5000)
		s.WaitArrived(200, 5*time.Second)
		mac := link(t, "net0").MAC.String()
		if err := r.drv.Stop(context.Background(), drivers.HandOver); err != nil {
			t.Fatal(err)
		}
		s.WaitArrived(200, 5*time.Second) // nobody drives it
		r.start()
		st := r.drv.Status()
		if st.State != drivers.FaceDuplex || !st.Sides[1].Active {
			t.Errorf("the successor finds %v, active %v %v", st.State, st.Sides[0].Active, st.Sides[1].Active)
		}
		s.WaitArrived(200, 5*time.Second)
		if res := s.Stop(); res.Lost > 0 || res.Duplicated > 0 {
			t.Errorf("a successor costs packets: %v", res)
		}
		if now := link(t, "net0").MAC.String(); now != mac {
			t.Errorf("the face's MAC was %s and is %s", mac, now)
		}
	})
}

func TestDrills(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, func(o *Options) {
			o.Probe = []netip.Addr{netip.MustParseAddr(bondtest.PeerIP4)}
			o.ProbeInterval = 20 * time.Millisecond
		})
		r.attach(1)
		inject := func(s drivers.Side, name string, args ...string) {
			t.Helper()
			if err := r.drv.Inject(context.Background(), s, drivers.Fault{Name: name, Args: args}); err != nil {
				t.Fatal(err)
			}
		}
		inject(0, "cable-pull")
		r.wait("the other port", func(st drivers.Status) bool { return st.Sides[1].Active && st.Sides[0].State == drivers.Shot })
		inject(0, "cable-return")
		r.wait("duplex", duplex)
		r.pathsGood()
		inject(1, "silent-path")
		r.wait("the other port", func(st drivers.Status) bool { return st.Sides[0].Active && st.Sides[1].State == drivers.Shot })
		inject(1, "clear")
		r.wait("duplex", duplex)
		inject(0, "remove")
		r.wait("removed", func(st drivers.Status) bool { return st.Sides[0].State == drivers.Removed && st.Sides[1].Active })
		inject(0, "return")
		r.wait("duplex", duplex)
		inject(1, "flap", "100")
		st := r.wait("damped", func(st drivers.Status) bool { return strings.Contains(st.Sides[1].Reason, "flaps") })
		if n := st.Stats["failovers"].(uint64); n > 4+DefaultFlapMax+1 {
			t.Errorf("%d failovers", n)
		}
		inject(1, "clear")
		var refused *drivers.Refused
		if err := r.drv.Inject(context.Background(), 0, drivers.Fault{Name: "fire"}); !errors.As(err, &refused) {
			t.Errorf("an unknown fault: %v", err)
		}
	})
}

func TestRemoveLeavesNothing(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		if err := r.drv.Stop(context.Background(), drivers.Remove); err != nil {
			t.Fatal(err)
		}
		if _, err := nic.ByName("net0"); !errors.Is(err, nic.ErrNone) {
			t.Errorf("the face is still there: %v", err)
		}
		for _, name := range []string{"eth0", "eth1"} {
			if l := link(t, name); l.AllMulti {
				t.Errorf("%s is as the bond needed it: %+v", name, l)
			}
		}
		left, err := os.ReadDir(r.cfg.RunDir)
		if err != nil || len(left) > 0 {
			t.Errorf("left in the run directory: %v (%v)", left, err)
		}
	})
}

func TestMTUFollowsTheFace(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		r.attach(1)
		if err := nic.SetMTU(link(t, "net0").Index, 4000); err != nil {
			t.Fatal(err)
		}
		bondtest.WaitFor(t, "an MTU of 4000 on both NICs", 5*time.Second, func() bool { return link(t, "eth0").MTU == 4000 && link(t, "eth1").MTU == 4000 })
		r.net.DeleteNIC(1)
		r.net.MakeNIC(1)
		bondtest.WaitFor(t, "an MTU of 4000 on the NIC that came back", 5*time.Second, func() bool { return link(t, "eth1").MTU == 4000 })
		r.wait("duplex again", duplex)
		// Less than IPv6 takes, and more again: the kernel gives the NICs fresh settings of
		// IPv6 then, by which they would speak it themselves (addrconf_notify).
		for _, mtu := range []int{1000, 1500} {
			if err := nic.SetMTU(link(t, "net0").Index, mtu); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"eth0", "eth1"} {
				bondtest.WaitFor(t, fmt.Sprintf("an MTU of %d on %s", mtu, name), 5*time.Second, func() bool { return link(t, name).MTU == mtu })
			}
		}
		for _, name := range []string{"eth0", "eth1"} {
			bondtest.WaitFor(t, "no IPv6 of its own on "+name, 5*time.Second, func() bool {
				text, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
				return err == nil && strings.TrimSpace(string(text)) == "1"
			})
		}
	})
}
