package main

import (
	"context"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) reloadCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have ftd read ft.toml again",
		Long: `reload takes in disks, NICs and machines that are new in ft.toml, and [alarms]. What would
change or remove something that is there is refused, and then nothing is taken.

` + "`systemctl reload ftd`" + ` does this.`,
		Args: args(0, 0),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			return a.change(ctx, api.Change{Verb: api.Reload, ID: api.SystemID}, "")
		}),
	}
}
