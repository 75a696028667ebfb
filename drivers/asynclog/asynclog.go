// Package asynclog is a log sink that never blocks its caller. A driver that waited
// for its log could wait for the very device that it serves: a journal or a log file
// may lie on it. Lines go through a bounded queue to one goroutine; what does not fit
// is dropped, counted, and the count is written when there is room again.
package asynclog

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// queueMax is how many lines wait; lineMax how long one may be, in bytes.
const (
	queueMax = 1024
	lineMax  = 16 << 10
)

// Writer is the sink. Each Write is one line.
type Writer struct {
	sink   io.Writer
	lines  chan []byte
	drops  atomic.Uint64
	closed chan struct{}
	once   sync.Once
	done   chan struct{}
}

// New starts a writer to sink. Close ends it.
func New(sink io.Writer) *Writer {
	w := &Writer{sink: sink, lines: make(chan []byte, queueMax), closed: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// Write queues a line, or drops it. It always succeeds.
func (w *Writer) Write(p []byte) (int, error) {
	n := len(p)
	if n > lineMax {
		p = append(append([]byte(nil), p[:lineMax]...), " …\n"...)
	} else {
		p = append([]byte(nil), p...)
	}
	select {
	case <-w.closed: // looked at alone first: with room in the queue as well, either could win
		w.drops.Add(1)
		return n, nil
	default:
	}
	select {
	case w.lines <- p:
	default:
		w.drops.Add(1)
	}
	return n, nil
}

// Drops counts the lines that were lost.
func (w *Writer) Drops() uint64 { return w.drops.Load() }

// Close writes out what is queued, for at most limit; a sink that hangs is left to
// its goroutine.
func (w *Writer) Close(limit time.Duration) {
	w.once.Do(func() { close(w.closed) })
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-w.done:
	case <-t.C:
	}
}

func (w *Writer) run() {
	defer close(w.done)
	var told uint64
	put := func(line []byte) {
		if d := w.drops.Load(); d != told {
			fmt.Fprintf(w.sink, "level=WARN msg=\"%d log lines were dropped\"\n", d-told)
			told = d
		}
		_, _ = w.sink.Write(line) // nowhere to say it
	}
	for {
		select {
		case line := <-w.lines:
			put(line)
		case <-w.closed:
			for {
				select {
				case line := <-w.lines:
					put(line)
				default:
					return
				}
			}
		}
	}
}
