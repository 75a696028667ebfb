package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) showCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "show ID",
		Short:             "Everything about one module, side or device",
		Example:           "  ftctl show pci1/disk0\n  ftctl show disk0",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeID,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if a.json {
				return a.printRaw(ctx, "/v1/components/"+args[0])
			}
			c, err := a.client.Component(ctx, args[0])
			if err != nil {
				return err
			}
			return a.write(a.componentText(c))
		}),
	}
}
