package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"ft/drivers/journal"
	"ft/ftd/control"
	"ft/ftd/eventlog"
)

// recorder writes what must be on stable storage, one step after the other: the step's
// log entries, then the core's state. Only when both are there do the gates open and
// the answers go out, so that nobody has been told what a crash would forget.
type recorder struct {
	stateDir string
	events   *eventlog.Log
	log      *slog.Logger
	jobs     chan job
	post     func(context.Context, control.Event) error

	mu      sync.Mutex
	waiting map[string]chan control.Answer // by request
}

// job is what one step wants written, and the answers that wait for it.
type job struct {
	entries []control.Entry
	persist []persistJob
	answers []heldAnswer
	served  []string // disks that have been up, nil for no change
}

type persistJob struct {
	id    uint64
	state *control.Persistent
	gate  *gate
}

type heldAnswer struct {
	control.Answer
	gate *gate
}

func (j job) empty() bool { return len(j.entries)+len(j.persist)+len(j.answers)+len(j.served) == 0 }

// jobsMax bounds the steps that wait for a slow disk.
const jobsMax = 256

func newRecorder(stateDir string, events *eventlog.Log, log *slog.Logger) *recorder {
	return &recorder{stateDir: stateDir, events: events, log: log,
		jobs: make(chan job, jobsMax), waiting: map[string]chan control.Answer{}}
}

// add queues a job without waiting; false when the queue is full.
func (r *recorder) add(j job) bool {
	select {
	case r.jobs <- j:
		return true
	default:
		return false
	}
}

// run writes until ctx ends, and then what is still queued.
func (r *recorder) run(ctx context.Context) {
	for {
		select {
		case j := <-r.jobs:
			r.write(ctx, j)
		case <-ctx.Done():
			for {
				select {
				case j := <-r.jobs:
					r.write(ctx, j)
				default:
					return
				}
			}
		}
	}
}

func (r *recorder) write(ctx context.Context, j job) {
	for _, e := range j.entries {
		logEntry(ctx, r.log, e)
	}
	if _, err := r.events.Append(j.entries...); err != nil {
		r.log.Error("the event log", "error", err)
	}
	for _, p := range j.persist {
		res := control.ActionResult{ID: p.id, Outcome: control.OK}
		if err := saveState(r.stateDir, *p.state); err != nil {
			r.log.Error("save the state", "error", err)
			res.Outcome, res.Sentence = control.Failed, err.Error()
		}
		p.gate.settle(res.Outcome == control.OK)
		_ = r.post(ctx, res) // fails only when ftd stops: nobody waits any more
	}
	if len(j.served) > 0 {
		if err := saveServed(r.stateDir, j.served); err != nil {
			r.log.Error("remember which disks have been up", "error", err)
		}
	}
	r.answer(j.answers)
}

// levels of the log by severity of an entry.
var levels = map[control.Severity]slog.Level{
	control.Warning: slog.LevelWarn, control.Error: slog.LevelError, control.Critical: journal.LevelCritical,
}

// logEntry writes an entry of the event log to the log as well: a sentence for people, and
// the fields that drivers/journal makes of attributes.
func logEntry(ctx context.Context, log *slog.Logger, e control.Entry) {
	text := fmt.Sprintf("%s: %s → %s", e.ID, e.From, e.To)
	if e.From == e.To {
		text = fmt.Sprintf("%s: %s", e.ID, e.To)
	}
	if e.Reason != "" {
		text += ", " + e.Reason
	}
	attrs := []slog.Attr{slog.String("component", e.ID), slog.Uint64("seq", e.Seq),
		slog.String("from", e.From), slog.String("to", e.To), slog.String("reason", e.Reason)}
	for _, k := range slices.Sorted(maps.Keys(e.Extra)) {
		attrs = append(attrs, slog.Any(k, e.Extra[k]))
	}
	log.LogAttrs(ctx, levels[e.Severity], text, attrs...)
}

// answer gives answers to those who wait for them. A gate that is not settled here
// belongs to a later job, which cannot be: its persist action would come after it.
func (r *recorder) answer(as []heldAnswer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range as {
		select {
		case <-a.gate.settled:
		default:
			continue
		}
		if w := r.waiting[a.Request]; w != nil && a.gate.ok {
			w <- a.Answer // has room for the two that a request gets
			if a.Final() {
				delete(r.waiting, a.Request)
			}
		}
	}
}

// expect makes a place for the answers to a request; forget gives it up.
func (r *recorder) expect(request string) <-chan control.Answer {
	w := make(chan control.Answer, 2)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting[request] = w
	return w
}

func (r *recorder) forget(request string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, request)
}

// StateName is the core's state in the state directory.
const StateName = "control.json"

// saveState writes the core's state so that after a crash it is the old or the new one
// whole, and is on stable storage when it returns.
func saveState(dir string, state control.Persistent) error {
	b, err := json.MarshalIndent(state, "", " ")
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	return replaceFile(filepath.Join(dir, StateName), append(b, '\n'))
}

func saveServed(dir string, names []string) error {
	sort.Strings(names)
	b, err := json.Marshal(names)
	if err != nil {
		return fmt.Errorf("encode the list of disks: %w", err)
	}
	return replaceFile(filepath.Join(dir, servedName), append(b, '\n'))
}

// loadState reads it. One that makes no sense is set aside under another name and
// said so: the box serves without it (only what an admin said is forgotten), and a
// person can look at it. One of a newer version is refused.
func loadState(dir string) (state control.Persistent, note string, err error) {
	path := filepath.Join(dir, StateName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return control.Persistent{Version: control.PersistentVersion}, "", nil
	}
	if err != nil {
		return state, "", fmt.Errorf("read the state: %w", err)
	}
	if uerr := json.Unmarshal(b, &state); uerr != nil {
		aside := fmt.Sprintf("%s.bad-%s", path, time.Now().UTC().Format("20060102T150405Z"))
		if err := os.Rename(path, aside); err != nil {
			return control.Persistent{}, "", fmt.Errorf("%s makes no sense (%v) and cannot be set aside: %w", path, uerr, err)
		}
		return control.Persistent{Version: control.PersistentVersion},
			fmt.Sprintf("%s makes no sense (%v) and was set aside as %s: sides that were taken out by hand come in again", path, uerr, aside), nil
	}
	if state.Version > control.PersistentVersion {
		return state, "", fmt.Errorf("%s was written by a newer ftd (format %d, this one knows %d): run that one, or move the file away and take out again by hand what shall be out", path, state.Version, control.PersistentVersion)
	}
	return state, "", nil
}

// replaceFile replaces a file durably: new contents to stable storage under another
// name, rename, directory to stable storage.
func replaceFile(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // after the rename there is nothing of that name
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("make %s durable: %w", path, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("make %s durable: %w", path, err)
	}
	return nil
}
