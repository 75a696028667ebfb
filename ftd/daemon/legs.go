package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"ft/drivers"
	"ft/ftd/api"
	"ft/ftd/config"
	"ft/ftd/control"
	"ft/mirror/legpath"
	"ft/mirror/nbd"
)

// A leg that was replaced is where the state directory says, whatever ft.toml has for it
// (package legpath): the driver keeps that, and ftd goes by it.

// placeLegs puts the legs of a configuration where they are.
func (d *Daemon) placeLegs(cfg *config.Config) error {
	for i := range cfg.Disks {
		disk := &cfg.Disks[i]
		known, err := legpath.NewStore(d.StateDir, disk.Name).Load()
		if err != nil {
			return err
		}
		for s := range disk.Legs {
			leg := &disk.Legs[s]
			if now := known.Sides[s].Of(leg.Path); now != leg.Path {
				disk.InFile[s], leg.Path = leg.Path, now
				d.Log.Warn("a leg was replaced: the file names the old one", "file", cfg.File, "line", leg.Line,
					"disk", disk.Name, "file has", disk.InFile[s], "leg", now, "way out", "write "+now+" there; to take the old one back: ftctl replace")
			}
		}
	}
	return nil
}

// noteLegs says of each side that was replaced so.
func (d *Daemon) noteLegs(doc *api.Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.config == nil {
		return // there is none yet
	}
	for _, disk := range d.config.Disks {
		for i := range doc.Devices {
			if doc.Devices[i].ID != disk.Name {
				continue
			}
			for s := range doc.Devices[i].Sides {
				x := &doc.Devices[i].Sides[s]
				if in := disk.InFile[s]; in != "" && x.Note == "" {
					x.Note = fmt.Sprintf("replaced %s, which ft.toml still names: write %s there", in, disk.Legs[s].Path)
				}
			}
		}
	}
}

// legMoved: the driver says that a leg is somewhere else than ftd thought.
func (d *Daemon) legMoved(ctx context.Context, dev *device, s drivers.Side, path string) {
	d.mu.Lock()
	w := dev.watches[s]
	if w == nil || w.where() == path {
		d.mu.Unlock()
		return
	}
	was := w.where()
	cfg := *d.config // who has the old one reads on in it
	cfg.Disks = slices.Clone(cfg.Disks)
	d.config = &cfg
	for i := range cfg.Disks {
		if disk := &cfg.Disks[i]; disk.Name == dev.as.name {
			leg := &disk.Legs[s]
			if disk.InFile[s] == "" {
				disk.InFile[s] = leg.Path
			}
			if leg.Path = path; disk.InFile[s] == path {
				disk.InFile[s] = ""
			}
		}
	}
	d.mu.Unlock()
	is := w.move(path)
	d.Log.Warn("a leg was replaced", "disk", dev.as.name, "side", s, "was", was, "is", path)
	if is.present {
		_ = d.owner.post(ctx, control.DeviceSeen{ID: dev.as.sideID(s), Identity: is.identity})
	}
}

// replace puts another device in the place of a leg, or calls that off.
func (d *Daemon) replace(ctx context.Context, c api.Change) (api.Outcome, error) {
	sides := sidesOf(d.Status(), c.ID)
	if len(sides) == 0 {
		return api.Outcome{}, &api.NoSuchComponent{ID: c.ID}
	}
	dev := d.device(sides[0].device)
	if len(sides) != 1 || sides[0].side.ID != c.ID || dev == nil || dev.as.kind != kindDisk {
		return api.Outcome{}, drivers.Refuse(control.RuleValue, "%s is no leg: name one side of a disk, as in ftctl replace pci1/disk0 /dev/sdc", c.ID)
	}
	s := sides[0].number
	args := map[string]string{"action": c.Action, "side": strconv.Itoa(int(s)), "path": c.Path, "accept_risk": c.AcceptRisk}
	if c.Action == api.ReplaceStart {
		if !filepath.IsAbs(c.Path) && !nbd.IsAddress(c.Path) {
			return api.Outcome{}, drivers.Refuse(control.RuleValue, "%q is neither an absolute path nor the address of an NBD server's export", c.Path)
		}
		if err := d.fitsAs(dev.as.name, s, c.Path); err != nil {
			return api.Outcome{}, err
		}
	}
	d.Log.Warn("replace", "leg", c.ID, "action", c.Action, "by", c.By, "path", c.Path)
	var answer struct {
		How string `json:"how"`
	}
	if err := d.command(ctx, dev, "replace", args, &answer); err != nil {
		return api.Outcome{}, err
	}
	if err := dev.look(ctx); err != nil {
		dev.log.Warn("a leg is being replaced, and its driver does not say how it stands", "error", err)
	}
	switch {
	case c.Action == api.ReplaceAbort:
		return api.Outcome{Text: fmt.Sprintf("%s stays as it is: it is not replaced", c.ID), Seq: d.events.LastSeq()}, nil
	case answer.How == "moved":
		d.legMoved(ctx, dev, s, c.Path)
		out, err := d.Change(ctx, api.Change{Verb: api.Bringup, ID: c.ID, By: c.By, AcceptRisk: c.AcceptRisk})
		if err == nil {
			out.Text = fmt.Sprintf("%s is %s now. %s", c.ID, c.Path, out.Text)
		}
		return out, err
	}
	return api.Outcome{Text: fmt.Sprintf("%s is being copied to %s, which then takes its place; until then it serves as before: ftctl status shows how far, ftctl replace %s --abort ends it", c.ID, c.Path, c.ID),
		Seq: d.events.LastSeq()}, nil
}

// fitsAs says what the configuration would have against another device as a leg.
func (d *Daemon) fitsAs(disk string, s drivers.Side, path string) error {
	d.mu.Lock()
	now, next := *d.config, *d.config
	next.Disks = slices.Clone(next.Disks)
	d.mu.Unlock()
	for i := range next.Disks {
		if next.Disks[i].Name == disk {
			next.Disks[i].Legs[s].Path = path
		}
	}
	var known []string
	for _, p := range config.Check(&now, config.ThisHost) {
		known = append(known, p.What)
	}
	for _, p := range config.Check(&next, config.ThisHost) {
		if !p.Advice && !slices.Contains(known, p.What) {
			return drivers.Refuse(drivers.RuleUnfit, "%s: %s", p.What, p.WayOut)
		}
	}
	return nil
}
