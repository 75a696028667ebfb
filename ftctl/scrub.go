package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ft/ftd/api"
	"ft/mirror/scrub"
)

func (a *app) scrubCmd() *cobra.Command {
	var repair, pause, resume, cancel bool
	var from string
	c := &cobra.Command{
		Use:   "scrub DISK [--repair [--from SIDE] | --pause | --resume | --cancel]",
		Short: "Compare both sides of a disk in the background",
		Long: `scrub reads everything on both sides of a disk and compares it, while applications go on and
have the right of way. ftctl status shows how far it is; ftctl show DISK what was found, and
when the next one begins by itself (scrub = "weekly" in ft.toml). It goes on after restarts.

With integrity = "crc32c" it knows which side is wrong, and writes that one anew. Without,
it only tells where the sides differ: look at both, then name the side whose data stay with
--repair --from SIDE.`,
		Example:           "  ftctl scrub disk0\n  ftctl scrub disk0 --repair --from pci0\n  ftctl scrub disk0 --pause",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeID,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			ch := api.Change{Verb: api.Scrub, ID: args[0], Action: api.ScrubStart, Repair: repair, From: from}
			for _, x := range []struct {
				set    bool
				action string
			}{{pause, api.ScrubPause}, {resume, api.ScrubResume}, {cancel, api.ScrubCancel}} {
				if x.set {
					ch.Action = x.action
				}
			}
			if from != "" && !repair {
				return usagef("--from %s says what to repair from: say --repair as well", from)
			}
			return a.change(ctx, ch, "")
		}),
	}
	f := c.Flags()
	f.BoolVar(&repair, "repair", false, "write anew what differs")
	f.StringVar(&from, "from", "", "the `SIDE` whose data stay where nothing else says which is right: pci0 or pci1")
	f.BoolVar(&pause, "pause", false, "let the scrub under way stand still")
	f.BoolVar(&resume, "resume", false, "go on with it")
	f.BoolVar(&cancel, "cancel", false, "end it")
	c.MarkFlagsMutuallyExclusive("repair", "pause", "resume", "cancel")
	_ = c.RegisterFlagCompletionFunc("from", cobra.FixedCompletions([]string{"pci0", "pci1"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// findingsShown is how many of the latest findings `ftctl show` has.
const findingsShown = 10

// disk takes a disk's scrub out of its counters, and says it in words.
func (f *facts) disk(id string, stats map[string]any) map[string]any {
	f.reads(id, stats)
	var st scrub.Status
	b, err := json.Marshal(stats["scrub"])
	if err != nil || json.Unmarshal(b, &st) != nil || st.Phase == "" {
		return stats
	}
	rest := map[string]any{}
	for k, v := range stats {
		if k != "scrub" {
			rest[k] = v
		}
	}
	if p := st.Progress; p != nil {
		text := progressText(*p)
		if st.Waits != "" {
			text += ", " + st.Waits
		}
		f.add("scrub", "%s; so far %s", text, st.Found.Words(sidesWords(id)))
	}
	if l := st.Last; l != nil {
		f.add("last scrub", "%s, %s: %s", l.Ended.Local().Format(time.DateTime), humanDuration(l.Ended.Sub(l.Began)), l.Found.Words(sidesWords(id)))
	}
	if o := st.Outstanding; o != (scrub.Tally{}) {
		f.add("mismatches", "%s, since the last scrub that found nothing", o.Words(sidesWords(id)))
	}
	if !st.Due.IsZero() {
		f.add("next scrub", "%s", st.Due.Local().Format(time.DateTime))
	}
	for i := max(0, len(st.Findings)-findingsShown); i < len(st.Findings); i++ {
		x := st.Findings[i]
		side := "both sides"
		if x.Side >= 0 {
			side = sidesWords(id)[x.Side]
		}
		text := fmt.Sprintf("%s: %d bytes at %d, %s, %s", x.Time.Local().Format(time.DateTime), x.Bytes, x.Offset, x.What, side)
		if x.Repaired {
			text += ", repaired"
		}
		f.add("found", "%s", text)
	}
	return rest
}

func sidesWords(id string) [2]string { return [2]string{"pci0/" + id, "pci1/" + id} }
