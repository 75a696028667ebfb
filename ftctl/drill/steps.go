package drill

import (
	"context"
	"fmt"
	"time"

	"ft/ftd/api"
)

// stepsLoad looks at a machine whose guest nobody can ask: it goes on, and is not started
// anew. That is no load on it, and says little of how long it stood still: ftd answers with
// what the driver counted.
type stepsLoad struct {
	meter
	device string
	box    Box
	boots  float64
	steps  float64
}

const (
	stepsEvery = 500 * time.Millisecond
	stepsStill = 30 * time.Second // without one step: it stands
)

func newStepsLoad(box Box, device string) *stepsLoad { return &stepsLoad{device: device, box: box} }

func (l *stepsLoad) Name() string   { return l.device }
func (l *stepsLoad) Device() string { return l.device }
func (l *stepsLoad) What() string {
	return "its steps are looked at: they go on, and it does not start anew"
}

func (l *stepsLoad) looksOnly() {}

// Run looks until ctx ends.
func (l *stepsLoad) Run(ctx context.Context) {
	tick := time.NewTicker(stepsEvery)
	defer tick.Stop()
	moved := time.Now()
	for first := true; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		boots, steps, ok := l.look(ctx)
		if !ok {
			continue // ftd, or its driver, is away: that is in no machine's way
		}
		if !first && boots > l.boots {
			l.lost(1, "%s was started anew: what it was computing is gone", l.device)
		}
		if steps != l.steps {
			moved = time.Now()
			l.count(1, 0)
		} else if time.Since(moved) > stepsStill {
			l.failed(fmt.Errorf("%s has done no step for %s", l.device, stepsStill))
			moved = time.Now()
		}
		first, l.boots, l.steps = false, boots, steps
	}
}

func (l *stepsLoad) look(ctx context.Context) (boots, steps float64, ok bool) {
	st, err := l.box.Status(ctx)
	if err != nil {
		return 0, 0, false
	}
	for _, d := range st.Devices {
		if d.ID == l.device {
			return number(d, "boots"), number(d, "steps"), d.Driver == "connected" && d.Stats["steps"] != nil
		}
	}
	return 0, 0, false
}

func number(d api.DeviceStatus, name string) float64 {
	n, _ := d.Stats[name].(float64)
	return n
}
