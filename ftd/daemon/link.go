package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ft/drivers"
	"ft/drivers/host"
	"ft/ftd/control"
)

const (
	linkRetryMin = 20 * time.Millisecond
	linkRetryMax = time.Second
	// snapshotEvery is how often progress and counters are read.
	snapshotEvery = time.Second
	snapshotSoon  = 50 * time.Millisecond
	// snapshotPatience is how long a driver may take for a snapshot, which needs no
	// I/O. One that is late several times is given up as silent; the keeper's watchdog
	// is what restarts it.
	snapshotPatience = 2 * time.Second
	snapshotMisses   = 3
	// firstWord is how long a driver may take to say that its stream of events begins.
	firstWord = 2 * time.Second
)

// runLink keeps the core told about the driver process, whichever it is at the moment,
// until ctx ends: connected with a snapshot, every event after it, a snapshot now and
// then, and lost.
func (d *device) runLink(ctx context.Context) {
	wait := linkRetryMin
	for ctx.Err() == nil {
		began := time.Now()
		connected, err := d.follow(ctx)
		if connected {
			reason := "the driver process ended"
			if err != nil {
				reason = err.Error()
			}
			_ = d.post(ctx, control.DriverLost{Device: d.config.Name, Reason: reason})
		} else if err != nil && !errors.Is(err, host.ErrUnreachable) && ctx.Err() == nil {
			d.log.Warn("the driver's control socket", "error", err)
		}
		if time.Since(began) > linkRetryMax {
			wait = linkRetryMin
		}
		select {
		case <-time.After(wait):
		case <-d.wake:
		case <-ctx.Done():
		}
		wait = min(2*wait, linkRetryMax)
	}
}

// peer is the driver process at the other end of a link. What the keeper says of it
// ends the link: a process that is killed while its I/O hangs keeps its connections, and
// would go on to look as it was.
type peer struct {
	mu   sync.Mutex // guards the fields below
	pid  int        // 0 when not connected
	drop context.CancelCauseFunc
}

func (p *peer) is(pid int, drop context.CancelCauseFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid, p.drop = pid, drop
}

// ended says that a process is dying or gone; started that it is the present one.
func (p *peer) ended(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 && p.pid == pid {
		p.drop(errReplaced)
	}
}

func (p *peer) started(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 && p.pid != pid {
		p.drop(errReplaced)
	}
}

// errReplaced ends a link to a process that is dying or has a successor.
var errReplaced = errors.New("the driver process was killed")

// errSilent ends a link to a driver that does not answer.
var errSilent = errors.New("the driver process does not answer")

// follow speaks to one driver process until it ends. connected says whether the core
// was told of it.
func (d *device) follow(ctx context.Context) (connected bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer func() { <-ended }()
	polling := false
	defer func() {
		if !polling {
			close(ended)
		}
	}()

	// The socket of a process that is dying but not gone still takes connections, and
	// never answers: its successor has the same path.
	defer d.peer.is(0, nil)
	silent := time.AfterFunc(firstWord, func() { cancel(errSilent) })
	defer silent.Stop()
	changed := make(chan struct{}, 1)
	var seen uint64 // number of the last event that the core has, also by a snapshot
	err = d.client.Events(ctx, host.Cursor{}, true, func(it host.Item) error {
		silent.Stop()
		switch {
		case it.Current || connected && it.Gap:
			// What happened before is in the snapshot; events with higher numbers follow.
			if !connected {
				d.recut(ctx)
				d.tellLive(ctx)
			}
			st, err := d.startedSnapshot(ctx)
			if err != nil {
				return err
			}
			seen = st.Seq
			if connected {
				return d.post(ctx, control.DriverStatus{Device: d.config.Name, Status: st})
			}
			if err := d.post(ctx, control.DriverConnected{Device: d.config.Name, Status: st}); err != nil {
				return err
			}
			connected, polling = true, true
			d.peer.is(st.Pid, cancel)
			go func() {
				defer close(ended)
				d.poll(ctx, changed, cancel)
			}()
		case it.Record != nil && connected && it.Record.Seq > seen:
			seen = it.Record.Seq
			if ev := it.Record; ev.Side.Valid() && ev.Detail["code"] != nil {
				d.refuse(ev.Side, &drivers.Refused{Code: fmt.Sprint(ev.Detail["code"]), Sentence: ev.Reason})
			}
			select {
			case changed <- struct{}{}:
			default: // a snapshot is due already
			}
			return d.post(ctx, control.DriverReport{Device: d.config.Name, Event: *it.Record})
		}
		return nil
	})
	cancel(nil)
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) || errors.Is(cause, errReplaced) {
		err = cause
	}
	return connected, err
}

func (d *device) snapshot(ctx context.Context) (drivers.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotPatience)
	defer cancel()
	st, err := d.client.Status(ctx)
	if err != nil {
		return st, fmt.Errorf("ask the driver of %s for its status: %w", d.config.Name, err)
	}
	if st.State != drivers.FaceDown {
		d.up()
	}
	for i := range st.Sides {
		if w := d.watches[i]; w != nil && st.Sides[i].Resource.Path != "" && st.Sides[i].Resource.Path != w.where() {
			d.moved(ctx, drivers.Side(i), st.Sides[i].Resource.Path)
		}
	}
	return st, nil
}

// startedSnapshot waits until the driver has looked at its sides: until then a side that
// is there looks absent, and nothing can be asked of it.
func (d *device) startedSnapshot(ctx context.Context) (drivers.Status, error) {
	for {
		st, err := d.snapshot(ctx)
		if err != nil {
			return st, err
		}
		if host, ok := st.Stats["host"].(map[string]any); !ok || host["started"] != false {
			return st, nil
		}
		select {
		case <-time.After(linkRetryMin):
		case <-ctx.Done():
			return st, ctx.Err()
		}
	}
}

// poll reads snapshots until ctx ends: now and then, and soon after an event, which
// changes counters too. It ends the link when the driver is silent.
func (d *device) poll(ctx context.Context, changed <-chan struct{}, giveUp context.CancelCauseFunc) {
	misses := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			select { // what comes in one burst is one change
			case <-time.After(snapshotSoon):
			case <-ctx.Done():
				return
			}
			select {
			case <-changed:
			default:
			}
		case <-time.After(snapshotEvery):
		}
		st, err := d.snapshot(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			misses = 0
			_ = d.post(ctx, control.DriverStatus{Device: d.config.Name, Status: st})
		} else {
			misses++
		}
		if misses == snapshotMisses {
			giveUp(errSilent)
			return
		}
	}
}
