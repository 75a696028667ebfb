package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"ft/chipset"
	"ft/chipset/engine"
	"ft/drivers"
	"ft/drivers/host"
	"ft/drivers/unixhttp"
	"ft/ftd/api"
	"ft/ftd/config"
	"ft/ftd/control"
)

// configuredMachine is a [[machine]] of the configuration, which hangs on a disk and a NIC
// that may be others of its devices. Its driver lives in the network namespace of the NIC.
func configuredMachine(m config.Machine, nics []config.NIC) configured {
	c := configured{kind: "machine", name: m.Name, line: m.Line, driver: chipset.Kind, modules: cpuModules, paths: cpuModules, netns: m.NIC.Netns}
	for _, name := range []string{m.Disk.Device, m.NIC.Device} {
		if name != "" {
			c.needs = append(c.needs, name)
		}
	}
	if i := slices.IndexFunc(nics, func(n config.NIC) bool { return n.Name == m.NIC.Device }); i >= 0 {
		c.netns = nics[i].Netns
	}
	netns := c.netns
	c.options = func(devDir string) any { return machineOptions(m, devDir, netns) }
	placeless := m
	placeless.Line, placeless.Disk.Line, placeless.NIC.Line = 0, 0, 0
	placeless.Kernel.Line, placeless.Initrd.Line, placeless.Record.Line = 0, 0, 0
	c.settings = placeless
	return c
}

func machineOptions(m config.Machine, devDir, netns string) chipset.Options {
	o := chipset.Options{
		Kernel:          m.Kernel.Path,
		Initrd:          m.Initrd.Path,
		Cmdline:         m.Cmdline,
		MemoryBytes:     m.Memory,
		Disk:            m.Disk.Path,
		DiskSerial:      diskSerial(m),
		Link:            m.NIC.Device + m.NIC.Link,
		TAP:             m.NIC.TAP,
		Netns:           netns,
		MAC:             m.NIC.MAC,
		ConsoleLogBytes: m.ConsoleLog,
		Record:          m.Record.Path,
		Engine:          engine.Choice(m.Engine),
		Compare:         chipset.Compare(m.Compare),
		BlackoutMax:     m.BlackoutMax,
		Throttle:        m.Throttle,
		Undecided:       chipset.Undecided(m.Undecided),
	}
	if m.Disk.Device != "" {
		o.Disk = filepath.Join(devDir, m.Disk.Device)
	}
	if o.Link+o.TAP != "" && o.MAC == "" {
		o.MAC = machineMAC(hostID(), m.Name)
	}
	return o
}

// diskSerial is what the guest knows its disk by (/dev/disk/by-id): the name of the [[disk]],
// or of the file.
func diskSerial(m config.Machine) string {
	name := m.Disk.Device
	if m.Disk.Path != "" {
		name = filepath.Base(m.Disk.Path)
	}
	return name[:min(len(name), chipset.DiskSerialMax)]
}

// machineMAC derives a machine's MAC from the host and its name, so that it is the same at
// every start and another one on every box. The host's identity does not leave it in the
// clear (machine-id(5) asks for that). Unicast, locally administered (IEEE 802c).
func machineMAC(host, name string) string {
	sum := sha256.Sum256([]byte("ft machine MAC\x00" + host + "\x00" + name))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac.String()
}

// hostID tells this host from others: machine-id(5), or what it calls itself.
func hostID() string {
	if b, err := os.ReadFile("/etc/machine-id"); err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b))
	}
	name, _ := os.Hostname()
	return name
}

// machine starts, stops and resets a machine. What is wanted of it is the core's to know; a
// reset changes no wish, and is between ftd and the driver.
func (d *Daemon) machine(ctx context.Context, c api.Change) (api.Outcome, error) {
	switch c.Action {
	case api.MachineStart:
		out, err := d.request(ctx, func(r control.Request) control.Event {
			return control.StartMachine{Request: r, Target: c.ID}
		}, c)
		if err == nil {
			err = d.started(ctx, c.ID)
		}
		return out, err
	case api.MachineStop:
		return d.request(ctx, func(r control.Request) control.Event {
			return control.StopMachine{Request: r, Target: c.ID}
		}, c)
	}
	dev, err := d.machineDevice(c.ID)
	if err != nil {
		return api.Outcome{}, err
	}
	if !slices.ContainsFunc(sidesOf(d.Status(), c.ID), func(s side) bool { return s.side.State.InService() }) {
		return api.Outcome{}, drivers.Refuse(drivers.RuleState, "%s is not on (%s): ftctl machine start %s starts it", c.ID, strings.TrimPrefix(d.verdictOn(c.ID), c.ID+" is "), c.ID)
	}
	d.Log.Warn("machine reset", "machine", c.ID, "by", c.By)
	if err := d.command(ctx, dev, "machine", map[string]string{"action": "reset", "by": c.By}, nil); err != nil {
		return api.Outcome{}, err
	}
	if err := dev.look(ctx); err != nil { // whoever asked sees it as soon as he has his answer
		dev.log.Warn("it was reset, and does not say how it stands now", "error", err)
	}
	return api.Outcome{Text: fmt.Sprintf("%s starts again from the beginning: ftctl console %s shows how it gets on", c.ID, c.ID), Seq: d.events.LastSeq()}, nil
}

