package mirror

import (
	"errors"
	"fmt"
	"os"
	"time"

	"ft/drivers"
	"ft/mirror/frontend/ublk"
)

// A process that was killed is not gone before its I/O on the legs has ended. A hung leg keeps
// it, and with it a ublk device: the kernel lets a successor begin only then. The disk is in
// service meanwhile, but for its face: what users ask of that waits in the kernel, as the
// requests do that the dead process had taken. Errors would be worse, since a healthy leg has
// all data. So the successor goes on trying for as long as the kernel says that the device is
// held, and only an admin discards it, by stopping the disk by force.

// facePatience is how long a start waits for it before it goes on without.
var facePatience = 5 * time.Second

// awaitFace goes on trying to take over the face that was left.
func (d *driver) awaitFace(held error) {
	d.faceMu.Lock()
	d.faceAwaited = true
	d.faceMu.Unlock()
	why := fmt.Sprintf("users of %s wait: %v; it goes on when that process is gone, which waits for its I/O: when the leg that hangs answers, or is taken away", d.facePath(), held)
	d.env.Log.Warn("the face that was left is awaited", "why", held)
	d.mu.Lock()
	d.heldWhy = why
	d.emit(drivers.Event{Kind: drivers.EventNote, Side: drivers.Whole, Reason: why})
	d.mu.Unlock()
	d.background.Add(1)
	go func() {
		defer d.background.Done()
		t := time.NewTicker(guardEvery)
		defer t.Stop()
		for {
			select {
			case <-d.ending:
				return
			case <-t.C:
			}
			if !d.tryAwaited() {
				return
			}
		}
	}()
}

// tryAwaited tries once. It says whether the face is still to be awaited.
func (d *driver) tryAwaited() bool {
	d.faceMu.Lock()
	if !d.faceAwaited {
		d.faceMu.Unlock()
		return false
	}
	err := d.adoptLeft()
	if errors.Is(err, ublk.ErrHeld) {
		d.faceMu.Unlock()
		return true
	}
	d.faceAwaited = false
	d.faceMu.Unlock()
	d.endAwaiting()
	if errors.Is(err, errDiscarded) {
		err = d.createFace()
	}
	if err != nil {
		d.env.Fatal(fmt.Errorf("take over the face of %s, which was awaited: %w", d.cfg.Name, err))
	}
	return false
}

func (d *driver) endAwaiting() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.heldWhy != "" {
		d.heldWhy = ""
		d.emit(drivers.Event{Kind: drivers.EventNote, Side: drivers.Whole, Reason: fmt.Sprintf("users of %s wait no longer", d.facePath())})
	}
}

// discardAwaited ends the face that is awaited, if one is: by force only. Under faceMu.
func (d *driver) discardAwaited(force bool) error {
	if !d.faceAwaited {
		return nil
	}
	if !force {
		d.mu.Lock()
		defer d.mu.Unlock()
		return drivers.Refuse(drivers.RuleBusy, "%s; stopped by force the disk's face is discarded, and they get errors", d.heldWhy)
	}
	d.faceAwaited = false
	why := errors.New("the disk is stopped by force while its face is awaited")
	if err := d.discardFace(why, func() error { return ublk.Discard(d.faceIdentity()) }); !errors.Is(err, errDiscarded) {
		return err
	}
	os.Remove(d.facePath())
	os.Remove(d.notePath())
	d.endAwaiting()
	return nil
}
