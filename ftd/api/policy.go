package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"ft/ftd/control"
)

// This file is about what decides whether a part comes back: its faults and how they are
// judged (GET and POST /v1/components/ID/mtbf), and the box's bring-up policy (POST
// /v1/components/box/policy; GET /v1/components/box has it).

// FaultHistory is what `ftctl mtbf show` says of a part.
type (
	FaultHistory = control.HistoryView
	FaultList    = control.FaultsView
)

// BringupPolicy says whether the other side of a face comes in by itself.
type BringupPolicy = control.BringupPolicy

// The bring-up policies.
const (
	BringupAuto  = control.BringupAuto
	BringupDefer = control.BringupDefer
)

const mtbfPath = "/mtbf"

// Actions of MTBF.
const (
	MTBFClear = "clear"
	MTBFSet   = "set"
)

// FaultHistories are those of the parts that an ID stands for: a side, a device or a module.
func (c *Client) FaultHistories(ctx context.Context, id string) ([]FaultHistory, error) {
	return get[[]FaultHistory](ctx, c, MTBFPath(id))
}

// MTBFPath is where they are got.
func MTBFPath(id string) string { return componentPath(id) + mtbfPath }

func (s *Server) getFaultHistories(w http.ResponseWriter, id string) {
	hs, ok := s.backend.FaultHistories(id)
	if !ok {
		s.fail(w, &NoSuchComponent{id})
		return
	}
	s.answer(w, hs)
}

// checkMTBF holds what a Backend may rely on.
func (c Change) checkMTBF() error {
	switch c.Action {
	case MTBFClear:
		if c.Threshold != "" || c.MinFaults != 0 || c.Policy != "" || c.Default {
			return badRequest("mtbf clear only forgets faults: it takes no settings")
		}
		return nil
	case MTBFSet:
	default:
		return badRequest("mtbf needs an action, clear or set: {\"action\": \"clear\"}")
	}
	if c.Threshold == "" && c.MinFaults == 0 && c.Policy == "" && !c.Default {
		return badRequest("mtbf set needs what is to be set: threshold, min_faults, policy, or default")
	}
	_, err := c.MTBFSettings()
	return err
}

// MTBFSettings are those that a change of verb MTBF and action MTBFSet asks for.
func (c Change) MTBFSettings() (control.MTBFSettings, error) {
	set := control.MTBFSettings{Policy: control.MTBFPolicy(c.Policy), MinFaults: c.MinFaults}
	if c.Threshold == "" {
		return set, nil
	}
	d, err := time.ParseDuration(c.Threshold)
	if err != nil || d <= 0 {
		return set, badRequest("%q is no threshold: give a time above 0 with its unit, e.g. 24h or 90m", c.Threshold)
	}
	set.Threshold = d
	return set, nil
}

// checkPolicy holds what a Backend may rely on.
func (c Change) checkPolicy() error {
	switch BringupPolicy(c.Bringup) {
	case BringupAuto, BringupDefer:
		return nil
	}
	return badRequest("policy needs a bring-up policy, %s or %s: {\"bringup\": \"%[1]s\"}", BringupAuto, BringupDefer)
}

// BringupText says what a bring-up policy does.
func BringupText(p BringupPolicy) string {
	switch p {
	case BringupAuto:
		return "auto: what could come in comes in by itself"
	case BringupDefer:
		return "defer: after a start, and when a part is put in, the second side of a face waits for `ftctl bringup`; what failed comes back by itself"
	}
	return fmt.Sprintf("%s: this ftctl does not know what that does", p)
}
