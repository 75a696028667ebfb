package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"ft/ftd/api"
)

// How a verb that goes on watches the box.
const (
	reconnectEvery = 500 * time.Millisecond // while ftd is away
	settleTime     = 100 * time.Millisecond // changes that come together are shown as one
	followBuffer   = 64                     // events read ahead
)

// watcher is what follow calls. One that returns true ends it. Methods may be nil.
type watcher struct {
	// event sees every event since the last status, in order.
	event func(api.Event) (bool, error)
	// status sees the status at first, after changes, and each tick.
	status func(api.Status) (bool, error)
	// document is status for those who want it as ftd sent it, too.
	document func(api.Status, json.RawMessage) (bool, error)
	// lost is told once each time that ftd goes away; follow tries on until ctx ends.
	lost func(error)
	// tick is how often status is called when nothing changes, 0 for never.
	tick time.Duration
}

// follow watches the box. ftd may be restarted in between. An ftd that cannot be
// reached at the beginning is an error.
func (a *app) follow(ctx context.Context, w watcher) error {
	away := false
	for {
		done, err := a.followOnce(ctx, w, &away)
		if done || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		var wire *api.Error
		gone := errors.As(err, &wire) && wire.Code == api.CodeUnreachable
		if !gone || !a.reached {
			return err
		}
		if !away && w.lost != nil {
			w.lost(err)
		}
		away = true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(reconnectEvery):
		}
	}
}

// followOnce goes on until the watcher is done or the connection ends.
func (a *app) followOnce(ctx context.Context, w watcher, away *bool) (bool, error) {
	st, raw, err := a.wholeStatus(ctx)
	if err != nil {
		return false, err
	}
	a.reached, *away = true, false
	if done, err := w.see(st, raw); done || err != nil {
		return true, err
	}
	ctx, cancel := context.WithCancel(ctx)
	events, ended := a.stream(ctx, st.System.Seq)
	defer func() {
		cancel()
		for range events { // the stream ends when nobody wants it
		}
	}()
	var tick <-chan time.Time
	if w.tick > 0 {
		t := time.NewTicker(w.tick)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return false, <-ended
			}
			if done, err := w.take(ctx, e, events); done || err != nil {
				return true, err
			}
		case <-tick:
		}
		if st, raw, err = a.wholeStatus(ctx); err != nil {
			return false, err
		}
		if done, err := w.see(st, raw); done || err != nil {
			return true, err
		}
	}
}

// see hands over a status.
func (w watcher) see(st api.Status, raw json.RawMessage) (bool, error) {
	if w.document != nil {
		return w.document(st, raw)
	}
	return w.status(st)
}

// take hands over an event and those that come with it.
func (w watcher) take(ctx context.Context, e api.Event, more <-chan api.Event) (bool, error) {
	settled := time.NewTimer(settleTime)
	defer settled.Stop()
	for {
		if w.event != nil {
			if done, err := w.event(e); done || err != nil {
				return done, err
			}
		}
		select {
		case next, ok := <-more:
			if !ok {
				return false, nil
			}
			e = next
		case <-settled.C:
			return false, nil
		case <-ctx.Done():
			return false, nil
		}
	}
}

// stream reads events after seq into a channel, which is closed at the end; why it
// ended is then in the second one.
func (a *app) stream(ctx context.Context, seq uint64) (<-chan api.Event, <-chan error) {
	events, ended := make(chan api.Event, followBuffer), make(chan error, 1)
	go func() {
		defer close(events)
		ended <- a.client.Events(ctx, api.EventsQuery{Since: &seq, Follow: true}, func(item api.StreamItem) error {
			if item.Event == nil {
				return nil
			}
			select {
			case events <- *item.Event:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return events, ended
}
