package control

import (
	"fmt"
	"strings"
	"time"

	"ft/drivers"
)

// This file writes the two sentences that a person reads first: what is wrong and why,
// and what to do about it, with the command to type. Someone who was woken must not
// have to know the state table.

// verdict is about the box: its worst face of those that could be better, of several the
// one with the worst part, and how many others are not well.
func (c *Core) verdict(now time.Time) (verdict, action string) {
	var bad *device
	others := 0
	for _, d := range c.devices {
		switch {
		case d.face.state == drivers.FaceDuplex:
		case bad == nil:
			bad = d
		default:
			others++
			if d.face.state < bad.face.state || d.face.state == bad.face.state && rank(d.telling().state) < rank(bad.telling().state) {
				bad = d
			}
		}
	}
	switch {
	case len(c.devices) == 0:
		return "no device is configured", "name a disk, a nic or a machine in ft.toml, then restart ftd"
	case bad == nil:
		if d := c.unlinked(); d != nil {
			return c.linkVerdict(d, now)
		}
		return "every face is served by two good sides", "none"
	}
	m := c.moduleOf(bad.telling())
	verdict, action, whole := c.moduleVerdict(m)
	if whole = whole && bad.face.state != drivers.FaceDown && bad.link == LinkConnected; whole {
		others = 0
		for _, d := range c.devices {
			if d.face.state != drivers.FaceDuplex && (d.face.state == drivers.FaceDown || c.moduleOf(d.telling()) != m) {
				others++
			}
		}
	} else {
		verdict, action = c.deviceVerdict(bad, now)
	}
	if others > 0 {
		verdict += fmt.Sprintf(" (and %d more: ftctl status)", others)
	}
	return verdict, action
}

// unlinked is a device whose driver process is not there although it is wanted.
func (c *Core) unlinked() *device {
	for _, d := range c.devices {
		if d.wanted() && d.link != LinkConnected {
			return d
		}
	}
	return nil
}

// linkVerdict is about a driver process that is not there.
func (c *Core) linkVerdict(d *device, now time.Time) (verdict, action string) {
	switch d.link {
	case LinkStarting:
		return fmt.Sprintf("the driver of %s is starting", d.name), "none: wait a moment; if it lasts, journalctl -u ft-keeper says why"
	case LinkLost:
		return fmt.Sprintf("the driver process of %s is gone; its successor takes %s over", d.name, d.faceName()), "none: it returns by itself; if it lasts, journalctl -u ft-keeper says why"
	case LinkStopping:
		return fmt.Sprintf("%s is being taken down", d.name), "none"
	case LinkGaveUp:
		return fmt.Sprintf("%s is down: its driver process died too often and is not started again%s", d.name, d.kind.kept),
			"see journalctl -u ft-keeper, mend the cause, then: " + d.startCommand()
	}
	if c.waits(d) {
		return c.waitSentence(d), fmt.Sprintf("none: it is started by itself when %s is up", c.waitsFor(d))
	}
	if d.kind.machine {
		return c.machineDown(d, now)
	}
	return fmt.Sprintf("%s is down: an admin took it down", d.name), d.startCommand()
}

// deviceVerdict is about one device.
func (c *Core) deviceVerdict(d *device, now time.Time) (verdict, action string) {
	if d.link != LinkConnected && (d.wanted() || d.takenDown()) {
		return c.linkVerdict(d, now)
	}
	if d.kind.machine && d.face.state == drivers.FaceDown {
		return c.machineDown(d, now)
	}
	if s := d.goingOff(); s != nil {
		return fmt.Sprintf("%s is being stopped: %s", d.name, s.target.Reason), "none: it is off when its I/O has ended"
	}
	if d.face.state == drivers.FaceDuplex {
		if d.kind.machine {
			return fmt.Sprintf("%s runs on %s and %s in lockstep", d.name, d.kind.modules[0], d.kind.modules[1]), "none"
		}
		return d.name + " is served by two good sides", "none"
	}
	if d.down != "" {
		return fmt.Sprintf("%s is down: %s", d.name, d.down), fmt.Sprintf("see ftctl show %s and journalctl -u ft-keeper", d.name)
	}
	s := d.telling()
	verdict, action = c.sideVerdict(s, now)
	if d.face.state != drivers.FaceDown {
		return verdict, action
	}
	return c.bothVerdicts(d, s, now)
}

// bothVerdicts is about a device that is down because of both its sides.
func (c *Core) bothVerdicts(d *device, s *side, now time.Time) (verdict, action string) {
	verdict, action = c.sideVerdict(s, now)
	other, otherAction := c.sideVerdict(s.partner(), now)
	verdict = fmt.Sprintf("%s is down: %s; %s", d.name, verdict, other)
	if otherAction != action && !strings.HasPrefix(otherAction, "none") {
		if strings.HasPrefix(action, "none") {
			return verdict, otherAction
		}
		action += "; or " + otherAction
	}
	return verdict, action
}

// rank is the place of a state in worst.
func rank(state drivers.State) int {
	for i, w := range worst {
		if w == state {
			return i
		}
	}
	return len(worst)
}

// telling is the side whose state says most about the device: the one that is not in
// service; of two, the one that a person can do most about.
func (d *device) telling() *side {
	for _, state := range worst {
		for i := range d.sides {
			if s := &d.sides[i]; s.state == state {
				return s
			}
		}
	}
	return &d.sides[0]
}

