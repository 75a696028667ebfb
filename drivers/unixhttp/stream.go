package unixhttp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// lineTimeout is how long one batch of records may take to reach a reader before the
// reader is dropped.
const lineTimeout = 5 * time.Second

// Cursor is a place in a stream: everything up to Seq of that Instance has been seen.
// Numbers start anew in each process, so that a number means nothing without its
// instance. The zero Cursor is before everything.
type Cursor struct {
	Instance string
	Seq      uint64
}

// Item is one line of a stream: a record or a gap, with the cursor behind it.
type Item[T any] struct {
	Instance string `json:"instance"`
	Seq      uint64 `json:"seq"`
	// Record is nil in a gap and in the marker.
	Record *T `json:"record,omitempty"`
	// Gap says that records up to Seq are lost: the reader asked for older ones than
	// are kept, or was slower than they came. It must read the status anew.
	Gap bool `json:"gap,omitempty"`
	// Current marks the end of what had happened when the request came.
	Current bool `json:"current,omitempty"`
}

// Cursor is the place behind the item.
func (i Item[T]) Cursor() Cursor { return Cursor{i.Instance, i.Seq} }

// Stream keeps the last records, numbered, for any number of readers. Add never
// waits: a reader follows by number and is told of a gap when it was too slow.
type Stream[T any] struct {
	instance string

	mu     sync.Mutex
	ring   []T
	seqs   []uint64
	first  int // index of the oldest record
	n      int
	last   uint64
	wake   chan struct{} // closed and replaced at each Add
	closed bool
}

// NewStream keeps the last size records. instance tells this process's numbers from
// those of any other.
func NewStream[T any](instance string, size int) *Stream[T] {
	return &Stream[T]{instance: instance, ring: make([]T, size), seqs: make([]uint64, size), wake: make(chan struct{})}
}

// Add appends a record with its number, which must be greater than the last one.
func (s *Stream[T]) Add(seq uint64, rec T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := (s.first + s.n) % len(s.ring)
	if s.n == len(s.ring) {
		s.first = (s.first + 1) % len(s.ring)
	} else {
		s.n++
	}
	s.ring[i], s.seqs[i], s.last = rec, seq, seq
	close(s.wake)
	s.wake = make(chan struct{})
}

// Close ends all readers once they have read what there is.
func (s *Stream[T]) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.wake)
	}
}

// after returns the records behind seq, whether some between are lost, and what to
// wait on for more (nil: no more will come).
func (s *Stream[T]) after(seq uint64) (items []Item[T], wake chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n > 0 && seq+1 < s.seqs[s.first] {
		seq = s.seqs[s.first] - 1
		items = append(items, Item[T]{Instance: s.instance, Seq: seq, Gap: true})
	}
	for k := range s.n {
		i := (s.first + k) % len(s.ring)
		if s.seqs[i] > seq {
			rec := s.ring[i]
			items = append(items, Item[T]{Instance: s.instance, Seq: s.seqs[i], Record: &rec})
		}
	}
	if s.closed {
		return items, nil
	}
	return items, s.wake
}

// ServeHTTP writes the records behind ?since=N of ?instance=I as JSON lines, then a
// marker, and with ?follow=1 every further one as it comes.
func (s *Stream[T]) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var seq uint64
	if v := r.FormValue("since"); v != "" {
		var err error
		if seq, err = strconv.ParseUint(v, 10, 64); err != nil {
			WriteBadRequest(w, errors.New("since must be the number of a record"))
			return
		}
	}
	if inst := r.FormValue("instance"); inst != "" && inst != s.instance {
		seq = 0 // the numbers of another process
	}
	follow := r.FormValue("follow") == "1"
	w.Header().Set("Content-Type", "application/jsonl")
	rc, enc := http.NewResponseController(w), json.NewEncoder(w)
	for first := true; ; first = false {
		items, wake := s.after(seq)
		if n := len(items); n > 0 {
			seq = items[n-1].Seq
		}
		if first {
			items = append(items, Item[T]{Instance: s.instance, Seq: seq, Current: true})
		}
		if rc.SetWriteDeadline(time.Now().Add(lineTimeout)) != nil {
			return
		}
		for _, it := range items {
			if enc.Encode(it) != nil {
				return
			}
		}
		if rc.Flush() != nil || !follow || wake == nil {
			return
		}
		select {
		case <-wake:
		case <-r.Context().Done():
			return
		}
	}
}

// Follow reads a stream that ServeHTTP serves at path, from the cursor on.
func Follow[T any](ctx context.Context, c *Client, path string, from Cursor, follow bool, each func(Item[T]) error) error {
	q := url.Values{"since": {strconv.FormatUint(from.Seq, 10)}, "instance": {from.Instance}}
	if follow {
		q.Set("follow", "1")
	}
	return c.Lines(ctx, path+"?"+q.Encode(), func(line []byte) error {
		var it Item[T]
		if err := json.Unmarshal(line, &it); err != nil {
			return err
		}
		return each(it)
	})
}
