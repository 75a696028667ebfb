package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/mirror/legio"
	"ft/mirror/legpath"
	"ft/mirror/metadata"
	"ft/mirror/nbd"
)

// The shell's part in replacing a leg (replace.go has the order, and why): the new device
// is opened and looked at, what has been settled is kept in the state directory, and a
// start goes on where the process before this one was.

const (
	commitRetry = time.Second
	// spareQuietWithin is how long a start waits until nothing of a process before it is under
	// way on a device that replaces a leg. Longer, and it is copied to from the beginning.
	spareQuietWithin = 3 * time.Second
)

// newLeg is a replacement as the driver sees it.
type newLeg struct {
	store *legpath.Store
	// saveMu is held while the file is written: what is in memory is what it is to say.
	saveMu sync.Mutex

	// Under the driver's mu.
	legs   legpath.Legs
	side   int
	path   string
	open   *legio.Leg // the device on spareSide
	faults *legio.Faults
	fence  *legio.Fence
	// over: the engine has done with it. It is closed when it is quiet; closing: it is being.
	over, closing bool
	// pending: a start has found one to go on with, and could not yet.
	pending bool
	tryAt   time.Time
}

// loadLegs finds out which legs were replaced.
func (d *driver) loadLegs() error {
	n := &d.newLeg
	n.store = legpath.NewStore(d.cfg.StateDir, d.cfg.Name)
	var err error
	if n.legs, err = n.store.Load(); err != nil {
		return err
	}
	for i := range d.cfg.Sides {
		p := &d.cfg.Sides[i].Resource.Path
		*p = n.legs.Sides[i].Of(*p)
	}
	return nil
}

// keepLegs changes what is known, durably.
func (d *driver) keepLegs(change func(*legpath.Legs)) error {
	n := &d.newLeg
	n.saveMu.Lock()
	defer n.saveMu.Unlock()
	d.mu.Lock()
	change(&n.legs)
	now := n.legs
	d.mu.Unlock()
	return n.store.Save(now)
}

// replace puts another device in the place of a leg.
func (d *driver) replace(s drivers.Side, path, risk string) (string, error) {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	id := sideID(int(s), d.cfg.Name)
	d.mu.Lock()
	old, state := d.cfg.Sides[s].Resource.Path, d.engine.legs[s].state
	serving := d.engine.in() != 0
	busy := d.newLeg.open != nil
	d.mu.Unlock()
	switch {
	case old == "":
		return "", drivers.Refuse(drivers.RuleState, "%s: no device is configured there: name one in ft.toml", id)
	case path == old:
		return "", drivers.Refuse(drivers.RuleState, "%s is %s already", id, path)
	case !serving:
		return "", drivers.Refuse(drivers.RuleState, "%s is down: there is nothing to copy to %s. Bring a side up first", d.cfg.Name, path)
	case state > legShot && state != legIn:
		return "", drivers.Refuse(drivers.RuleState, "%s is being brought up to date: wait until it is duplex (ftctl wait %s --for duplex), or take it out first: ftctl bringdown %s", id, id, id)
	case busy && state != legIn:
		return "", drivers.Refuse(drivers.RuleBusy, "a device that replaces a leg of %s is still in use: try again", d.cfg.Name)
	}
	if err := d.notOnItself(id, path); err != nil {
		return "", err
	}
	f, err := d.openNew(s, path, risk)
	if err != nil {
		return "", err
	}
	if state != legIn {
		// There is nothing to copy from but the partner: it comes in as any leg does.
		f.open.Close()
		<-f.open.Closed()
		if err := d.moveLeg(s, old, path); err != nil {
			return "", err
		}
		return "moved", nil
	}
	if err := d.beginReplace(s, path, f, -1); err != nil {
		return "", err
	}
	return "copying", nil
}

// notOnItself refuses what stands on the face of its own disk, before it is opened.
func (d *driver) notOnItself(id, path string) error {
	if nbd.IsAddress(path) {
		return nil
	}
	var face unix.Stat_t
	if unix.Stat(d.facePath(), &face) != nil {
		return nil // there is none
	}
	switch on, err := legio.StandsOn(path, face.Rdev); {
	case errors.Is(err, unix.ENOENT):
		return nil // opening it says so
	case err != nil:
		return drivers.Refuse(drivers.RuleUnfit, "%v: it cannot be told whether it lies on %s itself", err, d.cfg.Name)
	case on:
		return drivers.Refuse(drivers.RuleUnfit, "%s lies on %s, the disk that it would be a leg of: put %s on another device", path, d.facePath(), id)
	}
	return nil
}

