package daemon

import (
	"fmt"

	"ft/ftd/config"
)

// reload reads the configuration again and takes in what is new. What would change or
// remove a device that is there is refused, and then nothing is taken: a face may be
// in use, and its driver reads its settings at its start only.
func (d *Daemon) reload() {
	d.notify.reloading()
	defer d.notify.ready()
	added, cfg, err := d.readAgain()
	if err != nil {
		d.Log.Error("the configuration is not reloaded, nothing has changed", "error", err)
		d.notify.note("reload refused: " + err.Error())
		return
	}
	d.notify.note("")
	d.mu.Lock()
	d.config = cfg
	d.mu.Unlock()
	for _, c := range added {
		d.addDevice(cfg, c)
	}
	d.alarms.Set(cfg.Alarms.Settings)
	d.Log.Info("the configuration is reloaded", "file", cfg.File, "new devices", len(added))
}

func (d *Daemon) readAgain() (added []configured, cfg *config.Config, err error) {
	if cfg, err = config.Load(d.ConfigFile); err != nil {
		return nil, nil, err
	}
	d.mu.Lock()
	now := d.config
	d.mu.Unlock()
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
