package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var discardLog = slog.New(slog.DiscardHandler)

// answer is a ResponseWriter that keeps what is written.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// line is a stream item in short.
func line(i StreamItem) string {
	if i.Event != nil {
		return fmt.Sprintf("%d:%s", i.Event.Seq, i.Event.Reason)
	}
	return fmt.Sprintf("%s@%d-%d", i.Marker.Marker, i.Marker.Seq, i.Marker.Lost)
}

func add(t *testing.T, f *fake, reasons ...string) {
	t.Helper()
	for _, r := range reasons {
		if _, err := f.log.Append(Event{ID: "disk0", Reason: r}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheStreamIsThePastThenAMarkerThenLive(t *testing.T) {
	f := newFake(t)
	socket, stop := serve(t, f, testGroups)
	c := NewClient(socket)
	defer c.Close()
	add(t, f, "a", "b")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	read := func(q EventsQuery) string {
		t.Helper()
		var got []string
		if err := c.Events(ctx, q, func(i StreamItem) error { got = append(got, line(i)); return nil }); err != nil {
			t.Fatal(err)
		}
		return strings.Join(got, " ")
	}
	one, far := uint64(1), uint64(99)
	if got := read(EventsQuery{}); got != "1:a 2:b live@2-0" {
		t.Error(got)
	}
	if got := read(EventsQuery{Since: &one}); got != "2:b live@2-0" {
		t.Error(got)
	}
	if got := read(EventsQuery{Since: &far}); got != "live@2-0" {
		t.Errorf("a number from another log: %s", got)
	}

	var got []string
	enough := errors.New("enough")
	err := c.Events(ctx, EventsQuery{Since: &one, Follow: true}, func(i StreamItem) error {
		got = append(got, line(i))
		switch {
		case i.Marker != nil:
			add(t, f, "c")
		case i.Event.Reason == "c":
			add(t, f, "d")
		case i.Event.Reason == "d":
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || strings.Join(got, " ") != "2:b live@2-0 3:c 4:d" {
		t.Errorf("%v, %v", got, err)
	}

	err = c.Events(ctx, EventsQuery{Follow: true}, func(i StreamItem) error {
		if i.Marker != nil {
			go stop()
		}
		return nil
	})
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeUnreachable {
		t.Errorf("ftd stops under a follower: %v", err)
	}
}

// A reader that does not read must not hold up the log, and others go on.
func TestAReaderThatDoesNotReadHoldsUpNobody(t *testing.T) {
	f := newFake(t)
	socket, _ := serve(t, f, testGroups)
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "GET /v1/events?follow=1 HTTP/1.1\r\nHost: ftd\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := NewClient(socket)
	defer c.Close()
	const batches, each = 30, 100
	long := strings.Repeat("x", 2000)
	var last, lost uint64
	begun := false
	err = c.Events(ctx, EventsQuery{Follow: true}, func(i StreamItem) error {
		if i.Marker != nil {
			lost += i.Marker.Lost
			if !begun {
				begun = true
				for range batches {
					batch := make([]Event, each)
					for n := range batch {
						batch[n].Reason = long
					}
					if _, err := f.log.Append(batch...); err != nil {
						return err
					}
				}
			}
			return nil
		}
		if last = i.Event.Seq; last == batches*each {
			return context.Canceled
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("after event %d: %v", last, err)
	}
	if lost == 0 {
		t.Error("3000 events at once, more than are kept for followers, and none was said to be lost")
	}
}

func TestASecondFtdIsKeptOff(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, LockName)
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	lock, err := LockRunDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Nobody else may open it, for whoever can, can hold the lock in ftd's place.
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the lock file: %v, %v", st.Mode(), err)
	}
	_, err = LockRunDir(dir)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d) runs on %s already", os.Getpid(), dir)) {
		t.Errorf("the second: %v", err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	lock, err = LockRunDir(dir)
	if err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	lock.Release()
}

func TestTheSocketOfADeadFtdIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ftd.sock")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o666 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("beside a living one: %v", err)
	}
	first.SetUnlinkOnClose(false) // as after kill -9
	first.Close()
	second, err := Listen(path)
	if err != nil {
		t.Fatalf("after a dead one: %v", err)
	}
	second.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over somebody's file: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file is gone")
	}
}
