// Package nbd is the face of a mirror on kernels with the nbd driver: /dev/nbdN, whose
// requests come over a socket pair, in the NBD protocol, to a server in this process.
//
//	applications ─▶ /dev/nbdN ─▶ nbd driver ─▶ socket pair ─▶ nbdserver.Server, the queue
//
// It is for kernels on which the FUSE face does not survive its process (before Linux 6.9).
// The device is the kernel's own: when the process dies, the socket's end dies with it, and
// requests wait for a successor that brings another socket (NBD_CMD_RECONFIGURE). Nothing
// has to be kept by anybody else; the device is found by its backend identifier.
//
// What the dead process had taken and not answered, the kernel sends again when the
// request's time is over, and not before: Options.Timeout is how long that stall is. A
// request that takes that long while the process lives ends its connection in the same way,
// and is sent again on the next, where it waits for the first by the engine's range locks.
//
// A connection that ends while the face is up is replaced, for whatever reason it ended.
package nbd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ft/mirror/frontend"
	"ft/mirror/frontend/nbdserver"
	"ft/mirror/frontend/users"
)

const (
	// timeoutDefault is how long a request may take before the kernel sends it again.
	timeoutDefault = 10 * time.Second
	// deadConnection is how long requests wait for a successor. Then they fail.
	deadConnection = 10 * time.Minute
	// joinAgain is the pause between two attempts to bring another socket.
	joinAgain    = 20 * time.Millisecond
	nodeWithin   = 5 * time.Second
	closeWithin  = 10 * time.Second
	identityPath = "backend" // in /sys/block/nbdN
)

// ErrIncomplete says that there is no face to adopt.
var ErrIncomplete = errors.New("there is no nbd device to adopt")

// Options of a face.
type Options struct {
	// Identity names the device to the kernel, and is what a successor finds it by. No two
	// faces of a machine have the same one.
	Identity string
	// Timeout is how long a request may take before it is sent again; 0 is 10 s.
	Timeout time.Duration
	// FastZero is nbdserver's.
	FastZero func() bool
	// ExcludePids tells who is no user of the device.
	ExcludePids func() []int
	Log         *slog.Logger
}

// Face is a running frontend. It implements frontend.Face.
type Face struct {
	opt    Options
	number int
	rdev   uint64
	fd     int // the device, open: it is not another's while somebody has it
	server *nbdserver.Server

	ending  atomic.Bool
	ended   chan struct{} // told when a connection has ended
	stop    chan struct{} // closed when the face is given up
	joiners sync.WaitGroup
	once    sync.Once
	err     error
}

var _ frontend.Face = (*Face)(nil)

func newFace(g frontend.Geometry, opt Options) (*Face, error) {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	if opt.Timeout == 0 {
		opt.Timeout = timeoutDefault
	}
	server, err := nbdserver.New(-1, "", g, nbdserver.Options{FastZero: opt.FastZero, Log: opt.Log})
	if err != nil {
		return nil, err
	}
	return &Face{opt: opt, number: -1, fd: -1, server: server, ended: make(chan struct{}, 1), stop: make(chan struct{})}, nil
}

// Create makes a face of g. serve is given its queue, which must be served from then
// on: the kernel reads the new device before Create returns.
func Create(g frontend.Geometry, opt Options, serve func(frontend.Queue)) (*Face, error) {
	f, err := newFace(g, opt)
	if err != nil {
		return nil, fmt.Errorf("create the face of disk %s: %w", g.Name, err)
	}
	serve(f.server)
	if err = f.connect(g); err == nil {
		if err = f.findNode(); err == nil {
			return f.begin(), nil
		}
		err = errors.Join(err, f.disconnect())
	}
	return nil, errors.Join(fmt.Errorf("create the face of disk %s: %w", g.Name, err), f.server.Close())
}

// Adopt takes over the device that a predecessor left. ErrIncomplete: there is none.
func Adopt(g frontend.Geometry, opt Options, serve func(frontend.Queue)) (*Face, error) {
	number, err := find(opt.Identity)
	if err != nil {
		return nil, fmt.Errorf("adopt the face of disk %s: %w", g.Name, err)
	}
	f, err := newFace(g, opt)
	if err != nil {
		return nil, fmt.Errorf("adopt the face of disk %s: %w", g.Name, err)
	}
	f.number = number
	serve(f.server)
	if err = f.findNode(); err == nil {
		f.ended <- struct{}{} // the predecessor's connection has
		return f.begin(), nil
	}
	return nil, errors.Join(fmt.Errorf("adopt the face of disk %s: %w", g.Name, err), f.server.Close())
}

func (f *Face) begin() *Face {
	f.joiners.Add(1)
	go f.keepJoined()
	return f
}

// pair makes a connection: the kernel's end, and ours given to the server.
func (f *Face) pair() (kernel int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socketpair: %w", err)
	}
	f.server.Join(fds[1], "the kernel", func() {
		select {
		case f.ended <- struct{}{}:
		default:
		}
	})
	return fds[0], nil
}

