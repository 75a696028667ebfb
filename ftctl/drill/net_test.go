package drill

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

var localhost = netip.MustParseAddr("127.0.0.1")

// loopback is a face that answers itself.
var loopback = nicFace{device: "net0", face: "lo", addresses: []netip.Addr{localhost}, targets: []netip.Addr{localhost}}

func TestFaceAsItsDriverTells(t *testing.T) {
	st := statusOf(t, `"id": "net0", "kind": "nic",`, `"id": "net0", "kind": "nic", "stats": {"netns": "ft-box-1", "addresses": ["192.0.2.10/24", "2001:db8::10/64"], "probe": ["192.0.2.1"]},`)
	f := faceOf(st.Devices[2])
	if f.netns != "ft-box-1" || len(f.addresses) != 2 || len(f.targets) != 1 || f.targets[0].String() != "192.0.2.1" {
		t.Errorf("it is %+v", f)
	}
	if a, ok := f.address(netip.MustParseAddr("2001:db8::1")); !ok || a.String() != "2001:db8::10" {
		t.Errorf("to a neighbour's IPv6 address it speaks from %v", a)
	}
	if p := findPeer([]nicFace{f}, ""); p != "" {
		t.Errorf("the neighbour is %q, of which there is none", p)
	}
}

// The gap is from the last request that was answered to the next one that is; what nobody
// answers is counted when its time is over.
func TestEchoGaps(t *testing.T) {
	var track echoTrack
	now := time.Now()
	var late int64
	for i := range 2000 {
		n, l := track.ask(now.Add(time.Duration(i) * echoEvery))
		late += l
		gap := time.Duration(0)
		if n <= 100 || n > 150 { // 50 are lost
			gap = track.answer(n)
		}
		want := time.Duration(0)
		if n == 151 {
			want = 51 * echoEvery
		}
		if gap != want {
			t.Fatalf("at request %d the gap is %s, want %s", n, gap, want)
		}
	}
	if late != 50 {
		t.Errorf("%d are without an answer, it was 50", late)
	}
	if s := track.silence(now.Add(2000 * echoEvery)); s != 0 {
		t.Errorf("it is silent for %s", s)
	}
	if s := track.silence(now.Add(2000*echoEvery + time.Second)); s != 0 {
		t.Errorf("it is silent for %s while nobody asks", s)
	}
	track.ask(now.Add(2000 * echoEvery))
	if s := track.silence(now.Add(2000*echoEvery + time.Second)); s != time.Second {
		t.Errorf("it is silent for %s", s)
	}
}

func TestEchoLoad(t *testing.T) {
	l, err := newEchoLoad(loopback, localhost)
	if err != nil {
		t.Fatal(err)
	}
	if w := works(t, l, nil); w.Lost != 0 {
		t.Errorf("it is %+v", w)
	}
	f := loopback
	f.face = "no-such-face"
	if _, err := newEchoLoad(f, localhost); err == nil || !strings.Contains(err.Error(), "no-such-face") {
		t.Errorf("through an interface that is not there: %v", err)
	}
}

func TestTCPLoad(t *testing.T) {
	l, err := newTCPLoad(loopback, "", localhost, localhost)
	if err != nil {
		t.Fatal(err)
	}
	if w := works(t, l, nil); w.Lost != 0 || w.Bytes == 0 {
		t.Errorf("it is %+v", w)
	}
}

// A connection that breaks is an error, and what was under way is lost; there is another one.
func TestTCPLoadThatBreaks(t *testing.T) {
	l, err := newTCPLoad(loopback, "", localhost, localhost)
	if err != nil {
		t.Fatal(err)
	}
	first := l.first
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { l.Run(ctx) })
	var all Window
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			all.add(l.Window(time.Now()))
			if time.Now().After(deadline) {
				t.Fatalf("waited for %s: %+v", what, all)
			}
		}
	}
	until("bytes", func() bool { return all.Bytes > 2*tcpPiece })
	_ = first.near.SetLinger(0) // a reset
	first.near.Close()
	until("an error", func() bool { return all.Errors > 0 })
	had := all.Bytes
	until("another connection", func() bool { return all.Bytes > had+2*tcpPiece })
	cancel()
	run.Wait()
}

