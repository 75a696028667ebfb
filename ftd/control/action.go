package control

import (
	"time"

	"ft/drivers"
)

// Result is what one Step wants done. The caller
//
//  1. appends Entries to the event log,
//  2. carries out Actions in their order. An action whose After is not 0 must not
//     begin before the ActionPersist of that number is on stable storage, and is
//     dropped, without a result of its own, when that one failed;
//  3. gives Answers to those who asked, held back by After in the same way.
//
// Actions for different devices may run side by side; those for one device begin in
// order. Each action that WantsResult is answered by exactly one ActionResult.
type Result struct {
	Entries []Entry
	Actions []Action
	Answers []Answer
}

// ActionKind says what is to be done.
type ActionKind string

// Kinds of actions, with the fields of Action that they use.
const (
	ActionPersist   ActionKind = "persist"   // State: write it to stable storage
	ActionStart     ActionKind = "start"     // Device, Sides: have the keeper run the driver; no error if it runs
	ActionConfigure ActionKind = "configure" // Device, Sides: what the keeper gives to this device's next process
	ActionStop      ActionKind = "stop"      // Device: take the face down and end the process (drivers.Remove)
	ActionAttach    ActionKind = "attach"    // Device, Side, Resource
	ActionDetach    ActionKind = "detach"    // Device, Side, Reason
	ActionSwitch    ActionKind = "switch"    // Device, Side: which one shall be active, Whole: the other one
	ActionSnapshot  ActionKind = "snapshot"  // Device: ask for its status, answer with DriverStatus
	ActionAlarm     ActionKind = "alarm"     // Entry: tell people (journal, hook)
	ActionTimer     ActionKind = "timer"     // At: feed Tick then; replaces the timer before, zero: no timer
)

// Action is one thing to do.
type Action struct {
	ID       uint64
	After    uint64 // number of the ActionPersist that must be on disk first; 0: none
	Kind     ActionKind
	Device   string
	Side     drivers.Side
	Resource drivers.Resource
	Reason   drivers.Reason
	Sides    [2]drivers.SideConfig
	State    *Persistent
	Entry    *Entry
	At       time.Time
}

// WantsResult says whether the core waits for an ActionResult.
func (a Action) WantsResult() bool {
	switch a.Kind {
	case ActionPersist, ActionStart, ActionStop, ActionAttach, ActionDetach, ActionSwitch:
		return true
	}
	return false
}

// AnswerStatus says how far a request has come.
type AnswerStatus string

// Statuses of an answer. Accepted is followed by one of the others.
const (
	AnswerAccepted AnswerStatus = "accepted" // the wish is on disk, the work has begun
	AnswerDone     AnswerStatus = "done"     // in: the driver has begun diagnostics; out: no I/O reaches it any more
	AnswerRefused  AnswerStatus = "refused"  // by a rule; nothing has changed
	AnswerFailed   AnswerStatus = "failed"   // tried, and it went wrong
)

// Answer goes to whoever made a request. A request gets one answer that is final, with
// at most one AnswerAccepted before it.
type Answer struct {
	Request  string
	Status   AnswerStatus
	Code     string
	Sentence string
	After    uint64 // as in Action
}

// Final says whether no other answer follows.
func (a Answer) Final() bool { return a.Status != AnswerAccepted }

// Codes of refusals that the core gives itself, beside those of package drivers.
const (
	RuleUnknown  = "unknown-component" // no such id
	RuleRisk     = "unknown-risk"      // no such --accept-risk
	RuleNoSwitch = "no-standby"        // the kind has no active side, or the standby is not good
	RuleMachine  = "no-machine"        // only machines can be asked that
	RuleValue    = "bad-value"         // a setting out of range
	RulePersist  = "state-not-saved"   // the state directory could not be written
	RuleTimeout  = "timeout"           // no answer in time; still wanted
	RuleReplaced = "replaced"          // a later request wanted something else
	RuleNotReady = "not-ready"         // ftd has not read its state yet
)
