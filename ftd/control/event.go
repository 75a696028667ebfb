package control

import (
	"time"

	"ft/drivers"
)

// Event is something that happened outside: it goes into Step, one at a time. The
// concrete types are below. Reports (what is) are never refused; requests (what a
// person wants) may be, and are then answered with a code and a sentence.
type Event interface{ event() }

// StateLoaded is what a predecessor left on disk: the first event of every core.
// Nothing is started before it. LastSeq is the number of the last entry in the event
// log, so that numbers go on where they were.
type StateLoaded struct {
	State   Persistent
	LastSeq uint64
	// Booted is when ftd began, if no driver was running then: the box boots. Zero when it was
	// only ftd that was away.
	Booted time.Time
}

// DeviceConfigured names a device of ft.toml, once each, in the order of the file.
type DeviceConfigured struct {
	Kind  string // disk, nic, machine
	Name  string
	Sides [2]SideSpec
	// Needs are devices, named before it, on whose faces it stands: its driver is started
	// when they are there. What becomes of them later is the driver's to deal with.
	Needs []string
}

// SideSpec is a configured side. A path of "" means that nothing is configured there.
type SideSpec struct {
	Resource drivers.Resource
	Absent   bool // not found when ftd looked
}

// DriverConnected says that the control socket of a device's driver process is open:
// a new process, or one that was found running. Status is a snapshot taken on this
// connection, and events of this connection with numbers above Status.Seq follow.
type DriverConnected struct {
	Device string
	Status drivers.Status
}

// DriverLost says that the process died or its socket closed. That is no fault of a
// side: the keeper starts a successor that adopts the face. GaveUp: the keeper will
// not, because too many died in a row. Stopped: it has ended as somebody asked it to, and
// its face with it, without ftd: with the keeper, whose stop is that of the box.
type DriverLost struct {
	Device  string
	Reason  string
	GaveUp  bool
	Stopped bool
}

// DriverReport is one event of a connected driver, in order.
type DriverReport struct {
	Device string
	Event  drivers.Event
}

// DriverStatus is a snapshot of a connected driver: the regular look at progress and
// statistics, and the answer to ActionSnapshot. It must not overtake events that
// were read before it was asked for.
type DriverStatus struct {
	Device string
	Status drivers.Status
}

// DeviceVanished says that what a side is made of is no longer there (a uevent, a file
// that is gone). A removal is no fault.
type DeviceVanished struct {
	ID     string // of the side
	Reason string
}

// DeviceSeen says that it is there (again). Identity is its serial number, UUID or MAC
// where known; one that differs from the known one is a new part, so it must be the
// same kind of identity that the driver reports for the side, or "".
type DeviceSeen struct {
	ID       string
	Identity string
}

// ModulePower says that a module has lost its power, or has it again. Of one that has none
// nothing is there, whatever else is said, and what is in it when it has its power again is
// said by DeviceSeen.
type ModulePower struct {
	Module string
	On     bool
	Reason string // when it is lost
}

// ActionResult is the outcome of an action, by its number. A number that the core no
// longer waits for is ignored.
type ActionResult struct {
	ID       uint64
	Outcome  Outcome
	Code     string // with Refused: the code of the rule
	Sentence string // with Refused and Failed: for a person
}

// Outcome of an action.
type Outcome string

// Outcomes.
const (
	OK      Outcome = "ok"
	Refused Outcome = "refused" // by a rule of the driver; nothing has changed
	Failed  Outcome = "failed"  // tried, and it went wrong
)

// Tick says that the time asked for with ActionTimer has come. Early or needless ticks
// do no harm.
type Tick struct{}

// Request is what all requests of a person have in common.
type Request struct {
	ID string // the answers carry it
	By string // who asks, for the log: "root", "uid 1000"
}

// BringUp wants a side, the sides of a device or all that a module carries in service.
// AcceptRisk may be "overwrite".
type BringUp struct {
	Request
	Target     string
	AcceptRisk string
}

// BringDown wants them out. A device is taken down with its face and its process.
// AcceptRisk may be "last-side".
type BringDown struct {
	Request
	Target     string
	AcceptRisk string
}

// StartMachine wants a machine on.
type StartMachine struct {
	Request
	Target string // the device
}

// StopMachine wants a machine off, at once, and to stay so. Whoever says it means to stop
// it: no risk need be named. Its driver process stays.
type StopMachine struct {
	Request
	Target string // the device
}

// SwitchActive makes the standby the active one. Target is a device, or the side that
// shall become active.
type SwitchActive struct {
	Request
	Target string
}

// SetBringup sets the bring-up policy of the box.
type SetBringup struct {
	Request
	Policy BringupPolicy
}

// SetMTBF sets how faults of a side, a device's or a module's sides are judged.
type SetMTBF struct {
	Request
	Target   string
	Settings MTBFSettings // zero fields leave what was
	Default  bool         // first forget what was set: as for the whole box
}

// ClearMTBF forgets the faults of what is in them now, those of drills too. A side that
// was broken becomes offline; it comes in by BringUp.
type ClearMTBF struct {
	Request
	Target string
}

func (StateLoaded) event()      {}
func (DeviceConfigured) event() {}
func (DriverConnected) event()  {}
func (DriverLost) event()       {}
func (DriverReport) event()     {}
func (DriverStatus) event()     {}
func (DeviceVanished) event()   {}
func (DeviceSeen) event()       {}
func (ModulePower) event()      {}
func (ActionResult) event()     {}
func (Tick) event()             {}
func (BringUp) event()          {}
func (BringDown) event()        {}
func (StartMachine) event()     {}
func (StopMachine) event()      {}
func (SwitchActive) event()     {}
func (SetBringup) event()       {}
func (SetMTBF) event()          {}
func (ClearMTBF) event()        {}
