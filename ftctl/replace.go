package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) replaceCmd() *cobra.Command {
	var risk string
	var abort bool
	c := &cobra.Command{
		Use:   "replace SIDE PATH [--accept-risk=overwrite] | replace SIDE --abort",
		Short: "Put another device in the place of a disk's leg, while it serves",
		Long: `replace copies a leg to another device while it goes on to serve, and then lets that one
take its place: the disk is never without a good leg that it had. ftctl status shows how far
it is. It goes on after restarts. Should the leg fail meanwhile, the rest is copied from the
other side. A leg that is out of service is replaced at once, and the new one brought up to
date from the other side.

The device needs the size of the leg, and nothing on it that is of value: one that carries a
file system, a partition table or another mirror is refused, unless
--accept-risk=overwrite takes that risk. The old leg is told that it is none any more.

ft.toml is not written: from then on the path that it has for that leg stands for the new
one, as ftctl show says. Write the new path there when you like.`,
		Example:           "  ftctl replace pci1/disk0 /dev/disk/by-id/ata-new\n  ftctl replace pci1/disk0 --abort",
		Args:              args(1, 2),
		ValidArgsFunction: a.completeID,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			ch := api.Change{Verb: api.Replace, ID: args[0], Action: api.ReplaceAbort, AcceptRisk: risk}
			switch {
			case abort == (len(args) == 2):
				return usagef("replace needs the device that is to be the leg, for example: ftctl replace %s /dev/sdc; or --abort", args[0])
			case !abort:
				ch.Action, ch.Path = api.ReplaceStart, args[1]
				if !strings.Contains(ch.Path, "://") {
					path, err := filepath.Abs(ch.Path)
					if err != nil {
						return err
					}
					ch.Path = path
				}
			}
			if err := checkRisk(risk, "overwrite"); err != nil {
				return err
			}
			return a.change(ctx, ch, "")
		}),
	}
	f := c.Flags()
	f.StringVar(&risk, "accept-risk", "", "name the `RISK` that is taken: overwrite")
	f.BoolVar(&abort, "abort", false, "call a replacement off: the leg stays what it is")
	c.MarkFlagsMutuallyExclusive("abort", "accept-risk")
	return c
}
