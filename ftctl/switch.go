package main

import (
	"context"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) switchCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "switch NIC-OR-DEVICE",
		Short:             "Make the standby side the active one",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeID,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			return a.change(ctx, api.Change{Verb: api.Switch, ID: args[0]}, "")
		}),
	}
}
