package tcx

import (
	"testing"
	"time"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
)

func TestTurnsWithoutAProcess(t *testing.T) {
	r := newRig(t)
	s := r.Stream(bondtest.ToPeer, 5000)
	s.WaitArrived(500, 5*time.Second)
	r.Close() // nobody is there any more
	pulled := time.Now()
	r.PullCable(0)
	s.WaitArrived(500, 5*time.Second)
	res := s.Stop()
	t.Logf("cable pulled, nobody acting: %v", res)
	if res.Lost > 5 || res.Duplicated != 0 {
		t.Errorf("a cable pulled under a stream of 5 kHz: %v", res)
	}

	r.path, _ = open(t, r.spec)
	st, turn := r.now()
	if st != (datapath.State{Active: 1, Eligible: [2]bool{false, true}}) || turn.Count != 1 {
		t.Errorf("afterwards: %+v, %+v", st, turn)
	}
	if turn.At.Before(pulled) || turn.At.After(time.Now()) {
		t.Errorf("turned at %v, pulled at %v", turn.At, pulled)
	}
}

func TestTurnsBackOnlyWhenToldTo(t *testing.T) {
	r := newRig(t)
	s := r.Stream(bondtest.ToPeer, 5000)
	for i := 0; i < 4; i++ {
		side := drivers.Side(i % 2)
		s.WaitArrived(200, 5*time.Second)
		r.PullCable(side)
		bondtest.WaitFor(t, "the kernel has turned", 5*time.Second, func() bool { return r.active() == side.Other() })
		s.WaitArrived(200, 5*time.Second)
		r.ReturnCable(side)
		if _, turn := r.now(); turn.Count != uint64(i+1) {
			t.Fatalf("%d turns after %d cables", turn.Count, i+1)
		}
		r.setState(side.Other(), both, false)
	}
	t.Logf("four cables pulled: %v", s.Stop())
}

func TestBothDark(t *testing.T) {
	r := newRig(t)
	w := r.ways()
	r.fault(1, datapath.FaultDark)
	r.fault(0, datapath.FaultDark)
	if n := w.out(20); n != 0 || r.count("port0_dropped_no_carrier") < 20 {
		t.Errorf("%d frames left, %v", n, r.Counters())
	}
	if st, turn := r.now(); st.Active != 0 || turn.Count != 0 {
		t.Errorf("turned to a dark port: %+v, %+v", st, turn)
	}
	r.fault(1, datapath.FaultNone)
	if n := w.out(20); n != 20 {
		t.Errorf("%d of 20 frames left when the other port was well", n)
	}
	if st, turn := r.now(); st.Active != 1 || turn.Count != 1 {
		t.Errorf("the other port is well: %+v, %+v", st, turn)
	}
}

func TestBothCablesOut(t *testing.T) {
	r := newRig(t)
	w := r.ways()
	r.PullCable(1)
	r.PullCable(0)
	if n := w.out(20); n != 0 || r.count("port1_dropped_no_carrier") < 19 {
		t.Errorf("%d frames left, %v", n, r.Counters())
	}
	// One frame was turned over to a port that is dead too; the others ended there.
	if st, turn := r.now(); st.Active != 1 || turn.Count != 1 || r.count("port1_dropped_both_dead") != 1 {
		t.Errorf("ping-pong: %+v, %+v, %v", st, turn, r.Counters())
	}
}

func TestNeverTurnsToAPortThatIsNotEligible(t *testing.T) {
	r := newRig(t)
	w := r.ways()
	r.setState(0, [2]bool{true, false}, false)
	r.PullCable(0)
	if n := w.out(20); n != 0 || r.count("port0_dropped_no_carrier") < 20 {
		t.Errorf("%d frames left, %v", n, r.Counters())
	}
	if st, turn := r.now(); st.Active != 0 || turn.Count != 0 {
		t.Errorf("turned to a port that is not eligible: %+v, %+v", st, turn)
	}
	r.setState(1, both, false)
	if n := w.out(20); n != 20 {
		t.Errorf("%d of 20 frames left by the port that was ordered", n)
	}
}
