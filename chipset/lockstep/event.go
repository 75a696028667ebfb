package lockstep

import (
	"fmt"
	"time"

	"ft/chipset/firmware"
	"ft/chipset/module"
)

// EventKind says what an Event tells.
type EventKind uint8

// Kinds of events.
const (
	Started       EventKind = iota + 1 // the machine runs, on Side alone
	Shot                               // Side was cut off: Fault
	Transient                          // both differed from what both then agreed on, and go on: Fault of each
	Repaired                           // a trial has ended with both in lockstep
	DamagedAlone                       // both hold memory that is not what was agreed: Text
	JoinedIn                           // Side is in lockstep: Blackout
	Equal                              // a patrol has found both memories equal: Side is in duplex
	JoinFailed                         // Side did not come in: Fault
	JoinStage                          // a join goes on: Text
	GuestReset                         // the guest asked for a reset
	Undecided                          // nothing could be decided: Text
	Lost                               // no module is left
	InjectedFault                      // a drill's fault is in: Step, Text
	Split                              // Side stands apart with its state in State, for a dump; without one, it has failed: Text
	WentOn                             // Side goes on alone, Latency after the difference was noticed
	Evidence                           // Side was shot; what can be found out further is in Case
)

// Event is one report of the core.
type Event struct {
	Kind     EventKind
	Side     Side
	Fault    Finding
	Text     string
	Step     uint64
	Blackout time.Duration
	Latency  time.Duration
	Reset    module.Reset
	State    []byte
	Case     *Case
}

// Finding is what was wrong with a side.
type Finding struct {
	Side  Side
	Cause string // compare, epoch, memory, patrol, self-test, protocol, died, stopped, late, hung, short, garbage
	Text  string

	// Where it showed: between two steps of the machine, and what differed there.
	From, To uint64
	PC       uint64
	Differs  []Difference

	Page    uint32 // Cause memory and patrol
	HasPage bool
	Latency time.Duration // from noticing to the good module running on
}

// Difference is one thing in which two modules differed.
type Difference struct {
	What string
	Bad  uint64
	Good uint64
}

func (d Difference) String() string { return fmt.Sprintf("%s %#x, not %#x", d.What, d.Bad, d.Good) }

// Case is what is left of a side that was shot, from which the first differing step may be
// found: its memory (with the hands) and its state as they were at the beginning of the epoch,
// the stream from there on, and of pages that were wrong what they were and should have been.
// Its memory may have been mended since: what they were has to be written into it again.
type Case struct {
	Side    Side
	State   []byte
	Log     []Command
	Damaged map[uint32][]byte
	Patches map[uint32][]byte
	Fault   Finding
}

func resetType(v uint32) firmware.ResetType     { return firmware.ResetType(v) }
func resetReason(v uint32) firmware.ResetReason { return firmware.ResetReason(v) }
