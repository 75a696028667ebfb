package legio

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/legio/loop"
	"ft/mirror/nbd"
)

// defaultDeadline is how long a device may take to open or to answer a synchronous
// request where OpenOptions does not say.
const defaultDeadline = 5 * time.Second

// OpenOptions of a leg.
type OpenOptions struct {
	// Deadline bounds the opening and each ReadAt, WriteAt and Sync; 0 is 5 s.
	Deadline time.Duration
	// MinBytes is the least size that is accepted.
	MinBytes int64
	// Shared opens a device, or the loop device that is over a file, also while another
	// holds it for itself: a successor's way to a leg that a dying process cannot let go
	// yet.
	Shared bool
	// Faults is the slot's fault layer; it outlives the Leg. nil: a new one.
	Faults *Faults
	// Fence is the slot's, for legs that are an NBD server's; it outlives the Leg. nil: none.
	Fence *Fence
}

// Open opens a leg: a block device for our use alone, a regular file, which is put
// under a loop device of our own that goes with the leg, or the export of an NBD server at
// an address (nbd.ParseAddress). It gives *OpenError. A device
// that hangs is given up at the deadline; should it open later, it is closed again.
func Open(path string, o OpenOptions) (*Leg, error) {
	if o.Deadline <= 0 {
		o.Deadline = defaultDeadline
	}
	if o.Faults == nil {
		o.Faults = NewFaults()
	}
	if o.Faults.Vanished() {
		return nil, &OpenError{path, KindAbsent, "it is gone, by the injected fault vanish; the fault return brings it back", nil}
	}
	if o.Faults.hangs() {
		return nil, &OpenError{path, KindHung, "it does not answer, by the injected fault hang; the fault clear ends that", nil}
	}
	type result struct {
		leg *Leg
		err error
	}
	opened, gaveUp := make(chan result), make(chan struct{})
	go func() {
		leg, err := open(path, o)
		select {
		case opened <- result{leg, err}:
		case <-gaveUp:
			if leg != nil {
				leg.Close()
			}
		}
	}()
	timer := time.NewTimer(o.Deadline)
	defer timer.Stop()
	select {
	case r := <-opened:
		return r.leg, r.err
	case <-timer.C:
		close(gaveUp)
		return nil, &OpenError{path, KindHung, fmt.Sprintf("it did not open within %v: the device hangs", o.Deadline), nil}
	}
}

func open(path string, o OpenOptions) (*Leg, error) {
	if nbd.IsAddress(path) {
		leg := &Leg{Path: path, Device: path, deadline: o.Deadline, faults: o.Faults, closed: make(chan struct{})}
		if err := leg.openRemote(o); err != nil {
			return nil, err
		}
		o.Faults.attach(leg)
		return leg, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil, &OpenError{path, KindAbsent, "there is no such device or file", err}
		}
		return nil, openError(path, "look at it", err)
	}
	leg := &Leg{Path: path, Device: path, deadline: o.Deadline, faults: o.Faults, closed: make(chan struct{})}
	kinds := map[uint32]string{unix.S_IFDIR: "a directory", unix.S_IFCHR: "a character device", unix.S_IFIFO: "a FIFO", unix.S_IFSOCK: "a socket"}
	var err error
	switch kind := st.Mode & unix.S_IFMT; kind {
	case unix.S_IFBLK:
		err = leg.openDevice(o.MinBytes, o.Shared)
	case unix.S_IFREG:
		err = leg.openFile(o.MinBytes, o.Shared)
	default:
		err = &OpenError{path, KindUnfit, "it is " + kinds[kind] + "; a leg is a block device or a regular file", nil}
	}
	if err != nil {
		return nil, err
	}
	o.Faults.attach(leg)
	return leg, nil
}

// openDevice opens l.Device, for us alone unless shared, and reads its measures.
func (l *Leg) openDevice(minBytes int64, shared bool) error {
	const flags = unix.O_RDWR | unix.O_DIRECT | unix.O_CLOEXEC
	fd, err := unix.Open(l.Device, flags|unix.O_EXCL, 0)
	if err == unix.EBUSY && shared {
		fd, err = unix.Open(l.Device, flags, 0)
	}
	if err != nil {
		return openError(l.Path, "open it", err)
	}
	if err := l.measure(fd, minBytes); err != nil {
		unix.Close(fd)
		return err
	}
	l.fd = fd
	return nil
}

