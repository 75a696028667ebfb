package alarm

import (
	"slices"
	"strings"

	"ft/drivers"
	"ft/ftd/control"
	"ft/ftd/eventlog"
)

// Severities, from least to worst.
var Severities = []control.Severity{control.Info, control.Warning, control.Error, control.Critical}

// rank orders severities; one that is not known counts as the worst.
func rank(s control.Severity) int {
	if i := slices.Index(Severities, s); i >= 0 {
		return i
	}
	return len(Severities)
}

// weight is how grave an event is for people: its own severity, but a face that has less
// behind it than before counts as an error, whatever took a side away. A part that is pulled,
// or that a person takes out, is no fault; that the box is alone someone has to know.
func (a *Alarms) weight(e *eventlog.Entry) control.Severity {
	if rank(e.Severity) < rank(control.Error) && a.isFace(e.ID) && fell(e) {
		return control.Error
	}
	return e.Severity
}

// isFace says whether an id is a device's: not a side's, a module's or the box's.
func (a *Alarms) isFace(id string) bool {
	return id != a.Box && !strings.Contains(id, "/") && !slices.Contains(control.ModuleIDs(), id)
}

func fell(e *eventlog.Entry) bool {
	var from, to drivers.FaceState
	return from.UnmarshalText([]byte(e.From)) == nil && to.UnmarshalText([]byte(e.To)) == nil && to < from
}
