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

// ask is a question to ftd at the press of a key. Without an answer nothing is offered.
func ask[T any](a *app, question func(context.Context, *api.Client) (T, error)) (answer T, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
	defer cancel()
	client := api.NewClient(a.socket)
	defer client.Close()
	answer, err := question(ctx, client)
	return answer, err == nil
}

// completeID offers the IDs of this box for a verb's first argument.
func (a *app) completeID(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, _ := ask(a, func(ctx context.Context, c *api.Client) ([]api.Component, error) { return c.Components(ctx) })
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID+"\t"+c.Kind+", "+c.State)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// completeSwitch offers what can be switched: NICs, and those of their sides that could
// become the active one.
func (a *app) completeSwitch(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	st, _ := ask(a, func(ctx context.Context, c *api.Client) (api.Status, error) { return c.Status(ctx) })
	var ids []string
	for _, d := range st.Devices {
		if d.Kind != kindNIC {
			continue
		}
		ids = append(ids, d.ID+"\tthe standby becomes the active one")
		for _, x := range d.Sides {
			if x.State.InService() && !x.Active {
				ids = append(ids, x.ID+"\t"+x.Resource+" becomes the active one")
			}
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// completeFault offers IDs, and then the faults of what has been named.
func (a *app) completeFault(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return a.completeID(c, args, word)
	}
	st, _ := ask(a, func(ctx context.Context, c *api.Client) (api.Status, error) { return c.Status(ctx) })
	return faultsOf(st, args[0]), cobra.ShellCompDirectiveNoFileComp
}
