package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ft/drivers"
	"ft/drivers/host"
	"ft/drivers/keeper"
	"ft/drivers/netns"
	"ft/ftd/control"
)

// device is the daemon's side of one driver process: a queue of actions that are begun
// in order, and a link (link.go) that brings up what the driver reports.
type device struct {
	as         configured
	config     drivers.Config
	configPath string
	log        *slog.Logger
	keeper     *keeper.Client
	client     *host.Client
	post       func(context.Context, control.Event) error
	up         func() // told with every snapshot that shows the face up

	queue chan queued
	wake  chan struct{} // tells the link to try at once
	peer  peer          // whom the link speaks to

	watches [2]*watch // of its legs, nil where ftd does not watch
	// moved is told when the driver has a leg somewhere else.
	moved func(ctx context.Context, s drivers.Side, path string)

	power *power     // of the modules
	cutMu sync.Mutex // held while a side is being taken away or given back for that

	mu      sync.Mutex             // guards the fields below
	refusal [2]*drivers.Refused    // why the last attach of each side was refused, nil when it was not
	wanted  *[2]drivers.SideConfig // as the core last said what the next process starts with
	live    map[string]string      // settings that hold at once
}

// queued is an action and the gate that it waits at.
type queued struct {
	control.Action
	gate *gate
}

const (
	// actionsMax bounds what one device may have before it. The core waits for most
	// results before it asks for more.
	actionsMax = 64
	// watchdogPeriod is the longest silence of a driver process.
	watchdogPeriod = 10 * time.Second
)

// Deadlines of actions, below the core's own (60 s) so that it hears how they ended.
var deadlines = map[control.ActionKind]time.Duration{
	control.ActionStart:     15 * time.Second,
	control.ActionConfigure: 5 * time.Second,
	control.ActionStop:      45 * time.Second,
	control.ActionAttach:    30 * time.Second,
	control.ActionDetach:    45 * time.Second, // a machine is off when its I/O has ended
	control.ActionSwitch:    15 * time.Second,
	control.ActionSnapshot:  5 * time.Second,
}

// enqueue takes an action without waiting; false when there are too many.
func (d *device) enqueue(a control.Action, g *gate) bool {
	select {
	case d.queue <- queued{a, g}:
		return true
	default:
		return false
	}
}

// runActions carries actions out, one after the other, until ctx ends.
func (d *device) runActions(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-d.queue:
			if !q.gate.wait(ctx) {
				continue // what it rests on could not be saved: dropped
			}
			d.carryOut(ctx, q.Action)
		}
	}
}

func (d *device) carryOut(ctx context.Context, a control.Action) {
	limited, cancel := context.WithTimeout(ctx, deadlines[a.Kind])
	err := d.do(limited, a)
	cancel()
	if err != nil {
		d.log.Warn("action", "kind", a.Kind, "side", a.Side, "error", err)
	}
	if a.WantsResult() && ctx.Err() == nil {
		_ = d.post(ctx, resultOf(a, err)) // fails only when ftd stops
	}
}

// resultOf puts an error into the core's terms.
func resultOf(a control.Action, err error) control.ActionResult {
	r := control.ActionResult{ID: a.ID, Outcome: control.OK}
	var refused *drivers.Refused
	switch {
	case err == nil:
	case errors.As(err, &refused):
		r.Outcome, r.Code, r.Sentence = control.Refused, refused.Code, refused.Sentence
	default:
		r.Outcome, r.Sentence = control.Failed, err.Error()
	}
	return r
}

func (d *device) do(ctx context.Context, a control.Action) error {
	switch a.Kind {
	case control.ActionStart:
		return d.start(ctx, a.Sides)
	case control.ActionConfigure:
		return d.writeConfig(a.Sides)
	case control.ActionStop:
		return d.stop(ctx)
	case control.ActionAttach:
		return d.attach(ctx, a.Side, a.Resource)
	case control.ActionDetach:
		if d.as.kind == "machine" && !d.hasPower(a.Side) {
			return nil // it goes by itself
		}
		_, err := d.client.Detach(ctx, a.Side, a.Reason, false)
		return err
	case control.ActionSwitch:
		return d.switchTo(ctx, a.Side)
	case control.ActionSnapshot:
		return d.look(ctx)
	}
	return fmt.Errorf("ftd does not know the action %q", a.Kind)
}

// look gives the core a snapshot.
func (d *device) look(ctx context.Context) error {
	st, err := d.client.Status(ctx)
	if err != nil {
		return err
	}
	return d.post(ctx, control.DriverStatus{Device: d.config.Name, Status: st})
}

// switchTo makes a side the active one; Whole: the one that is not now. A driver can only
// be told to turn round, and may have done so by itself since the core was last told.
func (d *device) switchTo(ctx context.Context, to drivers.Side) error {
	if to.Valid() {
		st, err := d.client.Status(ctx)
		if err != nil {
			return err
		}
		if st.Sides[to].Active {
			return d.post(ctx, control.DriverStatus{Device: d.config.Name, Status: st})
		}
	}
	if err := d.client.Switch(ctx); err != nil {
		return err
	}
	// Whoever asked sees it as soon as he has his answer.
	if err := d.look(ctx); err != nil {
		d.log.Warn("it has switched, and does not say how it stands now", "error", err)
	}
	return nil
}

