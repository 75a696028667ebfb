package drill

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"ft/ftd/api"
)

// Box is what a drill asks ftd for; *api.Client is one.
type Box interface {
	Status(ctx context.Context) (api.Status, error)
	Version(ctx context.Context) (api.Version, error)
	Change(ctx context.Context, c api.Change) (api.Outcome, error)
	Events(ctx context.Context, q api.EventsQuery, each func(api.StreamItem) error) error
}

const (
	reconnectEvery = 100 * time.Millisecond // while ftd is away
	logMax         = 4096                   // events kept
)

// events follows a box's log over restarts of ftd.
type events struct {
	more chan struct{} // something has come

	mu   sync.Mutex
	log  []api.Event
	last uint64
}

// followEvents begins after a number, until ctx ends.
func followEvents(ctx context.Context, box Box, since uint64) (*events, *sync.WaitGroup) {
	e := &events{more: make(chan struct{}, 1), last: since}
	var ended sync.WaitGroup
	ended.Go(func() {
		for ctx.Err() == nil {
			from := e.number()
			_ = box.Events(ctx, api.EventsQuery{Since: &from, Follow: true}, e.take) // it ends whenever ftd does
			select {
			case <-ctx.Done():
			case <-time.After(reconnectEvery):
			}
		}
	})
	return e, &ended
}

func (e *events) take(item api.StreamItem) error {
	if item.Event == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if item.Event.Seq <= e.last {
		return nil
	}
	e.last = item.Event.Seq
	if e.log = append(e.log, *item.Event); len(e.log) > logMax {
		e.log = slices.Delete(e.log, 0, logMax/2)
	}
	select {
	case e.more <- struct{}{}:
	default:
	}
	return nil
}

func (e *events) number() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// noticed is the first event after a number that tells of a step's fault.
func (e *events) noticed(s Step, since uint64) (api.Event, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.log {
		if ev.Seq > since && s.tellsOf(ev) {
			return ev, true
		}
	}
	return api.Event{}, false
}

// tellsOf says whether an event is a consequence of the step's fault. A note says by its
// words what it is about: others may still come in about an earlier step, and the drill's
// own doings are noted as well.
func (s Step) tellsOf(e api.Event) bool {
	_, device, side := strings.Cut(e.ID, "/")
	if !side {
		device = e.ID
	}
	switch {
	case e.ID != s.ID && !slices.Contains(s.Devices, device):
		return false
	case e.From == e.To:
		return s.Kind.note != "" && strings.Contains(e.Reason, s.Kind.note)
	}
	return true
}

// unreachable says whether an error is that ftd is not there.
func unreachable(err error) bool {
	var wire *api.Error
	return errors.As(err, &wire) && wire.Code == api.CodeUnreachable
}
