package daemon

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ft/drivers"
	"ft/ftd/api"
	"ft/ftd/control"
	"ft/mirror/balance"
	"ft/mirror/scrub"
)

// disk finds a disk by its name.
func (d *Daemon) disk(id string) (*device, error) {
	switch dev := d.device(id); {
	case dev == nil && len(sidesOf(d.Status(), id)) == 0:
		return nil, &api.NoSuchComponent{ID: id}
	case dev == nil:
		return nil, drivers.Refuse(control.RuleValue, "%s is no disk but a part of the box: name the disk, as ftctl ls has it", id)
	case dev.as.kind != kindDisk:
		return nil, drivers.Refuse(control.RuleValue, "%s is a %s, no disk", id, dev.as.kind)
	default:
		return dev, nil
	}
}

// scrub begins the comparison of a disk's two sides, or says how it is to go on.
func (d *Daemon) scrub(ctx context.Context, c api.Change) (api.Outcome, error) {
	dev, err := d.disk(c.ID)
	if err != nil {
		return api.Outcome{}, err
	}
	args := map[string]string{"action": c.Action, "repair": strconv.FormatBool(c.Repair)}
	if c.From != "" {
		i := slices.Index(dev.as.modules[:], c.From)
		if i < 0 {
			return api.Outcome{}, drivers.Refuse(control.RuleValue, "%s has no side on %s: name %s or %s, the one whose data stay", c.ID, c.From, dev.as.modules[0], dev.as.modules[1])
		}
		args["from"] = strconv.Itoa(i)
		d.Log.Warn("scrub repairs", "disk", c.ID, "from", c.From, "by", c.By)
	}
	var st scrub.Status
	if err := d.command(ctx, dev, "scrub", args, &st); err != nil {
		return api.Outcome{}, err
	}
	if err := dev.look(ctx); err != nil { // whoever asked sees it as soon as he has his answer
		dev.log.Warn("its scrub was told what to do, and it does not say how it stands now", "error", err)
	}
	return api.Outcome{Text: scrubText(c, st), Seq: d.events.LastSeq()}, nil
}

func scrubText(c api.Change, st scrub.Status) string {
	percent := 0.0
	if st.Progress != nil {
		percent = st.Progress.Percent
	}
	switch c.Action {
	case api.ScrubPause:
		return fmt.Sprintf("the scrub of %s stands still at %.0f %%: ftctl scrub %s --resume goes on", c.ID, percent, c.ID)
	case api.ScrubResume:
		return fmt.Sprintf("the scrub of %s goes on at %.0f %%", c.ID, percent)
	case api.ScrubCancel:
		return fmt.Sprintf("the scrub of %s is ended; ftctl show %s has what it found", c.ID, c.ID)
	}
	return fmt.Sprintf("the sides of %s are being compared: ftctl status shows how far, ftctl show %s what was found", c.ID, c.ID)
}

// reads says which part in reads a side of a disk has.
func (d *Daemon) reads(ctx context.Context, c api.Change) (api.Outcome, error) {
	module, name, _ := strings.Cut(c.ID, "/")
	dev := d.device(name)
	if dev == nil || dev.as.kind != kindDisk || !slices.Contains(dev.as.modules[:], module) {
		if len(sidesOf(d.Status(), c.ID)) == 0 {
			return api.Outcome{}, &api.NoSuchComponent{ID: c.ID}
		}
		return api.Outcome{}, drivers.Refuse(control.RuleValue, "%s is no side of a disk: name one, like pci1/disk0", c.ID)
	}
	side := slices.Index(dev.as.modules[:], module)
	if err := d.command(ctx, dev, "reads", map[string]string{"side": strconv.Itoa(side), "mark": c.Reads}, nil); err != nil {
		return api.Outcome{}, err
	}
	d.Log.Info("the part of a side in reads is set", "side", c.ID, "reads", c.Reads, "by", c.By)
	if err := dev.look(ctx); err != nil {
		dev.log.Warn("it was told how to balance reads, and does not say how it stands now", "error", err)
	}
	return api.Outcome{Text: readsText(c), Seq: d.events.LastSeq()}, nil
}

func readsText(c api.Change) string {
	until := fmt.Sprintf(", until it is set anew, here or by %s_reads in ft.toml", api.ModuleOf(c.ID))
	switch c.Reads {
	case balance.Prefer.String():
		return c.ID + " gets all reads while it keeps up" + until
	case balance.Balance.String():
		return c.ID + " gets its share of reads" + until
	case api.ReadsDefault:
		return c.ID + " has the part in reads that ft.toml says"
	}
	return c.ID + " gets no read that the other side can have" + until
}

// diskPriority says how much resyncs and scrubs may take from applications.
func (d *Daemon) diskPriority(ctx context.Context, c api.Change) (api.Outcome, error) {
	dev, err := d.disk(c.ID)
	if err != nil {
		return api.Outcome{}, err
	}
	if err := d.command(ctx, dev, "priority", map[string]string{"level": c.Level}, nil); err != nil {
		return api.Outcome{}, err
	}
	return api.Outcome{Text: fmt.Sprintf("resyncs and scrubs of %s have priority %s, until it is set anew", c.ID, c.Level), Seq: d.events.LastSeq()}, nil
}
