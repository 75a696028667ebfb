package fuseloop

// How a face comes to be: made anew, or taken over.

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
)

// ErrIncomplete says that there is no face to adopt: the predecessor died while it made
// it, the face ended, or this kernel cannot hand it over. Discard what was left, have
// the copies closed by those who keep them, and Create anew.
var ErrIncomplete = errors.New("there is no face to adopt")

// Create makes a face of g. It takes milliseconds, and needs CAP_SYS_ADMIN. From then
// on, every queue must be served. If it fails, or the process dies meanwhile, nothing
// is left.
func Create(g frontend.Geometry, opt Options) (_ *Face, err error) {
	opt, err = opt.withDefaults(g)
	if err != nil {
		return nil, err
	}
	f := newFace(g, opt)
	defer func() {
		if err != nil {
			f.dismantle()
			err = fmt.Errorf("create the face of disk %s: %w", g.Name, err)
		}
	}()
	// First, for it to have the lowest number.
	if f.loop.fd, err = openLoopControl(); err != nil {
		return nil, err
	}
	fuse, err := openFuse(f.loop.fd)
	if err != nil {
		return nil, err
	}
	mount, err := mountDisk(fuse, g.Name)
	if err != nil {
		closeAll(fuse)
		return nil, err
	}
	defer closeAll(mount)
	// Not before it is mounted: polling learns of nothing until then.
	if err = f.addQueue(fuse); err != nil {
		return nil, err
	}
	for range opt.Queues - 1 {
		clone, err := cloneFuse(fuse)
		if err != nil {
			return nil, err
		}
		if err := f.addQueue(clone); err != nil {
			return nil, err
		}
	}

	connection, err := connectionOf(mount)
	if err != nil {
		return nil, err
	}
	s, err := f.startService(connection)
	if err != nil {
		return nil, err
	}
	if err = errors.Join(f.attach(mount), s.stop()); err != nil {
		return nil, err
	}
	return f.begin(), nil
}

// addQueue makes a queue of a descriptor, which it owns in any case.
func (f *Face) addQueue(fuse int) error {
	q, err := newQueue(f, fuse)
	if err != nil {
		closeAll(fuse)
		return err
	}
	f.queues = append(f.queues, q)
	return nil
}

// attach opens the file and puts the loop device over it, while the service answers.
func (f *Face) attach(mount int) error {
	file, err := unix.Open("/proc/self/fd/"+strconv.Itoa(mount), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the root of the FUSE mount: %w", err)
	}
	defer closeAll(file)
	// The kernel asks for a root inode's size when somebody wants to know it, and the loop
	// driver, before Linux 6.16, does not: it takes what the inode says.
	var st unix.Statx_t
	if err := unix.Statx(file, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_SIZE, &st); err != nil {
		return fmt.Errorf("ask for the size of the root of the FUSE mount: %w", err)
	}
	l, err := attachLoop(f.loop.fd, file, f.geometry, f.options)
	if l.fd >= 0 {
		f.loop = l
	}
	if err != nil {
		return err
	}
	return f.loop.verify(f.geometry)
}

// service answers the kernel while Create makes its calls. Requests for data are put by
// for the engine. A flush is answered, as LOOP_CONFIGURE does one and waits: nothing that
// it could concern has been acknowledged yet.
type service struct {
	face     *Face
	wake     int // eventfd
	done     chan error
	deadline *time.Timer
}

func (f *Face) startService(connection uint32) (*service, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	s := &service{face: f, wake: wake, done: make(chan error, 1)}
	go func() { s.done <- s.serve() }()
	// Whatever Create may wait for in the kernel ends with the connection.
	s.deadline = time.AfterFunc(createWithin, func() {
		if err := abortConnection(connection); err != nil {
			f.options.Log.Error("creating a face hangs and cannot be called off", "disk", f.geometry.Name, "err", err)
		}
	})
	return s, nil
}

func (s *service) serve() error {
	q := s.face.queues[0]
	var backlog []*carried
	poll := []unix.PollFd{{Fd: int32(q.Fd()), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("poll /dev/fuse: %w", err)
		}
		if poll[1].Revents != 0 {
			break
		}
		err := q.Receive(func(r *frontend.Request) {
			if r.Op == frontend.Flush {
				q.Reply(r)
				q.Free(r)
				return
			}
			backlog = append(backlog, q.carriedOf(r))
		})
		if err != nil {
			return fmt.Errorf("serve the kernel: %w", err)
		}
	}
	if q.backlog = backlog; backlog != nil {
		q.kick()
	}
	return nil
}

// stop ends the service and says whether it was well until then.
func (s *service) stop() error {
	inTime := s.deadline.Stop()
	var one [8]byte
	one[0], one[7] = 1, 1 // not 0 in either byte order
	_, _ = unix.Write(s.wake, one[:])
	err := <-s.done
	closeAll(s.wake)
	if !inTime {
		err = errors.Join(fmt.Errorf("not done after %v", createWithin), err)
	}
	return err
}

// Adopt takes over the face of a process that is dead, or has abandoned it, from the
// descriptors that it left (see Descriptors). The predecessor must do nothing more: it
// has been reaped, and its leg I/O has ended. What it had not answered is sent again.
//
// The descriptors are the face's from then on. After an error they are still the
// caller's: see ErrIncomplete.
func Adopt(g frontend.Geometry, fds map[string][]int, opt Options) (_ *Face, err error) {
	opt, err = opt.withDefaults(g)
	if err != nil {
		return nil, err
	}
	f := newFace(g, opt)
	defer func() {
		if err != nil {
			f.loop = loopDevice{fd: -1} // the caller's
			f.dismantle()
			err = fmt.Errorf("adopt the face of disk %s: %w", g.Name, err)
		}
	}()
	fuse, loop := fds[descriptorsFuse], fds[descriptorsLoop]
	if len(fuse) == 0 || len(loop) != 1 {
		return nil, fmt.Errorf("%d descriptors of FUSE and %d of the loop device: %w", len(fuse), len(loop), ErrIncomplete)
	}
	if f.loop, err = adoptLoop(loop[0], opt); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrIncomplete)
	}
	if err = f.loop.verify(g); err != nil {
		return nil, err
	}
	for _, fd := range fuse {
		if !connectionAlive(fd) {
			return nil, fmt.Errorf("the FUSE connection has ended: %w", ErrIncomplete)
		}
		if fd, err = renumber(fd, f.loop.fd); err != nil {
			return nil, err
		}
		if err = unix.SetNonblock(fd, true); err != nil {
			return nil, fmt.Errorf("descriptor of /dev/fuse: %w", err)
		}
		if err = f.addQueue(fd); err != nil {
			return nil, err
		}
	}
	if err = resend(fuse[0]); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrIncomplete)
	}
	f.resend.Store(true)
	unix.CloseOnExec(f.loop.fd)
	closeAll(fuse...)
	return f.begin(), nil
}
