package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) policyCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "policy bringup [auto|defer]",
		Short: "Say whether the other sides come in by themselves",
		Long: `policy bringup says what happens after a start of the box, and when a part is put in. A face
serves as soon as it has one good side; the other side
  auto   comes in by itself
  defer  waits for ftctl bringup; what failed and may come back still does so by itself
Without a value it says which of them holds. What is set here goes before ft.toml and is kept
over restarts.`,
		Example: "  ftctl policy bringup\n  ftctl policy bringup defer",
		Args:    cobra.ArbitraryArgs, // so that RunE answers a misspelt policy
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("something is missing: %s; see `%s --help`", c.UseLine(), c.CommandPath())
			}
			return usagef("there is no policy of %q: policy knows bringup; see `%s --help`", args[0], c.CommandPath())
		},
	}
	values := []string{string(api.BringupAuto), string(api.BringupDefer)}
	c.AddCommand(&cobra.Command{
		Use:                   "bringup [auto|defer]",
		Short:                 "Show or set the bring-up policy",
		Args:                  args(0, 1),
		DisableFlagsInUseLine: true,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return values, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if len(args) == 0 {
				return a.showBringup(ctx)
			}
			if !slices.Contains(values, args[0]) {
				return usagef("%q is no bring-up policy: say auto or defer", args[0])
			}
			return a.change(ctx, api.Change{Verb: api.Policy, ID: api.SystemID, Bringup: args[0]}, "")
		}),
	})
	return c
}

func (a *app) showBringup(ctx context.Context) error {
	c, err := a.client.Component(ctx, api.SystemID)
	if err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(struct {
			Bringup api.BringupPolicy `json:"bringup"`
		}{c.System.Bringup})
	}
	return a.say("%s", api.BringupText(c.System.Bringup))
}
