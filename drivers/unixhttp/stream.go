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
	size     int

	mu     sync.Mutex
	ring   []numbered[T] // grows to size, so that a new process need not allocate it
	first  int           // index of the oldest record, 0 while ring grows
	wake   chan struct{} // closed and replaced at each Add
	closed bool
}

type numbered[T any] struct {
	seq uint64
	rec T
}

// NewStream keeps the last size records. instance tells this process's numbers from
// those of any other.
func NewStream[T any](instance string, size int) *Stream[T] {
	return &Stream[T]{instance: instance, size: size, wake: make(chan struct{})}
}

// Add appends a record with its number, which must be greater than the last one.
func (s *Stream[T]) Add(seq uint64, rec T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ring) < s.size {
		s.ring = append(s.ring, numbered[T]{seq, rec})
	} else {
		s.ring[s.first] = numbered[T]{seq, rec}
		s.first = (s.first + 1) % s.size
	}
	if s.closed {
		return
	}
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
	if len(s.ring) > 0 && seq+1 < s.ring[s.first].seq {
		seq = s.ring[s.first].seq - 1
		items = append(items, Item[T]{Instance: s.instance, Seq: seq, Gap: true})
	}
	for k := range s.ring {
		if r := s.ring[(s.first+k)%len(s.ring)]; r.seq > seq {
			items = append(items, Item[T]{Instance: s.instance, Seq: r.seq, Record: &r.rec})
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
