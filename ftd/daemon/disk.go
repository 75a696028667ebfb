package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"ft/drivers"
	"ft/drivers/host"
	"ft/ftd/config"
	"ft/ftd/control"
	"ft/mirror"
)

// sideID is a disk's side as everyone names it.
func sideID(name string, s drivers.Side) string { return fmt.Sprintf("pci%d/%s", s, name) }

// goneDeadline bounds telling a driver that a leg's device has vanished.
const goneDeadline = 5 * time.Second

// addDisk makes a configured disk known to the core and begins to look after it.
func (d *Daemon) addDisk(cfg *config.Config, disk config.Disk) {
	options, err := json.Marshal(mirrorOptions(disk))
	if err != nil {
		panic("daemon: a mirror's options cannot be encoded: " + err.Error()) // plain values
	}
	dev := &device{
		driverKind: "mirror",
		config: drivers.Config{Kind: "mirror", Name: disk.Name, RunDir: d.runDir, StateDir: d.StateDir,
			DevDir: d.DevDir, Drills: cfg.System.Drills, Options: options},
		configPath: filepath.Join(d.runDir, "drivers", disk.Name+".json"),
		log:        d.Log.With("device", disk.Name),
		keeper:     d.keeper,
		client:     host.Dial(host.SocketPath(d.runDir, disk.Name)),
		post:       d.owner.post,
		up:         func() { d.noteServed(disk.Name) },
		queue:      make(chan queued, actionsMax),
		wake:       make(chan struct{}, 1),
	}
	configured := control.DeviceConfigured{Kind: "disk", Name: disk.Name}
	var watches []*watch
	for i, leg := range disk.Legs {
		if leg.Path == "" {
			continue
		}
		side := drivers.Side(i)
		w := newWatch(leg.Path, func(ctx context.Context, was, is presence) { d.presenceChanged(ctx, dev, side, was, is) })
		configured.Sides[i] = control.SideSpec{
			Resource: drivers.Resource{Path: leg.Path, Identity: w.now.identity},
			Absent:   !w.now.present,
		}
		watches = append(watches, w)
	}

	d.mu.Lock()
	d.devices[disk.Name] = dev
	d.watches = append(d.watches, watches...)
	delete(d.strangers, disk.Name)
	d.mu.Unlock()

	_ = d.owner.post(d.ctx, configured) // before anything that a driver says
	d.goRun(dev.runActions)
	d.goRun(dev.runLink)
	for _, w := range watches {
		d.goRun(w.run)
	}
}

func mirrorOptions(disk config.Disk) mirror.Options {
	return mirror.Options{
		Frontend:      disk.Frontend,
		NoLeg:         disk.NoLeg,
		LegTimeout:    disk.LegTimeout,
		ResyncRateMin: disk.ResyncRateMin,
		ResyncRateMax: disk.ResyncRateMax,
		Integrity:     disk.Integrity,
		NBD:           disk.NBD,
	}
}

// presenceChanged tells the core, and of a loss the driver too: it then fails what is
// under way on the leg at once instead of waiting for the device's own time-outs.
func (d *Daemon) presenceChanged(ctx context.Context, dev *device, side drivers.Side, was, is presence) {
	id := sideID(dev.config.Name, side)
	if was.present {
		why := is.why
		if is.present {
			why = fmt.Sprintf("what was there (%s) has been replaced (%s)", was.medium, is.medium)
		}
		dev.log.Warn("a leg has vanished", "side", side, "why", why)
		limited, cancel := context.WithTimeout(ctx, goneDeadline)
		err := dev.client.Command(limited, "gone", map[string]string{"side": fmt.Sprint(side), "why": why}, nil)
		cancel()
		if err != nil {
			dev.log.Info("the driver could not be told that the leg is gone; it finds out by itself", "side", side, "error", err)
		}
		if d.owner.post(ctx, control.DeviceVanished{ID: id, Reason: why}) != nil {
			return
		}
	}
	if is.present {
		dev.log.Info("a leg's device is there", "side", side, "medium", is.medium)
		_ = d.owner.post(ctx, control.DeviceSeen{ID: id, Identity: is.identity})
	}
}
