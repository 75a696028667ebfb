package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ft/drivers"
)

func TestProcessesAreAddedUp(t *testing.T) {
	first := spent{time.Second, map[string]time.Duration{"chipset": 10, "cpu0": 100}, 1000}
	second := spent{3 * time.Second, map[string]time.Duration{"chipset": 30, "cpu0": 400, "cpu1": 50}, 4000}
	d := second.since(first)
	if d.wall != 2*time.Second || d.steps != 3000 || d.cpu() != 20+300+50 || second.of["cpu0"] != 400 {
		t.Errorf("%+v, of %+v", d, second)
	}
	if s := first.plus(d); s.wall != second.wall || s.steps != second.steps || s.cpu() != second.cpu() || s.of["cpu1"] != 50 {
		t.Errorf("%+v, want %+v", s, second)
	}
	if s := (spent{}).plus(first); s.cpu() != first.cpu() {
		t.Errorf("%+v, want %+v", s, first)
	}
}

// The ratio is that of a machine on two CPU modules to the same on one, and QEMU's steps are
// taken for ours.
func TestPairsAreCompared(t *testing.T) {
	r := newPairs("integers")
	r.add([]spent{
		{wall: time.Second, of: map[string]time.Duration{icountName: 500 * time.Millisecond}},
		{wall: 2 * time.Second, of: map[string]time.Duration{chipsetName: 1e8, "cpu0": 1e9}, steps: 400e6},
		{wall: 4 * time.Second, of: map[string]time.Duration{chipsetName: 1e8, "cpu0": 1250e6, "cpu1": 1e9}, steps: 400e6},
	})
	for _, c := range []struct {
		row  *row
		want string
	}{
		{r.wall, "integers 400 M/s 200 M/s 100 M/s 0.500 0.50-0.50 0.8"},
		{r.cpu, "by CPU time of cpu0 800 M/s 400 M/s 320 M/s 0.800 0.80-0.80"},
	} {
		if got := strings.Join(strings.Fields(c.row.String()), " "); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// What is waited for is found behind what is not, and an end or a silence are told.
func TestNewsAreAwaited(t *testing.T) {
	n := &news{events: make(chan drivers.Event, 3), failed: errors.New("the driver is gone")}
	for _, e := range []drivers.Event{{Side: 1, To: "shot"}, {Side: 0, Detail: map[string]any{"latency_us": 1500.0}}, {Side: 1, To: "syncing"}} {
		n.events <- e
	}
	e, ok, err := n.await("latency", time.Minute, func(e drivers.Event) bool { return e.Detail["latency_us"] != nil })
	if us, has := microseconds(e, "latency_us"); !ok || err != nil || !has || us != 1500*time.Microsecond {
		t.Errorf("%+v, %v, %v", e, ok, err)
	}
	if _, has := microseconds(e, "blackout_us"); has {
		t.Error("a time that is not told is known")
	}
	if _, ok, err := n.await("a shot", time.Millisecond, func(e drivers.Event) bool { return e.To == "shot" }); ok || err != nil {
		t.Errorf("what has passed is found: %v, %v", ok, err)
	}
	close(n.events)
	if _, err := n.must("more", func(drivers.Event) bool { return true }); err == nil || !strings.Contains(err.Error(), "gone") || !strings.Contains(err.Error(), "syncing") {
		t.Errorf("an end: %v", err)
	}
}

func TestMost(t *testing.T) {
	if m := most(series{3, 9, 4}); len(m) != 1 || m[0] != 9 {
		t.Errorf("%v", m)
	}
	if m := most(nil); m != nil {
		t.Errorf("%v of nothing", m)
	}
	if victim(0) == victim(1) || victim(0) != victim(2) {
		t.Error("sides do not take turns")
	}
}
