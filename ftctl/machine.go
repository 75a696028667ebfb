package main

import (
	"context"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) machineCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "machine start|stop|reset NAME",
		Short: "Switch a machine on or off, or start it from the beginning",
		Long: `machine switches a machine on and off. It starts on one CPU module; the other one is brought
in beside it while its guest runs.

A machine has no power button that its guest could be told by: stop and reset work at once,
as if its plug were pulled. I/O under way ends first and its disk is flushed, but what the
guest has not written is lost, and its file systems go through their recovery at the next
start. Where you can, power it off from within (ftctl console NAME, then poweroff).

A machine that was stopped, or powered off from within, stays off over restarts of ftd and of
the box until it is started.`,
		Example: "  ftctl machine stop guest\n  ftctl machine start guest",
		Args:    cobra.ArbitraryArgs, // so that RunE answers a misspelt action
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("something is missing: %s; see `%s --help`", c.UseLine(), c.CommandPath())
			}
			return usagef("machine knows start, stop and reset, not %q; see `%s --help`", args[0], c.CommandPath())
		},
	}
	for _, action := range []struct{ name, short string }{
		{api.MachineStart, "Switch a machine on that is off"},
		{api.MachineStop, "Switch a machine off, at once, and let it stay off"},
		{api.MachineReset, "Start a machine that is on from the beginning, at once"},
	} {
		c.AddCommand(&cobra.Command{
			Use:                   action.name + " NAME",
			Short:                 action.short,
			Args:                  args(1, 1),
			ValidArgsFunction:     a.completeMachine,
			DisableFlagsInUseLine: true,
			RunE: a.verb(func(ctx context.Context, args []string) error {
				return a.change(ctx, api.Change{Verb: api.Machine, ID: args[0], Action: action.name}, "")
			}),
		})
	}
	return c
}

// completeMachine offers the machines of this box.
func (a *app) completeMachine(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	st, _ := ask(a, func(ctx context.Context, c *api.Client) (api.Status, error) { return c.Status(ctx) })
	var ids []string
	for _, d := range st.Devices {
		if d.Kind == kindMachine {
			ids = append(ids, d.ID+"\t"+d.Verdict)
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