// guestService is the service of a test box's guest, or one that has gone wrong.
type guestService struct {
	mu       sync.Mutex
	requests int
	boot     string
	total    int
	files    map[string]string
}

func (g *guestService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case r.URL.Path == "/status":
		fmt.Fprintf(w, `{"boot_id": %q, "requests": %d, "complaints": {"total": %d, "lines": ["BUG: it hurts"]}}`, g.boot, g.requests, g.total)
	case r.URL.Path == "/":
		g.requests++
		fmt.Fprintf(w, "request %d\n", g.requests)
	case r.Method == http.MethodPut:
		b, _ := io.ReadAll(r.Body)
		g.files[r.URL.Path] = string(b)
	case r.Method == http.MethodDelete:
		delete(g.files, r.URL.Path)
	default:
		_, _ = io.WriteString(w, g.files[r.URL.Path])
	}
}

func (g *guestService) set(f func()) { g.mu.Lock(); defer g.mu.Unlock(); f() }

func TestGuestLoad(t *testing.T) {
	for name, c := range map[string]struct {
		wrong        func(*guestService)
		errors, lost int64
		says         string
	}{
		"in order":          {wrong: func(*guestService) {}},
		"started anew":      {wrong: func(g *guestService) { g.boot = "two" }, lost: 1, says: "started anew"},
		"counts back":       {wrong: func(g *guestService) { g.requests = 5 }, lost: 5, says: "counts request"},
		"its kernel is ill": {wrong: func(g *guestService) { g.total++ }, errors: 1, says: "BUG: it hurts"},
		"a file is old": {wrong: func(g *guestService) {
			for name := range g.files {
				g.files[name] = "old"
			}
		}, lost: 1, says: "is not what was stored"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := &guestService{requests: 10, boot: "one", files: map[string]string{}}
			server := httptest.NewServer(g)
			defer server.Close()
			l, err := newGuestLoad(context.Background(), "guest", server.URL, "", 1)
			if err != nil {
				t.Fatal(err)
			}
			ctx := context.Background()
			for file := range guestFiles {
				if err := l.put(ctx, file); err != nil {
					t.Fatal(err)
				}
			}
			l.Window(time.Now())
			g.set(func() { c.wrong(g) })
			stopped, cancel := context.WithCancel(ctx)
			cancel()
			l.Run(stopped) // looks at everything once more
			w := l.Window(time.Now())
			lost := c.lost
			if name == "a file is old" {
				lost = guestFiles
			}
			if w.Errors != c.errors || w.Lost != lost || !strings.Contains(w.LastErr, c.says) {
				t.Errorf("%d errors, %d lost: %s", w.Errors, w.Lost, w.LastErr)
			}
			if name == "in order" && len(g.files) > 0 {
				t.Errorf("files are left: %d", len(g.files))
			}
		})
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }))
	defer other.Close()
	if _, err := newGuestLoad(context.Background(), "guest", other.URL, "", 1); err != errStranger {
		t.Errorf("somebody else's service: %v", err)
	}
}

// A machine that nobody can ask is looked at.
func TestStepsLoad(t *testing.T) {
	b := newFakeBox(t)
	b.status.Devices[3].Stats = map[string]any{"boots": 1.0, "steps": 5.0}
	l := newStepsLoad(b, "guest")
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { l.Run(ctx) })
	set := func(boots, steps float64) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.status.Devices[3].Stats = map[string]any{"boots": boots, "steps": steps}
	}
	var all Window
	for i := 0; all.Lost == 0 && i < 100; i++ {
		boots := 1.0
		if all.Ops > 2 {
			boots = 2
		}
		set(boots, float64(i))
		time.Sleep(stepsEvery / 2)
		all.add(l.Window(time.Now()))
	}
	cancel()
	run.Wait()
	if all.Lost != 1 || !strings.Contains(all.LastErr, "guest was started anew") {
		t.Errorf("it is %+v", all)
	}
}
