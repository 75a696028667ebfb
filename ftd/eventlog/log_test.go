package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func open(t *testing.T, dir string, maxBytes int64) *Log {
	t.Helper()
	l, err := Open(dir, maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func add(t *testing.T, l *Log, reasons ...string) {
	t.Helper()
	for _, r := range reasons {
		if _, err := l.Append(Entry{ID: "disk0", Reason: r}); err != nil {
			t.Fatal(err)
		}
	}
}

// text is entries in short: "1:a 2:b".
func text(entries []Entry) string {
	var parts []string
	for _, e := range entries {
		parts = append(parts, fmt.Sprintf("%d:%s", e.Seq, e.Reason))
	}
	return strings.Join(parts, " ")
}

// since reads all entries above seq.
func since(t *testing.T, l *Log, seq uint64) []Entry {
	t.Helper()
	var out []Entry
	if err := l.Each(seq, func(e Entry) error { out = append(out, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestNumbersGoOnOverRestarts(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, 0)
	add(t, l, "a", "b")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, 0)
	add(t, l, "c")
	if got := text(since(t, l, 0)); got != "1:a 2:b 3:c" {
		t.Error(got)
	}
	if got := text(since(t, l, 1)); got != "2:b 3:c" {
		t.Error(got)
	}
	if got := text(l.Latest(1)); got != "3:c" {
		t.Error(got)
	}
	if n := l.Notes(); len(n) > 0 {
		t.Errorf("a clean log was repaired: %v", n)
	}
}

func TestTheCallersNumbersMustRise(t *testing.T) {
	l := open(t, t.TempDir(), 0)
	if _, err := l.Append(Entry{Seq: 7, Reason: "a"}, Entry{Seq: 8, Reason: "b"}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(Entry{Seq: 9, Reason: "c"}, Entry{Seq: 9, Reason: "d"}); err == nil {
		t.Error("a number was taken twice")
	}
	add(t, l, "e")
	if got := text(since(t, l, 0)); got != "7:a 8:b 9:e" {
		t.Error(got)
	}
}

// Power is lost after any byte of the last write: everything before it is there, the
// torn part is cut off and said, and the log goes on.
func TestATornEndIsCutOffAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, 0)
	add(t, l, "a", "b")
	path := filepath.Join(dir, FileName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	add(t, l, "c")
	longer, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for n := len(whole); n < len(longer); n++ {
		for _, tail := range [][]byte{longer[:n], append(bytes.Clone(longer[:n]), make([]byte, 4096)...)} {
			if err := os.WriteFile(path, tail, 0o640); err != nil {
				t.Fatal(err)
			}
			l, err := Open(dir, 0)
			if err != nil {
				t.Fatal(err)
			}
			if torn := len(tail) > len(whole); torn != (len(l.Notes()) == 1) {
				t.Fatalf("cut at %d of %d: notes %v", n, len(longer), l.Notes())
			}
			add(t, l, "d")
			if got := text(since(t, l, 0)); got != "1:a 2:b 3:d" {
				t.Fatalf("cut at %d: %s", n, got)
			}
			l.Close()
			l, err = Open(dir, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := text(since(t, l, 0)); got != "1:a 2:b 3:d" || len(l.Notes()) > 0 {
				t.Fatalf("cut at %d, opened again: %s %v", n, got, l.Notes())
			}
			l.Close()
		}
	}
}

func TestRotInTheMiddleHidesOnlyItself(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, 0)
	add(t, l, "a", "b", "c")
	l.Close()
	path := filepath.Join(dir, FileName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	lines[1] = append(bytes.Repeat([]byte{0xff}, 2*lineBytesMax), '\n')
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o640); err != nil {
		t.Fatal(err)
	}
	if got := text(since(t, open(t, dir, 0), 0)); got != "1:a 3:c" {
		t.Error(got)
	}
}

func TestTheSpaceIsBounded(t *testing.T) {
	dir := t.TempDir()
	const maxBytes = 8 << 10
	l := open(t, dir, maxBytes)
	batch := make([]Entry, 100)
	for range 40 {
		if _, err := l.Append(batch...); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{FileName, FileName + ".1"} {
			if st, err := os.Stat(filepath.Join(dir, name)); err == nil && st.Size() > maxBytes+100*200 {
				t.Fatalf("%s has %d bytes", name, st.Size())
			}
		}
	}
	l.Close()
	l = open(t, dir, maxBytes)
	if got := l.LastSeq(); got != 4000 {
		t.Errorf("last number %d", got)
	}
	e := since(t, l, 0)
	if len(e) == 0 || e[0].Seq == 1 || e[len(e)-1].Seq != 4000 {
		t.Errorf("%d entries are left", len(e))
	}
	for i := range e[1:] {
		if e[i+1].Seq != e[i].Seq+1 {
			t.Fatalf("after %d comes %d", e[i].Seq, e[i+1].Seq)
		}
	}
}

func TestOldEntriesComeFromTheFiles(t *testing.T) {
	l := open(t, t.TempDir(), 64<<10)
	if _, err := l.Append(make([]Entry, ringEntries+200)...); err != nil {
		t.Fatal(err)
	}
	e := since(t, l, 100)
	if len(e) != ringEntries+100 || e[0].Seq != 101 {
		t.Errorf("%d entries from %d on", len(e), e[0].Seq)
	}
}

// A full disk: Append says so, followers hear it all the same, and what waited is
// written when there is room again.
func TestADiskThatCannotBeWrittenIsWaitedOut(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, 0)
	add(t, l, "a")
	good := l.file
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	l.file = full
	if _, err := l.Append(Entry{Reason: "b"}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("on a full disk: %v", err)
	}
	if got := text(since(t, l, 0)); got != "1:a 2:b" {
		t.Error(got)
	}
	l.file = good
	add(t, l, "c")
	l.Close()
	if got := text(since(t, open(t, dir, 0), 0)); got != "1:a 2:b 3:c" {
		t.Errorf("on disk: %s", got)
	}
}

func TestAFollowerSeesAllInOrderWhileOthersAppend(t *testing.T) {
	l := open(t, t.TempDir(), 0)
	const writers, each = 4, 20
	var wg sync.WaitGroup
	f := l.Follow(0)
	for w := range writers {
		wg.Go(func() {
			for range each {
				if _, err := l.Append(Entry{ID: fmt.Sprint(w)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for next := uint64(1); next <= writers*each; {
		b, err := f.Next(ctx, 7)
		if err != nil {
			t.Fatal(err)
		}
		if b.Lost != 0 || len(b.Entries) == 0 || len(b.Entries) > 7 {
			t.Fatalf("%d lost, %d entries", b.Lost, len(b.Entries))
		}
		for _, e := range b.Entries {
			if e.Seq != next {
				t.Fatalf("%d instead of %d", e.Seq, next)
			}
			next++
		}
	}
	wg.Wait()
}

func TestASlowFollowerIsToldWhatItMissed(t *testing.T) {
	l := open(t, t.TempDir(), 0)
	add(t, l, "a")
	f := l.Follow(l.LastSeq())
	if _, err := l.Append(make([]Entry, ringEntries+10)...); err != nil {
		t.Fatal(err)
	}
	b, err := f.Next(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	if b.Lost != 10 || len(b.Entries) != 5 || b.Entries[0].Seq != 12 {
		t.Errorf("lost %d, then from %d on", b.Lost, b.Entries[0].Seq)
	}
}

func TestAFollowerEndsWithTheLogAndWithItsContext(t *testing.T) {
	l := open(t, t.TempDir(), 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Follow(0).Next(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("with its context: %v", err)
	}
	ended := make(chan error)
	go func() { _, err := l.Follow(0).Next(t.Context(), 1); ended <- err }()
	l.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the follower hangs on a closed log")
	}
	if _, err := l.Append(Entry{}); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
}

func TestAnEntryThatIsTooLongLosesItsDetailsOnly(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, 0)
	e := Entry{ID: "disk0", Reason: "r", Extra: map[string]any{"stack": strings.Repeat("x", 2*lineBytesMax)}}
	if _, err := l.Append(e); err != nil {
		t.Fatal(err)
	}
	l.Close()
	got := since(t, open(t, dir, 0), 0)
	if len(got) != 1 || got[0].Reason != "r" || got[0].Extra["extra_dropped_bytes"] == nil {
		t.Error(got)
	}
}

// Appends of any sizes, restarts, torn ends: what was acknowledged is there, in
// order, and nothing else; a model list is the oracle.
func TestTheLogIsAListThatSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "eventlog")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		l, err := Open(dir, 2<<10)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { l.Close() }()
		var model []string
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				n := rapid.IntRange(1, 20).Draw(t, "entries")
				batch := make([]Entry, n)
				for i := range batch {
					batch[i].Reason = rapid.StringN(0, 30, 60).Draw(t, "reason")
					model = append(model, batch[i].Reason)
				}
				if _, err := l.Append(batch...); err != nil {
					t.Fatal(err)
				}
			},
			"restart": func(t *rapid.T) {
				l.Close()
				if torn := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "torn"); len(torn) > 0 {
					f, err := os.OpenFile(filepath.Join(dir, FileName), os.O_WRONLY|os.O_APPEND, 0)
					if err != nil {
						t.Fatal(err)
					}
					f.Write(torn)
					f.Close()
				}
				if l, err = Open(dir, 2<<10); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				if l.LastSeq() != uint64(len(model)) {
					t.Fatalf("last number %d of %d", l.LastSeq(), len(model))
				}
				var got []Entry
				if err := l.Each(0, func(e Entry) error { got = append(got, e); return nil }); err != nil {
					t.Fatal(err)
				}
				if len(model) > 0 && len(got) == 0 {
					t.Fatal("all is gone")
				}
				for i, e := range got {
					if want := model[len(model)-len(got)+i]; e.Seq != uint64(len(model)-len(got)+i+1) || strings.ToValidUTF8(want, "\ufffd") != e.Reason {
						t.Fatalf("entry %d is %d:%q, want %q", i, e.Seq, e.Reason, want)
					}
				}
			},
		})
	})
}
