package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"ft/drivers"
	"ft/drivers/host"
	"ft/ftd/control"
)

// This file is the power of modules in drills: `ftctl inject pci1 power-off` takes away, at
// once and without a word, all that the module carries, and power-on gives it back.
//
// A power cut is three things, in this order:
//
//  1. The book. Which modules have no power is written to the run directory before anything is
//     done, so that whoever comes after (ftd killed in the middle, a driver that is started
//     anew and would find its leg where it always was) keeps the module dark, and power-on has
//     something to end. The book goes with the run directory: a start of the computer is the
//     end of every drill.
//  2. The core is told (control.ModulePower): what goes now is no fault of any part, and
//     nothing is brought in there before there is power.
//  3. Each side is taken from its driver by a fault of the driver's own, all at the same time:
//     legs vanish, NICs are removed, CPU modules are killed (cuts). A driver process that
//     starts or connects later gets it again (recut).
//
// Power-on goes back the other way: the sides, the book, the core; then what is there is seen.

// Faults of a whole module.
const (
	powerOff   = "power-off"
	powerOn    = "power-on"
	faultClear = "clear" // of a side, too
)

// powerName is the book, in the run directory.
const powerName = "power.json"

// cutDeadline bounds telling one driver of a power cut, or of its end.
const cutDeadline = 10 * time.Second

// power knows which modules have none.
type power struct {
	path string

	mu  sync.Mutex // guards the field below
	off map[string]bool
}

// loadPower reads the book of a predecessor. Where drills are not allowed there is no power
// to be without.
func loadPower(runDir string, drills bool) (*power, error) {
	p := &power{path: filepath.Join(runDir, powerName), off: map[string]bool{}}
	b, err := os.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !drills {
		return p, nil
	}
	var off []string
	if err == nil {
		err = json.Unmarshal(b, &off)
	}
	if err != nil {
		return p, fmt.Errorf("read which modules a drill has left without power: %w", err)
	}
	for _, module := range off {
		p.off[module] = true
	}
	return p, nil
}

// giving ends it for whoever asks now, but not on stable storage: what is under way is ended,
// and ftd may be killed before that is done.
func (p *power) giving(module string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.off, module)
}

// has says whether a module has power.
func (p *power) has(module string) bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.off[module]
}

// without are the modules that have none.
func (p *power) without() (off []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for module := range p.off {
		off = append(off, module)
	}
	slices.Sort(off)
	return off
}

// set notes it, on stable storage first.
func (p *power) set(module string, on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var off []string
	for m := range p.off {
		if m != module {
			off = append(off, m)
		}
	}
	if !on {
		off = append(off, module)
	}
	slices.Sort(off)
	err := p.write(off)
	if err != nil {
		return fmt.Errorf("note that %s is without power: %w", module, err)
	}
	p.off = map[string]bool{}
	for _, m := range off {
		p.off[m] = true
	}
	return nil
}

