package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"

	"ft/drivers"
	"ft/drivers/host"
	"ft/ftd/config"
	"ft/ftd/control"
)

// configured is a device of the configuration, whatever its kind: what the daemon needs to
// know to have it driven. disk.go, nic.go and machine.go make them.
type configured struct {
	kind     string // disk, nic, machine
	name     string
	line     int                     // in the file
	driver   string                  // kind of the driver
	modules  [2]string               // that carry its sides
	paths    [2]string               // what its sides are made of, "" for a side that is not configured
	needs    []string                // devices on whose faces it stands
	options  func(devDir string) any // of the driver, as JSON; devDir is where faces appear
	netns    string                  // that its driver lives in, "" for ftd's own
	watched  bool                    // ftd looks whether what the sides are made of is there; else the driver does
	live     map[string]string       // settings that hold at once, as its driver's command "configured" takes them
	settings any                     // all else that the file says of it, but for where
}

// Modules carry sides: those of disks and NICs, and those of machines.
var (
	pciModules = [2]string{"pci0", "pci1"}
	cpuModules = [2]string{"cpu0", "cpu1"}
)

// sideID is a side as everyone names it.
func (c configured) sideID(s drivers.Side) string { return c.modules[s] + "/" + c.name }

// allConfigured are the devices of a configuration, in the order in which the core is told.
func allConfigured(cfg *config.Config) (all []configured) {
	for _, disk := range cfg.Disks {
		all = append(all, configuredDisk(disk))
	}
	for _, n := range cfg.NICs {
		all = append(all, configuredNIC(n))
	}
	for _, m := range cfg.Machines {
		all = append(all, configuredMachine(m, cfg.NICs))
	}
	return all
}

// named is the one with a name, nil when there is none.
func named(all []configured, name string) *configured {
	if i := slices.IndexFunc(all, func(c configured) bool { return c.name == name }); i >= 0 {
		return &all[i]
	}
	return nil
}

// same compares settings; where they stand in the file does not count.
func (c configured) same(o configured) bool {
	return c.kind == o.kind && reflect.DeepEqual(c.settings, o.settings)
}

// addDevice makes a configured device known to the core and begins to look after it.
func (d *Daemon) addDevice(cfg *config.Config, c configured) {
	options, err := json.Marshal(c.options(d.DevDir))
	if err != nil {
		panic("daemon: the options of a " + c.driver + " cannot be encoded: " + err.Error()) // plain values
	}
	dev := &device{
		as: c,
		config: drivers.Config{Kind: c.driver, Name: c.name, RunDir: d.runDir, StateDir: d.StateDir,
			DevDir: d.DevDir, Drills: cfg.System.Drills, Options: options},
		configPath: filepath.Join(d.runDir, "drivers", c.name+".json"),
		log:        d.Log.With("device", c.name),
		keeper:     d.keeper,
		client:     host.Dial(host.SocketPath(d.runDir, c.name)),
		post:       d.owner.post,
		up:         func() { d.noteServed(c.name) },
		queue:      make(chan queued, actionsMax),
		wake:       make(chan struct{}, 1),
		power:      d.power,
		live:       c.live,
	}
	told := control.DeviceConfigured{Kind: c.kind, Name: c.name, Needs: c.needs}
	var watches []*watch
	dev.moved = func(ctx context.Context, s drivers.Side, path string) { d.legMoved(ctx, dev, s, path) }
	for i, path := range c.paths {
		if path == "" {
			continue
		}
		spec := &told.Sides[i]
		if spec.Resource.Path = path; c.watched {
			side := drivers.Side(i)
			w := newWatch(path, func(ctx context.Context, was, is presence) { d.presenceChanged(ctx, dev, side, was, is) })
			spec.Resource.Identity, spec.Absent = w.now.identity, !w.now.present
			watches = append(watches, w)
			dev.watches[i] = w
		}
	}

	d.mu.Lock()
	d.devices[c.name] = dev
	d.watches = append(d.watches, watches...)
	delete(d.strangers, c.name)
	d.mu.Unlock()

	_ = d.owner.post(d.ctx, told) // before anything that a driver says
	d.goRun(dev.runActions)
	d.goRun(dev.runLink)
	for _, w := range watches {
		d.goRun(func(ctx context.Context) {
			w.runAny(ctx, func() drivers.State { return d.stateOf(c.name, w.where()) })
		})
	}
}

// stateOf is the state of the side of a device that is what is at a path.
func (d *Daemon) stateOf(name, path string) drivers.State {
	for _, s := range sidesOf(d.Status(), name) {
		if s.side.Resource == path {
			return s.side.State
		}
	}
	return drivers.Empty
}

// place is where a device stands in the file.
func (c configured) place(cfg *config.Config) string { return fmt.Sprintf("%s:%d", cfg.File, c.line) }
