package control

import (
	"time"

	"ft/drivers"
)

// This file holds the status document: what `ftctl --json status`, GET /v1/status and
// the status page show. The names of the JSON fields are part of the product: fields
// may be added, none may change its name or meaning. How it is filled stands in
// status.go; the sentences for people in verdict.go.

// StatusDocument is the whole box at one moment.
type StatusDocument struct {
	System  SystemView   `json:"system"`
	Modules []ModuleView `json:"modules"` // cpu0, cpu1, pci0, pci1: those that carry something
	Devices []DeviceView `json:"devices"` // in the order of the configuration
}

// SystemView is the box: its worst face, and what a person should do about it.
type SystemView struct {
	Name    string            `json:"name"`
	State   drivers.FaceState `json:"state"`
	Since   time.Time         `json:"since"`
	Verdict string            `json:"verdict"` // what is wrong, and why
	Action  string            `json:"action"`  // what to do about it; begins with "none" when nothing is
	Seq     uint64            `json:"seq"`     // number of the last log entry that this document contains
	Bringup BringupPolicy     `json:"bringup"`
	Boot    *Boot             `json:"boot,omitempty"` // the last start of the box, nil when none was seen
}

// ModuleView is what fails, is pulled and is replaced as one.
type ModuleView struct {
	ID         string        `json:"id"`
	State      drivers.State `json:"state"` // the worst of its sides
	SafeToPull bool          `json:"safe_to_pull"`
	PullNote   string        `json:"pull_note,omitempty"` // why it is not safe to pull
	Reason     string        `json:"reason"`
	Since      time.Time     `json:"since"`
	Sides      []string      `json:"sides"` // ids of what it carries
}

// DeviceView is one duplex device.
type DeviceView struct {
	ID      string            `json:"id"`
	Kind    string            `json:"kind"` // disk, nic, machine
	State   drivers.FaceState `json:"state"`
	Face    string            `json:"face"` // path or name, "" while there is none
	Pid     int               `json:"pid"`  // of the driver process, 0 when none is known
	Driver  DriverLink        `json:"driver"`
	Reason  string            `json:"reason"`
	Since   time.Time         `json:"since"`
	Verdict string            `json:"verdict"`
	Action  string            `json:"action"`
	Sides   []SideView        `json:"sides"`
	Stats   map[string]any    `json:"stats"`
}

// SideView is one side of a device.
type SideView struct {
	ID         string            `json:"id"`
	State      drivers.State     `json:"state"`
	Resource   string            `json:"resource"`
	Identity   string            `json:"identity,omitempty"`
	Reason     string            `json:"reason"`
	Since      time.Time         `json:"since"`
	SafeToPull bool              `json:"safe_to_pull"`
	PullNote   string            `json:"pull_note,omitempty"` // why it is not safe to pull
	Active     bool              `json:"active"`
	Target     Direction         `json:"target"`    // in or out
	TargetBy   Author            `json:"target_by"` // admin, fault, guest or config
	Draining   bool              `json:"draining,omitempty"`
	Note       string            `json:"note,omitempty"`     // the driver's remark, e.g. "standby, path good"
	RetryAt    *time.Time        `json:"retry_at,omitempty"` // when it is tried again by itself
	Progress   *drivers.Progress `json:"progress,omitempty"`
	MTBF       MTBFView          `json:"mtbf"`
}

// MTBFView is the fault history of what is in a side now, and how it is judged.
type MTBFView struct {
	Faults         int        `json:"faults"`               // since the history began or was cleared
	Hours          float64    `json:"hours"`                // over how many hours
	MeanHours      *float64   `json:"mean_hours,omitempty"` // between the last faults, as judged; absent below two
	ThresholdHours float64    `json:"threshold_hours"`
	MinFaults      int        `json:"min_faults"`
	Policy         MTBFPolicy `json:"policy"`
	Injected       int        `json:"injected"` // faults of drills: a history of their own
	LastFault      string     `json:"last_fault,omitempty"`
	LastFaultAt    *time.Time `json:"last_fault_at,omitempty"`
	LastDrillAt    *time.Time `json:"last_drill_at,omitempty"` // when it last had a fault of a drill
}

// Direction says where a side is wanted: in service, or out of it.
type Direction string

// Directions.
const (
	In  Direction = "in"
	Out Direction = "out"
)

// Author says who wanted it.
type Author string

// Authors.
const (
	ByConfig Author = "config" // the configuration: nobody said anything else
	ByAdmin  Author = "admin"
	ByFault  Author = "fault" // in: it failed and comes back by itself; out: it is broken
	ByGuest  Author = "guest" // out: the machine was powered off from within
)

// BringupPolicy says whether the second side of a face comes in by itself.
type BringupPolicy string

// Policies of bring-up.
const (
	BringupAuto  BringupPolicy = "auto"
	BringupDefer BringupPolicy = "defer"
)

// DriverLink is what ftd knows of a device's driver process.
type DriverLink string

// Links to a driver process.
const (
	LinkNone      DriverLink = "none"      // no process, and none is wanted
	LinkStarting  DriverLink = "starting"  // asked for, has not answered yet
	LinkConnected DriverLink = "connected" //
	LinkLost      DriverLink = "lost"      // died or silent; the keeper starts a successor that adopts the face
	LinkStopping  DriverLink = "stopping"  // told to take the face down
	LinkGaveUp    DriverLink = "gave-up"   // died too often; waits for a person
)
