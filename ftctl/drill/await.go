package drill

import (
	"context"
	"fmt"
	"time"

	"ft/ftd/api"
)

// This file waits: for ftd, for successors of processes, for duplex. All of it is bounded,
// and ends with the drill's context.

// change asks for a change, also of an ftd that is away for a moment.
func (d *Runner) change(ctx context.Context, c api.Change) error {
	deadline := time.Now().Add(awayMax)
	for {
		_, err := d.Box.Change(ctx, c)
		if !unreachable(err) {
			return err
		}
		if time.Now().After(deadline) {
			return silent(err)
		}
		if err := d.sleep(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// awaitDuplex waits until the box is duplex again. It gives up when nothing has got on for
// as long as the limit: a resync that goes on may take longer.
func (d *Runner) awaitDuplex(ctx context.Context, s Step, res *Result) error {
	began := time.Now()
	gotOn, best := began, 0.0
	raised := began.Add(-raiseEvery) // the last try to bring a part up that stays out
	why := ""
	for {
		st, err := d.status(ctx)
		if err != nil {
			return err
		}
		if st.System.State.String() == "duplex" {
			return nil
		}
		out, percent := d.underWay(s, st, time.Since(began) > raiseEvery)
		if out != nil && time.Since(raised) >= raiseEvery {
			// Its policy has judged the drill's own faults: that is what it is for, and this
			// is the way back. It may be too soon for it. Or nothing comes in by itself here.
			raised = time.Now()
			res.Judged = res.Judged || out.State.String() == "broken"
			switch err := d.change(ctx, api.Change{Verb: api.Bringup, ID: out.ID}); {
			case err == nil:
				continue
			case ctx.Err() != nil:
				return errInterrupted
			default:
				why = fmt.Sprintf("; bringup %s: %v", out.ID, err)
			}
		}
		if percent > best {
			best, gotOn = percent, time.Now()
		}
		if now := time.Now(); now.Sub(gotOn) > d.Limit || now.Sub(began) > limitTimes*d.Limit {
			return fmt.Errorf("the box is still %s %s after %s: %s%s", st.System.State, now.Sub(began).Round(time.Second), s.Text(), st.System.Verdict, why)
		}
		if err := d.wait(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// underWay finds a part that does not come back by itself, and how far those are that do.
// One that is offline may be about to: late says that it has had the time.
func (d *Runner) underWay(s Step, st api.Status, late bool) (out *api.SideStatus, percent float64) {
	for _, dev := range st.Devices {
		for i, side := range dev.Sides {
			switch state := side.State.String(); {
			case state == "broken", late && state == "offline" && side.RetryAt == nil:
				out = &dev.Sides[i]
			case side.Progress != nil:
				percent += side.Progress.Percent
				d.show(fmt.Sprintf("%s: %s %s %.0f %%", s.Text(), side.ID, side.Progress.What, side.Progress.Percent), nil)
			}
		}
	}
	return out, percent
}

// makeActive has a NIC carry its face before it fails. That a rule is against it, or that it
// takes too long, is no reason not to have the fault.
func (d *Runner) makeActive(ctx context.Context, s Step) error {
	if !s.Active {
		return nil
	}
	asked := false
	for deadline := time.Now().Add(switchPatience); ; {
		st, err := d.status(ctx)
		if err != nil || isActive(st, s.ID) || time.Now().After(deadline) {
			return err
		}
		if !asked {
			asked = true
			switch err := d.change(ctx, api.Change{Verb: api.Switch, ID: s.Devices[0]}); {
			case ctx.Err() != nil:
				return errInterrupted
			case err != nil:
				return nil
			}
		}
		if err := d.wait(ctx, pollEvery); err != nil {
			return err
		}
	}
}

func isActive(st api.Status, id string) bool {
	for _, dev := range st.Devices {
		for _, side := range dev.Sides {
			if side.ID == id {
				return side.Active
			}
		}
	}
	return false
}

// beforeCrash notes which process is to die.
func (d *Runner) beforeCrash(ctx context.Context, s Step) error {
	if !s.crash() {
		return nil
	}
	pid, err := d.pid(ctx, s)
	d.pids[s.ID] = pid
	return err
}

// awaitSuccessor waits until another process has taken over.
func (d *Runner) awaitSuccessor(ctx context.Context, s Step) error {
	d.crashed[s.ID] = time.Now()
	deadline := time.Now().Add(d.Limit)
	for {
		pid, err := d.pid(ctx, s)
		if err == nil && pid != 0 && pid != d.pids[s.ID] {
			d.crashed[s.ID] = time.Now()
			return nil
		}
		if err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no process has followed the one of %s %s after it was killed", s.ID, d.Limit)
		}
		if err := d.wait(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// pid is the process of a step's device, 0 while ftd knows of none that answers.
func (d *Runner) pid(ctx context.Context, s Step) (int, error) {
	st, err := d.status(ctx)
	if err != nil {
		return 0, err
	}
	if s.ID == ftdID {
		v, err := d.Box.Version(ctx)
		if unreachable(err) {
			return 0, nil
		}
		return v.Pid, err
	}
	for _, dev := range st.Devices {
		if dev.ID == s.ID && dev.Driver == "connected" {
			return dev.Pid, nil
		}
	}
	return 0, nil
}

// backAfter is how long it took from a moment to duplex, as ftd has it; none when the box
// was duplex all the time. Who was killed is back when another has taken over.
func (d *Runner) backAfter(s Step, from time.Time) time.Duration {
	if s.crash() {
		return max(0, d.crashed[s.ID].Sub(from))
	}
	return max(0, d.latest.System.Since.Sub(from))
}

// status asks for the status, also of an ftd that is away for a moment.
func (d *Runner) status(ctx context.Context) (api.Status, error) {
	deadline := time.Now().Add(awayMax)
	for {
		st, err := d.Box.Status(ctx)
		switch {
		case err == nil:
			d.latest = st
			return st, nil
		case ctx.Err() != nil:
			return st, errInterrupted
		case !unreachable(err):
			return st, err
		case time.Now().After(deadline):
			return st, silent(err)
		}
		if err := d.sleep(ctx, reconnectEvery); err != nil {
			return st, err
		}
	}
}

// wait waits for an event, or a while.
func (d *Runner) wait(ctx context.Context, while time.Duration) error {
	t := time.NewTimer(while)
	defer t.Stop()
	select {
	case <-d.events.more:
	case <-t.C:
	case <-ctx.Done():
		return errInterrupted
	}
	return nil
}

// sleep lets time pass; the progress is shown as it does.
func (d *Runner) sleep(ctx context.Context, while time.Duration) error {
	t := time.NewTimer(while)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errInterrupted
	}
}

func (d *Runner) between(least, more time.Duration) time.Duration {
	return least + time.Duration(d.random.Int64N(int64(more)))
}

// silent is the end of a drill whose ftd does not come back.
func silent(err error) error { return fmt.Errorf("ftd has not answered for %s: %w", awayMax, err) }