// moveLeg makes another path that of a leg which is out of service.
func (d *driver) moveLeg(s drivers.Side, old, path string) error {
	err := d.keepLegs(func(l *legpath.Legs) {
		l.Sides[s].Replace(old, path, time.Now())
		l.Sides[s].Replacing, l.Sides[s].Unsettled = nil, nil
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cfg.Sides[s].Resource.Path = path
	d.faults[s], d.fences[s] = legio.NewFaults(), legio.NewFence(d.opt.remoteQuiet())
	d.refusals[s] = ""
	d.emit(drivers.Event{Kind: drivers.EventNote, Side: s, Reason: fmt.Sprintf("%s takes the place of %s", path, old)})
	return nil
}

// openNew opens the device that is to be a leg, and refuses one that holds something.
func (d *driver) openNew(s drivers.Side, path, risk string) (found, error) {
	id := sideID(int(s), d.cfg.Name)
	fence := legio.NewFence(d.opt.remoteQuiet())
	f := d.inspectWith(path, legio.OpenOptions{Deadline: d.inspectWithin(), Faults: legio.NewFaults(), Fence: fence, MinBytes: metadata.DeviceBytesMin})
	if f.err != nil {
		return f, openRefusal(path, f.err)
	}
	refuse := func(code, format string, args ...any) (found, error) {
		f.open.Close()
		return found{}, drivers.Refuse(code, format, args...)
	}
	if err := selfTest(f.open); err != nil {
		return refuse(drivers.RuleUnfit, "%s failed its test: %v", path, err)
	}
	what := f.leg.Foreign
	if img := f.leg.Image; img != nil {
		d.mu.Lock()
		serving := d.engine.wanted(&d.engine.legs[s])
		d.mu.Unlock()
		if sb := &img.Super; sb.Mirror != serving.Mirror {
			what = fmt.Sprintf("leg of another mirror (%s)", sb.Mirror)
		} else if !sb.Generation.IsZero() && !serving.Supersedes(sb.Generation) {
			what = fmt.Sprintf("leg of %s itself, of generation %s, which is not known to be out of date", d.cfg.Name, sb.Generation)
		}
	}
	if what != "" && risk != drivers.RiskOverwrite {
		return refuse(drivers.RuleOverwrite, "%s holds a %s. Its content would be lost; to take that: ftctl replace %s %s --accept-risk=%s", path, what, id, path, drivers.RiskOverwrite)
	}
	return f, nil
}

// beginReplace has the engine copy the leg to a device that is open.
func (d *driver) beginReplace(s drivers.Side, path string, f found, resume int) error {
	n := &d.newLeg
	d.mu.Lock()
	err := d.engine.mayReplace(s, f.leg)
	if err == nil && n.open != nil {
		err = drivers.Refuse(drivers.RuleBusy, "the device of an earlier replacement is still in use: try again")
	}
	d.mu.Unlock()
	if err == nil && resume < 0 {
		err = d.keepLegs(func(l *legpath.Legs) {
			l.Sides[s].Replacing = &legpath.Replacing{Path: path, Began: time.Now()}
		})
	}
	if err != nil {
		f.open.Close()
		return err
	}
	d.mu.Lock()
	n.side, n.path, n.open, n.over, n.pending = int(s), path, f.open, false, false
	n.faults, n.fence = f.open.Faults(), f.fence
	d.world.now = d.clock()
	if err = d.engine.Replace(s, f.leg, resume, d.replaceHooks(int(s), path)); err != nil {
		n.open = nil
	}
	d.mu.Unlock()
	d.loops[0].kick()
	if err != nil {
		f.open.Close()
		d.background.Go(func() { d.forgetReplacing(int(s)) })
	}
	return err
}

func (d *driver) forgetReplacing(side int) {
	if err := d.keepLegs(func(l *legpath.Legs) { l.Sides[side].Replacing = nil }); err != nil {
		d.env.Log.Warn("that a leg is not being replaced any more cannot be kept", "err", err)
	}
}

// replaceHooks are called by the engine, under the lock.
func (d *driver) replaceHooks(side int, path string) ReplaceHooks {
	n := &d.newLeg
	old := d.cfg.Sides[side].Resource.Path
	return ReplaceHooks{
		Commit: func() {
			leg, size := d.engine.legs[side].uuid, int64(d.engine.id.DeviceBytes)
			d.background.Go(func() {
				for {
					err := d.keepLegs(func(l *legpath.Legs) {
						x := &l.Sides[side]
						if x.Path != path || x.Of(old) != path {
							x.Replace(old, path, time.Now())
						}
						x.Replacing, x.Unsettled = nil, &legpath.Unsettled{Old: old, Leg: leg, Size: size}
					})
					if err == nil {
						d.do(func(e *Engine) { e.ReplaceCommitted() })
						return
					}
					d.env.Log.Error("a leg is replaced, which cannot be kept: tried again", "err", err)
					select {
					case <-d.ending:
						return
					case <-time.After(commitRetry):
					}
				}
			})
		},
		Swap: func() {
			d.legs[side], n.open = n.open, d.legs[side]
			d.faults[side], n.faults = n.faults, d.faults[side]
			d.fences[side], n.fence = n.fence, d.fences[side]
			d.cfg.Sides[side].Resource.Path, n.path = path, old
			d.emit(drivers.Event{Kind: drivers.EventNote, Side: drivers.Side(side), Reason: fmt.Sprintf("%s is the leg now, in the place of %s", path, old)})
		},
		Copied: func(regions int) {
			d.background.Go(func() {
				err := d.keepLegs(func(l *legpath.Legs) {
					if x := l.Sides[side].Replacing; x != nil && x.Path == path {
						y := *x
						y.Regions = regions
						l.Sides[side].Replacing = &y
					}
				})
				if err != nil {
					d.env.Log.Warn("how far a leg is copied cannot be kept", "err", err)
				}
			})
		},
		Ended: func(err error) {
			n.over = true
			if errors.Is(err, errReplaceStopped) {
				return // for the successor
			}
			note := drivers.Event{Kind: drivers.EventNote, Side: drivers.Side(side)}
			if err != nil {
				note.Reason = fmt.Sprintf("%s does not take the place of %s: %v", path, old, err)
				d.emit(note)
			} else if d.cfg.Sides[side].Resource.Path != path { // it goes on for a leg that was lost
				d.cfg.Sides[side].Resource.Path = path
				d.faults[side], d.fences[side] = n.faults, n.fence
			}
			d.background.Go(func() {
				kerr := d.keepLegs(func(l *legpath.Legs) {
					x := &l.Sides[side]
					x.Replacing = nil
					if err == nil {
						x.Unsettled = nil
					} else if x.Path == path && d.cfg.Sides[side].Resource.Path == old {
						x.Replace(path, old, time.Now()) // it was on its way to be the leg when it failed
						x.Unsettled = nil
					}
				})
				if kerr != nil {
					d.env.Log.Warn("how the replacement of a leg ended cannot be kept", "err", kerr)
				}
			})
		},
	}
}

// abortReplace calls a replacement off.
func (d *driver) abortReplace(s drivers.Side) error {
	d.changeMu.Lock()
	defer d.changeMu.Unlock()
	var err error
	pending := false
	d.do(func(e *Engine) {
		if side, _ := e.Replacing(); side == int(s) {
			err = e.AbortReplace("it was called off")
		} else if pending = d.newLeg.legs.Sides[s].Replacing != nil; !pending {
			err = drivers.Refuse(drivers.RuleState, "%s is not being replaced", sideID(int(s), d.cfg.Name))
		}
		d.newLeg.pending = d.newLeg.pending && !pending
	})
	if err == nil {
		err = d.keepLegs(func(l *legpath.Legs) { l.Sides[s].Replacing = nil })
	}
	return err
}

// closeSpare lets the device go that the engine has done with. Under the lock.
func (d *driver) closeSpare() {
	n := &d.newLeg
	if n.open == nil || !n.over || n.closing || d.engine.spare.inflight > 0 {
		return
	}
	open := n.open
	n.closing = true
	d.background.Go(func() {
		open.Close()
		<-open.Closed()
		d.mu.Lock()
		n.open, n.over, n.closing = nil, false, false
		d.mu.Unlock()
	})
}

// replacingSide is the side on which a start goes on with a replacement, or -1.
func (d *driver) replacingSide() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, s := range d.newLeg.legs.Sides {
		if s.Replacing != nil {
			return i
		}
	}
	return -1
}

// resumeReplace goes on with the replacement that a process before this one was at. first:
// no request of the face has come yet, so that what was copied then still counts.
func (d *driver) resumeReplace(first bool) {
	s := d.replacingSide()
	if s < 0 {
		return
	}
	n := &d.newLeg
	d.mu.Lock()
	rep := *n.legs.Sides[s].Replacing
	state := d.engine.legs[s].state
	n.pending, n.tryAt = true, time.Now().Add(spareQuietWithin)
	d.mu.Unlock()
	if state != legIn || !d.spareQuiet(rep.Path) {
		return // the guard tries again
	}
	f, err := d.openNew(drivers.Side(s), rep.Path, "")
	if err != nil {
		d.env.Log.Warn("a device that was to replace a leg does not come back yet", "path", rep.Path, "err", err)
		return
	}
	resume := -1
	if first {
		resume = rep.Regions
	}
	if err := d.beginReplace(drivers.Side(s), rep.Path, f, resume); err != nil {
		d.env.Log.Warn("a replacement does not go on yet", "path", rep.Path, "err", err)
		d.mu.Lock()
		n.pending = true
		d.mu.Unlock()
	}
}

// spareQuiet says whether nothing of a process before this one is under way on a device.
func (d *driver) spareQuiet(path string) bool {
	if nbd.IsAddress(path) {
		return d.handedOver // else nobody can know, and it is copied to anew later
	}
	for until := time.Now().Add(spareQuietWithin); time.Now().Before(until); unix.Poll(nil, int(fenceStep.Milliseconds())) {
		rdev, ok := legio.DeviceAt(path)
		if !ok {
			return true
		}
		if k, err := legio.Inflight(rdev); err != nil || k == 0 {
			return true
		}
	}
	return false
}

// tendSpare is the guard's look at a replacement.
func (d *driver) tendSpare() {
	n := &d.newLeg
	d.mu.Lock()
	open, over := n.open, n.over
	try := n.pending && open == nil && time.Now().After(n.tryAt)
	d.mu.Unlock()
	if open != nil && !over && open.Gone() {
		why := open.GoneWhy()
		d.do(func(e *Engine) {
			if d.newLeg.open == open {
				e.SpareGone(why)
			}
		})
	}
	if try && d.changeMu.TryLock() {
		d.resumeReplace(false)
		d.changeMu.Unlock()
	}
}

// settle finishes what a replacement left unsettled when the process ended: the new leg's
// superblock is written without the word staged, and the partner names it. See replace.go.
func (d *driver) settle(got *[2]found) {
	for s := range got {
		d.mu.Lock()
		u := d.newLeg.legs.Sides[s].Unsettled
		d.mu.Unlock()
		if u == nil || got[s].leg == nil || got[s].leg.Image == nil {
			continue
		}
		if err := d.settleSide(s, u, got); err != nil {
			d.env.Log.Warn("a leg took the place of another, and is not settled yet", "side", s, "err", err)
		}
	}
}

func (d *driver) settleSide(s int, u *legpath.Unsettled, got *[2]found) error {
	n, p := &got[s], &got[1-s]
	if staged := n.leg.Image.Staged; staged != nil {
		sb := staged.Clone()
		sb.Staged = false
		if err := d.rewrite(n, sb); err != nil {
			return err
		}
	}
	settled := false
	if sb := &n.leg.Image.Super; p.leg != nil && p.leg.Image != nil {
		o := p.leg.Image.Super.Clone()
		if o.Mirror == sb.Mirror && o.Generation == sb.Generation && o.Both() && sb.Both() && o.MissedLeg == u.Leg {
			o.MissedLeg = sb.Leg
			if err := d.rewrite(p, o); err != nil {
				return err
			}
		}
		settled = p.leg.Image.Super.MissedLeg == sb.Leg
	}
	if d.retireOld(u) || settled {
		return d.keepLegs(func(l *legpath.Legs) { l.Sides[s].Unsettled = nil })
	}
	return nil
}

// rewrite gives a leg another superblock, and reads it back.
func (d *driver) rewrite(f *found, sb metadata.Superblock) error {
	if err := metadata.WriteSuper(f.open, &sb); err != nil {
		return fmt.Errorf("write the superblock of %s: %w", f.open.Path, err)
	}
	leg, err := d.look(f.open)
	if err == nil {
		f.leg = leg
	}
	return err
}

// retireOld tells a leg that was replaced so, if it is there.
func (d *driver) retireOld(u *legpath.Unsettled) bool {
	f := d.inspectWith(u.Old, legio.OpenOptions{Deadline: d.inspectWithin(), MinBytes: metadata.DeviceBytesMin})
	if f.open == nil {
		return false
	}
	defer f.open.Close()
	if f.leg.Image == nil || f.leg.Image.Super.Leg != u.Leg {
		return f.leg.Image != nil
	}
	sb := f.leg.Image.Super.Clone()
	sb.Unserve()
	return d.rewrite(&f, sb) == nil
}

// replaceArgs is the command replace.
func (d *driver) replaceCommand(_ context.Context, args map[string]string) (any, error) {
	s, err := sideArg(args["side"])
	if err != nil {
		return nil, err
	}
	switch a := args["action"]; a {
	case "start":
		how, err := d.replace(s, args["path"], args["accept_risk"])
		return map[string]string{"how": how}, err
	case "abort":
		return nil, d.abortReplace(s)
	default:
		return nil, drivers.Refuse(drivers.RuleState, "a replacement has no action %q (start, abort)", a)
	}
}
