package eventlog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sort"
)

// Latest returns the newest entries, at most n (and at most what is kept in memory),
// oldest first.
func (l *Log) Latest(n int) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Entry(nil), l.ring[max(0, len(l.ring)-n):]...)
}

// Each calls f with the entries that have numbers above seq and were in the log when
// it was called, oldest first, until f returns an error, which is returned. Old ones
// are read from the files as f takes them: memory is bounded however many there are,
// and a slow f holds up nobody.
func (l *Log) Each(seq uint64, f func(Entry) error) error {
	files, ring, err := l.snapshot(seq)
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	if err != nil {
		return err
	}
	// Each number is passed on once, in rising order, wherever it is found.
	pass := func(e Entry) error {
		if e.Seq <= seq {
			return nil
		}
		seq = e.Seq
		return f(e)
	}
	for _, file := range files {
		if _, err := scan(file, pass); err != nil {
			return err
		}
	}
	for _, e := range after(ring, seq) {
		if err := pass(e); err != nil {
			return err
		}
	}
	return nil
}

// snapshot opens the files that are needed to read on from seq, and returns the ring
// that goes with them. The files stay the same ones when the log is rotated.
func (l *Log) snapshot(seq uint64) (files []*os.File, ring []Entry, err error) {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	l.mu.Lock()
	ring = l.ring
	l.mu.Unlock()
	if len(ring) < ringEntries || ring[0].Seq <= seq+1 {
		return nil, ring, nil // the ring has all of it
	}
	for _, path := range []string{l.path + ".1", l.path} {
		file, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return files, nil, fmt.Errorf("read the event log: %w", err)
		}
		files = append(files, file)
	}
	return files, ring, nil
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

// scan calls f with each entry of a file and returns the offset after the last whole
// one. Lines in between that are no event (rot) are passed over: the ones around them
// are worth having. An unfinished last line is not an entry.
func scan(file io.Reader, f func(Entry) error) (good int64, err error) {
	r := bufio.NewReaderSize(file, lineBytesMax)
	var off int64
	for {
		// A line longer than the buffer is rot; it comes in parts that are no event.
		line, err := r.ReadSlice('\n')
		off += int64(len(line))
		switch {
		case err == io.EOF:
			return good, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return good, fmt.Errorf("read the event log at byte %d: %w", off, err)
		}
		var e Entry
		if json.Unmarshal(line, &e) != nil || e.Seq == 0 {
			continue
		}
		good = off
		if err := f(e); err != nil {
			return good, err
		}
	}
}
