package main

import (
	"context"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

// faultNames are offered at completion; which of them a component takes, its driver
// decides.
var faultNames = []string{"read-error", "write-error", "corrupt", "slow", "hang", "vanish", "return", "power-off", "power-on", "crash", "clear"}

func (a *app) injectCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "inject ID FAULT [ARGS]",
		Short: "Put a fault in, for a drill",
		Long: `inject makes a part fail as it would by itself. It is refused unless the box allows it:
[system] drills = true.

  a leg, pci1/disk0      read-error, write-error [OFFSET LENGTH], corrupt [OFFSET],
                         slow MS, hang, vanish, return
  a module, pci1         power-off, power-on
  a device, or ftd       crash (its process)
  any                    clear (ends what was put in)`,
		Example: "  ftctl inject pci1/disk0 hang\n  ftctl inject pci1/disk0 slow 200\n  ftctl inject disk0 crash",
		Args:    args(2, -1),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return faultNames, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeID(c, args, word)
		},
		RunE: a.verb(func(ctx context.Context, args []string) error {
			return a.change(ctx, api.Change{Verb: api.Inject, ID: args[0], Fault: args[1], Args: args[2:]}, "")
		}),
	}
}
