package eventlog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
)

// Since returns the entries with numbers above seq, oldest first, at most limit of
// the newest (0: all that are kept). Old ones come from the files.
func (l *Log) Since(seq uint64, limit int) ([]Entry, error) {
	l.mu.Lock()
	ring := l.ring
	l.mu.Unlock()
	inRing := len(ring) > 0 && (ring[0].Seq <= seq+1 || limit > 0 && limit <= len(ring))
	out := after(ring, seq)
	if !inRing && len(ring) == ringEntries {
		var err error
		if out, err = l.sinceFiles(seq, ring); err != nil {
			return nil, err
		}
	}
	if limit > 0 && len(out) > limit {
		out = out[len(out)-limit:]
	}
	return append([]Entry(nil), out...), nil
}

// sinceFiles reads what is older than the ring from the files. Without the write
// lock a rotation could slip in between the two; entries are then found twice or in
// the ring, never lost, as the former file is read first and twice if it changed.
func (l *Log) sinceFiles(seq uint64, ring []Entry) ([]Entry, error) {
	l.writeMu.Lock()
	old, _, errOld := readFile(l.path+".1", seq)
	cur, _, errCur := readFile(l.path, seq)
	l.writeMu.Unlock()
	for _, err := range []error{errOld, errCur} {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read the event log: %w", err)
		}
	}
	out := append(old, cur...)
	n := sort.Search(len(out), func(i int) bool { return out[i].Seq >= ring[0].Seq })
	return append(out[:n:n], after(ring, seq)...), nil
}

// after is the part of an ordered list with numbers above seq.
func after(list []Entry, seq uint64) []Entry {
	return list[sort.Search(len(list), func(i int) bool { return list[i].Seq > seq }):]
}

// Batch is what a follower gets: Lost entries that it was too slow for, then Entries.
type Batch struct {
	Lost    uint64
	Entries []Entry
}

// Follower reads on from a position in the log. It belongs to one goroutine, holds
// no resource and needs no closing.
type Follower struct {
	log *Log
	seq uint64
}

// Follow begins after seq; with seq = LastSeq() it sees what is new only.
func (l *Log) Follow(seq uint64) *Follower { return &Follower{log: l, seq: seq} }

// Next waits for entries after those that it returned last, up to limit at a time.
// It ends with ErrClosed when the log is closed, or with ctx's error.
func (f *Follower) Next(ctx context.Context, limit int) (Batch, error) {
	if err := f.log.wait(ctx, f.seq); err != nil {
		return Batch{}, err
	}
	f.log.mu.Lock()
	ring := f.log.ring
	f.log.mu.Unlock()
	var b Batch
	if first := ring[0].Seq; first > f.seq+1 && len(ring) == ringEntries {
		b.Lost = first - f.seq - 1
	}
	rest := after(ring, f.seq)
	b.Entries = append(b.Entries, rest[:min(limit, len(rest))]...)
	f.seq = b.Entries[len(b.Entries)-1].Seq
	return b, nil
}

// readFile returns the entries above seq and the offset after the last whole one.
// Lines in the middle that are no event (rot) are passed over: the ones around them
// are worth having.
func readFile(path string, seq uint64) (entries []Entry, good int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, lineBytesMax)
	var off int64
	for {
		line, err := readLine(r)
		off += int64(len(line))
		if err == io.EOF {
			return entries, good, nil // an unfinished line is not counted as good
		}
		if err != nil {
			return entries, good, fmt.Errorf("%s at byte %d: %w", path, off, err)
		}
		var e Entry
		if json.Unmarshal(bytes.TrimSuffix(line, []byte("\n")), &e) != nil || e.Seq == 0 {
			continue
		}
		good = off
		if e.Seq > seq {
			entries = append(entries, e)
		}
	}
}

// readLine reads up to and with the newline. Longer lines than the buffer are rot;
// they come in parts that are no event by themselves.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		return line, nil
	}
	return line, err
}
