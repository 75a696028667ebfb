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
// could not be written, and who still had the device open.
func (f *Face) Close() error {
	f.endOnce.Do(func() {
		if f.endErr = f.takeDown(); f.endErr != nil {
			f.endErr = fmt.Errorf("take down the face of disk %s: %w", f.geometry.Name, f.endErr)
		}
	})
	return f.endErr
}

func (f *Face) takeDown() error {
	var errs []error
	connection, err := f.loop.connection()
	known := err == nil
	if !known {
		errs = append(errs, err)
	}
	abort := func() {
		if known {
			errs = append(errs, abortConnection(connection))
		}
	}
	// The queues close theirs as soon as they notice.
	fuse, err := unix.FcntlInt(uintptr(f.queues[0].fuse()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		errs = append(errs, fmt.Errorf("duplicate the descriptor of /dev/fuse: %w", err))
	}
	defer closeAll(fuse)

	written := make(chan error, 1)
	go func() { written <- unix.Fsync(f.loop.fd) }()
	select {
	case err := <-written:
		if err != nil {
			errs = append(errs, fmt.Errorf("write back the page cache of %s: %w", f.loop.path, err))
		}
	case <-time.After(closeWithin):
		errs = append(errs, fmt.Errorf("the page cache of %s was not written back in %v: given up", f.loop.path, closeWithin))
		abort()
		<-written // what it waits for has failed now
	}
	errs = append(errs, f.loop.clear())
	users, who := f.Users()
	f.loop.close()

	if users > 0 || !waitGone(fuse, int(releaseWithin.Milliseconds())) {
		abort()
		errs = append(errs, fmt.Errorf("%s was still open%s; it gives errors now, and goes when it is closed", f.loop.path, byWhom(who)))
	}
	f.loop.tune(f.options.Log, false)
	f.finish()
	return errors.Join(errs...)
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

// dismantle undoes a Create that failed. Nobody serves the queues, and the service that
// did has been stopped. FUSE goes first: the loop device's last close may wait for it.
func (f *Face) dismantle() {
	f.down.Store(true)
	for _, q := range f.queues {
		_ = q.end() // always ErrClosed
	}
	f.loop.close()
	f.pool.close()
}
