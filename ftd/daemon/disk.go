package daemon

import (
	"context"
	"fmt"
	"time"

	"ft/drivers"
	"ft/ftd/config"
	"ft/ftd/control"
	"ft/mirror"
	"ft/mirror/balance"
)

const kindDisk = "disk"

// goneDeadline bounds telling a driver that a leg's device has vanished.
const goneDeadline = 5 * time.Second

// configuredDisk is a [[disk]] of the configuration. Its legs are watched from here.
func configuredDisk(disk config.Disk) configured {
	c := configured{kind: kindDisk, name: disk.Name, line: disk.Line, driver: mirror.Kind, modules: pciModules, watched: true}
	for i := range disk.Legs {
		c.paths[i] = disk.Legs[i].Path
		disk.Legs[i].Line, disk.InFile[i] = 0, ""
	}
	disk.Line = 0
	options := mirrorOptions(disk)
	c.options = func(string) any { return options }
	c.live = map[string]string{"pci0_reads": disk.Reads[0].String(), "pci1_reads": disk.Reads[1].String()}
	disk.Reads = [2]balance.Mark{}
	c.settings = disk
	return c
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
		ScrubEvery:    disk.ScrubEvery,
		Reads:         disk.Reads,
	}
}

// presenceChanged tells the core, and of a loss the driver too: it then fails what is
// under way on the leg at once instead of waiting for the device's own time-outs.
func (d *Daemon) presenceChanged(ctx context.Context, dev *device, side drivers.Side, was, is presence) {
	id := dev.as.sideID(side)
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
