package keeper

import (
	"context"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"ft/drivers/unixhttp"
)

// SocketPath is where the keeper of a run directory listens.
func SocketPath(runDir string) string { return filepath.Join(runDir, "keeper.sock") }

// LogPath is where the keeper directs the output of a process.
func LogPath(runDir, name string) string { return filepath.Join(runDir, "log", name+".log") }

// ErrUnreachable says that no keeper listens on the socket, ErrNotFound that it knows
// no process of that name (errors.Is).
var (
	ErrUnreachable = unixhttp.ErrUnreachable
	ErrNotFound    = unixhttp.ErrNotFound
)

// Codes of refusals that the keeper gives besides drivers.RuleBusy.
const (
	RuleStopping = "stopping" // the keeper is being stopped: nothing new is started
	RuleRunning  = "running"  // the process lives, or descriptors of it are still held
	RuleSpec     = "spec"     // the specification makes no sense
)

// Spec says what to run. A process is restarted with the newest Spec.
type Spec struct {
	Argv []string `json:"argv"` // Argv[0] is an absolute path
	// Env is added to the keeper's own environment.
	Env map[string]string `json:"env,omitempty"`
	// WatchdogMS is the longest silence in milliseconds before the process is killed
	// and restarted; 0 is no watchdog.
	WatchdogMS int `json:"watchdog_ms,omitempty"`
	// Control is the path of the process's control socket, for a clean stop and for
	// asking a process that outlived a keeper for its descriptors (host.SocketPath).
	// Without one a clean stop is SIGTERM.
	Control string `json:"control,omitempty"`
}

// State of a process, one word each.
type State string

// States of a process.
const (
	Starting State = "starting" // runs, has not said READY yet
	Running  State = "running"  // has said READY
	Dying    State = "dying"    // was killed or is seen to exit, is not gone yet
	Waiting  State = "waiting"  // gone; its successor starts at NextStart
	Failed   State = "failed"   // died early too often: not started until Reset
	Stopped  State = "stopped"  // ended by itself, as it should
)

// Process is what the keeper knows about one process.
type Process struct {
	Name     string    `json:"name"`
	State    State     `json:"state"`
	Since    time.Time `json:"since"`  // of State
	Reason   string    `json:"reason"` // of State
	Pid      int       `json:"pid"`    // 0 when none runs
	Started  time.Time `json:"started"`
	Status   string    `json:"status"`  // its last STATUS text
	Starts   int       `json:"starts"`  // since the process became known
	Early    int       `json:"early"`   // early deaths in a row
	NextAt   time.Time `json:"next_at"` // of the next start, in Waiting
	LastEnd  string    `json:"last_end,omitempty"`
	Adopted  bool      `json:"adopted"` // outlived an earlier keeper
	Restored bool      `json:"restored"`
	// Descriptors counts the stored descriptors by name.
	Descriptors map[string]int `json:"descriptors,omitempty"`
	// Predecessors are processes of this name that are dying but not gone.
	Predecessors []int `json:"predecessors,omitempty"`
	// Outdated: it runs another program than the one that is installed now, and takes that
	// in at its next start.
	Outdated bool `json:"outdated,omitempty"`
	Spec     Spec `json:"spec"`
}

// About is a keeper about itself.
type About struct {
	Version string    `json:"version"`
	Pid     int       `json:"pid"`
	Since   time.Time `json:"since"`
}

// EventKind says what happened to a process.
type EventKind string

// Event kinds.
const (
	EventStarted EventKind = "started" // Pid runs
	EventReady   EventKind = "ready"   // it said READY
	EventDying   EventKind = "dying"   // it was killed or is seen to exit: Text says why
	EventEnded   EventKind = "ended"   // it is gone: Text says how
	EventDelayed EventKind = "delayed" // the next start is in DelayMS
	EventFailed  EventKind = "failed"  // no further start until Reset
	EventStopped EventKind = "stopped" // it ended as it should
	EventFenced  EventKind = "fenced"  // a predecessor that a successor could not wait for is gone
	EventAdopted EventKind = "adopted" // a restarted keeper found it running
	EventForgot  EventKind = "forgot"  // deleted
	EventNote    EventKind = "note"
)

