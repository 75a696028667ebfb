// Package drivers is the contract between the control daemon and the drivers of
// duplex devices, and the words that both speak: sides, states, events, faults.
//
// A duplex device is one virtual face over two sides. A driver owns the data path
// of one device, fails over by itself and at once, and reports afterwards; the
// control daemon decides what comes back, when, and what may be taken away.
// Requests go down (Driver's methods), events come up (Driver.Events).
//
// This package has no I/O. The main loop of a driver process is drivers/host, the
// parent of driver processes is drivers/keeper.
package drivers

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"time"
)

// Driver is one duplex device. All methods may be called from any goroutine; none
// of them may block the data path. A method that a rule forbids returns *Refused
// and has changed nothing.
type Driver interface {
	// Start brings the face up from the sides that are fit to serve. It returns nil
	// also when no side is (the face is then down and Status says why), so that a
	// later Attach or command can mend it. Called once.
	Start(ctx context.Context, mode StartMode) error
	// Attach takes a side in: diagnostics, then sync, reported by events. It returns
	// when the side has been accepted or refused, not when it is in sync.
	Attach(ctx context.Context, s Side, res Resource) error
	// Detach takes a side out of service. When it returns no new I/O reaches the
	// side; Drain ends when the I/O that was under way has ended too.
	// The last good side is refused unless why.AcceptRisk is RiskLastSide.
	Detach(ctx context.Context, s Side, why Reason) (Drain, error)
	// Switch makes the other side the active one, where one side is active.
	Switch(ctx context.Context) error
	// Status is a consistent snapshot. It never waits for I/O.
	Status() Status
	// Events returns the channel of events: ordered, numbered from 1. The driver
	// never blocks on it; the host reads it without pause.
	Events() <-chan Event
	// Inject puts a fault into a side, as a real layer of the driver (drills).
	Inject(ctx context.Context, s Side, f Fault) error
	// Stop ends the driver. Remove takes the face down cleanly, HandOver leaves it
	// alive for a successor. Refused with RuleBusy while the face is in use, unless
	// ctx carries no patience for that (StopMode RemoveForce).
	Stop(ctx context.Context, mode StopMode) error
}

// Commander is implemented by drivers with commands of their own (resolve, scrub,
// priority). The answer is encoded as JSON.
type Commander interface {
	Command(ctx context.Context, name string, args map[string]string) (any, error)
}

// Drain is closed when no I/O is under way on a detached side any more.
type Drain <-chan struct{}

// StartMode says whether a predecessor's face is to be taken over.
type StartMode uint8

// Start modes.
const (
	Fresh StartMode = iota // no face exists
	Adopt                  // Env.Inherited holds the descriptors of a dead predecessor's face
)

// StopMode says what becomes of the face.
type StopMode string

// Stop modes.
const (
	Remove      StopMode = "remove"       // take the face down; refused while it is in use
	RemoveForce StopMode = "remove-force" // take the face down also while it is in use
	HandOver    StopMode = "handover"     // leave the face alive for a successor
)

// Reason says who wants a side out, and why, in words for the event log.
type Reason struct {
	Text       string `json:"text"`
	AcceptRisk string `json:"accept_risk,omitempty"`
}

// Risks that an admin can name.
const (
	RiskLastSide  = "last-side" // take the last good side away
	RiskOverwrite = "overwrite" // lose what is on the side that comes in
)

// Resource is what a side is made of: a block device or file, a NIC, a CPU module.
type Resource struct {
	Path       string `json:"path"`               // as configured, e.g. /dev/loop0, eth0
	Identity   string `json:"identity,omitempty"` // serial number, UUID or MAC, where known
	AcceptRisk string `json:"accept_risk,omitempty"`
}

// Refused is the answer of a rule: a code that programs may rely on and a sentence
// for the admin that says which rule, about what, and the way out.
type Refused struct {
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
}

func (r *Refused) Error() string { return r.Sentence }

// Refuse builds a *Refused.
func Refuse(code, format string, args ...any) error {
	return &Refused{Code: code, Sentence: fmt.Sprintf(format, args...)}
}

// Codes of refusals that drivers give.
const (
	RuleLastSide   = "last-side"   // would take the last good side away
	RuleOverwrite  = "overwrite"   // would overwrite foreign data
	RuleStale      = "stale"       // the side is behind and cannot serve alone
	RuleSplitBrain = "split-brain" // both sides were written alone
	RuleBusy       = "busy"        // in use, or I/O has not drained yet
	RuleState      = "state"       // the present state does not allow it
	RuleUnfit      = "unfit"       // wrong size, kind, or failed diagnostics
	RuleNoDrills   = "no-drills"   // faults are not allowed on this box
	RuleWaits      = "waits"       // it cannot come in now, and comes in by itself as soon as it can
)

// Fault is a named fault with its arguments, as in `ftctl inject ID FAULT ARGS`.
type Fault struct {
	Name string   `json:"name"`
	Args []string `json:"args,omitempty"`
}

// Progress of background work on a side.
type Progress struct {
	What       string  `json:"what"` // "resync", "memory copy"
	Percent    float64 `json:"percent"`
	DoneBytes  int64   `json:"done_bytes"`
	TotalBytes int64   `json:"total_bytes"`
	RateBytes  int64   `json:"rate_bytes"`  // a second
	ETASeconds float64 `json:"eta_seconds"` // -1 when unknown
}

