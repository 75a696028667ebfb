package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/ftd/api"
	"ft/ftd/control"
)

// crashDelay lets the answer go out before ftd kills itself.
const crashDelay = 100 * time.Millisecond

// ruleFault is the code of a fault that there is not, as drivers have it.
const ruleFault = "fault"

// inject carries out a drill: a fault in a leg, a module, or a process.
func (d *Daemon) inject(ctx context.Context, c api.Change) (api.Outcome, error) {
	d.mu.Lock()
	allowed, file := d.config.System.Drills, d.ConfigFile
	d.mu.Unlock()
	if !allowed {
		return api.Outcome{}, drivers.Refuse(drivers.RuleNoDrills, "drills are not allowed on this box: faults would be real ones to whoever uses it; `drills = true` under [system] in %s allows them", file)
	}
	d.Log.Warn("drill", "id", c.ID, "fault", c.Fault, "args", c.Args, "by", c.By)
	var err error
	switch {
	case c.ID == "ftd":
		err = d.crashSelf(c.Fault)
	case d.device(c.ID) != nil && c.Fault != faultClear:
		err = d.injectDevice(ctx, c)
	default:
		err = d.injectSides(ctx, c)
	}
	if err != nil {
		return api.Outcome{}, err
	}
	return api.Outcome{Text: strings.Join(append([]string{c.ID + ":", c.Fault}, c.Args...), " "), Seq: d.events.LastSeq()}, nil
}

func (d *Daemon) crashSelf(fault string) error {
	if fault != "crash" {
		return drivers.Refuse(ruleFault, "ftd itself knows the fault `crash`, not %q", fault)
	}
	time.AfterFunc(crashDelay, func() { _ = unix.Kill(os.Getpid(), unix.SIGKILL) })
	return nil
}

func (d *Daemon) injectDevice(ctx context.Context, c api.Change) error {
	if c.Fault != "crash" {
		return drivers.Refuse(ruleFault, "a device knows the fault `crash` (its process is killed), not %q; faults of a part go to its side, e.g. %s", c.Fault, d.device(c.ID).as.sideID(0))
	}
	return d.keeper.Crash(ctx, c.ID)
}

// moduleFaults are those of a whole module.
var moduleFaults = []string{powerOff, powerOn, faultClear}

// injectSides puts a fault into a side, or a module's fault into all that it carries.
func (d *Daemon) injectSides(ctx context.Context, c api.Change) error {
	sides := sidesOf(d.Status(), c.ID)
	if len(sides) == 0 {
		return &api.NoSuchComponent{ID: c.ID}
	}
	whole := !strings.Contains(c.ID, "/") // a module, or `clear` of a device
	if whole {
		if !slices.Contains(moduleFaults, c.Fault) {
			return drivers.Refuse(ruleFault, "a module knows the faults `power-off`, `power-on` and `clear`, not %q; other faults go to one side, e.g. %s", c.Fault, sides[0].side.ID)
		}
		if len(c.Args) > 0 {
			return drivers.Refuse(ruleFault, "%s of a module takes no arguments", c.Fault)
		}
	}
	if d.device(c.ID) == nil && whole {
		return d.modulePower(ctx, c.ID, c.Fault)
	}
	var errs []error
	for _, s := range sides {
		dev, err := d.device(s.device), error(nil)
		if dev != nil {
			err = d.injectSide(ctx, dev, s, drivers.Fault{Name: c.Fault, Args: c.Args})
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 1 {
		return errs[0] // a refusal stays one
	}
	return errors.Join(errs...)
}

func (d *Daemon) injectSide(ctx context.Context, dev *device, s side, fault drivers.Fault) error {
	for _, arg := range fault.Args {
		if strings.HasPrefix(arg, "--") && dev.as.kind != "machine" {
			return drivers.Refuse(ruleFault, "%s: %s is for the sides of machines, which count steps", s.side.ID, arg)
		}
	}
	if !dev.hasPower(s.number) {
		return dev.noPower(s.number)
	}
	if err := dev.client.Inject(ctx, s.number, fault); err != nil {
		return err
	}
	switch {
	case dev.as.watched && (fault.Name == "return" || fault.Name == faultClear):
		d.seenAgain(ctx, s)
	case dev.as.kind == "machine" && fault.Name == faultClear:
		// A test that failed for what was cleared is worth another try.
		_ = d.owner.post(ctx, control.DeviceSeen{ID: s.side.ID})
	}
	return nil
}

// seenAgain stands in for the kernel's event at the end of a drill: the device was
// there all the time, so that no event comes. Also where a try to bring it in is under way:
// that has found it gone, and the next one would be a minute off.
func (d *Daemon) seenAgain(ctx context.Context, s side) {
	out := s.side.State == drivers.Removed || s.side.State == drivers.Diagnostics
	if is := look(s.side.Resource); is.present && out {
		_ = d.owner.post(ctx, control.DeviceSeen{ID: s.side.ID, Identity: is.identity})
	}
}

// resolve picks the side whose data stay, after a split-brain or when only a leg that
// is behind is left.
func (d *Daemon) resolve(ctx context.Context, c api.Change) (api.Outcome, error) {
	dev := d.device(c.ID)
	if dev == nil {
		return api.Outcome{}, &api.NoSuchComponent{ID: c.ID}
	}
	sides := sidesOf(d.Status(), c.ID)
	i := slices.IndexFunc(sides, func(s side) bool {
		module, _, _ := strings.Cut(s.side.ID, "/")
		return c.Keep == s.side.ID || c.Keep == module
	})
	if i < 0 {
		return api.Outcome{}, fmt.Errorf("%q is no side of %s: say --keep pci0 or --keep pci1, the side whose data stay", c.Keep, c.ID)
	}
	d.Log.Warn("resolve", "device", c.ID, "keep", sides[i].side.ID, "by", c.By)
	if err := dev.client.Command(ctx, "resolve", map[string]string{"keep": fmt.Sprint(sides[i].number)}, nil); err != nil {
		return api.Outcome{}, err
	}
	return api.Outcome{Text: fmt.Sprintf("%s goes on with the data of %s; what only the other side had is lost when it comes in", c.ID, sides[i].side.ID), Seq: d.events.LastSeq()}, nil
}