// Event is one report about a process.
type Event struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Name    string    `json:"name"`
	Kind    EventKind `json:"kind"`
	Pid     int       `json:"pid,omitempty"`
	DelayMS int64     `json:"delay_ms,omitempty"`
	// GapUS is, in EventStarted of a successor, the time from noticing the death to
	// the successor's exec, in microseconds.
	GapUS int64  `json:"gap_us,omitempty"`
	Text  string `json:"text,omitempty"`
}

// Cursor is a place in the keeper's events.
type Cursor = unixhttp.Cursor

// Item is a line of the keeper's event stream.
type Item = unixhttp.Item[Event]

// Client speaks to a keeper. A refusal comes back as *drivers.Refused. Safe for
// concurrent use.
type Client struct {
	c *unixhttp.Client
}

// Dial makes a client of the keeper's socket. It does not connect.
func Dial(sock string) *Client { return &Client{unixhttp.NewClient(sock, "keeper")} }

// Put makes the keeper run a process. The same Spec again changes nothing; another
// one is remembered for the next start. A process that had stopped is started again.
func (c *Client) Put(ctx context.Context, name string, spec Spec) (Process, error) {
	var p Process
	err := c.c.Do(ctx, http.MethodPut, at(name, ""), spec, &p)
	return p, err
}

// Delete forgets a process. It is refused (RuleRunning) while the process lives or
// descriptors of it are held, unless kill: then it is ended with SIGKILL and its
// descriptors are closed.
func (c *Client) Delete(ctx context.Context, name string, kill bool) error {
	q := ""
	if kill {
		q = "?kill=1"
	}
	return c.c.Do(ctx, http.MethodDelete, at(name, "")+q, nil, nil)
}

// Restart replaces a process by a successor that adopts, with the newest Spec: over
// its control socket (hand-over) where it answers, else by SIGKILL. It does not count
// as a death. It returns when the old process has been told to go.
func (c *Client) Restart(ctx context.Context, name string) error {
	return c.c.Do(ctx, http.MethodPost, at(name, "/restart"), nil, nil)
}

// Crash kills a process with SIGKILL, for drills. It counts as a death.
func (c *Client) Crash(ctx context.Context, name string) error {
	return c.c.Do(ctx, http.MethodPost, at(name, "/crash"), nil, nil)
}

// Reset forgets the early deaths of a process and, if it is failed or waiting, starts
// it at once.
func (c *Client) Reset(ctx context.Context, name string) error {
	return c.c.Do(ctx, http.MethodPost, at(name, "/reset"), nil, nil)
}

// Processes lists all processes by name.
func (c *Client) Processes(ctx context.Context) ([]Process, error) {
	var ps []Process
	err := c.c.Do(ctx, http.MethodGet, "/processes", nil, &ps)
	return ps, err
}

// About is the keeper about itself. One that knows no such question is of a version before
// it: unixhttp.ErrNotFound.
func (c *Client) About(ctx context.Context) (About, error) {
	var a About
	err := c.c.Do(ctx, http.MethodGet, "/about", nil, &a)
	return a, err
}

// Process is one of them.
func (c *Client) Process(ctx context.Context, name string) (Process, error) {
	var p Process
	err := c.c.Do(ctx, http.MethodGet, at(name, ""), nil, &p)
	return p, err
}

// Events calls each for every event behind from, then for a marker (Current), and
// with follow for every further one until ctx is done, the keeper ends (nil) or each
// returns an error.
func (c *Client) Events(ctx context.Context, from Cursor, follow bool, each func(Item) error) error {
	return unixhttp.Follow(ctx, c.c, "/events", from, follow, each)
}

// Stop is the clean stop of everything: each driver takes its face down, then the
// keeper ends. While a face is in use it is refused with drivers.RuleBusy naming the
// users, and what had been stopped is started again. With force faces are taken down
// also while they are in use, and what does not end is killed. When it returns nil
// all processes are gone.
func (c *Client) Stop(ctx context.Context, force bool) error {
	path := "/stop"
	if force {
		path += "?force=1"
	}
	return c.c.Do(ctx, http.MethodPost, path, nil, nil)
}

func at(name, verb string) string { return "/processes/" + url.PathEscape(name) + verb }