// dump has the memory of a CPU module written out. Its driver does it, and tells how far it is
// as progress of the side.
func (d *Daemon) dump(ctx context.Context, c api.Change) (api.Outcome, error) {
	dev, err := d.machineDevice(c.ID)
	if err != nil {
		return api.Outcome{}, err
	}
	if c.Side != "" && !slices.Contains(dev.as.modules[:], c.Side) {
		return api.Outcome{}, drivers.Refuse(control.RuleMachine, "%s has no side on %s: name %s or %s, or none of them", c.ID, c.Side, dev.as.modules[0], dev.as.modules[1])
	}
	d.Log.Warn("dump", "machine", c.ID, "side", c.Side, "by", c.By)
	var answer struct {
		Path string `json:"path"`
	}
	if err := d.command(ctx, dev, "dump", map[string]string{"side": c.Side, "out": c.Out, "by": c.By}, &answer); err != nil {
		return api.Outcome{}, err
	}
	if err := dev.look(ctx); err != nil {
		dev.log.Warn("its memory is being dumped, and it does not say how it stands now", "error", err)
	}
	return api.Outcome{Text: fmt.Sprintf("the memory of %s is being written to %s: ftctl status shows how far that is", c.ID, answer.Path), Seq: d.events.LastSeq()}, nil
}

// priority says how much background work on a device may take from what is in service.
func (d *Daemon) priority(ctx context.Context, c api.Change) (api.Outcome, error) {
	dev := d.device(c.ID)
	if dev == nil || dev.as.kind == kindDisk {
		return d.diskPriority(ctx, c)
	}
	dev, err := d.machineDevice(c.ID)
	if err != nil {
		return api.Outcome{}, err
	}
	if err := d.command(ctx, dev, "priority", map[string]string{"level": c.Level, "by": c.By}, nil); err != nil {
		return api.Outcome{}, err
	}
	return api.Outcome{Text: fmt.Sprintf("CPU modules come into %s with priority %s, until its driver process ends", c.ID, c.Level), Seq: d.events.LastSeq()}, nil
}

// command asks a driver for something of its own.
func (d *Daemon) command(ctx context.Context, dev *device, name string, args map[string]string, answer any) error {
	err := dev.client.Command(ctx, name, args, answer)
	if errors.Is(err, host.ErrUnreachable) {
		return drivers.Refuse(drivers.RuleState, "the driver process of %s does not answer (%s): try again in a moment", dev.config.Name, d.verdictOn(dev.config.Name))
	}
	return err
}

// started waits, within limits, until a machine that is being started is on, so that what
// keeps it from that is an answer to whoever asked.
func (d *Daemon) started(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, testPatience)
	defer cancel()
	for {
		if on, err := d.hasStarted(id); on || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil // it is under way: `ftctl status` tells the rest
		case <-time.After(drainPoll):
		}
	}
}

// hasStarted says whether a machine is on, or is not wanted any more; or why none of its sides
// can start it.
func (d *Daemon) hasStarted(id string) (bool, error) {
	dev, wanted, failed := d.device(id), 0, 0
	var why error
	for _, s := range sidesOf(d.Status(), id) {
		switch {
		case s.side.State.InService() || dev == nil:
			return true, nil
		case s.side.Target == control.Out || s.side.State == drivers.Removed:
			continue
		case s.side.State != drivers.Offline:
		case dev.refused(s.number) != nil:
			failed++
			if why == nil {
				why = dev.refused(s.number)
			}
		case s.side.RetryAt != nil:
			failed++
			why = fmt.Errorf("%s; it is tried again by itself", d.verdictOn(id))
		}
		wanted++
	}
	if failed < wanted {
		return false, nil // under way
	}
	return wanted == 0, why
}

// machineDevice finds a machine by its name.
func (d *Daemon) machineDevice(id string) (*device, error) {
	switch dev := d.device(id); {
	case dev == nil && len(sidesOf(d.Status(), id)) == 0:
		return nil, &api.NoSuchComponent{ID: id}
	case dev == nil:
		return nil, drivers.Refuse(control.RuleMachine, "%s is no machine but a part of the box: name the machine, as ftctl ls has it", id)
	case dev.as.kind != "machine":
		return nil, drivers.Refuse(control.RuleMachine, "%s is a %s, no machine", id, dev.as.kind)
	default:
		return dev, nil
	}
}

// Console connects to a machine's console, which its driver process has.
func (d *Daemon) Console(ctx context.Context, id string) (net.Conn, error) {
	dev, err := d.machineDevice(id)
	if err != nil {
		return nil, err
	}
	path := chipset.ConsolePath(d.runDir, dev.config.Name)
	addr, release, err := unixhttp.Address(path)
	if err == nil {
		defer release()
		var dialer net.Dialer
		var conn net.Conn
		if conn, err = dialer.DialContext(ctx, "unix", addr); err == nil {
			return conn, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, drivers.Refuse(drivers.RuleState, "%s has no console now, for its driver process does not run (%s)", id, d.verdictOn(id))
	}
	return nil, fmt.Errorf("open the console of %s: %w", id, err)
}

// verdictOn is what the status says of a device.
func (d *Daemon) verdictOn(id string) string {
	for _, v := range d.Status().Devices {
		if v.ID == id {
			return v.Verdict
		}
	}
	return "it is not configured"
}
