package fuseloop

// The memory that payloads lie in, shared by the queues of a face.
//
// Invariants:
//   - Every buffer is aligned to 4096 bytes and lies outside the Go heap, so that leg
//     I/O may refer to it for as long as the kernel likes.
//   - A buffer has one owner: the pool, a queue (the frame it reads into), or a request
//     (or internal copy) from when it is handed out until it is freed.
//   - Memory is mapped when it is first needed, a little at a time, and kept: a process
//     that takes over a disk does not first fault in what it may never use, and one
//     that has reached its steady state maps nothing more.
//   - What requests hold and what copies hold is bounded, each by itself: copies (a
//     resync) cannot starve the face, nor the face them.
//   - A queue that finds no frame is told so and is resumed by whoever frees memory.
//     No queue waits for memory that nobody holds: each keeps a frame, and gives it
//     away only to a request that brings it back.

import (
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

const alignment = 4096

// class is a size of buffers.
type class uint8

const (
	class4K class = iota
	class16K
	class64K
	classFrame // room for the largest request and, in the page before it, its headers
	classes
)

// smallMax is the largest payload of a WRITE that is copied out of its frame. Larger
// ones take the frame along.
const smallMax = 64 << 10

// mapBytes is how much of a small class is mapped at a time.
const mapBytes = 256 << 10

// buffer is memory of one class. data begins on a page.
type buffer struct {
	whole []byte // what was mapped for it
	data  []byte // the part that payloads lie in
	class class
}

// frame is the part that a message is read into: its payload, if it is a WRITE, comes
// to lie at the start of data.
func (b *buffer) frame() []byte { return b.whole[alignment-writeHead:] }

// budget bounds what one kind of owner holds.
type budget struct {
	limit int64 // bytes
	used  int64 // bytes
}

type pool struct {
	frameBytes int // payload of a frame

	mu       sync.Mutex
	free     [classes][]*buffer
	mapped   [][]byte
	bytes    int64 // mapped, for Stats
	requests budget
	copies   budget
	starved  []*Queue // not polled until there may be a frame
	closed   bool
}

func newPool(maxWrite int, requests, copies int64) *pool {
	return &pool{
		frameBytes: maxWrite,
		requests:   budget{limit: requests},
		copies:     budget{limit: copies},
	}
}

func (p *pool) size(c class) int {
	switch c {
	case class4K:
		return 4 << 10
	case class16K:
		return 16 << 10
	case class64K:
		return smallMax
	default:
		return p.frameBytes
	}
}

// classFor is the smallest class that holds n bytes, n at most frameBytes.
func (p *pool) classFor(n int) class {
	switch {
	case n <= 4<<10:
		return class4K
	case n <= 16<<10:
		return class16K
	case n <= smallMax:
		return class64K
	default:
		return classFrame
	}
}

// get takes a buffer on a budget; nil when the budget or the machine's memory is used
// up.
func (p *pool) get(c class, b *budget) *buffer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.getLocked(c, b)
}

func (p *pool) getLocked(c class, b *budget) *buffer {
	size := int64(p.size(c))
	if p.closed || b.used+size > b.limit {
		return nil
	}
	if len(p.free[c]) == 0 && !p.mapLocked(c) {
		return nil
	}
	last := len(p.free[c]) - 1
	buf := p.free[c][last]
	p.free[c] = p.free[c][:last]
	b.used += size
	return buf
}

// mapLocked adds buffers to a class. It reports failure.
func (p *pool) mapLocked(c class) bool {
	stride, length := p.size(c), mapBytes
	if c == classFrame {
		stride += alignment
		length = stride
	}
	mem, err := unix.Mmap(-1, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return false
	}
	p.mapped = append(p.mapped, mem)
	p.bytes += int64(length)
	for at := 0; at+stride <= length; at += stride {
		whole := mem[at : at+stride : at+stride]
		buf := &buffer{whole: whole, data: whole, class: c}
		if c == classFrame {
			buf.data = whole[alignment:]
		}
		p.free[c] = append(p.free[c], buf)
	}
	return true
}

// put gives a buffer back and resumes starved queues if there may be a frame for them.
func (p *pool) put(buf *buffer, b *budget) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b.used -= int64(p.size(buf.class))
	p.free[buf.class] = append(p.free[buf.class], buf)
	if len(p.starved) > 0 && p.requests.used+int64(p.frameBytes) <= p.requests.limit {
		for _, q := range p.starved {
			q.listen(true)
		}
		p.starved = p.starved[:0]
	}
	p.unmapIfDoneLocked()
}

// frameOrStarve takes a frame for q, or stops q from being polled until there may be
// one. Both under the pool's lock, so that no resumption is lost.
func (p *pool) frameOrStarve(q *Queue) *buffer {
	p.mu.Lock()
	defer p.mu.Unlock()
	buf := p.getLocked(classFrame, &p.requests)
	if buf == nil && !p.closed && !slices.Contains(p.starved, q) {
		p.starved = append(p.starved, q)
		q.listen(false)
	}
	return buf
}

// close lets the memory go as soon as nobody holds any.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.starved = true, nil
	p.unmapIfDoneLocked()
}

func (p *pool) unmapIfDoneLocked() {
	if !p.closed || p.requests.used != 0 || p.copies.used != 0 {
		return
	}
	p.free = [classes][]*buffer{}
	for _, mem := range p.mapped {
		_ = unix.Munmap(mem) // fails only for a range that was never mapped
	}
	p.mapped, p.bytes = nil, 0
}
