package backend

import "sync"

// frameQueue is frames on their way out: copied in without waiting, taken out by one
// goroutine, in order, each whole and in one piece. It allocates nothing.
type frameQueue struct {
	mu      sync.Mutex // guards the fields below
	more    *sync.Cond // there is a frame, or closed
	buf     []byte
	spans   []span // a ring, of frames in buf
	first   int    // the oldest, in spans
	count   int
	at      int // where the next frame goes in buf
	waiting bool
	closed  bool
}

// span is a frame's place.
type span struct{ from, to int }

func newFrameQueue(frames, bytes int) *frameQueue {
	q := &frameQueue{buf: make([]byte, bytes), spans: make([]span, frames)}
	q.more = sync.NewCond(&q.mu)
	return q
}

// put copies a frame in. False: there is no room.
func (q *frameQueue) put(frame []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	from, ok := q.place(len(frame))
	if !ok || q.closed {
		return false
	}
	copy(q.buf[from:], frame)
	q.at = from + len(frame)
	q.spans[(q.first+q.count)%len(q.spans)] = span{from, q.at}
	q.count++
	if q.waiting {
		q.waiting = false
		q.more.Signal()
	}
	return true
}

// place finds n bytes in one piece: behind the newest frame, or at the start of buf if that
// is free up to the oldest.
func (q *frameQueue) place(n int) (from int, ok bool) {
	switch oldest := q.spans[q.first].from; {
	case q.count == len(q.spans):
		return 0, false
	case q.count == 0:
		return 0, n <= len(q.buf)
	case q.at <= oldest: // it has gone around
		return q.at, n <= oldest-q.at
	case n <= len(q.buf)-q.at:
		return q.at, true
	default:
		return 0, n <= oldest
	}
}

// next waits for the oldest frame, which stays in place until drop. False: closed.
func (q *frameQueue) next() ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.count == 0 && !q.closed {
		q.waiting = true
		q.more.Wait()
	}
	if q.closed {
		return nil, false
	}
	s := q.spans[q.first]
	return q.buf[s.from:s.to], true
}

// drop ends the oldest frame.
func (q *frameQueue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.first = (q.first + 1) % len(q.spans)
	q.count--
}

func (q *frameQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.more.Broadcast()
}