// connect has the kernel make the device.
func (f *Face) connect(g frontend.Geometry) error {
	w, err := newWire(cmdConnect, 0)
	if err != nil {
		return err
	}
	kernel, err := f.pair()
	if err != nil {
		return err
	}
	defer unix.Close(kernel) // the driver has a reference of its own
	w.u64(attrSizeBytes, uint64(g.Size))
	w.u64(attrBlockSizeBytes, uint64(g.LogicalBlock))
	w.u64(attrTimeout, uint64(max(1, f.opt.Timeout/time.Second)))
	w.u64(attrDeadConnTimeout, uint64(deadConnection/time.Second))
	w.u64(attrServerFlags, uint64(f.server.Export().Flags))
	w.u64(attrClientFlags, cflagDestroyOnDisconnect)
	w.str(attrBackendIdentifier, f.opt.Identity)
	w.socket(kernel)
	answers, err := w.send()
	if err != nil {
		return fmt.Errorf("have the kernel's nbd driver connect: %w", err)
	}
	f.number, err = indexOf(answers)
	return err
}

// reconfigure gives the kernel another socket in place of one that is dead. The kernel says
// nothing when it has no dead one yet: then ours ends at once, and it is tried again.
func (f *Face) reconfigure() error {
	w, err := newWire(cmdReconfigure, unix.NLM_F_ACK)
	if err != nil {
		return err
	}
	kernel, err := f.pair()
	if err != nil {
		return err
	}
	defer unix.Close(kernel)
	w.u32(attrIndex, uint32(f.number))
	w.str(attrBackendIdentifier, f.opt.Identity)
	w.socket(kernel)
	if _, err := w.send(); err != nil {
		return fmt.Errorf("give nbd%d another socket: %w", f.number, err)
	}
	return nil
}

// keepJoined replaces each connection that ends, until the face does.
func (f *Face) keepJoined() {
	defer f.joiners.Done()
	for {
		select {
		case <-f.stop:
			return
		case <-f.ended:
		}
		select {
		case <-f.stop:
			return
		case <-time.After(joinAgain):
		}
		if f.ending.Load() {
			return
		}
		if err := f.reconfigure(); err != nil {
			f.opt.Log.Error("the kernel's nbd device has no connection", "device", f.Device(), "err", err)
			select {
			case f.ended <- struct{}{}:
			default:
			}
		}
	}
}

func (f *Face) disconnect() error {
	w, err := newWire(cmdDisconnect, unix.NLM_F_ACK)
	if err != nil {
		return err
	}
	w.u32(attrIndex, uint32(f.number))
	if _, err := w.send(); err != nil {
		return fmt.Errorf("disconnect nbd%d: %w", f.number, err)
	}
	return nil
}

func (f *Face) name() string  { return "nbd" + strconv.Itoa(f.number) }
func (f *Face) sysfs() string { return "/sys/block/" + f.name() }

// findNode waits for the device's node.
func (f *Face) findNode() error {
	for until := time.Now().Add(nodeWithin); ; time.Sleep(joinAgain) {
		var st unix.Stat_t
		err := unix.Stat(f.Device(), &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			f.rdev = st.Rdev
			if f.fd, err = unix.Open(f.Device(), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err == nil {
				return nil
			}
		}
		if time.Now().After(until) {
			return fmt.Errorf("there is no device node %s (is devtmpfs mounted on /dev?): %w", f.Device(), err)
		}
	}
}

// find is the number of the device that has an identity.
func find(identity string) (int, error) {
	files, _ := filepath.Glob("/sys/block/nbd*/" + identityPath)
	for _, path := range files {
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == identity {
			return strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(path)), "nbd"))
		}
	}
	return 0, ErrIncomplete
}

// Left says whether a device with an identity is there.
func Left(identity string) bool {
	_, err := find(identity)
	return err == nil
}

// Queues is the one stream of requests.
func (f *Face) Queues() []frontend.Queue { return []frontend.Queue{f.server} }

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
const Descriptor = "nbd-face"

// Descriptors are for another process to hold: with them the keeper knows that there is a
// face to be taken over, and the device's number is not given to others.
func (f *Face) Descriptors() map[string][]int { return map[string][]int{Descriptor: {f.fd}} }

// Close takes the face down, whoever uses it. The queue must be served until it returns.
func (f *Face) Close() error {
	f.once.Do(func() {
		f.err = frontend.WriteBack(f.Device(), closeWithin)
		f.leave()
		f.closeDevice()
		f.err = errors.Join(f.err, f.disconnect(), f.server.Close())
		if f.err != nil {
			f.err = fmt.Errorf("take down the face %s: %w", f.Device(), f.err)
		}
	})
	return f.err
}

func (f *Face) closeDevice() {
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// leave ends the replacing of connections.
func (f *Face) leave() {
	f.ending.Store(true)
	close(f.stop)
	f.joiners.Wait()
}

// Abandon leaves the face to a successor: what was taken is answered, what comes waits.
func (f *Face) Abandon() {
	f.once.Do(func() {
		f.leave()
		f.closeDevice()
		if err := f.server.Close(); err != nil {
			f.opt.Log.Warn("leaving the face", "device", f.Device(), "err", err)
		}
	})
}

// Discard removes the device that was left with an identity: who has it open gets errors.
func Discard(identity string) error {
	number, err := find(identity)
	if err != nil {
		return err
	}
	return (&Face{number: number}).disconnect()
}
