package daemon

import (
	"fmt"
	"slices"

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
		return
	}
	d.mu.Lock()
	d.config = cfg
	d.mu.Unlock()
	for _, disk := range added {
		d.addDisk(cfg, disk)
	}
	d.Log.Info("the configuration is reloaded", "file", cfg.File, "new disks", len(added))
}

func (d *Daemon) readAgain() (added []config.Disk, cfg *config.Config, err error) {
	if cfg, err = config.Load(d.ConfigFile); err != nil {
		return nil, nil, err
	}
	d.mu.Lock()
	now := d.config
	d.mu.Unlock()
	if added, err = newDisks(now, cfg); err != nil {
		return nil, nil, err
	}
	if err := d.checkMachine(cfg); err != nil {
		return nil, nil, err
	}
	return added, cfg, nil
}

// newDisks compares two configurations: the disks that only the next one has, or why
// the step from one to the other needs a restart.
func newDisks(now, next *config.Config) (added []config.Disk, err error) {
	if now.System != next.System || now.MTBF != next.MTBF {
		return nil, fmt.Errorf("%s: [system] and [mtbf] are read at the start only: `systemctl restart ftd` takes them in, the faces stay up meanwhile", next.File)
	}
	for _, old := range now.Disks {
		i := slices.IndexFunc(next.Disks, func(n config.Disk) bool { return n.Name == old.Name })
		if i < 0 {
			return nil, fmt.Errorf("%s: the disk %q is gone from the file, but runs: unmount it, `ftctl bringdown %s --accept-risk=last-side`, and restart ftd; or put it back", next.File, old.Name, old.Name)
		}
		if n := next.Disks[i]; !sameDisk(old, n) {
			return nil, fmt.Errorf("%s:%d: the disk %q has other settings than it runs with: its driver reads them at its start. `systemctl restart ftd`, and then, with the disk unmounted, `ftctl bringdown %s --accept-risk=last-side` and `ftctl bringup %s` take them in", next.File, n.Line, n.Name, n.Name, n.Name)
		}
	}
	for _, n := range next.Disks {
		if !slices.ContainsFunc(now.Disks, func(o config.Disk) bool { return o.Name == n.Name }) {
			added = append(added, n)
		}
	}
	return added, nil
}

// sameDisk compares settings; where they stand in the file does not count.
func sameDisk(a, b config.Disk) bool {
	a.Line, b.Line = 0, 0
	for i := range a.Legs {
		a.Legs[i].Line, b.Legs[i].Line = 0, 0
	}
	return a == b
}
