package bond

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ft/bond/datapath"
	"ft/drivers"
)

// watcher checks the invariants of Core after every step, from what it says alone: it
// keeps a picture of its own of ports and data path.
type watcher struct {
	t       *rapid.T
	core    *Core
	opt     Options
	now     time.Time
	timer   time.Time
	begun   bool
	present [2]bool
	carrier [2]bool
	out     [2]bool
	lossAt  [2]time.Time
	path    datapath.State
	face    bool
	states  [2]drivers.State
}

func TestCoreKeepsItsWord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opt := Options{
			Primary:   drivers.Side(rapid.IntRange(0, 1).Draw(t, "primary")),
			Reselect:  rapid.SampledFrom([]Reselect{ReselectAlways, ReselectBetter, ReselectFailure}).Draw(t, "reselect"),
			UpDelay:   time.Duration(rapid.SampledFrom([]int{0, 200}).Draw(t, "updelay")) * time.Millisecond,
			DownDelay: time.Duration(rapid.SampledFrom([]int{0, 0, 50}).Draw(t, "downdelay")) * time.Millisecond,
		}
		if rapid.Bool().Draw(t, "probing") {
			opt.Probe = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		}
		w := &watcher{t: t, opt: opt.withDefaults(), now: time.Unix(1000, 0), states: [2]drivers.State{drivers.Removed, drivers.Removed}}
		w.path.Active = datapath.None
		w.core = NewCore(opt, [2]drivers.SideConfig{{Resource: drivers.Resource{Path: "eth0"}}, {Resource: drivers.Resource{Path: "eth1"}}})
		for s := range drivers.Side(2) {
			if rapid.Bool().Draw(t, "there") {
				w.see(s, rapid.Bool().Draw(t, "carrier"))
			}
		}
		w.begun = true
		w.step(Begin{})
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			w.pass(time.Duration(rapid.SampledFrom([]int{0, 1, 5, 60, 250, 3000, 15000}).Draw(t, "ms")) * time.Millisecond)
			w.draw(drivers.Side(rapid.IntRange(0, 1).Draw(t, "side")))
		}
		w.settles()
	})
}

func (w *watcher) see(s drivers.Side, carrier bool) {
	w.present[s], w.carrier[s] = true, carrier
	w.step(Seen{Side: s, Name: fmt.Sprintf("eth%d", s), Carrier: carrier})
}

func (w *watcher) draw(s drivers.Side) {
	switch rapid.SampledFrom([]string{"carrier", "carrier", "carrier", "path", "path", "gone", "seen", "attach", "attach", "detach", "switch", "turned"}).Draw(w.t, "what") {
	case "carrier":
		if !w.present[s] {
			return
		}
		if w.carrier[s] = !w.carrier[s]; !w.carrier[s] {
			w.lossAt[s] = w.now
		}
		w.step(CarrierSeen{Side: s, Up: w.carrier[s], At: w.now})
	case "path":
		w.step(PathSeen{Side: s, Path: rapid.SampledFrom([]Path{PathGood, PathBad}).Draw(w.t, "verdict"), At: w.now})
	case "gone":
		w.present[s], w.carrier[s] = false, false
		w.step(Gone{Side: s, Why: "it has vanished", At: w.now})
	case "seen":
		if !w.present[s] {
			w.see(s, rapid.Bool().Draw(w.t, "up"))
		}
	case "attach":
		w.out[s] = false
		w.step(AttachAsked{s})
	case "detach":
		alone := w.states[s].InService() && !w.states[1-s].InService()
		why := drivers.Reason{Text: "a drawn one"}
		if rapid.Bool().Draw(w.t, "risk") {
			why.AcceptRisk = drivers.RiskLastSide
		}
		was, refused := w.path, alone && why.AcceptRisk == ""
		w.out[s] = w.out[s] || !refused
		err := w.step(DetachAsked{s, why}).Refusal
		if refused != (err != nil) {
			w.t.Fatalf("taking out side %d, alone %v, risk %q: %v", s, alone, why.AcceptRisk, err)
		}
		if err != nil && w.path != was {
			w.t.Fatalf("a refused detach changed the data path from %+v to %+v", was, w.path)
		}
	case "switch":
		w.step(SwitchAsked{To: datapath.None})
	case "turned": // the kernel turns only from a port without carrier to one that it may turn to
		from := w.path.Active
		if from == datapath.None || !w.path.Eligible[from.Other()] || !w.carrier[from.Other()] {
			return
		}
		w.path.Active, w.path.Eligible[from] = from.Other(), false
		w.step(Turned{To: from.Other(), At: w.now})
	}
}

// pass lets time go by.
func (w *watcher) pass(d time.Duration) {
	until := w.now.Add(d)
	for range 10000 {
		if w.timer.IsZero() || w.timer.After(until) {
			w.now = until
			return
		}
		w.now = w.timer
		w.step(Tick{})
	}
	w.t.Fatal("the core asks for one tick after the other")
}

