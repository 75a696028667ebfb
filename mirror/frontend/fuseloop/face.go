// Package fuseloop is the face of a mirror on any Linux with FUSE: a loop device over
// one file that this process serves.
//
//	applications ─▶ /dev/loopN ─▶ loop driver (direct I/O) ─▶ FUSE, root inode ─▶ /dev/fuse ─▶ Queue.Receive
//
// The root of the FUSE mount is itself a regular file, the disk, and the mount is
// detached: it has no path, and lives as long as the loop device has its file open. The
// loop device clears itself when it is closed by the last who has it open. So nothing is
// visible but the block device, and all of it goes when the last descriptor goes, also
// when that is because processes were killed.
//
// Invariants:
//   - A request that was read from /dev/fuse is answered on the description that it was
//     read from, by this process or, after FUSE_NOTIFY_RESEND, by one that adopted it. The
//     descriptions live in two processes, so that no single death closes one: see
//     Descriptors.
//   - Nobody but the loop driver has the file open, and it keeps within the disk and to
//     whole blocks; what does not is refused.
//   - Only the engine answers for data. What comes in while the face is being made (a
//     program that looks at every new device) waits for it.
//
// It serves the classic /dev/fuse. FUSE over io_uring does not survive the death of the
// server.
package fuseloop

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"ft/mirror/frontend"
	"ft/mirror/frontend/users"
)

// Limits.
const (
	queuesMax       = 16
	maxWriteDefault = 1 << 20 // bytes; fs.fuse.max_pages_limit is 256 pages by default
	memoryDefault   = 64 << 20
	copiesDefault   = 16 << 20
	backgroundMax   = 256
	createWithin    = 10 * time.Second
	closeWithin     = 10 * time.Second // to write back what is in the page cache
	releaseWithin   = 2 * time.Second  // for the loop device to let go of the file
	loopAttemptsMax = 64               // others may take the free device that we were told of
	discardBytesMax = 64 << 20         // see queueSettings
	descriptorsFuse = "fuse"
	descriptorsLoop = "loop"
	logicalBlockMin = 512
	logicalBlockMax = 4096 // the loop driver takes at most a page
)

// Options of a face. The zero value is good.
type Options struct {
	// Queues is how many streams of requests there are; 2 by default. An adopted face
	// keeps the number that it had.
	Queues int
	// Memory bounds the payloads of the requests in flight, CopyMemory those of
	// Queue.Alloc, in bytes; 64 MiB and 16 MiB by default. When Memory is used up,
	// requests wait in the kernel.
	Memory     int64
	CopyMemory int64
	// NodeDir is where a device node is made when the system has none for the loop
	// device that the kernel gives us. "" refuses then.
	NodeDir string
	// ExcludePids tells the processes that hold our descriptors for us: they are no
	// users. Asked anew each time.
	ExcludePids func() []int
	// Log takes what went wrong without stopping anything. slog.Default when nil.
	Log *slog.Logger

	loopDir string // where the system has loop device nodes; other than /dev in tests
}

