// Package ublk is the face of a mirror on kernels with the ublk driver: /dev/ublkbN, whose
// requests come as completions of an io_uring, without a loop device and without FUSE.
//
//	applications ─▶ /dev/ublkbN ─▶ ublk driver ─▶ io_uring commands on /dev/ublkcN ─▶ Queue
//
// The device has the kernel's user recovery: when the process dies, requests wait, and a
// successor is given those that were not answered once more, as with FUSE. The process's
// death must have been seen by the kernel first, which it says by letting the recovery
// begin.
//
// It needs UBLK_F_USER_COPY and user recovery with re-issuing: Linux 6.5.
package ublk

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
	"ft/mirror/frontend/users"
)

const (
	nodeWithin     = 5 * time.Second
	closeWithin    = 10 * time.Second
	pollEvery      = 5 * time.Millisecond
	discardMaxMiB  = 64 // in one request; more is several
	anyDevice      = ^uint32(0)
	sectorsAMiB    = 1 << 20 / sectorBytes
	discardSectors = discardMaxMiB * sectorsAMiB
)

// ErrIncomplete says that there is no face to adopt.
var ErrIncomplete = errors.New("there is no ublk device to adopt")

// ErrHeld says that the kernel does not give the device over yet: it has not seen the process go
// that had it. A process that was killed goes only when its I/O has ended, which takes for as
// long as a leg hangs. Meanwhile what applications ask of the device waits.
var ErrHeld = errors.New("the device that was left is not given over yet")

// Options of a face.
type Options struct {
	// Identity is what a successor finds the device by when nobody kept a descriptor. No two
	// faces of a machine have the same one.
	Identity string
	// ExcludePids tells who is no user of the device.
	ExcludePids func() []int
	// Patience is how long Adopt waits for the kernel to give the device over.
	Patience time.Duration
	Log      *slog.Logger
}

// Face is a running frontend. It implements frontend.Face.
type Face struct {
	opt     Options
	id      uint32
	rdev    uint64
	fd      int // the block device, open: see Descriptors
	queue   *Queue
	control *control
	once    sync.Once
	err     error
}

var _ frontend.Face = (*Face)(nil)

func newFace(opt Options) (*Face, error) {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	c, err := openControl()
	if err != nil {
		return nil, err
	}
	return &Face{opt: opt, fd: -1, control: c}, nil
}

// Create makes a face of g. serve is given its queue, which must be served from then on, by
// one thread: the device comes up only when that has begun.
func Create(g frontend.Geometry, opt Options, serve func(frontend.Queue)) (_ *Face, err error) {
	f, err := newFace(opt)
	if err == nil {
		err = f.create(g, serve)
	}
	if err != nil {
		return nil, fmt.Errorf("create the face of disk %s: %w", g.Name, err)
	}
	return f, nil
}

func (f *Face) create(g frontend.Geometry, serve func(frontend.Queue)) (err error) {
	info := devInfo{nrHwQueues: 1, queueDepth: depth, maxIOBufBytes: ioBytesMax, devID: anyDevice, flags: flagsNeeded,
		ublksrvFlags: markOf(f.opt.Identity)}
	if err := f.control.do("add a ublk device", cmdAddDev, withMemory(anyDevice, &info)); err != nil {
		f.control.close()
		return err
	}
	f.id = info.devID
	defer func() {
		if err != nil {
			err = errors.Join(err, f.takeDown())
		}
	}()
	if info.flags&flagsNeeded != flagsNeeded {
		return lacks(info.flags)
	}
	if err := f.setParams(g); err != nil {
		return err
	}
	if err := f.openQueue(serve); err != nil {
		return err
	}
	if err := f.control.do("start the ublk device", cmdStartDev, ctrlCmd{devID: f.id, data: uint64(os.Getpid())}); err != nil {
		return err
	}
	return f.findNode()
}

