package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) dumpCmd() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "dump NAME [SIDE] [--out FILE]",
		Short: "Write a machine's memory to a file",
		Long: `dump writes the memory of a machine to a file on the box, as an ELF core for gdb and crash.

Of a machine on two CPU modules one is taken out of service for that, the one that is named or
either; it keeps its memory as it is until all of it is written, and then comes in again. The
other goes on. How far it has come is in ftctl status.`,
		Example:           "  ftctl dump guest\n  ftctl dump guest cpu1 --out /var/tmp/guest.core",
		Args:              args(1, 2),
		ValidArgsFunction: a.completeDump,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			ch := api.Change{Verb: api.Dump, ID: args[0]}
			if len(args) > 1 {
				ch.Side = args[1]
			}
			if out != "" {
				path, err := filepath.Abs(out)
				if err != nil {
					return usagef("--out=%s: %v", out, err)
				}
				ch.Out = path
			}
			return a.change(ctx, ch, "")
		}),
	}
	c.Flags().StringVar(&out, "out", "", "the `FILE`; by default one in the state directory of ftd")
	return c
}

// completeDump offers machines, and then the sides of the one that has been named.
func (a *app) completeDump(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return a.completeMachine(c, args, word)
	}
	st, _ := ask(a, func(ctx context.Context, c *api.Client) (api.Status, error) { return c.Status(ctx) })
	var ids []string
	for _, d := range st.Devices {
		for _, x := range d.Sides {
			if d.ID == args[0] && d.Kind == kindMachine {
				ids = append(ids, x.ID+"\t"+x.State.String())
			}
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
