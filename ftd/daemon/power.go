package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ft/drivers"
	"ft/drivers/host"
	"ft/ftd/control"
)

// This file is the power of CPU modules in drills. A disk or a NIC that is pulled is for its
// driver to be missed. A CPU module is a process of the driver's own, which could start the
// next one at once: so the module is killed, and ftd keeps its place empty until its power is
// back, or ftd itself is started anew.

// Faults of a whole module.
const (
	powerOff   = "power-off"
	powerOn    = "power-on"
	faultClear = "clear" // of a side, too
)

// modulePower takes the power of the CPU module under a side of a machine away, or gives it
// back. The core hears of it before the driver does: that a module goes is no fault of it.
func (d *Daemon) modulePower(ctx context.Context, dev *device, s side, fault string) error {
	if fault != powerOff {
		return d.powered(ctx, dev, s, fault)
	}
	module, _, _ := strings.Cut(s.side.ID, "/")
	dev.unpower(s.number, true)
	if err := d.owner.post(ctx, control.DeviceVanished{ID: s.side.ID, Reason: module + " has lost its power"}); err != nil {
		return err
	}
	err := dev.client.Inject(ctx, s.number, drivers.Fault{Name: "kill"})
	var refused *drivers.Refused
	if err == nil || errors.As(err, &refused) && refused.Code == drivers.RuleState || errors.Is(err, host.ErrUnreachable) {
		return nil // the last two: nothing runs there
	}
	return errors.Join(err, d.powered(ctx, dev, s, powerOn))
}

// powered gives a module its power back. What a drill has put into it is cleared by faultClear.
func (d *Daemon) powered(ctx context.Context, dev *device, s side, fault string) error {
	dev.unpower(s.number, false)
	var err error
	if fault == faultClear {
		err = dev.client.Inject(ctx, s.number, drivers.Fault{Name: faultClear})
	}
	return errors.Join(err, d.owner.post(ctx, control.DeviceSeen{ID: s.side.ID}))
}

// unpower notes whether the module under a side is without power.
func (d *device) unpower(s drivers.Side, off bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unpowered[s] = off
}

// hasPower says whether there is anything under a side.
func (d *device) hasPower(s drivers.Side) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.unpowered[s]
}

// noPower is the answer to whoever wants such a side in.
func (d *device) noPower(s drivers.Side) error {
	module := d.as.modules[s]
	return fmt.Errorf("%s has no power: ftctl inject %s %s gives it back", module, module, powerOn)
}