func (f *Face) setParams(g frontend.Geometry) error {
	p := params{types: paramBasic | paramDiscard}
	p.len = 60 // as far as the discards, without what the compiler adds
	p.basic.attrs = attrVolatileCache
	p.basic.logicalBsShift = uint8(bits.TrailingZeros(uint(g.LogicalBlock)))
	p.basic.physicalBsShift = uint8(bits.TrailingZeros(uint(g.PhysicalBlock)))
	p.basic.ioMinShift = p.basic.physicalBsShift
	p.basic.ioOptShift = p.basic.physicalBsShift
	p.basic.maxSectors = ioBytesMax / sectorBytes
	p.basic.devSectors = uint64(g.Size / sectorBytes)
	p.discard.granularity = uint32(max(4096, g.PhysicalBlock))
	p.discard.maxDiscardSectors, p.discard.maxWriteZeroesSectors, p.discard.maxSegments = discardSectors, discardSectors, 1
	return f.control.do("set up the ublk device", cmdSetParams, withMemory(f.id, &p))
}

// openQueue opens the character device and has its queue served.
func (f *Face) openQueue(serve func(frontend.Queue)) error {
	path := "/dev/ublkc" + strconv.Itoa(int(f.id))
	char := -1
	err := waitFor(nodeWithin, func() (err error) {
		char, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("open %s (is devtmpfs mounted on /dev?): %w", path, err)
	}
	q, err := newQueue(char)
	if err != nil {
		unix.Close(char)
		return err
	}
	f.queue = q
	serve(q)
	return nil
}

// waitFor tries until it works or time is over, and gives the last error.
func waitFor(within time.Duration, try func() error) error {
	for until := time.Now().Add(within); ; time.Sleep(pollEvery) {
		if err := try(); err == nil || time.Now().After(until) {
			return err
		}
	}
}

// Adopt takes over the device that fds (see Descriptors) are of, or the one that has the
// identity where there are none; its process is dead or has abandoned it. The descriptors are
// still the caller's. ErrIncomplete: it is not there, or not as it should be. ErrHeld: it is to be
// tried again, without descriptors.
func Adopt(g frontend.Geometry, fds []int, opt Options, serve func(frontend.Queue)) (_ *Face, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("adopt the face of disk %s: %w", g.Name, err)
		}
	}()
	f, err := newFace(opt)
	if errors.Is(err, errNoDriver) {
		return nil, fmt.Errorf("%w: %w", err, ErrIncomplete)
	}
	if err != nil {
		return nil, err
	}
	if len(fds) > 0 {
		f.id, err = deviceOf(fds)
	} else {
		f.id, err = f.control.find(opt.Identity)
	}
	if err == nil {
		err = f.verify(g)
	}
	if err != nil {
		f.control.close()
		return nil, err
	}
	id := f.id
	cmd := ctrlCmd{devID: id}
	err = waitFor(opt.Patience, func() error {
		err := f.control.do("begin the recovery of the ublk device", cmdStartRecovery, cmd)
		if errors.Is(err, syscall.ENODEV) {
			return nil
		}
		return err
	})
	if errors.Is(err, syscall.EBUSY) {
		if held := f.held(); held != nil {
			f.control.close()
			return nil, held
		}
	}
	if err == nil {
		err = f.openQueue(serve)
	}
	if err == nil {
		cmd.data = uint64(os.Getpid())
		err = f.control.do("end the recovery of the ublk device", cmdEndRecovery, cmd)
	}
	if err == nil {
		err = f.findNode()
	}
	if err != nil {
		if f.queue != nil {
			f.queue.stop(true)
		}
		f.control.close()
		return nil, fmt.Errorf("%w: %w", err, ErrIncomplete)
	}
	return f, nil
}

// held says who has the device that the kernel does not give over; nil: it was stopped, and
// nobody will ever be given it.
func (f *Face) held() error {
	var info devInfo
	if err := f.control.do("look at the ublk device", cmdGetDevInfo, withMemory(f.id, &info)); err == nil && info.state == stateDead {
		return nil
	}
	return fmt.Errorf("%w: %s is still held by process %d, whose end the kernel has not seen", ErrHeld, f.name(), info.ublksrvPid)
}

