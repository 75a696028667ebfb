package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ft/drivers"
	"ft/ftd/api"
	"ft/ftd/eventlog"
)

var update = flag.Bool("update", false, "write what ftctl says into the scripts instead of comparing")

// The clock of all tests: boxes in testdata changed their states at 03:04:05.
var testNow = time.Date(2026, 1, 2, 3, 4, 17, 0, time.UTC)

// testLater is how much later it is, in nanoseconds.
var testLater atomic.Int64

func TestMain(m *testing.M) {
	now = func() time.Time { return testNow.Add(time.Duration(testLater.Load())) }
	time.Local = time.UTC
	testscript.Main(m, map[string]func(){"ftctl": main})
}

// box is a Backend that shows one status after the other: it goes on to the next when
// a status has been read, and when a change is accepted.
type box struct {
	log  *eventlog.Log
	read chan struct{} // gets one when the status has been read, if there is room

	mu      sync.Mutex
	present api.Status
	next    []api.Status
	refusal error
	asked   []api.Change
	console func() (net.Conn, error)
}

func (b *box) Status() api.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.present
	st.System.Seq = b.log.LastSeq()
	b.advance()
	select {
	case b.read <- struct{}{}:
	default:
	}
	return st
}

// advance is called with mu held. What changes is always an event.
func (b *box) advance() {
	if len(b.next) == 0 {
		return
	}
	was := b.present.System
	b.present, b.next = b.next[0], b.next[1:]
	_, err := b.log.Append(api.Event{ID: was.Name, Time: testNow, From: was.State.String(), To: b.present.System.State.String(), Reason: b.present.System.Verdict})
	if err != nil {
		panic(err)
	}
}

func (b *box) Detail(_ context.Context, id string) map[string]any {
	if id != "disk0" {
		return nil
	}
	return map[string]any{"process": map[string]any{"state": "running", "rss_bytes": 5 << 20}, "generations": []string{"4 (5c1f)", "3 (77aa)"}}
}

func (b *box) Change(_ context.Context, c api.Change) (api.Outcome, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, c)
	if b.refusal != nil {
		return api.Outcome{}, b.refusal
	}
	b.advance()
	return api.Outcome{Text: c.ID + ": diagnostics, then syncing", Seq: b.log.LastSeq()}, nil
}

// FaultHistories has those of the box named histories: pci1 stands for all of them.
func (b *box) FaultHistories(id string) (found []api.FaultHistory, ok bool) {
	text, err := os.ReadFile("testdata/boxes/histories.json")
	if err != nil {
		panic(err)
	}
	var all []api.FaultHistory
	if err := json.Unmarshal(text, &all); err != nil {
		panic(err)
	}
	for _, h := range all {
		if id == h.ID || id == api.ModuleOf(h.ID) {
			found = append(found, h)
		}
	}
	return found, len(found) > 0
}

func (b *box) Events() *eventlog.Log { return b.log }

func (b *box) Others(context.Context) (*api.Version, []string) { return nil, nil }

func (b *box) Console(context.Context, string) (net.Conn, error) {
	b.mu.Lock()
	open := b.console
	b.mu.Unlock()
	if open == nil {
		return nil, drivers.Refuse(drivers.RuleState, "guest has no console now, for its driver process does not run (guest is off: stopped by an admin (root))")
	}
	return open()
}

// load puts named boxes of testdata in a row.
func (b *box) load(dir string, names ...string) error {
	var row []api.Status
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(dir, name+".json"))
		if err != nil {
			return err
		}
		var st api.Status
		if err := json.Unmarshal(text, &st); err != nil {
			return err
		}
		row = append(row, st)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.present, b.next = row[0], row[1:]
	return nil
}

// start serves the box on a socket; stop ends that.
func (b *box) start(socket string) (stop func(), err error) {
	ln, err := api.Listen(socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := api.NewServer(b, api.Version{Version: "v1.2.3", Go: "go1.26", Pid: 42, Since: testNow.Add(-time.Hour)}, slog.New(slog.DiscardHandler))
	go func() { ended <- s.Serve(ctx, ln) }()
	return sync.OnceFunc(func() { cancel(); <-ended }), nil
}

func newBox(dir string) (*box, error) {
	log, err := eventlog.Open(dir, 0)
	return &box{log: log, read: make(chan struct{}, 1)}, err
}

// boxKey finds a script's box; scripts see $WORK/ftd.sock.
type boxKey struct{}

type running struct {
	*box
	stop  func()
	boxes string
}

func TestScripts(t *testing.T) {
	boxes, err := filepath.Abs("testdata/boxes")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			b, err := newBox(env.WorkDir)
			if err != nil {
				return err
			}
			stop, err := b.start(filepath.Join(env.WorkDir, "ftd.sock"))
			if err != nil {
				return err
			}
			env.Defer(func() { stop(); b.log.Close() })
			env.Values[boxKey{}] = &running{b, stop, boxes}
			return b.load(boxes, "duplex")
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exits CODE COMMAND …
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				code := 0
				var e *exec.ExitError
				if errors.As(err, &e) {
					code = e.ExitCode()
				} else {
					ts.Check(err)
				}
				if fmt.Sprint(code) != args[0] {
					ts.Fatalf("%v exits %d, want %s", args[1:], code, args[0])
				}
			},
			// box NAME [NEXT …]
			"box": func(ts *testscript.TestScript, _ bool, args []string) {
				r := ts.Value(boxKey{}).(*running)
				ts.Check(r.load(r.boxes, args...))
			},
			// refuse CODE SENTENCE: the answer to every change from now
			"refuse": func(ts *testscript.TestScript, _ bool, args []string) {
				b := ts.Value(boxKey{}).(*running)
				b.mu.Lock()
				defer b.mu.Unlock()
				b.refusal = drivers.Refuse(args[0], "%s", args[1])
			},
			// event JSON
			"event": func(ts *testscript.TestScript, _ bool, args []string) {
				var e api.Event
				ts.Check(json.Unmarshal([]byte(args[0]), &e))
				_, err := ts.Value(boxKey{}).(*running).log.Append(e)
				ts.Check(err)
			},
			// asked FILE: what changes ftd was asked for, one a line
			"asked": func(ts *testscript.TestScript, _ bool, args []string) {
				b := ts.Value(boxKey{}).(*running)
				b.mu.Lock()
				defer b.mu.Unlock()
				var lines strings.Builder
				for _, c := range b.asked {
					text, err := json.Marshal(c)
					ts.Check(err)
					lines.WriteString(strings.TrimSpace(string(c.Verb)+" "+c.ID+" by "+c.By+" "+string(text)) + "\n")
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(lines.String()), 0o644))
			},
			// stop-ftd
			"stop-ftd": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Value(boxKey{}).(*running).stop()
			},
		},
	})
}
