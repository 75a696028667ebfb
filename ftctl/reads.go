package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ft/ftd/api"
	"ft/mirror/balance"
)

func (a *app) readsCmd() *cobra.Command {
	words := append(slices.Clone(balance.Marks), api.ReadsDefault)
	return &cobra.Command{
		Use:     "reads SIDE balance|prefer|avoid|default",
		Aliases: []string{"read-balancing"},
		Short:   "Say which part a side of a disk has in reads",
		Long: `reads says which of a disk's sides its reads go to. It holds at once.

balance, which is the default: sequential streams stay on one side each, other reads go where
there is less under way, and where the sides differ in speed, where the answer will be first.
prefer: the side gets all reads, while it keeps up (DRBD's prefer-local).
avoid, or write-mostly as md calls it: it gets none that the other side can have.
default: what pci0_reads or pci1_reads in ft.toml says.

Both sides get every write. A read that a side is late with is asked of the other one too,
whatever was said. What was said is kept until it is set anew, here or by a change of ft.toml
and ` + "`systemctl reload ftd`" + `. ftctl show has how many reads each side got.`,
		Example: "  ftctl reads pci1/disk0 avoid\n  ftctl reads pci1/disk0 default",
		Args:    args(2, 2),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return words, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeID(c, args, word)
		},
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if !slices.Contains(words, args[1]) && args[1] != balance.WriteMostly {
				return usagef("%q is no part in reads: there are %s", args[1], strings.Join(words, ", "))
			}
			return a.change(ctx, api.Change{Verb: api.Reads, ID: args[0], Reads: args[1]}, "")
		}),
	}
}

// reads says which part in reads each side of a disk has, and what it got.
func (f *facts) reads(id string, stats map[string]any) {
	var legs [2]map[string]any
	var reads [2]float64
	for i, module := range []string{"pci0", "pci1"} {
		legs[i], _ = stats[module].(map[string]any)
		reads[i], _ = legs[i]["reads"].(float64)
	}
	for i, side := range sidesWords(id) {
		mark, ok := legs[i]["read_balancing"].(string)
		if !ok {
			continue // of an older driver
		}
		text := fmt.Sprintf("%s: %.0f", mark, reads[i])
		if sum := reads[0] + reads[1]; sum > 0 {
			text += fmt.Sprintf(", %.0f %%", 100*reads[i]/sum)
		}
		for _, more := range []struct{ key, word string }{{"sequential_reads", "sequential"}, {"late_reads", "late"}} {
			if n, _ := legs[i][more.key].(float64); n > 0 {
				text += fmt.Sprintf(", %.0f %s", n, more.word)
			}
		}
		if us, _ := legs[i]["read_time_us"].(float64); us > 0 {
			text += ", " + humanMicros(us) + " each"
		}
		f.add("reads "+side, "%s", text)
	}
}
