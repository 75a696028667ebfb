package backend

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/chipset/virtio"
)

// A disk takes requests and answers them from worker threads, in any order, as virtio-blk
// allows: a flush covers the writes that were answered before it was made. It is opened
// past the page cache where that goes, so that what was answered is where the device below
// has it, and its errors are those of the request at hand.
//
// Invariants:
//   - A request is answered exactly once, also on a disk that is being closed.
//   - The claim on the device lasts until the last request has ended, even if Close has
//     returned before that: nobody else may write while an old write is on its way.
//   - Nothing is allocated for a request, once there have been as many at once before.

const (
	// workers are for reads, writes and flushes; slowWorkers for what may take seconds.
	workers     = 16
	slowWorkers = 2
)

// DiskConfig is what a disk is opened with.
type DiskConfig struct {
	Path     string // of a block device or a regular file
	ReadOnly bool
}

// Disk is an open disk.
type Disk struct {
	cfg   DiskConfig
	media media
	pool  pool

	mu      sync.Mutex // guards the fields below
	fast    jobQueue
	slow    jobQueue
	free    *job
	outside int           // submitted and not answered
	since   time.Time     // outside has not been 0
	idle    chan struct{} // closed when outside becomes 0; nil if nobody waits
	closed  bool
	stats   DiskStats
}

// DiskStats count from the opening.
type DiskStats struct {
	Reads, Writes, Flushes, Discards uint64 // answered; Discards with zeroes written
	ReadBytes, WrittenBytes          uint64
	Errors                           uint64
	LastError                        string
	Outside                          int // requests under way now
}

// job is a request under way, or one that was and will be again.
type job struct {
	next    *job
	disk    *Disk
	op      virtio.Op
	unmap   bool
	stable  bool
	offset  int64
	length  int64
	buf     []byte // of the pool: what is written, or what was read
	done    func(*virtio.Completion, func())
	answer  virtio.Completion
	release func() // gives the job and its buffer back
}

// jobQueue is jobs in order, and what its workers wait for.
type jobQueue struct {
	first, last *job
	ready       *sync.Cond
}

func (q *jobQueue) put(j *job) {
	j.next = nil
	if q.first == nil {
		q.first = j
	} else {
		q.last.next = j
	}
	q.last = j
	q.ready.Signal()
}

func (q *jobQueue) take() *job {
	j := q.first
	q.first, j.next = j.next, nil
	return j
}

// OpenDisk opens and claims a disk, and starts its workers.
func OpenDisk(cfg DiskConfig) (*Disk, error) {
	m, err := openMedia(cfg.Path, cfg.ReadOnly)
	if err != nil {
		return nil, fmt.Errorf("open the disk %s: %w", cfg.Path, err)
	}
	d := &Disk{cfg: cfg, media: m}
	d.fast.ready = sync.NewCond(&d.mu)
	d.slow.ready = sync.NewCond(&d.mu)
	for range workers {
		go d.work(&d.fast)
	}
	for range slowWorkers {
		go d.work(&d.slow)
	}
	return d, nil
}

// Front is the virtio device for this disk, with a serial number of up to
// virtio.BlockSerialMax bytes.
func (d *Disk) Front(serial string) *virtio.BlockConfig {
	m := &d.media
	return &virtio.BlockConfig{
		Sectors: uint64(m.size) / virtio.SectorSize, ReadOnly: m.readOnly, Serial: serial,
		LogicalBlock: m.logical, PhysicalBlock: m.physical, OptimalIO: m.optimal,
		Discard: m.discard, WriteZeroes: true,
	}
}

// Size is in bytes, a multiple of the logical block.
func (d *Disk) Size() int64 { return d.media.size }

// Direct says whether I/O goes past the page cache.
func (d *Disk) Direct() bool { return d.media.direct }

// Stats are for people.
func (d *Disk) Stats() DiskStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.Outside = d.outside
	return s
}

