package main

import (
	"fmt"
	"time"
)

// settling is how long guests have, after their work, before their idleness is taken.
const settling = 3 * time.Second

// idle prints what guests cost that do nothing, all at once, and how their clocks went.
func (b *bench) idle(computers []*computer) error {
	time.Sleep(settling)
	said, err := each(computers, (*computer).readClock)
	if err != nil {
		return err
	}
	began, err := each(computers, (*computer).clocks)
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(b.idleSeconds) * time.Second)
	ended, err := each(computers, (*computer).clocks)
	if err != nil {
		return err
	}
	saidLater, err := each(computers, (*computer).readClock)
	if err != nil {
		return err
	}
	fmt.Println(head(fmt.Sprintf("idle guests, over %d s", b.idleSeconds), called(computers)...))
	share, drift := newRow("share of a core", "%"), newRow("clock against the wall", "%")
	share.least, drift.least = "3 % at most", "0.1 % at most"
	for i := range computers {
		took := ended[i].since(began[i])
		share.add(i, 100*took.cpu().Seconds()/took.wall.Seconds())
		off, doubt := saidLater[i].against(said[i])
		drift.add(i, 100*off)
		drift.remark = fmt.Sprintf("read to %.3f %%", 100*doubt) // ours, the last
	}
	fmt.Println(share)
	fmt.Println(drift)
	fmt.Println()
	return nil
}

func each[T any](computers []*computer, of func(*computer) (T, error)) (all []T, err error) {
	for _, c := range computers {
		x, err := of(c)
		if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return all, nil
}

// reading is a guest's clock at a time of ours.
type reading struct {
	guest time.Duration // since 1970
	at    time.Time
	doubt time.Duration // by which it may have been read earlier or later
}

// readClock reads a guest's clock. The answer takes some milliseconds: the quickest of
// several is the best one.
func (c *computer) readClock() (best reading, err error) {
	const tries = 10
	best.doubt = within
	for range tries {
		began := time.Now()
		text, err := c.ask("clock")
		if err != nil {
			return best, err
		}
		half := time.Since(began) / 2
		if half >= best.doubt {
			continue
		}
		best.doubt, best.at = half, began.Add(half)
		if _, err := fmt.Sscan(text, (*int64)(&best.guest)); err != nil {
			return best, fmt.Errorf("the clock of %s is %q: %w", c.name, text, err)
		}
	}
	return best, nil
}

// against says by what share a guest's clock went faster than ours since an earlier
// reading, and how much of that is in doubt.
func (r reading) against(earlier reading) (off, doubt float64) {
	wall := float64(r.at.Sub(earlier.at))
	return float64(r.guest-earlier.guest)/wall - 1, float64(r.doubt+earlier.doubt) / wall
}

func called(computers []*computer) (all []string) {
	for _, c := range computers {
		all = append(all, c.name)
	}
	return all
}
