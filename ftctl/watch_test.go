package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"ft/ftd/api"
)

// output is what a verb writes while it runs.
type output struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	got    chan struct{} // a write has happened
	broken error         // what every write fails with
}

func newOutput() *output { return &output{got: make(chan struct{}, 1)} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken != nil {
		return 0, o.broken
	}
	select {
	case o.got <- struct{}{}:
	default:
	}
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// until waits until what was written matches.
func (o *output) until(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(time.Minute)
	for !re.MatchString(o.String()) {
		select {
		case <-o.got:
		case <-deadline:
			t.Fatalf("no %q in\n%s", pattern, o)
		}
	}
}

// run starts ftctl in this process; end interrupts it and returns its exit code.
func run(t *testing.T, a *app, args ...string) (end func() int) {
	t.Helper()
	a.in = args
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() { code <- a.run(ctx) }()
	return func() int {
		cancel()
		select {
		case c := <-code:
			return c
		case <-time.After(time.Minute):
			t.Fatal("ftctl does not end when interrupted")
			return 0
		}
	}
}

func startBox(t *testing.T, names ...string) (b *box, socket string, stop func()) {
	t.Helper()
	dir := t.TempDir()
	b, err := newBox(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.load("testdata/boxes", names...); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "ftd.sock")
	if stop, err = b.start(socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); b.log.Close() })
	return b, socket, stop
}

func TestWatchPrintsAnewAtEachChange(t *testing.T) {
	_, socket, _ := startBox(t, "duplex", "simplex", "syncing")
	out := newOutput()
	end := run(t, &app{out: out, err: out}, "--socket", socket, "status", "--watch")
	out.until(t, `(?s)^box      DUPLEX .*\n\nbox      SIMPLEX .*\n\nbox      SYNCING .*faces .*\n$`)
	if code := end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("escapes where there is no terminal: %q", out)
	}
}

// With --json each status is a line, as ftd sent it.
func TestWatchInJSONIsADocumentALine(t *testing.T) {
	_, socket, _ := startBox(t, "duplex", "simplex", "syncing")
	out := newOutput()
	// A terminal makes no difference.
	end := run(t, &app{out: out, err: out, terminal: os.Stdin, colour: true}, "--socket", socket, "--json", "status", "--watch")
	out.until(t, `(?s)"state":"duplex".*\n.*"state":"simplex".*\n.*"state":"syncing".*\n$`)
	if code := end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for line := range strings.Lines(out.String()) {
		var st api.Status
		if err := json.Unmarshal([]byte(line), &st); err != nil || st.System.Name != "box" {
			t.Errorf("%v: %s", err, line)
		}
	}
}

func TestAFollowerWaitsOutARestartOfFtd(t *testing.T) {
	b, socket, stop := startBox(t, "duplex")
	out, errs := newOutput(), newOutput()
	add := func(reason string) {
		if _, err := b.log.Append(api.Event{ID: "disk0", Reason: reason}); err != nil {
			t.Fatal(err)
		}
	}
	add("first")
	end := run(t, &app{out: out, err: errs}, "--socket", socket, "events", "--follow")
	out.until(t, "first")
	add("second")
	out.until(t, "second")
	stop()
	errs.until(t, "ftd ended the event stream: it is stopping or was restarted; waiting for it")
	add("meanwhile")
	again, err := b.start(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer again()
	out.until(t, "meanwhile")
	add("later")
	out.until(t, "later")
	if code := end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for i, reason := range []string{"first", "second", "meanwhile", "later"} {
		if n := strings.Count(out.String(), reason); n != 1 {
			t.Errorf("event %d, %s, was shown %d times", i+1, reason, n)
		}
	}
}

func TestWaitOutlastsARestartOfFtd(t *testing.T) {
	b, socket, stop := startBox(t, "simplex")
	out, errs := newOutput(), newOutput()
	end := run(t, &app{out: out, err: errs}, "--socket", socket, "wait", "disk0", "--for", "duplex")
	b.waitAsked(t)
	stop()
	errs.until(t, "waiting for it")
	if err := b.load("testdata/boxes", "duplex"); err != nil {
		t.Fatal(err)
	}
	again, err := b.start(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer again()
	out.until(t, "^disk0 is duplex\n$")
	if code := end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A state that was over before it could be looked at was there all the same.
func TestWaitSeesAStateThatPassed(t *testing.T) {
	b, socket, _ := startBox(t, "simplex")
	out := newOutput()
	end := run(t, &app{out: out, err: out}, "--socket", socket, "wait", "pci1/disk0", "--for", "diagnostics")
	b.waitAsked(t)
	if _, err := b.log.Append(api.Event{ID: "pci1/disk0", From: "offline", To: "diagnostics"}, api.Event{ID: "pci1/disk0", From: "diagnostics", To: "shot"}); err != nil {
		t.Fatal(err)
	}
	out.until(t, "^pci1/disk0 is diagnostics\n$")
	end()
}

// waitAsked waits until ftctl has read a status.
func (b *box) waitAsked(t *testing.T) {
	t.Helper()
	select {
	case <-b.read:
	case <-time.After(time.Minute):
		t.Fatal("nobody asks for the status")
	}
}