// Submit takes a request; *r and r.Data are the caller's again when it returns. done is
// called once, on another goroutine, with the answer, which is its receiver's until release
// is called.
func (d *Disk) Submit(r *virtio.Request, done func(c *virtio.Completion, release func())) {
	j := d.job()
	j.op, j.unmap, j.stable, j.done = r.Op, r.Unmap, r.Stable, done
	j.offset, j.length = int64(r.Sector)*virtio.SectorSize, int64(r.Length)
	j.answer = virtio.Completion{ID: r.ID}
	q := &d.fast
	switch r.Op {
	case virtio.Read:
		j.buf = d.pool.take(int(r.Length))
	case virtio.Write:
		j.buf = d.pool.take(len(r.Data))
		copy(j.buf, r.Data)
	case virtio.Discard, virtio.WriteZeroes:
		q = &d.slow
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		j.answer.Status = virtio.IOError
		go done(&j.answer, j.release)
		return
	}
	if d.outside == 0 {
		d.since = time.Now()
	}
	d.outside++
	q.put(j)
}

// job is a free one, or another.
func (d *Disk) job() *job {
	d.mu.Lock()
	defer d.mu.Unlock()
	if j := d.free; j != nil {
		d.free, j.next = j.next, nil
		return j
	}
	j := &job{disk: d}
	j.release = j.giveBack
	return j
}

func (j *job) giveBack() {
	d := j.disk
	if j.buf != nil {
		d.pool.give(j.buf)
		j.buf = nil
	}
	j.done, j.answer = nil, virtio.Completion{}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free, j.next = j, d.free
}

// work does jobs of a queue until the disk is closed and nothing is left.
func (d *Disk) work(q *jobQueue) {
	for {
		d.mu.Lock()
		for q.first == nil && !d.closed {
			q.ready.Wait()
		}
		if q.first == nil {
			d.mu.Unlock()
			return
		}
		j := q.take()
		d.mu.Unlock()

		err := d.do(j)
		j.answer.Status = status(err)
		if j.op == virtio.Read && err == nil {
			j.answer.Data = j.buf
		}
		d.count(j, err)
		j.done(&j.answer, j.release)
		d.ended()
	}
}

// do is a job's I/O.
func (d *Disk) do(j *job) error {
	if j.buf == nil && (j.op == virtio.Read || j.op == virtio.Write) {
		return unix.ENOMEM
	}
	switch m := &d.media; j.op {
	case virtio.Read:
		return m.read(j.buf, j.offset)
	case virtio.Write:
		if err := m.write(j.buf, j.offset); err != nil || !j.stable {
			return err
		}
		return m.flush()
	case virtio.Flush:
		return m.flush()
	case virtio.Discard:
		return m.forget(j.offset, j.length)
	case virtio.WriteZeroes:
		return m.zero(j.offset, j.length, j.unmap)
	}
	return errNotSupported
}

func (d *Disk) count(j *job, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.stats
	switch j.op {
	case virtio.Read:
		s.Reads++
		s.ReadBytes += uint64(len(j.buf))
	case virtio.Write:
		s.Writes++
		s.WrittenBytes += uint64(len(j.buf))
	case virtio.Flush:
		s.Flushes++
	default:
		s.Discards++
	}
	if err != nil {
		s.Errors++
		s.LastError = fmt.Sprintf("%v of %d bytes at %d: %v", j.op, j.length, j.offset, err)
	}
}

// ended is after an answer.
func (d *Disk) ended() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.outside--; d.outside > 0 {
		return
	}
	if d.idle != nil {
		close(d.idle)
		d.idle = nil
	}
	if d.closed {
		d.media.close()
	}
}

// Drain waits until nothing is under way, that is until all done functions have returned.
// Its error says how much is and for how long.
func (d *Disk) Drain(timeout time.Duration) error {
	d.mu.Lock()
	if d.outside == 0 {
		d.mu.Unlock()
		return nil
	}
	if d.idle == nil {
		d.idle = make(chan struct{})
	}
	idle := d.idle
	d.mu.Unlock()
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-idle:
		return nil
	case <-t.C:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.outside == 0 {
		return nil
	}
	return fmt.Errorf("the disk %s has %d requests under way, and has been busy for %v: the device does not answer",
		d.cfg.Path, d.outside, time.Since(d.since).Round(time.Millisecond))
}

// Close ends the disk. Requests that are under way are answered still; the device is given
// up behind the last of them. Later ones are answered with an error.
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.fast.ready.Broadcast()
	d.slow.ready.Broadcast()
	if d.outside > 0 {
		return fmt.Errorf("close the disk %s: %d requests are under way; it is given up when they end", d.cfg.Path, d.outside)
	}
	return d.media.close()
}
