// Package api is what ftd says to the outside: the wire types, the server on the
// unix socket, and the Go client that ftctl uses.
//
// The way of data: ftctl → Client → unix socket → Server (who may do what, limits,
// encoding) → Backend, which ftd implements. The server holds no state of the box.
package api

import (
	"time"

	"ft/drivers"
	"ft/ftd/control"
)

// The status document and its parts, the same from `ftctl --json status`, GET
// /v1/status and the status page. The control core fills it.
type (
	Status       = control.StatusDocument
	SystemStatus = control.SystemView
	ModuleStatus = control.ModuleView
	DeviceStatus = control.DeviceView
	SideStatus   = control.SideView
	MTBF         = control.MTBFView
	Boot         = control.Boot
	Progress     = drivers.Progress
)

// Event is one line of the event stream.
type Event = control.Entry

// Marker stands in the event stream where something is to be known about the stream
// itself: "live" once the past has been sent, "gap" where the reader was too slow.
type Marker struct {
	Marker string `json:"marker"`
	Seq    uint64 `json:"seq"`            // the last number before the marker
	Lost   uint64 `json:"lost,omitempty"` // entries left out at a gap
}

// Markers.
const (
	MarkerLive = "live"
	MarkerGap  = "gap"
)

// Component kinds, as in Component.Kind.
const (
	KindSystem = "system"
	KindModule = "module"
	KindDevice = "device"
	KindSide   = "side"
)

// SystemID names the box itself wherever an ID is asked for, whatever its own name is.
const SystemID = "box"

// Component is a line of `ftctl ls`, and with the rest filled in what `ftctl show`
// says.
type Component struct {
	ID         string    `json:"id"`
	Kind       string    `json:"kind"` // system, module, device, side
	State      string    `json:"state"`
	Since      time.Time `json:"since"`
	Reason     string    `json:"reason,omitempty"`
	SafeToPull *bool     `json:"safe_to_pull,omitempty"` // modules and sides

	// Only in the answer about one component.
	System *SystemStatus  `json:"system,omitempty"`
	Module *ModuleStatus  `json:"module,omitempty"`
	Device *DeviceStatus  `json:"device,omitempty"` // of the device, or that a side belongs to
	Side   *SideStatus    `json:"side,omitempty"`
	Sides  []SideStatus   `json:"sides,omitempty"`  // that a module carries
	Detail map[string]any `json:"detail,omitempty"` // what the driver says besides
	Events []Event        `json:"events,omitempty"` // its latest, oldest first
}

// Verb is what a Change asks for; it is the last part of the request's path.
type Verb string

// Verbs.
const (
	Bringup   Verb = "bringup"
	Bringdown Verb = "bringdown"
	Switch    Verb = "switch"
	Inject    Verb = "inject"
	Resolve   Verb = "resolve"
	Machine   Verb = "machine"
	Dump      Verb = "dump"
	Priority  Verb = "priority"
	MTBFVerb  Verb = "mtbf"
	Policy    Verb = "policy"
	Scrub     Verb = "scrub"
	Reload    Verb = "reload"
	Reads     Verb = "reads"
	Replace   Verb = "replace"
)

// verbs are all of them.
var verbs = [...]Verb{Bringup, Bringdown, Switch, Machine, Dump, Priority, Scrub, Replace, Reads, MTBFVerb, Policy, Reload, Resolve, Inject}

// Actions of Machine.
const (
	MachineStart = "start"
	MachineStop  = "stop"  // at once, as a power switch does
	MachineReset = "reset" // at once, and from the beginning
)

// Actions of Scrub.
const (
	ScrubStart  = "start"
	ScrubPause  = "pause"
	ScrubResume = "resume"
	ScrubCancel = "cancel"
)

// Actions of Replace.
const (
	ReplaceStart = "start"
	ReplaceAbort = "abort"
)

// Levels of Priority.
const (
	PriorityLow    = "low"
	PriorityNormal = "normal"
	PriorityHigh   = "high"
)

// ReadsDefault takes back what was said of a side's part in reads.
const ReadsDefault = "default"

// Change is a request to change the box. Which fields count depends on the verb.
type Change struct {
	Verb Verb   `json:"-"`
	ID   string `json:"-"` // module, side or device; "ftd" for Inject of crash, whose answer goes out first
	By   string `json:"-"` // who asks, for the event log: a user's name

	AcceptRisk string   `json:"accept_risk,omitempty"` // Bringup, Replace: overwrite; Bringdown: last-side
	Keep       string   `json:"keep,omitempty"`        // Resolve: the module whose side's data stays, e.g. pci0
	Action     string   `json:"action,omitempty"`      // Machine, MTBFVerb, Scrub, Replace
	Path       string   `json:"path,omitempty"`        // Replace, to start: the device that is to be the leg
	Threshold  string   `json:"threshold,omitempty"`   // MTBFVerb, to set: a time, e.g. 24h
	MinFaults  int      `json:"min_faults,omitempty"`  // MTBFVerb, to set
	Policy     string   `json:"policy,omitempty"`      // MTBFVerb, to set: threshold, never or always
	Default    bool     `json:"default,omitempty"`     // MTBFVerb, to set: first forget what was set before
	Bringup    string   `json:"bringup,omitempty"`     // Policy, of the box: auto or defer
	Side       string   `json:"side,omitempty"`        // Dump: the CPU module whose memory is written out, "" for either
	Out        string   `json:"out,omitempty"`         // Dump: the file, by its absolute path on the box, "" for one that is chosen
	Level      string   `json:"level,omitempty"`       // Priority: low, normal or high
	Reads      string   `json:"reads,omitempty"`       // Reads, of a disk's side: balance, prefer, avoid (or write-mostly), default
	Repair     bool     `json:"repair,omitempty"`      // Scrub, to start: what differs is written anew
	From       string   `json:"from,omitempty"`        // Scrub, to repair: the module whose side is right where nothing else says so
	Fault      string   `json:"fault,omitempty"`       // Inject
	Args       []string `json:"args,omitempty"`        // Inject
}

// Outcome says what an accepted change did and what happens next.
type Outcome struct {
	// Text is one sentence for the admin, e.g. "pci1/disk0: diagnostics, then syncing".
	Text string `json:"text"`
	// Seq is the number of the event that the change made, 0 when there was none.
	Seq uint64 `json:"seq"`
}

// Version is what runs.
type Version struct {
	Version string    `json:"version"`
	Commit  string    `json:"commit,omitempty"`
	Go      string    `json:"go"`
	Pid     int       `json:"pid,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	// Supervised: somebody starts ftd again when it dies.
	Supervised bool `json:"supervised,omitempty"`
	// Keeper is the keeper that ftd has found; Outdated are the devices whose driver runs
	// another program than the one that is installed, until its next start.
	Keeper   *Version `json:"keeper,omitempty"`
	Outdated []string `json:"outdated,omitempty"`
}