func (l *Leg) measure(fd int, minBytes int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return openError(l.Path, "look at it", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return &OpenError{l.Path, KindAbsent, l.Device + " was replaced while it was being opened", nil}
	}
	size, err := blockBytes(fd)
	if err != nil {
		return openError(l.Path, "ask for its size", err)
	}
	if size == 0 {
		return &OpenError{l.Path, KindAbsent, "the device is empty: no medium, or a loop device with no file under it", nil}
	}
	readOnly, err := unix.IoctlGetInt(fd, unix.BLKROGET)
	if err != nil {
		return openError(l.Path, "ask whether it can be written", err)
	}
	if readOnly != 0 {
		return &OpenError{l.Path, KindUnfit, "the device is read-only (blockdev --setrw makes it writable)", nil}
	}
	if l.LogicalBlock, err = unix.IoctlGetInt(fd, unix.BLKSSZGET); err != nil {
		return openError(l.Path, "ask for its block size", err)
	}
	if l.LogicalBlock > align {
		return &OpenError{l.Path, KindUnfit, fmt.Sprintf("its logical block is %d bytes; at most %d are possible", l.LogicalBlock, align), nil}
	}
	if l.PhysicalBlock, err = unix.IoctlGetInt(fd, unix.BLKPBSZGET); err != nil {
		return openError(l.Path, "ask for its physical block size", err)
	}
	if l.Bytes = size &^ (align - 1); l.Bytes < minBytes {
		return tooSmall(l.Path, l.Bytes, minBytes)
	}
	l.Rdev = st.Rdev
	q, err := queueLimits(l.Rdev)
	if err != nil {
		return &OpenError{l.Path, KindAbsent, "its queue cannot be read from sysfs", err}
	}
	l.piece = q.requestBytes()
	l.depth = int32(max(1, min(depthMax, q.requests-workersMax-1)))
	if l.identity == "" {
		l.identity = deviceIdentity(l.Rdev)
	}
	return nil
}

// openFile puts the file under a loop device of our own and opens that. The file
// carries a lock for as long as the loop device has it, so that it is not the leg of
// two mirrors, or both legs of one.
func (l *Leg) openFile(minBytes int64, shared bool) error {
	fd, err := unix.Open(l.Path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return openError(l.Path, "open it", err)
	}
	defer unix.Close(fd) // the loop device has a reference of its own
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return openError(l.Path, "look at it", err)
	}
	if bytes := st.Size &^ (align - 1); bytes < max(minBytes, align) {
		return tooSmall(l.Path, bytes, max(minBytes, align))
	}
	full := fullPath(l.Path, &st)
	if dev := loop.Over(full); dev != "" && shared {
		l.Device, l.identity = dev, fileIdentity(full, &st)
		return l.openDevice(minBytes, true)
	}
	if dev := stillOver(full); dev != "" {
		return &OpenError{l.Path, KindBusy, "the file is already under " + dev + " (losetup -d " + dev + " frees it when nobody uses it)", nil}
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return &OpenError{l.Path, KindBusy, "the file is in use by " + describeHolders(openers(func(_, target string) bool { return target == full })), err}
		}
		return openError(l.Path, "lock it", err)
	}
	dev, cfg, err := loop.Attach(fd, full)
	if err != nil {
		return openError(l.Path, "put a loop device over it", err)
	}
	defer unix.Close(cfg) // keeps the loop device until ours is open
	l.Device = dev
	l.identity = fileIdentity(full, &st)
	if err := l.openDevice(minBytes, false); err != nil {
		return err
	}
	if direct, err := readSysfsInt(l.Rdev, "loop/dio"); err == nil && direct == 0 {
		l.Note = "the file system under it has no direct I/O: it is slower, and its data is in memory twice"
	}
	return nil
}

// leavingMax is how long a loop device may take to go that is detached with its last
// descriptor: that was closed a moment ago, perhaps by a process that is dying.
const leavingMax = 2 * time.Second

// stillOver is the loop device that has the file under it and does not go, or "". One that
// stays may be another one by then, of the same number: so it is asked for its file once more.
func stillOver(full string) string {
	for deadline := time.Now().Add(leavingMax); ; time.Sleep(10 * time.Millisecond) {
		dev := loop.Over(full)
		if dev == "" || loop.Stays(dev) && loop.Over(full) == dev || time.Now().After(deadline) {
			return dev
		}
	}
}

// fullPath is the path by which the kernel shows the file that st is of. One that no
// directory shows (reached through /proc/PID/fd) is left as it was given.
func fullPath(path string, st *unix.Stat_t) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return path
	}
	if real, err = filepath.Abs(real); err != nil {
		return path
	}
	var there unix.Stat_t
	if unix.Stat(real, &there) != nil || there.Dev != st.Dev || there.Ino != st.Ino {
		return path
	}
	return real
}

func tooSmall(path string, have, need int64) error {
	return &OpenError{path, KindUnfit, fmt.Sprintf("it has %d bytes; at least %d are needed", have, need), nil}
}

// openError sorts what the kernel said.
func openError(path, tried string, err error) error {
	e := &OpenError{Path: path, Kind: KindUnfit, Sentence: "cannot " + tried, Err: err}
	switch {
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOMEDIUM), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTCONN):
		e.Kind, e.Sentence = KindAbsent, "the device is not there"
	case errors.Is(err, unix.EBUSY):
		e.Kind, e.Sentence = KindBusy, "the device is in use by "+describeHolders(holders(path))
	case errors.Is(err, unix.EROFS):
		e.Sentence = "it is read-only (blockdev --setrw, or mount -o remount,rw where the file lies)"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		e.Sentence = "it is read-only, or this process may not open it"
	case errors.Is(err, unix.ETIMEDOUT):
		e.Kind = KindHung
	}
	return e
}
