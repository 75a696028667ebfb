package mirror

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ft/drivers"
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// How the driver comes by its legs: looked at, handed to the engine, watched, let go.

// startLegs inspects the legs and starts the engine on what it finds.
func (d *driver) startLegs(mode drivers.StartMode, hung [2]bool, shared bool) error {
	got := d.inspectAll([2]bool{!hung[0], !hung[1]}, shared)
	defer d.closeUntaken(&got)
	if err := d.startOn(&got, hung); err != nil {
		return err
	}
	if mode != drivers.Adopt && d.replacingSide() < 0 {
		return nil
	}
	// The partner was in service when the predecessor died, if the records say so.
	for i := range got {
		g := got[i].leg
		d.mu.Lock()
		in, out := d.engine.in(), d.out[i]
		d.mu.Unlock()
		if g == nil || g.Image == nil || out || in&(1<<i) != 0 || g.Image.Super.InService != 3 || g.Image.Super.Syncing {
			continue
		}
		f := got[i]
		got[i].open = nil
		if err := d.attachFound(drivers.Side(i), f, ""); err != nil {
			d.env.Log.Warn("a leg that was in service does not come back", "side", i, "err", err)
		}
		return nil
	}
	return nil
}

// closeUntaken closes the legs that were opened and are in nobody's hands.
func (d *driver) closeUntaken(got *[2]found) {
	for i := range got {
		if got[i].open != nil {
			got[i].open.Close()
		}
	}
}

// startOn starts the engine on what was found on the legs, and takes the leg that it
// serves from.
func (d *driver) startOn(got *[2]found, hung [2]bool) error {
	d.settle(got)
	var legs [2]*Leg
	var missing error
	for i := range got {
		legs[i] = got[i].leg
		if got[i].err != nil {
			d.refuse(i, got[i].err)
			if missing == nil {
				missing = fmt.Errorf("%s: %w", sideID(i, d.cfg.Name), got[i].err)
			}
		}
	}
	d.mu.Lock()
	for i := range got {
		if got[i].open != nil || got[i].err != nil && !legio.Absent(got[i].err) {
			d.engine.Present(drivers.Side(i))
		}
	}
	d.mu.Unlock()
	w, err := d.loadWitness()
	if err == nil && missing != nil && noImages(legs) {
		err = drivers.Refuse(RuleAbsent, "%v. A new mirror is made when both of its legs are there", missing)
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.world.now = d.clock()
	if alone := hungPartner(legs, hung); alone >= 0 {
		err = d.engine.StartAlone(drivers.Side(alone), legs[alone], w)
	} else {
		err = d.engine.Start(legs, w, d.out)
	}
	in := d.engine.in()
	for i := range got {
		if in&(1<<i) != 0 && got[i].open != nil {
			d.legs[i], got[i].open = got[i].open, nil
			d.legGone[i] = make(chan struct{})
		}
	}
	d.mu.Unlock()
	d.loops[0].kick()
	return err
}

// hungPartner is the side to serve from when the other one hangs, else -1.
func hungPartner(legs [2]*Leg, hung [2]bool) int {
	for i := range legs {
		if hung[1-i] && legs[i] != nil && legs[i].Image != nil && legs[i].Image.Super.InService == 3 {
			return i
		}
	}
	return -1
}

func noImages(legs [2]*Leg) bool {
	for _, g := range legs {
		if g != nil && g.Image != nil {
			return false
		}
	}
	return true
}

func (d *driver) loadWitness() (*metadata.Witness, error) {
	w, err := d.witness.Load()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, drivers.Refuse(drivers.RuleStale, "%v", err)
	}
	return w, nil
}

func (d *driver) refuse(side int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refusals[side] = ""
	if err != nil {
		d.refusals[side] = err.Error()
	}
}

// releaseIdleLegs closes legs that are out and have no I/O under way. Under the lock.
func (d *driver) releaseIdleLegs() {
	for i, open := range d.legs {
		if open == nil || d.engine.legs[i].state > legShot || d.engine.legs[i].inflight > 0 || d.testing[i] {
			continue
		}
		d.legs[i] = nil
		gone := d.legGone[i]
		d.background.Add(1)
		go func() {
			defer d.background.Done()
			open.Close()
			<-open.Closed()
			close(gone)
		}()
	}
}

