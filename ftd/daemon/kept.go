package daemon

import (
	"context"
	"sync"
	"time"

	"ft/ftd/api"
)

const (
	keptAge      = time.Second // the keeper is asked no more often than this
	keptPatience = time.Second
)

// kept is what the keeper last said of its processes.
type kept struct {
	mu  sync.Mutex // held while the keeper is asked
	at  time.Time
	all []api.KeptProcess
	err error
}

// Kept is what the keeper runs of the configured devices, for metrics.
func (d *Daemon) Kept(ctx context.Context) ([]api.KeptProcess, error) {
	d.kept.mu.Lock()
	defer d.kept.mu.Unlock()
	if time.Since(d.kept.at) < keptAge {
		return d.kept.all, d.kept.err
	}
	// Whoever asked may go; the answer is kept for the next one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keptPatience)
	defer cancel()
	ps, err := d.keeper.Processes(ctx)
	d.kept.all, d.kept.err = nil, err
	for _, p := range ps {
		if d.device(p.Name) != nil {
			d.kept.all = append(d.kept.all, api.KeptProcess{Name: p.Name, State: string(p.State), Starts: p.Starts, Early: p.Early})
		}
	}
	d.kept.at = time.Now()
	return d.kept.all, d.kept.err
}
