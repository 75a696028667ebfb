package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) priorityCmd() *cobra.Command {
	levels := []string{api.PriorityLow, api.PriorityNormal, api.PriorityHigh}
	return &cobra.Command{
		Use:   "priority NAME low|normal|high",
		Short: "Say how quickly a CPU module is brought in beside a machine that runs",
		Long: `priority says how quickly memory is copied to a CPU module that comes in while the machine
runs: low is up to 100 MB a second, normal up to 1 GB, high as fast as it goes. It holds at
once, also for a copy that is under way, and until the machine's driver process ends.`,
		Example: "  ftctl priority guest low",
		Args:    args(2, 2),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return levels, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeMachine(c, args, word)
		},
		RunE: a.verb(func(ctx context.Context, args []string) error {
			for _, l := range levels {
				if args[1] == l {
					return a.change(ctx, api.Change{Verb: api.Priority, ID: args[0], Level: l}, "")
				}
			}
			return usagef("%q is no priority: there are %s", args[1], fmt.Sprint(levels))
		}),
	}
}