// sideVerdict is about one side.
func (c *Core) sideVerdict(s *side, now time.Time) (verdict, action string) {
	why := func(what string) string { return s.id + " " + what + ": " + s.reason }
	bringup := "ftctl bringup " + s.id
	switch s.state {
	case drivers.Empty:
		return fmt.Sprintf("%s has only one side configured", s.dev.name),
			fmt.Sprintf("name a %s for %s of %s in ft.toml", s.dev.kind.part, s.dev.kind.modules[s.index], s.dev.name)
	case drivers.Removed:
		action = fmt.Sprintf("put %s back: it then comes in by itself", s.resource.Path)
		if s.target.out() || c.bringup() == BringupDefer && !s.dev.kind.returns {
			action = fmt.Sprintf("put %s back, then: %s", s.resource.Path, bringup)
		}
		if m := c.moduleOf(s); m.away() {
			_, action, _ = c.moduleVerdict(m)
		}
		return why("is not there"), action
	case drivers.Broken:
		return why("is broken"), s.replaceOrClear()
	case drivers.Dumping:
		return s.working(why("is out while its memory is written out")), "none: it returns by itself when that is done" + s.left()
	case drivers.Diagnostics:
		return s.id + " is being tested before it comes in", "none: it comes in by itself"
	case drivers.Syncing:
		return s.working(s.id + " is " + s.dev.kind.syncing), "none: it comes in by itself" + s.left()
	case drivers.Simplex, drivers.Duplex:
		return s.id + " is in service", "none"
	case drivers.Shot:
		why := func(what string) string { return s.id + " " + what + ": " + s.shotReason() }
		if s.target.out() {
			return why("was shot"), bringup + " when it is wanted again"
		}
		if s.draining {
			return why("was shot"), "none: it returns by itself when the I/O on it has ended"
		}
		return why("was shot"), orElse(s.cure(s.reason), "none: it returns by itself"+s.when(now))
	}
	return c.offlineVerdict(s, now)
}

// offlineVerdict is about a side that is there and out of service: by whose word?
func (c *Core) offlineVerdict(s *side, now time.Time) (verdict, action string) {
	bringup := "ftctl bringup " + s.id
	switch {
	case s.target.out():
		return fmt.Sprintf("%s is out of service: %s", s.id, s.reason), bringup + " when the work on it is done"
	case s.work == attaching || s.work == attached:
		return s.id + " is about to come in", "none: it comes in by itself"
	case s.draining:
		return s.id + " is out, and I/O on it has not ended yet", "none: it comes in by itself when that has ended"
	case s.fresh && c.bringup() == BringupDefer:
		return s.id + " waits for an admin: the bring-up policy is defer", bringup + ", or for all: ftctl policy bringup auto"
	case s.hold.kind == holdRetry:
		return fmt.Sprintf("%s could not be brought in: %s", s.id, s.hold.sentence), "none: it is tried again" + s.when(now)
	case s.hold.kind == holdRefused:
		return fmt.Sprintf("%s is not taken in: %s", s.id, s.hold.sentence), wayOut(s)
	case s.hold.kind == holdWaits:
		return fmt.Sprintf("%s cannot come in now: %s", s.id, s.hold.sentence), orElse(s.cure(s.hold.sentence), "mend that: it then comes in by itself")
	}
	return fmt.Sprintf("%s is out of service: %s", s.id, s.reason), "none: it comes in by itself"
}

// working says how far the work on the side is, after what that is about.
func (s *side) working(about string) string {
	if p := s.progress; p != nil {
		about += fmt.Sprintf(": %s %.0f %%", p.What, p.Percent)
	}
	return about
}

// left is the time that the work on the side will still take, "" while nobody knows.
func (s *side) left() string {
	if p := s.progress; p != nil && p.ETASeconds >= 0 {
		return ", " + short(time.Duration(p.ETASeconds*float64(time.Second))) + " left"
	}
	return ""
}

// shotReason is why it was shot, without that it was.
func (s *side) shotReason() string {
	return strings.TrimPrefix(s.reason, s.dev.kind.modules[s.index]+" was shot: ")
}

// cure is what a person can do about what lies outside the part, "" for nothing known.
func (s *side) cure(reason string) string {
	for _, c := range s.dev.kind.cures {
		if strings.Contains(reason, c.word) {
			return fmt.Sprintf(c.action, s.resource.Path)
		}
	}
	return ""
}

// wayOut is what a person can do about a rule of the driver.
func wayOut(s *side) string {
	switch s.hold.code {
	case drivers.RuleSplitBrain, drivers.RuleStale:
		return fmt.Sprintf("see ftctl show %s, then say which side's data is right: ftctl resolve %s --keep SIDE", s.dev.name, s.dev.name)
	case drivers.RuleOverwrite:
		return fmt.Sprintf("if what is on %s is not needed: ftctl bringup %s --accept-risk=%s; else name another %s in ft.toml", s.resource.Path, s.id, drivers.RiskOverwrite, s.dev.kind.part)
	}
	return fmt.Sprintf("mend that, then: ftctl bringup %s", s.id)
}

// when says how long until the next try.
func (s *side) when(now time.Time) string {
	if s.hold.kind != holdRetry {
		return ""
	}
	if left := s.hold.until.Sub(now); left > 0 {
		return ", in " + short(left)
	}
	return ""
}
