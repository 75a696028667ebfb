package sim

// What a seed is like.

// profile is what a seed is like. Seeds differ widely: a rare mixture that breaks the
// engine is rare only on average.
type profile struct {
	conditions
	requests int
	depth    int   // requests under way at once
	think    int64 // mean time between requests
	chaos    int64 // mean time between mishaps
	mishaps  int   // yet to come

	reads, writes, flushes, zeroes float64
	fua                            float64 // of writes and zeroes

	back           float64 // chance, each tick, that the admin takes back what he took out
	fine           bool    // small extents
	spots          int     // places that are written again and again
	missing        float64 // chance that a leg is missing after a power cut
	crashAfterLoss float64
	crashAfterMap  float64 // chance that the power is cut soon after the write-intent map was written in simplex
	mute           float64 // chance that an answer does not go out, and the driver dies of it
	weights        [mishapCount]float64
}

func (w *world) drawProfile() {
	r := w.plan
	pick := func(v ...int64) int64 { return v[r.IntN(len(v))] }
	w.p = profile{
		requests: 20 + r.IntN(100),
		depth:    int(pick(1, 2, 4, 8, 16)),
		think:    pick(100_000, 1*ms, 5*ms, 20*ms, 100*ms),
		mishaps:  1 + r.IntN(25),
		reads:    r.Float64(), writes: 0.5 + r.Float64(), flushes: 0.5 * r.Float64() * r.Float64(), zeroes: 0.2 * r.Float64(),
		fua:            pickf(w, 0, 0.05, 0.3),
		back:           0.1,
		spots:          1 + r.IntN(4),
		missing:        pickf(w, 0, 0.3, 0.7),
		crashAfterLoss: pickf(w, 0, 0.3, 0.8),
		mute:           pickf(w, 0, 0, 0.02),
		conditions: conditions{
			latency:   pick(50_000, 500_000, 2*ms, 8*ms),
			transit:   pick(20_000, 1*ms, 20*ms),
			timeout:   pick(200*ms, 500*ms),
			wait:      r.IntN(2) == 1,
			rateMin:   pick(0, 1<<20, 100<<20),
			rateMax:   pick(0, 0, 0, 20<<20, 200<<10),
			resolve:   pickf(w, 0, 0, 0, 0.2),
			starved:   pickf(w, 0, 0, 0.1),
			rot:       pickf(w, 0, 0, 0.1),
			integrity: r.IntN(3) > 0,
			victim:    -1,
			sumCache:  pick(1, 2, 100),
			turn:      pickf(w, 0, 0, 0.2),
			control:   r.IntN(4) == 0,
			mtbf:      pick(0, 0, 1),
			// Not drawn: seeds are as they were before there were marks. Every other one has none.
			marks: max(0, int64(w.seed%18)-9),
		},
	}
	w.p.summed = w.p.integrity && r.IntN(4) > 0
	for i := range w.p.weights {
		// A third of the mishaps do not happen in this seed, the others more or less often.
		if r.IntN(3) > 0 {
			w.p.weights[i] = mishaps[i].weight * (0.2 + 2*r.Float64()*r.Float64())
		}
	}
	for i := range mishaps {
		switch mishaps[i].name {
		case "ftd", "bringup", "detach": // what is asked of ftd, and its end
			if w.p.control {
				w.p.weights[i] += 2
			} else if i >= mishapCount-2 {
				w.p.weights[i] = 0
			}
		}
	}
	theme := w.cfg.Theme
	if theme == Any {
		if theme = Mixed; w.drawn(0.4) {
			theme = Mixed + Theme(r.IntN(int(themes-Mixed)))
		}
	}
	w.themed(theme)
	if w.cfg.Calm {
		w.p.requests, w.p.control = 12, false
	}
	w.p.geometry = int64(r.IntN(len(geometries) - 1))
	if w.p.fine {
		w.p.geometry = int64(r.IntN(2))
	}
	if w.p.fresh = !w.p.fine && w.drawn(0.03) && w.p.victim < 0; w.p.fresh {
		w.p.geometry = blank
	}
	// Most mishaps happen while there are requests.
	w.p.chaos = max(2*ms, int64(float64(w.p.requests)*float64(w.p.think)*(0.3+2*r.Float64())/float64(w.p.mishaps)))
}

// themed makes a seed one of a theme.
func (w *world) themed(t Theme) {
	p, r := &w.p, w.plan
	pick := func(v ...int64) int64 { return v[r.IntN(len(v))] }
	often := func(name string) {
		for i := range mishaps {
			if mishaps[i].name == name {
				p.weights[i] += 20
			}
		}
	}
	switch t {
	case LossAndKill:
		p.crashAfterLoss, p.transit, p.latency, p.think = 1, 20_000, 8*ms, pick(1*ms, 5*ms)
		often("write error")
	case SlowResync:
		// What is saved on the way matters: every few seconds, and only of what was not
		// written lately. So the leg is away for long, writes are few and far between, and
		// not much goes wrong.
		p.requests, p.think, p.mishaps = 60+r.IntN(40), 400*ms, 3+r.IntN(6)
		p.rateMax, p.latency, p.fine = pick(8<<10, 16<<10, 32<<10), pick(500_000, 2*ms), true
		p.reads, p.writes, p.flushes = 0.2, 1, 0.7
		p.back, p.spots, p.crashAfterMap = 0.01, 12, 0.2
		often("detach")
		often("power cut")
	case LostAnswers:
		p.mute, p.depth, p.transit, p.think = 0.1, 16, 20*ms, pick(100_000, 1*ms)
	case Spoiled:
		p.victim, p.tables, p.control = int64(r.IntN(2)), r.IntN(4) == 0, false
		p.weights[mishapCount-1], p.weights[mishapCount-2] = 0, 0
		p.integrity, p.summed, p.turn = true, true, 0
		p.rot, p.mute, p.missing, p.crashAfterLoss, p.crashAfterMap, p.resolve = 0, 0, 0, 0, 0, 0
		p.rateMax, p.mishaps, p.reads = 0, 10+r.IntN(40), 1+p.reads
		for i := range mishaps {
			switch mishaps[i].name {
			case "power cut", "kill", "witness error", "witness slow", "replace":
				p.weights[i] = 0
			}
		}
		often("silent fault")
	case Faulty:
		p.integrity, p.summed, p.control = false, false, false
		p.spots, p.depth, p.think, p.requests = 1, 16, pick(100_000, 1*ms), 100+r.IntN(100)
		p.latency, p.zeroes, p.mishaps, p.crashAfterMap, p.rateMax = pick(2*ms, 8*ms), 0.4, 15+r.IntN(20), 0.3, 0
		for range 3 {
			often("leg error")
		}
		often("bad sectors")
		often("bad sectors")
		often("detach")
	case Rot:
		p.rot = 0.5
		often("write error")
		often("kill")
		often("power cut")
	}
}

func pickf(w *world, v ...float64) float64 { return v[w.plan.IntN(len(v))] }
