package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

// `ftctl completion bash` is cobra's own. What it completes with is here.

// completeTimeout: a key press must not hang on an ftd that does.
const completeTimeout = 500 * time.Millisecond

// completeID offers the IDs of this box for a verb's first argument.
func (a *app) completeID(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
	defer cancel()
	client := api.NewClient(a.socket)
	defer client.Close()
	list, err := client.Components(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID+"\t"+c.Kind+", "+c.State)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
