package daemon

import (
	"context"
	"encoding/json"
	"maps"
	"time"
)

// Settings that hold at once: a reload gives them to the driver that runs, and puts them
// down for the next one. A driver that ftd meets was perhaps started under an older file,
// and is told as well.

// liveDeadline bounds telling a driver.
const liveDeadline = 5 * time.Second

// setLive takes in what the file says now of such settings.
func (d *device) setLive(ctx context.Context, devDir string, c configured) {
	d.mu.Lock()
	changed := !maps.Equal(d.live, c.live)
	d.live = c.live
	if changed {
		options, err := json.Marshal(c.options(devDir))
		if err != nil {
			panic("daemon: the options of a " + c.driver + " cannot be encoded: " + err.Error()) // plain values
		}
		d.config.Options = options
	}
	d.mu.Unlock()
	if !changed {
		return
	}
	if err := d.rewriteConfig(); err != nil {
		d.log.Warn("the settings hold now, but not for the driver's next start", "error", err)
	}
	d.tellLive(ctx)
	if err := d.look(ctx); err != nil {
		d.log.Info("the driver does not say how it stands with its new settings", "error", err)
	}
}

// tellLive tells the driver.
func (d *device) tellLive(ctx context.Context) {
	d.mu.Lock()
	live := d.live
	d.mu.Unlock()
	if len(live) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, liveDeadline)
	defer cancel()
	if err := d.client.Command(ctx, "configured", live, nil); err != nil {
		d.log.Warn("the driver is not told what the configuration says; it is at its next start", "error", err)
	}
}
