package chipset

import (
	"testing"
	"time"

	"ft/chipset/module"
)

// guestClock is a guest that runs at a speed of its own under the grants of a clock.
type guestClock struct {
	clock
	now   time.Time
	guest uint64 // ticks
}

// run lets a quantum of steps take so long.
func (g *guestClock) run(t *testing.T, steps uint64, took time.Duration) {
	t.Helper()
	in := g.grant(g.now, 0)
	if in.Kind != module.InputTime || in.Den == 0 || in.Status != module.AtLeast {
		t.Fatalf("granted %+v at %d", in, g.guest)
	}
	if in.Base < g.guest { // as a module does it
		in.Base, in.Den = g.guest, in.Den*2
	}
	g.guest = in.Base + steps*uint64(in.Num)/uint64(in.Den)
	g.now = g.now.Add(took)
	g.ran(steps, took)
}

func (g *guestClock) lag() time.Duration { return g.now.Sub(g.when(g.guest)) }

func newGuestClock() *guestClock {
	c := newClock()
	return &guestClock{clock: c, now: c.began}
}

// A guest's clock keeps wall time: within a few quanta at any speed, also when the speed
// changes by a hundred.
func TestGuestKeepsWallTime(t *testing.T) {
	g := newGuestClock()
	for _, speed := range []float64{300e6, 3e6, 300e6, 50e6} {
		took := time.Duration(quantum / speed * 1e9)
		for range 200 {
			g.run(t, quantum, took)
		}
		for range 1000 {
			g.run(t, quantum, took)
			if lag := g.lag(); lag > took || lag < -took {
				t.Fatalf("at %.0f M steps/s a quantum of %v leaves the guest %v behind the wall", speed/1e6, took, lag)
			}
		}
	}
}

// A guest that slept finds the time that passed.
func TestGuestTimeAfterSleep(t *testing.T) {
	g := newGuestClock()
	g.run(t, quantum, time.Millisecond)
	g.now = g.now.Add(time.Hour)
	g.run(t, 10, time.Microsecond)
	if lag := g.lag(); lag < 0 || lag > time.Millisecond {
		t.Errorf("%v behind", lag)
	}
}

// Whatever was measured, the rate that is granted can be granted.
func TestRatesAreBounded(t *testing.T) {
	g := newGuestClock()
	for _, took := range []time.Duration{1, time.Hour, -time.Second, 0} {
		for range 1000 {
			g.ran(1<<40, took)
			g.ran(2000, took)
			if in := g.grant(g.now, 4*quantum); in.Den == 0 || in.Num == 0 {
				t.Fatalf("after %v: %+v", took, in)
			}
		}
	}
}
