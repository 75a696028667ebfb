package fuseloop

// How a face ends.

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Close takes the face down, whoever uses it: ask Users before. Those who keep its
// descriptors should have closed them, or the block device stays, giving errors, until
// they do. The queues must be served until Close returns: it first writes back what is
// in the page cache. If that takes longer than 10 s, it is given up. Close reports what
// could not be written, and who still had the device open; in any case nothing is served
// any more.
func (f *Face) Close() error {
	f.endOnce.Do(func() {
		if f.endErr = f.takeDown(); f.endErr != nil {
			f.endErr = fmt.Errorf("take down the face of disk %s: %w", f.geometry.Name, f.endErr)
		}
	})
	return f.endErr
}

func (f *Face) takeDown() error {
	connection, err := f.loop.connection()
	if err != nil {
		f.finish()
		return err
	}
	// The queues close theirs as soon as they notice the end.
	fuse, err := unix.FcntlInt(uintptr(f.queues[0].fuse()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		fuse = -1 // they have noticed already
	}
	defer closeAll(fuse)

	// All of this waits for the queues' threads, which may not come.
	released := make(chan release, 1)
	go func() { released <- f.release() }()
	var r release
	select {
	case r = <-released:
	case <-time.After(closeWithin):
		r.err = errors.Join(fmt.Errorf("the page cache of %s was not written back in %v: given up", f.loop.path, closeWithin),
			abortConnection(connection))
		select {
		case after := <-released: // what it waited for has failed now
			r.err, r.users = errors.Join(r.err, after.err), after.users
		case <-time.After(releaseWithin):
		}
	}
	// Some only looked at a new device, and are gone in a moment.
	if !waitGone(fuse, int(releaseWithin.Milliseconds())) {
		r.err = errors.Join(r.err,
			fmt.Errorf("%s was still open%s; it gives errors now, and goes when it is closed", f.loop.path, byWhom(r.users)),
			abortConnection(connection))
	}
	f.finish()
	select {
	case <-f.tuned: // the connection has ended: there is nothing to drain any more
		if !f.loop.bound() { // else it is somebody else's already, who may have set it as he wants it
			f.loop.tune(f.options.Log, false)
		}
	case <-time.After(releaseWithin):
	}
	return r.err
}

// release is how this process let go of the loop device.
type release struct {
	users []string // who had it open then
	err   error
}

func (f *Face) release() (r release) {
	if err := unix.Fsync(f.loop.fd); err != nil {
		r.err = fmt.Errorf("write back the page cache of %s: %w", f.loop.path, err)
	}
	r.err = errors.Join(r.err, f.loop.clear())
	_, r.users = f.Users()
	f.loop.close()
	return r
}

func byWhom(who []string) string {
	if len(who) == 0 {
		return ""
	}
	return ": " + strings.Join(who, ", ")
}

// Abandon closes this process's descriptors without ending the face: whoever else has
// them may Adopt it. Requests that were not answered are the successor's; answers to
// them do nothing any more.
func (f *Face) Abandon() {
	f.endOnce.Do(func() {
		// The node stays, the successor's.
		closeAll(f.loop.fd)
		f.loop.fd = -1
		f.finish()
	})
}

// finish closes what is left and lets the queues' threads know.
func (f *Face) finish() {
	f.down.Store(true)
	f.pool.close()
	for _, q := range f.queues {
		q.closeFuse()
		q.kick()
	}
}

// dismantle undoes a Create or Adopt that failed. Nobody serves the queues, and the
// service that did has been stopped. FUSE goes first: the loop device's last close may
// wait for it.
func (f *Face) dismantle() {
	f.down.Store(true)
	for _, q := range f.queues {
		_ = q.end() // always ErrClosed
	}
	f.loop.close()
	f.pool.close()
}

// Discard ends the face that was left behind with descriptors which cannot be adopted:
// whoever has the device open gets errors. It closes the descriptors. Other copies of
// them can then be closed in any order.
func Discard(fds map[string][]int) error {
	var err error
	if loop := fds[descriptorsLoop]; len(loop) > 0 {
		connection, statusErr := loopDevice{fd: loop[0], path: "the loop device left behind"}.connection()
		switch {
		case statusErr == nil:
			err = abortConnection(connection)
		case !errors.Is(statusErr, unix.ENXIO): // ENXIO: it has nothing under it any more
			err = statusErr
		}
	}
	closeAll(fds[descriptorsFuse]...)
	closeAll(fds[descriptorsLoop]...)
	return err
}
