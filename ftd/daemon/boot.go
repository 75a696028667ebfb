package daemon

import (
	"context"
	"time"

	"ft/drivers/keeper"
)

// boots says whether ftd begins a boot of the box: no driver was running when it began. Where
// that cannot be known it is none, so that a restart of ftd on a box that runs is never taken
// for one.
func (d *Daemon) boots(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, keeperPatience)
	defer cancel()
	ps, err := d.keeper.Processes(ctx)
	return err == nil && noneBefore(ps, d.began)
}

// noneBefore says that no process ran at a time. A keeper that was itself started anew after
// everything was killed may have started some since.
func noneBefore(ps []keeper.Process, began time.Time) bool {
	for _, p := range ps {
		if p.Pid != 0 && (p.Adopted || p.Started.Before(began)) {
			return false
		}
	}
	return true
}
