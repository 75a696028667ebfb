package mirror

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"ft/drivers"
	"ft/mirror/legio"
)

// Taking over from a process that was killed needs a fence: a write of the dead process
// must not land after a newer one. Usually the fence is that it was reaped, which is
// not before its I/O has ended. A leg that hangs keeps it from being reaped; then the
// other leg is served as soon as it is quiet, and the one that hangs is recorded as out
// of date and barred until the old process is gone.

const (
	fenceStep  = 20 * time.Millisecond
	fenceSteps = 10 // steps in which the one leg is quiet and the other is not
)

// fenceResult says what holds the old process off.
type fenceResult uint8

const (
	fenceNone  fenceResult = iota // it is gone
	fenceQuiet                    // it is not, but one leg is quiet
)

// fence waits until the predecessor is gone, or until one leg is quiet while the other
// is not. hung names the other.
func (d *driver) fence(ctx context.Context) (fenceResult, [2]bool) {
	var rdev [2]uint64
	for i := range rdev {
		var st unix.Stat_t
		if p := d.cfg.Sides[i].Resource.Path; p != "" && unix.Stat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			rdev[i] = st.Rdev
		}
	}
	var quiet [2]int
	for {
		if waitPidfd(d.env.Predecessor, fenceStep) || ctx.Err() != nil {
			return fenceNone, [2]bool{}
		}
		for i := range rdev {
			n, err := legio.Inflight(rdev[i])
			if rdev[i] != 0 && err == nil && n == 0 {
				quiet[i]++
			} else {
				quiet[i] = 0
			}
		}
		for i := range quiet {
			if quiet[i] >= fenceSteps && quiet[1-i] == 0 {
				hung := [2]bool{}
				hung[1-i] = true
				d.mu.Lock()
				d.barred = hung
				d.refusals[1-i] = "I/O of a process that was killed has not ended: the device hangs"
				d.mu.Unlock()
				return fenceQuiet, hung
			}
		}
	}
}

// waitPidfd waits for the end of a process, up to a limit.
func waitPidfd(fd int, limit time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, _ := unix.Poll(fds, int(limit.Milliseconds()))
	return n > 0
}

// unbar lets the barred leg come back when the predecessor is gone, and with it the
// last I/O that it had under way.
func (d *driver) unbar() {
	defer d.background.Done()
	for !waitPidfd(d.env.Predecessor, guardEvery) {
		select {
		case <-d.ending:
			return
		default:
		}
	}
	unix.Close(d.env.Predecessor)
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
