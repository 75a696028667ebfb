package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) priorityCmd() *cobra.Command {
	levels := []string{api.PriorityLow, api.PriorityNormal, api.PriorityHigh}
	return &cobra.Command{
		Use:   "priority NAME low|normal|high",
		Short: "Say how quickly a side is brought up to date beside what is in service",
		Long: `priority says how much background work on a disk or a machine may take from what is in
service. It holds at once, also for work that is under way.

A disk's resyncs and scrubs: with low, under load no more than resync_rate_min; with normal,
more while applications leave room; with high, as if there were no load. It is kept until it
is set anew.

A machine's memory copy to a CPU module that comes in: low is up to 100 MB a second, normal up
to 1 GB, high as fast as it goes, until the machine's driver process ends.`,
		Example: "  ftctl priority disk0 high\n  ftctl priority guest low",
		Args:    args(2, 2),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return levels, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeID(c, args, word)
		},
		RunE: a.verb(func(ctx context.Context, args []string) error {
			for _, l := range levels {
				if args[1] == l {
					return a.change(ctx, api.Change{Verb: api.Priority, ID: args[0], Level: l}, "")
				}
			}
			return usagef("%q is no priority: there are %s", args[1], strings.Join(levels, ", "))
		}),
	}
}
