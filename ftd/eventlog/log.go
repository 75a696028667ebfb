// Package eventlog is the box's memory of what happened: an append-only file of
// JSON lines, numbered without a gap, that ftd writes and that people and programs
// read through the API.
//
// Invariants:
//
//  1. An entry's number is larger than that of every entry before it, also over
//     restarts of ftd.
//  2. When Append returns nil, its entries are on stable storage.
//  3. A disk that cannot be written does not silence the log: entries still reach
//     followers and the ring in memory, wait in a bounded backlog, and are written
//     as soon as it can be again.
//  4. A torn or rotten end (power lost in the middle of a write) is cut off at the
//     next start and said so; everything before it stays readable.
//  5. The space is bounded: two files of at most MaxBytes (and one Append more).
//  6. A reader can never hold up a writer. Readers have no queue of their own, only
//     a position; one that falls behind the ring in memory is told how many entries
//     it missed.
package eventlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ft/ftd/control"
)

// Entry is one event, one line of the file: the control core makes them.
type Entry = control.Entry

// Limits.
const (
	DefaultMaxBytes = 16 << 20 // of each of the two files
	ringEntries     = 1024     // newest entries kept in memory for followers
	backlogEntries  = 4096     // entries that wait for a disk that cannot be written
	lineBytesMax    = 64 << 10 // one entry
)

// FileName is the current file's name in the state directory; the former one has
// ".1" appended.
const FileName = "events.jsonl"

// Log is an open event log. Its methods may be called from any goroutine.
type Log struct {
	path     string
	maxBytes int64
	notes    []string

	writeMu sync.Mutex // held over file I/O; taken before mu
	file    *os.File
	size    int64
	backlog [][]byte // lines not yet on disk, oldest first
	dropped uint64   // lines that did not fit into the backlog

	mu    sync.Mutex
	last  uint64        // highest number given out
	ring  []Entry       // newest entries, oldest first
	grown chan struct{} // closed and replaced at each Append
	done  bool
}

// ErrClosed is returned after Close.
var ErrClosed = errors.New("the event log is closed")

// Open opens or makes the log in dir. maxBytes 0 means DefaultMaxBytes. The caller
// must be the only one who has it open (ftd's lock on its run directory sees to it).
func Open(dir string, maxBytes int64) (*Log, error) {
	if maxBytes <= 0 {
		maxBytes = DefaultMaxBytes
	}
	l := &Log{path: filepath.Join(dir, FileName), maxBytes: maxBytes, grown: make(chan struct{})}
	if err := l.load(); err != nil {
		return nil, err
	}
	return l, nil
}

// load opens the file, cuts a torn end, and fills the ring.
func (l *Log) load() error {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open the event log: %w", err)
	}
	if err := l.loadFormer(); err != nil {
		l.notes = append(l.notes, fmt.Sprintf("the former event log cannot be read and is left alone: %v", err))
	}
	good, err := scan(f, l.remember)
	if err != nil {
		f.Close()
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("read the event log: %w", err)
	}
	if st.Size() > good {
		if err := f.Truncate(good); err != nil {
			f.Close()
			return fmt.Errorf("cut the torn end of %s: %w", l.path, err)
		}
		l.notes = append(l.notes, fmt.Sprintf("%s ended in %d bytes that are no whole event, cut off (power was lost while it was written)", l.path, st.Size()-good))
	}
	if err := syncDir(l.path); err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, good
	return nil
}

// loadFormer reads the file before the last rotation. It is never written again, so
// its end needs no repair.
func (l *Log) loadFormer() error {
	f, err := os.Open(l.path + ".1")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = scan(f, l.remember)
	return err
}

// remember puts an entry from a file into the ring.
func (l *Log) remember(e Entry) error {
	if e.Seq > l.last {
		l.last = e.Seq
		l.keep(e)
	}
	return nil
}

// keep adds entries to the ring, which is bounded. Readers hold parts of it: what is
// in it is never changed, append moves it to a new array now and then.
func (l *Log) keep(entries ...Entry) {
	l.ring = append(l.ring, entries...)
	l.ring = l.ring[max(0, len(l.ring)-ringEntries):]
}

// Notes says in words what Open had to repair.
func (l *Log) Notes() []string { return l.notes }

