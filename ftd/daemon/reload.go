package daemon

import (
	"context"
	"fmt"
	"strings"

	"ft/drivers"
	"ft/ftd/api"
	"ft/ftd/config"
	"ft/ftd/control"
)

// reload reads the configuration again and takes in what is new, and settings that hold at
// once (live.go). What would otherwise change or remove a device that is there is refused,
// and then nothing is taken: a face may be in use, and its driver reads its settings at its
// start only.
func (d *Daemon) reload() reloaded {
	d.notify.reloading()
	defer d.notify.ready()
	added, cfg, err := d.readAgain()
	if err != nil {
		d.Log.Error("the configuration is not reloaded, nothing has changed", "error", err)
		d.notify.note("reload refused: " + err.Error())
		return reloaded{err: err}
	}
	d.notify.note("")
	d.mu.Lock()
	d.config = cfg
	d.mu.Unlock()
	for _, c := range added {
		d.addDevice(cfg, c)
	}
	for _, c := range allConfigured(cfg) {
		if dev := d.device(c.name); dev != nil {
			dev.setLive(d.ctx, d.DevDir, c)
		}
	}
	d.alarms.Set(cfg.Alarms.Settings)
	d.Log.Info("the configuration is reloaded", "file", cfg.File, "new devices", len(added))
	return reloaded{file: cfg.File, added: added}
}

// reloaded is what came of a reload.
type reloaded struct {
	file  string
	added []configured
	err   error
}

// ruleConfig is the code of a configuration that is not taken.
const ruleConfig = "config"

// reloadAsked has the configuration read again, and says what came of it.
func (d *Daemon) reloadAsked(ctx context.Context, c api.Change) (api.Outcome, error) {
	if name := d.Status().System.Name; c.ID != name && c.ID != api.SystemID {
		return api.Outcome{}, drivers.Refuse(control.RuleValue, "the configuration is that of the whole box, %s, not of %s", name, c.ID)
	}
	answer := make(chan reloaded, 1)
	select {
	case d.reloads <- answer:
	case <-d.ctx.Done():
		return api.Outcome{}, errEnded
	case <-ctx.Done():
		return api.Outcome{}, fmt.Errorf("the configuration was not read again: ftd has not come to it in time")
	}
	select {
	case r := <-answer:
		if r.err != nil {
			return api.Outcome{}, drivers.Refuse(ruleConfig, "the configuration is not reloaded, nothing has changed: %v", r.err)
		}
		return api.Outcome{Text: r.String(), Seq: d.events.LastSeq()}, nil
	case <-d.ctx.Done():
		return api.Outcome{}, errEnded
	case <-ctx.Done():
		return api.Outcome{Text: "the configuration is being read; `ftctl ls` shows what is new", Seq: d.events.LastSeq()}, nil
	}
}

func (r reloaded) String() string {
	if len(r.added) == 0 {
		return r.file + " is read: no new devices"
	}
	var names []string
	for _, c := range r.added {
		names = append(names, c.name)
	}
	return r.file + " is read, new: " + strings.Join(names, ", ")
}

func (d *Daemon) readAgain() (added []configured, cfg *config.Config, err error) {
	if cfg, err = config.Load(d.ConfigFile); err != nil {
		return nil, nil, err
	}
	d.mu.Lock()
	now := d.config
	d.mu.Unlock()
	if err := d.placeLegs(cfg); err != nil {
		return nil, nil, err
	}
	if added, err = newDevices(now, cfg); err != nil {
		return nil, nil, err
	}
	if err := d.checkHost(cfg); err != nil {
		return nil, nil, err
	}
	return added, cfg, nil
}

// newDevices compares two configurations: the devices that only the next one has, or why
// the step from one to the other needs a restart.
func newDevices(now, next *config.Config) (added []configured, err error) {
	if now.System != next.System || now.MTBF != next.MTBF {
		return nil, fmt.Errorf("%s: [system] and [mtbf] are read at the start only: `systemctl restart ftd` takes them in, the faces stay up meanwhile", next.File)
	}
	old, file := allConfigured(now), allConfigured(next)
	for _, o := range old {
		n := named(file, o.name)
		if n == nil {
			return nil, fmt.Errorf("%s: the %s %q is gone from the file, but runs: end its use, `ftctl bringdown %s --accept-risk=last-side`, and restart ftd; or put it back", next.File, o.kind, o.name, o.name)
		}
		if !o.same(*n) {
			return nil, fmt.Errorf("%s: the %s %q has other settings than it runs with: its driver reads them at its start. `systemctl restart ftd`, and then, with its use ended, `ftctl bringdown %s --accept-risk=last-side` and `ftctl bringup %s` take them in", n.place(next), o.kind, o.name, o.name, o.name)
		}
	}
	for _, n := range file {
		if named(old, n.name) == nil {
			added = append(added, n)
		}
	}
	return added, nil
}
