package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) bringupCmd() *cobra.Command {
	var risk string
	c := &cobra.Command{
		Use:   "bringup ID [--accept-risk=overwrite]",
		Short: "Put a module, side or device into service",
		Long: `bringup tests a side and brings it up to date, after which it is in service. It returns
when ftd has accepted that; ` + "`ftctl wait ID --for duplex`" + ` waits for the end.

A side that carries another mirror, a file system or a partition table is refused, as
its data would be lost: --accept-risk=overwrite takes that risk.`,
		Example:           "  ftctl bringup pci1/disk0\n  ftctl bringup pci1",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeID,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if err := checkRisk(risk, "overwrite"); err != nil {
				return err
			}
			return a.change(ctx, api.Change{Verb: api.Bringup, ID: args[0], AcceptRisk: risk},
				"follow with: ftctl status --watch")
		}),
	}
	c.Flags().StringVar(&risk, "accept-risk", "", "name the `RISK` that is taken: overwrite")
	return c
}

// checkRisk refuses a risk that the verb does not know.
func checkRisk(risk, known string) error {
	if risk != "" && risk != known {
		return usagef("--accept-risk=%s is not known here; the risk to accept is %s", risk, known)
	}
	return nil
}

// change asks for a change and says what came of it, and what can be done next.
func (a *app) change(ctx context.Context, c api.Change, next string) error {
	out, err := a.client.Change(ctx, c)
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(out)
	}
	if next != "" && !strings.Contains(out.Text, "ftctl") { // ftd has not said it
		return a.say("%s; %s", out.Text, next)
	}
	return a.say("%s", out.Text)
}
