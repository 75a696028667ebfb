package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ft/drivers"
)

// flaw is a fault of a CPU module, as in a drill.
type flaw struct {
	name  string
	fault string
	args  []string
	blind bool // the module does not say when it is in
}

var flaws = []flaw{
	{"flip of a register's bit", "flip-register", nil, false},
	{"flip of a pc's bit", "flip-pc", nil, false},
	{"wrong sums", "wrong-result", []string{"add"}, false},
	{"a lost store", "lose-store", nil, false},
	{"killed", "kill", nil, true},
	{"stopped", "stop", nil, true},
}

// maskedMax is how long a fault may go unseen while the guest computes, until it is taken for
// one that nothing comes of: the register was written before it was read.
const maskedMax = 10 * time.Second

// detection prints how long a module's fault takes to be seen, and to be over with, while the
// guest computes.
func (b *bench) detection() error {
	wanted := slices.DeleteFunc(slices.Clone(flaws), func(f flaw) bool { return !b.wanted(inLockstep(f.name)) })
	if len(wanted) == 0 {
		return nil
	}
	c, err := b.machine("faults", attached{})
	if err != nil {
		return err
	}
	if err := c.machine.complete(1); err != nil {
		return err
	}
	fmt.Println(plainHead("lockstep: faults while it computes", "to shot", "at most", "went on after", "at most"))
	err = c.computing("integer", func() error {
		for _, f := range wanted {
			if err := b.flawed(c.machine, f); err != nil {
				return err
			}
		}
		return nil
	})
	fmt.Println()
	return err
}

// flawed prints the row of a fault.
func (b *bench) flawed(d *driven, f flaw) error {
	var toShot, alone series
	masked := 0
	for round := range b.flips {
		s := victim(round)
		seen, err := d.fail(s, f, uint64(round+1))
		if err != nil {
			return fmt.Errorf("%s in cpu%d: %w", f.name, s, err)
		}
		if !seen.shot {
			masked++
			continue
		}
		toShot = append(toShot, ms(seen.latency))
		if seen.aloneKnown {
			alone = append(alone, ms(seen.alone))
		}
		if err := d.inject(s, drivers.Fault{Name: "clear"}); err != nil {
			return err
		}
		if err := d.complete(s); err != nil {
			return err
		}
	}
	r := newRow(f.name, "ms")
	r.cells = []series{toShot, most(toShot), alone, most(alone)}
	r.remark = fmt.Sprintf("%d faults", b.flips)
	if masked > 0 {
		r.remark += fmt.Sprintf(", of %d of which nothing came", masked)
	}
	fmt.Println(r)
	return nil
}

func most(s series) series {
	if len(s) == 0 {
		return nil
	}
	return series{slices.Max(s)}
}

// seen is what came of a fault.
type seen struct {
	shot       bool
	latency    time.Duration // from its being in to its module's being shot
	alone      time.Duration // from the difference to the other's going on
	aloneKnown bool
}

// fail puts a fault into a side, and waits for what comes of it.
func (d *driven) fail(s drivers.Side, f flaw, seed uint64) (seen, error) {
	args := slices.Clone(f.args)
	if !f.blind {
		args = append(args, fmt.Sprintf("--seed=%d", seed))
	}
	in := time.Now()
	if err := d.inject(s, drivers.Fault{Name: f.fault, Args: args}); err != nil {
		return seen{}, err
	}
	if !f.blind {
		e, err := d.news.must("the fault to be in", func(e drivers.Event) bool { return e.Side == s && e.Injected && e.Detail["step"] != nil })
		if err != nil {
			return seen{}, err
		}
		in = e.Time
	}
	e, ok, err := d.news.await("a shot", maskedMax, func(e drivers.Event) bool { return e.To == drivers.Shot.String() })
	switch {
	case err != nil:
		return seen{}, err
	case !ok:
		return seen{}, nil
	case e.Side != s:
		return seen{}, fmt.Errorf("cpu%d was shot: %s", e.Side, e.Reason)
	}
	result := seen{shot: true, latency: e.Time.Sub(in)}
	if f.blind { // it was seen by its process, and nothing differed
		return result, nil
	}
	e, result.aloneKnown, err = d.news.await("the other to go on", maskedMax, func(e drivers.Event) bool { return e.Detail["latency_us"] != nil })
	result.alone, _ = microseconds(e, "latency_us")
	return result, err
}

func (d *driven) inject(s drivers.Side, f drivers.Fault) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := d.client.Inject(ctx, s, f); err != nil {
		return fmt.Errorf("the fault %s in cpu%d: %w", f.Name, s, err)
	}
	return nil
}
