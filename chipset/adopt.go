package chipset

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/crossbar"
	"ft/drivers"
)

// predecessorMax bounds the wait for the I/O of a predecessor that is dying: what it has under
// way is done again, and must not come behind that.
const predecessorMax = 60 * time.Second

// newJournal makes the journal of this process.
func (d *driver) newJournal() error {
	if d.journal != nil {
		return nil
	}
	j, err := crossbar.NewJournal()
	if err != nil {
		return err
	}
	d.env.Unstore(crossbar.JournalName)
	if err := d.env.Store(crossbar.JournalName, j.FD()); err != nil {
		j.Close()
		return err
	}
	d.journal = j
	return nil
}

// adopt takes over the machine of a predecessor. After an error nothing of it is left.
func (d *driver) adopt(ctx context.Context) (err error) {
	modules := d.inheritedModules()
	var j *crossbar.Journal
	switch fds := d.env.Inherited[crossbar.JournalName]; {
	case len(fds) != 1:
		err = errors.New("it has left no journal")
	default:
		j, err = crossbar.OpenJournal(fds[0])
	}
	if err == nil {
		err = d.awaitPredecessor(ctx)
	}
	if err == nil {
		err = d.openDevices()
	}
	if err != nil {
		crossbar.End(modules)
		return err
	}
	// Where there is no such engine any more, the next module that comes in interprets.
	d.engines, _ = d.opt.Engine.Of()
	set := d.settings()
	w := newWorld(d)
	e := j.Entry()
	w.clock.began, w.begun = e.BeganAt(), true
	d.journal = j
	x, err := crossbar.Adopt(d.crossbar(set, w), modules)
	if err != nil {
		d.closeDevices()
		return err
	}
	b := &boot{x: x, w: w}
	if e.Pids[0] == 0 {
		b.side = 1
	}
	l := &life{quit: make(chan struct{}), done: make(chan struct{})}
	d.life = l
	const why = "the chipset's process was replaced, and the guest has run on"
	d.running(b, why)
	d.mu.Lock()
	d.boots = e.Boots
	if o := b.side.Other(); e.Pids[o] != 0 {
		d.setSide(o, drivers.Simplex, why)
	}
	d.mu.Unlock()
	go d.live(l, b)
	return nil
}

// inheritedModules are the descriptors of a predecessor's CPU modules.
func (d *driver) inheritedModules() map[string][]int {
	modules := map[string][]int{}
	for name, fds := range d.env.Inherited {
		if name != crossbar.JournalName {
			modules[name] = fds
		}
	}
	return modules
}

// awaitPredecessor waits until what a predecessor had under way has ended.
func (d *driver) awaitPredecessor(ctx context.Context) error {
	if d.env.Predecessor < 0 {
		return nil
	}
	deadline := time.Now().Add(predecessorMax)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(d.env.Predecessor), Events: unix.POLLIN}}, 100)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for the end of the process before: %w", err)
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return errors.New("the process before does not end: it has I/O under way on " + d.opt.Disk)
		}
	}
}
