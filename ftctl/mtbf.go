package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) mtbfCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "mtbf show|clear|set ID",
		Short: "A part's faults, and whether it may come back after the next one",
		Long: `mtbf is about the mean time between the faults of a part. A part that failed is tested and
comes back by itself, until it fails too often: then it is broken, and stays out until a person
has looked at it. Its history goes with the part (by serial number, UUID or MAC), wherever it is
put in, and is kept over restarts. Faults that a drill put in have a history of their own;
pulling a part is no fault.

A part that is broken is replaced, or where it is good: ftctl mtbf clear ID, then ftctl bringup ID.`,
		Example: "  ftctl mtbf show pci1/disk0\n  ftctl mtbf set pci1 --threshold 12h\n  ftctl mtbf clear pci1/disk0",
		Args:    cobra.ArbitraryArgs, // so that RunE answers a misspelt action
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("something is missing: %s; see `%s --help`", c.UseLine(), c.CommandPath())
			}
			return usagef("mtbf knows show, clear and set, not %q; see `%s --help`", args[0], c.CommandPath())
		},
	}
	c.AddCommand(a.mtbfShowCmd(), a.mtbfClearCmd(), a.mtbfSetCmd())
	for _, sub := range c.Commands() {
		sub.Args, sub.ValidArgsFunction, sub.DisableFlagsInUseLine = args(1, 1), a.completePart, true
	}
	return c
}

func (a *app) mtbfShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Every fault of a part, how they are judged, and what to do",
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if a.json {
				return a.printRaw(ctx, api.MTBFPath(args[0]))
			}
			hs, err := a.client.FaultHistories(ctx, args[0])
			if err != nil {
				return err
			}
			var texts []string
			for _, h := range hs {
				texts = append(texts, a.historyText(h))
			}
			return a.write(strings.Join(texts, "\n"))
		}),
	}
}

func (a *app) mtbfClearCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "clear ID",
		Short: "Forget the faults of a part that is good",
		Long: `clear forgets the faults of what is in a side, or in all sides of a module or device, those
of drills too. One that was broken is out of service then: ftctl bringup takes it in.`,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			return a.change(ctx, api.Change{Verb: api.MTBFVerb, ID: args[0], Action: api.MTBFClear}, "")
		}),
	}
}

// policies are those of judging faults, in the order in which they are explained.
var policies = []string{"threshold", "never", "always"}

