package mirror

import (
	"context"
	"fmt"
	"strconv"

	"ft/drivers"
	"ft/mirror/balance"
	"ft/mirror/scrub"
)

// Command runs what only a mirror has:
//
//	resolve   keep: the side to keep
//	gone      side: whose device has vanished
//	scrub     action: start, pause, resume, cancel or show; to start: repair "true", from: the side that is right
//	replace   action: start or abort; side; to start: path, of the device that is to take its place, accept_risk
//	priority  level: low, normal or high, of resync and scrub
//	reads     side, mark: its part in reads, as in ft.toml; "default": as ft.toml has it
//	configured  pci0_reads, pci1_reads: what ft.toml says now of what may change while it runs
//
// The answer of scrub is a scrub.Status.
func (d *driver) Command(ctx context.Context, name string, args map[string]string) (any, error) {
	switch name {
	case "resolve":
		s, err := sideArg(args["keep"])
		if err != nil {
			return nil, err
		}
		return nil, d.resolve(s)
	case "gone":
		s, err := sideArg(args["side"])
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		open := d.legs[s]
		d.mu.Unlock()
		if open != nil && open.Gone() {
			d.gone(int(s), open, open.GoneWhy())
		}
		return nil, nil
	case "replace":
		return d.replaceCommand(ctx, args)
	case "scrub":
		return d.scrub(args)
	case "priority":
		var err error
		d.do(func(e *Engine) { err = e.SetPriority(Priority(args["level"])) })
		if err != nil {
			return nil, err
		}
		return nil, d.keepScrub()
	case "reads":
		s, err := sideArg(args["side"])
		if err != nil {
			return nil, err
		}
		var mark *balance.Mark
		if a := args["mark"]; a != ReadsDefault {
			m, err := markArg(a)
			if err != nil {
				return nil, err
			}
			mark = &m
		}
		d.do(func(e *Engine) { e.SetReads(s, mark) })
		return nil, d.keepScrub()
	case "configured":
		var marks [2]balance.Mark
		for i, key := range []string{"pci0_reads", "pci1_reads"} {
			var err error
			if marks[i], err = markArg(args[key]); err != nil {
				return nil, err
			}
		}
		d.do(func(e *Engine) { e.ConfigureReads(marks) })
		return nil, nil
	}
	return nil, drivers.Refuse(drivers.RuleState, "a mirror has no command %q (resolve, gone, scrub, priority, reads, configured, replace)", name)
}

// ReadsDefault, in the command reads, takes back what was said of a leg.
const ReadsDefault = "default"

func markArg(a string) (balance.Mark, error) {
	m, err := balance.ParseMark(a)
	if err != nil {
		return m, drivers.Refuse(drivers.RuleState, "%v", err)
	}
	return m, nil
}

func (d *driver) scrub(args map[string]string) (any, error) {
	from := scrub.NoSide
	if a := args["from"]; a != "" {
		s, err := sideArg(a)
		if err != nil {
			return nil, err
		}
		from = int(s)
	}
	var err error
	var st scrub.Status
	d.do(func(e *Engine) {
		switch a := args["action"]; a {
		case "start":
			err = e.Scrub(args["repair"] == "true", from)
		case "pause":
			err = e.PauseScrub()
		case "resume":
			err = e.ResumeScrub()
		case "cancel":
			err = e.CancelScrub()
		case "show":
		default:
			err = drivers.Refuse(drivers.RuleState, "a scrub has no action %q (start, pause, resume, cancel, show)", a)
		}
		st = e.ScrubStatus()
	})
	if err != nil {
		return nil, err
	}
	return st, d.keepScrub()
}

// keepScrub returns when an admin's word will outlive this process.
func (d *driver) keepScrub() error {
	if _, err := d.scrubs.flush(); err != nil {
		return fmt.Errorf("it holds now, but not for the driver's successor: %w", err)
	}
	return nil
}

func sideArg(a string) (drivers.Side, error) {
	n, err := strconv.Atoi(a)
	if s := drivers.Side(n); err == nil && s.Valid() {
		return s, nil
	}
	return 0, drivers.Refuse(drivers.RuleState, "%q is no side: 0 or 1", a)
}
