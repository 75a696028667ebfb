package daemon

import (
	"context"
	"time"

	"ft/drivers/host"
	"ft/ftd/config"
)

// runningAnswer is how long a driver that already runs may take to say on what.
const runningAnswer = time.Second

// checkRunning refuses a configuration that names other parts for a device than its
// driver runs on: ftd would speak of parts that are not those in service, and a successor
// of the driver would not find the one that is. The device itself goes on.
func (d *Daemon) checkRunning(ctx context.Context, cfg *config.Config) error {
	for _, c := range allConfigured(cfg) {
		ctx, cancel := context.WithTimeout(ctx, runningAnswer)
		st, err := host.Dial(host.SocketPath(d.runDir, c.name)).Status(ctx)
		cancel()
		if err != nil {
			continue // none runs, or it starts anew and reads what is configured now
		}
		for i, side := range st.Sides {
			if runs, want := side.Resource.Path, c.paths[i]; runs != want && side.State.InService() {
				return misconfigured("%s: %s is in service with %s as %s, and the file names %q: put it back, "+
					"or stop the box first (SIGTERM to `ftd keeper`) and start it anew", c.place(cfg), c.name, runs, c.modules[i], want)
			}
		}
	}
	return nil
}
