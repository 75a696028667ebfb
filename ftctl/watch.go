package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"ft/ftd/api"
)

// watchStatus shows the status until interrupted: as a live view on a terminal, elsewhere
// printed anew at each change; with --json each as ftd sent it, a document a line.
func (a *app) watchStatus(ctx context.Context) error {
	var err error
	if a.terminal != nil && !a.json {
		err = a.watchOnScreen(ctx)
	} else {
		err = a.follow(ctx, watcher{document: a.printOnChange(), lost: func(err error) {
			fmt.Fprintf(a.err, "ftctl: %v; waiting for it\n", visible(err.Error()))
		}})
	}
	if errors.Is(err, context.Canceled) {
		return nil // that is how a watch ends
	}
	return err
}

func (a *app) watchOnScreen(ctx context.Context) error {
	s := newScreen(a)
	ctx, cancel := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() { defer close(kept); s.keep(ctx) }()
	err := a.follow(ctx, watcher{status: s.status, lost: s.lost, tick: time.Second})
	cancel()
	<-kept
	s.leave()
	return err
}

// printOnChange prints a status that differs in its number from the one before.
func (a *app) printOnChange() func(api.Status, json.RawMessage) (bool, error) {
	var last *uint64
	return func(st api.Status, raw json.RawMessage) (bool, error) {
		if last != nil && *last == st.System.Seq {
			return false, nil
		}
		again := last != nil
		last = &st.System.Seq
		if a.json {
			return false, a.writeJSON(raw)
		}
		text := a.statusText(st)
		if again {
			text = "\n" + text
		}
		return false, a.write(text)
	}
}
