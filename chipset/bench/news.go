package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"ft/drivers"
	"ft/drivers/host"
)

// news are the events of a driver from its start on, in their order.
type news struct {
	events chan drivers.Event // closed at their end
	cancel context.CancelFunc
	failed error // valid when events is closed
	last   []string
}

// newsMax bounds the events that nobody has read: a part of the bench makes some hundreds.
const newsMax = 10_000

// follow has a driver's events collected, until it is stopped.
func (d *driven) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	n := &news{events: make(chan drivers.Event, newsMax), cancel: cancel}
	d.news = n
	go func() {
		defer close(n.events)
		n.failed = d.client.Events(ctx, host.Cursor{}, true, func(i host.Item) error {
			switch {
			case i.Gap:
				return errors.New("events were lost")
			case i.Record == nil:
				return nil
			}
			select {
			case n.events <- *i.Record:
				return nil
			default:
				return fmt.Errorf("more than %d events wait to be read", newsMax)
			}
		})
	}()
}

func (n *news) end() {
	n.cancel()
	for range n.events { // until nobody adds any
	}
}

// await returns the first event that is wanted, within a time; ok says whether there was one.
func (n *news) await(what string, patience time.Duration, wanted func(drivers.Event) bool) (e drivers.Event, ok bool, err error) {
	late := time.After(patience)
	for {
		select {
		case e, more := <-n.events:
			if !more {
				return e, false, fmt.Errorf("waiting for %s: no more events: %w; the last were:\n%s", what, n.failed, strings.Join(n.last, "\n"))
			}
			if n.last = append(n.last, fmt.Sprint(e.Time.Format("15:04:05.000"), " ", e.Side, " ", e.From, " → ", e.To, " ", e.Reason)); len(n.last) > saidMax {
				n.last = n.last[1:]
			}
			if wanted(e) {
				return e, true, nil
			}
		case <-late:
			return e, false, nil
		}
	}
}

// must is await of what comes for sure.
func (n *news) must(what string, wanted func(drivers.Event) bool) (drivers.Event, error) {
	e, ok, err := n.await(what, within, wanted)
	if err == nil && !ok {
		err = fmt.Errorf("waiting for %s: nothing came in %v; the last events were:\n%s", what, within, strings.Join(n.last, "\n"))
	}
	return e, err
}

// microseconds are those that an event tells of, as a time.
func microseconds(e drivers.Event, what string) (time.Duration, bool) {
	n, ok := e.Detail[what].(float64) // as JSON has it
	return time.Duration(n * 1e3), ok
}

// notIn says why a CPU module did not come in.
type notIn struct{ why string }

func (e *notIn) Error() string { return "a CPU module did not come in: " + e.why }

// joined is what it took to bring a CPU module in.
type joined struct {
	brownout, blackout, duplex time.Duration // the first and the last: from the beginning on
	rounds                     float64
}

// bringIn brings a CPU module in, and waits until it is in duplex.
func (d *driven) bringIn(s drivers.Side) (j joined, err error) {
	ends := []string{drivers.Duplex.String(), drivers.Shot.String(), drivers.Offline.String()}
	began := time.Now()
	if err := d.attach(s, ""); err != nil {
		return j, &notIn{err.Error()}
	}
	e, err := d.news.must(fmt.Sprintf("cpu%d to be in duplex", s), func(e drivers.Event) bool {
		if e.Side != s || e.Time.Before(began) { // of how it left
			return false
		}
		if us, ok := microseconds(e, "blackout_us"); ok {
			j.blackout = us
		}
		return e.Kind == drivers.EventSide && slices.Contains(ends, e.To)
	})
	if err != nil {
		return j, err
	}
	if e.To != drivers.Duplex.String() {
		return j, &notIn{e.Reason}
	}
	j.duplex = e.Time.Sub(began)
	st, err := d.client.Status(context.Background())
	if err != nil {
		return j, fmt.Errorf("ask the machine about its lockstep: %w", err)
	}
	told, _ := st.Stats["lockstep"].(map[string]any)
	brownout, have := told["brownout_ms"].(float64)
	j.rounds, _ = told["copy_rounds"].(float64)
	if !have {
		return j, fmt.Errorf("the machine does not tell how cpu%d came in, but %v", s, told)
	}
	j.brownout = time.Duration(brownout * 1e6)
	return j, nil
}

// joinTries is how often a CPU module is brought in that does not come in: a busy computer may
// leave it without a core for longer than its chipset waits.
const joinTries = 3

// complete brings a CPU module in for what is to be measured then, and tells of each time that
// it did not come in.
func (d *driven) complete(s drivers.Side) error {
	var not *notIn
	for range joinTries {
		_, err := d.bringIn(s)
		if !errors.As(err, &not) {
			return err
		}
		fmt.Fprintf(os.Stderr, "bench: cpu%d: %v\n", s, not)
	}
	return fmt.Errorf("cpu%d, %d times: %w", s, joinTries, not)
}

// takeOut takes a CPU module out.
func (d *driven) takeOut(s drivers.Side) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if _, err := d.client.Detach(ctx, s, drivers.Reason{Text: "to be measured without it"}, true); err != nil {
		return fmt.Errorf("take cpu%d out: %w", s, err)
	}
	return nil
}
