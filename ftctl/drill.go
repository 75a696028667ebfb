package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"ft/ftctl/drill"
)

func (a *app) drillCmd() *cobra.Command {
	var o drill.Setup
	var minutes float64
	c := &cobra.Command{
		Use:   "drill [--minutes N] [--seed N] [--parts ID,…]",
		Short: "A fire drill: every part fails and comes back, under load",
		Long: `drill makes every part of the box fail in every way that inject knows, one at a time and in
random order, and gives it back; it takes modules out and brings them in as a person would, and
kills processes. Meanwhile it works with disks, network and machines itself, and checks what it
gets. At the end stands a table: how often each fault was tried, how soon it was noticed, how
long the load had to wait, how long it took to be duplex again, and what went wrong or was lost:
nothing.

It needs leave ([system] drills = true), and a box that is duplex. A part fails as it would by
itself, and while it is away the box is simplex: a real fault of its partner in that moment is
one too many. It stops at once when the box does not become duplex again.

It does not touch your data. On a disk with a file system it writes to a file of its own,
which has no name; to a disk itself it writes only where that is empty and in nobody's use;
elsewhere it reads. Without root it puts no load on the box, and looks at the states only.

Exit codes: 0 no error, nothing lost, and duplex; 1 otherwise; 3 refused.`,
		Example: "  ftctl drill --minutes 5\n  ftctl drill --parts pci1 --seed 42\n  ftctl --json drill --minutes 60 > drill.json",
		Args:    args(0, 0),
		RunE: a.verb(func(ctx context.Context, _ []string) error {
			if minutes <= 0 {
				return usagef("--minutes %v: it must be above 0", minutes)
			}
			o.For = time.Duration(minutes * float64(time.Minute))
			if o.Limit <= 0 {
				return usagef("--limit %v: it must be above 0", o.Limit)
			}
			return a.drill(ctx, o)
		}),
	}
	c.Flags().Float64Var(&minutes, "minutes", 5, "no fault is put in after `N` minutes")
	c.Flags().Uint64Var(&o.Seed, "seed", 0, "the order of faults (one drawn by lot, and printed)")
	c.Flags().StringSliceVar(&o.Parts, "parts", nil, "only these modules, devices or sides, or ftd")
	c.Flags().DurationVar(&o.Limit, "limit", drill.DefaultLimit, "how long the box may stand still without duplex after a fault")
	c.Flags().StringVar(&o.PeerNetns, "peer-netns", "", "the network namespace of a neighbour of the NICs, for TCP (found on a test box)")
	c.Flags().StringVar(&o.GuestURL, "guest-url", "", "where a machine's service answers, as the test box's does (found on a test box)")
	_ = c.RegisterFlagCompletionFunc("parts", a.completeID)
	return c
}

func (a *app) drill(ctx context.Context, o drill.Setup) error {
	// What is out must be given back, also when nobody reads any more.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP)
	defer stop()
	ctx, interrupt := context.WithCancel(ctx)
	defer interrupt()
	if o.Seed == 0 {
		o.Seed = rand.Uint64N(1_000_000)
	}
	o.Socket = a.socket
	v := &drillView{app: a, unread: interrupt}
	if a.terminal != nil && !a.json {
		v.screen = &inPlace{app: a}
	}
	if !a.json {
		o.Say = func(line string) { _ = a.say("%s", line) }
	}
	prepared, err := drill.Prepare(ctx, a.client, o)
	if err != nil {
		return err
	}
	defer prepared.Close()
	if !a.json {
		for _, line := range prepared.Introduction() {
			v.say(line)
		}
		prepared.Runner.Show = v.show
	}
	// The second Ctrl-C ends it on the spot.
	defer context.AfterFunc(ctx, func() {
		signal.Reset(os.Interrupt, syscall.SIGTERM)
		if !a.json {
			fmt.Fprintln(a.err, "ftctl: what was taken is given back; another Ctrl-C leaves it as it is")
		}
	})()
	viewed, cancel := context.WithCancel(context.WithoutCancel(ctx))
	kept := make(chan struct{})
	go func() { defer close(kept); v.keep(viewed) }()
	report := prepared.Runner.Run(ctx)
	cancel()
	<-kept
	if a.json {
		err = a.writeJSON(report)
	} else {
		err = a.write("\n" + visible(report.Table()))
	}
	if err == nil && !report.OK {
		err = exit{exitFailed}
	}
	return err
}

// drillView shows how a drill gets on: redrawn in place on a terminal, a line a step
// elsewhere.
type drillView struct {
	app    *app
	screen *inPlace // nil elsewhere
	unread func()   // nobody reads any more

	mu   sync.Mutex // guards the fields below and the terminal
	last drill.Progress
	at   time.Time
}

// keep draws again every second, as time passes, until ctx ends.
func (v *drillView) keep(ctx context.Context) {
	if v.screen == nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			v.mu.Lock()
			defer v.mu.Unlock()
			_ = v.screen.clear()
			return
		case <-tick.C:
			v.mu.Lock()
			v.draw()
			v.mu.Unlock()
		}
	}
}

// say writes a line. A drill that nobody sees ends.
func (v *drillView) say(line string) {
	if v.app.say("%s", line) != nil {
		v.unread()
	}
}

func (v *drillView) show(p drill.Progress) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p.Ended != nil {
		if v.screen != nil {
			_ = v.screen.clear()
		}
		v.say(visible(p.Ended.Line()))
	}
	v.last, v.at = p, now()
	if v.screen != nil {
		v.draw()
	}
}

// draw is called with mu held.
func (v *drillView) draw() {
	if v.at.IsZero() {
		return
	}
	doing := v.last.Doing
	if doing == "" {
		doing = "nothing is wrong"
	}
	verdict := v.app.paint(green, "no error, nothing lost")
	if v.last.Errors > 0 || v.last.Lost > 0 {
		verdict = v.app.paint(red, fmt.Sprintf("%d errors, %d lost", v.last.Errors, v.last.Lost))
	}
	_ = v.screen.draw(fmt.Sprintf("now      %s\n         %s left, faults so far: %d, %s",
		doing, humanDuration(v.last.Left-now().Sub(v.at)), v.last.Done, verdict))
}
