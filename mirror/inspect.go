package mirror

import (
	"errors"
	"fmt"
	"time"

	"ft/drivers"
	"ft/mirror/legio"
	"ft/mirror/metadata"
)

// inspectWithin bounds what opening and reading a leg may take, where the leg_timeout is not
// longer.
const inspectWithin = 5 * time.Second

func (d *driver) inspectWithin() time.Duration { return max(inspectWithin, d.opt.LegTimeout) }

// busyWithin is how long a leg that is in use may stay so. What was opened to be looked
// at a moment ago, here or by a process that just ended, is let go of by the kernel only
// after its close has returned; taken for absent, the leg would be left out of the
// decision which of the two may serve.
const (
	busyWithin = 2 * time.Second
	busyPoll   = 5 * time.Millisecond
)

// found is what came of looking at a leg.
type found struct {
	open *legio.Leg // nil when it could not be opened
	leg  *Leg
	err  error
	// fence is that of the slot that it was opened for, where that is a new one.
	fence *legio.Fence
}

// inspect opens a leg and reads what it carries. It waits for the device, all in all for
// at most inspectWithin(), and so runs beside the event loops: one leg that hangs must not
// keep the other from being served. What comes later is closed again.
func (d *driver) inspect(side int, path string, shared bool) found {
	d.mu.Lock()
	o := legio.OpenOptions{Deadline: d.inspectWithin(), Faults: d.faults[side], Fence: d.fences[side], MinBytes: metadata.DeviceBytesMin, Shared: shared}
	d.mu.Unlock()
	return d.inspectWith(path, o)
}

func (d *driver) inspectWith(path string, options legio.OpenOptions) found {
	done := make(chan found, 1)
	go func() { done <- d.inspectSlowly(path, options) }()
	t := time.NewTimer(d.inspectWithin())
	defer t.Stop()
	select {
	case f := <-done:
		return f
	case <-t.C:
	}
	go func() {
		if f := <-done; f.open != nil {
			f.open.Close()
		}
	}()
	return found{err: &legio.OpenError{Path: path, Kind: legio.KindHung, Sentence: fmt.Sprintf("the device did not answer within %v: it hangs", d.inspectWithin())}}
}

func (d *driver) inspectSlowly(path string, options legio.OpenOptions) found {
	open, err := legio.Open(path, options)
	for until := time.Now().Add(busyWithin); err != nil && legio.Busy(err) && time.Now().Before(until); open, err = legio.Open(path, options) {
		time.Sleep(busyPoll)
	}
	if err != nil {
		return found{err: err}
	}
	leg, err := d.look(open)
	if err != nil {
		open.Close()
		return found{err: err}
	}
	return found{open: open, leg: leg, fence: options.Fence}
}

func (d *driver) look(open *legio.Leg) (*Leg, error) {
	g := &Leg{Resource: open.Path, Bytes: open.Bytes, LogicalBlock: open.LogicalBlock, PhysicalBlock: open.PhysicalBlock}
	image, err := metadata.Load(open, open.Bytes)
	switch {
	case err == nil:
		g.Image = image
		for _, damage := range image.Damage {
			d.env.Log.Warn("damaged metadata", "leg", open.Path, "what", damage)
		}
	case errors.Is(err, metadata.ErrNoMetadata):
		if g.Foreign, err = open.Foreign(d.inspectWithin()); err != nil {
			return nil, fmt.Errorf("find out what is on %s: %w", open.Path, err)
		}
	case errors.Is(err, metadata.ErrDamaged), errors.Is(err, metadata.ErrVersion), errors.Is(err, metadata.ErrGeometry):
		g.Foreign = "leg of a mirror that cannot be used (" + err.Error() + ")"
	default:
		return nil, fmt.Errorf("read the metadata of %s: %w", open.Path, err)
	}
	return g, nil
}

// inspectAll looks at the given legs, at the same time.
func (d *driver) inspectAll(sides [2]bool, shared bool) [2]found {
	var got [2]found
	done := make(chan int, 2)
	n := 0
	for i := range got {
		path := d.cfg.Sides[i].Resource.Path
		if !sides[i] || path == "" {
			continue
		}
		n++
		go func() {
			got[i] = d.inspect(i, path, shared)
			done <- i
		}()
	}
	for range n {
		<-done
	}
	return got
}

// selfTest reads a leg at its ends and in between before it may come in: a device that
// opens but cannot be read does not get as far as a resync.
func selfTest(open *legio.Leg) error {
	buf := make([]byte, 4096)
	const points = 16
	for i := range int64(points) {
		off := (open.Bytes - 4096) / (points - 1) * i &^ 4095
		if _, err := open.ReadAt(buf, off); err != nil {
			return err
		}
	}
	return nil
}

// openRefusal turns an error of opening a leg into an answer for the admin.
func openRefusal(id string, err error) error {
	var ref *drivers.Refused
	switch {
	case errors.As(err, &ref):
		return ref
	case legio.Waits(err):
		return drivers.Refuse(drivers.RuleWaits, "%s: %v", id, err)
	case legio.Busy(err), legio.Hung(err):
		return drivers.Refuse(drivers.RuleBusy, "%s: %v", id, err)
	case legio.Absent(err):
		return drivers.Refuse(RuleAbsent, "%s: %v", id, err)
	}
	return drivers.Refuse(drivers.RuleUnfit, "%s: %v", id, err)
}

// RuleAbsent refuses a side whose device is not there.
const RuleAbsent = "absent"
