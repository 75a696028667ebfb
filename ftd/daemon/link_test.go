package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"ft/drivers"
	"ft/drivers/host"
	"ft/drivers/unixhttp"
	"ft/ftd/control"
)

// fakeDriver listens at sock in the place of whoever did so before, and answers as the
// driver process pid: its events never end.
func fakeDriver(t *testing.T, sock string, pid int) {
	t.Helper()
	_ = os.Remove(sock)
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	m := http.NewServeMux()
	m.Handle("GET /events", unixhttp.NewStream[drivers.Event](strconv.Itoa(pid), 1))
	m.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		unixhttp.Write(w, drivers.Status{Pid: pid})
	})
	s := &http.Server{Handler: m}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
}

// TestLinkToAProcessThatHasASuccessor: a driver that was killed while a leg hangs keeps
// its socket and its connections, and says nothing any more. ftd must turn to its
// successor when that is there, and not believe the last words of the dead one.
func TestLinkToAProcessThatHasASuccessor(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "d.sock")
	events := make(chan control.Event, 100)
	d := &device{log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), up: func() {}, client: host.Dial(sock),
		post: func(_ context.Context, ev control.Event) error { events <- ev; return nil }}
	heard := func(what string, is func(control.Event) bool) {
		t.Helper()
		for limit := time.After(time.Minute); ; {
			select {
			case ev := <-events:
				if is(ev) {
					return
				}
			case <-limit:
				t.Fatal("the core is not told: " + what)
			}
		}
	}
	connected := func(ev control.Event) bool { _, is := ev.(control.DriverConnected); return is }
	lost := func(ev control.Event) bool { _, is := ev.(control.DriverLost); return is }

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); d.runLink(ctx) }()
	defer func() { cancel(); <-done }()

	fakeDriver(t, sock, 111)
	heard("connected", connected)
	fakeDriver(t, sock, 222)
	d.peer.started(222) // as the keeper says
	heard("the old one is gone", lost)
	heard("connected to the successor", connected)

	d.peer.started(222) // that is the one
	select {
	case <-time.After(100 * time.Millisecond):
	case ev := <-events:
		if lost(ev) {
			t.Fatalf("the link to the process that runs was cut: %v", ev)
		}
	}

	// A socket of a dead process takes connections, and never answers.
	_ = os.Remove(sock)
	dead, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	defer dead.Close()
	d.peer.started(333)
	heard("the second one is gone", lost)
	c, err := dead.Accept() // ftd has turned to it
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fakeDriver(t, sock, 333)
	heard("connected to the third", connected)
}