func (w *watcher) step(ev Event) Out {
	was := w.path
	out := w.core.Step(w.now, ev)
	w.timer = out.Timer
	if out.State != nil {
		w.path = *out.State
	}
	if out.Carrier != nil {
		w.face = *out.Carrier
	}
	for _, r := range out.Reports {
		if r.From != w.states[r.Side] {
			w.t.Fatalf("side %d is reported to leave %v, it was %v", r.Side, r.From, w.states[r.Side])
		}
		if r.To.InService() && !r.From.InService() && r.From != drivers.Syncing {
			w.t.Fatalf("side %d goes from %v into service", r.Side, r.From)
		}
		w.states[r.Side] = r.To
	}
	if w.begun {
		w.check(ev, was, out)
	}
	return out
}

func (w *watcher) check(ev Event, was datapath.State, out Out) {
	fail := func(format string, args ...any) {
		w.t.Helper()
		w.t.Fatalf("after %T%+v at %v: %s\npath %+v, states %v, present %v, carrier %v, out %v", ev, ev, w.now.Sub(time.Unix(1000, 0)), fmt.Sprintf(format, args...), w.path, w.states, w.present, w.carrier, w.out)
	}
	usable := func(s drivers.Side) bool {
		return w.present[s] && !w.out[s] && (w.carrier[s] || w.opt.DownDelay > 0 && w.now.Sub(w.lossAt[s]) < w.opt.DownDelay && w.states[s].InService())
	}
	a := w.path.Active
	if a == datapath.None {
		for s := range drivers.Side(2) {
			if w.present[s] && w.carrier[s] && !w.out[s] {
				fail("no port is active, though side %d is good", s)
			}
		}
	} else if !usable(a) {
		fail("the active port cannot carry anything")
	} else if !w.states[a].InService() {
		fail("the active port is %v", w.states[a])
	}
	if w.face != (a != datapath.None) {
		fail("the face shows carrier %v", w.face)
	}
	for s := range drivers.Side(2) {
		if w.opt.DownDelay == 0 && w.states[s].InService() && !w.path.Eligible[s] {
			fail("the kernel may not turn to side %d", s)
		}
		if w.path.Eligible[s] && (!w.states[s].InService() || w.out[s] || w.opt.DownDelay > 0) {
			fail("the kernel may turn to side %d", s)
		}
		if want := w.states[s].InService(); want {
			if both := w.states[1-s].InService(); both != (w.states[s] == drivers.Duplex) {
				fail("side %d is %v, the other one %v", s, w.states[s], w.states[1-s])
			}
		}
		if w.out[s] && w.states[s] != drivers.Offline && w.states[s] != drivers.Removed {
			fail("side %d was taken out and is %v", s, w.states[s])
		}
	}
	if (out.Switch != nil) != (was.Active != w.path.Active) {
		if _, kernel := ev.(Turned); !kernel {
			fail("a switch %+v was told of, from %d to %d", out.Switch, was.Active, w.path.Active)
		}
	}
}

// settles: with both cables in and nobody asking for anything, a bond comes to rest.
func (w *watcher) settles() {
	for s := range drivers.Side(2) {
		if !w.present[s] {
			w.see(s, true)
		} else if !w.carrier[s] {
			w.carrier[s] = true
			w.step(CarrierSeen{Side: s, Up: true, At: w.now})
		}
		w.step(PathSeen{Side: s, Path: PathGood, At: w.now})
		if w.out[s] || !w.states[s].InService() {
			w.out[s] = false
			w.step(AttachAsked{s})
		}
	}
	w.pass(time.Minute)
	if w.states != [2]drivers.State{drivers.Duplex, drivers.Duplex} {
		w.t.Fatalf("a minute after all is well the ports are %v", w.states)
	}
}

// TestDampingBoundsFailovers: one cable flaps at random while the other is good. However
// it does, the port is left at most FlapMax+1 times in any FlapWindow.
func TestDampingBoundsFailovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opt := Options{Reselect: rapid.SampledFrom([]Reselect{ReselectAlways, ReselectFailure}).Draw(t, "reselect")}
		core := NewCore(opt, [2]drivers.SideConfig{{Resource: drivers.Resource{Path: "eth0"}}, {Resource: drivers.Resource{Path: "eth1"}}})
		now := time.Unix(1000, 0)
		var timer time.Time
		var left []time.Time
		step := func(ev Event) {
			out := core.Step(now, ev)
			timer = out.Timer
			if out.Switch != nil && out.Switch.From == 0 && out.Switch.To == 1 {
				left = append(left, now)
			}
		}
		step(Seen{Side: 0, Name: "eth0", Carrier: true})
		step(Seen{Side: 1, Name: "eth1", Carrier: true})
		step(Begin{})
		step(AttachAsked{1})
		up := true
		for range 200 {
			until := now.Add(time.Duration(rapid.IntRange(1, 4000).Draw(t, "ms")) * time.Millisecond)
			for !timer.IsZero() && !timer.After(until) {
				now = timer
				step(Tick{})
			}
			now = until
			up = !up
			step(CarrierSeen{Side: 0, Up: up, At: now})
		}
		for i := range left {
			n := 0
			for _, at := range left[i:] {
				if at.Sub(left[i]) < DefaultFlapWindow {
					n++
				}
			}
			if n > DefaultFlapMax+1 {
				t.Fatalf("the port was left %d times within %v", n, DefaultFlapWindow)
			}
		}
	})
}
