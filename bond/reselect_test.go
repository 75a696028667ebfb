package bond

import (
	"net/netip"
	"testing"
	"time"

	"ft/bond/bondtest"
	"ft/drivers"
)

// What primary and reselect promise, as the kernel's own tests of primary_reselect check
// it: with carriers alone, with probes over IPv4, and over IPv6. An admin's `ip link set
// down` is a failure like any other.
func TestReselect(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		for _, c := range []struct {
			policy Reselect
			probe  string
			back   drivers.Side // who carries the face when the primary port is back
		}{
			{ReselectAlways, "", 1},
			{ReselectBetter, bondtest.PeerIP4, 0}, // NICs of equal speed
			{ReselectFailure, bondtest.PeerIP6, 0},
		} {
			t.Run(string(c.policy), func(t *testing.T) {
				r := newRig(t, kind, func(o *Options) {
					o.Primary, o.Reselect = 1, c.policy
					if c.probe != "" {
						o.Probe, o.ProbeInterval = []netip.Addr{netip.MustParseAddr(c.probe)}, 50*time.Millisecond
					}
				})
				r.attach(0)
				if r.active() != 1 {
					t.Fatalf("side %v is active at the start, not the primary", r.active())
				}
				r.setUp(1, false)
				r.carries(0)
				r.connects("with the primary down")
				r.setUp(1, true)
				r.wait("duplex", duplex)
				r.carries(c.back)
				r.connects("with the primary back")
				if c.back != 1 {
					r.setUp(0, false)
					r.carries(1)
					r.connects("with the other down")
					r.setUp(0, true)
					r.wait("duplex", duplex)
				}
				if r.active() != 1 {
					t.Error("the other port's return took the face from the primary")
				}
			})
		}
	})
}

// A port that waits for the up-delay serves at once when there is no other: the kernel's
// test of recovery in mode 1.
func TestRecoveryDoesNotWaitForUpDelay(t *testing.T) {
	const updelay = 20 * time.Second
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, func(o *Options) { o.UpDelay = updelay })
		r.attach(1)
		r.net.PullCable(0)
		r.carries(1)
		r.net.ReturnCable(0)
		r.wait("the up-delay to run", func(st drivers.Status) bool { return st.Sides[0].State == drivers.Syncing })
		recovers := func(s drivers.Side, to func()) {
			t.Helper()
			since := time.Now()
			to()
			r.carries(s)
			if took := time.Since(since); took > updelay/2 {
				t.Errorf("the recovery took %v: it must not wait for %v", took, updelay)
			}
		}
		recovers(0, func() { r.net.PullCable(1) })
		r.connects("with the first cable back")

		r.net.PullCable(0)
		r.wait("down", func(st drivers.Status) bool { return st.State == drivers.FaceDown })
		recovers(1, func() { r.net.ReturnCable(1) })
		r.connects("with the second cable back")
	})
}

// A carrier that is back within the down-delay was never lost.
func TestDownDelay(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, func(o *Options) { o.DownDelay = time.Minute })
		r.attach(1)
		r.connects("at the start") // a sender who does not know the peer's MAC would wait
		r.net.PullCable(0)
		bondtest.WaitFor(t, "the cable seen out", 5*time.Second, func() bool { return !r.carrier(0) })
		s := r.net.Stream(bondtest.ToPeer, 1000)
		s.WaitSent(300, 5*time.Second) // also longer than the kernel's own look at the carriers takes
		r.net.ReturnCable(0)
		bondtest.WaitFor(t, "the cable seen in", 5*time.Second, func() bool { return r.carrier(0) })
		s.WaitArrived(50, 5*time.Second)
		s.Stop()
		r.connects("with the cable back")
		if st := r.drv.Status(); !st.Sides[0].Active || st.State != drivers.FaceDuplex || st.Stats["failovers"] != uint64(0) || st.Stats["kernel_turns"] != uint64(0) {
			t.Errorf("a short loss of carrier was acted on: %v, active %v, %v failovers, %v turns of the kernel", st.State, r.active(), st.Stats["failovers"], st.Stats["kernel_turns"])
		}
	})
}

// A cable that flaps under a policy that always comes back to it: no more failovers than
// damping allows, and one event that says so.
func TestFlappingCable(t *testing.T) {
	onEachPath(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, func(o *Options) {
			o.Reselect, o.UpDelay, o.FlapWindow, o.FlapHold = ReselectAlways, 0, time.Minute, time.Second
		})
		r.attach(1)
		for range 3 * DefaultFlapMax {
			r.net.PullCable(0)
			bondtest.WaitFor(t, "the cable seen out", 5*time.Second, func() bool { return !r.carrier(0) })
			r.net.ReturnCable(0)
			bondtest.WaitFor(t, "the cable seen in", 5*time.Second, func() bool { return r.carrier(0) })
		}
		if n := r.drv.Status().Stats["failovers"].(uint64); n > DefaultFlapMax+1 {
			t.Errorf("%d failovers, damping allows %d", n, DefaultFlapMax+1)
		}
		r.wait("duplex after the hold", duplex)
		r.carries(0)
		faults := 0
		for _, ev := range r.events() {
			if ev.Fault != "" {
				faults++
			}
		}
		if faults != 1 {
			t.Errorf("the storm was reported %d times as a fault, not once", faults)
		}
		r.connects("after the storm")
	})
}

// carrier is what the driver has seen of a NIC's.
func (r *rig) carrier(s drivers.Side) bool { return r.port(s)["carrier"] == true }
