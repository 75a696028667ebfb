package main

import (
	"context"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "The versions of ftctl, and of the ftd that runs",
		Args:  args(0, 0),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			mine := api.BuildVersion()
			daemon, err := a.client.Version(ctx)
			if a.json {
				v := map[string]any{"ftctl": mine, "ftd": nil}
				if err == nil {
					v["ftd"] = daemon
				}
				return a.writeJSON(v)
			}
			if serr := a.say("ftctl  %s", versionText(mine)); serr != nil {
				return serr
			}
			if err != nil {
				return a.say("ftd    %v", err)
			}
			return a.say("ftd    %s, pid %d, for %s", versionText(daemon), daemon.Pid, since(daemon.Since))
		}),
	}
}

func versionText(v api.Version) string {
	text := v.Version
	if len(v.Commit) >= 12 {
		text += " (" + v.Commit[:12] + ")"
	}
	return text + " " + v.Go
}
