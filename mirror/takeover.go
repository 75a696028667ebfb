package mirror

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/mirror/legio"
	"ft/mirror/nbd"
)

// Taking over from a process that was killed needs a fence: a write of the dead process
// must not land after a newer one. The fence is that the process is gone *and* that its
// legs have nothing under way. The second is needed besides: whoever reads the /proc
// files of a dying process can come to hold its memory, and with it its asynchronous
// I/O, for longer than the process itself is there.
//
// A leg that hangs keeps the fence from closing. Then the other leg is served as soon as
// it is quiet, and the one that hangs is recorded as out of date and barred until it has
// become quiet too.

const (
	fenceStep = 2 * time.Millisecond
	// fenceHung is for how long the one leg must be quiet and the other not.
	fenceHung = 200 * time.Millisecond
	// fenceIdle is for how long both must be quiet when the process does not go: what
	// keeps it is then not its I/O, and being killed it cannot begin any.
	fenceIdle = 2 * time.Second
	// remoteWithin bounds how long a take-over waits for an NBD server without which
	// nothing could be served.
	remoteWithin = time.Minute
)

// fence waits until the predecessor is gone and the legs are quiet, or until one leg is
// quiet while the other hangs. It says which one hangs, and whether the old process may
// still hold the legs open.
func (d *driver) fence(ctx context.Context) (hung [2]bool, held bool) {
	d.fenceRemote()
	var quietSince [2]time.Time
	busy := [2]bool{}
	for {
		gone := d.predecessorGone(fenceStep)
		now := time.Now()
		for i := range busy {
			if busy[i] = !d.legQuiet(i, d.onlyRemote()); busy[i] {
				quietSince[i] = time.Time{}
			} else if quietSince[i].IsZero() {
				quietSince[i] = now
			}
		}
		switch {
		case gone && !busy[0] && !busy[1], ctx.Err() != nil:
			return hung, !gone
		case !busy[0] && !busy[1] && now.Sub(quietSince[0]) >= fenceIdle && now.Sub(quietSince[1]) >= fenceIdle:
			return hung, true
		}
		for i := range busy {
			if busy[1-i] && !busy[i] && now.Sub(quietSince[i]) >= fenceHung {
				hung[1-i] = true
				d.mu.Lock()
				d.barred = hung
				d.refusals[1-i] = d.hungWhy(1 - i)
				d.engine.Present(drivers.Side(1 - i))
				d.mu.Unlock()
				return hung, true
			}
		}
		if d.env.Predecessor < 0 {
			unix.Poll(nil, int(fenceStep.Milliseconds()))
		}
	}
}

// hungWhy says why a leg is barred.
func (d *driver) hungWhy(side int) string {
	if nbd.IsAddress(d.cfg.Sides[side].Resource.Path) {
		return fmt.Sprintf("its server may still carry out writes of the mirror process that ended: it is let in when it has answered for %v", d.fences[side].Quiet)
	}
	return "I/O of a process that was killed has not ended: the device hangs"
}

// predecessorGone waits for the predecessor's end, up to a limit. Without one to wait
// for, the keeper has seen its end.
func (d *driver) predecessorGone(limit time.Duration) bool {
	if d.env.Predecessor < 0 {
		return true
	}
	fds := []unix.PollFd{{Fd: int32(d.env.Predecessor), Events: unix.POLLIN}}
	n, _ := unix.Poll(fds, int(limit.Milliseconds()))
	return n > 0
}

// legQuiet says whether nothing is under way on a leg's device. One that is not there
// has nothing under way. Of an NBD server's it is what its fence says; ask lets that one
// talk to the server, which takes a moment.
func (d *driver) legQuiet(side int, ask bool) bool {
	if path := d.cfg.Sides[side].Resource.Path; nbd.IsAddress(path) {
		return d.fences[side].Open() || ask && d.fences[side].Passed(path)
	}
	rdev, ok := legio.DeviceAt(d.cfg.Sides[side].Resource.Path)
	if !ok {
		return true
	}
	n, err := legio.Inflight(rdev)
	return err != nil || n == 0
}

// quietPath is a note that a process which handed over leaves when nothing was under way on
// its legs any more. A process that dies leaves none: each takes away what it finds before
// it does anything.
func (d *driver) quietPath() string {
	return filepath.Join(d.cfg.RunDir, "drivers", d.cfg.Name+".quiet")
}

// fenceRemote: what a process before this one has sent to NBD servers, and not heard of,
// may still land. Nobody can tell what that was, but the process itself.
func (d *driver) fenceRemote() {
	if d.handedOver {
		return
	}
	for i := range d.fences {
		if nbd.IsAddress(d.cfg.Sides[i].Resource.Path) {
			d.fences[i].Raise()
		}
	}
}

// onlyRemote says whether all legs are NBD servers': then nothing can be served before one
// of them has passed its fence, and it may as well be waited for.
func (d *driver) onlyRemote() bool {
	for _, s := range d.cfg.Sides {
		if path := s.Resource.Path; path != "" && !nbd.IsAddress(path) {
			return false
		}
	}
	return true
}

// awaitRemote waits for a fenced NBD server that is needed, as nothing could be served
// without it: the face's requests wait meanwhile instead of failing. It says whether one
// has passed its fence.
func (d *driver) awaitRemote(ctx context.Context, hung *[2]bool) bool {
	t := time.NewTicker(guardEvery)
	defer t.Stop()
	for until := time.Now().Add(remoteWithin); time.Now().Before(until); {
		waits := false
		for i := range hung {
			if !hung[i] || !nbd.IsAddress(d.cfg.Sides[i].Resource.Path) {
				continue
			}
			if waits = true; d.legQuiet(i, true) {
				hung[i] = false
				d.mu.Lock()
				d.barred[i], d.refusals[i] = false, ""
				d.mu.Unlock()
				return true
			}
		}
		if !waits {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
	return false
}

// unbar lets a barred leg come back when the predecessor is gone and the leg is quiet.
func (d *driver) unbar(hung [2]bool) {
	defer d.background.Done()
	t := time.NewTicker(guardEvery)
	defer t.Stop()
	for i := range hung {
		for hung[i] && !(d.predecessorGone(0) && d.legQuiet(i, true)) {
			select {
			case <-d.ending:
				return
			case <-t.C:
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, b := range d.barred {
		if b {
			d.barred[i] = false
			d.refusals[i] = ""
			d.emit(drivers.Event{Kind: drivers.EventDrained, Side: drivers.Side(i)})
		}
	}
}