// verify holds the device against the disk that it is to be the face of.
func (f *Face) verify(g frontend.Geometry) error {
	for name, want := range map[string]int64{"size": g.Size / sectorBytes, "queue/logical_block_size": int64(g.LogicalBlock)} {
		b, err := os.ReadFile(filepath.Join(f.sysfs(), name))
		if err != nil {
			return fmt.Errorf("look at the device that was left: %w: %w", err, ErrIncomplete)
		}
		if got, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err != nil || got != want {
			return fmt.Errorf("the device %s that was left has the %s %d, the disk %d: %w", f.name(), filepath.Base(name), got, want, ErrIncomplete)
		}
	}
	return nil
}

// deviceOf is the number of the device that a descriptor is of.
func deviceOf(fds []int) (uint32, error) {
	var st unix.Stat_t
	if len(fds) != 1 || unix.Fstat(fds[0], &st) != nil {
		return 0, ErrIncomplete
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	n, ok := strings.CutPrefix(filepath.Base(link), "ublkb")
	id, parseErr := strconv.ParseUint(n, 10, 31)
	if err != nil || !ok || parseErr != nil {
		return 0, ErrIncomplete
	}
	return uint32(id), nil
}

func (f *Face) name() string  { return "ublkb" + strconv.Itoa(int(f.id)) }
func (f *Face) sysfs() string { return "/sys/block/" + f.name() }

// findNode waits for the block device's node and opens it.
func (f *Face) findNode() error {
	err := waitFor(nodeWithin, func() (err error) {
		f.fd, err = unix.Open(f.Device(), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	})
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(f.fd, &st)
	}
	if err != nil {
		return fmt.Errorf("open %s (is devtmpfs mounted on /dev?): %w", f.Device(), err)
	}
	f.rdev = st.Rdev
	return nil
}

// Queues is the one stream of requests.
func (f *Face) Queues() []frontend.Queue { return []frontend.Queue{f.queue} }

// Device is the path of the block device.
func (f *Face) Device() string { return "/dev/" + f.name() }

// Users tells how many others hold the device open or mounted, and who.
func (f *Face) Users() (int, []string) {
	var exclude []int
	if f.opt.ExcludePids != nil {
		exclude = f.opt.ExcludePids()
	}
	return users.Of(users.Device{Path: f.Device(), Name: f.name(), Rdev: f.rdev, Sysfs: f.sysfs()}, exclude)
}

// CanBeAdopted tells that a successor can take the face over.
func (f *Face) CanBeAdopted() bool { return true }

// Descriptor is the name under which Descriptors are stored.
const Descriptor = "ublk-face"

// Descriptors are for another process to hold: they say which device it is that a successor
// is to take over.
func (f *Face) Descriptors() map[string][]int { return map[string][]int{Descriptor: {f.fd}} }

// Close takes the face down, whoever uses it. The queue must be served until it returns.
func (f *Face) Close() error {
	f.once.Do(func() {
		if f.err = errors.Join(frontend.WriteBack(f.Device(), closeWithin), f.takeDown()); f.err != nil {
			f.err = fmt.Errorf("take down the face %s: %w", f.Device(), f.err)
		}
	})
	return f.err
}

// takeDown stops and deletes the device. In that order: what is under way is answered.
func (f *Face) takeDown() error {
	done := make(chan error, 1)
	f.closeDevice()
	go func() {
		err := f.control.do("stop the ublk device", cmdStopDev, ctrlCmd{devID: f.id})
		if f.queue != nil {
			f.queue.stop(false)
			<-f.queue.gone
		}
		err = errors.Join(err, f.control.do("delete the ublk device", cmdDelDev, ctrlCmd{devID: f.id}))
		f.control.close()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(closeWithin):
		if f.queue != nil {
			f.queue.stop(true)
		}
		return fmt.Errorf("%s is not gone after %v: who has it open gets errors", f.Device(), closeWithin)
	}
}

func (f *Face) closeDevice() {
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// Abandon leaves the face to a successor, who is given what has not been answered.
func (f *Face) Abandon() {
	f.once.Do(func() {
		f.queue.stop(true)
		select {
		case <-f.queue.gone:
		case <-time.After(closeWithin):
			f.opt.Log.Warn("leaving the face: its event loop does not turn", "device", f.Device())
		}
		f.closeDevice()
		f.control.close()
	})
}
