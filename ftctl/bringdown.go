package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ft/ftd/api"
)

func (a *app) bringdownCmd() *cobra.Command {
	var risk string
	var noWait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "bringdown ID [--accept-risk=last-side]",
		Short: "Take a module, side or device out of service, so that it can be pulled",
		Long: `bringdown takes a side out of service and waits until the I/O on it has ended: then it
can be pulled. What an admin has taken out stays out, also over restarts, until it is
brought up again.

A module goes as a whole or not at all: if something that it carries cannot go, it is named,
and what had gone before comes back.

The last good side of a device is refused, as its face would go down:
--accept-risk=last-side takes that risk.`,
		Example:           "  ftctl bringdown pci1\n  ftctl bringdown pci1/disk0",
		Args:              args(1, 1),
		ValidArgsFunction: a.completeID,
		RunE: a.verb(func(ctx context.Context, args []string) error {
			if err := checkRisk(risk, "last-side"); err != nil {
				return err
			}
			if timeout <= 0 {
				return usagef("--timeout %v: it must be above 0", timeout)
			}
			c := api.Change{Verb: api.Bringdown, ID: args[0], AcceptRisk: risk}
			if noWait {
				return a.change(ctx, c, "")
			}
			return a.bringdown(ctx, c, timeout)
		}),
	}
	c.Flags().StringVar(&risk, "accept-risk", "", "name the `RISK` that is taken: last-side")
	c.Flags().BoolVar(&noWait, "no-wait", false, "return when it is accepted, while I/O may still be under way")
	c.Flags().DurationVar(&timeout, "timeout", 60*time.Second, "how long to wait for I/O to end")
	return c
}

// bringdown waits until every side that the ID means is out and quiet.
func (a *app) bringdown(parent context.Context, c api.Change, timeout time.Duration) error {
	out, err := a.client.Change(parent, c)
	if err != nil {
		return err
	}
	a.reached = true
	ctx, cancel := context.WithTimeout(parent, timeout)
	defer cancel()
	var seen api.Component
	var busy []string
	err = a.follow(ctx, watcher{
		status: func(st api.Status) (bool, error) {
			var ok bool
			if seen, ok = api.FindComponent(st, c.ID); !ok {
				return true, &api.Error{Code: api.CodeNotFound, Sentence: (&api.NoSuchComponent{ID: c.ID}).Error()}
			}
			busy = busySides(seen)
			return len(busy) == 0, nil
		},
		tick: time.Second, // a drain that ends is not always an event
		lost: func(err error) { fmt.Fprintf(a.err, "ftctl: %v; waiting for it\n", err) },
	})
	switch {
	case err == nil:
		return a.broughtDown(seen, out)
	case parent.Err() == nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s is accepted, but after %s not done: %s; do not pull yet, `ftctl status` shows when", c.ID, timeout, strings.Join(busy, ", "))
	}
	return err
}

// busySides says which sides of a component are not out of service and quiet.
func busySides(c api.Component) []string {
	var sides []api.SideStatus
	switch c.Kind {
	case api.KindModule:
		sides = c.Sides
	case api.KindDevice:
		sides = c.Device.Sides
	case api.KindSide:
		sides = []api.SideStatus{*c.Side}
	}
	var busy []string
	for _, x := range sides {
		switch {
		case x.Draining:
			busy = append(busy, x.ID+" is draining I/O")
		case x.State.String() == "offline", x.State.String() == "removed", x.State.String() == "empty", x.State.String() == "broken":
		default:
			busy = append(busy, x.ID+" is "+x.State.String())
		}
	}
	return busy
}

func (a *app) broughtDown(c api.Component, out api.Outcome) error {
	if a.json {
		return a.writeJSON(struct {
			api.Outcome
			State      string `json:"state"`
			SafeToPull *bool  `json:"safe_to_pull,omitempty"`
		}{out, c.State, c.SafeToPull})
	}
	text := c.ID + " is " + c.State
	switch {
	case c.Kind == api.KindModule && *c.SafeToPull: // this is what was wanted
		text = fmt.Sprintf("%s is %s: all that it carries is out of service", c.ID, a.pullText(true))
	case c.SafeToPull != nil:
		text += ": " + a.pullText(*c.SafeToPull)
	}
	return a.say("%s", text)
}
