package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "The versions of ftctl, and of the ftd and the keeper that run",
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
			if err := a.say("ftd    %s, pid %d, for %s", versionText(daemon), daemon.Pid, since(daemon.Since)); err != nil {
				return err
			}
			return a.sayOthers(daemon)
		}),
	}
}

// sayOthers says what ftd's other processes run, and how they come to run what is installed.
func (a *app) sayOthers(ftd api.Version) error {
	switch k := ftd.Keeper; {
	case k == nil:
		return a.say("keeper none answers; `systemctl start ft-keeper` starts it")
	case k.Pid == 0:
		if err := a.say("keeper %s; `systemctl restart ft-keeper` takes the installed one in, the faces stay up", k.Version); err != nil {
			return err
		}
	default:
		text := fmt.Sprintf("%s, pid %d, for %s", k.Version, k.Pid, since(k.Since))
		if k.Version != ftd.Version {
			text += "; `systemctl restart ft-keeper` takes the installed one in, the faces stay up"
		}
		if err := a.say("keeper %s", text); err != nil {
			return err
		}
	}
	if len(ftd.Outdated) > 0 {
		return a.say("drivers of %s run an older program than is installed, until their next start", strings.Join(ftd.Outdated, ", "))
	}
	return nil
}

func versionText(v api.Version) string {
	text := v.Version
	if len(v.Commit) >= 12 {
		text += " (" + v.Commit[:12] + ")"
	}
	return text + " " + v.Go
}
