package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

// Exit codes of status --check, for monitoring.
var checkCodes = map[string]int{"duplex": 0, "syncing": 1, "simplex": 1, "down": 2}

const checkUnknown = 4

func (a *app) statusCmd() *cobra.Command {
	var check, watch bool
	c := &cobra.Command{
		Use:   "status [--check] [--watch]",
		Short: "The verdict, its cause, what to do, and the state of every part",
		Long: `status says how the box is, why, and what to do about it; then the state of every
module and of each side that it carries, and whether it may be pulled.`,
		Example: "  ftctl status --watch\n  ftctl status --check || mail -s 'box is not duplex' admin",
		Args:    args(0, 0),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			switch {
			case check && watch:
				return usagef("--check and --watch exclude each other; take one")
			case watch:
				return a.watchStatus(ctx)
			}
			st, err := a.printStatus(ctx)
			if !check {
				return err
			}
			return a.checkStatus(st, err)
		}),
	}
	c.Flags().BoolVar(&check, "check", false, "exit 0 when duplex, 1 when simplex or syncing, 2 when down, 4 when unknown")
	c.Flags().BoolVar(&watch, "watch", false, "go on showing it as it changes")
	return c
}

// printStatus shows the present status. With --json it is what ftd sent, also the
// fields that this ftctl does not know.
func (a *app) printStatus(ctx context.Context) (api.Status, error) {
	if !a.json {
		st, err := a.client.Status(ctx)
		if err == nil {
			err = a.write(a.statusText(st))
		}
		return st, err
	}
	st, raw, err := a.wholeStatus(ctx)
	if err == nil {
		err = a.writeJSON(raw)
	}
	return st, err
}

// wholeStatus is the status, and the same as ftd sent it, with the fields that this ftctl
// does not know.
func (a *app) wholeStatus(ctx context.Context) (st api.Status, raw json.RawMessage, err error) {
	if raw, err = a.client.Raw(ctx, "/v1/status"); err == nil {
		err = json.Unmarshal(raw, &st)
	}
	return st, raw, err
}

// checkStatus turns the state into an exit code; whatever keeps it from being known
// is said, and is 4.
func (a *app) checkStatus(st api.Status, err error) error {
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			a.complain(err, checkUnknown)
		}
		return exit{checkUnknown}
	}
	code, known := checkCodes[st.System.State.String()]
	if !known {
		code = checkUnknown
	}
	if code == 0 {
		return nil
	}
	return exit{code}
}

func (a *app) write(text string) error {
	_, err := a.out.Write([]byte(visible(text)))
	return err
}