func (o Options) withDefaults(g frontend.Geometry) (Options, error) {
	if o.Queues == 0 {
		o.Queues = 2
	}
	if o.Memory == 0 {
		o.Memory = memoryDefault
	}
	if o.CopyMemory == 0 {
		o.CopyMemory = copiesDefault
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.loopDir == "" {
		o.loopDir = "/dev"
	}
	powerOfTwo := func(n int) bool { return n > 0 && n&(n-1) == 0 }
	switch {
	case o.Queues < 1 || o.Queues > queuesMax:
		return o, fmt.Errorf("face of disk %s: %d queues; 1 to %d are possible", g.Name, o.Queues, queuesMax)
	case o.Memory < int64(o.Queues+1)*maxWriteDefault:
		return o, fmt.Errorf("face of disk %s: %d bytes of memory; %d queues need at least %d", g.Name, o.Memory, o.Queues, (o.Queues+1)*maxWriteDefault)
	case !powerOfTwo(g.LogicalBlock) || g.LogicalBlock < logicalBlockMin || g.LogicalBlock > logicalBlockMax:
		return o, fmt.Errorf("face of disk %s: a logical block of %d bytes; a loop device takes 512, 1024, 2048 or 4096", g.Name, g.LogicalBlock)
	case !powerOfTwo(g.PhysicalBlock) || g.PhysicalBlock < g.LogicalBlock:
		return o, fmt.Errorf("face of disk %s: a physical block of %d bytes over logical ones of %d", g.Name, g.PhysicalBlock, g.LogicalBlock)
	case g.Size <= 0 || g.Size%int64(g.LogicalBlock) != 0:
		return o, fmt.Errorf("face of disk %s: a size of %d bytes is not a number of blocks of %d", g.Name, g.Size, g.LogicalBlock)
	}
	return o, nil
}

// Face is a running frontend. It implements frontend.Face.
type Face struct {
	geometry frontend.Geometry
	disk     disk
	options  Options
	pool     *pool
	queues   []*Queue
	loop     loopDevice

	resend atomic.Bool // the kernel has FUSE_NOTIFY_RESEND
	down   atomic.Bool // closed or abandoned

	tuned chan struct{} // closed when the loop device's queue has been set, or could not be

	endOnce sync.Once
	endErr  error
}

var _ frontend.Face = (*Face)(nil)

func newFace(g frontend.Geometry, opt Options) *Face {
	return &Face{
		geometry: g,
		disk: disk{
			size:     g.Size,
			logical:  int64(g.LogicalBlock),
			physical: int64(g.PhysicalBlock),
			maxWrite: maxWriteDefault,
		},
		options: opt,
		pool:    newPool(maxWriteDefault, opt.Memory, opt.CopyMemory),
		loop:    loopDevice{fd: -1},
		tuned:   make(chan struct{}),
	}
}

// begin is the end of Create and Adopt.
func (f *Face) begin() *Face {
	l := f.loop
	go func() {
		defer close(f.tuned)
		l.tune(f.options.Log, true)
	}()
	return f
}

// Queues are the streams of requests. From Create or Adopt on, each must be polled and
// served, or the device hangs.
func (f *Face) Queues() []frontend.Queue {
	queues := make([]frontend.Queue, len(f.queues))
	for i, q := range f.queues {
		queues[i] = q
	}
	return queues
}

// Device is the path of the block device.
func (f *Face) Device() string { return f.loop.path }

// Users tells how many others hold the device open or mounted, and who.
func (f *Face) Users() (int, []string) {
	var exclude []int
	if f.options.ExcludePids != nil {
		exclude = f.options.ExcludePids()
	}
	return users.Of(users.Device{Path: f.loop.path, Name: filepath.Base(f.loop.sysfs()), Rdev: f.loop.rdev, Sysfs: f.loop.sysfs()}, exclude)
}

// DeviceNumber is what st_rdev of the block device is.
func (f *Face) DeviceNumber() uint64 { return f.loop.rdev }

// CanBeAdopted tells whether this kernel lets a successor take the face over without
// errors after this process died (Linux 6.9). Where it does not, a crash of the process
// gives I/O errors.
func (f *Face) CanBeAdopted() bool { return f.resend.Load() }

// Descriptors are what a second process must hold for the face to survive this one, by
// names under which Adopt wants them: all of them, and no longer than this process has
// the face.
//
// In every process that holds them, the loop device's must have a lower number than
// those of /dev/fuse. The kernel closes the descriptors of a process that is killed from
// the highest down (task_work runs last in, first out). If the last holder closed the
// loop device first, that would write back what is in the page cache, through a FUSE
// connection that nobody serves but which is still open: the process could never end.
func (f *Face) Descriptors() map[string][]int {
	fds := map[string][]int{descriptorsLoop: {f.loop.fd}}
	for _, q := range f.queues {
		fds[descriptorsFuse] = append(fds[descriptorsFuse], q.fuse())
	}
	return fds
}

// counters of a queue.
type counters struct {
	received, answered, replyErrors, malformed, resent, starved atomic.Uint64
}

// Stats count since the face was created or adopted by this process.
type Stats struct {
	Received    uint64 `json:"received"`     // messages from the kernel, of all kinds
	Answered    uint64 `json:"answered"`     // answers that it took
	ReplyErrors uint64 `json:"reply_errors"` // answers that it refused
	Malformed   uint64 `json:"malformed"`    // messages that made no sense
	Resent      uint64 `json:"resent"`       // requests left by a predecessor
	Starved     uint64 `json:"starved"`      // times a queue waited for memory
	MemoryBytes int64  `json:"memory_bytes"` // mapped for payloads
}

// Stats are the counters of all queues.
func (f *Face) Stats() Stats {
	var s Stats
	for _, q := range f.queues {
		s.Received += q.stats.received.Load()
		s.Answered += q.stats.answered.Load()
		s.ReplyErrors += q.stats.replyErrors.Load()
		s.Malformed += q.stats.malformed.Load()
		s.Resent += q.stats.resent.Load()
		s.Starved += q.stats.starved.Load()
	}
	f.pool.mu.Lock()
	s.MemoryBytes = f.pool.bytes
	f.pool.mu.Unlock()
	return s
}
