package main

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
	"ft/mirror/frontend/fuseloop"
)

// alone is a face with nothing behind it: what is asked of it is answered at once. What it
// reaches is what the way through loop device and FUSE lets through, whatever serves it.
type alone struct {
	face  *fuseloop.Face
	ended chan error
}

func startAlone(size int64) (*alone, error) {
	f, err := fuseloop.Create(frontend.Geometry{Name: "alone", Size: size, LogicalBlock: 512, PhysicalBlock: 4096}, fuseloop.Options{Queues: 1})
	if err != nil {
		return nil, err
	}
	a := &alone{face: f, ended: make(chan error, 1)}
	go func() { a.ended <- serveAtOnce(f.Queues()[0]) }()
	return a, nil
}

func serveAtOnce(q frontend.Queue) error {
	runtime.LockOSThread()
	fds := []unix.PollFd{{Fd: int32(q.Fd()), Events: unix.POLLIN}}
	for {
		_, _ = unix.Poll(fds, -1) // EINTR: Receive looks
		err := q.Receive(func(r *frontend.Request) {
			q.Reply(r)
			q.Free(r)
		})
		if errors.Is(err, frontend.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (a *alone) close() error { return errors.Join(a.face.Close(), <-a.ended) }
