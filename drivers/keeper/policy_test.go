package keeper

import (
	"testing"
	"time"
)

// TestRestartPolicy reads as a story: at each step the process said READY or not,
// lived for a while, and died.
func TestRestartPolicy(t *testing.T) {
	const s = time.Second
	type step struct {
		starting time.Duration // before READY; negative: it never said it
		served   time.Duration
		want     verdict
	}
	never := time.Duration(-1)
	for name, steps := range map[string][]step{
		"served long: at once, always":        {{0, 5 * s, verdict{}}, {s, 6 * s, verdict{}}, {s, time.Hour, verdict{}}},
		"just not long enough: delayed":       {{0, 5*s - 1, verdict{delay: s}}},
		"slow to start counts for nothing":    {{time.Minute, s, verdict{delay: s}}},
		"never ready, however long: delayed":  {{never, time.Hour, verdict{delay: s}}},
		"doubling, capped, failed at the 5th": {{never, 0, verdict{delay: s}}, {never, 0, verdict{delay: 2 * s}}, {never, 0, verdict{delay: 4 * s}}, {never, 0, verdict{delay: 4 * s}}, {never, 0, verdict{failed: true}}},
		"a healthy time forgets":              {{never, 0, verdict{delay: s}}, {0, s, verdict{delay: 2 * s}}, {0, 5 * s, verdict{}}, {never, 0, verdict{delay: s}}},
		"READY of an earlier start is void":   {{0, s, verdict{delay: s}}, {never, time.Hour, verdict{delay: 2 * s}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := restarts{healthyTime: 5 * s, delays: []time.Duration{s, 2 * s, 4 * s}, earlyMax: 5}
			now := time.Unix(1000, 0)
			for i, st := range steps {
				r.started()
				if st.starting >= 0 {
					now = now.Add(st.starting)
					r.ready(now)
					r.ready(now.Add(st.served)) // a second READY changes nothing
				}
				now = now.Add(st.served)
				if got := r.died(now); got != st.want {
					t.Fatalf("step %d: %+v, want %+v", i, got, st.want)
				}
			}
		})
	}
}

func TestDefaultsAreTheDesigns(t *testing.T) {
	o := Options{}.withDefaults()
	r := restarts{healthyTime: o.HealthyTime, delays: o.Delays, earlyMax: o.EarlyMax}
	var total time.Duration
	for i := 1; ; i++ {
		r.started()
		v := r.died(time.Unix(0, 0))
		if v.failed {
			if i != 10 {
				t.Errorf("failed at early death %d, want 10", i)
			}
			break
		}
		total += v.delay
	}
	if want := (1 + 2 + 4 + 8 + 16 + 30*4) * time.Second; total != want {
		t.Errorf("waited %v until failed, want %v", total, want)
	}
	r.reset()
	if v := r.died(time.Unix(0, 0)); v.delay != time.Second {
		t.Errorf("after a reset the first early death waits %v, want 1s", v.delay)
	}
}