// SideStatus is a side as its driver sees it. A driver does not know the admin's
// target or the MTBF verdict: it says offline for every side that is out and well.
type SideStatus struct {
	State    State     `json:"state"`
	Resource Resource  `json:"resource"`
	Reason   string    `json:"reason,omitempty"`
	Since    time.Time `json:"since"`
	Active   bool      `json:"active"`
	Draining bool      `json:"draining"` // I/O from before it was cut off is still under way
	// OutBy: by whose word it is out, where the driver alone knows (OutByGuest). It then
	// stays out until a person wants it in.
	OutBy    string    `json:"out_by,omitempty"`
	Note     string    `json:"note,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
}

// OutByGuest: the machine was powered off from within. The event that reports the side
// offline says so as well, as its Detail "out_by".
const OutByGuest = "guest"

// Status is a device as its driver sees it.
type Status struct {
	Kind   string         `json:"kind"`
	Name   string         `json:"name"`
	State  FaceState      `json:"state"`
	Face   string         `json:"face"` // path or name of the face, "" while down
	Reason string         `json:"reason,omitempty"`
	Since  time.Time      `json:"since"`
	Pid    int            `json:"pid"`
	Seq    uint64         `json:"seq"` // number of the last event that this snapshot contains
	Sides  [2]SideStatus  `json:"sides"`
	Stats  map[string]any `json:"stats,omitempty"`
}

// EventKind says what an event is about.
type EventKind string

// Event kinds.
const (
	EventSide    EventKind = "side"    // a side changed its state
	EventFace    EventKind = "face"    // the face changed its state
	EventDrained EventKind = "drained" // I/O on a detached side has ended
	EventNote    EventKind = "note"    // worth the log, changes no state
)

// Event is one report of a driver.
type Event struct {
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"`
	Kind   EventKind `json:"kind"`
	Side   Side      `json:"side"` // Whole for EventFace and where no one side is meant
	From   string    `json:"from,omitempty"`
	To     string    `json:"to,omitempty"`
	Reason string    `json:"reason,omitempty"`
	// Fault is set when the change was a fault of the side, to be judged by MTBF;
	// Injected says that it came from Inject.
	Fault    string         `json:"fault,omitempty"`
	Injected bool           `json:"injected,omitempty"`
	Identity string         `json:"identity,omitempty"`
	Detail   map[string]any `json:"detail,omitempty"`
}

// Config is what a driver process is started with. Options is the driver's own part.
type Config struct {
	Kind     string          `json:"kind"`
	Name     string          `json:"name"`
	RunDir   string          `json:"run_dir"`   // sockets; not persistent
	StateDir string          `json:"state_dir"` // witness; persistent, never on one of our own faces
	DevDir   string          `json:"dev_dir"`   // where the face's symlink appears, /dev/ft
	Drills   bool            `json:"drills"`
	Sides    [2]SideConfig   `json:"sides"`
	Options  json.RawMessage `json:"options,omitempty"`
}

// SideConfig is a configured side.
type SideConfig struct {
	Resource Resource `json:"resource"`
	// Out: the admin took it down; Start must not take it in by itself.
	Out bool `json:"out,omitempty"`
}

// Env is what the host gives a driver.
type Env struct {
	Log *slog.Logger
	// Inherited holds the descriptors that a predecessor stored, by name.
	Inherited map[string][]int
	// Predecessor is a pidfd of a predecessor that is dying but not yet gone, or -1.
	// It becomes readable when the predecessor's I/O has ended.
	Predecessor int
	// Store hands a copy of a descriptor to the keeper; it returns when the keeper
	// confirmed that it holds it, or with an error. Unstore drops it again.
	Store   func(name string, fds ...int) error
	Unstore func(name string)
	// Text sets the one-line status text shown by the keeper. Never blocks.
	Text func(string)
	// Fatal ends the process from any goroutine, reported with its stack; the
	// keeper starts a successor that adopts.
	Fatal func(error)
}

// New makes a driver from its configuration. It must not touch the device: Start does.
type New func(Config, Env) (Driver, error)

var (
	registryMu sync.Mutex
	registry   = map[string]New{}
	rights     = map[string][]int{}
)

// Register makes a kind of driver known under the name used by `ftd driver KIND NAME`.
// capabilities (CAP_… in capabilities(7)) are what its work takes: a driver process gives up
// all others before it starts. With none it keeps what it has.
func Register(kind string, n New, capabilities ...int) {
	registryMu.Lock()
	defer registryMu.Unlock()
	if registry[kind] != nil {
		panic("drivers: kind registered twice: " + kind)
	}
	registry[kind], rights[kind] = n, capabilities
}

// Rights are the capabilities that a kind was registered with.
func Rights(kind string) []int {
	registryMu.Lock()
	defer registryMu.Unlock()
	return rights[kind]
}

// Lookup finds a registered kind.
func Lookup(kind string) (New, error) {
	registryMu.Lock()
	defer registryMu.Unlock()
	if n := registry[kind]; n != nil {
		return n, nil
	}
	var have []string
	for k := range registry {
		have = append(have, k)
	}
	sort.Strings(have)
	return nil, fmt.Errorf("no driver of kind %q (known: %v)", kind, have)
}
