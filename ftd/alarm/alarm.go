// Package alarm tells people what needs them: it follows the box's event log and passes what
// is grave enough to a program of the admin's (the hook) and to syslog.
//
//	event log ─▶ Follower ─▶ grave enough? ─▶ syslog, hook ─▶ cursor in the state directory
//
// Invariants:
//   - The log is the queue: a hook that is slow or fails holds nothing up but the next alarm,
//     and nothing is dropped because ftd was restarted. Each alarm is passed on at least once.
//   - What is old is not shouted: alarms from before lateMax are passed over, and counted.
//   - One hook runs at a time, for hookMax at the longest, and then goes with all its children.
//   - When the box is duplex again after an alarm, that is told as well: the all-clear.
package alarm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ft/drivers"
	"ft/ftd/control"
	"ft/ftd/eventlog"
)

// Limits.
const (
	hookMax   = 30 * time.Second
	lateMax   = time.Hour // an alarm that is older when its turn comes is not passed on any more
	batchMax  = 64        // entries looked at at a time
	outputMax = 4 << 10   // bytes of a hook's output that are kept for the log
)

// tries are the pauses before each try to pass an alarm on.
var tries = [...]time.Duration{0, 5 * time.Second, 30 * time.Second}

// Settings are the table [alarms].
type Settings struct {
	Hook     string           // an executable's path, "" for none
	Syslog   bool             // to the local syslog daemon, at /dev/log
	Severity control.Severity // from which on an event is an alarm
}

// cursorName is the file in the state directory that says up to where alarms were passed on.
const cursorName = "alarms.json"

// cursor is what is remembered.
type cursor struct {
	Seq    uint64 `json:"seq"`    // of the last event that was dealt with
	Raised bool   `json:"raised"` // an alarm was passed on, and no all-clear since
}

// Alarms passes them on.
type Alarms struct {
	Box      string        // the box's name, whose own entries tell of the all-clear
	StateDir string        //
	Events   *eventlog.Log //
	Log      *slog.Logger  //
	DevLog   string        // syslog's socket; "" is /dev/log
	now      func() time.Time
	pause    func(context.Context, time.Duration) bool // false when ctx ended

	mu       sync.Mutex
	settings Settings
}

// Set takes other settings, from the next alarm on.
func (a *Alarms) Set(s Settings) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settings = s
}

func (a *Alarms) get() Settings {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.settings
}

// Run passes alarms on until ctx ends or the log is closed.
func (a *Alarms) Run(ctx context.Context) {
	if a.now == nil {
		a.now = time.Now
	}
	if a.pause == nil {
		a.pause = sleep
	}
	at := a.load()
	follower := a.Events.Follow(at.Seq)
	for {
		batch, err := follower.Next(ctx, batchMax)
		if err != nil {
			return
		}
		if batch.Lost > 0 {
			a.Log.Warn("alarms: events went by too fast or too long ago to be looked at", "events", batch.Lost)
		}
		late := 0
		tellLate := func() {
			if late > 0 {
				a.Log.Warn("alarms: some were older than an hour when their turn came, and were not passed on", "alarms", late)
			}
		}
		for i := range batch.Entries {
			e := &batch.Entries[i]
			raise := rank(a.weight(e)) >= rank(a.get().Severity)
			clear := at.Raised && e.ID == a.Box && (e.From != e.To || e.Extra["found"] == true) && e.To == drivers.FaceDuplex.String()
			switch {
			case !raise && !clear:
				continue
			case a.now().Sub(e.Time) > lateMax:
				late++
			case !a.pass(ctx, e, raise):
				tellLate()
				return // ctx ended in the middle: the next one begins with this one
			default:
				at.Raised = raise
			}
			at.Seq = e.Seq
			a.save(at)
		}
		tellLate()
	}
}

// pass passes one on, with several tries. It returns false when ctx ended meanwhile.
func (a *Alarms) pass(ctx context.Context, e *eventlog.Entry, raise bool) bool {
	s := a.get()
	if s.Syslog {
		if err := a.toSyslog(e, raise); err != nil {
			a.Log.Warn("an alarm did not reach syslog", "seq", e.Seq, "error", err)
		}
	}
	if s.Hook == "" {
		return ctx.Err() == nil
	}
	document, err := a.document(e, raise)
	if err != nil {
		a.Log.Error("an alarm cannot be written as JSON", "seq", e.Seq, "error", err)
		return true
	}
	for i, wait := range tries {
		if !a.pause(ctx, wait) {
			return false
		}
		if err = runHook(ctx, s.Hook, document, a.environment(e, raise)); err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		a.Log.Warn("the alarm hook failed", "hook", s.Hook, "seq", e.Seq, "try", i+1, "of", len(tries), "error", err)
	}
	a.Log.Error("an alarm was not passed on: its hook fails, look at it and try `ftd --test-alarm`", "hook", s.Hook, "seq", e.Seq)
	return true
}

// kind is the word for what is told.
func kind(raise bool) string {
	if raise {
		return "raise"
	}
	return "clear"
}

// document is what a hook reads: the event as `ftctl --json events` has it, with the box's
// name and whether it raises an alarm or clears all that were.
func (a *Alarms) document(e *eventlog.Entry, raise bool) ([]byte, error) {
	with := *e
	with.Extra = map[string]any{"box": a.Box, "alarm": kind(raise)}
	for k, v := range e.Extra {
		if _, own := with.Extra[k]; !own {
			with.Extra[k] = v
		}
	}
	b, err := json.Marshal(with)
	return append(b, '\n'), err
}

func (a *Alarms) environment(e *eventlog.Entry, raise bool) []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"FT_BOX=" + a.Box, "FT_ALARM=" + kind(raise), fmt.Sprintf("FT_SEQ=%d", e.Seq), "FT_ID=" + e.ID,
		"FT_FROM=" + e.From, "FT_TO=" + e.To, "FT_SEVERITY=" + string(e.Severity), "FT_REASON=" + e.Reason,
	}
}

// Test runs the hook once, on an event of no meaning, and says what became of it.
func (a *Alarms) Test(ctx context.Context) error {
	s := a.get()
	e := &eventlog.Entry{Time: time.Now(), ID: a.Box, Severity: control.Info, Reason: "a test of the alarms: nothing has happened"}
	if s.Syslog {
		if err := a.toSyslog(e, true); err != nil {
			return err
		}
	}
	if s.Hook == "" {
		return nil
	}
	document, err := a.document(e, true)
	if err != nil {
		return err
	}
	return runHook(ctx, s.Hook, document, a.environment(e, true))
}

// load reads the cursor. Without one nothing of the past is told.
func (a *Alarms) load() cursor {
	last := a.Events.LastSeq()
	path := filepath.Join(a.StateDir, cursorName)
	b, err := os.ReadFile(path)
	var at cursor
	if errors.Is(err, fs.ErrNotExist) {
		at.Seq = last
		a.save(at) // so that the next ftd goes on from here, and not from where the log is then
		return at
	}
	if err == nil {
		err = json.Unmarshal(b, &at)
	}
	if err != nil {
		a.Log.Warn("alarms: it is not known which were passed on before", "file", path, "error", err)
		return cursor{Seq: last}
	}
	at.Seq = min(at.Seq, last) // the log may have been cleared
	return at
}

// save need not be durable: an alarm that is told twice is better than one that is not.
func (a *Alarms) save(at cursor) {
	path := filepath.Join(a.StateDir, cursorName)
	b, err := json.Marshal(at)
	if err == nil {
		err = os.WriteFile(path+".new", append(b, '\n'), 0o640)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		a.Log.Warn("alarms: what was passed on cannot be remembered", "error", err)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
