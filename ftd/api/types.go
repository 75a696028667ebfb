// Package api is what ftd says to the outside: the wire types, the server on the
// unix socket, and the Go client that ftctl uses.
//
// The way of data: ftctl → Client → unix socket → Server (who may do what, limits,
// encoding) → Backend, which ftd implements. The server holds no state of the box.
package api

import (
	"time"

	"ft/ftd/eventlog"
)

// Status is the status document, the same from `ftctl --json status`, GET
// /v1/status and the status page. Fields may be added, these keep their names.
type Status struct {
	System  SystemStatus   `json:"system"`
	Modules []ModuleStatus `json:"modules"`
	Devices []DeviceStatus `json:"devices"`
}

// SystemStatus is the box: as bad as its worst face.
type SystemStatus struct {
	Name    string    `json:"name"`
	State   string    `json:"state"` // down, simplex, syncing, duplex
	Since   time.Time `json:"since"`
	Verdict string    `json:"verdict"` // the cause, in a sentence; "" when all is well
	Action  string    `json:"action"`  // what a person should do next, or "none, …"
	Seq     uint64    `json:"seq"`     // number of the last event that this contains
}

// ModuleStatus is what is pulled and replaced as one: cpu0, pci1.
type ModuleStatus struct {
	ID         string    `json:"id"`
	State      string    `json:"state"`
	SafeToPull bool      `json:"safe_to_pull"`
	Reason     string    `json:"reason"`
	Since      time.Time `json:"since"`
}

// DeviceStatus is a duplex device with its face and sides.
type DeviceStatus struct {
	ID     string         `json:"id"`
	Kind   string         `json:"kind"`  // disk, nic, machine
	State  string         `json:"state"` // of the face
	Face   string         `json:"face"`
	Pid    int            `json:"pid"`
	Reason string         `json:"reason"`
	Since  time.Time      `json:"since"`
	Sides  []SideStatus   `json:"sides"`
	Stats  map[string]any `json:"stats"`
}

// SideStatus is one side of a device, in its module: pci1/disk0.
type SideStatus struct {
	ID         string    `json:"id"`
	State      string    `json:"state"`
	Target     string    `json:"target,omitempty"` // in, out: what it is meant to be
	Resource   string    `json:"resource"`
	Reason     string    `json:"reason"`
	Since      time.Time `json:"since"`
	SafeToPull bool      `json:"safe_to_pull"`
	Active     bool      `json:"active"`
	Draining   bool      `json:"draining"` // I/O from before it went out is still under way
	Note       string    `json:"note,omitempty"`
	Progress   *Progress `json:"progress,omitempty"`
	MTBF       *MTBF     `json:"mtbf,omitempty"`
}

// Progress of background work.
type Progress struct {
	What       string  `json:"what"`
	Percent    float64 `json:"percent"`
	DoneBytes  int64   `json:"done_bytes"`
	TotalBytes int64   `json:"total_bytes"`
	RateBytes  int64   `json:"rate_bytes"`  // a second
	ETASeconds float64 `json:"eta_seconds"` // negative when unknown
}

// MTBF is a side's fault history in short.
type MTBF struct {
	Faults         int     `json:"faults"`
	Hours          float64 `json:"hours"`
	ThresholdHours float64 `json:"threshold_hours"`
	Policy         string  `json:"policy"`
}

// Event is one line of the event stream.
type Event = eventlog.Entry

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

// SystemID names the box itself wherever an ID is asked for.
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
)

// Change is a request to change the box. Which fields count depends on the verb.
type Change struct {
	Verb Verb   `json:"-"`
	ID   string `json:"-"` // module, side or device; "ftd" for Inject of crash
	By   string `json:"-"` // who asks, for the event log: a user's name

	AcceptRisk string   `json:"accept_risk,omitempty"` // Bringup: overwrite; Bringdown: last-side
	Keep       string   `json:"keep,omitempty"`        // Resolve: the side whose data stays, e.g. pci0 or pci0/disk0
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
}
