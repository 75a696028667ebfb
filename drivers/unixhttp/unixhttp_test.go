package unixhttp

import (
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

	"ft/drivers"
)

const limit = time.Minute

// serve serves h on a private socket and returns its path.
func serve(t *testing.T, path string, h http.Handler) net.Listener {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(h, slog.New(slog.DiscardHandler), func(p any) { t.Errorf("a handler panicked: %v", p) })
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return l
}

func TestErrorsKeepTheirKind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	m := http.NewServeMux()
	m.HandleFunc("/refused", func(w http.ResponseWriter, _ *http.Request) {
		WriteError(w, fmt.Errorf("attach: %w", drivers.Refuse(drivers.RuleBusy, "disk0 is in use")))
	})
	m.HandleFunc("/failed", func(w http.ResponseWriter, _ *http.Request) { WriteError(w, errors.New("open /dev/x: gone")) })
	m.HandleFunc("/missing", func(w http.ResponseWriter, _ *http.Request) { WriteNotFound(w, errors.New("no disk9")) })
	m.HandleFunc("/fine", func(w http.ResponseWriter, r *http.Request) {
		var in map[string]string
		if err := Read(w, r, &in); err != nil {
			WriteBadRequest(w, err)
			return
		}
		Write(w, in)
	})
	serve(t, path, m)
	c := NewClient(path, "driver disk0")

	var refused *drivers.Refused
	if err := c.Do(t.Context(), "POST", "/refused", nil, nil); !errors.As(err, &refused) || refused.Code != drivers.RuleBusy || refused.Sentence != "disk0 is in use" {
		t.Errorf("a refusal came back as %#v", err)
	}
	if err := c.Do(t.Context(), "POST", "/failed", nil, nil); err == nil || errors.As(err, &refused) && refused.Code == "" || err.Error() != "driver disk0: open /dev/x: gone" {
		t.Errorf("a failure came back as %v", err)
	}
	if err := c.Do(t.Context(), "GET", "/missing", nil, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("not found came back as %v", err)
	}
	var out map[string]string
	if err := c.Do(t.Context(), "POST", "/fine", map[string]string{"a": "b"}, &out); err != nil || out["a"] != "b" {
		t.Errorf("got %v, %v", out, err)
	}
	if err := c.Do(t.Context(), "POST", "/fine", "not an object", nil); err == nil || !strings.Contains(err.Error(), "/fine") {
		t.Errorf("a bad request was answered with %v", err)
	}
	if err := c.Do(t.Context(), "POST", "/fine", map[string]string{"a": strings.Repeat("x", maxBody)}, nil); err == nil {
		t.Error("a body above the limit was taken")
	}
	if err := NewClient(path+"x", "keeper").Do(t.Context(), "GET", "/fine", nil, nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody listens, and the error is %v", err)
	}
}

func TestSuccessorTakesThePathOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	name := func(n string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { Write(w, n) })
	}
	first := serve(t, path, name("first"))
	serve(t, path, name("second")) // while the first still listens
	who := func() (s string) {
		if err := NewClient(path, "x").Do(t.Context(), "GET", "/", nil, &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if got := who(); got != "second" {
		t.Errorf("the path leads to the %s listener", got)
	}
	first.Close()
	if got := who(); got != "second" {
		t.Errorf("the end of the first listener took the path away: %s", got)
	}
}

func TestLongPathsWork(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("d", 100), "x.sock")
	l := serve(t, path, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { Write(w, "here") }))
	var s string
	if err := NewClient(path, "x").Do(t.Context(), "GET", "/", nil, &s); err != nil || s != "here" {
		t.Errorf("%q, %v", s, err)
	}
	l.Close()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left after Close")
	}
}

// read collects a stream until it ends or n items came.
func read(t *testing.T, c *Client, from Cursor, follow bool, n int) (items []Item[int]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	enough := errors.New("enough")
	err := Follow(ctx, c, "/", from, follow, func(i Item[int]) error {
		items = append(items, i)
		if len(items) == n {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		t.Fatalf("after %d items: %v", len(items), err)
	}
	return items
}

// brief writes a stream as a line: numbers, "gap" and "|" for the marker.
func brief(items []Item[int]) string {
	var s []string
	for _, i := range items {
		switch {
		case i.Gap:
			s = append(s, fmt.Sprintf("gap..%d", i.Seq))
		case i.Current:
			s = append(s, "|")
		default:
			s = append(s, fmt.Sprint(*i.Record))
		}
	}
	return strings.Join(s, " ")
}

func TestStreamTellsOfGapsAndInstances(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	s := NewStream[int]("a", 4)
	serve(t, path, s)
	c := NewClient(path, "x")
	check := func(from Cursor, want string) {
		t.Helper()
		if got := brief(read(t, c, from, false, 0)); got != want {
			t.Errorf("from %+v: %q, want %q", from, got, want)
		}
	}
	check(Cursor{}, "|")
	for i := 1; i <= 3; i++ {
		s.Add(uint64(i), i)
	}
	check(Cursor{}, "1 2 3 |")
	check(Cursor{"a", 2}, "3 |")
	check(Cursor{"a", 3}, "|")
	check(Cursor{"another process", 2}, "1 2 3 |")
	for i := 4; i <= 10; i++ {
		s.Add(uint64(i), i)
	}
	check(Cursor{"a", 3}, "gap..6 7 8 9 10 |")
	check(Cursor{"a", 6}, "7 8 9 10 |")
	check(Cursor{"another process", 99}, "gap..6 7 8 9 10 |")

	go func() { s.Add(11, 11); s.Add(12, 12); s.Close() }()
	if got := strings.ReplaceAll(brief(read(t, c, Cursor{"a", 9}, true, 0)), "| ", ""); got != "10 11 12" && got != "10 11 12 |" {
		t.Errorf("followed: %q", got)
	}
}

func TestSlowReaderIsDroppedAndHoldsNobodyUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	s := NewStream[string]("a", 16)
	ended := make(chan struct{})
	serve(t, path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ServeHTTP(w, r)
		close(ended)
	}))
	// A reader that asks and never reads.
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "GET /?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", 100_000)
	began := time.Now()
	var slowest time.Duration
	seq := uint64(0)
	for dropped := false; !dropped; {
		seq++
		t0 := time.Now()
		s.Add(seq, text)
		slowest = max(slowest, time.Since(t0))
		select {
		case <-ended:
			dropped = true
		case <-time.After(5 * time.Millisecond):
		}
		if time.Since(began) > limit {
			t.Fatal("a reader that never reads is not dropped")
		}
	}
	if slowest >= limit {
		t.Errorf("it held up Add for %v", slowest)
	}
}