// guard looks from time to time whether the devices are still there.
func (d *driver) guard() {
	defer d.background.Done()
	t := time.NewTicker(guardEvery)
	defer t.Stop()
	for {
		select {
		case <-d.ending:
			return
		case <-t.C:
		}
		d.mu.Lock()
		legs := d.legs
		d.mu.Unlock()
		for i, open := range legs {
			if open != nil && open.Gone() {
				d.gone(i, open, open.GoneWhy())
			}
		}
		d.tendSpare()
		d.retryExport()
		s := d.Status()
		d.env.Text(fmt.Sprintf("%s %s: %s, %s", d.cfg.Name, s.State, s.Sides[0].State, s.Sides[1].State))
	}
}

// gone takes a vanished leg out, unless it was replaced meanwhile.
func (d *driver) gone(side int, open *legio.Leg, why string) {
	d.do(func(e *Engine) {
		if d.legs[side] == open {
			e.Gone(drivers.Side(side), why)
		}
	})
}

// beforeAttach makes sure that nothing of the leg's former service is left.
func (d *driver) beforeAttach(ctx context.Context, s drivers.Side) (done bool, err error) {
	id := sideID(int(s), d.cfg.Name)
	d.mu.Lock()
	l := &d.engine.legs[s]
	attached, inflight, barred, open, gone := l.state > legShot, l.inflight, d.barred[s], d.legs[s], d.legGone[s]
	d.mu.Unlock()
	switch {
	case attached:
		return true, nil
	case inflight > 0:
		return false, drivers.Refuse(drivers.RuleBusy, "%s: %d I/Os from before it was cut off have not ended yet: the device still hangs", id, inflight)
	case barred:
		return false, drivers.Refuse(drivers.RuleBusy, "%s: %s", id, d.hungWhy(int(s)))
	case open == nil && gone == nil:
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, closeWithin)
	defer cancel()
	select {
	case <-gone:
		return false, nil
	case <-ctx.Done():
		return false, drivers.Refuse(drivers.RuleBusy, "%s: the kernel has not let the device go yet", id)
	}
}

// attach opens and tests a leg and hands it to the engine. While no leg serves, the
// other one is looked at as well: together they may tell what each alone cannot.
func (d *driver) attach(s drivers.Side, acceptRisk string) error {
	d.mu.Lock()
	serving, out := d.engine.in() != 0, d.out
	d.mu.Unlock()
	look := [2]bool{!serving && !out[0], !serving && !out[1]}
	look[s] = true
	got := d.inspectAll(look, false)
	defer d.closeUntaken(&got)
	id := sideID(int(s), d.cfg.Name)
	if got[s].err != nil {
		return openRefusal(id, got[s].err)
	}
	if err := selfTest(got[s].open); err != nil {
		return drivers.Refuse(drivers.RuleUnfit, "%s failed its test: %v", id, err)
	}
	blank := noImages([2]*Leg{got[0].leg, got[1].leg})
	if !serving && (acceptRisk != drivers.RiskOverwrite || !blank) {
		if err := d.startOn(&got, [2]bool{}); err != nil {
			return err
		}
		if got[s].open == nil {
			return nil // it is the one that serves
		}
		// The face first: who waits for duplex wants to find it.
		if err := d.createFace(); err != nil {
			return fmt.Errorf("the face of %s does not come up: %w", d.cfg.Name, err)
		}
	}
	f := got[s]
	got[s].open = nil
	return d.attachFound(s, f, acceptRisk)
}

// attachFound hands an open leg to the engine, or closes it.
func (d *driver) attachFound(s drivers.Side, f found, acceptRisk string) error {
	d.mu.Lock()
	d.world.now = d.clock()
	d.legs[s] = f.open
	d.legGone[s] = make(chan struct{})
	err := d.engine.Attach(s, f.leg, acceptRisk)
	if err != nil {
		d.legs[s] = nil
		d.legGone[s] = nil
	}
	d.mu.Unlock()
	d.loops[0].kick()
	if err != nil {
		f.open.Close()
	}
	return err
}