// write puts the book on stable storage; there is none when all modules have power.
func (p *power) write(off []string) error {
	if len(off) == 0 {
		if err := os.Remove(p.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := json.Marshal(off)
	if err != nil {
		return err
	}
	return replaceFile(p.path, append(b, '\n'))
}

// cuts says how the power of a side is taken away from its driver, and how it is given back;
// "" where nothing need be done, as a CPU module is started by the core's next attach.
var cuts = map[string]struct{ off, on string }{
	"disk":    {"vanish", "return"},
	"nic":     {"remove", "return"},
	"machine": {"kill", ""},
}

// modulePower takes the power of a module away or gives it back.
func (d *Daemon) modulePower(ctx context.Context, module, fault string) error {
	if fault == powerOff {
		return d.cutPower(ctx, module)
	}
	return errors.Join(d.givePower(ctx, module), d.onSides(module, func(dev *device, s drivers.Side) error {
		return d.clearSide(ctx, dev, s, fault)
	}))
}

func (d *Daemon) cutPower(ctx context.Context, module string) error {
	if err := d.power.set(module, false); err != nil {
		return err
	}
	if err := d.owner.post(ctx, control.ModulePower{Module: module, Reason: module + " has lost its power"}); err != nil {
		return err
	}
	err := d.onSides(module, func(dev *device, s drivers.Side) error {
		return errors.Join(dev.cut(ctx, s), dev.rewriteConfig())
	})
	if err == nil {
		return nil
	}
	return errors.Join(err, d.givePower(ctx, module)) // it is without power or it is not
}

// givePower gives a module its power back. What goes wrong with one side is said, and keeps no
// other from coming back.
func (d *Daemon) givePower(ctx context.Context, module string) error {
	d.power.giving(module)
	err := d.onSides(module, func(dev *device, s drivers.Side) error { return dev.uncut(ctx, s) })
	if err := d.power.set(module, true); err != nil {
		return err
	}
	if err := d.owner.post(ctx, control.ModulePower{Module: module, On: true}); err != nil {
		return err
	}
	return errors.Join(err, d.onSides(module, func(dev *device, s drivers.Side) error {
		if err := dev.rewriteConfig(); err != nil {
			return err
		}
		seen := control.DeviceSeen{ID: dev.as.sideID(s)}
		if dev.as.watched {
			is := look(dev.as.paths[s])
			if !is.present {
				return nil // it has really gone meanwhile, and is missed by its watch
			}
			seen.Identity = is.identity
		}
		return d.owner.post(ctx, seen)
	}))
}

// clearSide ends what other drills have put into a side, where all of them are to end.
func (d *Daemon) clearSide(ctx context.Context, dev *device, s drivers.Side, fault string) error {
	if fault != faultClear {
		return nil
	}
	return dev.tellPower(ctx, s, faultClear)
}

// onSides does something to everything that a module carries, all at the same time.
func (d *Daemon) onSides(module string, do func(*device, drivers.Side) error) error {
	d.mu.Lock()
	var devs []*device
	for _, dev := range d.devices {
		devs = append(devs, dev)
	}
	d.mu.Unlock()
	var wg sync.WaitGroup
	errs := make([]error, len(devs))
	for i, dev := range devs {
		s := drivers.Side(slices.Index(dev.as.modules[:], module))
		if !s.Valid() || dev.as.paths[s] == "" {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = do(dev, s)
		}()
	}
	wg.Wait()
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 1 {
		return errs[0] // a refusal stays one
	}
	return errors.Join(errs...)
}

// tellPower puts a fault of the driver's own into a side. A driver that does not run, or has
// nothing there, has nothing to lose; one that starts later is told then.
func (d *device) tellPower(ctx context.Context, s drivers.Side, fault string) error {
	if fault == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cutDeadline)
	defer cancel()
	err := d.client.Inject(ctx, s, drivers.Fault{Name: fault})
	var refused *drivers.Refused
	if errors.As(err, &refused) && refused.Code == drivers.RuleState || errors.Is(err, host.ErrUnreachable) {
		return nil
	}
	return err
}

// cut takes a side away if its module has no power, uncut gives it back: one at a time, so that
// a link that has just come up does not take away what has its power again.
func (d *device) cut(ctx context.Context, s drivers.Side) error {
	d.cutMu.Lock()
	defer d.cutMu.Unlock()
	if d.hasPower(s) {
		return nil
	}
	return d.tellPower(ctx, s, cuts[d.as.kind].off)
}

func (d *device) uncut(ctx context.Context, s drivers.Side) error {
	d.cutMu.Lock()
	defer d.cutMu.Unlock()
	return d.tellPower(ctx, s, cuts[d.as.kind].on)
}

// recut takes from a driver that has just been met what is in modules without power.
func (d *device) recut(ctx context.Context) {
	for i := range d.as.modules {
		if s := drivers.Side(i); d.as.paths[s] != "" {
			if err := d.cut(ctx, s); err != nil {
				d.log.Warn("a drill has left the module without power, and its side cannot be taken away", "side", s, "error", err)
			}
		}
	}
}

// hasPower says whether there is anything under a side.
func (d *device) hasPower(s drivers.Side) bool { return d.power.has(d.as.modules[s]) }

// noPower is the answer to whoever wants such a side in.
func (d *device) noPower(s drivers.Side) error {
	module := d.as.modules[s]
	return drivers.Refuse(drivers.RuleState, "%s has no power: ftctl inject %s %s gives it back", module, module, powerOn)
}
