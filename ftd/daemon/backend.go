package daemon

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"ft/drivers"
	"ft/drivers/keeper"
	"ft/ftd/api"
	"ft/ftd/control"
	"ft/ftd/eventlog"
)

const (
	detailPatience = 2 * time.Second
	testPatience   = 10 * time.Second // for diagnostics to end
	drainPatience  = 15 * time.Second // for I/O from before to end
	drainPoll      = 20 * time.Millisecond
)

// The Daemon is what the API's server asks.
var _ api.Backend = (*Daemon)(nil)

// Status is the status document of this moment.
func (d *Daemon) Status() (doc api.Status) {
	if err := d.owner.look(func(c *control.Core) { doc = c.Status(time.Now()) }); err != nil {
		doc.System.Verdict = err.Error()
	}
	d.noteLegs(&doc)
	return doc
}

// Events is the box's event log.
func (d *Daemon) Events() *eventlog.Log { return d.events }

// Detail says how the keeper sees a device's process and what that counts now (the
// status document has it as of the last snapshot), and for the box what runs that is
// not configured.
func (d *Daemon) Detail(ctx context.Context, id string) map[string]any {
	ctx, cancel := context.WithTimeout(ctx, detailPatience)
	defer cancel()
	if dev := d.device(id); dev != nil {
		return dev.detail(ctx)
	}
	if id != api.SystemID {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	detail := map[string]any{"config": d.ConfigFile, "state_dir": d.StateDir, "drills": d.config.System.Drills}
	var names []string
	for name := range d.strangers {
		names = append(names, name)
	}
	if len(names) > 0 {
		detail["not_configured"] = names
	}
	return detail
}

// Change does what an admin asks.
func (d *Daemon) Change(ctx context.Context, c api.Change) (api.Outcome, error) {
	switch c.Verb {
	case api.Bringup:
		out, err := d.request(ctx, func(r control.Request) control.Event {
			return control.BringUp{Request: r, Target: c.ID, AcceptRisk: c.AcceptRisk}
		}, c)
		if err == nil {
			err = d.tested(ctx, c.ID)
		}
		return out, err
	case api.Bringdown:
		out, err := d.request(ctx, func(r control.Request) control.Event {
			return control.BringDown{Request: r, Target: c.ID, AcceptRisk: c.AcceptRisk}
		}, c)
		if err == nil {
			out.Text = strings.TrimSuffix(out.Text, ".") + d.drained(ctx, c.ID)
		}
		return out, err
	case api.Switch:
		return d.request(ctx, func(r control.Request) control.Event {
			return control.SwitchActive{Request: r, Target: c.ID}
		}, c)
	case api.Machine:
		return d.machine(ctx, c)
	case api.Dump:
		return d.dump(ctx, c)
	case api.Priority:
		return d.priority(ctx, c)
	case api.Replace:
		return d.replace(ctx, c)
	case api.Scrub:
		return d.scrub(ctx, c)
	case api.Reads:
		return d.reads(ctx, c)
	case api.MTBFVerb:
		return d.mtbf(ctx, c)
	case api.Policy:
		return d.policy(ctx, c)
	case api.Reload:
		return d.reloadAsked(ctx, c)
	case api.Inject:
		return d.inject(ctx, c)
	case api.Resolve:
		return d.resolve(ctx, c)
	}
	return api.Outcome{}, fmt.Errorf("ftd does not know the verb %q", c.Verb)
}

// request gives the core a request and waits for the answer that is final.
func (d *Daemon) request(ctx context.Context, event func(control.Request) control.Event, c api.Change) (api.Outcome, error) {
	d.mu.Lock()
	d.requests++
	id := "r" + strconv.FormatUint(d.requests, 10)
	d.mu.Unlock()
	answers := d.rec.expect(id)
	defer d.rec.forget(id)
	if err := d.owner.post(ctx, event(control.Request{ID: id, By: c.By})); err != nil {
		return api.Outcome{}, err
	}
	accepted := ""
	for {
		select {
		case a := <-answers:
			if a.Final() {
				return d.outcome(c, a)
			}
			accepted = a.Sentence
		case <-d.ctx.Done():
			return api.Outcome{}, errEnded
		case <-ctx.Done():
			if accepted != "" {
				return api.Outcome{Text: accepted + "; that is still under way", Seq: d.events.LastSeq()}, nil
			}
			return api.Outcome{}, fmt.Errorf("%s %s: no answer in time; `ftctl status` says how far it has come", c.Verb, c.ID)
		}
	}
}

// outcome puts the core's answer into the API's terms.
func (d *Daemon) outcome(c api.Change, a control.Answer) (api.Outcome, error) {
	switch {
	case a.Status == control.AnswerDone:
		return api.Outcome{Text: a.Sentence, Seq: d.events.LastSeq()}, nil
	case a.Code == control.RuleUnknown:
		return api.Outcome{}, &api.NoSuchComponent{ID: c.ID}
	case a.Status == control.AnswerRefused:
		return api.Outcome{}, &drivers.Refused{Code: a.Code, Sentence: a.Sentence}
	}
	return api.Outcome{}, errors.New(a.Sentence)
}

// tested waits, within limits, until the sides that are coming in have been looked at,
// so that a refusal by what is found on one is an answer to whoever asked.
func (d *Daemon) tested(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, testPatience)
	defer cancel()
	for {
		busy := false
		for _, s := range sidesOf(d.Status(), id) {
			if s.side.State == drivers.Diagnostics {
				busy = true
			} else if dev := d.device(s.device); dev != nil && s.side.State == drivers.Offline && dev.refused(s.number) != nil {
				return dev.refused(s.number)
			}
		}
		if !busy {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil // it is under way: `ftctl status` tells the rest
		case <-time.After(drainPoll):
		}
	}
}

// drained waits until no I/O from before is under way on what was brought down, within
// limits, and says how that went.
func (d *Daemon) drained(ctx context.Context, id string) string {
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	for {
		busy := false
		for _, s := range sidesOf(d.Status(), id) {
			busy = busy || s.side.Draining
		}
		if !busy {
			return "; no I/O reaches it any more"
		}
		select {
		case <-ctx.Done():
			return "; I/O from before hangs on it still, nothing waits for that"
		case <-time.After(drainPoll):
		}
	}
}

// side is a side of a device in the status document.
type side struct {
	device string
	number drivers.Side
	side   api.SideStatus
}

// sidesOf finds the sides that an id names: one side, those of a device, or those that
// a module carries.
func sidesOf(doc api.Status, id string) (found []side) {
	for _, dev := range doc.Devices {
		for i, s := range dev.Sides {
			module, _, _ := strings.Cut(s.ID, "/")
			if id == s.ID || id == dev.ID || id == module {
				found = append(found, side{dev.ID, drivers.Side(i), s})
			}
		}
	}
	return found
}

// othersPatience is how long the keeper may take to say what it is.
const othersPatience = 2 * time.Second

// Others are the versions of the keeper and of the drivers.
func (d *Daemon) Others(ctx context.Context) (k *api.Version, outdated []string) {
	ctx, cancel := context.WithTimeout(ctx, othersPatience)
	defer cancel()
	switch about, err := d.keeper.About(ctx); {
	case err == nil:
		k = &api.Version{Version: about.Version, Pid: about.Pid, Since: about.Since}
	case !errors.Is(err, keeper.ErrUnreachable) && ctx.Err() == nil:
		k = &api.Version{Version: "older than this question"}
	}
	ps, _ := d.keeper.Processes(ctx)
	for _, p := range ps {
		if p.Outdated {
			outdated = append(outdated, p.Name)
		}
	}
	return k, outdated
}
