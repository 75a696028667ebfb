package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"
)

func (a *app) lsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the box, its modules, devices and their sides",
		Args:  args(0, 0),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			if a.json {
				return a.printRaw(ctx, "/v1/components")
			}
			list, err := a.client.Components(ctx)
			if err != nil {
				return err
			}
			rows := [][]string{{"ID", "KIND", "STATE", "FOR", "PULL", "REASON"}}
			for _, c := range list {
				pull := ""
				if c.SafeToPull != nil {
					pull = map[bool]string{true: "safe", false: "no"}[*c.SafeToPull]
				}
				rows = append(rows, []string{c.ID, c.Kind, c.State, since(c.Since), pull, c.Reason})
			}
			return a.write(a.table(rows, func(row, col int, text string) string {
				switch {
				case row == 0:
					return grey
				case col == 2:
					return stateColours[text]
				case text == "no" && col == 4:
					return red
				}
				return plain
			}))
		}),
	}
}

// printRaw writes an answer as ftd sent it.
func (a *app) printRaw(ctx context.Context, path string) error {
	raw, err := a.client.Raw(ctx, path)
	if err != nil {
		return err
	}
	return a.writeJSON(json.RawMessage(raw))
}
