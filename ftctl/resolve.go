package main

import (
	"context"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) resolveCmd() *cobra.Command {
	var keep string
	c := &cobra.Command{
		Use:   "resolve DISK --keep SIDE",
		Short: "Say which side's data is the right one, when the disk cannot know",
		Long: `resolve is for a disk that is refused because its sides were each written alone
(split-brain), or because the one that is present may be behind. The side named with
--keep serves; what only the other one has is lost when it is brought up to date.

` + "`ftctl show DISK`" + ` has what is known about both.`,
		Example:           "  ftctl resolve disk0 --keep pci0",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeID,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if keep == "" {
				return usagef("resolve needs --keep SIDE, the one whose data stays, for example --keep pci0")
			}
			return a.change(ctx, api.Change{Verb: api.Resolve, ID: args[0], Keep: keep}, "")
		}),
	}
	c.Flags().StringVar(&keep, "keep", "", "the `SIDE` whose data stays: pci0 or pci1")
	_ = c.RegisterFlagCompletionFunc("keep", cobra.FixedCompletions([]string{"pci0", "pci1"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}
