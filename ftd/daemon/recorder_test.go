package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ft/ftd/control"
	"ft/ftd/eventlog"
)

// testRecorder is a recorder over a directory, whose results for the core are kept.
func testRecorder(t *testing.T, dir string) (*recorder, *[]control.Event) {
	t.Helper()
	events, err := eventlog.Open(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { events.Close() })
	r := newRecorder(dir, events, slog.New(slog.DiscardHandler))
	var posted []control.Event
	r.post = func(_ context.Context, ev control.Event) error { posted = append(posted, ev); return nil }
	return r, &posted
}

func entry(seq uint64) control.Entry {
	return control.Entry{Seq: seq, Time: time.Unix(int64(seq), 0), ID: "disk0", Severity: control.Info}
}

func state(who string) *control.Persistent {
	return &control.Persistent{Version: control.PersistentVersion,
		Targets: map[string]control.Target{"pci1/disk0": {Direction: control.Out, By: control.ByAdmin, Who: who}}}
}

// An answer goes out when the entry and the state that it rests on are on disk.
func TestAnswersFollowWhatTheyRestOn(t *testing.T) {
	dir := t.TempDir()
	r, posted := testRecorder(t, dir)
	answers := r.expect("r1")
	g := newGate()
	r.write(context.Background(), job{
		entries: []control.Entry{entry(1)},
		persist: []persistJob{{id: 7, state: state("root"), gate: g}},
		answers: []heldAnswer{{control.Answer{Request: "r1", Status: control.AnswerDone, Sentence: "done"}, g}},
	})
	if !g.wait(context.Background()) {
		t.Error("the gate stays shut although the state is saved")
	}
	if diff := cmp.Diff([]control.Event{control.ActionResult{ID: 7, Outcome: control.OK}}, *posted); diff != "" {
		t.Error(diff)
	}
	select {
	case a := <-answers:
		if a.Sentence != "done" {
			t.Errorf("answer %+v", a)
		}
	default:
		t.Error("no answer")
	}
	if r.events.LastSeq() != 1 {
		t.Error("the entry is not in the event log")
	}
	got, note, err := loadState(dir)
	if err != nil || note != "" || got.Targets["pci1/disk0"].Who != "root" {
		t.Errorf("loaded %+v, %q, %v", got, note, err)
	}
}

// What rests on a state that could not be saved is dropped: action and answer alike.
func TestNothingRestsOnAStateThatIsNotSaved(t *testing.T) {
	r, posted := testRecorder(t, filepath.Join(t.TempDir(), "gone"))
	answers := r.expect("r1")
	g := newGate()
	r.write(context.Background(), job{
		persist: []persistJob{{id: 7, state: state("root"), gate: g}},
		answers: []heldAnswer{{control.Answer{Request: "r1", Status: control.AnswerDone}, g}},
	})
	if g.wait(context.Background()) {
		t.Error("the gate opens although the state is not saved")
	}
	if len(*posted) != 1 || (*posted)[0].(control.ActionResult).Outcome != control.Failed {
		t.Errorf("the core was told %+v", *posted)
	}
	select {
	case a := <-answers:
		t.Errorf("answered %+v", a)
	default:
	}

	carried := make(chan control.Action, 1)
	d := &device{queue: make(chan queued, 2), log: slog.New(slog.DiscardHandler),
		post: func(_ context.Context, ev control.Event) error {
			carried <- control.Action{ID: ev.(control.ActionResult).ID}
			return nil
		}}
	d.enqueue(control.Action{ID: 8, Kind: control.ActionStop}, g)
	d.enqueue(control.Action{ID: 9, Kind: "nonsense", Device: "disk0"}, openGate)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); d.runActions(ctx) }()
	await(t, "the queue to be empty", func() bool { return len(d.queue) == 0 })
	cancel()
	<-ended
	if len(carried) != 0 {
		t.Errorf("the action %d was carried out", (<-carried).ID)
	}
}

func TestLoadState(t *testing.T) {
	for _, c := range []struct {
		name, text string
		note       string // part of it
		err        string // part of it
	}{
		{"none", "", "", ""},
		{"whole", `{"version":1,"targets":{}}`, "", ""},
		{"torn", `{"version":1,"targ`, "set aside", ""},
		{"newer", `{"version":99}`, "", "newer ftd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.text != "" {
				if err := os.WriteFile(filepath.Join(dir, StateName), []byte(c.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, note, err := loadState(dir)
			if !strings.Contains(note, c.note) || (c.note == "") != (note == "") {
				t.Errorf("note %q, want %q", note, c.note)
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			aside, _ := filepath.Glob(filepath.Join(dir, StateName+".bad-*"))
			if (c.note != "") != (len(aside) == 1) {
				t.Errorf("set aside: %v", aside)
			}
		})
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