func (a *app) mtbfSetCmd() *cobra.Command {
	change := api.Change{Verb: api.MTBFVerb, Action: api.MTBFSet}
	var c *cobra.Command
	c = &cobra.Command{
		Use:   "set ID [--threshold 24h] [--min-faults 3] [--policy threshold|never|always] [--default]",
		Short: "Say how faults are judged",
		Long: `set says how the faults of a side are judged from now on, or of all sides of a module or
device; it stays with the place, whatever part is put in there. What is not named stays as it
is; --default first goes back to what ft.toml says for the box.

  threshold  with --min-faults faults or more the part is broken, if the mean time between the
             last of them is below --threshold; fewer always come back
  never      one fault and it is broken
  always     it always comes back`,
		Example: "  ftctl mtbf set pci1/disk0 --threshold 12h --min-faults 2\n  ftctl mtbf set cpu1 --policy never\n  ftctl mtbf set pci1 --default",
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if c.Flags().Changed("min-faults") && change.MinFaults < 1 {
				return usagef("--min-faults %d: it must be above 0", change.MinFaults)
			}
			if change.Threshold == "" && change.MinFaults == 0 && change.Policy == "" && !change.Default {
				return usagef("mtbf set %s: what is to be set? --threshold, --min-faults, --policy or --default", args[0])
			}
			if change.Policy != "" && !slices.Contains(policies, change.Policy) {
				return usagef("%q is no policy: there are %s", change.Policy, strings.Join(policies, ", "))
			}
			if _, err := change.MTBFSettings(); err != nil {
				return usagef("--threshold: %v", err)
			}
			change.ID = args[0]
			return a.change(ctx, change, "")
		}),
	}
	c.Flags().StringVar(&change.Threshold, "threshold", "", "broken when less `TIME` lies between the last faults in the mean, e.g. 24h")
	c.Flags().IntVar(&change.MinFaults, "min-faults", 0, "fewer than `N` faults always come back")
	c.Flags().StringVar(&change.Policy, "policy", "", "threshold, never or always")
	c.Flags().BoolVar(&change.Default, "default", false, "go back to what ft.toml says for the box")
	_ = c.RegisterFlagCompletionFunc("policy", cobra.FixedCompletions(policies, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// completePart offers the IDs of what can have faults.
func (a *app) completePart(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	ids, how := a.completeID(c, args, word)
	return slices.DeleteFunc(ids, func(id string) bool { return strings.Contains(id, "\t"+api.KindSystem+",") }), how
}

// historyText is what there is to say of one part: facts, then its faults by time.
func (a *app) historyText(h api.FaultHistory) string {
	var f facts
	part := h.Resource
	if h.Part != "" && h.Part != h.Resource {
		part += ", " + h.Part
	}
	f.add(h.ID, "%s", part)
	f.add("state", "%s", h.State)
	f.add("verdict", "%s", h.Verdict)
	f.add("action", "%s", h.Action)
	f.add("faults", "%s", tallyText(h.Real, h.Oldest)+" in "+humanHours(h.Hours))
	f.add("mean", "%s", meanText(h.Real))
	if h.Injected.Count > 0 {
		f.add("in drills", "%s", tallyText(h.Injected, h.Oldest)+", judged apart")
		f.add("mean there", "%s", meanText(h.Injected))
	}
	policy := policyText(string(h.Settings.Policy), h.Settings.MinFaults, h.Settings.ThresholdHours)
	if h.Settings.Own {
		policy += " (set for " + h.ID + ")"
	}
	f.add("policy", "%s", policy)
	text := a.table(f, func(row, col int, _ string) string {
		switch {
		case col == 0:
			return grey
		case h.Broken && row > 0 && row < 3:
			return red
		}
		return plain
	})
	return text + a.faultsText(h)
}

// faultsText is the table of a part's faults, "" when it has none.
func (a *app) faultsText(h api.FaultHistory) string {
	type fault struct {
		at  time.Time
		row []string
	}
	var all []fault
	for _, l := range []struct {
		kind string
		list api.FaultList
	}{{"real", h.Real}, {"drill", h.Injected}} {
		for _, x := range l.list.Faults {
			counts := map[bool]string{true: "counts", false: "forgiven"}[x.Counts]
			all = append(all, fault{x.At, []string{x.At.Local().Format(time.DateTime), l.kind, counts, x.Slot, x.What}})
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.SortStableFunc(all, func(x, y fault) int { return x.at.Compare(y.at) })
	rows := [][]string{{"TIME", "FAULT", "VERDICT", "SLOT", "WHAT"}}
	for _, x := range all {
		rows = append(rows, x.row)
	}
	return "\n" + a.table(rows, func(row, col int, text string) string {
		if row == 0 || text == "forgiven" {
			return grey
		}
		return plain
	})
}

// tallyText is how many faults there are, and how many of them count.
func tallyText(l api.FaultList, oldest int) string {
	text := fmt.Sprint(l.Count)
	if l.Forgiven > 0 {
		text += fmt.Sprintf(" (%d of them forgiven: it was brought up again since)", l.Forgiven)
	}
	if l.Count > oldest {
		text += fmt.Sprintf(", the last %d are shown", len(l.Faults))
	}
	return text
}

func meanText(l api.FaultList) string {
	if l.MeanHours == nil {
		return ""
	}
	return humanHours(*l.MeanHours) + " between the last ones that count"
}
