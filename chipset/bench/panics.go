package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"ft/drivers"
)

// How a guest's panic is got over: with a CPU module that is put aside, or with the only one.
var panicking = []struct {
	name   string
	duplex bool
}{
	{"panic on one CPU module", false},
	{"panic on two", true},
}

// panics prints how long a guest that has panicked is gone.
func (b *bench) panics() error {
	begun := false
	for _, p := range panicking {
		if !b.wanted(inLockstep(p.name)) {
			continue
		}
		if !begun {
			begun = true
			fmt.Println(plainHead("lockstep: from a guest's panic on", "starts anew", "user space", "answers", "is dumped", "duplex again"))
		}
		r := newRow(p.name, "s")
		r.cells = make([]series, 5)
		c, err := b.machine(strings.ReplaceAll(p.name, " ", "-"), attached{})
		if err != nil {
			return err
		}
		if p.duplex {
			if err := c.machine.complete(1); err != nil {
				return err
			}
		}
		for range b.rounds {
			times, err := c.panic(p.duplex)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			for i, t := range times {
				r.add(i, t.Seconds())
			}
		}
		fmt.Println(r)
	}
	if begun {
		fmt.Println()
	}
	return nil
}

// panic has the guest panic, and says when from there on what happened.
func (c *computer) panic(duplex bool) (after []time.Duration, err error) {
	if _, err := io.WriteString(c.to, "panic\n"); err != nil {
		return nil, fmt.Errorf("have the guest panic: %w", err)
	}
	const words = "Kernel panic - not syncing"
	if _, err := c.await("a panic", func(line string) bool { return strings.Contains(line, words) }); err != nil {
		return nil, err
	}
	began := time.Now()
	mark := func() { after = append(after, time.Since(began)) }
	n := c.machine.news
	e, err := n.must("a new start", func(e drivers.Event) bool {
		return strings.Contains(e.Reason, "the guest starts anew behind its panic")
	})
	if err != nil {
		return nil, err
	}
	after = append(after, e.Time.Sub(began))
	if err := c.awaitLine(userSpace); err != nil {
		return nil, err
	}
	mark()
	if err := c.awaitLine(ready); err != nil {
		return nil, err
	}
	if _, err := c.ask("clock"); err != nil {
		return nil, err
	}
	mark()
	e, err = n.must("a dump", func(e drivers.Event) bool { return strings.Contains(e.Reason, "its memory was written to") })
	if err != nil {
		return nil, err
	}
	after = append(after, e.Time.Sub(began))
	if duplex {
		if err := c.machine.complete(e.Side); err != nil {
			return nil, err
		}
		mark()
	}
	return after, nil
}
