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

func (a *app) eventsCmd() *cobra.Command {
	var follow bool
	var sinceSeq uint64
	c := &cobra.Command{
		Use:   "events [--follow] [--since N]",
		Short: "What happened, and with --follow what happens",
		Long: `events shows the latest events, or those after number N, oldest first. With --json each
is one line of JSON, and the line {"marker":"live",…} stands between the past and what
happens from now on. --follow goes on over restarts of ftd.`,
		Args: args(0, 0),
	}
	c.Flags().BoolVar(&follow, "follow", false, "go on with what happens from now")
	c.Flags().Uint64Var(&sinceSeq, "since", 0, "only events with numbers above `N`")
	c.RunE = a.verb(func(ctx context.Context, _ []string) error {
		q := api.EventsQuery{Follow: follow}
		if c.Flags().Changed("since") {
			q.Since = &sinceSeq
		}
		return a.printEvents(ctx, q)
	})
	return c
}

func (a *app) printEvents(ctx context.Context, q api.EventsQuery) error {
	reached := false
	for {
		err := a.client.Events(ctx, q, func(item api.StreamItem) error {
			reached = true
			if item.Event != nil {
				q.Since = &item.Event.Seq
			}
			return a.printItem(item)
		})
		var wire *api.Error
		switch {
		case ctx.Err() != nil:
			return nil // interrupted, that is how a follow ends
		case err == nil, !q.Follow, !reached, !errors.As(err, &wire), wire.Code != api.CodeUnreachable:
			return err
		}
		fmt.Fprintf(a.err, "ftctl: %v; waiting for it\n", err)
		if !a.waitForFtd(ctx) {
			return nil
		}
	}
}

// waitForFtd tries until ftd answers, and returns false when ctx ends before.
func (a *app) waitForFtd(ctx context.Context) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(reconnectEvery):
		}
		if _, err := a.client.Version(ctx); err == nil {
			return true
		}
	}
}

func (a *app) printItem(item api.StreamItem) error {
	switch {
	case a.json:
		return a.writeJSON(item.Raw)
	case item.Event != nil:
		return a.say("%s", a.eventText(*item.Event))
	case item.Marker.Marker == api.MarkerGap:
		return a.say("… %d events are missing here", item.Marker.Lost)
	}
	return nil
}

// severityColours of an event's line.
var severityColours = map[string]string{"warning": yellow, "error": red, "critical": red}

// eventText is an event on one line.
func (a *app) eventText(e api.Event) string {
	change := e.To
	if e.From != "" && e.From != e.To {
		change = e.From + " → " + e.To
	}
	var b strings.Builder
	b.WriteString(a.column(6, grey, fmt.Sprint(e.Seq)))
	b.WriteString(a.column(25, plain, e.Time.Local().Format("2006-01-02 15:04:05.000")))
	b.WriteString(a.column(13, plain, e.ID))
	b.WriteString(a.column(23, severityColours[string(e.Severity)], change))
	b.WriteString(e.Reason)
	return strings.TrimRight(b.String(), " ")
}
