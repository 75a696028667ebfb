package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

// States that can be waited for.
var (
	waitFace = []string{"down", "simplex", "syncing", "duplex"}
	waitSide = []string{"empty", "removed", "offline", "diagnostics", "syncing", "simplex", "duplex", "shot", "broken", "dumping"}
)

func (a *app) waitCmd() *cobra.Command {
	var state string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait ID --for STATE [--timeout 60s]",
		Short: "Wait until a part is in a state",
		Long: `wait returns when the box ("box"), a module, a device or a side is in the state, or
has been in it since the wait began. It exits 1 when the time is over first.

States of sides and modules: ` + strings.Join(waitSide, ", ") + `.
States of devices and the box: ` + strings.Join(waitFace, ", ") + `.`,
		Example:           "  ftctl wait disk0 --for duplex\n  ftctl wait pci1/disk0 --for offline --timeout 5s",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeID,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			switch {
			case state == "":
				return usagef("wait needs --for STATE, for example --for duplex")
			case !slices.Contains(waitSide, state) && !slices.Contains(waitFace, state):
				return usagef("there is no state %q; the states are %s, and down", state, strings.Join(waitSide, ", "))
			case timeout <= 0:
				return usagef("--timeout %v: it must be above 0", timeout)
			}
			return a.wait(ctx, args[0], state, timeout)
		}),
	}
	c.Flags().StringVar(&state, "for", "", "the `STATE` to wait for")
	c.Flags().DurationVar(&timeout, "timeout", 60*time.Second, "how long at most")
	_ = c.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(append([]string{"down"}, waitSide...), cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) wait(parent context.Context, id, state string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(parent, timeout)
	defer cancel()
	var seen api.Component
	w := watcher{
		status: func(st api.Status) (bool, error) {
			c, ok := api.FindComponent(st, id)
			if !ok {
				return true, &api.Error{Code: api.CodeNotFound, Sentence: (&api.NoSuchComponent{ID: id}).Error()}
			}
			if err := canBe(c, state); err != nil {
				return true, err
			}
			seen = c
			return c.State == state, nil
		},
		event: func(e api.Event) (bool, error) {
			return e.ID == seen.ID && e.To == state && e.From != e.To, nil
		},
		lost: func(err error) { fmt.Fprintf(a.err, "ftctl: %v; waiting for it\n", err) },
	}
	err := a.follow(ctx, w)
	switch {
	case err == nil:
		return a.waited(seen.ID, state)
	case parent.Err() == nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s after %s, waited for %s%s", stillText(seen, id), timeout, state, because(seen))
	}
	return err
}

func stillText(c api.Component, id string) string {
	if c.ID == "" {
		return id + " could not be seen"
	}
	return c.ID + " is still " + c.State
}

func because(c api.Component) string {
	if c.Side != nil && c.Side.Progress != nil {
		return ": " + progressText(*c.Side.Progress)
	}
	if c.Reason != "" {
		return ": " + c.Reason
	}
	return ""
}

// canBe refuses to wait for a state that a component of this kind never has.
func canBe(c api.Component, state string) error {
	states, what := waitSide, "a "+c.Kind
	if c.Kind == api.KindDevice || c.Kind == api.KindSystem {
		states = waitFace
	}
	if c.Kind == api.KindSystem {
		what = "the box"
	}
	if slices.Contains(states, state) {
		return nil
	}
	return usagef("%s is %s, which is never %s; its states are %s", c.ID, what, state, strings.Join(states, ", "))
}

func (a *app) waited(id, state string) error {
	if a.json {
		return a.writeJSON(map[string]string{"id": id, "state": state})
	}
	return a.say("%s is %s", id, state)
}