// attach asks the driver to take a side in, and remembers a refusal for whoever asked.
func (d *device) attach(ctx context.Context, s drivers.Side, res drivers.Resource) error {
	d.refuse(s, nil)
	if !d.hasPower(s) {
		return d.noPower(s)
	}
	err := d.client.Attach(ctx, s, res)
	var refused *drivers.Refused
	if errors.As(err, &refused) {
		d.refuse(s, refused)
	}
	return err
}

func (d *device) refuse(s drivers.Side, why *drivers.Refused) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refusal[s] = why
}

func (d *device) refused(s drivers.Side) *drivers.Refused {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refusal[s]
}

// start has the keeper run the driver. A process that the keeper has given up is given
// another chance: the core asks only when a person does, or at ftd's own start.
func (d *device) start(ctx context.Context, sides [2]drivers.SideConfig) error {
	if err := d.writeConfig(sides); err != nil {
		return err
	}
	spec, err := d.spec()
	if err != nil {
		return err
	}
	p, err := d.keeper.Put(ctx, d.config.Name, spec)
	for errors.Is(err, keeper.ErrUnreachable) && ctx.Err() == nil {
		select { // it is being started again
		case <-time.After(keeperRetryMin):
		case <-ctx.Done():
		}
		p, err = d.keeper.Put(ctx, d.config.Name, spec)
	}
	if err == nil && p.State == keeper.Failed {
		err = d.keeper.Reset(ctx, d.config.Name)
	}
	if err != nil {
		return fmt.Errorf("have the keeper start the driver of %s: %w", d.config.Name, err)
	}
	d.kick()
	return nil
}

func (d *device) spec() (keeper.Spec, error) {
	exe, err := os.Executable()
	if err != nil {
		return keeper.Spec{}, fmt.Errorf("find ftd's own binary: %w", err)
	}
	argv := []string{exe, "driver", d.as.driver, d.config.Name, "--config", d.configPath}
	if d.as.netns != "" {
		argv = append(argv, "--netns", netns.Path(d.as.netns))
	}
	return keeper.Spec{
		Argv:       argv,
		WatchdogMS: int(watchdogPeriod.Milliseconds()),
		Control:    host.SocketPath(d.config.RunDir, d.config.Name),
	}, nil
}

// writeConfig puts down what the device's next process starts with.
func (d *device) writeConfig(sides [2]drivers.SideConfig) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	wanted := sides
	d.wanted = &wanted
	return d.writeConfigLocked(sides)
}

// rewriteConfig does it again, after a module has lost its power or has it back.
func (d *device) rewriteConfig() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wanted == nil {
		return nil
	}
	return d.writeConfigLocked(*d.wanted)
}

func (d *device) writeConfigLocked(sides [2]drivers.SideConfig) error {
	c := d.config
	for s := range sides {
		sides[s].Out = sides[s].Out || !d.hasPower(drivers.Side(s))
	}
	c.Sides = sides
	b, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return fmt.Errorf("encode the configuration of %s: %w", c.Name, err)
	}
	if err := os.MkdirAll(filepath.Dir(d.configPath), 0o755); err != nil {
		return fmt.Errorf("write the configuration of %s: %w", c.Name, err)
	}
	return replaceFile(d.configPath, append(b, '\n'))
}

// stop takes the face down. A driver that is not there has none.
func (d *device) stop(ctx context.Context) error {
	err := d.client.Stop(ctx, drivers.Remove)
	if !errors.Is(err, host.ErrUnreachable) {
		return err
	}
	// Perhaps it is only between two lives: the keeper knows.
	p, kerr := d.keeper.Process(ctx, d.config.Name)
	switch {
	case errors.Is(kerr, keeper.ErrNotFound), kerr == nil && (p.State == keeper.Stopped || p.State == keeper.Failed):
		return nil
	case kerr != nil:
		return kerr
	}
	return fmt.Errorf("the driver of %s is being started (%s): try again", d.config.Name, p.State)
}

// detail is what the keeper and the driver say at this moment.
func (d *device) detail(ctx context.Context) map[string]any {
	m := map[string]any{}
	if p, err := d.keeper.Process(ctx, d.config.Name); err != nil {
		m["process"] = err.Error()
	} else {
		m["process"] = map[string]any{
			"state": p.State, "reason": p.Reason, "started": p.Started, "starts": p.Starts, "early_deaths": p.Early,
			"last_end": p.LastEnd, "adopted": p.Adopted, "restored": p.Restored, "descriptors": p.Descriptors,
		}
	}
	if st, err := d.client.Status(ctx); err != nil {
		m["stats"] = err.Error()
	} else {
		m["stats"] = st.Stats
	}
	return m
}

// kick makes the link try at once.
func (d *device) kick() {
	select {
	case d.wake <- struct{}{}:
	default: // it has been told already
	}
}