// LastSeq is the highest number in use.
func (l *Log) LastSeq() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Append adds entries and returns them as written once they are on stable storage.
// An entry with Seq 0 gets the next number; a number of the caller's must be larger
// than all before, else nothing is appended. A zero Time becomes the present one.
// After any other error the entries are in the log (invariant 3) but not durable.
func (l *Log) Append(entries ...Entry) ([]Entry, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	out, lines, err := l.number(entries)
	if err != nil {
		return nil, err
	}
	l.backlog = append(l.backlog, lines...)
	if n := len(l.backlog) - backlogEntries; n > 0 {
		l.backlog = append([][]byte(nil), l.backlog[n:]...)
		l.dropped += uint64(n)
	}
	werr := l.writeBacklog()
	l.publish(out)
	return out, werr
}

// number gives numbers and times, and encodes. writeMu is held, so nobody else can
// raise last in between.
func (l *Log) number(entries []Entry) ([]Entry, [][]byte, error) {
	l.mu.Lock()
	last, done := l.last, l.done
	l.mu.Unlock()
	if done {
		return nil, nil, ErrClosed
	}
	out := append([]Entry(nil), entries...)
	lines := make([][]byte, len(out))
	for i := range out {
		e := &out[i]
		if e.Seq == 0 {
			e.Seq = last + 1
		}
		if e.Seq <= last {
			return nil, nil, fmt.Errorf("event %d of %s: its number is not above %d, the last one", e.Seq, e.ID, last)
		}
		last = e.Seq
		if e.Time.IsZero() {
			e.Time = time.Now()
		}
		if e.Severity == "" {
			e.Severity = control.Info
		}
		b, err := json.Marshal(*e)
		if err != nil {
			return nil, nil, err
		}
		if len(b) >= lineBytesMax {
			// Only Extra can be that long; an event without it is worth more than none.
			e.Extra = map[string]any{"extra_dropped_bytes": len(b)}
			e.Reason = e.Reason[:min(len(e.Reason), lineBytesMax/8)]
			if b, err = json.Marshal(*e); err != nil {
				return nil, nil, err
			}
		}
		lines[i] = append(b, '\n')
	}
	return out, lines, nil
}

// publish makes entries visible to readers and wakes them.
func (l *Log) publish(entries []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = entries[len(entries)-1].Seq
	l.keep(entries...)
	close(l.grown)
	l.grown = make(chan struct{})
}

// writeBacklog writes all waiting lines in one write, so that a crash tears at most
// the end, and makes them durable.
func (l *Log) writeBacklog() error {
	if l.size >= l.maxBytes {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	b := bytes.Join(l.backlog, nil)
	n, err := l.file.Write(b)
	if err == nil {
		err = unix.Fdatasync(int(l.file.Fd()))
	}
	if err != nil {
		// What was written in part is taken back, so that a later attempt does not
		// repeat it after a torn line.
		if terr := l.file.Truncate(l.size); terr != nil && n > 0 {
			err = errors.Join(err, terr)
		}
		return fmt.Errorf("write %d events to %s (they are kept in memory and tried again): %w", len(l.backlog), l.path, err)
	}
	l.size += int64(n)
	l.backlog = nil
	return nil
}

// rotate makes the current file the former one and begins a new one.
func (l *Log) rotate() error {
	if err := os.Rename(l.path, l.path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("rotate the event log: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("rotate the event log: %w", err)
	}
	l.file.Close()
	l.file, l.size = f, 0
	return syncDir(l.path)
}

// Close ends the log and wakes all followers. What could not be written is lost,
// and said in the error.
func (l *Log) Close() error {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	l.mu.Lock()
	was := l.done
	l.done = true
	if !was {
		close(l.grown)
	}
	l.mu.Unlock()
	if was {
		return nil
	}
	var err error
	if len(l.backlog) > 0 {
		err = l.writeBacklog()
	}
	if l.dropped > 0 {
		err = errors.Join(err, fmt.Errorf("%d events never reached %s: it could not be written for too long", l.dropped, l.path))
	}
	return errors.Join(err, l.file.Close())
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("make the event log's directory durable: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("make the event log's directory durable: %w", err)
	}
	return nil
}

// wait blocks until there is an entry above seq, or the log or ctx has ended.
func (l *Log) wait(ctx context.Context, seq uint64) error {
	for {
		l.mu.Lock()
		last, grown, done := l.last, l.grown, l.done
		l.mu.Unlock()
		switch {
		case last > seq:
			return nil
		case done:
			return ErrClosed
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
