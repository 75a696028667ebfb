package main

import (
	"context"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) switchCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "switch NIC-OR-DEVICE",
		Short: "Make the standby side the active one",
		Long: `switch turns a NIC round: the port that stood by carries the face, and the one that
carried it stands by. With a side, that side becomes the active one; it must be in
service.`,
		Example:           "  ftctl switch net0\n  ftctl switch pci1/net0",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeSwitch,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			return a.change(ctx, api.Change{Verb: api.Switch, ID: args[0]}, "")
		}),
	}
}
