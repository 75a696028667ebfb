package api

import (
	"context"
	"fmt"
	"net"

	"ft/ftd/eventlog"
)

// Backend is the daemon behind the server. Its methods are called from many
// goroutines at once.
type Backend interface {
	// Status is a consistent snapshot. It never waits for I/O.
	Status() Status
	// Detail is what is known about a component besides its status (the driver's
	// counters, generations, fault history); nil when there is nothing. Values must
	// encode as JSON. It is asked only for components that are in Status; the box is
	// SystemID, whatever its name.
	Detail(ctx context.Context, id string) map[string]any
	// Change does what an admin asks, or refuses. It returns once the request is
	// accepted: a bringup when diagnostics have begun, a bringdown when no new I/O
	// reaches the side. The server has checked that the caller may change things, the
	// verb and that the fields that the verb needs are there; not that ID exists.
	// A rule's refusal is *drivers.Refused, an unknown component *NoSuchComponent,
	// anything else is a failure.
	Change(ctx context.Context, c Change) (Outcome, error)
	// FaultHistories are those of the parts that an ID stands for; false when there is no
	// such side, device or module.
	FaultHistories(id string) ([]FaultHistory, bool)
	// Others are the versions of ftd's other processes: the keeper, nil where none answers,
	// and the devices whose driver runs another program than is installed.
	Others(ctx context.Context) (keeper *Version, outdated []string)
	// Events is the box's event log.
	Events() *eventlog.Log
	// Console connects to a machine's console: raw bytes both ways, first the end of its
	// past. Errors are as those of Change.
	Console(ctx context.Context, id string) (net.Conn, error)
}

// NoSuchComponent is the answer to an ID that names nothing on this box.
type NoSuchComponent struct{ ID string }

func (e *NoSuchComponent) Error() string {
	return fmt.Sprintf("there is no component %q on this box; `ftctl ls` lists them", e.ID)
}

// Codes of errors, besides those of drivers.Refused.
const (
	CodeNotFound    = "not-found"   // no such component or path
	CodeBadRequest  = "bad-request" // the request itself is wrong
	CodeNotAllowed  = "not-allowed" // the path is not for this method
	CodeForbidden   = "forbidden"   // the caller may not
	CodeBusyServer  = "busy-server" // too many connections or requests at once
	CodeFailed      = "failed"      // it was tried and failed
	CodeUnreachable = "unreachable" // client side: ftd does not answer
	CodeProtocol    = "bad-answer"  // client side: ftd's answer makes no sense
)

// Error is how every refusal and failure travels, and what Client's methods return.
type Error struct {
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
	// Refused is set when a rule refused the change and nothing has changed.
	Refused bool `json:"refused,omitempty"`
}

func (e *Error) Error() string { return e.Sentence }
