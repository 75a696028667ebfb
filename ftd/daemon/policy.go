package daemon

import (
	"context"
	"time"

	"ft/drivers"
	"ft/ftd/api"
	"ft/ftd/control"
)

// FaultHistories are those of the parts that an ID stands for.
func (d *Daemon) FaultHistories(id string) (hs []api.FaultHistory, found bool) {
	_ = d.owner.look(func(c *control.Core) { hs, found = c.Histories(id, time.Now()) })
	return hs, found
}

// mtbf forgets the faults of parts, or sets how they are judged.
func (d *Daemon) mtbf(ctx context.Context, c api.Change) (api.Outcome, error) {
	if c.Action == api.MTBFClear {
		return d.request(ctx, func(r control.Request) control.Event {
			return control.ClearMTBF{Request: r, Target: c.ID}
		}, c)
	}
	set, err := c.MTBFSettings()
	if err != nil {
		return api.Outcome{}, err
	}
	return d.request(ctx, func(r control.Request) control.Event {
		return control.SetMTBF{Request: r, Target: c.ID, Settings: set, Default: c.Default}
	}, c)
}

// policy sets the box's bring-up policy.
func (d *Daemon) policy(ctx context.Context, c api.Change) (api.Outcome, error) {
	if name := d.Status().System.Name; c.ID != name && c.ID != api.SystemID {
		return api.Outcome{}, drivers.Refuse(control.RuleValue, "the bring-up policy is that of the whole box, %s, not of %s", name, c.ID)
	}
	return d.request(ctx, func(r control.Request) control.Event {
		return control.SetBringup{Request: r, Policy: control.BringupPolicy(c.Bringup)}
	}, c)
}
